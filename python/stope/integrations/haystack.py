"""Haystack: its document store in memory, searched by stope."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.integrations._kept import Kept
from stope.ops._search import Metric

memory = need("haystack.document_stores.in_memory", extra="haystack")
kinds_of_store = need("haystack.document_stores.types", extra="haystack")

__all__ = ["StopeDocumentStore"]

_METRICS: dict[str, Metric] = {"dot_product": "dot", "cosine": "cosine"}


class StopeDocumentStore(memory.InMemoryDocumentStore):  # type: ignore[misc,name-defined]
    """Haystack's ``InMemoryDocumentStore`` whose search by embedding is a :class:`stope.FlatIndex`.

    Filters, BM25, policies for duplicates and saving are Haystack's, and its
    ``InMemoryEmbeddingRetriever`` and ``InMemoryBM25Retriever`` take this store. Scores are
    float32; of documents with equal scores the lower id comes first. Embeddings all have one
    length. Not shared between instances (``shared=False``): each store has its index.

    Args: those of ``InMemoryDocumentStore``.

    >>> from haystack import Document
    >>> store = StopeDocumentStore()
    >>> store.write_documents([Document(id=name, content=name, embedding=[x, 1.0 - x])
    ...                        for name, x in (("ore", 1.0), ("wood", 0.25))])
    2
    >>> [document.id for document in store.embedding_retrieval([0.0, 1.0], top_k=1)]
    ['wood']
    """

    def __init__(self, *args: Any, shared: bool = False, **options: Any) -> None:
        if shared:
            raise ValueError("shared is True, but each StopeDocumentStore has its index; leave it")
        super().__init__(*args, shared=False, **options)
        self._begin()

    def write_documents(
        self, documents: list[Any], policy: Any = kinds_of_store.DuplicatePolicy.NONE
    ) -> int:
        """Haystack's; the embeddings are then in the index."""
        several = isinstance(documents, Collection) and not isinstance(documents, str)
        rows = self._rows(documents) if several else {}
        try:
            return int(super().write_documents(documents, policy))
        finally:  # a duplicate stops Haystack, but what came before it is there
            # Of one id the last one is there, and a skipped one is not.
            there = {d.id: d for d in documents if id(d) in rows and self._holds(d)}
            self._kept.put(list(there), there.values(), [rows[id(d)] for d in there.values()])

    def delete_documents(self, document_ids: list[str]) -> None:
        """Haystack's; the embeddings are then gone from the index."""
        super().delete_documents(document_ids)
        self._kept.remove(document_ids)

    def delete_all_documents(self) -> None:
        """Haystack's; the index is then empty."""
        super().delete_all_documents()
        self._begin()

    def _begin(self) -> None:
        self._kept: Kept[Any] = Kept(_METRICS[self.embedding_similarity_function])
        self._kept.objects = self.storage

    def embedding_retrieval(
        self, query_embedding: list[float], filters: dict[str, Any] | None = None, top_k: int = 10,
        scale_score: bool = False, return_embedding: bool | None = False,
    ) -> list[Any]:  # fmt: skip
        """The top_k documents whose embeddings are nearest, as Haystack's method of this name."""
        if not self._kept.index:  # Haystack says what is missing
            return list(super().embedding_retrieval(query_embedding, filters, top_k))
        among = [each.id for each in self.filter_documents(filters)] if filters else None
        keep = self.return_embedding if return_embedding is None else return_embedding
        return [
            replace(
                document,
                score=self._scaled(score) if scale_score else score,
                embedding=document.embedding if keep else None,
            )
            for document, score in self._kept.best(query_embedding, top_k, among)
        ]

    def _scaled(self, score: float) -> float:
        """Haystack's scale from 0 to 1."""
        if self.embedding_similarity_function == "cosine":
            return (score + 1) / 2
        return float(1 / (1 + np.exp(-score / 100)))

    def _holds(self, document: Any) -> bool:
        return self.storage.get(document.id) is document

    def _rows(self, documents: Collection[Any]) -> dict[int, NDArray[np.float32]]:
        """The embeddings by the documents' identity, checked before anything is written."""
        rows: dict[int, NDArray[np.float32]] = {}
        dim = None if self._kept.index is None else self._kept.index.dim
        for document in documents:
            if getattr(document, "embedding", None) is None:
                continue
            row = np.asarray(document.embedding, dtype=np.float32)
            dim = len(row) if dim is None else dim
            if row.shape != (dim,) or not np.isfinite(row).all():
                raise ValueError(
                    f"document {document.id!r} has an embedding of {row.size} numbers, others have "
                    f"{dim}, or one that is not finite; embed all with one model"
                )
            rows[id(document)] = row
        return rows
