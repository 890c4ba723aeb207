"""Approximate dense retrieval on hnswlib, to compare the exact one with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.encoders.encode import Encoder, encode_queries
from stope.retrieval.dense import document_rows
from stope.retrieval.ranking import Ranking, check_k

_SPACES = {"cosine": "cosine", "dot": "ip", "euclidean": "l2"}
_CHUNK = 4096


class HnswRetriever:
    """Rank documents by embeddings, approximately: some of the true best k may be missing.

    Scores are those of the same metric as in `DenseRetriever`, as hnswlib computes them in float32;
    equal scores are ordered by the lower row. With ``num_threads=1`` the graph, and so the answer,
    depends on the inputs and seed alone; with more it also depends on timing.

    Args:
        encoder: as in `DenseRetriever`.
        corpus: texts to embed. Give either this or embeddings.
        embeddings: float32 ``[documents, dim]`` in place of corpus.
        metric: "cosine", "dot" or "euclidean".
        m: links per node; more is better and larger.
        ef_construction: candidates kept while building.
        ef_search: candidates kept while searching; hnswlib raises it to k.
        seed: of the levels of the graph.
        num_threads: of building and searching.
        batch_size: texts per call of the encoder.
        query_prompt: put before every query; None leaves the encoder's own prompt in force.
        corpus_prompt: the same for documents.
        progress: called with (documents linked, documents).

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
        metric: str = "cosine",
        m: int = 16,
        ef_construction: int = 200,
        ef_search: int = 128,
        seed: int = 0,
        num_threads: int = 1,
        batch_size: int = 256,
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        if metric not in _SPACES:
            raise ValueError(f"metric is {metric!r}; choose one of {', '.join(_SPACES)}")
        least = {"m": (m, 2), "ef_construction": (ef_construction, 1), "ef_search": (ef_search, 1)}
        for name, (value, lowest) in {**least, "num_threads": (num_threads, 1)}.items():
            if value < lowest:
                raise ValueError(f"{name} is {value}; it must be at least {lowest}")
        hnswlib = need("hnswlib", extra="retrieval")
        rows = document_rows(encoder, corpus, embeddings, corpus_prompt, batch_size, None)
        array = np.asarray(rows, dtype=np.float32)
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"embeddings has shape {array.shape}; it must be (documents, dim)")
        self.encoder = encoder
        self.metric = metric
        self.batch_size = batch_size
        self.query_prompt = query_prompt
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
        self,
        queries: Sequence[str],
        k: int = 100,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> Ranking:
        """Embed the queries and find about the k best documents of each."""
        check_k(k, len(self))
        rows = encode_queries(
            self.encoder, queries, prompt=self.query_prompt, batch_size=self.batch_size
        )
        return self.search_embeddings(rows, k, progress=progress)

    def search_embeddings(
        self,
        queries: NDArray[np.float32],
        k: int = 100,
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> Ranking:
        """Find about the k best documents of each query embedding.

        Raises:
            ValueError: k below 1 or above the corpus size.
            RuntimeError: hnswlib could not reach k documents; raise m or ef_search.
        """
        k = check_k(k, len(self))
        ids = np.empty((len(queries), k), dtype=np.int64)
        scores = np.empty((len(queries), k), dtype=np.float32)
        for start in range(0, len(queries), _CHUNK):
            part = slice(start, start + _CHUNK)
            labels, distances = self.index.knn_query(
                queries[part], k=k, num_threads=self._num_threads
            )
            found = -np.sqrt(distances) if self.metric == "euclidean" else 1.0 - distances
            labels = labels.astype(np.int64)
            order = np.lexsort((labels, -found), axis=1)
            ids[part] = np.take_along_axis(labels, order, axis=1)
            scores[part] = np.take_along_axis(found, order, axis=1)
            if progress is not None:
                progress(min(start + _CHUNK, len(queries)), len(queries))
        return Ranking(ids, scores)
