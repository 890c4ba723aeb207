"""Hard-negative mining as a pipeline around `stope.mine_hard_negatives`: ids in, ids out.

`Pairs` names the queries, a corpus without duplicate texts, and what answers what; `mine` embeds
(through an `EmbeddingCache` where given) and mines; `Mined` counts, lists and exports.
"""

from __future__ import annotations

from stope._moved import moved_names
from stope.mining.consistency import Consistency, consistency_filter
from stope.mining.mined import Mined, Summary
from stope.mining.pipeline import Limits, mine
from stope.mining.quotas import lexical_candidates, merge_sources, mixed_negatives
from stope.mining.sampling import (
    SimANS,
    Spread,
    TeacherMargin,
    Top,
    Uniform,
    Window,
    sampling_names,
)
from stope.mining.teacher import TeacherScores, teacher_filter, teacher_scores
from stope.mining.teachers import load_teacher

__all__ = [
    "Consistency",
    "Limits",
    "Mined",
    "SimANS",
    "Spread",
    "Summary",
    "TeacherMargin",
    "TeacherScores",
    "Top",
    "Uniform",
    "Window",
    "consistency_filter",
    "lexical_candidates",
    "load_teacher",
    "merge_sources",
    "mine",
    "mixed_negatives",
    "sampling_names",
    "teacher_filter",
    "teacher_scores",
]

__getattr__ = moved_names(
    "stope.mining",
    {
        "EmbeddingCache": "stope.encoders",
        "Pairs": "stope.data",
        "fingerprint_encoder": "stope.encoders",
    },
)
