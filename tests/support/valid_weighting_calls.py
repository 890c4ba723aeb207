"""One valid call of every public function and class of `stope.weighting`."""

from __future__ import annotations

import numpy as np

import stope
from stope import weighting

ROWS = np.random.default_rng(0).standard_normal((3, 8), dtype=np.float32)


def calls():
    constant = weighting.Constant()
    samples = np.float32([0.25, 0.5])
    signals = {"loss": samples, "hardness": samples}
    return {
        "stope.weighting.AnswerRanking": {},
        "stope.weighting.Anti": {"of": constant},
        "stope.weighting.Clipped": {"of": constant, "high": 2.0},
        "stope.weighting.Constant": {},
        "stope.weighting.Dynamic": {},
        "stope.weighting.FadeOut": {"of": constant},
        "stope.weighting.Focal": {},
        "stope.weighting.Normalized": {"of": constant},
        "stope.weighting.Product": {"parts": (constant, constant)},
        "stope.weighting.Progressive": {},
        "stope.weighting.RankCutoff": {"top": 2},
        "stope.weighting.Teacher": {},
        "stope.weighting.WarmUp": {"of": constant},
        "stope.weighting.difficulty_signals": {
            "result": stope.infonce_forward(ROWS, ROWS, temperature=0.1)
        },
        "stope.weighting.focal_difficulty": {"losses": samples},
        "stope.weighting.hard_negative_difficulty": {
            "positive_scores": samples,
            "negative_scores": np.float32([[0.1, 0.2], [0.1, 0.2]]),
        },
        "stope.weighting.kernel_density_evidence": {
            "scores": samples,
            "run_scores": np.float32([[0.1, 0.2], [0.1, 0.3]]),
        },
        "stope.weighting.margin_difficulty": {"margins": samples},
        "stope.weighting.normalized_score_evidence": {
            "scores": samples,
            "run_scores": np.float32([[0.1, 0.2], [0.1, 0.3]]),
        },
        "stope.weighting.pairwise_easiness": {
            "positive_evidence": samples,
            "negative_evidence": samples,
        },
        "stope.weighting.pointwise_easiness": {"evidence": samples, "relevant": np.float32([1, 0])},
        "stope.weighting.reciprocal_rank_evidence": {"ranks": np.float32([1, 2])},
        "stope.weighting.score_margins": {
            "positive_scores": samples,
            "best_negative_scores": samples,
        },
        "stope.weighting.summarize_weights": {"weights": samples},
        "stope.weighting.teacher_confidence": {
            "positive_scores": samples,
            "negative_scores": np.float32([[0.1, 0.2], [0.1, 0.2]]),
        },
        "stope.weighting.weigh": {"weighting": constant, "signals": signals, "progress": 0.5},
        "stope.weighting.weighting_names": {},
    }
