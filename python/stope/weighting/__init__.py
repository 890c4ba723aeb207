"""Sample weights as functions of difficulty and training progress.

Difficulty comes for free: the fused loss and the miner know it (:func:`difficulty_signals`). A
:class:`Weighting` turns difficulty and progress (0 at the start of training, 1 at its end) into one
weight per sample; it is a frozen value, as a run's configuration stores it. NumPy arrays and torch
tensors are taken and returned alike, float32 and float64 kept; no gradient flows through a weight.
Importing this package needs NumPy only.

What all raise, and their own pages do not repeat: ValueError for entries that are not finite or out
of range, no samples, different numbers of samples, a number out of range, a missing signal;
TypeError for what is neither NumPy array nor torch tensor, or holds no floats, and for wrong kinds.

Weights go to ``stope.torch.InfoNCELoss(...)(..., weights=weights)``, which divides by their sum, or
multiply the row losses of ``stope.torch.infonce``, whose forward pass has found the difficulty:

>>> import numpy as np
>>> import stope
>>> rows = np.float32([[1, 0], [0.6, 0.8], [0, 1]])
>>> result = stope.infonce_forward(rows, rows, temperature=0.5)
>>> weighting = Weighting.from_dict({"name": "progressive", "first": -0.5, "last": 0.5})
>>> weights = weigh(weighting, difficulty_signals(result), progress=1.0)
>>> [round(float(weight), 3) for weight in weights]
[0.443, 1.279, 1.279]
"""

from collections.abc import Callable
from typing import Any

from stope.weighting.answer_ranking import (
    AnswerRanking,
    kernel_density_evidence,
    normalized_score_evidence,
    pairwise_easiness,
    pointwise_easiness,
    reciprocal_rank_evidence,
)
from stope.weighting.compose import Anti, Clipped, FadeOut, Normalized, Product, WarmUp
from stope.weighting.constant import Constant
from stope.weighting.difficulty import difficulty_signals, hard_negative_difficulty, score_margins
from stope.weighting.dynamic import Dynamic
from stope.weighting.focal import Focal, focal_difficulty, margin_difficulty
from stope.weighting.progressive import Progressive
from stope.weighting.protocol import Formula, OfSignal, OfWeights, Weighting, weigh, weighting_names
from stope.weighting.rank_cutoff import RankCutoff
from stope.weighting.summary import WeightSummary, summarize_weights
from stope.weighting.teacher import Teacher, teacher_confidence

__all__ = [
    "AnswerRanking", "Anti", "Clipped", "Constant", "Dynamic", "FadeOut", "Focal", "Formula",
    "Normalized", "OfSignal", "OfWeights", "Product", "Progressive", "RankCutoff", "Teacher",
    "WarmUp", "WeightSummary", "Weighting", "difficulty_signals", "focal_difficulty",
    "hard_negative_difficulty", "kernel_density_evidence", "margin_difficulty",
    "normalized_score_evidence", "pairwise_easiness", "pointwise_easiness",
    "reciprocal_rank_evidence", "score_margins", "summarize_weights", "teacher_confidence", "weigh",
    "weighting_names",
]  # fmt: skip


def __getattr__(name: str) -> Callable[..., Any]:
    from stope.weighting._functions import function

    return function(name)
