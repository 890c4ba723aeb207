"""Mined negatives in the formats of sentence-transformers, FlagEmbedding and Tevatron."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stope._checks import choice, flag, integer, path
from stope._extras import need
from stope._kinds import a, at_least, kinds, maybe, string
from stope.data.negatives import NegativeTable
from stope.data.writers.jsonl import write_jsonl
from stope.data.writers.parquet import write_parquet
from stope.data.writers.training_columns import training_columns


class NegativeRows:
    """The rows of a NegativeTable in one format; what `negative_rows` returns.

    Iterating yields dictionaries and can be repeated; `len()` is the number of rows. `dropped` is
    the number of rows left out for want of negatives, `dropped_reason` says what was wanting.
    """

    def __init__(
        self, table: NegativeTable, format: str, *, scores: bool, num_negatives: int
    ) -> None:
        self.table, self.format, self.scores = table, format, scores
        self.num_negatives = num_negatives
        self._least = max(1, num_negatives) if format == "n-tuple" else 1
        positives, negatives = table.num_positives, np.minimum(table.num_negatives, num_negatives)
        enough = negatives >= self._least
        if format == "labeled-pair":
            rows, wanting, reason = positives + negatives, np.zeros(1, dtype=np.int64), ""
        elif format in ("flagembedding", "tevatron"):
            rows = ((positives > 0) & enough).astype(np.int64)
            wanting, reason = 1 - rows, "queries without a negative or a positive"
        else:
            rows = positives * enough * (negatives if format == "triplet" else 1)
            wanting, reason = positives * ~enough, "(query, positive) pairs without a negative"
            if format == "n-tuple":
                reason = f"(query, positive) pairs with fewer than {num_negatives} negatives"
        self._len, self.dropped, self.dropped_reason = int(rows.sum()), int(wanting.sum()), reason

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[dict[str, Any]]:
        make = _MAKERS[self.format]
        for query in range(len(self.table)):
            positives, negatives = self._documents(query)
            if self.format == "labeled-pair" or (positives and len(negatives) >= self._least):
                text = self.table.query_texts[query]
                for row in make(text, positives, negatives, self.scores):
                    named = {"query_id": self.table.query_ids[query], **row}
                    yield named if self.format == "tevatron" else row

    def _documents(self, query: int) -> tuple[list[_Document], list[_Document]]:
        table = self.table
        positives, negatives = table.positives_of(query), table.negatives_of(query)
        scores = [1.0] * len(positives), [0.0] * len(negatives)
        if self.scores:
            scores = table.positive_scores_of(query), table.negative_scores_of(query)
        ids, texts = table.document_ids, table.document_texts
        of_positives, of_negatives = (
            [_Document(ids[row], texts[row], score) for row, score in zip(*side, strict=True)]
            for side in ((positives, scores[0]), (negatives, scores[1]))
        )
        return of_positives, of_negatives[: self.num_negatives]


class _Document(NamedTuple):
    id: str
    text: str
    score: float


_Documents = list[_Document]
_Rows = Iterator[dict[str, Any]]


def _triplets(query: str, positives: _Documents, negatives: _Documents, scores: bool) -> _Rows:
    for positive in positives:
        for negative in negatives:
            row = {"query": query, "positive": positive.text, "negative": negative.text}
            yield {**row, **_marks("scores", [positive, negative], scores)}


def _tuples(query: str, positives: _Documents, negatives: _Documents, scores: bool) -> _Rows:
    for positive in positives:
        row = {"query": query, "positive": positive.text}
        row |= {f"negative_{number}": each.text for number, each in enumerate(negatives, start=1)}
        yield {**row, **_marks("scores", [positive, *negatives], scores)}


def _pairs(query: str, positives: _Documents, negatives: _Documents, scores: bool) -> _Rows:
    for each in positives + negatives:
        mark = {"score": each.score} if scores else {"label": int(each.score)}
        yield {"query": query, "document": each.text, **mark}


def _lists(query: str, positives: _Documents, negatives: _Documents, scores: bool) -> _Rows:
    for positive in positives:
        documents = [positive, *negatives]
        labels = {"labels": [int(each.score) for each in documents]}
        marks = _marks("scores", documents, scores) or labels
        yield {"query": query, "documents": [each.text for each in documents], **marks}


def _flagembedding(query: str, positives: _Documents, negatives: _Documents, scores: bool) -> _Rows:
    row = {"query": query, "pos": [x.text for x in positives], "neg": [x.text for x in negatives]}
    marks = _marks("pos_scores", positives, scores) | _marks("neg_scores", negatives, scores)
    yield {**row, **marks}


def _tevatron(query: str, positives: _Documents, negatives: _Documents, scores: bool) -> _Rows:
    row: dict[str, Any] = {"query": query}
    for name, documents in (("positive_passages", positives), ("negative_passages", negatives)):
        row[name] = [
            {"docid": each.id, "text": each.text, **({"score": each.score} if scores else {})}
            for each in documents
        ]
    yield row


def _marks(name: str, documents: _Documents, scores: bool) -> dict[str, list[float]]:
    return {name: [each.score for each in documents]} if scores else {}


_MAKERS = {
    "triplet": _triplets,
    "n-tuple": _tuples,
    "labeled-pair": _pairs,
    "labeled-list": _lists,
    "flagembedding": _flagembedding,
    "tevatron": _tevatron,
}
FORMATS = tuple(_MAKERS)


@dataclass(frozen=True)
class ExportSummary:
    """What `export_negatives` wrote: path, format, rows written, rows dropped and why."""

    path: Path
    format: str
    rows: int
    dropped: int
    dropped_reason: str


@kinds(table=a(NegativeTable), format=string, scores=flag, num_negatives=maybe(at_least(0)))
def negative_rows(
    table: NegativeTable,
    format: str = "triplet",
    *,
    scores: bool = False,
    num_negatives: int | None = None,
) -> NegativeRows:
    """Return the rows of `table` in one training format; nothing is built before iteration.

    | format | one row per | fields | with scores=True |
    |---|---|---|---|
    | triplet | query, positive, negative | query, positive, negative | + scores [p, n] |
    | n-tuple | query, positive | query, positive, negative_1 .. negative_n | + scores [p, n1 ..] |
    | labeled-pair | query, document | query, document, label (1, 0) | score for label |
    | labeled-list | query, positive | query, documents [p, n1 ..], labels | scores for labels |
    | flagembedding | query | query, pos [..], neg [..] | + pos_scores, neg_scores |
    | tevatron | query | query_id, query, positive_passages, negative_passages | + score a passage |

    The first four have the meaning they have in sentence-transformers' `mine_hard_negatives`, rows
    grouped by query. An n-tuple is left out unless it has all of its negatives, a labeled-list or a
    line of the last two unless it has one; `dropped` counts them.

    Args:
        format: one of FORMATS.
        scores: put scores in; the table must have positive_scores and negative_scores.
        num_negatives: the n of n-tuple, and the most that other formats take of a query, the first
            ones; None is the width of `table.negatives`.

    Raises:
        ValueError: unknown format, num_negatives below 1, scores wanted where the table has none.

    Memory: one query at a time.

    Example:
        >>> table = NegativeTable(["q1"], ["ore"], ["d1", "d2", "d3"], ["rock", "pit", "lamp"],
        ...                       positives=[0], negatives=[[1, -1]])
        >>> list(negative_rows(table))
        [{'query': 'ore', 'positive': 'rock', 'negative': 'pit'}]
        >>> rows = negative_rows(table, "n-tuple")
        >>> len(rows), rows.dropped, rows.dropped_reason
        (0, 1, '(query, positive) pairs with fewer than 2 negatives')
    """
    choice(format, "format", FORMATS)
    if num_negatives is not None:
        integer(num_negatives, "num_negatives", 1)
    if scores:
        for name in ("positive_scores", "negative_scores"):
            if getattr(table, name) is None:
                raise ValueError(
                    f"scores=True needs {name} in the table, which has none; give them"
                )
    width = table.width if num_negatives is None else num_negatives
    return NegativeRows(table, format, scores=scores, num_negatives=width)


@kinds(
    path=path, format=string, table=a(NegativeTable), scores=flag, num_negatives=maybe(at_least(0))
)
def export_negatives(
    path: str | PathLike[str],
    format: str,
    table: NegativeTable,
    *,
    scores: bool = False,
    num_negatives: int | None = None,
) -> ExportSummary:
    """Write the rows of `negative_rows` as JSON lines (.jsonl, .jsonl.gz) or Parquet (.parquet).

    The file appears when it is complete; a failure leaves an earlier file as it was.

    The end of the name chooses the kind of file; the other arguments are those of `negative_rows`.

    Raises:
        ValueError: as `negative_rows`; an ending that is none of the three.
        OSError: the file cannot be written, for example because the disk is full.
        ImportError: Parquet without pyarrow.

    Memory: one query at a time (Parquet: 1,024 rows).

    Example:
        >>> import pathlib, tempfile
        >>> table = NegativeTable(["q1"], ["ore"], ["d1", "d2"], ["rock", "pit"],
        ...                       positives=[0], negatives=[[1]])
        >>> path = pathlib.Path(tempfile.mkdtemp(), "negatives.jsonl")
        >>> export_negatives(path, "triplet", table).rows
        1
        >>> print(path.read_text(), end="")
        {"query": "ore", "positive": "rock", "negative": "pit"}
    """
    target = Path(path)
    rows = negative_rows(table, format, scores=scores, num_negatives=num_negatives)
    name = target.name.lower()
    if name.endswith((".jsonl", ".jsonl.gz")):
        written = write_jsonl(target, rows)
    elif name.endswith(".parquet"):
        written = _write_parquet(target, rows)
    else:
        raise ValueError(f"{target}: the name must end in .jsonl, .jsonl.gz or .parquet")
    return ExportSummary(target, format, written, rows.dropped, rows.dropped_reason)


@kinds(table=a(NegativeTable), format=string, scores=flag, num_negatives=maybe(at_least(0)))
def negatives_dataset(
    table: NegativeTable,
    format: str = "triplet",
    *,
    scores: bool = False,
    num_negatives: int | None = None,
) -> Any:
    """Return the rows of `negative_rows` as a `datasets.Dataset`, in memory.

    Raises:
        ValueError: as `negative_rows`; no rows at all.
        ImportError: the datasets library is not installed.

    Memory: all rows, in the first four formats as Arrow.

    Example:
        >>> table = NegativeTable(["q1"], ["ore"], ["d1", "d2"], ["rock", "pit"],
        ...                       positives=[0], negatives=[[1]])
        >>> negatives_dataset(table).column_names
        ['query', 'positive', 'negative']
    """
    rows = negative_rows(table, format, scores=scores, num_negatives=num_negatives)
    if len(rows) == 0:
        raise ValueError(
            f"no rows to put into a dataset: {rows.dropped} {rows.dropped_reason}; mine more"
        )
    library = need("datasets", extra="train")
    if format in ("flagembedding", "tevatron"):
        return library.Dataset.from_list(list(rows))
    positives, of_positives = table._positives
    negatives, of_negatives = table.padded_negatives(rows.num_negatives)
    marks = (of_positives, of_negatives) if scores else (None, None)
    sides = (positives, marks[0]), (negatives, marks[1])
    texts = table.query_texts, table.document_texts
    return library.Dataset(training_columns(texts, *sides, format))


def _write_parquet(path: Path, rows: NegativeRows) -> int:
    arrow = need("pyarrow", extra="train")
    if len(rows) == 0:
        raise ValueError(
            f"no rows to write to {path}: {rows.dropped} {rows.dropped_reason}; a Parquet file "
            "needs a row to take its columns from"
        )
    iterator = iter(rows)
    first = arrow.Table.from_pylist(list(islice(iterator, 1024)))
    blocks = iter(lambda: list(islice(iterator, 1024)), [])
    more = (arrow.Table.from_pylist(block, schema=first.schema) for block in blocks)
    return write_parquet(path, first.schema, chain([first], more))
