"""What can be done with weights: multiply, limit, normalise, turn around, fade in and out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stope._checks import real, shown
from stope.weighting._processes import Processes
from stope.weighting._samples import Samples, Vector, multiplied
from stope.weighting._schedule import check_interval, ramp
from stope.weighting.protocol import OfWeights, Weighting, check_part, weights_of


@dataclass(frozen=True)
class Product(Weighting, name="product"):
    """w_i = product of the weights of sample i: every reason to count less holds.

    Attributes:
        parts: at least one weighting.
    """

    parts: tuple[Weighting, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, (tuple, list)) or not self.parts:
            raise ValueError(f"parts is {shown(self.parts)}; give at least one weighting")
        for position, part in enumerate(self.parts):
            check_part(part, f"parts[{position}]")
        object.__setattr__(self, "parts", tuple(self.parts))

    def __call__(
        self, signals: Mapping[str, Samples], progress: float, *, processes: Any = None
    ) -> Samples:
        """Weights ``[B]``."""
        return self.weights(*(weights_of(p, signals, progress, processes) for p in self.parts))

    def weights(self, *weights: Samples) -> Samples:
        """The product of these weights ``[B]``, of the kind of the first.

        >>> from stope.weighting import Constant
        >>> product = Product((Constant(), Constant()))
        >>> product.weights(np.array([0.5, 2.0]), np.array([3.0, 0.25])).tolist()
        [1.5, 0.5]
        """
        return multiplied({f"parts[{place}]": values for place, values in enumerate(weights)})


@dataclass(frozen=True)
class Clipped(OfWeights, name="clipped"):
    """w_i within [low, high]: no sample may vanish, none may rule the batch.

    Their mean may change (:class:`Normalized`).

    Attributes:
        of: the other weighting.
        low: least weight, at least 0.
        high: greatest weight, at least low and above 0; None: no limit.

    >>> from stope.weighting import Constant
    >>> Clipped(Constant(), 0.5, 4.0).weights(np.array([0.0, 1.0, 9.0])).tolist()
    [0.5, 1.0, 4.0]
    """

    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        real(self.low, "low", 0)
        if self.high is not None and self.low > real(self.high, "high", 0, above=True):
            raise ValueError(f"low is {self.low:g} but high is {self.high:g}; low comes first")

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        return np.clip(samples, self.low, np.inf if self.high is None else self.high)


@dataclass(frozen=True)
class Normalized(OfWeights, name="normalized"):
    """w_i / mean w: mean 1, so that weighting does not change the learning rate.

    All weights 0 are an error: nothing would be learned.

    >>> from stope.weighting import Constant
    >>> Normalized(Constant()).weights(np.array([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        count, total = together.sums(float(samples.size), float(samples.sum()))
        if total == 0:
            raise ValueError(
                "weights are all 0, so that nothing would be learned; give one above 0"
            )
        return samples * (count / total)


@dataclass(frozen=True)
class Anti(OfWeights, name="anti"):
    """The same weights turned around: who had the greatest gets the least. For ablations.

        a_i = (w_max + w_min - w_i) · mean w / (w_max + w_min - mean w)

    The mean stays, equal weights stay equal.

    >>> from stope.weighting import Constant
    >>> Anti(Constant()).weights(np.array([1.0, 2.0, 3.0])).tolist()
    [3.0, 2.0, 1.0]
    """

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        low, high = together.extremes(samples)
        count, total = together.sums(float(samples.size), float(samples.sum()))
        mean = total / count
        return samples if low == high else (high + low - samples) * (mean / (high + low - mean))


class _Ramped(OfWeights, name=None):
    """1 + (w_i - 1) · strength: a mean of 1 stays 1."""

    start: float
    end: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_interval(self.start, self.end, ("start", "end"))

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        strength = self._strength(ramp(progress, self.start, self.end))
        return (1.0 - strength) + strength * samples

    def _strength(self, done: float) -> float:
        return done


@dataclass(frozen=True)
class WarmUp(_Ramped, name="warm_up"):
    """1 + (w_i - 1) · ramp: uniform until start, the weights themselves from end on.

    Attributes:
        of: the other weighting.
        start, end: shares of training; start = end switches at once.

    >>> from stope.weighting import Constant
    >>> WarmUp(Constant()).weights(np.array([0.0, 2.0]), 0.05).tolist()
    [0.5, 1.5]
    """

    start: float = 0.0
    end: float = 0.1


@dataclass(frozen=True)
class FadeOut(_Ramped, name="fade_out"):
    """1 + (w_i - 1) · (1 - ramp): the weights themselves until start, uniform from end on.

    Attributes as of :class:`WarmUp`.

    >>> from stope.weighting import Constant
    >>> FadeOut(Constant()).weights(np.array([0.0, 2.0]), 0.25).tolist()
    [0.25, 1.75]
    """

    start: float = 0.0
    end: float = 1.0

    def _strength(self, done: float) -> float:
        return 1.0 - done
