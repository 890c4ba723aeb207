"""Rows that neighbours are found among, as NumPy's, and small vectors beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from stope._checks import integer, shown
from stope._host import on_host
from stope._kinds import matrix
from stope.lists import Ids
from stope.progress import StageProgress, check_progress

T = TypeVar("T")
DTYPES = ("float32", "float16", "bfloat16", "int8")
_LOOKED_AT = 65_536  # rows at once


def rows_of(x: Any, name: str) -> NDArray[Any]:
    """The matrix in host memory, without a copy where it lies there; a memory map stays one.

    >>> rows_of(np.eye(2), "x")
    Traceback (most recent call last):
        ...
    TypeError: x has dtype float64; cast it to float32
    """
    matrix(x, name)
    rows = on_host(x)
    if rows.ndim != 2:
        raise TypeError(f"{name} is a {type(x).__name__}; give a dense array [rows, dim]")
    if rows.dtype.name not in DTYPES:
        raise TypeError(f"{name} has dtype {rows.dtype}; cast it to float32")
    if not len(rows):
        raise ValueError(f"{name} is empty (0 rows); give at least one row")
    return rows


def finite_rows(x: Any, name: str) -> NDArray[Any]:
    """The matrix, of which every row is looked at before anything else."""
    rows = rows_of(x, name)
    for part in chunks(len(rows), _LOOKED_AT):
        wrong = np.flatnonzero(~np.isfinite(rows[part].astype(np.float32)).all(axis=1))
        if len(wrong):
            row = part.start + wrong[0]
            raise ValueError(f"{name} has a NaN or an infinity in row {row}; repair that row")
    return rows


def numbers_of(value: Any, name: str, kinds: str, remedy: str) -> NDArray[Any]:
    """A vector of numbers, of dtypes whose kinds are these.

    >>> numbers_of("x", "rates", "fiu", "give a number for each")
    Traceback (most recent call last):
        ...
    TypeError: rates is 'x'; give a number for each
    """
    try:
        numbers = on_host(value)
    except ValueError:  # rows of different lengths
        numbers = np.zeros((), dtype=object)
    if numbers.ndim != 1 or numbers.dtype.kind not in kinds:
        raise TypeError(f"{name} is {shown(value)}; {remedy}")
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise ValueError(f"{name} has a NaN or an infinity; {remedy}")
    return numbers


def budget_of(budget: Any, rows: int) -> int:
    """How many rows to choose, from 1 to all of them."""
    if integer(budget, "budget", 1) > rows:
        raise ValueError(f"budget is {budget}, but there are {rows} rows; give that many at most")
    return int(budget)


def asked(embeddings: Any, budget: Any, progress: StageProgress | None) -> tuple[NDArray[Any], int]:
    """What a selector is called with, checked: its rows, and how many to choose."""
    check_progress(progress)
    rows = rows_of(embeddings, "embeddings")
    return rows, budget_of(budget, len(rows))


def chunks(rows: int, size: int) -> list[slice]:
    """Slices of so many rows each, the last one perhaps of fewer."""
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def steps(items: Sequence[T], progress: StageProgress | None, stage: str) -> Iterator[T]:
    """What a loop goes through; each step is told when it is done.

    >>> sum(steps(range(2), print, "choices"))
    choices 1 2
    choices 2 2
    1
    """
    for done, item in enumerate(items, start=1):
        yield item
        if progress is not None:
            progress(stage, done, len(items))


def best_first(scores: NDArray[Any], count: int) -> Ids:
    """The places of the highest scores, ties to the lower place."""
    return np.argsort(-scores, kind="stable")[:count]
