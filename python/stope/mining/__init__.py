"""Hard-negative mining as a pipeline around `stope.mine_hard_negatives`: ids in, ids out.

`Pairs` names the queries, a corpus without duplicate texts, and what answers what; `mine` embeds
(through an `EmbeddingCache` where given) and mines; `Mined` counts, lists and exports. `MiningJob`
does so in a folder, from several `Sources`, and goes on after a kill.
"""

from __future__ import annotations

from stope._moved import moved_names
from stope.mining.consistency import Consistency, consistency_filter
from stope.mining.jobs import MiningJob, Sources
from stope.mining.known_answers import copies_of_positives, near_positives
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
    "MiningJob",
    "SimANS",
    "Sources",
    "Spread",
    "Summary",
    "TeacherMargin",
    "TeacherScores",
    "Top",
    "Uniform",
    "Window",
    "consistency_filter",
    "copies_of_positives",
    "lexical_candidates",
    "load_teacher",
    "merge_sources",
    "mine",
    "mixed_negatives",
    "near_positives",
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
