"""RawPairs: pairs that are made while they are read, and what became of the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from stope._checks import counted, counted_all, integer, shown
from stope.data.readers.fields import join_title

Row: TypeAlias = str | tuple[str, str]
# The (query, positive) of a text, or the reason why it has none.
Make: TypeAlias = Callable[[str, np.random.Generator], "Iterable[tuple[str, str]] | str"]


class RawPair(NamedTuple):
    """A query, the text that is right for it, and the number of the row that they were made of."""

    query: str
    positive: str
    row: int


class RawPairs:
    """Pairs made of rows while they are iterated over; an iteration starts at the first row.

    Attributes:
        rows: how many rows the last iteration has read so far.
        pairs: how many pairs it gave.
        skipped: how many rows gave none, by reason.

    Memory: one row or one batch of rows, as the function that made it says.
    """

    def __init__(
        self, rows: Iterable[Row], make: Callable[[RawPairs], Iterator[RawPair]], first_row: int
    ) -> None:
        self._rows, self._make, self._first_row = rows, make, integer(first_row, "first_row", 0)
        self._used = False
        self.rows = self.pairs = 0
        self.skipped: Counter[str] = Counter()

    def __iter__(self) -> Iterator[RawPair]:
        """Give the pairs, row after row.

        Raises:
            ValueError: rows is an iterator and was read before; a bad row.
            TypeError: a row of another type.
        """
        if isinstance(self._rows, Iterator) and self._used:
            raise ValueError(
                "the rows were an iterator and have been read; give a list, or keep the pairs"
            )
        self._used = True
        self.rows = self.pairs = 0
        self.skipped = Counter()
        for pair in self._make(self):
            self.pairs += 1
            yield pair

    def columns(self) -> tuple[list[str], list[str]]:
        """All queries and all positives, for `stope.data.Pairs.from_texts(*columns)`.

        Raises:
            ValueError: no row gave a pair; the message says why.
        """
        queries, positives = zip(*self.examples(), strict=True)
        return list(queries), list(positives)

    def examples(self) -> list[tuple[str, str]]:
        """All (query, positive), for `stope.training.train`; errors as in `columns`."""
        pairs = [(pair.query, pair.positive) for pair in self]
        if not pairs:
            raise ValueError(f"there is no pair: {self.report().removesuffix('.')}")
        return pairs

    def report(self) -> str:
        """A sentence on the last iteration.

        Example:
            >>> from stope.data import title_to_body
            >>> pairs = title_to_body([("Ore", "Rock with metal."), ("", "No title.")])
            >>> len(pairs.examples()), pairs.report()
            (1, '2 rows gave 1 pair; rows skipped: 1 (1 no title).')
        """
        reasons = f" ({counted_all(self.skipped)})" if self.skipped else ""
        return (
            f"{counted(self.rows, 'rows')} gave {counted(self.pairs, 'pairs')}; rows skipped: "
            f"{self.skipped.total():,}{reasons}."
        )

    def numbered(self) -> Iterator[tuple[int, str, str]]:
        """Rows as (number, title, text) after a check, counted."""
        for number, row in enumerate(self._rows, self._first_row):
            title, text = ("", row) if isinstance(row, str) else _two(row, number)
            self.rows += 1
            yield number, title, text


def check_rows(rows: Any, name: str) -> None:
    """A single string is no list of rows."""
    wrong = isinstance(rows, str | bytes | Mapping | Set) or hasattr(rows, "dtype")
    if wrong or not isinstance(rows, Iterable):
        raise TypeError(
            f"{name} is {'one string' if isinstance(rows, str) else type(rows).__name__}; give a"
            " list or another iterable of texts, or of (title, text)"
        )


def row_by_row(texts: Iterable[Row], seed: int, first_row: int, make: Make) -> RawPairs:
    """The pairs that make finds in the text of each row; its title goes before the positives.

    The random numbers of a row are the same whatever was read before it.
    """
    check_rows(texts, "texts")
    integer(seed, "seed", 0)

    def made(pairs: RawPairs) -> Iterator[RawPair]:
        for row, title, text in pairs.numbered():
            parts = make(text, np.random.default_rng([seed, row]))
            if isinstance(parts, str):
                pairs.skipped[parts] += 1
                continue
            for query, positive in parts:
                yield RawPair(query, join_title(title, positive), row)

    return RawPairs(texts, made, first_row)


def _two(row: Any, number: int) -> tuple[str, str]:
    good = isinstance(row, (tuple, list)) and len(row) == 2
    if not good or not all(isinstance(part, str) for part in row):
        raise TypeError(f"row {number} is {shown(row)}; give a text or (title, text)")
    return row[0], row[1]
