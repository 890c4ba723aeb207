"""Sample weights as functions of difficulty and training progress.

Difficulty comes for free: the fused loss and the miner know it (:func:`difficulty_signals`). A
function turns difficulty and progress (0 at the start of training, 1 at its end) into one weight
per sample; a :class:`Weighting` is such a function with its numbers, as a run's configuration
stores it. NumPy arrays and torch tensors are taken and returned alike, float32 and float64 kept; no
gradient flows through a weight. Importing this package needs NumPy only.

Weights go to ``stope.torch.InfoNCELoss(...)(..., weights=weights)``, which divides by their sum, or
multiply the row losses of ``stope.torch.infonce``, whose forward pass has found the difficulty:

>>> import numpy as np
>>> import stope
>>> rows = np.float32([[1, 0], [0.6, 0.8], [0, 1]])
>>> found = stope.infonce_forward(rows, rows, temperature=0.5)
>>> weighting = Weighting.from_dict({"name": "progressive", "first": -0.5, "last": 0.5})
>>> weights = weigh(weighting, difficulty_signals(found), progress=1.0)
>>> [round(float(weight), 3) for weight in weights]
[0.443, 1.279, 1.279]
"""

from stope.weighting.answer_ranking import (
    answer_ranking_weights,
    kernel_density_evidence,
    normalized_score_evidence,
    pairwise_easiness,
    pointwise_easiness,
    reciprocal_rank_evidence,
)
from stope.weighting.compose import (
    WeightSummary,
    anti_weights,
    clip_weights,
    fade_out_weights,
    normalize_weights,
    product_weights,
    summarize_weights,
    warm_up_weights,
)
from stope.weighting.difficulty import (
    difficulty_signals,
    focal_difficulty,
    hard_negative_difficulty,
    margin_difficulty,
    score_margins,
    teacher_confidence,
)
from stope.weighting.dynamic import dynamic_weights
from stope.weighting.powers import (
    constant_weights,
    focal_weights,
    rank_cutoff_weights,
    teacher_weights,
)
from stope.weighting.progressive import progressive_weights
from stope.weighting.protocol import Weighting, weigh, weighting_names
from stope.weighting.weightings import (
    AnswerRanking,
    Anti,
    Clipped,
    Constant,
    Dynamic,
    FadeOut,
    Focal,
    Normalized,
    Product,
    Progressive,
    RankCutoff,
    Teacher,
    WarmUp,
)

__all__ = [
    "AnswerRanking",
    "Anti",
    "Clipped",
    "Constant",
    "Dynamic",
    "FadeOut",
    "Focal",
    "Normalized",
    "Product",
    "Progressive",
    "RankCutoff",
    "Teacher",
    "WarmUp",
    "WeightSummary",
    "Weighting",
    "answer_ranking_weights",
    "anti_weights",
    "clip_weights",
    "constant_weights",
    "difficulty_signals",
    "dynamic_weights",
    "fade_out_weights",
    "focal_difficulty",
    "focal_weights",
    "hard_negative_difficulty",
    "kernel_density_evidence",
    "margin_difficulty",
    "normalize_weights",
    "normalized_score_evidence",
    "pairwise_easiness",
    "pointwise_easiness",
    "product_weights",
    "progressive_weights",
    "rank_cutoff_weights",
    "reciprocal_rank_evidence",
    "score_margins",
    "summarize_weights",
    "teacher_confidence",
    "teacher_weights",
    "warm_up_weights",
    "weigh",
    "weighting_names",
]
