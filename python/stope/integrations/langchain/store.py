"""LangChain's vector store, exact and in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any

from stope._checks import one_each
from stope._extras import need
from stope.integrations._kept import Kept, names_for
from stope.integrations._vectors import taken
from stope.ops._search import Metric

documents = need("langchain_core.documents", extra="langchain")
stores = need("langchain_core.vectorstores", extra="langchain")
utils = need("langchain_core.vectorstores.utils", extra="langchain")


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
        self._kept, self._embedding = Kept[Any](metric), embedding

    @property
    def embeddings(self) -> Any:
        """The embeddings of texts."""
        return self._embedding

    @classmethod
    def from_texts(
        cls, texts: list[str], embedding: Any, metadatas: list[dict[str, Any]] | None = None, *,
        metric: Metric = "cosine", **options: Any,
    ) -> StopeVectorStore:  # fmt: skip
        """A store of these texts; options as `add_texts`."""
        store = cls(embedding, metric=metric)
        store.add_texts(texts, metadatas, **options)
        return store

    def add_texts(
        self, texts: Iterable[str], metadatas: list[dict[str, Any]] | None = None, *,
        ids: Sequence[str | None] | None = None, **options: Any,
    ) -> list[str]:  # fmt: skip
        """Embed and keep texts; those without an id get a random one. Returns the ids."""
        texts = list(texts)
        names, about = names_for(ids, len(texts)), metadatas or [{} for _ in texts]
        one_each(about, "metadatas", len(texts), "texts")
        made = [
            documents.Document(id=name, page_content=text, metadata=deepcopy(each))
            for name, text, each in zip(names, texts, about, strict=True)
        ]
        self._kept.put(names, made, self._embedding.embed_documents(texts) if texts else [])
        return names

    def delete(self, ids: list[str] | None = None, **options: Any) -> bool:
        """Remove the documents of these ids, those that are there; None removes all."""
        self._kept.remove(list(self._kept.objects) if ids is None else ids)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Any]:
        """The documents of these ids that are there."""
        return self._kept.get(ids)

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Any]:
        """The k best documents."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **options)]

    def similarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> Any:
        """The k best documents with their scores."""
        return self._best(self._embedding.embed_query(query), k, **options)

    def similarity_search_by_vector(self, embedding: Any, k: int = 4, **options: Any) -> list[Any]:
        """The k best documents of an embedding."""
        return [document for document, _ in self._best(embedding, k, **options)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Any]:
        """Of the fetch_k best documents k that differ; LangChain's formula."""
        vector, diverse = self._embedding.embed_query(query), (k, fetch_k, lambda_mult)
        return self.max_marginal_relevance_search_by_vector(vector, *diverse, **options)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5,
        **options: Any,
    ) -> list[Any]:  # fmt: skip
        """As max_marginal_relevance_search, of an embedding."""
        best = [document for document, _ in self._best(embedding, fetch_k, **options)]
        rows = self._kept.rows([document.id for document in best])
        chosen = utils.maximal_marginal_relevance(taken(embedding), rows, lambda_mult, k)
        return [best[place] for place in chosen]

    def _best(self, embedding: Any, k: int, *, filter: Any = None, **others: Any) -> Any:
        if others:
            raise TypeError(f"{next(iter(others))} is no option of a search; give k and filter")
        return self._kept.best(embedding, k, None if filter is None else self._kept.passing(filter))

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        """From 0 to 1: (1 + cosine) / 2 or 1 / (1 + distance); dot has no bounds."""
        if self._kept.metric == "dot":
            raise ValueError('metric "dot" has no bounds, so there is no relevance; use "cosine"')
        return (lambda s: (1 + s) / 2) if self._kept.metric == "cosine" else lambda s: 1 / (1 - s)
