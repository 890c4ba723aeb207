"""Mined negatives as a table of row numbers, with the texts they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from stope._checks import one_each, shown, unique
from stope._kinds import kinds, maybe, sequence, strings
from stope.lists import Lists

Ids = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]


@kinds(
    **dict.fromkeys(("query_ids", "query_texts", "document_ids", "document_texts"), strings),
    **dict.fromkeys(("positives", "negatives"), sequence),
    **dict.fromkeys(("positive_scores", "negative_scores"), maybe(sequence)),
)
@dataclass(frozen=True, eq=False)
class NegativeTable:
    """Queries with their positives and negatives, as rows of a list of documents.

    Args:
        query_ids, query_texts: nq of each.
        document_ids, document_texts: n of each, no id twice.
        positives: document rows: one per query (a 1-D integer array), CSR (a tuple of int arrays:
            offsets [nq + 1], rows [nnz]), or a sequence of nq integer arrays.
        negatives: document rows, int [nq, m] best first, or a sequence of nq integer arrays;
            -1 is padding and is dropped wherever it stands.
        positive_scores: as positives: a flat array [nnz], or a sequence of nq arrays.
        negative_scores: as negatives: [nq, m], or a sequence of nq arrays; ignored at padding.

    Raises:
        ValueError: lengths that do not agree, a row out of range, a duplicate document id, a score
            that is not finite beside a row that is not padding; names the argument and the query.
        TypeError: rows that are not integers.

    Memory: int64 rows and float64 scores of all positives and negatives.

    Example:
        >>> table = NegativeTable(
        ...     query_ids=["q1"], query_texts=["what is ore"],
        ...     document_ids=["d1", "d2", "d3"], document_texts=["rock", "pit", "lamp"],
        ...     positives=[0], negatives=[[2, 1, -1]], negative_scores=[[0.5, 0.25, float("-inf")]],
        ... )
        >>> table.negatives_of(0)
        [2, 1]
    """

    query_ids: Sequence[str]
    query_texts: Sequence[str]
    document_ids: Sequence[str]
    document_texts: Sequence[str]
    positives: Any
    negatives: Any
    positive_scores: Any = None
    negative_scores: Any = None
    width: int = field(init=False)
    _positives: tuple[Lists, Scores | None] = field(init=False, repr=False)
    _negatives: tuple[Lists, Scores | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        number, documents = len(self.query_ids), len(self.document_ids)
        one_each(self.query_texts, "query_texts", number, "query_ids")
        one_each(self.document_texts, "document_texts", documents, "document_ids")
        unique(self.document_ids, "document_ids")
        positives = _lists_of_positives(self.positives, number)
        scores = _flat_scores(self.positive_scores, positives, "positive_scores")
        _check(positives, scores, "positives", documents, least=0)
        object.__setattr__(self, "_positives", (positives, scores))
        negatives = _ragged(self.negatives, number, "negatives")
        object.__setattr__(self, "width", int(negatives.lengths.max(initial=0)))
        scores = _flat_scores(self.negative_scores, negatives, "negative_scores")
        _check(negatives, scores, "negatives", documents, least=-1)
        kept = negatives.ids >= 0
        negatives = negatives.where(kept)
        scores = None if scores is None else scores[kept]
        object.__setattr__(self, "_negatives", (negatives, scores))

    @classmethod
    def from_ids(
        cls,
        queries: Mapping[str, str],
        documents: Mapping[str, str],
        positives: Mapping[str, Sequence[str]],
        negatives: Mapping[str, Sequence[tuple[str, float]]],
        positive_scores: Mapping[str, Sequence[float]] | None = None,
    ) -> NegativeTable:
        """Build a table from ids; the queries are those of `positives`, in its order.

        Args:
            queries, documents: {id: text}.
            positives: {query id: document ids}.
            negatives: {query id: (document id, score) pairs}, best first; a query may be missing.
            positive_scores: {query id: scores}, aligned with positives.

        Raises:
            ValueError: an id that has no text; lengths that do not agree.

        Example:
            >>> table = NegativeTable.from_ids(
            ...     {"q": "what is ore"}, {"d1": "rock", "d2": "pit"},
            ...     positives={"q": ["d1"]}, negatives={"q": [("d2", 0.5)]},
            ... )
            >>> table.negatives_of(0)
            [1]
        """
        rows = {identifier: row for row, identifier in enumerate(documents)}

        def row_of(query: str, document: str) -> int:
            if document not in rows:
                raise ValueError(
                    f'query "{query}" names document "{document}", which is not among the '
                    "documents; add it there"
                )
            return rows[document]

        for names, known, what in (
            (positives, queries, "positives name query {}, which is not among the queries"),
            (positives, positive_scores, "positive_scores has no entry for query {}"),
            (negatives, positives, "negatives name query {}, which has no entry in positives"),
        ):
            lacking = next((n for n in names if known is not None and n not in known), None)
            if lacking is not None:
                raise ValueError(f"{what.format(shown(lacking))}; add it there")
        mined = {query: negatives.get(query, ()) for query in positives}
        return cls(
            list(positives),
            [queries[query] for query in positives],
            list(documents),
            list(documents.values()),
            [[row_of(query, name) for name in named] for query, named in positives.items()],
            [[row_of(query, name) for name, _ in pairs] for query, pairs in mined.items()],
            None if positive_scores is None else [positive_scores[query] for query in positives],
            [[score for _, score in pairs] for pairs in mined.values()],
        )

    def __len__(self) -> int:
        return len(self.query_ids)

    def positives_of(self, query: int) -> list[int]:
        """Document rows of the positives of query number `query`."""
        return list(map(int, self._positives[0].row(query)))

    def negatives_of(self, query: int) -> list[int]:
        """Document rows of the negatives of query number `query`, without padding."""
        return list(map(int, self._negatives[0].row(query)))

    def positive_scores_of(self, query: int) -> list[float]:
        """Scores aligned with positives_of(query); ValueError when the table has none."""
        return _scores_of(*self._positives, "positive_scores", query)

    def negative_scores_of(self, query: int) -> list[float]:
        """Scores aligned with negatives_of(query); ValueError when the table has none."""
        return _scores_of(*self._negatives, "negative_scores", query)

    def padded_negatives(self, width: int) -> tuple[Ids, Scores | None]:
        """Rows of the first negatives of every query, int64 ``[nq, width]``, and their scores.

        Padded with -1 and -inf at the end.
        """
        lists, scores = self._negatives
        places = np.arange(len(lists.ids)) - lists.offsets[lists.owners]
        kept = places < width
        area = lists.owners[kept], places[kept]
        rows = np.full((lists.num_lists, width), -1, dtype=np.int64)
        rows[area] = lists.ids[kept]
        if scores is None:
            return rows, None
        padded = np.full(rows.shape, -np.inf)
        padded[area] = scores[kept]
        return rows, padded

    @property
    def num_positives(self) -> Ids:
        """Number of positives of each query, int64 [nq]."""
        return self._positives[0].lengths

    @property
    def num_negatives(self) -> Ids:
        """Number of negatives of each query without padding, int64 [nq]."""
        return self._negatives[0].lengths


def _check(lists: Lists, scores: Scores | None, name: str, number: int, *, least: int) -> None:
    rows = lists.ids
    for place in np.flatnonzero((rows >= number) | (rows < least))[:1]:
        raise ValueError(
            f"{name} of query {lists.owners[place]} has document row {rows[place]}, but there "
            f"are {number} documents; give rows from 0 to {number - 1}"
        )
    if scores is not None:
        for place in np.flatnonzero(~np.isfinite(scores) & (rows >= 0))[:1]:
            raise ValueError(
                f"the score of document row {rows[place]} in {name} of query "
                f"{lists.owners[place]} is {scores[place]}; scores must be finite"
            )


def _lists_of_positives(positives: Any, number: int) -> Lists:
    if isinstance(positives, tuple) and len(positives) == 2 and np.ndim(positives[0]) == 1:
        lists = Lists(*(_integers(part, f"positives[{i}]") for i, part in enumerate(positives)))
        offsets, rows = lists
        valid = len(offsets) == number + 1 and offsets[0] == 0 and offsets[-1] == len(rows)
        if not valid or (lists.lengths < 0).any():
            raise ValueError(
                f"positives[0] must be {number + 1} offsets that rise from 0 to {len(rows)}, the "
                "number of rows in positives[1]"
            )
        return lists
    if len(positives) and all(np.ndim(entry) == 0 for entry in positives):
        rows = _integers(positives, "positives")
        one_each(rows, "positives", number, "queries")
        return Lists(np.arange(number + 1, dtype=np.int64), rows)
    return _ragged(positives, number, "positives")


def _ragged(values: Any, number: int, name: str) -> Lists:
    one_each(values, name, number, "queries")
    return Lists.from_sequences(
        [_integers(entry, f"{name}[{row}]") for row, entry in enumerate(values)]
    )


def _flat_scores(values: Any, lists: Lists, name: str) -> Scores | None:
    if values is None:
        return None
    if isinstance(values, np.ndarray) and values.ndim == 1 and values.dtype != object:
        one_each(values, name, len(lists.ids), "documents")
        return values.astype(np.float64)
    one_each(values, name, lists.num_lists, "queries")
    entries = [np.asarray(entry, dtype=np.float64).reshape(-1) for entry in values]
    for row, (entry, wanted) in enumerate(zip(entries, lists.lengths.tolist(), strict=True)):
        one_each(entry, f"{name}[{row}]", wanted, "documents")
    return np.concatenate([np.empty(0, dtype=np.float64), *entries])


def _scores_of(lists: Lists, scores: Scores | None, name: str, query: int) -> list[float]:
    if scores is None:
        raise ValueError(f"the table has no {name}; give it with them, or export without scores")
    part: list[float] = scores[lists.offsets[query] : lists.offsets[query + 1]].tolist()
    return part


def _integers(values: Any, name: str) -> Ids:
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, but it has {array.ndim}")
    if array.size == 0:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold integers (document rows), but it is {array.dtype}")
    return array.astype(np.int64)
