"""Mined negatives in the formats of sentence-transformers, FlagEmbedding and Tevatron."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from stope._extras import need
from stope._files.atomic import atomic_path
from stope.data.negatives import NegativeTable
from stope.data.writers.jsonl import write_jsonl

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list", "flagembedding", "tevatron")


class NegativeRows:
    """The rows of a NegativeTable in one format; what `negative_rows` returns.

    Iterating yields dictionaries and can be repeated; `len()` is the number of rows. `dropped` is
    the number of rows left out for want of negatives, `dropped_reason` says what was wanting.
    """

    def __init__(
        self, table: NegativeTable, format: str, *, scores: bool, num_negatives: int
    ) -> None:
        self.table = table
        self.format = format
        self.scores = scores
        self.num_negatives = num_negatives
        positives = table.num_positives
        negatives = np.minimum(table.num_negatives, num_negatives)
        full = negatives == num_negatives if num_negatives else np.zeros(len(table), dtype=bool)
        some = negatives > 0
        paired = positives > 0
        self.dropped = 0
        self.dropped_reason = ""
        if format == "triplet":
            self._len = int((positives * negatives).sum())
            self.dropped = int((positives * ~some).sum())
            self.dropped_reason = "(query, positive) pairs without a negative"
        elif format == "n-tuple":
            self._len = int((positives * full).sum())
            self.dropped = int((positives * ~full).sum())
            self.dropped_reason = (
                f"(query, positive) pairs with fewer than {num_negatives} negatives"
            )
        elif format == "labeled-pair":
            self._len = int((positives + negatives).sum())
        elif format == "labeled-list":
            self._len = int((positives * some).sum())
            self.dropped = int((positives * ~some).sum())
            self.dropped_reason = "(query, positive) pairs without a negative"
        else:
            self._len = int((some & paired).sum())
            self.dropped = len(table) - self._len
            self.dropped_reason = "queries without a negative or a positive"

    def __len__(self) -> int:
        return self._len

    def __iter__(self) -> Iterator[dict[str, Any]]:
        make = {
            "triplet": self._triplet,
            "n-tuple": self._tuple,
            "labeled-pair": self._pair,
            "labeled-list": self._list,
            "flagembedding": self._flagembedding,
            "tevatron": self._tevatron,
        }[self.format]
        for query in range(len(self.table)):
            yield from make(query)

    def _parts(self, query: int) -> tuple[str, list[_Document], list[_Document]]:
        table = self.table
        positives = table.positives_of(query)
        negatives = table.negatives_of(query)[: self.num_negatives]
        if self.scores:
            positive_scores: list[float] = table.positive_scores_of(query)
            negative_scores: list[float] = table.negative_scores_of(query)[: self.num_negatives]
        else:
            positive_scores = [1.0] * len(positives)
            negative_scores = [0.0] * len(negatives)
        texts, ids = table.document_texts, table.document_ids

        def documents(rows: list[int], scores: list[float]) -> list[_Document]:
            return [
                _Document(ids[row], texts[row], score)
                for row, score in zip(rows, scores, strict=True)
            ]

        return (
            table.query_texts[query],
            documents(positives, positive_scores),
            documents(negatives, negative_scores),
        )

    def _triplet(self, query: int) -> Iterator[dict[str, Any]]:
        text, positives, negatives = self._parts(query)
        for positive in positives:
            for negative in negatives:
                row = {"query": text, "positive": positive.text, "negative": negative.text}
                yield {**row, **self._score_list([positive, negative])}

    def _tuple(self, query: int) -> Iterator[dict[str, Any]]:
        text, positives, negatives = self._parts(query)
        if not negatives or len(negatives) < self.num_negatives:
            return
        for positive in positives:
            row = {"query": text, "positive": positive.text}
            for number, negative in enumerate(negatives, start=1):
                row[f"negative_{number}"] = negative.text
            yield {**row, **self._score_list([positive, *negatives])}

    def _pair(self, query: int) -> Iterator[dict[str, Any]]:
        text, positives, negatives = self._parts(query)
        for document in positives + negatives:
            mark = {"score": document.score} if self.scores else {"label": int(document.score)}
            yield {"query": text, "document": document.text, **mark}

    def _list(self, query: int) -> Iterator[dict[str, Any]]:
        text, positives, negatives = self._parts(query)
        if not negatives:
            return
        for positive in positives:
            documents = [positive, *negatives]
            marks = (
                self._score_list(documents)
                if self.scores
                else {"labels": [int(document.score) for document in documents]}
            )
            yield {"query": text, "documents": [each.text for each in documents], **marks}

    def _flagembedding(self, query: int) -> Iterator[dict[str, Any]]:
        text, positives, negatives = self._parts(query)
        if not positives or not negatives:
            return
        row: dict[str, Any] = {
            "query": text,
            "pos": [document.text for document in positives],
            "neg": [document.text for document in negatives],
        }
        if self.scores:
            row["pos_scores"] = [document.score for document in positives]
            row["neg_scores"] = [document.score for document in negatives]
        yield row

    def _tevatron(self, query: int) -> Iterator[dict[str, Any]]:
        text, positives, negatives = self._parts(query)
        if not positives or not negatives:
            return
        yield {
            "query_id": self.table.query_ids[query],
            "query": text,
            "positive_passages": [self._passage(document) for document in positives],
            "negative_passages": [self._passage(document) for document in negatives],
        }

    def _passage(self, document: _Document) -> dict[str, Any]:
        passage: dict[str, Any] = {"docid": document.id, "text": document.text}
        return {**passage, "score": document.score} if self.scores else passage

    def _score_list(self, documents: list[_Document]) -> dict[str, list[float]]:
        return {"scores": [document.score for document in documents]} if self.scores else {}


@dataclass(frozen=True)
class _Document:
    id: str
    text: str
    score: float


@dataclass(frozen=True)
class ExportSummary:
    """What `export_negatives` wrote: path, format, rows written, rows dropped and why."""

    path: Path
    format: str
    rows: int
    dropped: int
    dropped_reason: str


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

    The first four have the meaning they have in sentence-transformers' `mine_hard_negatives`
    (peers.md section 1.1), rows grouped by query. An n-tuple is left out unless it has all of its
    negatives, a labeled-list or a line of the last two unless it has one; `dropped` counts them.

    Args:
        table: the queries, positives and negatives.
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
    if format not in FORMATS:
        known = ", ".join(f'"{name}"' for name in FORMATS)
        raise ValueError(f"format is {format!r}; use one of {known}")
    if num_negatives is not None and num_negatives < 1:
        raise ValueError(f"num_negatives is {num_negatives}; it must be at least 1")
    if scores:
        for name in ("positive_scores", "negative_scores"):
            if getattr(table, name) is None:
                raise ValueError(f"scores=True needs {name} in the table, which has none")
    width = table.width if num_negatives is None else num_negatives
    return NegativeRows(table, format, scores=scores, num_negatives=width)


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

    Args:
        path: where; the end of the name chooses the kind of file.
        format: one of FORMATS.
        table: see `negative_rows`, as for scores and num_negatives.
        scores: see `negative_rows`.
        num_negatives: see `negative_rows`.

    Returns:
        ExportSummary(path, format, rows, dropped, dropped_reason).

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


def negatives_dataset(
    table: NegativeTable,
    format: str = "triplet",
    *,
    scores: bool = False,
    num_negatives: int | None = None,
) -> Any:
    """Return the rows of `negative_rows` as a `datasets.Dataset`, in memory.

    Raises:
        ValueError: as `negative_rows`; no rows at all (a Dataset without rows has no columns).
        ImportError: the datasets library is not installed.

    Memory: all rows.

    Example:
        >>> table = NegativeTable(["q1"], ["ore"], ["d1", "d2"], ["rock", "pit"],
        ...                       positives=[0], negatives=[[1]])
        >>> negatives_dataset(table).column_names
        ['query', 'positive', 'negative']
    """
    rows = negative_rows(table, format, scores=scores, num_negatives=num_negatives)
    if len(rows) == 0:
        raise ValueError(f"no rows to put into a dataset: {rows.dropped} {rows.dropped_reason}")
    return need("datasets", extra="train").Dataset.from_list(list(rows))


def _write_parquet(path: Path, rows: NegativeRows) -> int:
    arrow = need("pyarrow", extra="train")
    parquet = need("pyarrow.parquet", extra="train")
    if len(rows) == 0:
        raise ValueError(
            f"no rows to write to {path}: {rows.dropped} {rows.dropped_reason}; a Parquet file "
            "needs a row to take its columns from"
        )
    written = 0
    iterator = iter(rows)
    with atomic_path(path) as temporary:
        try:
            batch = arrow.Table.from_pylist(list(islice(iterator, 1024)))
            with parquet.ParquetWriter(temporary, batch.schema) as writer:
                while batch.num_rows:
                    writer.write_table(batch)
                    written += batch.num_rows
                    block = list(islice(iterator, 1024))
                    batch = arrow.Table.from_pylist(block, schema=writer.schema)
        except OSError as error:
            raise OSError(
                error.errno, f"cannot write {path}: {error}; no partial file is left behind"
            ) from error
    return written
