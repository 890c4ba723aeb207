"""Focal: what the model has already learned counts less; and how much it has learned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from stope._checks import choice, flag, real
from stope.weighting._processes import Processes
from stope.weighting._samples import Samples, Vector, like, not_empty, read
from stope.weighting._schedule import ramp
from stope.weighting.protocol import OfSignal, Range

_FLOOR = 1e-6  # the lowest base of the power: no sample is left out altogether


@dataclass(frozen=True)
class Focal(OfSignal, name="focal"):
    """w_i = u_i^gamma(t), in ]0, 1].

        gamma(t) = first_gamma + (gamma - first_gamma) · ramp(t),

    ramp rising from 0 at t = warm_up to 1 at t = 1. gamma = 0 weighs all samples 1.
    Source: the modulating factor of the focal loss (Lin et al. 2017), over samples.

    Attributes:
        signal: ``loss``, with u = :func:`focal_difficulty`; ``hardness``, with u =
            :func:`margin_difficulty`; or ``difficulty``, u itself. Less than 1e-6 counts as 1e-6.
        gamma: exponent at the end of training, at least 0.
        first_gamma: exponent during the warm-up; None: gamma from the start.
        warm_up: share of training at first_gamma.
        temperature: of :func:`margin_difficulty`.
        anti: 1 - u instead of u: what the model has learned counts most.

    >>> Focal(signal="difficulty").weights(np.array([0.0, 0.5, 1.0])).round(6).tolist()
    [0.0, 0.25, 1.0]
    """

    reads = Range(low=0, high=1)
    signal: Literal["loss", "hardness", "difficulty"] = "loss"
    gamma: float = 2.0
    first_gamma: float | None = None
    warm_up: float = 0.0
    temperature: float = 0.05
    anti: bool = False

    def __post_init__(self) -> None:
        choice(self.signal, "signal", ("loss", "hardness", "difficulty"))
        real(self.gamma, "gamma", 0)
        if self.first_gamma is not None:
            real(self.first_gamma, "first_gamma", 0)
        real(self.warm_up, "warm_up", 0, 1)
        real(self.temperature, "temperature", 0, above=True)
        flag(self.anti, "anti")

    def _prepared(self, values: Samples) -> Samples:
        if self.signal == "loss":
            return focal_difficulty(values)
        if self.signal == "hardness":
            return margin_difficulty(-values, temperature=self.temperature)
        return values

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        first = self.gamma if self.first_gamma is None else self.first_gamma
        power = first + (self.gamma - first) * ramp(progress, self.warm_up, 1.0)
        return np.maximum(1.0 - samples if self.anti else samples, _FLOOR) ** power


def focal_difficulty(losses: Samples) -> Samples:
    """1 - p_i with p_i = exp(-L_i), the share that the softmax gives the positive.
    Losses are those of a softmax with one positive (InfoNCE), ``[B]``, at least 0.

    >>> focal_difficulty(np.log([1.0, 2.0, 4.0])).round(6).tolist()
    [0.0, 0.5, 0.75]
    """
    # The fused loss rounds: the loss of a query that has won may be -1e-7.
    values = read(losses, "losses", low=-1e-4)
    return like(-np.expm1(-np.maximum(not_empty(values, "losses"), 0.0)), losses)


def margin_difficulty(margins: Samples, *, temperature: float = 0.05) -> Samples:
    """1 / (1 + exp(m_i / T)): the share of the best negative in a softmax with the positive alone.

    Args:
        margins: m ``[B]`` from :func:`stope.weighting.score_margins`; inf where there is no
            negative (0).
        temperature: T, in the unit of the scores; that of the loss compares with
            :func:`focal_difficulty`.

    Returns: ``[B]`` in [0, 1], of the kind of margins; 1/2 at m = 0.

    >>> margin_difficulty(np.array([0.0, np.log(3.0)]), temperature=1.0).round(6).tolist()
    [0.5, 0.25]
    """
    width = real(temperature, "temperature", 0, above=True)
    values = not_empty(read(margins, "margins", none=np.inf), "margins")
    # exp of a number that is never positive: no overflow on either side.
    small = np.exp(-np.abs(values) / width)
    return like(np.where(values > 0, small, 1.0) / (1.0 + small), margins)
