"""Pairs of several sources, source by source: each with its own queries and its own corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stope.data.pairs import Pairs

Ids = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SourcePairs:
    """The pairs of one source, which count its queries and documents from 0.

    Attributes:
        name: of the source; None where all pairs are one.
        pairs: its queries, documents and positives.
        queries: int64, their rows among all queries, ascending.
        documents: int64, their rows in the corpus of all, ascending.
    """

    name: str | int | None
    pairs: Pairs
    queries: Ids
    documents: Ids

    def of_all(self, rows: Ids) -> Ids:
        """Rows of the source's documents as rows of the corpus of all; -1 stays."""
        found: Ids = np.where(rows >= 0, self.documents[rows], -1)
        return found

    def of_source(self, rows: Ids) -> Ids:
        """Rows of the corpus of all, each a document of the source, as its rows; -1 stays."""
        found: Ids = np.where(rows >= 0, np.searchsorted(self.documents, rows), -1)
        return found


def pairs_by_source(
    pairs: Pairs, sources: Sequence[str | int] | None = None
) -> tuple[SourcePairs, ...]:
    """Take pairs apart by the sources of their queries.

    Args:
        pairs: queries, corpus and positives; its ``corpus_of`` has the documents of each source.
        sources: the source of each query.

    Returns:
        The sources that have a query, in the order of ``corpus_of``; all pairs as one where sources
        is None or the pairs have no ``corpus_of``.

    Raises:
        ValueError: not one source per query, a source without documents, or a positive that its
            query's source does not have.

    Memory: lists of references to the texts of each source, and 40 bytes per document and source.

    Example:
        >>> from dataclasses import replace
        >>> texts = ["rock", "hole", "sea"]
        >>> pairs = Pairs.from_texts(["ore", "pit"], ["rock", "hole"], texts)
        >>> of = {"mine": np.array([0, 1]), "dig": np.array([1, 2])}
        >>> found = pairs_by_source(replace(pairs, corpus_of=of), ["mine", "dig"])
        >>> [(one.name, one.pairs.corpus_texts, one.pairs.positives[1].tolist()) for one in found]
        [('mine', ['rock', 'hole'], [0]), ('dig', ['hole', 'sea'], [0])]
    """
    count, size = len(pairs.query_ids), len(pairs.corpus_ids)
    if sources is None or pairs.corpus_of is None:
        return (SourcePairs(None, pairs, np.arange(count), np.arange(size)),)
    if len(sources) != count:
        raise ValueError(f"sources has {len(sources)} names for {count} queries")
    queries_of: dict[str | int, list[int]] = {name: [] for name in pairs.corpus_of}
    for query, name in enumerate(sources):
        if name not in queries_of:
            known = ", ".join(map(repr, queries_of))
            raise ValueError(
                f"Query {pairs.query_ids[query]!r} is of the source {name!r}, but corpus_of has "
                f"the documents of {known} alone; add those of {name!r}"
            )
        queries_of[name].append(query)
    return tuple(
        _part(pairs, name, np.array(queries, dtype=np.int64), pairs.corpus_of[name])
        for name, queries in queries_of.items()
        if queries
    )


def _part(pairs: Pairs, name: str | int, queries: Ids, documents: Ids) -> SourcePairs:
    offsets, rows = pairs.positives
    lists = [rows[offsets[query] : offsets[query + 1]] for query in queries]
    own = np.concatenate(lists)
    foreign = np.flatnonzero(~np.isin(own, documents))
    if len(foreign):
        row = int(own[foreign[0]])
        raise ValueError(
            f"Document {pairs.corpus_ids[row]!r} is a positive of the source {name!r}, but "
            "corpus_of does not have it among that source's documents; add it"
        )
    counts = [len(found) for found in lists]
    only = Pairs(
        [pairs.query_ids[query] for query in queries],
        [pairs.query_texts[query] for query in queries],
        [pairs.corpus_ids[row] for row in documents],
        [pairs.corpus_texts[row] for row in documents],
        (np.cumsum([0, *counts], dtype=np.int64), np.searchsorted(documents, own)),
        np.arange(len(queries)),
        np.arange(len(documents)),
        len(queries),
        len(documents),
    )
    return SourcePairs(name, only, queries, documents)
