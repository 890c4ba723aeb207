"""Judge an encoder while it trains: retrieval of a held-out split over the whole corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.data import Collection
from stope.encoders.fingerprint import fingerprint_texts
from stope.evaluation import evaluate
from stope.retrieval import DenseRetriever


@dataclass(frozen=True)
class RetrievalEvaluation:
    """Exact retrieval of queries over a corpus; call it with an encoder to get the mean metrics.

    Attributes:
        query_ids: ids of the queries.
        query_texts: their texts.
        corpus_ids: ids of the documents.
        corpus_texts: their texts.
        qrels: query id -> document id -> relevance.
        metrics: names as `stope.evaluation.evaluate` takes them; `train` judges by the first.
        k: depth of retrieval (the corpus size if that is smaller).
        query_prompt: put before every query; None leaves the encoder's own in force.
        corpus_prompt: the same for documents.
        corpus_embeddings: float32 ``[documents, dim]`` of an encoder that stays as it is, where
            queries alone are trained (refresh in the mode "query_side"); the corpus is then not
            encoded.
    """

    query_ids: Sequence[str]
    query_texts: Sequence[str]
    corpus_ids: Sequence[str]
    corpus_texts: Sequence[str]
    qrels: Mapping[str, Mapping[str, int]]
    metrics: tuple[str, ...] = ("nDCG@10",)
    k: int = 100
    query_prompt: str | None = None
    corpus_prompt: str | None = None
    corpus_embeddings: NDArray[np.float32] | None = None

    @classmethod
    def from_collection(
        cls,
        collection: Collection,
        split: str = "dev",
        *,
        metrics: tuple[str, ...] = ("nDCG@10",),
        k: int = 100,
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
    ) -> RetrievalEvaluation:
        """Take the queries of one split and the whole corpus."""
        part = collection.split(split)
        return cls(
            part.query_ids,
            part.query_texts,
            collection.corpus_ids,
            collection.corpus_texts,
            part.qrels,
            metrics,
            k,
            query_prompt,
            corpus_prompt,
        )

    def __call__(self, encoder: Any) -> dict[str, float]:
        """Encode corpus and queries, retrieve, and return the mean of each metric."""
        known = self.corpus_embeddings
        retriever = DenseRetriever(
            encoder,
            self.corpus_texts if known is None else None,
            embeddings=known,
            query_prompt=self.query_prompt,
            corpus_prompt=self.corpus_prompt,
        )
        found = retriever.search(self.query_texts, min(self.k, len(self.corpus_texts)))
        run = found.to_run(self.query_ids, self.corpus_ids)
        return dict(evaluate(run, self.qrels, self.metrics).mean)

    def fingerprint(self) -> str:
        """SHA-256 hex digest of all that decides the metrics beside the encoder."""
        numbers = [list(self.metrics), self.k, self.query_prompt, self.corpus_prompt]
        judged = {query: dict(found) for query, found in self.qrels.items()}
        parts = [self.query_ids, self.query_texts, self.corpus_ids, self.corpus_texts]
        sizes = [len(part) for part in parts]
        texts = [text for part in parts for text in part]
        known = self.corpus_embeddings
        rows = "" if known is None else hashlib.sha256(known.tobytes()).hexdigest()
        described = json.dumps([numbers, judged, sizes, rows], sort_keys=True)
        return fingerprint_texts([described, *texts])
