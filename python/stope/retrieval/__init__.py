"""Retrieval: lexical, dense and hybrid retrievers, their fusion, and a run over a whole collection.

Every retriever answers ``search(queries, k)`` with a `Ranking` of corpus rows; ``to_run`` turns it
into the ``{query id: {document id: score}}`` that ``stope.evaluation`` and TREC files use. BM25
needs bm25s (extra ``retrieval``), the approximate comparison needs hnswlib; the rest needs NumPy.
"""

from __future__ import annotations

from stope._moved import moved_names
from stope.retrieval.dense import DenseRetriever
from stope.retrieval.fusion import HybridRetriever, fuse
from stope.retrieval.hnsw import HnswRetriever
from stope.retrieval.lexical import Bm25
from stope.retrieval.pipeline import Retriever, search
from stope.retrieval.ranking import Ranking
from stope.retrieval.tokenizer import Tokenizer

__all__ = [
    "Bm25", "DenseRetriever", "HnswRetriever", "HybridRetriever", "Ranking", "Retriever",
    "Tokenizer", "fuse", "search",
]  # fmt: skip

__getattr__ = moved_names(
    "stope.retrieval", {"encode_corpus": "stope.encoders", "encode_queries": "stope.encoders"}
)
