"""Graphs of nearest neighbours as sparse matrices, for scipy, networkx, igraph and UMAP."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import choice, integer
from stope._extras import need
from stope._kinds import at_least, kinds, matrix, offering
from stope.lists import Ids
from stope.neighbors._embeddings import rows_of
from stope.ops._search import METRICS, Metric
from stope.progress import Progress

Kind = Literal["directed", "symmetric", "mutual"]
Weights = Literal["score", "distance", "connectivity"]


class Components(NamedTuple):
    """Which rows hang together: how many groups, and int64 ``[n]``, the group of each row."""

    number: int
    labels: Ids


@kinds(x=matrix, k=at_least(1), operations=offering("knn_graph"))
def neighbor_graph(
    x: Any,
    k: int,
    *,
    metric: Metric = "cosine",
    kind: Kind = "symmetric",
    weights: Weights = "score",
    operations: Any = stope,
    progress: Progress | None = None,
) -> Any:
    """The graph of every row's k nearest other rows, exact, as a scipy CSR matrix.

        directed: i -> j where j is one of the k nearest of i
        symmetric: i - j where i -> j or j -> i          mutual: where i -> j and j -> i

    A row is never its own neighbour, not even among duplicates; ties go to the lower row. Scores
    are symmetric to the bit, so both directions of an edge weigh the same. An edge whose weight is
    0 is stored, and counts for everything that reads the structure.

    Args:
        x: ``[n, dim]``, of any kind `stope.topk` takes.
        k: neighbours of a row; n - 1 where that is less.
        metric: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        kind: ``"directed"``, ``"symmetric"`` or ``"mutual"``.
        weights: ``"score"``; ``"distance"``: 1 - cosine, or the euclidean distance; or
            ``"connectivity"``: 1.
        operations: who computes: this process, `KeptOperations` (which goes on where it was
            stopped), or `stope.scale.ray.Operations`; the graph is the same.
        progress: called now and then with (done, total).

    Returns:
        scipy.sparse.csr_matrix, float32 ``[n, n]``, columns ascending in each row:
        ``networkx.from_scipy_sparse_array``, ``igraph.Graph.Weighted_Adjacency`` and
        ``scipy.sparse.csgraph`` take it.

    Raises:
        ImportError: scipy is missing (the extra ``neighbors``).
        ValueError: a distance of dot products, an empty matrix, NaN or infinity (naming the row).

    Memory: that of the search, and 60 bytes an edge.

    Source: kNN graphs are the input of docs/methods.md, F5 and F7.

    >>> x = np.float32([[1, 0], [0.9, 0.1], [0, 1]])
    >>> neighbor_graph(x, 1).nonzero()[1].tolist()
    [1, 0, 2, 1]
    >>> neighbor_graph(x, 1, kind="mutual", weights="connectivity").toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    rows = rows_of(x, "x")
    choice(metric, "metric", METRICS)
    choice(kind, "kind", get_args(Kind))
    choice(weights, "weights", get_args(Weights))
    sparse = need("scipy.sparse", extra="neighbors")
    n, width = len(rows), min(integer(k, "k", 1), len(rows) - 1)
    if weights == "distance":
        distances(np.zeros(0, np.float32), metric)  # dot has none: say so before the search
    if width == 0:
        return sparse.csr_matrix((n, n), dtype=np.float32)
    nearest = operations.knn_graph(rows, width, metric=metric, progress=progress)
    sources = np.repeat(np.arange(n), width)
    values, keys = nearest.scores.reshape(-1), sources * n + nearest.ids.reshape(-1)
    back = nearest.ids.reshape(-1) * n + sources
    if kind == "symmetric":
        keys, values = np.concatenate([keys, back]), np.concatenate([values, values])
    elif kind == "mutual":
        both = np.isin(keys, back)
        keys, values = keys[both], values[both]
    keys, first = np.unique(keys, return_index=True)
    values = values[first]
    if weights == "distance":
        values = distances(values, metric)
    elif weights == "connectivity":
        values = np.ones_like(values)
    offsets = np.searchsorted(keys, np.arange(n + 1) * n)
    return sparse.csr_matrix((values, keys % n, offsets), shape=(n, n))


def distances(scores: NDArray[np.float32], metric: str) -> NDArray[np.float32]:
    """What scores are as distances, not negative: 1 - cosine, or minus the euclidean score.

    >>> distances(np.float32([1, 0.25]), "cosine").tolist()
    [0.0, 0.75]
    """
    if metric == "dot":
        raise ValueError(
            "metric is 'dot', and dot products are no distances; give 'cosine' or 'euclidean'"
        )
    values = 1 - scores if metric == "cosine" else -scores
    return np.asarray(np.maximum(values, 0), dtype=np.float32)


def connected_components(graph: Any) -> Components:
    """Groups of rows that edges connect, whatever their direction and weight.

    Args:
        graph: a sparse matrix ``[n, n]``, such as `neighbor_graph` returns.

    Returns:
        ``Components(number, labels)``; groups are numbered in the order of their first rows.

    Raises:
        TypeError: no sparse matrix.
        ValueError: one that is not square.

    Memory: a copy of the graph's structure.

    >>> x = np.float32([[1, 0], [0, 1], [0.9, 0.1], [0.1, 0.9]])
    >>> connected_components(neighbor_graph(x, 1)).labels.tolist()
    [0, 1, 0, 1]
    """
    sparse = need("scipy.sparse", extra="neighbors")
    if not sparse.issparse(graph):
        raise TypeError(f"graph is a {type(graph).__name__}; give a scipy sparse matrix")
    if graph.shape[0] != graph.shape[1]:
        raise ValueError(f"graph has shape {graph.shape}; give a square one, [rows, rows]")
    edges = graph.tocoo()
    return join(edges.row, edges.col, graph.shape[0])


def join(rows: Any, ids: Any, count: int) -> Components:
    """The components of so many rows that pairs (row, id) connect, numbered by their first row.

    >>> join([0, 3], [2, 4], 5).labels.tolist()
    [0, 1, 0, 2, 2]
    """
    sparse = need("scipy.sparse", extra="neighbors")
    search = need("scipy.sparse.csgraph", extra="neighbors")
    edges = (np.ones(len(rows), np.float32), (rows, ids))
    graph = sparse.csr_matrix(edges, shape=(count, count))
    number, labels = search.connected_components(graph, directed=False)
    return Components(int(number), labels.astype(np.int64))


@kinds(x=matrix, n_neighbors=at_least(2))
def precomputed_knn(
    x: Any, n_neighbors: int = 15, *, metric: Metric = "euclidean"
) -> tuple[Ids, NDArray[np.float32]]:
    """Exact neighbours for ``umap.UMAP(n_neighbors, metric=..., precomputed_knn=...)``.

    UMAP counts a row as its own first neighbour: column 0 is the row itself with distance 0, and
    n_neighbors - 1 others follow, nearest first, the lower of equally near rows. Distances are
    1 - cosine, or euclidean.

    Args:
        x: ``[n, dim]``, of any kind `stope.topk` takes; n_neighbors of its rows at least.
        n_neighbors: as UMAP's, the row itself included.
        metric: as UMAP's: ``"euclidean"`` or ``"cosine"``.

    Returns:
        (indices, distances): int64 and float32 ``[n, n_neighbors]``.

    Raises:
        ValueError: more neighbours than rows, another metric, NaN or infinity (naming the row).

    Memory: the result twice, and that of the search.

    Source: umap-learn's parameter ``precomputed_knn``; version 0.5.12 was run by hand and took both
    arrays as they are. It warns that `UMAP.transform` of new rows needs an index of its own.

    >>> precomputed_knn(np.float32([[0], [1], [3]]), 2)[0].tolist()
    [[0, 1], [1, 0], [2, 1]]
    """
    rows = rows_of(x, "x")
    choice(metric, "metric", ("euclidean", "cosine"))
    if n_neighbors > len(rows):
        raise ValueError(f"n_neighbors is {n_neighbors}, but x has {len(rows)} rows; give fewer")
    nearest = stope.knn_graph(rows, n_neighbors - 1, metric=metric)
    own = np.arange(len(rows))[:, None]
    zero = np.zeros((len(rows), 1), np.float32)
    return np.hstack([own, nearest.ids]), np.hstack([zero, distances(nearest.scores, metric)])
