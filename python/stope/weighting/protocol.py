"""Weighting: what a run's configuration names and the training loop calls.

A weighting is a frozen dataclass of numbers, words and other weightings. It is written into a
configuration as a dictionary with its name, and found again by that name; code is never stored.
A new one is a file with one class, derived from `OfSignal`, and a line in the package.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np

from stope._checks import flag, shown, text
from stope._kinds import a, kinds, mapping
from stope._named import Named, names_of
from stope.weighting._processes import Processes
from stope.weighting._samples import Samples, Vector, check_array, like, multiplied, read
from stope.weighting._schedule import share_done


class Weighting(Named, family="weighting", members="weightings"):
    """Signals and progress in, one weight per sample out.

    A weighting of your own is a frozen dataclass with the name that configurations give it. Derived
    from :class:`OfSignal` it holds a formula over one number per sample, in float64 and checked;
    derived from this class it computes weights from all signals as it likes:

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass(frozen=True)
    ... class ShortRows(OfSignal, name="doctest_short_rows"):
    ...     signal: str = "words"
    ...     power: float = 1.0
    ...
    ...     def _formula(self, samples, progress, together):
    ...         return samples**-self.power
    >>> ShortRows(power=2.0).to_dict()
    {'name': 'doctest_short_rows', 'signal': 'words', 'power': 2.0}
    >>> Weighting.from_dict({"name": "doctest_short_rows"})({"words": np.array([1.0, 2.0])}, 0.0)
    array([1. , 0.5])
    >>> Weighting.from_dict({"name": "focal", "gama": 1})
    Traceback (most recent call last):
        ...
    ValueError: weighting 'focal' has no field 'gama'; it has signal, gamma, first_gamma, warm_up,
    temperature, anti

    Thread safety: a weighting is never changed, so threads may share it.
    """

    @abstractmethod
    def __call__(
        self, signals: Mapping[str, Samples], progress: float, *, processes: Any = None
    ) -> Samples:
        """Weights ``[B]`` of the samples that the signals describe.

        Args:
            signals: ``[B]`` arrays by name, all about the same samples and of one kind; their names
                and meanings: `stope.weighting.difficulty`.
            progress: t, share of training that is done, from 0 to 1.
            processes: whose samples count in means and extremes: None, this process's; ``"all"``;
                or a process group. Every process then makes the same calls.
        """


class Range(NamedTuple):
    """Which numbers a formula reads, as `stope.weighting._samples.read` has it."""

    low: float = -np.inf
    high: float = np.inf
    none: float | None = None
    integers: bool = False


class Formula(Weighting, name=None):
    """A weighting that is a formula over one number per sample."""

    reads: ClassVar[Range] = Range()

    def weights(self, values: Samples, progress: float = 0.0, *, processes: Any = None) -> Samples:
        """Weights ``[B]`` of samples by these numbers, without looking for a signal.

        What they say, the class tells; progress and processes are as for a call. What one process
        refuses, all refuse.

        Returns: ``[B]`` of the kind of values, float64 for float64, else float32; without gradient.
        Memory: a few float64 per sample.
        """
        done, together = share_done(progress), Processes(processes)
        samples = together.read(lambda: self._read(values))
        together.count(samples, self._what)
        return like(self._formula(samples, done, together), values)

    @property
    def _what(self) -> str:
        """What messages call the values."""
        return "weights"

    def _read(self, values: Samples) -> Vector:
        check_array(values, self._what, integers=self.reads.integers)
        return read(self._prepared(values), self._what, **self.reads._asdict())

    def _prepared(self, values: Samples) -> Samples:
        """What the formula is over, in the precision of the values."""
        return values

    @abstractmethod
    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        """The weights of samples that are checked."""


class OfSignal(Formula, name=None):
    """A formula over the signal that the field ``signal`` names."""

    signal: str

    def __post_init__(self) -> None:
        text(self.signal, "signal", "give the name of a signal, such as 'hardness'")
        flag(getattr(self, "anti", False), "anti")

    def __call__(
        self, signals: Mapping[str, Samples], progress: float, *, processes: Any = None
    ) -> Samples:
        """Weights ``[B]``: :meth:`weights` of the named signal."""
        return self.weights(signal(signals, self.signal, self), progress, processes=processes)

    @property
    def _what(self) -> str:
        return self.signal


@dataclass(frozen=True)
class OfWeights(Formula, name=None):
    """A formula over the weights of another weighting, which are at least 0."""

    reads = Range(low=0.0)
    of: Weighting

    def __post_init__(self) -> None:
        check_part(self.of, "of")

    def __call__(
        self, signals: Mapping[str, Samples], progress: float, *, processes: Any = None
    ) -> Samples:
        """Weights ``[B]``: :meth:`weights` of the other's."""
        weights = weights_of(self.of, signals, progress, processes)
        return self.weights(weights, progress, processes=processes)


def weights_of(
    part: Weighting, signals: Mapping[str, Samples], progress: float, processes: Any
) -> Samples:
    """The part's weights. One of somebody else's may refuse what it sees in one process alone."""
    return Processes(processes).read(lambda: part(signals, progress, processes=processes))


def check_part(value: Any, name: str) -> None:
    """Refuse what is no weighting."""
    if not isinstance(value, Weighting):
        raise TypeError(f"{name} is {shown(value)}; give a weighting")


def weighting_names() -> tuple[str, ...]:
    """The names that :meth:`Weighting.from_dict` knows.

    >>> "progressive" in weighting_names()
    True
    """
    return names_of(Weighting)


@kinds(weighting=a(Weighting), signals=mapping)
def weigh(
    weighting: Weighting, signals: Mapping[str, Samples], progress: float, *, processes: Any = None
) -> Samples:
    """The weights of a batch: those of the weighting, times the data's own, if there are any.

    The data's are the signal ``weight``. Arguments are as for :meth:`Weighting.__call__`; what one
    process refuses, all refuse.

    Returns: ``[B]``, finite and at least 0.

    >>> import numpy as np
    >>> from stope.weighting import Focal
    >>> signals = {"loss": np.log([2.0, 4.0]), "weight": np.array([4.0, 1.0])}
    >>> weigh(Focal(gamma=1.0), signals, 0.0).round(6).tolist()
    [2.0, 0.75]
    """

    def weighed() -> Samples:
        factors = {"weights": weighting(signals, progress, processes=processes)}
        if "weight" in signals:
            factors["weight"] = signals["weight"]
        return multiplied(factors)

    return Processes(processes).read(weighed)


def check_signals(signals: Any) -> None:
    """Refuse what are no arrays by name."""
    if not isinstance(signals, Mapping):
        raise TypeError(f"signals is {shown(signals)}; give a mapping of arrays by name")


def signal(signals: Mapping[str, Samples], name: str, weighting: Weighting) -> Samples:
    """The named signal, or a sentence that says who needs it and which there are.

    >>> signal({"loss": 1}, "loss", None)
    1
    """
    check_signals(signals)
    if name not in signals:
        raise ValueError(
            f"weighting {weighting.name!r} reads the signal {shown(name)}, but signals has "
            f"{', '.join(signals) or 'none'}; add it or name another"
        )
    return signals[name]
