"""LangChain: a vector store that searches exactly, and any of stope's retrievers as one of its."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from stope._checks import choice, one_each, shown, size
from stope._extras import need
from stope.integrations._kept import Kept, ranked
from stope.ops._search import METRICS, Metric

documents = need("langchain_core.documents", extra="langchain")
retrievers = need("langchain_core.retrievers", extra="langchain")
stores = need("langchain_core.vectorstores", extra="langchain")

__all__ = ["StopeRetriever", "StopeVectorStore"]


class StopeVectorStore(stores.VectorStore):  # type: ignore[misc,name-defined]
    """A LangChain vector store in memory, on a :class:`stope.FlatIndex`.

    Scores are those of the metric, higher is better; documents of equal score come in the order of
    their ids. Adding a document under an id that is there replaces it. Embeddings are kept as
    float32. Any number of threads may search, beside additions too.

    Args:
        embedding: LangChain's ``Embeddings``.
        metric: ``"cosine"``, ``"dot"`` or ``"euclidean"`` (score = -distance).

    >>> from langchain_core.embeddings import DeterministicFakeEmbedding
    >>> store = StopeVectorStore.from_texts(["ore", "wood"], DeterministicFakeEmbedding(size=8))
    >>> [document.page_content for document in store.similarity_search("wood", k=1)]
    ['wood']
    """

    def __init__(self, embedding: Any, *, metric: Metric = "cosine") -> None:
        if not hasattr(embedding, "embed_documents"):
            raise TypeError(f"embedding is a {type(embedding).__name__}; give LangChain Embeddings")
        self._kept: Kept[Any] = Kept(choice(metric, "metric", METRICS))
        self._embedding = embedding

    @property
    def embeddings(self) -> Any:
        """The embeddings of texts."""
        return self._embedding

    @classmethod
    def from_texts(
        cls, texts: list[str], embedding: Any, metadatas: list[dict[str, Any]] | None = None, *,
        ids: list[str] | None = None, metric: Metric = "cosine", **options: Any,
    ) -> StopeVectorStore:  # fmt: skip
        """A store of these texts."""
        store = cls(embedding, metric=metric)
        store.add_texts(texts, metadatas, ids=ids, **options)
        return store

    def add_texts(
        self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, *,
        ids: Sequence[str | None] | None = None, **options: Any,
    ) -> list[str]:  # fmt: skip
        """Embed and keep texts; those without an id get a random one. Returns the ids."""
        texts = list(texts)
        for values, name in ((metadatas, "metadatas"), (ids, "ids")):
            if values is not None:
                one_each(values, name, len(texts), "texts")
        wrong = next((name for name in ids or () if not isinstance(name, str | None)), None)
        if wrong is not None:
            raise TypeError(f"ids has {shown(wrong)}; give strings, or None for a random id")
        names = [name or str(uuid.uuid4()) for name in ids or [None] * len(texts)]
        about = metadatas or [{} for _ in texts]
        made = [
            documents.Document(id=name, page_content=text, metadata=each)
            for name, text, each in zip(names, texts, about, strict=True)
        ]
        self._kept.put(names, made, self._embedding.embed_documents(texts) if texts else [])
        return names

    def delete(self, ids: list[str] | None = None, **options: Any) -> bool:
        """Remove the documents of these ids, those that are there; None removes all."""
        if isinstance(ids, str):
            raise TypeError(f"ids is {shown(ids)}; give a list of strings")
        self._kept.remove(list(self._kept.objects) if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Any]:
        """The documents of these ids that are there."""
        return [self._kept.objects[name] for name in ids if name in self._kept.objects]

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Any]:
        """The k best documents."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **options)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, **options: Any
    ) -> list[tuple[Any, float]]:
        """The k best documents with their scores."""
        return self._best(self._embedding.embed_query(query), k, **options)

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, **options: Any
    ) -> list[Any]:
        """The k best documents of an embedding."""
        return [document for document, _ in self._best(embedding, k, **options)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Any]:
        """Of the fetch_k best documents k that differ; LangChain's formula."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(
            vector, k, fetch_k, lambda_mult, **options
        )

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Any]:  # fmt: skip
        """As max_marginal_relevance_search, of an embedding."""
        best = [document for document, _ in self._best(embedding, fetch_k, **options)]
        if self._kept.index is None or not best:
            return []
        rows = self._kept.index.reconstruct([document.id for document in best])
        formula = need("langchain_core.vectorstores.utils", extra="langchain")
        chosen = formula.maximal_marginal_relevance(
            np.asarray(embedding, np.float32), list(rows), lambda_mult, k
        )
        return [best[place] for place in chosen]

    def _best(
        self, embedding: Any, k: int, *, filter: Callable[[Any], bool] | None = None
    ) -> list[tuple[Any, float]]:
        size(k, "k")
        among = None
        if filter is not None:
            if not callable(filter):
                raise TypeError(f"filter is {shown(filter)}; give a function of a document")
            everything = list(self._kept.objects.items())  # at once: others may add
            among = [name for name, document in everything if filter(document)]
        return [(document, score) for _, document, score in self._kept.best(embedding, k, among)]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """From 0 to 1: (1 + cosine) / 2 or 1 / (1 + distance); dot has no bounds."""
        if self._kept.metric == "cosine":
            return lambda score: (1 + score) / 2
        if self._kept.metric == "euclidean":
            return lambda score: 1 / (1 - score)
        raise ValueError('metric "dot" has no bounds, so no relevance from 0 to 1; use "cosine"')


class StopeRetriever(retrievers.BaseRetriever):  # type: ignore[misc,name-defined]
    """One of stope's retrievers (BM25, dense, HNSW, hybrid) as a LangChain retriever.

    Args:
        retriever: has ``search(queries, k)``, as those of `stope.retrieval`.
        documents: LangChain documents, in the order of the retriever's corpus.
        k: how many documents to return.

    Documents come back as copies with their score in ``metadata["score"]``.
    """

    retriever: Any
    documents: list[Any]
    k: int = 4

    def _get_relevant_documents(self, query: str, *, run_manager: Any, **options: Any) -> list[Any]:
        best = ranked(self.retriever, query, self.documents, options.get("k", self.k))
        return [
            document.model_copy(update={"metadata": {**document.metadata, "score": score}})
            for document, score in best
        ]
