"""A job's records as two Parquet tables, by ids: documents, and counts by query.

| file | columns |
|---|---|
| negatives.parquet | query_id, document_id, score, rank, source, reason, teacher_score |
| counts.parquet | query_id, source, reason, count |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.data.pairs import Pairs
from stope.data.writers.parquet import write_parquet
from stope.mining.jobs.miner import REASONS, ROW, SOURCES, Rows

_QUERIES = 4096  # queries of one row group


def write_documents(path: Path, pairs: Pairs, records: NDArray[Any], positives: Rows) -> int:
    """Write what each query got and what it did not get; return how many rows.

    The rows of a query: its positives; its negatives by rank, with the reason "kept"; and the
    documents of the highest scores that were turned away, with the reason why. Only negatives have
    a rank. Memory: 4,096 queries.
    """
    arrow = need("pyarrow", extra="train")
    word = arrow.dictionary(arrow.int8(), arrow.string())
    schema = arrow.schema(
        [
            ("query_id", arrow.string()),
            ("document_id", arrow.string()),
            ("score", arrow.float32()),
            ("rank", arrow.int32()),
            ("source", word),
            ("reason", word),
            ("teacher_score", arrow.float32()),
        ]
    )

    def columns(start: int, stop: int) -> list[Any]:
        listed = records[start:stop]["rows"]
        ranks = np.broadcast_to(np.arange(1, listed.shape[1] + 1), listed.shape)
        there = listed["document"] >= 0
        answers = positives[slice(*np.searchsorted(positives["query"], [start, stop]))]
        rows = np.concatenate([answers, listed[there]])
        ranks = np.concatenate([np.zeros(len(answers), np.int64), ranks[there]])
        order = np.argsort(rows["query"], kind="stable")
        rows, ranks = rows[order], ranks[order]
        asked = np.isfinite(rows["teacher"])
        return [
            arrow.array([pairs.query_ids[row] for row in rows["query"].tolist()]),
            arrow.array([pairs.corpus_ids[row] for row in rows["document"].tolist()]),
            arrow.array(rows["score"]),
            arrow.array(ranks.astype(np.int32), mask=rows["reason"] != 0),
            _words(rows["source"], SOURCES),
            _words(rows["reason"], REASONS),
            arrow.array(rows["teacher"], mask=~asked),
        ]

    return _write(path, schema, len(records), columns)


def write_counts(
    path: Path, pairs: Pairs, records: NDArray[Any], counted: list[tuple[str, str]]
) -> int:
    """Write how many documents each query kept and turned away, by source and reason; no zeros.

    Memory: 4,096 queries.
    """
    arrow = need("pyarrow", extra="train")
    word = arrow.dictionary(arrow.int8(), arrow.string())
    schema = arrow.schema(
        [("query_id", arrow.string()), ("source", word), ("reason", word), ("count", arrow.int64())]
    )
    sources = np.array([SOURCES.index(source) for source, _ in counted])
    reasons = np.array([REASONS.index(reason) for _, reason in counted])

    def columns(start: int, stop: int) -> list[Any]:
        counts = records[start:stop]["counts"]
        queries, places = np.nonzero(counts)
        return [
            arrow.array([pairs.query_ids[start + row] for row in queries.tolist()], arrow.string()),
            _words(sources[places], SOURCES),
            _words(reasons[places], REASONS),
            arrow.array(counts[queries, places]),
        ]

    return _write(path, schema, len(records), columns)


def positive_rows(pairs: Pairs, scores: Any, teacher: Any) -> Rows:
    """Rows of all positives, with their scores."""
    rows = np.zeros(len(pairs.positives.ids), ROW)
    rows["query"], rows["document"] = pairs.positives.owners, pairs.positives.ids
    rows["source"], rows["reason"] = SOURCES.index("positive"), REASONS.index("positive")
    rows["score"], rows["teacher"] = scores, teacher
    return rows


def _words(numbers: NDArray[Any], words: tuple[str, ...]) -> Any:
    arrow = need("pyarrow", extra="train")
    return arrow.DictionaryArray.from_arrays(numbers.astype(np.int8), arrow.array(words))


def _write(path: Path, schema: Any, queries: int, columns: Callable[[int, int], list[Any]]) -> int:
    arrow = need("pyarrow", extra="train")
    blocks = ((start, min(start + _QUERIES, queries)) for start in range(0, queries, _QUERIES))
    tables = (arrow.Table.from_arrays(columns(*block), schema=schema) for block in blocks)
    return write_parquet(path, schema, tables)
