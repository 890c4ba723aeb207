"""Any of stope's retrievers as one of LlamaIndex's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stope._extras import need
from stope.integrations._kept import ranked

base = need("llama_index.core.base.base_retriever", extra="llama-index")
schema = need("llama_index.core.schema", extra="llama-index")


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
