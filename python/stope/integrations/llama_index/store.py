"""LlamaIndex's vector store, exact and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stope._checks import shown
from stope._extras import need
from stope.integrations._kept import Kept
from stope.ops._search import Metric

pydantic = need("llama_index.core.bridge.pydantic", extra="llama-index")
types = need("llama_index.core.vector_stores.types", extra="llama-index")
utils = need("llama_index.core.vector_stores.utils", extra="llama-index")


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
        plain = (node.model_copy(update={"embedding": None}, deep=True) for node in nodes)
        self._kept.put(names, plain, [node.get_embedding() for node in nodes])
        return names

    def get_nodes(self, node_ids: list[str] | None = None, filters: Any = None) -> list[Any]:
        """The nodes of these ids that pass the filters."""
        return self._kept.get(self._among(node_ids, None, filters))  # type: ignore[no-any-return]

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
        return types.VectorStoreQueryResult(
            nodes=[node for node, _ in best],
            similarities=[score for _, score in best],
            ids=[node.node_id for node, _ in best],
        )

    def _among(self, node_ids: Any, doc_ids: Any, filters: Any) -> list[str]:
        nodes = self._kept.objects
        passes = utils.build_metadata_filter_fn(lambda name: nodes[name].metadata, filters)
        documents = None if doc_ids is None else set(doc_ids)
        return [
            name
            for name in (list(nodes) if node_ids is None else dict.fromkeys(node_ids))
            if name in nodes
            and (documents is None or nodes[name].ref_doc_id in documents)
            and passes(name)
        ]
