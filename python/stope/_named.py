"""Dataclasses that configurations name: written as a dictionary, found again by their name."""

from __future__ import annotations

import dataclasses
import math
import numbers
from abc import ABC
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from stope._checks import shown

AnyNamed = TypeVar("AnyNamed", bound="Named")


class Named(ABC):
    """A frozen dataclass of numbers, words and others of its family, written with its name.

    Code is never stored: a configuration holds the name and the fields, and the name finds the
    class again. A family derives from this class with the words that errors use, ``family`` for one
    of its members and ``members`` for all; a member derives from the family with its ``name``, or
    with ``name=None`` if it is a base for others that no configuration can name. What ``papers``
    call it is accepted in the name's place, in any case, and never written:

    >>> class Shape(Named, family="shape", members="shapes"):
    ...     pass
    >>> @dataclasses.dataclass(frozen=True)
    ... class Circle(Shape, name="circle", papers=("Giotto's O",)):
    ...     radius: float = 1.0
    >>> Circle(2.0).to_dict()
    {'name': 'circle', 'radius': 2.0}
    >>> Shape.from_dict({"name": "circle", "radius": 2.0}) == Circle(2.0)
    True
    >>> Shape.from_dict("giotto's o")
    Circle(radius=1.0)
    >>> names_of(Shape)
    ('circle',)

    Attributes:
        name: of the class, in configurations.

    Raises:
        TypeError: a member without a name.
        ValueError: a name that another class of the family has.
    """

    name: ClassVar[str] = ""
    _family: ClassVar[str]
    _members: ClassVar[str]
    _registry: ClassVar[dict[str, type[Any]]]
    _of_papers: ClassVar[dict[str, str]]
    _root: ClassVar[type[Named]]

    def __init_subclass__(
        cls,
        *,
        name: str | None = "",
        family: str = "",
        members: str = "",
        papers: tuple[str, ...] = (),
        **options: Any,
    ) -> None:
        super().__init_subclass__(**options)
        if Named in cls.__bases__:
            cls._root, cls._registry, cls._of_papers = cls, {}, {}
            cls._family, cls._members = family, members
        elif name is not None:
            cls.name = _free(cls, name)
            cls._registry[name] = cls
            cls._of_papers.update({paper.lower(): name for paper in papers})

    def to_dict(self) -> dict[str, Any]:
        """Name and fields, in what JSON and YAML can write.

        Raises:
            TypeError: a field of another kind, or a class that is no dataclass.
        """
        return {
            "name": self.name,
            **{
                field: _plain(getattr(self, field), f"{self.name}.{field}", self._members)
                for field in _fields(type(self))
            },
        }

    @classmethod
    def from_dict(cls: type[AnyNamed], config: Any) -> AnyNamed:
        """What a dictionary from :meth:`to_dict` describes.

        Args:
            config: a mapping with ``name`` and any of the fields, the others having their defaults;
                or the name alone; or one that is made already, returned as it is.

        Raises:
            ValueError: an unknown name or field, a field that is missing, or a value that the class
                refuses.
            TypeError: no such mapping, or a value of the wrong kind.
        """
        return _built(cls, config, cls._family)


def names_of(family: type[Named]) -> tuple[str, ...]:
    """The names that ``family.from_dict`` knows, in alphabetical order."""
    return tuple(sorted(name for name, cls in family._registry.items() if issubclass(cls, family)))


def own_name(family: type[Named], name: Any) -> Any:
    """The family's own name where a paper's is given; others stay."""
    return family._of_papers.get(name.lower(), name) if isinstance(name, str) else name


def _free(cls: type[Named], name: str) -> str:
    """The name, if it can be the class's."""
    if not name:
        base = cls.__bases__[0].__name__
        raise TypeError(
            f'{cls.__name__} has no name; write class {cls.__name__}({base}, name="...")'
        )
    known = cls._registry.get(name)
    # The same place is the same class, defined again in a notebook or by a reload.
    if known is not None and _place(known) != _place(cls):
        raise ValueError(f"name is {name!r}, which {_place(known)} has already; give another")
    return name


def _place(cls: type[Any]) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _fields(cls: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """The fields that the class is made from, by name."""
    if not dataclasses.is_dataclass(cls):
        raise TypeError(
            f"{_place(cls)} is no dataclass; write @dataclass(frozen=True) before the class"
        )
    return {field.name: field for field in dataclasses.fields(cls) if field.init}


def _built(cls: type[AnyNamed], config: Any, where: str) -> AnyNamed:
    """`Named.from_dict`; where is what the configuration is called in errors."""
    if isinstance(config, cls):
        return config
    names = ", ".join(names_of(cls))
    if isinstance(config, str):
        config = {"name": config}
    if not isinstance(config, Mapping):
        raise TypeError(
            f"{where} is {shown(config)}; give a mapping with a name and fields, or a name, one of "
            f"{names}"
        )
    if "name" not in config:
        raise ValueError(
            f"{where} is {shown(dict(config))}, which has no name; give name, one of {names}"
        )
    name = own_name(cls, config["name"])
    member = cls._registry.get(name) if isinstance(name, str) else None
    if member is None or not issubclass(member, cls):
        raise ValueError(
            f"{where} has the name {shown(name)}; there are the {cls._members} {names}"
        )
    fields = _fields(member)
    config = {field: value for field, value in config.items() if field != "name"}
    if unknown := [field for field in config if field not in fields]:
        raise ValueError(
            f"{where} {name!r} has no field {shown(unknown[0])}; it has "
            f"{', '.join(fields) or 'none'}"
        )
    for field, described in fields.items():
        missing = dataclasses.MISSING
        needed = described.default is missing and described.default_factory is missing
        if needed and field not in config:
            raise ValueError(f"{where} {name!r} needs the field {field!r}; give it")
    root = cls._root
    values = {field: _rich(root, value, f"{where}.{field}") for field, value in config.items()}
    return member(**values)


def _plain(value: Any, where: str, members: str) -> Any:
    if isinstance(value, Named):
        return value.to_dict()
    if isinstance(value, (tuple, list)):
        return [_plain(item, f"{where}[{place}]", members) for place, item in enumerate(value)]
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, numbers.Integral):  # NumPy's too
        return int(value)
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return float(value)
    raise TypeError(
        f"{where} is {shown(value)}; a configuration holds finite numbers, words, booleans and "
        f"{members}"
    )


def _rich(family: type[Named], value: Any, where: str) -> Any:
    """What `_plain` wrote; a mapping without a name is left for the class to refuse."""
    if isinstance(value, Mapping) and "name" in value:
        return _built(family, value, where)
    if isinstance(value, (tuple, list)):
        return tuple(_rich(family, item, f"{where}[{place}]") for place, item in enumerate(value))
    return value
