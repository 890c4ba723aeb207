"""LlamaIndex: a vector store that searches exactly, and any of stope's retrievers as one of its."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stope._checks import shown
from stope._extras import need
from stope.integrations._kept import Kept, ranked
from stope.ops._search import Metric

base = need("llama_index.core.base.base_retriever", extra="llama-index")
pydantic = need("llama_index.core.bridge.pydantic", extra="llama-index")
schema = need("llama_index.core.schema", extra="llama-index")
types = need("llama_index.core.vector_stores.types", extra="llama-index")
utils = need("llama_index.core.vector_stores.utils", extra="llama-index")

__all__ = ["StopeRetriever", "StopeVectorStore"]


class StopeVectorStore(types.BasePydanticVectorStore):  # type: ignore[misc,name-defined]
    """A LlamaIndex vector store in memory, on a :class:`stope.FlatIndex`; it keeps the nodes, too.

    Scores are those of the metric, higher is better; nodes of equal score come in the order of
    their ids. A node whose id is there replaces it. Embeddings are kept as float32. Queries are of
    the mode "default", by node ids, document ids and metadata filters; other modes are refused, and
    so is ``persist``: the store is kept by pickling.

    Args:
        metric: ``"cosine"``, ``"dot"`` or ``"euclidean"`` (score = -distance).

    Example: ``VectorStoreIndex.from_documents(documents, storage_context=StorageContext.
    from_defaults(vector_store=StopeVectorStore()))``, or ``VectorStoreIndex.from_vector_store``.
    """

    stores_text: bool = True
    metric: Metric = "cosine"
    _kept: Any = pydantic.PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:
        """Begin empty."""
        super().model_post_init(context)
        self._kept = Kept(self.metric)

    @property
    def client(self) -> Any:
        """The :class:`stope.FlatIndex`, None while it is empty."""
        return self._kept.index

    def add(self, nodes: Sequence[Any], **options: Any) -> list[str]:
        """Keep nodes that have embeddings; returns their ids."""
        names = [node.node_id for node in nodes]
        plain = (node.model_copy(update={"embedding": None}) for node in nodes)
        self._kept.put(names, plain, [node.get_embedding() for node in nodes])
        return names

    def get_nodes(self, node_ids: list[str] | None = None, filters: Any = None) -> list[Any]:
        """The nodes of these ids that pass the filters."""
        return [self._kept.objects[name] for name in self._among(node_ids, None, filters)]

    def delete(self, ref_doc_id: str, **options: Any) -> None:
        """Remove all nodes of a document."""
        self._kept.remove(self._among(None, [ref_doc_id], None))

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: Any = None, **options: Any
    ) -> None:
        """Remove the nodes of these ids that pass the filters."""
        self._kept.remove(self._among(node_ids, None, filters))

    def clear(self) -> None:
        """Remove all nodes."""
        self._kept = Kept(self.metric)

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Refuse: the store is in memory. Pickling keeps it, nodes and embeddings."""
        raise ValueError(
            f"persist_path is {shown(persist_path)}, but StopeVectorStore is in memory and writes "
            "no file; keep it by pickling"
        )

    def __setstate__(self, state: Any) -> None:
        """Restore nodes and index, which LlamaIndex's own method leaves out."""
        pydantic.BaseModel.__setstate__(self, state)

    def query(self, query: Any, **options: Any) -> Any:
        """The best nodes of a ``VectorStoreQuery``, with similarities and ids."""
        if query.mode != types.VectorStoreQueryMode.DEFAULT:
            raise ValueError(
                f"mode is {shown(query.mode.value)}; StopeVectorStore has default alone"
            )
        if query.query_embedding is None:
            raise ValueError("query has no embedding; set query_embedding")
        among = None
        # VectorStoreIndex says by an empty list that it names no nodes.
        named, of_documents = query.node_ids or None, query.doc_ids or None
        if named or of_documents or query.filters is not None:
            among = self._among(named, of_documents, query.filters)
        best = self._kept.best(query.query_embedding, query.similarity_top_k, among)
        names, nodes, scores = zip(*best, strict=True) if best else ((), (), ())
        return types.VectorStoreQueryResult(
            nodes=list(nodes), similarities=list(scores), ids=list(names)
        )

    def _among(self, node_ids: Any, doc_ids: Any, filters: Any) -> list[str]:
        nodes = self._kept.objects
        passes = utils.build_metadata_filter_fn(lambda name: nodes[name].metadata, filters)
        names = list(nodes) if node_ids is None else dict.fromkeys(node_ids)
        return [
            name
            for name in names
            if name in nodes
            and (doc_ids is None or nodes[name].ref_doc_id in doc_ids)
            and passes(name)
        ]


class StopeRetriever(base.BaseRetriever):  # type: ignore[misc,name-defined]
    """One of stope's retrievers (BM25, dense, HNSW, hybrid) as a LlamaIndex retriever.

    Args:
        retriever: has ``search(queries, k)``, as those of `stope.retrieval`.
        nodes: LlamaIndex nodes, in the order of the retriever's corpus.
        similarity_top_k: how many nodes to return.
    """

    def __init__(
        self, retriever: Any, nodes: Sequence[Any], *, similarity_top_k: int = 2, **options: Any
    ) -> None:
        self._retriever, self._nodes, self._k = retriever, list(nodes), similarity_top_k
        super().__init__(**options)

    def _retrieve(self, query_bundle: Any) -> list[Any]:
        best = ranked(self._retriever, query_bundle.query_str, self._nodes, self._k)
        return [schema.NodeWithScore(node=node, score=score) for node, score in best]
