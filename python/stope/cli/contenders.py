"""What `stope bench` measures: each operation by stope and by the libraries that are there.

A contender is made of `Inputs` and returns a function without arguments that does the work once and
returns its answer: ids, labels or numbers, which are compared with stope's. What a library keeps
between two calls (an index, tensors) is made before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import stope

K = 10
MARGIN, THRESHOLD, TEMPERATURE = 0.05, 0.9, 0.05
SINGLE = 16  # calls of one query each
_BLOCK = 1024
Run = Callable[[], Any]


class Inputs(NamedTuple):
    """Unit rows of float32; row i of the corpus answers query i."""

    queries: NDArray[np.float32]
    corpus: NDArray[np.float32]
    threads: int


class Operation(NamedTuple):
    """Contenders by the module they need, sizes (rows of the corpus), and how answers compare."""

    about: str
    contenders: dict[str, Callable[[Inputs], Run]]
    same: Callable[[Any, Any], float]
    queries: int = 256  # 0: as many as rows
    power: int = 1  # work grows with rows to this power
    smallest: int = 1024
    largest: int = 65_536


def inputs(rows: int, queries: int, dim: int, threads: int) -> Inputs:
    """Documents around some hundred topics, in pairs, and a query near to each of the first."""
    random = np.random.default_rng(0)
    topics = random.standard_normal((128, dim), np.float32)
    corpus = random.standard_normal((rows, dim), np.float32) + topics[np.arange(rows) // 2 % 128]
    corpus[1::2] = corpus[: rows // 2 * 2 : 2] + 0.5 * corpus[1::2]
    asked = corpus[: queries or rows] + random.standard_normal((queries or rows, dim), np.float32)
    return Inputs(_unit(asked), _unit(corpus), threads)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _best(scores: NDArray[np.float32], k: int = K) -> NDArray[np.int64]:
    ids = np.argpartition(scores, -k, axis=1)[:, -k:]
    order = np.argsort(-np.take_along_axis(scores, ids, 1), axis=1)
    return np.take_along_axis(ids, order, 1)


def _tensors(x: Inputs) -> Any:
    import torch

    torch.set_num_threads(x.threads)
    return torch, torch.from_numpy(x.queries), torch.from_numpy(x.corpus)


def _flat(x: Inputs) -> Any:
    import faiss

    faiss.omp_set_num_threads(x.threads)
    index = faiss.IndexFlatIP(x.corpus.shape[1])
    index.add(x.corpus)
    return index


def _singly(search: Callable[[NDArray[np.float32]], Any]) -> Any:
    return lambda x: (
        lambda: np.concatenate([search(x.queries[row : row + 1]) for row in range(SINGLE)])
    )


# Every pair of queries and documents ------------------------------------------------------------


def _similarity_torch(x: Inputs) -> Run:
    _, queries, corpus = _tensors(x)
    return lambda: (queries @ corpus.T).numpy()


def _topk_torch(x: Inputs) -> Run:
    torch, queries, corpus = _tensors(x)
    return lambda: torch.topk(queries @ corpus.T, K).indices.numpy()


def _topk_faiss(x: Inputs) -> Run:
    index = _flat(x)
    return lambda: index.search(x.queries, K)[1]


def _topk_sklearn(x: Inputs) -> Run:
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x.corpus)
    return lambda: index.kneighbors(x.queries, return_distance=False)


def _topk_usearch(x: Inputs) -> Run:
    from usearch.index import search

    def run() -> Any:
        hits = search(x.corpus, x.queries, K, metric="ip", exact=True, threads=x.threads)
        return hits.keys.astype(np.int64).reshape(len(x.queries), K)

    return run


def _one_stope(x: Inputs) -> Run:
    index = stope.FlatIndex(x.corpus)
    return _singly(lambda query: index.search(query, K).ids)(x)  # type: ignore[no-any-return]


def _one_faiss(x: Inputs) -> Run:
    index = _flat(x)
    return _singly(lambda query: index.search(query, K)[1])(x)  # type: ignore[no-any-return]


def _one_torch(x: Inputs) -> Run:
    torch, queries, corpus = _tensors(x)
    return lambda: np.concatenate(
        [torch.topk(queries[row : row + 1] @ corpus.T, K).indices for row in range(SINGLE)]
    )


def _negatives_stope(x: Inputs) -> Run:
    positives = np.arange(len(x.queries))[:, None]
    return lambda: (
        stope.mine_hard_negatives(x.queries, x.corpus, positives, K, relative_margin=MARGIN).ids
    )


def _negatives_numpy(x: Inputs) -> Run:
    rows = np.arange(len(x.queries))

    def run() -> Any:
        scores = x.queries @ x.corpus.T
        limit = scores[rows, rows, None] * np.float32(1 - MARGIN)
        scores[scores > limit] = -np.inf
        scores[rows, rows] = -np.inf
        return _best(scores)

    return run


def _negatives_torch(x: Inputs) -> Run:
    torch, queries, corpus = _tensors(x)
    rows = torch.arange(len(queries))

    def run() -> Any:
        scores = queries @ corpus.T
        limit = scores[rows, rows, None] * (1 - MARGIN)
        scores[scores > limit] = -torch.inf
        scores[rows, rows] = -torch.inf
        return torch.topk(scores, K).indices.numpy()

    return run


# The rows of one matrix with each other -----------------------------------------------------------


def _graph_numpy(x: Inputs) -> Run:
    def block(start: int) -> Any:
        scores = x.corpus[start : start + _BLOCK] @ x.corpus.T
        np.fill_diagonal(scores[:, start:], -np.inf)
        return _best(scores)

    return lambda: np.concatenate([block(row) for row in range(0, len(x.corpus), _BLOCK)])


def _graph_faiss(x: Inputs) -> Run:
    index = _flat(x)

    def run() -> Any:
        ids = index.search(x.corpus, K + 1)[1]
        others = ids != np.arange(len(ids))[:, None]
        others[others.all(axis=1), -1] = False
        return ids[others].reshape(-1, K)

    return run


def _graph_sklearn(x: Inputs) -> Run:
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(x.corpus)
    return lambda: index.kneighbors(return_distance=False)


def _pairs_stope(x: Inputs) -> Run:
    def run() -> Any:
        pairs = stope.pairs_above(x.corpus, threshold=THRESHOLD)
        return pairs.rows * len(x.corpus) + pairs.ids

    return run


def _pairs_numpy(x: Inputs) -> Run:
    def block(start: int) -> Any:
        scores = x.corpus[start : start + _BLOCK] @ x.corpus[start:].T
        rows, ids = np.nonzero(np.triu(scores, 1) >= THRESHOLD)
        return (rows + start) * len(x.corpus) + ids + start

    return lambda: np.concatenate([block(row) for row in range(0, len(x.corpus), _BLOCK)])


def _pairs_faiss(x: Inputs) -> Run:
    index = _flat(x)

    def run() -> Any:
        limits, _, ids = index.range_search(x.corpus, THRESHOLD)
        rows = np.repeat(np.arange(len(x.corpus)), np.diff(limits.astype(np.int64)))
        return (rows * len(x.corpus) + ids)[rows < ids]

    return run


def _centers(x: Inputs) -> NDArray[np.float32]:
    return np.ascontiguousarray(x.corpus[:: max(1, len(x.corpus) // 64)][:64])


def _kmeans_stope(x: Inputs) -> Run:
    centers = _centers(x)
    return lambda: stope.kmeans(x.corpus, len(centers), init=centers, max_iterations=5).labels


def _kmeans_faiss(x: Inputs) -> Run:
    import faiss

    faiss.omp_set_num_threads(x.threads)
    centers = _centers(x)
    options = {"niter": 5, "max_points_per_centroid": len(x.corpus), "min_points_per_centroid": 1}

    def run() -> Any:
        clusters = faiss.Kmeans(x.corpus.shape[1], len(centers), **options)
        clusters.train(x.corpus, init_centroids=centers)
        return clusters.index.search(x.corpus, 1)[1][:, 0]

    return run


def _kmeans_sklearn(x: Inputs) -> Run:
    from sklearn.cluster import KMeans

    centers = _centers(x)
    clusters = KMeans(len(centers), init=centers, n_init=1, max_iter=5, tol=0)

    def run() -> Any:
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that five rounds do not converge
            return clusters.fit(x.corpus).labels_

    return run


# Training -----------------------------------------------------------------------------------------


def _loss(of: Callable[[Any, Any, Any], Any]) -> Callable[[Inputs], Run]:
    def make(x: Inputs) -> Run:
        torch, queries, documents = _tensors(x)

        def run() -> Any:
            leaves = [each.clone().requires_grad_() for each in (queries, documents)]
            of(torch, *leaves).backward()
            return np.concatenate([leaf.grad.numpy() for leaf in leaves])

        return run

    return make


def _infonce(torch: Any, queries: Any, documents: Any) -> Any:
    from stope.torch import infonce

    return infonce(queries, documents, temperature=TEMPERATURE, metric="dot").mean()


def _cross_entropy(torch: Any, queries: Any, documents: Any) -> Any:
    scores = queries @ documents.T / TEMPERATURE
    return torch.nn.functional.cross_entropy(scores, torch.arange(len(queries)))


# Answers ------------------------------------------------------------------------------------------


def _same_ids(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    """The mean share of each row's ids that both have."""
    return float(np.mean([len(np.intersect1d(*pair)) / K for pair in zip(a, b, strict=True)]))


def _same_pairs(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    either = len(np.union1d(a, b))
    return len(np.intersect1d(a, b)) / either if either else 1.0


def _same_labels(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return float(np.mean(a == b))


def _same_numbers(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """The share of numbers that are equal to 1e-4 of the largest one."""
    return float(np.mean(np.abs(a - b) <= 1e-4 * np.abs(a).max()))


OPERATIONS = {
    "similarity": Operation(
        "all scores of 256 queries",
        {
            "stope": lambda x: lambda: stope.similarity(x.queries, x.corpus),
            "numpy": lambda x: lambda: x.queries @ x.corpus.T,
            "torch": _similarity_torch,
        },
        _same_numbers,
    ),
    "topk": Operation(
        f"{K} best for 256 queries",
        {
            "stope": lambda x: lambda: stope.topk(x.queries, x.corpus, K).ids,
            "numpy": lambda x: lambda: _best(x.queries @ x.corpus.T),
            "torch": _topk_torch,
            "faiss": _topk_faiss,
            "sklearn": _topk_sklearn,
            "usearch": _topk_usearch,
        },
        _same_ids,
    ),
    "one-query": Operation(
        f"{K} best, {SINGLE} times for one query, in an index",
        {
            "stope": _one_stope,
            "numpy": lambda x: _singly(lambda query: _best(query @ x.corpus.T))(x),
            "torch": _one_torch,
            "faiss": _one_faiss,
        },
        _same_ids,
    ),
    "hard-negatives": Operation(
        f"{K} negatives for 256 queries, relative margin {MARGIN}",
        {"stope": _negatives_stope, "numpy": _negatives_numpy, "torch": _negatives_torch},
        _same_ids,
    ),
    "knn-graph": Operation(
        f"{K} nearest of every row",
        {
            "stope": lambda x: lambda: stope.knn_graph(x.corpus, K).ids,
            "numpy": _graph_numpy,
            "faiss": _graph_faiss,
            "sklearn": _graph_sklearn,
        },
        _same_ids,
        power=2,
    ),
    "pairs-above": Operation(
        f"pairs with a cosine of {THRESHOLD}",
        {"stope": _pairs_stope, "numpy": _pairs_numpy, "faiss": _pairs_faiss},
        _same_pairs,
        power=2,
    ),
    "kmeans": Operation(
        "64 clusters, 5 rounds from the same centers",
        {"stope": _kmeans_stope, "faiss": _kmeans_faiss, "sklearn": _kmeans_sklearn},
        _same_labels,
    ),
    "infonce": Operation(
        "loss and gradients of a batch",
        {"stope": _loss(_infonce), "torch": _loss(_cross_entropy)},
        _same_numbers,
        queries=0,
        power=2,
        smallest=256,
        largest=8192,
    ),
}
PEERS = {"numpy": "numpy", "torch": "torch", "faiss": "faiss-cpu", "sklearn": "scikit-learn"}
PEERS |= {"usearch": "usearch"}  # module: package
