"""Dynamic: weights from the losses of the current batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from stope._checks import choice, real
from stope.weighting._processes import Processes
from stope.weighting._samples import Vector
from stope.weighting._schedule import check_interval, ramp
from stope.weighting.protocol import OfSignal

Strategy: TypeAlias = Literal["lin_upper", "quadratic", "extremes", "upper", "uniform"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)


@dataclass(frozen=True)
class Dynamic(OfSignal, name="dynamic"):
    """Weights of mean 1 from where each loss lies between the least and the greatest.

        h_i = 2 delta (L_i - (L_max + L_min) / 2) / max(L_max - L_min, 1e-6)   in [-delta, delta]
        w_i = B softmax_i(f(h_i) / r)

        ``lin_upper``  f = min(h + delta, delta)    what is learned gets less, the rest is equal
        ``quadratic``  f = 1 - h^2 / delta^2        the middle
        ``extremes``   f = |h|                      the easiest and the hardest
        ``upper``      f = (h + delta) / 2          the hardest
        ``uniform``    f = 0                        none: every weight is exactly 1

    These weights maximise sum_i w_i f(h_i) less r times their divergence from uniform ones. A large
    r makes them uniform; with first_temperature, r falls geometrically from there to temperature
    between burn_in and anneal_until. That schedule is ours.

    The published method takes the extremes over all processes; the mean of the local sums of
    w_i L_i / B_local is then the global weighted loss. Its weights sum to 1, these have mean 1.
    Source: dynamic loss-based sample reweighting (arXiv 2502.06733), docs/methods.md, E2.

    Attributes:
        signal: the losses L, such as ``loss``.
        strategy: f, see above; or its name in the paper, such as ``LinUpper``.
        temperature: r.
        first_temperature: r at the end of burn_in; None: temperature from the start.
        delta: see above.
        burn_in: share of training with weights 1.
        anneal_until: share of training at which r reaches temperature.
        anti: softmax(-f / r), to compare with.

    >>> losses = np.array([1.0, 2.0, 3.0, 4.0])
    >>> for strategy in STRATEGIES[:3]:
    ...     weights = Dynamic(strategy=strategy).weights(losses, 0.5)
    ...     print(strategy, (weights / 4).round(6).tolist())
    lin_upper [0.119271, 0.232307, 0.324211, 0.324211]
    quadratic [0.14567, 0.35433, 0.35433, 0.14567]
    extremes [0.330378, 0.169622, 0.169622, 0.330378]
    >>> (Dynamic(temperature=0.4).weights(losses, 0.5) / 4).round(6).tolist()
    [0.032616, 0.172687, 0.397348, 0.397348]
    """

    signal: str = "loss"
    strategy: Strategy = "lin_upper"
    temperature: float = 1.0
    first_temperature: float | None = None
    delta: float = 1.0
    burn_in: float = 0.0
    anneal_until: float = 1.0
    anti: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        named = {"LinUpper": "lin_upper", **{word.title(): word for word in STRATEGIES}}
        strategy: Any = self.strategy
        if isinstance(strategy, str):
            strategy = named.get(strategy, strategy)
        object.__setattr__(self, "strategy", choice(strategy, "strategy", STRATEGIES))
        real(self.temperature, "temperature", 0, above=True)
        if self.first_temperature is not None:
            real(self.first_temperature, "first_temperature", 0, above=True)
        real(self.delta, "delta", 0, above=True)
        check_interval(self.burn_in, self.anneal_until, ("burn_in", "anneal_until"))

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        least, most = together.extremes(samples)
        if progress < self.burn_in:
            return np.ones_like(samples)
        centre, span = (most + least) / 2.0, max(most - least, 1e-6)
        preference = self._preference(2.0 * self.delta * (samples - centre) / span)
        first = self.temperature if self.first_temperature is None else self.first_temperature
        done = ramp(progress, self.burn_in, self.anneal_until)
        temperature = float(first * (self.temperature / first) ** done)
        return together.softmax((-preference if self.anti else preference) / temperature, "losses")

    def _preference(self, h: Vector) -> Vector:
        if self.strategy == "lin_upper":
            return np.minimum(h + self.delta, self.delta)
        if self.strategy == "quadratic":
            return 1.0 - np.square(h / self.delta)
        if self.strategy == "extremes":
            return np.abs(h)
        return (h + self.delta) / 2.0 if self.strategy == "upper" else np.zeros_like(h)
