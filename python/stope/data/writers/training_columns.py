"""Mined negatives in sentence-transformers' formats, column by column, as a table of Arrow.

Texts are taken by their numbers, so that no row is a Python object and no text is copied but into
the table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.lists import Ids, Lists, offsets_of

_CHUNK_ROWS = 1 << 15


def training_columns(
    texts: tuple[Sequence[str], Sequence[str]],
    positives: tuple[Lists, NDArray[Any] | None],
    negatives: tuple[Ids, NDArray[Any] | None],
    format: str,
) -> Any:
    """The rows of `stope.data.negative_rows` in one of its first four formats.

    Args:
        texts: of queries and of documents.
        positives: documents of every query; and their scores ``[pairs]``, or None for labels.
        negatives: int64 ``[queries, n]`` documents, each row's first, then -1; and their scores.
        format: "triplet", "n-tuple", "labeled-pair" or "labeled-list".

    Returns:
        A `pyarrow.Table` with the columns of that function's rows.

    Memory: the table, and 40 bytes per pair and negative.
    """
    make = _Columns(*texts)
    answers, ids = positives[0], negatives[0]
    owners, there = answers.owners, ids >= 0
    scored = positives[1] is not None and negatives[1] is not None
    marks: list[NDArray[Any]] = [np.ones(len(owners), np.int64), np.zeros(ids.shape, np.int64)]
    if scored:
        marks = [np.asarray(part[1], np.float64) for part in (positives, negatives)]
    if format == "labeled-pair":
        asked, places = np.nonzero(there)
        listed = np.concatenate([owners, asked])
        order = np.argsort(listed, kind="stable")
        documents = np.concatenate([answers.ids, ids[asked, places]])[order]
        mark = np.concatenate([marks[0], marks[1][asked, places]])[order]
        return make.table(
            query=make.queries(listed[order]),
            document=make.documents(documents),
            **{"score" if scored else "label": mark},
        )
    kept = there[owners]
    documents = np.column_stack([answers.ids, ids[owners]])
    values = np.column_stack([marks[0], marks[1][owners]])
    if format == "triplet":
        rows, places = np.nonzero(kept)
        columns = {
            "query": make.queries(owners[rows]),
            "positive": make.documents(documents[rows, 0]),
            "negative": make.documents(documents[rows, places + 1]),
        }
        if scored:
            both = np.column_stack([values[rows, 0], values[rows, places + 1]])
            columns["scores"] = make.lists(both, np.ones(both.shape, bool))
        return make.table(**columns)
    rows = np.flatnonzero(kept.all(axis=1) if format == "n-tuple" else kept.any(axis=1))
    documents, values, query = documents[rows], values[rows], make.queries(owners[rows])
    whole = np.column_stack([np.ones(len(rows), bool), kept[rows]])
    listed_marks = make.lists(values, whole)
    if format == "labeled-list":
        texts_of = make.lists(documents, whole, make.documents)
        name = "scores" if scored else "labels"
        return make.table(query=query, documents=texts_of, **{name: listed_marks})
    names = ["positive", *(f"negative_{place}" for place in range(1, documents.shape[1]))]
    columns = {name: make.documents(part) for name, part in zip(names, documents.T, strict=True)}
    return make.table(query=query, **columns, **({"scores": listed_marks} if scored else {}))


class _Columns:
    """Columns of Arrow, in chunks of rows."""

    def __init__(self, queries: Sequence[str], documents: Sequence[str]) -> None:
        self._arrow = need("pyarrow", extra="train")
        large = self._arrow.large_string()  # of all texts, which may be more than two gigabytes
        self._queries, self._documents = (
            self._arrow.array(texts, large) for texts in (queries, documents)
        )

    def table(self, **columns: Any) -> Any:
        return self._arrow.table(columns)

    def queries(self, rows: Ids) -> Any:
        return self._taken(self._queries, rows)

    def documents(self, rows: Ids) -> Any:
        return self._taken(self._documents, rows)

    def lists(
        self,
        rows: NDArray[Any],
        kept: NDArray[np.bool_],
        column: Callable[[Any], Any] | None = None,
    ) -> Any:
        """One list per row, of what is kept of it."""
        make = column or self._arrow.array

        def part(start: int, stop: int) -> Any:
            there = kept[start:stop]
            values = make(rows[start:stop][there])
            if column is not None:
                values = self._arrow.concat_arrays(values.chunks)
            offsets = offsets_of(there.sum(axis=1)).astype(np.int32)
            return self._arrow.ListArray.from_arrays(offsets, values)

        return self._chunks(part, len(rows), max(1, _CHUNK_ROWS // max(1, rows.shape[1])))

    def _taken(self, texts: Any, rows: Ids) -> Any:
        def part(start: int, stop: int) -> Any:
            return texts.take(self._arrow.array(rows[start:stop])).cast(self._arrow.string())

        return self._chunks(part, len(rows), _CHUNK_ROWS)

    def _chunks(self, part: Callable[[int, int], Any], rows: int, size: int) -> Any:
        starts = range(0, max(rows, 1), size)
        return self._arrow.chunked_array([part(start, min(start + size, rows)) for start in starts])
