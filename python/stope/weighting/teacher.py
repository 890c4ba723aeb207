"""Teacher: a label that the teacher doubts counts less; and how sure a teacher is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stope._checks import real
from stope.weighting._processes import Processes
from stope.weighting._samples import Samples, Vector, like
from stope.weighting.difficulty import positive_and_negatives
from stope.weighting.protocol import OfSignal, Range

_FLOOR = 1e-6  # the lowest base of the power: no sample is left out altogether


@dataclass(frozen=True)
class Teacher(OfSignal, name="teacher"):
    """w_i = c_i^power, at any time of training.

    Attributes:
        signal: the confidence c in [0, 1], as :func:`teacher_confidence` makes it; less than 1e-6
            counts as 1e-6.
        power: at least 0; 0 weighs all samples 1.
        anti: 1 - c instead of c.

    >>> Teacher(power=0.5).weights(np.array([0.25, 1.0])).tolist()
    [0.5, 1.0]
    """

    reads = Range(low=0, high=1)
    signal: str = "teacher_confidence"
    power: float = 1.0
    anti: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        real(self.power, "power", 0)

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        return np.maximum(1.0 - samples if self.anti else samples, _FLOOR) ** float(self.power)


def teacher_confidence(
    positive_scores: Samples, negative_scores: Samples, *, temperature: float = 1.0
) -> Samples:
    """c_i = softmax of the teacher's scores at the positive: how sure it is of the label.

        c_i = e^(s+_i / T) / (e^(s+_i / T) + sum_k e^(s_ik / T))

    Args:
        positive_scores, negative_scores: a teacher's, ``[B]`` of each sample's positive, and
            ``[B, h]``, or ``[B]`` for one each; -inf where a row holds fewer.
        temperature: T, in the unit of the teacher's scores.

    Returns: ``[B]`` in [0, 1], of the kind of positive_scores; 1 where there is no negative.

    >>> teacher_confidence(np.array([2.0]), np.array([[2.0, 2, 2]])).tolist()
    [0.25]
    """
    width = real(temperature, "temperature", 0, above=True)
    positive, negative = positive_and_negatives(positive_scores, negative_scores)
    rows = np.column_stack([positive, negative]) / width
    shares = np.exp(rows - rows.max(axis=1, keepdims=True))
    return like(shares[:, 0] / shares.sum(axis=1), positive_scores)
