"""The contenders of bench_neighbors.py: graphs, pairs above a threshold, and k-means.

Graphs are (scores, ids) without the row itself; pairs are (rows, ids, scores) with rows < ids.
What others return besides (the row itself, each pair twice) is left out inside the clock, as a
user must. k-means gives inertia (before the last update, and after it where the library says so)
and the processor time of its call, which a busy machine disturbs less than the clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from inputs import ClusterWork, Inputs, NeighborWork

Run = Callable[[], Any]

MOST_SLOW, MOST_FAISS = 20_000, 50_000  # rows that a peer gets, so that a run ends


def _graph_stope(work: NeighborWork, inputs: Inputs) -> Run:
    import stope

    return lambda: stope.knn_graph(inputs.corpus, work.k)


def _graph_topk(work: NeighborWork, inputs: Inputs) -> Run:
    import stope

    rows = np.arange(work.rows + 1)
    excluded = (rows, rows[:-1])
    return lambda: stope.topk(inputs.corpus, inputs.corpus, work.k, exclude=excluded)


def _graph_faiss(work: NeighborWork, inputs: Inputs) -> Run:
    import faiss

    index = faiss.IndexFlatIP(work.dim)
    index.add(inputs.corpus)

    def run() -> tuple[np.ndarray, np.ndarray]:
        return _without_itself(*index.search(inputs.corpus, work.k + 1))

    return run


def _graph_sklearn(work: NeighborWork, inputs: Inputs) -> Run:
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=work.k, algorithm="brute").fit(inputs.corpus)

    def run() -> tuple[np.ndarray, np.ndarray]:
        distances, ids = index.kneighbors()  # of unit vectors: |x - y|^2 = 2 - 2 x.y
        return (1 - distances**2 / 2).astype(np.float32), ids

    return run


def _without_itself(scores: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows with one entry less: the row itself, or the last one where it was crowded out."""
    itself = ids == np.arange(len(ids))[:, None]
    itself[~itself.any(1), -1] = True
    shape = (len(ids), ids.shape[1] - 1)
    return scores[~itself].reshape(shape), ids[~itself].reshape(shape)


def _pairs_stope(work: NeighborWork, inputs: Inputs) -> Run:
    import stope

    return lambda: stope.pairs_above(inputs.corpus, threshold=work.threshold)


def _pairs_faiss(work: NeighborWork, inputs: Inputs) -> Run:
    import faiss

    index = faiss.IndexFlatIP(work.dim)
    index.add(inputs.corpus)

    def run() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        offsets, scores, ids = index.range_search(inputs.corpus, work.threshold)
        rows = np.repeat(np.arange(work.rows), np.diff(offsets.astype(np.int64)))
        once = rows < ids
        return rows[once], ids[once], scores[once]

    return run


def _pairs_sentence_transformers(work: NeighborWork, inputs: Inputs) -> Run:
    from sentence_transformers.util import paraphrase_mining_embeddings

    import torch

    embeddings = torch.from_numpy(inputs.corpus)

    def run() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        found = paraphrase_mining_embeddings(embeddings)  # its defaults: 100 of a row, 500,000
        kept = [(i, j, score) for score, i, j in found if score >= work.threshold]
        rows, ids, scores = (np.array(part) for part in zip(*kept, strict=True))
        return rows, ids, scores

    return run


def _clusters_stope(work: ClusterWork, inputs: Inputs) -> Run:
    import stope

    def run() -> tuple[list[float], float]:
        start = time.process_time()
        clusters = stope.kmeans(
            inputs.corpus, work.k, init=inputs.queries, max_iterations=work.updates
        )
        return clusters.inertia.tolist(), time.process_time() - start

    return run


def _clusters_faiss(work: ClusterWork, inputs: Inputs) -> Run:
    import faiss

    def run() -> tuple[list[float], float]:
        start = time.process_time()
        clusters = faiss.Kmeans(
            work.dim,
            work.k,
            niter=work.updates,
            min_points_per_centroid=1,
            max_points_per_centroid=work.rows,
        )
        clusters.train(inputs.corpus, init_centroids=inputs.queries)
        return clusters.obj.tolist(), time.process_time() - start

    return run


def _clusters_sklearn(work: ClusterWork, inputs: Inputs) -> Run:
    from sklearn.cluster import KMeans

    def run() -> tuple[list[float], float]:
        start = time.process_time()
        clusters = KMeans(
            work.k, init=inputs.queries, n_init=1, max_iter=work.updates, tol=0, algorithm="lloyd"
        ).fit(inputs.corpus)
        return [clusters.inertia_], time.process_time() - start

    return run


def _few(most: int) -> Callable[[Any], bool]:
    return lambda work: work.rows <= most


GRAPH: dict[str, tuple[str, Callable[..., Run], Callable[[Any], bool]]] = {
    "stope": ("stope", _graph_stope, lambda work: True),
    "own-topk": ("stope", _graph_topk, lambda work: True),
    "faiss": ("faiss", _graph_faiss, _few(MOST_FAISS)),
    "sklearn": ("sklearn", _graph_sklearn, _few(MOST_SLOW)),
}
PAIRS: dict[str, tuple[str, Callable[..., Run], Callable[[Any], bool]]] = {
    "stope": ("stope", _pairs_stope, lambda work: True),
    "faiss": ("faiss", _pairs_faiss, _few(MOST_FAISS)),
    "sentence-transformers": (
        "sentence_transformers",
        _pairs_sentence_transformers,
        _few(MOST_SLOW),
    ),
}
CLUSTERS: dict[str, tuple[str, Callable[..., Run], Callable[[Any], bool]]] = {
    "stope": ("stope", _clusters_stope, lambda work: True),
    "faiss": ("faiss", _clusters_faiss, lambda work: True),
    "sklearn": ("sklearn", _clusters_sklearn, _few(MOST_FAISS)),
}
