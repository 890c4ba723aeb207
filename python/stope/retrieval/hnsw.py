"""Approximate dense retrieval on hnswlib, to compare the exact one with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, integer, size
from stope._checks import texts as texts_of
from stope._extras import need
from stope._host import on_host
from stope._kinds import kinds, matrix, maybe, string
from stope.encoders.encode import ENCODING, Encoder, encode_queries
from stope.progress import Progress
from stope.retrieval.dense import document_rows
from stope.retrieval.ranking import Metric, Ranking, check_k

_SPACES = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}
_CHUNK = 4096


@kinds(
    **ENCODING,
    corpus=maybe(texts_of),
    embeddings=maybe(matrix),
    **dict.fromkeys(("query_prompt", "corpus_prompt"), maybe(string)),
)
class HnswRetriever:
    """Rank documents by embeddings, approximately: some of the true best k may be missing.

    Scores are those of the same metric as in `DenseRetriever`, as hnswlib computes them in float32;
    equal scores are ordered by the lower row. With ``num_threads=1`` the graph, and so the answer,
    depends on the inputs and seed alone; with more it also depends on timing.

    What is not explained here is as in `DenseRetriever`.

    Args:
        embeddings: float32 ``[documents, dim]`` in place of corpus.
        m: links per node; more is better and larger.
        ef_construction: candidates kept while building.
        ef_search: candidates kept while searching; hnswlib raises it to k.
        seed: of the levels of the graph.
        num_threads: of building and searching.
        progress: called with (documents linked, documents).

    Thread safety: one search at a time, which ``num_threads`` make faster.

    Raises:
        ImportError: hnswlib is missing; the message has the pip command.
        TypeError: neither or both of corpus and embeddings.
        ValueError: unknown metric, parameter below its minimum, no documents.

    Source: Malkov and Yashunin 2016; hnswlib.
    """

    def __init__(
        self,
        encoder: Encoder,
        corpus: Sequence[str] | None = None,
        *,
        embeddings: Any = None,
        metric: Metric = "cosine",
        m: int = 16,
        ef_construction: int = 200,
        ef_search: int = 128,
        seed: int = 0,
        num_threads: int = 1,
        batch_size: int = 256,
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        choice(metric, "metric", _SPACES)
        integer(seed, "seed", 0)
        size(m, "m", 2)
        size(ef_construction, "ef_construction")
        size(ef_search, "ef_search")
        size(num_threads, "num_threads")
        hnswlib = need("hnswlib", extra="retrieval")
        rows = document_rows(encoder, corpus, embeddings, corpus_prompt, batch_size, None)
        array = _matrix(rows, "embeddings", "documents")
        self.encoder, self.metric = encoder, metric
        self.batch_size, self.query_prompt = batch_size, query_prompt
        self._num_threads = num_threads
        self.index: Any = hnswlib.Index(space=_SPACES[metric], dim=array.shape[1])
        self.index.init_index(
            max_elements=len(array), M=m, ef_construction=ef_construction, random_seed=seed
        )
        self.index.set_ef(ef_search)
        for start in range(0, len(array), _CHUNK):
            stop = min(start + _CHUNK, len(array))
            self.index.add_items(array[start:stop], np.arange(start, stop), num_threads=num_threads)
            if progress is not None:
                progress(stop, len(array))

    def __len__(self) -> int:
        """Count the documents."""
        return int(self.index.get_current_count())

    def search(
        self, queries: Sequence[str], k: int = 100, *, progress: Progress | None = None
    ) -> Ranking:
        """Embed the queries and find about the k best documents of each."""
        check_k(k, len(self))
        texts_of(queries, "queries")
        rows = encode_queries(
            self.encoder, queries, prompt=self.query_prompt, batch_size=self.batch_size
        )
        return self.search_embeddings(rows, k, progress=progress)

    def search_embeddings(
        self, queries: NDArray[np.float32], k: int = 100, *, progress: Progress | None = None
    ) -> Ranking:
        """Find about the k best documents of each query embedding.

        Raises:
            ValueError: k below 1 or above the corpus size, queries of another width, NaN or
                infinity in them (naming the row).
            RuntimeError: the graph did not reach k documents; raise m or ef_search.
        """
        k = check_k(k, len(self))
        queries = _matrix(queries, "queries", "queries")
        if queries.shape[1] != self.index.dim:
            raise ValueError(
                f"queries has {queries.shape[1]} columns but the documents have {self.index.dim}; "
                "embed both with the same encoder"
            )
        ids = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        for start in range(0, len(queries), _CHUNK):
            chunk = slice(start, start + _CHUNK)
            try:
                labels, distances = self.index.knn_query(
                    queries[chunk], k=k, num_threads=self._num_threads
                )
            except RuntimeError as error:
                raise RuntimeError(
                    f"the graph of hnswlib did not reach {k} documents for every query; build it "
                    "with a greater m or search with a greater ef_search, or lower k"
                ) from error
            values = -np.sqrt(distances) if self.metric == "euclidean" else 1.0 - distances
            labels = labels.astype(np.int64)
            order = np.lexsort((labels, -values), axis=1)
            ids[chunk] = np.take_along_axis(labels, order, axis=1)
            scores[chunk] = np.take_along_axis(values, order, axis=1)
            if progress is not None:
                progress(min(start + _CHUNK, len(queries)), len(queries))
        return Ranking(ids, scores)


def _matrix(values: Any, name: str, rows: str) -> NDArray[np.float32]:
    array = on_host(values)
    if array.dtype.kind not in "fiuV":
        raise TypeError(f"{name} holds {array.dtype}; give numbers of shape ({rows}, dim)")
    array = np.asarray(array, dtype=np.float32)
    if array.ndim != 2 or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}; it must be ({rows}, dim)")
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if wrong.size:
        raise ValueError(f"{name} has NaN or infinity in row {wrong[0]}; leave that row out")
    return array
