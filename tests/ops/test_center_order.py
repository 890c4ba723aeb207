"""The order of centers in k-means: what it puts side by side, and that no bit depends on it."""

from __future__ import annotations

import numpy as np
import pytest

import stope
from stope import _arrays, _core
from stope.ops._center_order import settled_order, side_by_side


def normal(seed, rows, dim):
    return np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)


def test_an_order_is_a_permutation():
    x = normal(5, 6, 4)
    labels, scores, reached = np.zeros(6, np.int64), np.zeros(6, np.float32), np.zeros((6, 1))
    for order in ([0, 1, 1], [0, 1, 3], [-1, 1, 2]):
        with pytest.raises(ValueError, match=r"order has .* give each of the 3 centers once"):
            _core.nearest_centers(
                rows=x, centers=x[:3], before=None, metric="euclidean", labels=labels,
                order=np.array(order), scores=scores, reached=reached.astype(np.float32),
                threads=1, allocate=_arrays.workspace, progress=None,
            )  # fmt: skip


@pytest.mark.parametrize("count", [1, 15, 17, 63, 1000])
def test_each_center_is_there_once(count):
    centers = normal(0, count, 5)
    for group in (16, 32):
        order = side_by_side(centers, np.arange(count) % 3, group)
        assert np.array_equal(np.sort(order), np.arange(count))
    order = side_by_side(np.zeros((count, 5), np.float32), np.zeros(count), 16)
    assert np.array_equal(np.sort(order), np.arange(count))


def test_groups_are_of_like_centers_of_like_widths():
    """Wide and narrow clusters around 8 places: within a group they differ less than in all."""
    random = np.random.default_rng(1)
    place, width = random.integers(0, 8, 512), random.random(512)
    centers = 3 * normal(2, 8, 12)[place] + normal(3, 512, 12)
    groups = side_by_side(centers, width, 16).reshape(-1, 16)
    assert np.mean(centers[groups].var(axis=1)) < 0.5 * np.mean(centers.var(axis=0))
    assert np.mean(width[groups].var(axis=1)) < 0.2 * width.var()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_an_order_is_settled_where_bounds_are_of_little_use(metric):
    centers = normal(4, 1024, 8)
    good, bad, score = (-4, -1.0001, -1) if metric == "euclidean" else (0.1, 0.499, 0.5)
    state = {
        "labels": np.zeros(9, np.int64),
        "scores": np.full(9, score, np.float32),
        "before": centers,
        "centers": centers + np.float32(0.01),
        "metric": metric,
    }
    far, near = (np.full((9, 64), bound, np.float32) for bound in (good, bad))
    assert np.array_equal(settled_order(far, **state), np.arange(1024))
    assert (far == np.float32(good)).all()
    assert not np.array_equal(settled_order(near, **state), np.arange(1024))
    assert np.isposinf(near).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_an_order_changes_no_bit(metric, monkeypatch):
    """400 centers: in the order of their numbers, and put in another one after the first pass."""
    x = normal(6, 3000, 24)
    answers = []
    for enough in (-1, 2):
        monkeypatch.setattr("stope.ops._center_order._ENOUGH", enough)
        clusters = stope.kmeans(x, 400, metric=metric, init="random", max_iterations=6)
        answers.append([np.asarray(part).tobytes() for part in clusters])
    assert answers[0] == answers[1]
    best = stope.topk(x, clusters.centers, 1, metric=metric)
    assert np.array_equal(clusters.labels, best.ids[:, 0])
