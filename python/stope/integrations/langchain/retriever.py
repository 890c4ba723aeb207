"""Any of stope's retrievers as one of LangChain's."""

from __future__ import annotations

from typing import Any

from stope._extras import need
from stope.integrations._kept import ranked

retrievers = need("langchain_core.retrievers", extra="langchain")


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
        for document, score in best:
            document.metadata["score"] = score
        return [document for document, _ in best]
