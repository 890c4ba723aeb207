"""What a retriever found: corpus rows and scores, best first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stope._checks import integer, one_each, shown, unique
from stope._kinds import integers, kinds, numbers
from stope.ops._search import Metric as Metric

Exclusions = tuple[ArrayLike, ArrayLike] | Sequence[ArrayLike] | NDArray[np.int64]


@kinds(ids=integers, scores=numbers)
@dataclass(frozen=True)
class Ranking:
    """Documents found for each query, ordered by (score descending, corpus row ascending).

    Attributes:
        ids: int64 ``[queries, k]``, rows of the corpus, padded with -1 where fewer than k exist.
        scores: float32 ``[queries, k]``, padded with -inf.

    Thread safety: nothing changes it, so threads may share it.

    Raises:
        TypeError: ids are no integers or scores no numbers.
        ValueError: the two arrays differ in shape or are not two-dimensional.

    Example:
        >>> import numpy as np
        >>> found = Ranking(np.array([[2, 0]]), np.array([[0.9, 0.5]], np.float32))
        >>> found.to_run(["q1"], ["a", "b", "c"])
        {'q1': {'c': 0.8999999761581421, 'a': 0.5}}
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        ids, scores = np.asarray(self.ids), np.asarray(self.scores)
        object.__setattr__(self, "ids", ids.astype(np.int64, copy=False))
        object.__setattr__(self, "scores", scores.astype(np.float32, copy=False))
        if self.ids.ndim != 2 or self.ids.shape != self.scores.shape:
            raise ValueError(
                f"ids has shape {self.ids.shape} and scores has shape {self.scores.shape}; "
                "a ranking needs two arrays [queries, k] of the same shape"
            )

    def __len__(self) -> int:
        """Count the queries."""
        return len(self.ids)

    def to_run(
        self, query_ids: Sequence[str], corpus_ids: Sequence[str]
    ) -> dict[str, dict[str, float]]:
        """Name queries and documents: ``{query id: {document id: score}}``, best first.

        Raises:
            ValueError: query_ids has another length than the ranking or an id twice, a row found
                lies outside corpus_ids, or two documents found have one id.
        """
        one_each(query_ids, "query_ids", len(self), "queries of the ranking")
        unique(query_ids, "query_ids")
        if self.ids.size and int(self.ids.max()) >= len(corpus_ids):
            raise ValueError(
                f"corpus_ids has {len(corpus_ids)} ids but the ranking names row "
                f"{int(self.ids.max())}; pass the ids of the corpus that was searched"
            )
        run: dict[str, dict[str, float]] = {}
        for query, rows, scores in zip(
            query_ids, self.ids.tolist(), self.scores.tolist(), strict=True
        ):
            listed = [
                (corpus_ids[row], score)
                for row, score in zip(rows, scores, strict=True)
                if row >= 0
            ]
            run[query] = dict(listed)
            if len(run[query]) != len(listed):
                unique([name for name, _ in listed], "corpus_ids")
        return run

    @classmethod
    def from_run(
        cls,
        run: Mapping[str, Mapping[str, float]],
        query_ids: Sequence[str],
        corpus_ids: Sequence[str],
    ) -> Ranking:
        """Read a run back into arrays; a query that the run lacks gets an empty row.

        Raises:
            ValueError: the run names a document that corpus_ids lacks, or an id is there twice.
        """
        unique(query_ids, "query_ids")
        unique(corpus_ids, "corpus_ids")
        row_of = {document: row for row, document in enumerate(corpus_ids)}
        rows: list[list[tuple[float, int]]] = []
        for query in query_ids:
            documents = run.get(query, {})
            missing = next((name for name in documents if name not in row_of), None)
            if missing is not None:
                raise ValueError(
                    f"run names document {shown(missing)} for query {shown(query)}, an id that "
                    "corpus_ids lacks; pass the ids of the corpus that was searched"
                )
            rows.append([(-float(np.float32(s)), row_of[name]) for name, s in documents.items()])
        width = max(map(len, rows), default=0)
        ids = np.full((len(rows), width), -1, dtype=np.int64)
        scores = np.full((len(rows), width), -np.inf, dtype=np.float32)
        for place, pairs in enumerate(map(sorted, rows)):
            ids[place, : len(pairs)] = [row for _, row in pairs]
            scores[place, : len(pairs)] = [-negated for negated, _ in pairs]
        return cls(ids, scores)


def check_k(k: int, size: int) -> int:
    """Return k as an int, or say why it cannot be served by a corpus of `size` documents."""
    k = integer(k, "k", 1)
    if k > size:
        raise ValueError(f"k is {k} but the corpus has {size} documents; lower k to at most {size}")
    return k
