"""How weights are spread, for the log of a run."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stope.weighting._processes import Processes
from stope.weighting._samples import Samples, read


class WeightSummary(NamedTuple):
    """How weights are spread: mean, least, greatest.

    Attributes:
        zeros: share of samples with weight 0.
        effective: (sum w)^2 / sum w^2 divided by the number of samples: 1 for uniform weights, 1/B
            where one sample has all.
    """

    mean: float
    least: float
    greatest: float
    zeros: float
    effective: float


def summarize_weights(weights: Samples, *, processes: Any = None) -> WeightSummary:
    """Mean, extremes, share of zeros and effective share of samples.
    Weights ``[B]`` are at least 0; processes as for :meth:`stope.weighting.Weighting.__call__`.

    >>> summarize_weights(np.array([0.0, 0.0, 2.0, 2.0]))
    WeightSummary(mean=1.0, least=0.0, greatest=2.0, zeros=0.5, effective=0.5)
    """
    together = Processes(processes)
    values = together.read(lambda: read(weights, "weights", low=0))
    count = together.count(values, "weights")
    low, high = together.extremes(values)
    total, squares, zeros = together.sums(
        float(values.sum()), float(np.square(values).sum()), float(np.count_nonzero(values == 0))
    )
    effective = total * total / squares / count if squares else 0.0
    return WeightSummary(total / count, low, high, zeros / count, effective)
