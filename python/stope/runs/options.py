"""What the sections of a configuration are made of: fields that check themselves, in sentences.

A section is a frozen dataclass whose fields come from `option`. Every check takes the value and the
path of its key ("training.batch_size") and returns the value to keep, or raises a ValueError that
names the path, the value and what to give instead.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

Check = Callable[[Any, str], Any]
S = TypeVar("S")


def option(check: Check, default: Any = dataclasses.MISSING) -> Any:
    """A field of a section: its check, and its default unless it must be given."""
    return dataclasses.field(default=default, metadata={"check": check})


class Section:
    """Base of the sections: checks its fields when built, however it is built."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value is not None or field.default is not None:
                kept = field.metadata["check"](value, f"{section_name(type(self))}.{field.name}")
                object.__setattr__(self, field.name, kept)


def section_name(kind: type) -> str:
    """The key under which a configuration has this section.

    >>> class Training(Section): ...
    >>> section_name(Training)
    'training'
    """
    return getattr(kind, "KEY", kind.__name__.lower())


def read_section(kind: type[S], given: Any, path: str) -> S:
    """Build the section from a mapping; unknown keys, missing keys and bad values are sentences."""
    if isinstance(given, kind):
        return given
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = mapping(given, path, fields)
    for name, field in fields.items():
        if name not in values and field.default is dataclasses.MISSING:
            raise ValueError(f"{path}.{name} is missing; give it")
    return kind(
        **{
            name: value
            if value is None and fields[name].default is None
            else fields[name].metadata["check"](value, f"{path}.{name}")
            for name, value in values.items()
        }
    )


def mapping(given: Any, path: str, known: Iterable[str]) -> dict[str, Any]:
    """The mapping as a dictionary, if all its keys are known ones."""
    names = list(known)
    if not isinstance(given, Mapping):
        raise ValueError(f"{path} is {given!r}; give a mapping with keys of: {', '.join(names)}")
    for key in given:
        if key not in names:
            raise ValueError(unknown(str(key), path, names))
    return dict(given)


def unknown(key: str, path: str, names: Iterable[str]) -> str:
    """The sentence about a key that a section does not have.

    >>> unknown("epoch", "training", ["batch_size", "epochs"])
    'training has no key "epoch" (did you mean "epochs"?); its keys are batch_size, epochs'
    """
    known = list(names)
    near = difflib.get_close_matches(key, known, n=1)
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    return f'{path} has no key "{key}"{hint}; its keys are {", ".join(known)}'


def whole(least: int = 0) -> Check:
    """A whole number of at least so much.

    >>> whole(2)("many", "training.batch_size")
    Traceback (most recent call last):
        ...
    ValueError: training.batch_size is 'many'; give a whole number of at least 2
    """

    def check(value: Any, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value // 1:
            raise _bad(value, path, f"a whole number of at least {least}")
        if value < least or math.isinf(value):
            raise _bad(value, path, f"a whole number of at least {least}")
        return int(value)

    return check


def number(
    low: float, high: float = math.inf, *, above: bool = False, below: bool = False
) -> Check:
    """A finite number in [low, high]; above and below leave out the ends."""

    def check(value: Any, path: str) -> float:
        wanted = f"a number {'above' if above else 'of at least'} {low:g}"
        if high < math.inf:
            wanted += f" and {'below' if below else 'at most'} {high:g}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _bad(value, path, wanted)
        least = value > low if above else value >= low
        most = value < high if below else value <= high
        if not (math.isfinite(value) and least and most):
            raise _bad(value, path, wanted)
        return float(value)

    return check


def flag(value: Any, path: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise _bad(value, path, "true or false")
    return value


def word(value: Any, path: str) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise _bad(value, path, "a text")
    return value


def text(value: Any, path: str) -> str:
    """A text, which may be empty."""
    if not isinstance(value, str):
        raise _bad(value, path, "a text")
    return value


def choice(*names: str) -> Check:
    """One of the names."""

    def check(value: Any, path: str) -> str:
        if value not in names:
            raise _bad(value, path, "one of " + ", ".join(names))
        return str(value)

    return check


def several(check_one: Check, what: str) -> Check:
    """A list, of at least one, of what check_one takes."""

    def check(value: Any, path: str) -> tuple[Any, ...]:
        if isinstance(value, (str, Mapping)) or not isinstance(value, (list, tuple)) or not value:
            raise _bad(value, path, f"a list of {what}")
        return tuple(check_one(one, f"{path}[{place}]") for place, one in enumerate(value))

    return check


def plain(value: Any) -> Any:
    """Sections as dictionaries and tuples as lists, as YAML and JSON write them; None left out.

    >>> plain({"dims": (64, 32), "weights": None})
    {'dims': [64, 32]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items() if one is not None}
    return [plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """The paths at which two plain configurations differ, with both values.

    >>> differences({"training": {"epochs": 3}}, {"training": {"epochs": 5, "seed": 1}})
    ['training.epochs (3, now 5)', 'training.seed (not given, now 1)']
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return [
            line
            for key in dict.fromkeys([*first, *second])
            for line in differences(first.get(key), second.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            line
            for place, (one, other) in enumerate(zip(first, second, strict=True))
            for line in differences(one, other, f"{path}[{place}]")
        ]
    if first == second:
        return []
    told = ["not given" if one is None else f"{one}" for one in (first, second)]
    return [f"{path} ({told[0]}, now {told[1]})"]


def _bad(value: Any, path: str, wanted: str) -> ValueError:
    return ValueError(f"{path} is {value!r}; give {wanted}")
