"""Judge an encoder, also while it trains: retrieval of held-out queries over a whole corpus."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from stope._checks import flag, texts
from stope._kinds import at_least, kinds, mapping_of_mappings, matrix, maybe, string
from stope.data import Collection, Pairs
from stope.data.text_identity import fingerprint_texts
from stope.encoders.cache import fingerprint_encoder
from stope.encoders.encode import Encoder
from stope.evaluation.metrics import Evaluation, evaluate
from stope.evaluation.names import parse_metric
from stope.retrieval import DenseRetriever

_REMEMBERED = 4  # evaluations: a guard goes back to one before the last


@kinds(
    **dict.fromkeys(("query_ids", "query_texts", "corpus_ids", "corpus_texts", "metrics"), texts),
    qrels=mapping_of_mappings,
    k=at_least(1),
    **dict.fromkeys(("query_prompt", "corpus_prompt"), maybe(string)),
    corpus_embeddings=maybe(matrix),
    ignore_identical_ids=flag,
)
@dataclass(frozen=True)
class RetrievalEvaluation:
    """Exact retrieval of queries over a corpus; call it with an encoder to get the mean metrics.

    Attributes:
        query_ids: ids of the queries.
        query_texts: their texts.
        corpus_ids: ids of the documents.
        corpus_texts: their texts.
        qrels: query id -> document id -> relevance.
        metrics: names as `stope.evaluation.evaluate` takes them, refused at once where they are
            unknown; training judges by the first.
        k: depth of retrieval (the corpus size if that is smaller).
        query_prompt: put before every query; None leaves the encoder's own in force.
        corpus_prompt: the same for documents.
        corpus_embeddings: float32 ``[documents, dim]`` of an encoder that stays as it is, where
            queries alone are trained (refresh in the mode "query_side"); the corpus is then not
            encoded.
        ignore_identical_ids: leave out the document that has the query's own id, as
            `stope.evaluation.evaluate` does; k others are retrieved then.
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
    ignore_identical_ids: bool = False
    _latest: dict[str, Evaluation] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name in self.metrics:  # before the corpus is encoded
            parse_metric(name)

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
        ignore_identical_ids: bool = False,
    ) -> RetrievalEvaluation:
        """Take the queries of one split and the whole corpus."""
        judged = collection.split(split)
        texts = judged.query_ids, judged.query_texts, collection.corpus_ids, collection.corpus_texts
        prompts = query_prompt, corpus_prompt
        return cls(
            *texts,
            judged.qrels,
            metrics,
            k,
            *prompts,
            ignore_identical_ids=ignore_identical_ids,
        )

    @classmethod
    def from_pairs(
        cls,
        pairs: Pairs,
        queries: Sequence[int] | NDArray[np.int64],
        *,
        metrics: tuple[str, ...] = ("nDCG@10",),
        k: int = 100,
    ) -> RetrievalEvaluation:
        """Take these queries of `pairs`, their positives as judgements, and the whole corpus."""
        positives = pairs.positives
        qrels = {
            pairs.query_ids[query]: {pairs.corpus_ids[row]: 1 for row in positives.row(query)}
            for query in queries
        }
        texts = [pairs.query_texts[query] for query in queries]
        return cls(list(qrels), texts, pairs.corpus_ids, pairs.corpus_texts, qrels, metrics, k)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Encode corpus and queries, retrieve, and return the mean of each metric."""
        return self.evaluate(encoder).mean

    def evaluate(self, encoder: Encoder) -> Evaluation:
        """Encode corpus and queries, retrieve, and return the metrics, query by query too.

        An encoder with the weights and settings of one of the last calls is not asked again.
        """
        try:
            key = fingerprint_encoder(encoder)
        except ValueError:  # nobody can tell whether it changed
            return self._evaluated(encoder)
        if key not in self._latest:
            while len(self._latest) >= _REMEMBERED:
                del self._latest[next(iter(self._latest))]
            self._latest[key] = self._evaluated(encoder)
        return self._latest[key]

    def _evaluated(self, encoder: Encoder) -> Evaluation:
        known = self.corpus_embeddings
        retriever = DenseRetriever(
            encoder,
            self.corpus_texts if known is None else None,
            embeddings=known,
            query_prompt=self.query_prompt,
            corpus_prompt=self.corpus_prompt,
        )
        ranking = retriever.search(self.query_texts, self.depth)
        return self.evaluate_run(ranking.to_run(self.query_ids, self.corpus_ids))

    @property
    def depth(self) -> int:
        """How many documents to retrieve: k, and the query's own where that is left out."""
        return min(self.k + self.ignore_identical_ids, len(self.corpus_texts))

    def evaluate_run(self, run: Mapping[str, Mapping[str, float]]) -> Evaluation:
        """The metrics of the `depth` best documents of each query, best first."""
        ignored = self.ignore_identical_ids
        if ignored:  # k others, whether or not the query's own is among them
            run = {
                query: scores if query in scores else dict(list(scores.items())[: self.k])
                for query, scores in run.items()
            }
        return evaluate(run, self.qrels, self.metrics, ignore_identical_ids=ignored)

    def fingerprint(self) -> str:
        """SHA-256 hex digest of all that decides the metrics beside the encoder."""
        numbers = [list(self.metrics), self.k, self.query_prompt, self.corpus_prompt]
        numbers += [True] if self.ignore_identical_ids else []  # as it was before there was one
        judged = {query: dict(documents) for query, documents in self.qrels.items()}
        columns = [self.query_ids, self.query_texts, self.corpus_ids, self.corpus_texts]
        sizes = [len(column) for column in columns]
        texts = [text for column in columns for text in column]
        known = self.corpus_embeddings
        rows = "" if known is None else hashlib.sha256(known.tobytes()).hexdigest()
        described = json.dumps([numbers, judged, sizes, rows], sort_keys=True)
        return fingerprint_texts([described, *texts])
