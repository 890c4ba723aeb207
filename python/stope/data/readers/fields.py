"""Checked access to the fields of one row; every error names the place the row was read from."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Mapping
from typing import Any

from stope._checks import counted_all, shown

Row = Mapping[str, Any]


_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_MOST_NAMES = 20


def names(row: Row) -> str:
    """The field names of a row for an error message: "query", "positive"; long ones cut short."""
    first = [
        f'"{textwrap.shorten(str(name), 40, placeholder="...")}"'
        for name in itertools.islice(row, _MOST_NAMES)
    ]
    more = len(row) - len(first)
    return (", ".join(first) + (f" and {more:,} more" if more > 0 else "")) or "none"


def require(row: Row, name: str, where: str) -> Any:
    """Return row[name], or raise ValueError naming the fields there are."""
    if name not in row:
        raise ValueError(f'{where}: field "{name}" is missing; the fields are {names(row)}')
    return row[name]


def filled(row: Row, name: str, where: str) -> Any:
    """The same, where null is no value."""
    value = require(row, name, where)
    if value is None:
        raise ValueError(
            f'{where}: field "{name}" is null; fill it, or leave such rows out by skip_empty=True'
        )
    return value


def missing_before(name: str, where: str) -> str:
    """What is said of a column that the first row lacks, where every row needs it or none."""
    return (
        f'{where}: field "{name}" is there, but the first row has none; give it to every row, or '
        "to none"
    )


def text_of(value: Any, name: str, where: str) -> str:
    """Return a string value unchanged, or raise ValueError."""
    if not isinstance(value, str):
        raise ValueError(f'{where}: field "{name}" must be a string, but it is {_kind(value)}')
    return value


def id_of(value: Any, name: str, where: str) -> str:
    """Return an identifier as a string; whole numbers are accepted, empty strings are not."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(
            f'{where}: field "{name}" must be a string or a whole number, but it is {_kind(value)}'
        )
    if not value:
        raise ValueError(f'{where}: field "{name}" is empty; every row needs an id')
    return value


def in_brackets(skipped: Mapping[str, int]) -> str:
    """What was left out, in brackets.

    >>> in_brackets({"rows without text": 2})
    ' (2 rows without text)'
    """
    told = counted_all(skipped)
    return f" ({told})" if told else ""


def add_id(identifier: str, seen: set[str], where: str) -> None:
    """Add an id to those seen; one that is there already is refused."""
    if identifier in seen:
        raise ValueError(
            f'{where}: the id "{identifier}" appears twice; ids must be unique: rename one, or '
            "leave its row out"
        )
    seen.add(identifier)


def scores_of(value: Any, name: str, where: str, length: int) -> list[float]:
    """Return a list of `length` finite numbers, or raise ValueError."""
    if not isinstance(value, (list, tuple)):
        raise ValueError(
            f'{where}: field "{name}" must be a list of numbers, but it is {_kind(value)}'
        )
    if len(value) != length:
        raise ValueError(
            f'{where}: field "{name}" has {len(value)} scores for {length} texts; give one each'
        )
    return [number_of(item, f"{name}[{index}]", where) for index, item in enumerate(value)]


def number_of(value: Any, name: str, where: str) -> float:
    """Return a finite number as float, or raise ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f'{where}: field "{name}" must be a number, but it is {_kind(value)}')
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(
            f'{where}: field "{name}" must be a finite number, but it is {_kind(value)}'
        )
    return number


def plain_number(text: str) -> float | None:
    """A number written in ASCII digits, or None: "1_0" and digits of other scripts are none.

    >>> plain_number(" -2.5e1"), plain_number("1_0"), plain_number("nan")
    (-25.0, None, None)
    """
    text = text.strip()
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def cell_number(value: Any, name: str, where: str) -> float:
    """Return a finite number, which may stand in a string as cells of tables do."""
    number = plain_number(value) if isinstance(value, str) else None
    if number is None and (isinstance(value, str) or value is None):
        raise ValueError(
            f'{where}: {shown(value)} stands in the column "{name}"; give a finite number'
        )
    return number_of(value, name, where) if number is None else number


def join_title(title: str, text: str) -> str:
    """The text a document is encoded as: title, a space, text; or the one that is not empty."""
    return f"{title} {text}" if title and text else title or text


def _kind(value: Any) -> str:
    return "null" if value is None else f"{type(value).__name__} {shown(value)}"
