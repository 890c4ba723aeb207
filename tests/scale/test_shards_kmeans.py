"""stope.scale.shards.kmeans: labels, centers, scores and inertia of one machine, bit for bit."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings

import stope
from stope.ops._exact_sum import exact_sum
from stope.scale import shards


def same(answer, whole):
    for name in ("labels", "centers", "scores", "inertia"):
        mine, theirs = getattr(answer, name), getattr(whole, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(
            mine.view(f"u{mine.itemsize}"), theirs.view(f"u{theirs.itemsize}"), name
        )
    assert answer.converged == whole.converged


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.lists(st.integers(0, 300), max_size=5),
    k=st.integers(1, 20),
    metric=st.sampled_from(["euclidean", "cosine"]),
    init=st.sampled_from(["k-means++", "random", "centers"]),
    kind=st.sampled_from(["float32", "float16", "bfloat16", "copies"]),
)
def test_clusters_of_shards_are_those_of_all_rows(seed, cuts, k, metric, init, kind):
    """Copies, and centers far away, leave clusters without rows, which get the farthest rows."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((300, 7)) * 10.0 ** rng.integers(-3, 4, 7)).astype(np.float32)
    x[rng.integers(0, 300, 9)] = 0
    if kind == "copies":
        x = x[rng.integers(0, 12, 300)]
    elif kind != "float32":
        x = x.astype(ml_dtypes.bfloat16 if kind == "bfloat16" else kind)
    if init == "centers":
        init = rng.standard_normal((k, 7)).astype(np.float32) + 50 * (np.arange(k) % 3)[:, None]
        init = init.astype(np.float32)
    options = {"metric": metric, "init": init, "seed": seed, "max_iterations": 6}
    whole = stope.kmeans(x, k, **options)
    parts = [shards.KMeansShard(part) for part in np.split(x, sorted(cuts))]
    with ThreadPoolExecutor(2) as pool:
        same(shards.kmeans(parts, k, run=pool.map, **options), whole)
    same(shards.kmeans(parts, k, **options), whole)  # shards serve again


@pytest.mark.parametrize("cut", range(9))
def test_sums_are_made_row_after_row(cut):
    """2^60 swallows the 1 that is added next: another order has another sum."""
    x = np.float32([2.0**60, 1, -(2.0**60), 1, 2.0**60, 1, -(2.0**60), 1])[:, None]
    options = {"init": np.zeros((1, 1), np.float32), "max_iterations": 1}
    whole = stope.kmeans(x, 1, **options)
    assert whole.centers.tolist() == [[1 / 8]]
    same(shards.kmeans(map(shards.KMeansShard, np.split(x, [cut])), 1, **options), whole)


@pytest.mark.parametrize("cut", range(5))
def test_the_first_of_equally_far_rows_becomes_a_center(cut):
    x = np.float32([[0, 1], [1, 0], [-1, 0], [0, -1]])
    options = {"init": np.float32([[0, 0], [90, 90]]), "max_iterations": 1}
    answer = shards.kmeans(map(shards.KMeansShard, np.split(x, [cut])), 2, **options)
    assert answer.centers.tolist() == [[0, 0], [0, 1]]
    same(answer, stope.kmeans(x, 2, **options))


def test_a_lost_shard_is_made_again():
    """Between any two calls: begun again and assigned the last centers, it goes on as it was."""

    class Lossy(shards.KMeansShard):
        def add(self, sums):
            if getattr(self, "before", None) is not None:
                before = self.before
                self.begin(9, "euclidean")
                self.assign(before)
            return super().add(sums)

    x = np.random.default_rng(1).standard_normal((900, 6)).astype(np.float32)
    parts = [Lossy(x[:200]), shards.KMeansShard(x[200:])]
    same(shards.kmeans(parts, 9), stope.kmeans(x, 9))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=64), max_size=40))
def test_exact_sums_round_once(values):
    try:
        expected = math.fsum(values)
    except OverflowError:
        return
    assert float(exact_sum(np.array(values, np.float64))) == expected


def test_progress_and_errors():
    x = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)
    told = []
    parts = [shards.KMeansShard(half) for half in (x[:20], x[20:])]
    shards.kmeans(parts, 3, progress=lambda *numbers: told.append(numbers))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1] == 50 * 27
    with pytest.raises(ValueError, match=r"shards\[1\] has dim 3 but shards\[0\] has dim 4"):
        shards.kmeans([shards.KMeansShard(x), shards.KMeansShard(x[:, :3].copy())], 3)
    with pytest.raises(ValueError, match="shards is empty"):
        shards.kmeans([], 3)
    with pytest.raises(ValueError, match="k is 51, but x has 50 rows"):
        shards.kmeans(parts, 51)
    x[30, 1] = np.nan
    with pytest.raises(ValueError, match=r"x has .*row 10"):
        shards.KMeansShard(x[20:])
    with pytest.raises(TypeError, match=r"shards\[1\] is 3; give a KMeansShard"):
        shards.kmeans([parts[0], 3], 3)
