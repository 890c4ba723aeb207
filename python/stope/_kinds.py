"""Kinds of arguments, checked at the door of a public function: ``@kinds(pairs=a(Pairs), ...)``.

A check is called with (value, name) and raises a sentence; those of `stope._checks` serve as they
are. What is said here is the kind alone: ranges and what goes with what are the function's own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from stope._checks import integer, shown, text
from stope._files.texts import StoredTexts

Check: TypeAlias = Callable[[Any, str], object]
T = TypeVar("T")


def kinds(**checks: Check) -> Callable[[T], T]:
    """Check these arguments before the function (or the class's ``__init__``) runs.

    >>> @kinds(pages=at_least(1))
    ... def read(pages=1):
    ...     return pages
    >>> read(pages="x")
    Traceback (most recent call last):
        ...
    TypeError: pages is 'x'; give an integer
    """

    def decorate(target: T) -> T:
        if isinstance(target, type):
            setattr(target, "__init__", _at_the_door(target.__init__, checks))  # type: ignore[misc]  # noqa: B010
            return target
        return _at_the_door(target, checks)  # type: ignore[return-value,arg-type]

    return decorate


def _at_the_door(function: Callable[..., Any], checks: Mapping[str, Check]) -> Callable[..., Any]:
    places = list(inspect.signature(function).parameters)
    guarded = [(name, places.index(name), check) for name, check in checks.items()]

    @functools.wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        for name, place, check in guarded:
            if name in named:
                check(named[name], name)
            elif place < len(args):
                check(args[place], name)
        return function(*args, **named)

    return run


def a(*classes: type) -> Check:
    """An instance of one of the classes."""
    names = " or ".join(map(_public_name, classes))

    def check(value: Any, name: str) -> None:
        if not isinstance(value, classes):
            raise TypeError(f"{name} is {shown(value)}; give a {names}")

    return check


def _public_name(kind: type) -> str:
    parts = kind.__module__.split(".")
    room = ".".join(parts[: 3 if {"integrations", "scale"} & set(parts) else 2])
    return f"{room}.{kind.__name__}" if room.startswith("stope.") else kind.__name__


def maybe(check: Check) -> Check:
    """None, or what the check takes."""
    return lambda value, name: None if value is None else check(value, name)


def at_least(least: int) -> Check:
    """An integer of at least this."""
    return lambda value, name: integer(value, name, least)


def string(value: Any, name: str) -> None:
    """Any string, an empty one too."""
    text(value, name, blank=True)


def strings(value: Any, name: str) -> None:
    """A list of strings, which may be empty."""
    if isinstance(value, StoredTexts):
        return
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise TypeError(f"{name} is {shown(value)}; give a list of strings")
    wrong = next((row for row, entry in enumerate(value) if not isinstance(entry, str)), None)
    if wrong is not None:
        raise TypeError(f"{name}[{wrong}] is {shown(value[wrong])}; give strings alone")


def mapping(value: Any, name: str) -> None:
    """A mapping."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is {shown(value)}; give a mapping")


def mapping_of_mappings(value: Any, name: str) -> None:
    """A mapping whose values are mappings, as qrels and runs are."""
    mapping(value, name)
    for key, inner in value.items():
        mapping(inner, f"{name}[{shown(key)}]")


def callback(value: Any, name: str) -> None:
    """Something to call."""
    if not callable(value):
        raise TypeError(f"{name} is {shown(value)}; give a function")


def offering(*methods: str) -> Check:
    """A module or an object with these functions."""

    def check(value: Any, name: str) -> None:
        missing = [method for method in methods if not callable(getattr(value, method, None))]
        if missing:
            raise TypeError(
                f"{name} is {shown(value)}, without {', '.join(missing)}; give the module stope, "
                "stope.neighbors.KeptOperations or stope.scale.ray.Operations"
            )

    return check


def sequence(value: Any, name: str) -> None:
    """A list, tuple or array, but no text."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__getitem__"):
        raise TypeError(f"{name} is {shown(value)}; give a list")


def iterable(value: Any, name: str) -> None:
    """Something to go through, which gives entries and no letters or keys."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        raise TypeError(f"{name} is {shown(value)}; give a list")


def _array_of(kind: str, *words: str) -> Check:
    """A list or an array of such elements, which may be empty; of any rank."""

    def check(value: Any, name: str) -> None:
        sequence(value, name)
        try:
            array = value if hasattr(value, "dtype") else np.asarray(value)
        except ValueError:
            raise TypeError(f"{name} is {shown(value)}; give {kind}, as many in each row") from None
        if not any(word in str(array.dtype) for word in words) and array.shape[0]:
            raise TypeError(f"{name} is {shown(value)}; give {kind}")

    return check


integers = _array_of("integers", "int")
numbers = _array_of("numbers", "int", "float")


def matrix(value: Any, name: str) -> None:
    """An array with two dimensions, of any library."""
    shape = getattr(value, "shape", None)
    if shape is None:
        raise TypeError(f"{name} is {shown(value)}; give an array [rows, dim]")
    if len(shape) != 2:
        raise ValueError(f"{name} has shape {tuple(shape)}; give an array [rows, dim]")
