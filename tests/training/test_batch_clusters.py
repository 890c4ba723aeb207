"""Batches of one cluster."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from batch_cases import check

import stope
from stope.training.batches import Clustered, Clusters, RowNumbers, kmeans


def blobs(random, clusters, each, dim=16, noise=0.05):
    centers = random.standard_normal((clusters, dim))
    labels = np.repeat(np.arange(clusters), each)
    points = centers[labels] + noise * random.standard_normal((len(labels), dim))
    order = random.permutation(len(labels))
    return points[order].astype(np.float32), labels[order]


def labels_of(rows, clusters, seed):
    return stope.kmeans(
        rows, clusters, metric="cosine", init="random", max_iterations=9, seed=seed
    ).labels


def test_the_name_of_before_is_understood():
    rows, _ = blobs(np.random.default_rng(1), 5, 40)
    with pytest.warns(DeprecationWarning, match="batches.kmeans is stope.kmeans"):
        clusters = kmeans(rows, 5, seed=3)
    assert isinstance(clusters, Clusters)
    assert np.array_equal(clusters.labels, labels_of(rows, 5, 3))


def test_batches_are_of_one_cluster():
    """TAS-B with one cluster a batch, clusters of two batches each: every batch is pure."""
    rows, labels = blobs(np.random.default_rng(0), 6, 16)
    spec = Clustered(clusters=6)
    best = next(
        seed for seed in range(50) if len(set(zip(labels, labels_of(rows, 6, seed),
                                                  strict=True))) == 6
    )  # fmt: skip
    table = RowNumbers(np.arange(96), np.arange(96))
    plan = spec.plan(table, 8, best, embeddings=rows)
    meets = Counter()
    for batches in check(plan, table, 8, epochs=20):
        assert sorted(row for batch in batches for row in batch) == list(range(96))
        for batch in batches:
            assert len(set(labels[batch])) == 1
            meets.update(len({a, b}) for a in batch[:1] for b in batch[1:])
    two = Clustered(clusters=6, per_batch=2).plan(table, 8, best, embeddings=rows)
    sizes = {tuple(sorted(Counter(labels[batch]).values())) for batch in two.batches(0)}
    assert sizes <= {(4, 4), (8,)}
    assert (4, 4) in sizes


def test_clusters_of_odd_sizes_leave_no_row_behind():
    random = np.random.default_rng(0)
    rows = random.standard_normal((100, 4)).astype(np.float32)
    table = RowNumbers(np.arange(100), np.arange(100))
    plan = Clustered(clusters=7).plan(table, 9, 0, embeddings=rows)
    missing = np.zeros(100, dtype=int)
    for batches in check(plan, table, 9, epochs=12):
        used = np.unique([row for batch in batches for row in batch])
        missing += 1
        missing[used] = 0
        assert missing.max() <= 3
    labels = labels_of(rows, 7, 0)
    pure = [len(set(labels[batch])) == 1 for batch in plan.batches(0)]
    assert np.mean(pure) >= 0.4
