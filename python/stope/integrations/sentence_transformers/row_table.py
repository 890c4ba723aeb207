"""Who is who among the rows: numbers by which queries, documents and sources are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stope._checks import shown
from stope.data.text_identity import text_key
from stope.integrations.sentence_transformers.columns import SOURCE, columns_of
from stope.lists import Ids, Lists, offsets_of, ranges

if TYPE_CHECKING:
    from stope.data import Pairs

_HASHED = np.int64(1) << 62  # numbers from here on are of texts that the corpus does not have
UNKNOWN = -(2**63)  # the number of what nobody knows: it equals nothing, not even itself


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

    Memory: 24 bytes per row.
    """

    query_numbers: Ids
    positive_numbers: Ids
    sources: Ids | None = None
    source_names: tuple[str | int, ...] = ()
    pairs: Pairs | None = None
    query_of: Ids | None = None

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
        query_of = pairs.positives.owners
        if sources is not None and len(sources) != len(pairs.query_texts):
            raise ValueError(
                f"sources has {len(sources)} names for {len(pairs.query_texts)} queries; give one "
                "for each"
            )
        of_rows = None if sources is None else [sources[query] for query in query_of.tolist()]
        positives = pairs.positives.ids
        return cls(query_of, positives, *_sources(of_rows), pairs=pairs, query_of=query_of)

    def query_sources(self) -> list[str | int] | None:
        """The source of each query of the pairs, or None where there are no sources."""
        if self.pairs is None or self.sources is None:
            return None
        first = self.pairs.positives.offsets[:-1]  # every query has a row
        return [self.source_names[place] for place in self.sources[first].tolist()]

    def document_numbers(self, texts: Sequence[str]) -> Ids:
        """One number per text, comparable with positive_numbers where the table is of pairs."""
        if self.pairs is None:
            return text_numbers(texts)
        numbers = self.pairs.rows_of(texts)
        if (numbers < 0).any():
            others = np.flatnonzero(numbers < 0)
            hashes = text_numbers([texts[place] for place in others.tolist()])
            numbers[others] = hashes | _HASHED
        return numbers

    def columns_of_positives(self, rows: Ids, documents: Ids) -> Lists:
        """For each row, the columns that hold a positive of its query, or what is excluded for it.

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
        queries, excluded = self.query_of[rows], self.pairs.exclusions
        positives = self.pairs.positives.take(queries)
        if excluded is not None:
            positives = positives.union(excluded.take(queries).lists(len(queries)))
        order = np.argsort(documents, kind="stable")
        first, last = (
            np.searchsorted(documents[order], positives.ids, side) for side in ("left", "right")
        )
        columns = order[ranges(first, last - first)]
        return Lists(offsets_of(last - first)[positives.offsets], columns)


def text_numbers(texts: Sequence[str]) -> Ids:
    """One number per text, the same in every batch and process; equal only for equal texts.

    Texts are compared as `stope.data.normal_text` puts them. Of BLAKE2 there are 63 bits: among a
    million texts two collide with a chance of 1 in ten million.

    >>> numbers = text_numbers(["ore", "rock", "ore"])
    >>> bool(numbers[0] == numbers[2]), bool(numbers[0] == numbers[1])
    (True, False)
    """
    hashes = [text_key(text)[:8] for text in texts]
    raw = np.frombuffer(b"".join(hashes), dtype="<i8")
    return np.asarray(raw.astype(np.int64) & np.int64(2**63 - 1))


def id_number(value: Any) -> int:
    """An id as int64: integers as they are, words by a hash that does not change between runs.

    None is `UNKNOWN`.

    >>> id_number(7), id_number("d7") == id_number("d7"), id_number(None) == UNKNOWN
    (7, True, True)
    """
    if value is None:
        return UNKNOWN
    if isinstance(value, str):
        name = f"id {value}".encode("utf-8", "surrogatepass")
        return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True)
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return int(value)
    raise TypeError(f"an id is {shown(value)}; ids are integers or words, or None where unknown")


def _numbered(texts: Sequence[str]) -> Ids:
    numbers: dict[bytes, int] = {}
    keys = (text_key(text) for text in texts)
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)


def _sources(names: Sequence[str | int] | None) -> tuple[Ids | None, tuple[str | int, ...]]:
    if names is None:
        return None, ()
    known = sorted(set(names), key=lambda name: (isinstance(name, str), name))
    place = {name: number for number, name in enumerate(known)}
    return np.array([place[name] for name in names], dtype=np.int64), tuple(known)
