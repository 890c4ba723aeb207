"""Progressive: the loss shifts from easy samples to hard ones while training proceeds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stope._checks import real
from stope.weighting._processes import Processes
from stope.weighting._samples import Vector
from stope.weighting._schedule import ramp
from stope.weighting.protocol import OfSignal, Range


@dataclass(frozen=True)
class Progressive(OfSignal, name="progressive"):
    """Weights of mean 1 that favour easy samples at first and hard ones later.

        w_i = B softmax_i(kappa(t) z_i),    z_i = (u_i - mean u) / (std u + 1e-6) within +-limit,
        kappa(t) = first + (last - first) · ramp(t)

    ramp rises from 0 at t = warm_up to 1 at t = 1. Where kappa is 0 every weight is exactly 1;
    kappa < 0 favours easy samples, kappa > 0 hard ones; last = first keeps one preference.

    This is stope's realisation of progressive learning, an interpretation: PEG (2023) reports that
    weights of samples, driven by the difficulty of their negatives, change during training, but its
    formula is not public. Source: docs/methods.md, A1.

    Attributes:
        signal: the difficulty u, larger is harder: ``hardness``, or ``log_sum_exp`` or ``loss``.
            -inf (no negatives) is as easy as the limit allows and left out of mean and std.
        first: kappa during the warm-up.
        last: kappa at the end.
        warm_up: share of training at kappa = first.
        limit: how many standard deviations count.
        anti: -kappa, to compare with.

    >>> hardness = np.array([-2.0, 0.0, 2.0])
    >>> [Progressive().weights(hardness, t).round(4).tolist() for t in (0.1, 0.55, 1.0)]
    [[2.1736, 0.6387, 0.1877], [1.0, 1.0, 1.0], [0.1877, 0.6387, 2.1736]]
    """

    reads = Range(none=-np.inf)
    signal: str = "hardness"
    first: float = -1.0
    last: float = 1.0
    warm_up: float = 0.1
    limit: float = 3.0
    anti: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        real(self.first, "first")
        real(self.last, "last")
        real(self.warm_up, "warm_up", 0, 1)
        real(self.limit, "limit", 0, above=True)

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        kappa = self.first + (self.last - self.first) * ramp(progress, self.warm_up, 1.0)
        there = samples[np.isfinite(samples)]
        count, total = together.sums(float(there.size), float(there.sum()))
        mean = total / count if count else 0.0
        (squares,) = together.sums(float(np.square(there - mean).sum()))
        deviation = math.sqrt(squares / count) if count else 0.0
        standard = np.clip((samples - mean) / (deviation + 1e-6), -self.limit, self.limit)
        return together.softmax((-kappa if self.anti else kappa) * standard, self.signal)
