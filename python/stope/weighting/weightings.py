"""The weightings that a configuration can name: each is one function and the numbers it takes.

Numbers are checked when a weighting is made, so that a bad configuration fails before training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stope.weighting import compose, difficulty
from stope.weighting._processes import Processes
from stope.weighting._values import choice, interval, number
from stope.weighting.answer_ranking import answer_ranking_weights
from stope.weighting.dynamic import dynamic_weights
from stope.weighting.powers import (
    constant_weights,
    focal_weights,
    rank_cutoff_weights,
    teacher_weights,
)
from stope.weighting.progressive import progressive_weights
from stope.weighting.protocol import Weighting, signal

_PROBE = np.zeros(1)  # a sample to try the numbers on


@dataclass(frozen=True)
class Constant(Weighting, name="constant"):
    """The same weight for all: :func:`constant_weights`. Reads whichever signal there is.

    Attributes:
        value: the weight.
    """

    value: float = 1.0

    def __post_init__(self) -> None:
        constant_weights(_PROBE, value=self.value)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]``."""
        if not signals:
            raise ValueError("signals is empty; give at least one, for the number of samples")
        return constant_weights(next(iter(signals.values())), progress, value=self.value)


@dataclass(frozen=True)
class Progressive(Weighting, name="progressive"):
    """Easy samples first, hard ones later: :func:`progressive_weights`.

    Attributes:
        signal: the difficulty that it reads; ``hardness``, or ``log_sum_exp`` or ``loss``.
        first, last, warm_up, limit: as there.
        anti: first and last with the opposite sign, to compare with.
    """

    signal: str = "hardness"
    first: float = -1.0
    last: float = 1.0
    warm_up: float = 0.1
    limit: float = 3.0
    anti: bool = False

    def __post_init__(self) -> None:
        _word(self.signal)
        _flag(self.anti)
        self._weights(_PROBE, 0.0, None)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]`` of mean 1."""
        return self._weights(signal(signals, self.signal, self), progress, processes)

    def _weights(self, hardness: Any, progress: float, processes: Any) -> Any:
        sign = -1.0 if self.anti else 1.0
        return progressive_weights(
            hardness,
            progress,
            first=sign * number(self.first, "first"),
            last=sign * number(self.last, "last"),
            warm_up=self.warm_up,
            limit=self.limit,
            processes=processes,
        )


@dataclass(frozen=True)
class AnswerRanking(Weighting, name="answer_ranking"):
    """What the first stage ranks well first, then all alike: :func:`answer_ranking_weights`.

    Attributes:
        signal: the easiness that it reads, in [0, 1].
        until, batch_mean: as there.
        anti: 1 - easiness, to compare with.
    """

    signal: str = "easiness"
    until: float = 1.0
    batch_mean: bool = False
    anti: bool = False

    def __post_init__(self) -> None:
        _word(self.signal)
        _flag(self.anti)
        _flag(self.batch_mean, "batch_mean")
        answer_ranking_weights(_PROBE, 0.0, until=self.until)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]``, at most 1."""
        easiness = signal(signals, self.signal, self)
        if self.anti:
            easiness = abs(1.0 - easiness)  # 1 + 1e-8 turns into 1e-8
        return answer_ranking_weights(
            easiness,
            progress,
            until=self.until,
            batch_mean=self.batch_mean,
            processes=processes,
        )


@dataclass(frozen=True)
class Dynamic(Weighting, name="dynamic"):
    """From where each loss lies in the batch: :func:`dynamic_weights`.

    Attributes:
        signal: the losses that it reads.
        strategy, temperature, first_temperature, delta, burn_in, anneal_until, anti: as there.
    """

    signal: str = "loss"
    strategy: str = "lin_upper"
    temperature: float = 1.0
    first_temperature: float | None = None
    delta: float = 1.0
    burn_in: float = 0.0
    anneal_until: float = 1.0
    anti: bool = False

    def __post_init__(self) -> None:
        _word(self.signal)
        _flag(self.anti)
        self({self.signal: _PROBE}, 0.0)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]`` of mean 1."""
        return dynamic_weights(
            signal(signals, self.signal, self),
            progress,
            self.strategy,
            temperature=self.temperature,
            first_temperature=self.first_temperature,
            delta=self.delta,
            burn_in=self.burn_in,
            anneal_until=self.anneal_until,
            anti=self.anti,
            processes=processes,
        )


@dataclass(frozen=True)
class Focal(Weighting, name="focal"):
    """What is not learned yet: :func:`focal_weights`.

    Attributes:
        signal: ``loss`` (:func:`focal_difficulty`) or ``hardness`` (:func:`margin_difficulty`).
        gamma, first_gamma, warm_up, anti: as in focal_weights.
        temperature: of the margin.
    """

    signal: str = "loss"
    gamma: float = 2.0
    first_gamma: float | None = None
    warm_up: float = 0.0
    temperature: float = 0.05
    anti: bool = False

    def __post_init__(self) -> None:
        choice(self.signal, "signal", ("loss", "hardness"))
        _flag(self.anti)
        number(self.temperature, "temperature", low=0, above=True)
        self({self.signal: _PROBE}, 0.0)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]`` in ]0, 1]."""
        found = signal(signals, self.signal, self)
        if self.signal == "loss":
            hard = difficulty.focal_difficulty(found)
        else:
            hard = difficulty.margin_difficulty(-found, temperature=self.temperature)
        return focal_weights(
            hard,
            progress,
            gamma=self.gamma,
            first_gamma=self.first_gamma,
            warm_up=self.warm_up,
            anti=self.anti,
        )


@dataclass(frozen=True)
class Teacher(Weighting, name="teacher"):
    """What the teacher is sure of: :func:`teacher_weights`.

    Attributes:
        signal: the confidence that it reads, in [0, 1].
        power, anti: as there.
    """

    signal: str = "teacher_confidence"
    power: float = 1.0
    anti: bool = False

    def __post_init__(self) -> None:
        _word(self.signal)
        _flag(self.anti)
        self({self.signal: _PROBE}, 0.0)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]`` in ]0, 1]."""
        confidence = signal(signals, self.signal, self)
        return teacher_weights(confidence, progress, power=self.power, anti=self.anti)


@dataclass(frozen=True)
class RankCutoff(Weighting, name="rank_cutoff"):
    """Only samples whose positive ranks high enough: :func:`rank_cutoff_weights`.

    Attributes:
        top: the last rank that counts.
        signal: the ranks that it reads.
    """

    top: int
    signal: str = "rank"

    def __post_init__(self) -> None:
        _word(self.signal)
        self({self.signal: _PROBE}, 0.0)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]``, 0 or 1."""
        return rank_cutoff_weights(signal(signals, self.signal, self), progress, top=self.top)


@dataclass(frozen=True)
class Product(Weighting, name="product"):
    """All of several weightings: :func:`product_weights`.

    Attributes:
        parts: at least one.
    """

    parts: tuple[Weighting, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, (tuple, list)) or not self.parts:
            raise ValueError(f"parts is {self.parts!r}; give at least one weighting")
        for position, part in enumerate(self.parts):
            _part(part, f"parts[{position}]")
        object.__setattr__(self, "parts", tuple(self.parts))

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]``."""
        return compose.product_weights(
            *(_weights_of(part, signals, progress, processes) for part in self.parts)
        )


@dataclass(frozen=True)
class Clipped(Weighting, name="clipped"):
    """Another weighting's within limits: :func:`clip_weights`.

    Attributes:
        of: the other weighting.
        low, high: as there.
    """

    of: Weighting
    low: float = 0.0
    high: float | None = None

    def __post_init__(self) -> None:
        _part(self.of)
        compose.limits(self.low, self.high)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]`` between low and high."""
        weights = self.of(signals, progress, processes=processes)
        return compose.clip_weights(weights, self.low, self.high)


@dataclass(frozen=True)
class Normalized(Weighting, name="normalized"):
    """Another weighting's with mean 1: :func:`normalize_weights`.

    Attributes:
        of: the other weighting.
    """

    of: Weighting

    def __post_init__(self) -> None:
        _part(self.of)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]`` of mean 1."""
        weights = _weights_of(self.of, signals, progress, processes)
        return compose.normalize_weights(weights, processes=processes)


@dataclass(frozen=True)
class Anti(Weighting, name="anti"):
    """Another weighting's turned around: :func:`anti_weights`.

    Attributes:
        of: the other weighting.
    """

    of: Weighting

    def __post_init__(self) -> None:
        _part(self.of)

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]`` with the mean of the other's."""
        weights = _weights_of(self.of, signals, progress, processes)
        return compose.anti_weights(weights, processes=processes)


@dataclass(frozen=True)
class WarmUp(Weighting, name="warm_up"):
    """Uniform at first, then another weighting's: :func:`warm_up_weights`.

    Attributes:
        of: the other weighting.
        start, end: as there.
    """

    of: Weighting
    start: float = 0.0
    end: float = 0.1

    def __post_init__(self) -> None:
        _part(self.of)
        interval(self.start, self.end, ("start", "end"))

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]``."""
        weights = self.of(signals, progress, processes=processes)
        return compose.warm_up_weights(weights, progress, start=self.start, end=self.end)


@dataclass(frozen=True)
class FadeOut(Weighting, name="fade_out"):
    """Another weighting's at first, uniform in the end: :func:`fade_out_weights`.

    Attributes:
        of: the other weighting.
        start, end: as there.
    """

    of: Weighting
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        _part(self.of)
        interval(self.start, self.end, ("start", "end"))

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]``."""
        weights = self.of(signals, progress, processes=processes)
        return compose.fade_out_weights(weights, progress, start=self.start, end=self.end)


def _weights_of(
    part: Weighting, signals: Mapping[str, Any], progress: float, processes: Any
) -> Any:
    """The part's weights, where more follows in which all processes take part.

    A part that looks at its own process alone may refuse samples here that others do not have.
    """
    return Processes(processes).read(lambda: part(signals, progress, processes=processes))


def _word(value: Any, name: str = "signal") -> None:
    if not isinstance(value, str) or not value:
        raise TypeError(f"{name} is {value!r}; give the name of a signal, such as 'hardness'")


def _flag(value: Any, name: str = "anti") -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; give True or False")


def _part(value: Any, name: str = "of") -> None:
    if not isinstance(value, Weighting):
        raise TypeError(f"{name} is {value!r}; give a weighting")
