"""Spherical k-means, and batches of one cluster."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from batch_cases import check

from stope.training.batches import Clustered, RowNumbers, kmeans


def blobs(random, clusters, each, dim=16, noise=0.05):
    centers = random.standard_normal((clusters, dim))
    labels = np.repeat(np.arange(clusters), each)
    points = centers[labels] + noise * random.standard_normal((len(labels), dim))
    order = random.permutation(len(labels))
    return points[order].astype(np.float32), labels[order]


def test_kmeans_finds_what_is_there():
    rows, labels = blobs(np.random.default_rng(1), 5, 40)
    best = max((kmeans(rows, 5, seed=seed) for seed in range(8)), key=lambda f: f.scores.sum())
    pairs = set(zip(labels.tolist(), best.labels.tolist(), strict=True))
    assert len(pairs) == 5
    again = kmeans(rows, 5, seed=3)
    assert np.array_equal(again.labels, kmeans(rows, 5, seed=3).labels)


def test_kmeans_is_lloyd_on_the_sphere():
    """One iteration against the formulas, in float64."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((200, 6)).astype(np.float32) * random.random((200, 1)).astype(
        np.float32
    )
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    one, two = kmeans(rows, 7, iterations=1, seed=2), kmeans(rows, 7, iterations=2, seed=2)
    assert np.array_equal(one.labels, (unit @ one.centers.T).argmax(axis=1))
    means = np.stack([unit[one.labels == c].astype(np.float64).sum(axis=0) for c in range(7)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    assert two.centers == pytest.approx(means, abs=1e-6)
    scores = [kmeans(rows, 7, iterations=n, seed=2).scores.sum() for n in (1, 2, 4, 8, 30)]
    assert scores == sorted(scores)


def test_empty_clusters_are_refilled():
    rows = np.repeat(np.eye(3, dtype=np.float32), [50, 1, 1], axis=0)
    for seed in range(5):
        assert set(kmeans(rows, 3, iterations=5, seed=seed).labels.tolist()) == {0, 1, 2}


def test_kmeans_in_parts_is_kmeans(monkeypatch):
    from stope.training.batches import specs

    rows = np.random.default_rng(0).standard_normal((500, 8)).astype(np.float32)
    whole = kmeans(rows, 9, seed=1)
    monkeypatch.setattr(specs, "_CHUNK", 64)
    parts = kmeans(rows, 9, seed=1)
    assert np.array_equal(whole.labels, parts.labels)
    assert parts.centers == pytest.approx(whole.centers, abs=1e-6)


def test_batches_are_of_one_cluster():
    """TAS-B with one cluster a batch, clusters of two batches each: every batch is pure."""
    rows, labels = blobs(np.random.default_rng(0), 6, 16)
    spec = Clustered(clusters=6)
    best = next(
        seed for seed in range(50) if len(set(zip(labels, kmeans(rows, 6, seed=seed).labels,
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
    labels = kmeans(rows, 7, seed=0).labels
    pure = [len(set(labels[batch])) == 1 for batch in plan.batches(0)]
    assert np.mean(pure) >= 0.4
