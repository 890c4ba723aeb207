"""Greedy deduplication against a loop over all pairs, in any order, with its keepers."""

from __future__ import annotations

import numpy as np
import pytest
import reference

import stope.ops.pairs_above
from stope.neighbors import deduplicate


def crowded(seed=0, rows=300, dim=16):
    """Rows around a few centers, so that chains of similar ones are long; some are equal."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((25, dim))[random.integers(0, 25, rows)]
    x = (x + 0.35 * random.standard_normal(x.shape)).astype(np.float32)
    x[random.integers(0, rows, 20)] = x[random.integers(0, rows, 20)]
    return x


def by_loop(scores, order, threshold):
    """The most similar kept row before, the lower of equal ones; itself where none is alike."""
    kept, keepers = [], np.arange(len(scores))
    for row in order:
        alike = [(-scores[row, other], other) for other in kept if scores[row, other] >= threshold]
        if alike:
            keepers[row] = min(alike)[1]
        else:
            kept.append(row)
    return np.sort(kept), keepers


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_rows_and_keepers_are_those_of_a_loop(metric):
    x = crowded()
    scores = reference.canonical(x, x, metric)
    orders = [None, np.arange(len(x))[::-1], np.random.default_rng(1).permutation(len(x))]
    for threshold in [float(q) for q in np.quantile(scores, [0.5, 0.97, 0.99])]:
        for order in orders:
            left = deduplicate(x, threshold, metric=metric, order=order)
            rows = range(len(x)) if order is None else order
            kept, keepers = by_loop(scores, rows, threshold)
            np.testing.assert_array_equal(left.kept, kept)
            np.testing.assert_array_equal(left.keepers, keepers)
            gone = np.flatnonzero(keepers != np.arange(len(x)))
            assert 0 < len(gone) < len(x)
            np.testing.assert_array_equal(left.scores[gone], scores[gone, keepers[gone]])
            assert np.isneginf(np.delete(left.scores, gone)).all()


def test_the_threshold_is_inclusive_and_not_rounded():
    x = crowded()
    scores = reference.canonical(x, x, "cosine")[np.triu_indices(len(x), 1)]
    score = np.sort(scores)[-400]
    before = len(deduplicate(x, float(score)).kept)
    assert before == len(by_loop(reference.canonical(x, x, "cosine"), range(len(x)), score)[0])
    pair = np.flatnonzero(scores == score)[0]
    two = x[[index[pair] for index in np.triu_indices(len(x), 1)]]
    assert deduplicate(two, float(score)).kept.tolist() == [0]
    assert deduplicate(two, float(score) + 1e-9).kept.tolist() == [
        0,
        1,
    ]  # float32 sees no difference


def test_pairs_come_in_chunks_of_any_size(monkeypatch):
    x = crowded()
    whole = deduplicate(x, 0.8)
    monkeypatch.setattr("stope.ops.pairs_above._CHUNK_PAIRS", 7)
    monkeypatch.setattr("stope.ops.pairs_above._FIRST_ROWS", 3)
    for part, same in zip(deduplicate(x, 0.8)[:3], whole[:3], strict=True):
        np.testing.assert_array_equal(part, same)


def test_nearest_rows_and_progress():
    x, told = crowded(), []
    left = deduplicate(x, 0.8, progress=lambda *step: told.append(step))
    nearest = stope.nearest_earlier(x, metric="cosine")
    np.testing.assert_array_equal(left.nearest.scores, nearest.scores)
    np.testing.assert_array_equal(left.nearest.ids, nearest.ids)
    assert {stage for stage, _, _ in told} == {"nearest", "duplicates"}


def test_nothing_alike_and_a_single_row():
    left = deduplicate(np.eye(4, dtype=np.float32), 0.5)
    assert left.kept.tolist() == left.keepers.tolist() == [0, 1, 2, 3]
    assert deduplicate(np.float32([[1, 2]]), 0.0).kept.tolist() == [0]
    zeros = np.zeros((3, 2), np.float32)
    assert deduplicate(zeros, 0.1).kept.tolist() == [0, 1, 2]
    assert deduplicate(zeros, 0.0).kept.tolist() == [0]


def test_wrong_calls():
    x = crowded(rows=5)
    with pytest.raises(ValueError, match="threshold is nan"):
        deduplicate(x, float("nan"))
    with pytest.raises(ValueError, match="order leaves out row 1"):
        deduplicate(x, 0.5, order=[0, 0, 2, 3, 4])
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN or an infinity in row 3"):
        deduplicate(x, 0.5)
