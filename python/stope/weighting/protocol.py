"""Weighting: what a run's configuration names and the training loop calls.

A weighting is a frozen dataclass of numbers, words and other weightings. It is written into a
configuration as a dictionary with its name, and found again by that name; code is never stored.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from stope.weighting._values import read
from stope.weighting.compose import product_weights

_REGISTRY: dict[str, type[Weighting]] = {}


class Weighting(ABC):
    """Signals and progress in, one weight per sample out.

    A weighting of your own is a frozen dataclass derived from this class, with the name that
    configurations give it:

    >>> import numpy as np
    >>> @dataclasses.dataclass(frozen=True)
    ... class ShortRows(Weighting, name="doctest_short_rows"):
    ...     power: float = 1.0
    ...
    ...     def __call__(self, signals, progress, *, processes=None):
    ...         return signal(signals, "words", self) ** -self.power
    >>> ShortRows(2.0).to_dict()
    {'name': 'doctest_short_rows', 'power': 2.0}
    >>> Weighting.from_dict({"name": "doctest_short_rows"})({"words": np.array([1.0, 2.0])}, 0.0)
    array([1. , 0.5])

    Attributes:
        name: of the class, in configurations.
    """

    name: ClassVar[str] = ""

    def __init_subclass__(cls, *, name: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if not name:
            raise TypeError(
                f'{cls.__name__} has no name; write class {cls.__name__}(Weighting, name="...")'
            )
        known = _REGISTRY.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (
            cls.__module__,
            cls.__qualname__,
        ):
            raise ValueError(
                f"name is {name!r}, which {known.__module__}.{known.__qualname__} has already; "
                "give another"
            )
        cls.name = name
        _REGISTRY[name] = cls

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

    def to_dict(self) -> dict[str, Any]:
        """Name and fields, in what JSON and YAML can write.

        Raises:
            TypeError: a field of another kind, or a class that is no dataclass.

        >>> from stope.weighting import Clipped, Focal
        >>> Clipped(Focal(gamma=1.0), high=4.0).to_dict()["of"]["gamma"]
        1.0
        """
        fields = [field.name for field in dataclasses.fields(self)]  # type: ignore[arg-type]
        return {
            "name": self.name,
            **{f: _plain(getattr(self, f), f"{self.name}.{f}") for f in fields},
        }

    @staticmethod
    def from_dict(config: Any) -> Weighting:
        """The weighting that a dictionary from :meth:`to_dict` describes.

        Args:
            config: a mapping with ``name`` and any of the fields, the others having their defaults;
                or the name alone; or a weighting, returned as it is.

        Raises:
            ValueError: an unknown name or field, or a value that the weighting refuses.
            TypeError: no such mapping, or a value of the wrong kind.

        >>> Weighting.from_dict("progressive") == Weighting.from_dict({"name": "progressive"})
        True
        >>> Weighting.from_dict({"name": "focal", "gama": 1})
        Traceback (most recent call last):
            ...
        ValueError: weighting 'focal' has no field 'gama'; it has signal, gamma, first_gamma,
        warm_up, temperature, anti
        """
        if isinstance(config, Weighting):
            return config
        if isinstance(config, str):
            config = {"name": config}
        if not isinstance(config, Mapping):
            raise TypeError(
                f"config is {config!r}; give a mapping with the name of a weighting and its fields"
            )
        if "name" not in config:
            raise ValueError(
                f"config has the fields {', '.join(map(str, config)) or 'none'} but no name; "
                f"give name, one of {', '.join(sorted(_REGISTRY))}"
            )
        kind = _REGISTRY.get(config["name"]) if isinstance(config["name"], str) else None
        if kind is None:
            raise ValueError(
                f"name is {config['name']!r}; there are the weightings "
                f"{', '.join(sorted(_REGISTRY))}"
            )
        known = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
        given = {field: value for field, value in config.items() if field != "name"}
        if unknown := [field for field in given if field not in known]:
            raise ValueError(
                f"weighting {kind.name!r} has no field {unknown[0]!r}; it has {', '.join(known)}"
            )
        missing = dataclasses.MISSING
        for name, field in known.items():
            needed = field.default is missing and field.default_factory is missing
            if needed and name not in given:
                raise ValueError(f"weighting {kind.name!r} needs the field {name!r}; give it")
        return kind(**{field: _rich(value) for field, value in given.items()})


def weighting_names() -> tuple[str, ...]:
    """The names that :meth:`Weighting.from_dict` knows.

    >>> "progressive" in weighting_names()
    True
    """
    return tuple(sorted(_REGISTRY))


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
        processes: as for :meth:`Weighting.__call__`.

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
    weights = weighting(signals, progress, processes=processes)
    if "weight" not in signals:
        return product_weights(weights)
    read(signals["weight"], "weight", low=0)  # so that the sentence names the column
    return product_weights(weights, signals["weight"])


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


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, Weighting):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_plain(item, where) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise TypeError(
        f"{where} is {value!r}; a configuration holds finite numbers, words, booleans and "
        "weightings"
    )


def _rich(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Weighting.from_dict(value)
    return tuple(_rich(item) for item in value) if isinstance(value, (list, tuple)) else value
