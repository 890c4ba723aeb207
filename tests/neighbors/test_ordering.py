"""Paths over the graph and packing: what F7 promises."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope.neighbors import pack, similarity_path, without_repeats


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 6)).astype(np.float32)


@pytest.mark.parametrize("n", [1, 2, 15, 300])
@pytest.mark.parametrize("max_cluster", [None, 1, 4, 21])
@pytest.mark.parametrize("start", ["earliest", "degree"])
def test_every_document_once(n, max_cluster, start):
    path = similarity_path(rows(n), max_cluster=max_cluster, start=start)
    assert sorted(path.order.tolist()) == list(range(n))
    assert path.clusters.lengths.sum() == n
    assert np.array_equal(path.clusters.ids, path.order)
    assert (path.clusters.lengths > 0).all()


@pytest.mark.parametrize("start", ["earliest", "degree"])
def test_a_line_is_visited_monotonically(start):
    line = np.arange(40, dtype=np.float32)[:, None]
    options = {"k": 2, "metric": "euclidean", "max_cluster": None, "start": start}
    assert similarity_path(line, **options).order.tolist() == list(range(40))
    shuffled = np.random.default_rng(0).permutation(40)
    order = similarity_path(line[shuffled], **{**options, "start": "degree"}).order
    steps = np.diff(shuffled[order])
    assert set(steps.tolist()) in ({1}, {-1})


def test_each_step_goes_to_the_nearest_that_is_free():
    x = rows(120)
    path = similarity_path(x, k=9, max_cluster=21)
    walked = similarity_path(x, k=9, max_cluster=None)
    cosine = x / np.linalg.norm(x, axis=1, keepdims=True)
    scores = cosine @ cosine.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    visited = set()
    for cluster in walked.clusters.rows():
        assert min(set(range(120)) - visited) == cluster[0]
        for before, after in itertools.pairwise(cluster):
            visited.add(int(before))
            assert after == next(row for row in nearest[before] if row not in visited)
        visited.add(int(cluster[-1]))
        assert set(nearest[cluster[-1]]) <= visited
    assert path.clusters.lengths.max() >= 21


def test_small_clusters_are_merged_before_their_neighbours():
    """A chain of 4 and one document far off, whose neighbours are all in the chain."""
    x = np.float32([[0], [1], [2.1], [3.3], [-1.5]])
    path = similarity_path(x, k=2, metric="euclidean", max_cluster=4)
    assert path.order.tolist() == [4, 0, 1, 2, 3]
    assert path.clusters.num_lists == 1
    alone = np.float32([[0], [1], [2], [90], [91]])  # nobody to go to: they keep together
    path = similarity_path(alone, k=1, metric="euclidean", max_cluster=3)
    assert path.order.tolist() == [0, 1, 2, 3, 4]


def test_repeats_are_left_out():
    documents = ["iron ore is rock", "iron ore is rocks", "the deep sea", "the deep sea", "", "x"]
    kept = without_repeats(range(6), documents, threshold=0.8)
    assert kept.tolist() == [0, 2, 4, 5]
    a, b = ({text[i : i + 3] for i in range(len(text) - 2)} for text in documents[:2])
    share = len(a & b) / len(a | b)
    assert without_repeats([0, 1], documents, threshold=share).tolist() == [0, 1]
    assert without_repeats([0, 1], documents, threshold=share - 1e-9).tolist() == [0]
    assert without_repeats([2, 0, 3], documents).tolist() == [2, 0, 3]
    assert without_repeats([0, 1], documents, characters=4).tolist() == [0]
    with pytest.raises(ValueError, match="order has row 6, but there are 6 documents"):
        without_repeats([6], documents)


@given(st.lists(st.integers(0, 30), max_size=30), st.integers(1, 40), st.integers(0, 99))
def test_packing_loses_no_token(lengths, context_length, seed):
    order = np.random.default_rng(seed).permutation(len(lengths))
    contexts = pack(order, np.array(lengths, dtype=np.int64), context_length)
    stream = [(doc, token) for doc in order for token in range(lengths[doc])]
    packed, sizes = [], []
    for first, last in itertools.pairwise(contexts.offsets):
        pieces = range(first, last)
        sizes.append(0)
        for piece in pieces:
            tokens = range(contexts.starts[piece], contexts.ends[piece])
            assert len(tokens) > 0
            packed += [(contexts.documents[piece], token) for token in tokens]
            sizes[-1] += len(tokens)
    assert packed == stream
    assert all(size == context_length for size in sizes[:-1])
    assert len(sizes) == -(-len(stream) // context_length)


def test_bad_input_gets_a_sentence():
    with pytest.raises(ValueError, match="lengths has -1 for row 1; give 0 or more"):
        pack([0], [3, -1], 4)
    with pytest.raises(ValueError, match="order has row 2, but there are 2 lengths"):
        pack([2], [3, 1], 4)
    with pytest.raises(ValueError, match="start is 'first'; give one of"):
        similarity_path(rows(3), start="first")
