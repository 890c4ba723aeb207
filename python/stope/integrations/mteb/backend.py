"""A backend of mteb's own search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stope._checks import one_each
from stope.integrations._vectors import Similarity, best_of_blocks, listed_rows, taken


class StopeSearchIndex:
    """A backend for ``mteb.models.search_wrappers.SearchEncoderWrapper(index_backend=...)``.

    mteb's ``IndexEncoderSearchProtocol``: exact, by the metric of the model's own ``similarity``
    (cosine, dot or euclidean: a few rows are scored by each). float16 and bfloat16 are scored in
    float32, as mteb does; float64 is cast to it. Rows of equal score come in the order in which
    they were added. mteb then sorts the answers anew, which takes longer than the search:
    :class:`stope.integrations.mteb.StopeSearch` has no such step, and does not keep the embeddings.

    Raises:
        ValueError: the similarity is none of these; NaN or infinity (naming the row).

    >>> import numpy as np
    >>> index = StopeSearchIndex()
    >>> index.add_documents(np.eye(3, dtype=np.float32), ["a", "b", "c"])
    >>> index.search(np.float32([[0, 1, 0.5]]), 2, lambda a, b: a @ b.T)
    ([[1.0, 0.5]], [[1, 2]])
    """

    def __init__(self) -> None:
        self.clear()

    def add_documents(self, embeddings: Any, idxs: Sequence[str]) -> None:
        """Keep the embeddings of some documents, and their ids."""
        rows = taken(embeddings)
        one_each(idxs, "idxs", len(rows), "embeddings")
        self._blocks.append(rows)
        self._ids.extend(idxs)

    def search(
        self, embeddings: Any, top_k: int, similarity_fn: Similarity,
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        query_idx_to_id: Mapping[int, str] | None = None,
    ) -> tuple[list[list[float]], list[list[int]]]:  # fmt: skip
        """Scores and places of the best documents: of all, or in the query's list of top_ranked."""
        rows, k, listed = taken(embeddings), min(top_k, len(self._ids)), None
        if top_ranked is not None:
            names = [(query_idx_to_id or {})[row] for row in range(len(rows))]
            listed = listed_rows(top_ranked, names, self._ids)
        best = best_of_blocks(rows, self._blocks, k, similarity_fn, listed)
        return [row.tolist() for row, _ in best], [row.tolist() for _, row in best]

    def clear(self) -> None:
        """Forget the documents."""
        self._blocks: list[Any] = []
        self._ids: list[str] = []
