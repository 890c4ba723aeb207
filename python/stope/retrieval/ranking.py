"""What a retriever found: corpus rows and scores, best first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Exclusions = tuple[ArrayLike, ArrayLike] | Sequence[ArrayLike]


@dataclass(frozen=True)
class Ranking:
    """Documents found for each query, ordered by (score descending, corpus row ascending).

    Attributes:
        ids: int64 ``[queries, k]``, rows of the corpus, padded with -1 where fewer than k exist.
        scores: float32 ``[queries, k]``, padded with -inf.

    Raises:
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
        object.__setattr__(self, "ids", np.asarray(self.ids, dtype=np.int64))
        object.__setattr__(self, "scores", np.asarray(self.scores, dtype=np.float32))
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
            ValueError: query_ids has another length than the ranking, or a row found lies outside
                corpus_ids.
        """
        if len(query_ids) != len(self):
            raise ValueError(
                f"query_ids has {len(query_ids)} ids but the ranking has {len(self)} queries"
            )
        if self.ids.size and int(self.ids.max()) >= len(corpus_ids):
            raise ValueError(
                f"corpus_ids has {len(corpus_ids)} ids but the ranking names row "
                f"{int(self.ids.max())}; pass the ids of the corpus that was searched"
            )
        return {
            query: {
                corpus_ids[row]: score for row, score in zip(rows, scores, strict=True) if row >= 0
            }
            for query, rows, scores in zip(
                query_ids, self.ids.tolist(), self.scores.tolist(), strict=True
            )
        }

    @classmethod
    def from_run(
        cls,
        run: Mapping[str, Mapping[str, float]],
        query_ids: Sequence[str],
        corpus_ids: Sequence[str],
    ) -> Ranking:
        """Read a run back into arrays; a query that the run lacks gets an empty row.

        Raises:
            ValueError: the run names a document that corpus_ids lacks.
        """
        row_of = {document: row for row, document in enumerate(corpus_ids)}
        found: list[list[tuple[int, float]]] = []
        for query in query_ids:
            documents = run.get(query, {})
            missing = next((name for name in documents if name not in row_of), None)
            if missing is not None:
                raise ValueError(
                    f"The run names document {missing!r} for query {query!r}, "
                    "but corpus_ids has no such id"
                )
            found.append([(row_of[name], score) for name, score in documents.items()])
        return padded(found)


def padded(rows: Iterable[Iterable[tuple[int, float]]], k: int | None = None) -> Ranking:
    """Order each row's (id, score) pairs, cut at k (None: the longest row), and pad."""
    ordered = [sorted(((-float(np.float32(score)), row) for row, score in pairs)) for pairs in rows]
    width = max((len(pairs) for pairs in ordered), default=0) if k is None else k
    ids = np.full((len(ordered), width), -1, dtype=np.int64)
    scores = np.full((len(ordered), width), -np.inf, dtype=np.float32)
    for place, pairs in enumerate(ordered):
        kept = pairs[:width]
        ids[place, : len(kept)] = [row for _, row in kept]
        scores[place, : len(kept)] = [-negated for negated, _ in kept]
    return Ranking(ids, scores)


def check_k(k: int, size: int) -> int:
    """Return k as an int, or say why it cannot be served by a corpus of `size` documents."""
    if isinstance(k, bool) or not isinstance(k, int | np.integer):
        raise TypeError(f"k must be an integer, not {type(k).__name__}")
    if k < 1:
        raise ValueError(f"k is {k}; it must be at least 1")
    if k > size:
        raise ValueError(f"k is {k} but the corpus has {size} documents; lower k to at most {size}")
    return int(k)


def excluded_rows(exclude: Exclusions | None, num_queries: int) -> list[NDArray[np.int64]] | None:
    """Read exclusions, CSR ``(offsets, ids)`` or one id array per query, as a list of arrays."""
    if exclude is None:
        return None
    if isinstance(exclude, tuple):
        if len(exclude) != 2:
            raise ValueError(
                f"exclude is a tuple of {len(exclude)}; CSR needs (offsets, ids), "
                "and one array of ids per query needs a list"
            )
        offsets, ids = (np.asarray(part, dtype=np.int64) for part in exclude)
        if len(offsets) != num_queries + 1 or offsets[0] != 0 or offsets[-1] != len(ids):
            raise ValueError(
                f"exclude offsets must hold {num_queries + 1} values from 0 to {len(ids)}"
            )
        return np.split(ids, offsets[1:-1])
    if len(exclude) != num_queries:
        raise ValueError(f"exclude has {len(exclude)} rows but there are {num_queries} queries")
    return [np.asarray(ids, dtype=np.int64).reshape(-1) for ids in exclude]
