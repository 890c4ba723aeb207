"""Graphs against brute force, and against what scikit-learn makes."""

from __future__ import annotations

import numpy as np
import pytest
import reference

pytest.importorskip("scipy", reason="needs the extra neighbors")

from scipy import sparse

from stope.neighbors import connected_components, neighbor_graph, precomputed_knn
from stope.neighbors.graph import join


def rows(n=60, dim=5, seed=0, duplicates=True):
    random = np.random.default_rng(seed)
    x = random.standard_normal((n, dim)).astype(np.float32)
    if duplicates:
        x[7] = x[3] = x[40]
    return x


def brute(x, k, metric):
    """Edges i -> j by canonical scores: a dense matrix of scores, NaN where there is none."""
    scores = reference.canonical(x, x, metric)
    dense = np.full(scores.shape, np.nan, np.float32)
    for i, line in enumerate(scores):
        others = [j for j in sorted(range(len(x)), key=lambda j: (-line[j], j)) if j != i][:k]
        dense[i, others] = line[others]
    return dense


def dense_of(graph):
    """Stored entries, NaN elsewhere: a weight of 0 is an edge."""
    edges = graph.tocoo()
    dense = np.full(graph.shape, np.nan, np.float32)
    dense[edges.row, edges.col] = edges.data
    return dense


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_graphs_are_those_of_all_scores(metric):
    x = rows()
    x[11] = 0
    directed = brute(x, 4, metric)
    there = ~np.isnan(directed)
    scores = reference.canonical(x, x, metric)
    graphs = {"directed": there, "symmetric": there | there.T, "mutual": there & there.T}
    for kind, edges in graphs.items():
        graph = neighbor_graph(x, 4, metric=metric, kind=kind)
        np.testing.assert_array_equal(dense_of(graph), np.where(edges, scores, np.nan))
        assert graph.has_sorted_indices
        assert graph.dtype == np.float32
        ones = neighbor_graph(x, 4, metric=metric, kind=kind, weights="connectivity")
        np.testing.assert_array_equal(ones.toarray(), edges)
    assert not np.array_equal(graphs["mutual"], graphs["symmetric"])
    assert not there.diagonal().any()


def test_distances():
    x = rows()
    for metric in ("cosine", "euclidean"):
        scores = dense_of(neighbor_graph(x, 3, metric=metric))
        distances = dense_of(neighbor_graph(x, 3, metric=metric, weights="distance"))
        expected = 1 - scores if metric == "cosine" else -scores
        np.testing.assert_array_equal(distances, np.maximum(expected, 0))
        assert np.nanmin(distances) == 0  # the duplicates: their edges are there
    with pytest.raises(ValueError, match="metric is 'dot', and dot products are no distances"):
        neighbor_graph(x, 3, metric="dot", weights="distance")


def test_small_and_wide():
    x = rows(4, duplicates=False)
    assert neighbor_graph(x[:1], 3).nnz == 0
    assert neighbor_graph(x, 99).nnz == 12
    np.testing.assert_array_equal(neighbor_graph(x, 3).toarray(), neighbor_graph(x, 99).toarray())


def test_components_by_search():
    random = np.random.default_rng(0)
    for count in (1, 5, 40):
        edges = random.integers(0, count, (2, count // 2))
        labels = np.arange(count)
        for _ in range(count):
            for a, b in edges.T:
                labels[[a, b]] = min(labels[a], labels[b])
        _, expected = np.unique(labels, return_inverse=True)  # by first row: labels are first rows
        made = join(*edges, count)
        assert np.array_equal(made.labels, expected)
        assert made.number == expected.max() + 1
        graph = sparse.coo_matrix((np.zeros(len(edges.T)), tuple(edges)), shape=(count, count))
        assert np.array_equal(connected_components(graph).labels, expected)


def edges_in(library, graph):
    """(row, other row, weight) of each edge, as another library reads the graph."""
    if library == "igraph":
        read = pytest.importorskip(library).Graph.Weighted_Adjacency(graph, mode="undirected")
        return [(*edge.tuple, edge["weight"]) for edge in read.es]
    read = pytest.importorskip(library).from_scipy_sparse_array(graph)
    return [(i, j, edge["weight"]) for i, j, edge in read.edges(data=True)]


@pytest.mark.parametrize("library", ["igraph", "networkx"])
@pytest.mark.parametrize("weights", ["score", "distance"])
def test_other_libraries_read_it(library, weights):
    """The same edges with the same weights, those of duplicates with distance 0 among them."""
    graph = neighbor_graph(rows(), 2, weights=weights)
    expected = dense_of(graph)
    assert (expected == 0).any() == (weights == "distance")
    edges = edges_in(library, graph)
    read = np.full(graph.shape, np.nan, np.float32)
    for i, j, weight in edges:
        read[i, j] = read[j, i] = weight
    np.testing.assert_array_equal(read, expected)
    assert len(edges) == graph.nnz // 2


def test_components_are_those_of_networkx():
    networkx = pytest.importorskip("networkx")
    graph = neighbor_graph(rows(), 2)
    read = networkx.from_scipy_sparse_array(graph)
    assert connected_components(graph).number == networkx.number_connected_components(read)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("mode", ["distance", "connectivity"])
def test_the_transformer_is_that_of_scikit_learn(metric, mode):
    sk = pytest.importorskip("sklearn.neighbors")
    from stope.neighbors.transformer import NeighborTransformer

    x, new = rows(duplicates=False), rows(9, seed=1, duplicates=False)
    ours = NeighborTransformer(4, mode=mode, metric=metric)
    theirs = sk.KNeighborsTransformer(n_neighbors=4, mode=mode, metric=metric, algorithm="brute")
    for a, b in (
        (ours.fit_transform(x), theirs.fit_transform(x)),
        (ours.fit(x).transform(new), theirs.fit(x).transform(new)),
    ):
        assert a.shape == b.shape
        assert np.array_equal(a.indptr, b.indptr)
        assert np.array_equal(dense_of(a) >= 0, dense_of(b) >= 0)
        assert dense_of(a) == pytest.approx(dense_of(b), abs=1e-3, nan_ok=True)
    graph = NeighborTransformer(3).fit_transform(rows())
    assert (graph.indices.reshape(-1, 4)[:, 0] == np.arange(60)).all()  # duplicates, too


def test_the_transformer_in_a_pipeline():
    cluster = pytest.importorskip("sklearn.cluster")
    from sklearn.base import clone
    from sklearn.pipeline import make_pipeline

    from stope.neighbors.transformer import NeighborTransformer

    x = np.float32([[0], [0.1], [0.2], [9], [9.1], [9.2]])
    pipeline = make_pipeline(
        NeighborTransformer(2), cluster.DBSCAN(eps=0.5, min_samples=2, metric="precomputed")
    )
    assert clone(pipeline).fit_predict(x).tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(ValueError, match="n_neighbors is 9, with 10 entries a row, but X has 6"):
        NeighborTransformer(9).fit(x)
    with pytest.raises(TypeError, match="X has dtype float64; cast it to float32"):
        NeighborTransformer(2).fit(x.astype(float))
    with pytest.raises(TypeError, match="X is a csr_matrix; give a dense array"):
        NeighborTransformer(2).fit(sparse.csr_matrix(x))
    with pytest.raises(ValueError, match="X has a NaN or an infinity in row 1"):
        NeighborTransformer(1).fit(np.float32([[0], [np.nan]]))


def test_the_transformer_checks_columns_as_scikit_learn_does():
    pandas = pytest.importorskip("pandas")
    from sklearn.pipeline import make_pipeline

    from stope.neighbors.transformer import NeighborTransformer

    x = rows(20, duplicates=False)
    table = pandas.DataFrame(x, columns=[f"c{column}" for column in range(x.shape[1])])
    ours = NeighborTransformer(3)
    plain = ours.fit_transform(x)
    assert (ours.fit_transform(table) != plain).nnz == 0
    assert (ours.transform(table) != ours.fit(x).transform(x)).nnz == 0
    ours.fit(table)
    with pytest.raises(ValueError, match="feature names should match"):
        ours.transform(table[table.columns[::-1]])
    with pytest.raises(ValueError, match="X has 2 features, but NeighborTransformer is expecting"):
        ours.fit(x).transform(x[:, :2].copy())
    made = make_pipeline(ours).set_output(transform="default").fit_transform(x)
    assert (made != plain).nnz == 0
    assert ours.get_feature_names_out()[19] == "neighbortransformer19"


def test_precomputed_knn_begins_with_the_row_itself():
    x = rows()
    indices, distances = precomputed_knn(x, 5)
    assert np.array_equal(indices[:, 0], np.arange(60))
    assert (distances[:, 0] == 0).all()
    directed = brute(x, 4, "euclidean")
    for row in range(60):
        assert np.array_equal(-directed[row, indices[row, 1:]], distances[row, 1:])
    assert (np.diff(distances) >= 0).all()
    with pytest.raises(ValueError, match="n_neighbors is 61, but x has 60 rows"):
        precomputed_knn(x, 61)
