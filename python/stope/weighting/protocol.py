"""Weighting: what a run's configuration names and the training loop calls.

A weighting is a frozen dataclass of numbers, words and other weightings. It is written into a
configuration as a dictionary with its name, and found again by that name; code is never stored.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from stope._named import Named, names_of
from stope.weighting._processes import Processes
from stope.weighting._values import read
from stope.weighting.compose import product_weights


class Weighting(Named, family="weighting", members="weightings"):
    """Signals and progress in, one weight per sample out.

    A weighting of your own is a frozen dataclass derived from this class, with the name that
    configurations give it:

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass(frozen=True)
    ... class ShortRows(Weighting, name="doctest_short_rows"):
    ...     power: float = 1.0
    ...
    ...     def __call__(self, signals, progress, *, processes=None):
    ...         return signal(signals, "words", self) ** -self.power
    >>> ShortRows(2.0).to_dict()
    {'name': 'doctest_short_rows', 'power': 2.0}
    >>> Weighting.from_dict({"name": "doctest_short_rows"})({"words": np.array([1.0, 2.0])}, 0.0)
    array([1. , 0.5])
    >>> Weighting.from_dict("progressive") == Weighting.from_dict({"name": "progressive"})
    True
    >>> Weighting.from_dict({"name": "focal", "gama": 1})
    Traceback (most recent call last):
        ...
    ValueError: weighting 'focal' has no field 'gama'; it has signal, gamma, first_gamma, warm_up,
    temperature, anti

    Attributes:
        name: of the class, in configurations.
    """

    @abstractmethod
    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        """Weights ``[B]`` of the samples that the signals describe.

        Args:
            signals: ``[B]`` arrays by name, all about the same samples and of one kind, such as
                :func:`difficulty_signals` returns: ``loss``, ``hardness``, ``log_sum_exp``,
                ``rank``; and from the data: ``easiness``, ``teacher_confidence``, ``weight``.
            progress: share of training that is done, from 0 to 1.
            processes: whose samples count in means and extremes: None, this process's; ``"all"``;
                or a process group. Every process then makes the same calls.
        """


def weighting_names() -> tuple[str, ...]:
    """The names that :meth:`Weighting.from_dict` knows.

    >>> "progressive" in weighting_names()
    True
    """
    return names_of(Weighting)


def weigh(
    weighting: Weighting,
    signals: Mapping[str, Any],
    progress: float,
    *,
    processes: Any = None,
) -> Any:
    """The weights of a batch: those of the weighting, times the data's own, if there are any.

    Args:
        weighting: what to weigh by.
        signals: as for :meth:`Weighting.__call__`; ``weight``, the data's column, multiplies in.
        progress: share of training that is done, from 0 to 1.
        processes: as for :meth:`Weighting.__call__`. What one process refuses, all refuse.

    Returns:
        ``[B]``, finite and at least 0.

    Raises:
        ValueError, TypeError: a signal that is missing or bad, weights of the data that are
            negative or not finite.

    >>> import numpy as np
    >>> from stope.weighting import Focal
    >>> signals = {"loss": np.log([2.0, 4.0]), "weight": np.array([4.0, 1.0])}
    >>> weigh(Focal(gamma=1.0), signals, 0.0).round(6).tolist()
    [2.0, 0.75]
    """

    def weighed() -> Any:
        weights = weighting(signals, progress, processes=processes)
        if "weight" not in signals:
            return product_weights(weights)
        read(signals["weight"], "weight", low=0)  # so that the sentence names the column
        return product_weights(weights, signals["weight"])

    return Processes(processes).read(weighed)


def signal(signals: Mapping[str, Any], name: str, weighting: Weighting) -> Any:
    """The named signal, or a sentence that says who needs it and which there are.

    >>> signal({"loss": 1}, "loss", None)
    1
    """
    if name not in signals:
        raise ValueError(
            f"weighting {weighting.name!r} reads the signal {name!r}, but signals has "
            f"{', '.join(signals) or 'none'}; add it or name another"
        )
    return signals[name]
