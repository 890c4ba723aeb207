"""LlamaIndex: a vector store that searches exactly, and any of stope's retrievers as one of its."""

from stope.integrations.llama_index.retriever import StopeRetriever
from stope.integrations.llama_index.store import StopeVectorStore

__all__ = ["StopeRetriever", "StopeVectorStore"]
