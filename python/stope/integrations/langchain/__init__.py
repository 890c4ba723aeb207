"""LangChain: a vector store that searches exactly, and any of stope's retrievers as one of its."""

from stope.integrations.langchain.retriever import StopeRetriever
from stope.integrations.langchain.store import StopeVectorStore

__all__ = ["StopeRetriever", "StopeVectorStore"]
