"""Rows of training data: which columns are texts, which are numbers about the row, who is who.

Texts go through the tokenizer. Beside them a dataset may have
    "weight"  how much the row counts, at least 0;
    "row"     the number of the row in the table;
    "source"  the task or data set it is from, a word or an integer;
and any column of numbers is a signal of that name, which a weighting can read.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from stope.data import Pairs

WEIGHT, ROW, SOURCE = "weight", "row", "source"
Ids = NDArray[np.int64]
_HASHED = np.int64(1) << 62  # numbers from here on are of texts that the corpus does not have


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset by what they are.

    Attributes:
        texts: query, positive, and hard negatives.
        signals: numbers about a row, except those with a meaning of their own.
        weight, row, source: whether there is such a column.
    """

    texts: tuple[str, ...]
    signals: tuple[str, ...]
    weight: bool = False
    row: bool = False
    source: bool = False


def columns_of(row: Mapping[str, Any]) -> Columns:
    """The columns by the values of one row.

    >>> found = columns_of({"query": "ore?", "positive": "rock", "weight": 2.0, "easiness": 0.5})
    >>> found.texts, found.signals, found.weight, found.row
    (('query', 'positive'), ('easiness',), True, False)
    """
    rest = [name for name in row if name not in (WEIGHT, ROW, SOURCE)]
    signals = tuple(name for name in rest if _is_number(row[name]))
    texts = tuple(name for name in rest if name not in signals)
    return Columns(texts, signals, *(name in row for name in (WEIGHT, ROW, SOURCE)))


def check_columns(dataset: Any) -> Columns:
    """The columns of a dataset, after every number of it has been looked at.

    Raises:
        ValueError: fewer than two columns of texts; a weight that is negative, missing or not
            finite; a signal that is missing, NaN or infinite; a source that is neither word nor
            integer.
    """
    found = columns_of(dataset[0])
    if len(found.texts) < 2:
        raise ValueError(f"examples has only the text column {list(found.texts)}; two are needed")
    if found.weight:
        for row, weight in enumerate(dataset[WEIGHT]):
            if not _is_number(weight) or not 0 <= weight < math.inf:
                raise ValueError(
                    f'examples has the weight {weight!r} in row {row}; the column "{WEIGHT}" holds '
                    "numbers of at least 0"
                )
    for name in found.signals:
        for row, value in enumerate(dataset[name]):
            if not _is_number(value) or not math.isfinite(value):
                raise ValueError(
                    f'examples has {value!r} in row {row} of the column "{name}", a signal for '
                    "weightings; give a finite number, or remove the column"
                )
    for name in found.texts:
        for row, value in enumerate(dataset[name]):
            if not isinstance(value, str):
                raise ValueError(
                    f'examples has {value!r} in row {row} of the column "{name}"; give a text, or '
                    "remove the row"
                )
    if found.source:
        for row, value in enumerate(dataset[SOURCE]):
            if not isinstance(value, str | int):
                raise ValueError(
                    f'examples has the source {value!r} in row {row}; the column "{SOURCE}" holds '
                    "words or integers"
                )
    return found


@dataclass(frozen=True, eq=False)
class RowTable:
    """Who is who among the rows: what batches are planned by and false negatives are known by.

    Attributes:
        query_numbers: int64 [n]; rows of one query have the same number.
        positive_numbers: int64 [n]; rows of one positive have the same number. With pairs it is the
            row of ``pairs.corpus_texts``.
        sources: int64 [n], places in source_names, or None.
        source_names: the sources, sorted.
        pairs: where the rows are from, or None.
        query_of: int64 [n], row to query of pairs, or None.

    Memory: 24 bytes per row, and the texts of the corpus once more as keys where rows of pairs
    bring hard negatives.
    """

    query_numbers: Ids
    positive_numbers: Ids
    sources: Ids | None = None
    source_names: tuple[str | int, ...] = ()
    pairs: Pairs | None = None
    query_of: Ids | None = None
    _known: dict[str, int] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.query_numbers)

    @classmethod
    def of_dataset(cls, dataset: Any) -> RowTable:
        """From a dataset of texts: equal texts are one.

        >>> rows = [("a", "x"), ("b", "x"), ("a", "y")]
        >>> from stope.training import training_dataset
        >>> table = RowTable.of_dataset(training_dataset(*zip(*rows)))
        >>> table.query_numbers.tolist(), table.positive_numbers.tolist()
        ([0, 1, 0], [0, 0, 1])
        """
        columns = columns_of(dataset[0])
        numbers = [_numbered(dataset[name]) for name in columns.texts[:2]]
        sources = dataset[SOURCE] if columns.source else None
        return cls(numbers[0], numbers[1], *_sources(sources))

    @classmethod
    def of_pairs(cls, pairs: Pairs, sources: Sequence[str | int] | None = None) -> RowTable:
        """One row per (query, positive) of pairs, in the order of ``pairs.positives``.

        Args:
            pairs: queries, corpus and positives.
            sources: the source of each query, or None.

        Raises:
            ValueError: not one source per query.
        """
        offsets, ids = pairs.positives
        query_of = np.repeat(np.arange(len(pairs.query_texts)), np.diff(offsets))
        if sources is not None and len(sources) != len(pairs.query_texts):
            raise ValueError(
                f"sources has {len(sources)} names for {len(pairs.query_texts)} queries"
            )
        of_rows = None if sources is None else [sources[query] for query in query_of.tolist()]
        return cls(query_of, ids, *_sources(of_rows), pairs=pairs, query_of=query_of)

    def query_sources(self) -> list[str | int] | None:
        """The source of each query of the pairs, or None where there are no sources."""
        if self.pairs is None or self.sources is None:
            return None
        first = self.pairs.positives[0][:-1]  # every query has a row
        return [self.source_names[place] for place in self.sources[first].tolist()]

    def document_numbers(self, texts: Sequence[str]) -> Ids:
        """One number per text, comparable with positive_numbers where the table is of pairs."""
        if self.pairs is None:
            return text_numbers(texts)
        if not self._known:
            self._known.update((text, row) for row, text in enumerate(self.pairs.corpus_texts))
        found = np.array([self._known.get(text, -1) for text in texts], dtype=np.int64)
        if (found < 0).any():
            others = np.flatnonzero(found < 0)
            found[others] = text_numbers([texts[place] for place in others.tolist()]) | _HASHED
        return found

    def columns_of_positives(self, rows: Ids, documents: Ids) -> tuple[Ids, Ids]:
        """For each row, the columns that hold any positive of its query: CSR (offsets, columns).

        Args:
            rows: int64 [b], rows of the table.
            documents: int64 [c], rows of ``pairs.corpus_texts``, one per column.

        Raises:
            ValueError: the table is not of pairs.

        Memory: some int64 per column and per positive of the rows.

        >>> from stope.data import Pairs
        >>> table = RowTable.of_pairs(Pairs.from_texts(["a", "a", "b"], ["x", "y", "z"]))
        >>> [part.tolist() for part in table.columns_of_positives(np.array([0, 2]), np.arange(3))]
        [[0, 2, 3], [0, 1, 2]]
        """
        if self.pairs is None or self.query_of is None:
            raise ValueError("the table is of a dataset, which has no positives beyond its rows")
        offsets, ids = self.pairs.positives
        queries = self.query_of[rows]
        lengths = offsets[queries + 1] - offsets[queries]
        own = ids[ranges(offsets[queries], lengths)]
        order = np.argsort(documents, kind="stable")
        first, last = (np.searchsorted(documents[order], own, side) for side in ("left", "right"))
        found = order[ranges(first, last - first)]
        ends = np.concatenate([[0], np.cumsum(last - first)])
        return ends[np.concatenate([[0], np.cumsum(lengths)])], found


def ranges(starts: Ids, lengths: Ids) -> Ids:
    """starts[0], starts[0] + 1, ... (lengths[0] of them), then those of the next.

    >>> ranges(np.array([5, 2, 7]), np.array([2, 0, 3])).tolist()
    [5, 6, 7, 8, 9]
    """
    before = np.cumsum(lengths) - lengths
    found: Ids = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
    return found


def text_numbers(texts: Sequence[str]) -> Ids:
    """One number per text, the same in every batch and process; equal only for equal texts.

    63 bits of BLAKE2: among a million texts two collide with a chance of 1 in ten million.

    >>> numbers = text_numbers(["ore", "rock", "ore"])
    >>> bool(numbers[0] == numbers[2]), bool(numbers[0] == numbers[1])
    (True, False)
    """
    found = [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8) for text in texts
    ]
    raw = np.frombuffer(b"".join(one.digest() for one in found), dtype="<i8")
    numbers: Ids = raw.astype(np.int64) & np.int64(2**63 - 1)
    return numbers


def _numbered(texts: Sequence[str]) -> Ids:
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts], dtype=np.int64)


def _sources(names: Sequence[str | int] | None) -> tuple[Ids | None, tuple[str | int, ...]]:
    if names is None:
        return None, ()
    known = sorted(set(names), key=lambda name: (isinstance(name, str), name))
    place = {name: number for number, name in enumerate(known)}
    return np.array([place[name] for name in names], dtype=np.int64), tuple(known)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
