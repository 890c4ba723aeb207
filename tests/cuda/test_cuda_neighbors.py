"""Rows among each other on a CUDA device: the CPU's answers, bit for bit.

On the emulated machine, and with `-m gpu` on a real one. The CPU's own are held against canonical
scores in tests/ops.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference
from cuda_cases import DTYPES, METRICS, cast
from devices import DEVICES, device_called

import stope
from stope.ops import pairs_above as page


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    # The fake library poisons all memory, and few of these matrices have so many pairs.
    monkeypatch.setattr(page, "_CHUNK_PAIRS", 1 << 15)
    return device_called(request.param, monkeypatch)


def reorder(monkeypatch):
    """Blocks, warps and lanes of the emulated machine in another order, work as late as may be."""
    monkeypatch.setenv("STOPE_EMULATED_ORDER", "5")
    monkeypatch.setenv("STOPE_EMULATED_STREAMS", "all")


def rows_of(name, n, dim, dtype="float32"):
    return cast(cases.make(name, 1, n, dim)[1], dtype)


def same(device, got, expected, note=""):
    """Tuples of arrays, equal in dtype, shape and bits."""
    for mine, other in zip(got, expected, strict=True):
        mine = device.back(mine)
        assert mine.dtype == other.dtype
        np.testing.assert_array_equal(reference.bits(mine), reference.bits(other), err_msg=note)


def occurring(x, y, metric, *shares):
    """Thresholds that equal a score."""
    scores = np.sort(stope.similarity(x, y, metric=metric), axis=None)
    return [float(scores[int(share * (scores.size - 1))]) for share in shares]


def both_pairs(device, x, y=None, **options):
    expected = stope.pairs_above(x, y, **options)
    there = device.to(x), None if y is None else device.to(y)
    same(device, stope.pairs_above(*there, **options), expected, f"{options}")
    assert stope.pairs_above(*there, **options, count_only=True) == len(expected.rows)
    return expected


def both_nearest(device, x, order=None, **options):
    expected = stope.nearest_earlier(x, order, **options)
    same(device, stope.nearest_earlier(device.to(x), order, **options), expected, f"{options}")
    return expected


def in_portions(monkeypatch, name, queries):
    """The operation takes chunks of 128 rows, for so many queries at a time."""
    lists = queries * (2 * 1 + 512 + 128) * 12
    budget = stope._core.CudaTopkBudget(list_bytes=lists, code_bytes=1, block_bytes=1)
    operation = getattr(stope._core, name)
    monkeypatch.setattr(stope._core, name, lambda **given: operation(**given, budget=budget))


# --- pairs above -------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_pairs_of_every_dtype(metric, dtype, device, monkeypatch):
    reorder(monkeypatch)
    x, y = rows_of("clustered", 140, 20, dtype), rows_of("gaussian", 70, 20, dtype)
    for threshold in occurring(x, x, metric, 0.97):
        both_pairs(device, x, threshold=threshold, metric=metric)
    for threshold in occurring(x, y, metric, 0.0, 0.97):
        both_pairs(device, x[:20], y, threshold=threshold, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", cases.CASES)
def test_pairs_of_hard_cases(name, metric, device):
    x = rows_of(name, 140, 36)
    for threshold in occurring(x, x, metric, 0.7, 1.0):
        both_pairs(device, x, threshold=threshold, metric=metric)


@pytest.mark.parametrize("dim", [1, 15, 33, 64])
def test_small_pairs_of_ragged_shapes(dim, device):
    for n in (1, 2, 127, 128, 129):
        x = rows_of("gaussian", n, dim)
        (threshold,) = occurring(x, x, "dot", 0.97)
        both_pairs(device, x, threshold=threshold)
        both_pairs(device, x[:3], x, threshold=threshold)
        both_pairs(device, x, x[: n // 2 + 1], threshold=threshold)


@pytest.mark.parametrize("queries", [1, 100, 130])
def test_pairs_in_several_portions(queries, device, monkeypatch):
    in_portions(monkeypatch, "pairs_above", queries)
    x = rows_of("near_ties", 150, 8)
    for threshold in occurring(x, x, "euclidean", 0.97):
        both_pairs(device, x, threshold=threshold, metric="euclidean")
        both_pairs(device, x[::5], x, threshold=threshold, metric="euclidean")


def test_any_chunks_give_the_same_pairs(device, monkeypatch):
    """Chunks that hold less than a row's pairs, that are too small by one, and exactly full."""
    x = rows_of("duplicated", 40, 12)
    expected = stope.pairs_above(x, threshold=0.0)
    there, count = device.to(x), len(expected.rows)
    assert count > 200
    for room, first, most in ((7, 3, 20), (count - 1, 40, 40), (count, 40, 40)):
        monkeypatch.setattr(page, "_CHUNK_PAIRS", room)
        monkeypatch.setattr(page, "_FIRST_ROWS", first)
        monkeypatch.setattr(page, "_MOST_ROWS", most)
        same(device, stope.pairs_above(there, threshold=0.0), expected, f"chunks of {room}")
        chunks = []
        told = stope.pairs_above(there, threshold=0.0, sink=lambda *c, to=chunks: to.append(c))
        joined = [
            np.concatenate([device.back(p) for p in part]) for part in zip(*chunks, strict=True)
        ]
        assert told == count
        for mine, other in zip(joined, expected, strict=True):
            np.testing.assert_array_equal(mine, other)


def test_small_rows_with_hundreds_of_pairs(device, monkeypatch):
    """More entries of one row than a block has threads, all equal: ids decide."""
    reorder(monkeypatch)
    x = np.ones((600, 3), np.float32)
    expected = both_pairs(device, x[:2], x, threshold=3.0)
    assert expected.ids.tolist() == [*range(600)] * 2


def test_pairs_at_minus_zero_keep_their_bits(device):
    """Equal rows have the distance 0, and the score -0."""
    x = np.tile(np.eye(2, dtype=np.float32), (9, 1))
    expected = both_pairs(device, x, threshold=0.0, metric="euclidean")
    assert len(expected.rows) == 2 * 9 * 8 // 2
    assert np.signbit(expected.scores).all()


def test_no_pairs_and_too_many(device, monkeypatch):
    x = np.ones((100, 4), np.float32)
    there = device.to(x)
    same(device, stope.pairs_above(there, threshold=5), stope.pairs_above(x, threshold=5))
    assert stope.pairs_above(there, threshold=5, sink=lambda *chunk: 1 / 0) == 0
    assert stope.pairs_above(there, threshold=5, count_only=True) == 0
    monkeypatch.setattr(page, "_FIRST_ROWS", 10)
    with pytest.raises(
        ValueError, match=r"max_pairs is 900, but the first 10 of 100 rows have 945 p"
    ):
        stope.pairs_above(there, threshold=1, max_pairs=900)
    assert stope.pairs_above(there, threshold=1, max_pairs=4950, count_only=True) == 4950


def test_progress_of_pairs_and_a_stop(device, monkeypatch):
    monkeypatch.setattr(page, "_FIRST_ROWS", 130)
    x, told = device.to(rows_of("gaussian", 400, 8)), []
    stope.pairs_above(x, threshold=3, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (400, 400)
    assert told == sorted(told)

    def stop(done, total):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        stope.pairs_above(x, threshold=3, progress=stop)


# --- nearest earlier ---------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_nearest_of_every_dtype(metric, dtype, device, monkeypatch):
    reorder(monkeypatch)
    x = rows_of("clustered", 140, 20, dtype)
    both_nearest(device, x, metric=metric)
    both_nearest(device, x, np.random.default_rng(0).permutation(140), metric=metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", cases.CASES)
def test_nearest_of_hard_cases(name, metric, device):
    x = rows_of(name, 140, 36)
    order = np.random.default_rng(1).permutation(140)
    best = both_nearest(device, x, metric=metric)
    threshold = float(np.sort(best.scores)[70])
    both_nearest(device, x, order, metric=metric, threshold=threshold)


@pytest.mark.parametrize("dim", [1, 15, 33, 64])
def test_small_nearest_of_ragged_shapes(dim, device):
    for n in (1, 2, 128, 129):
        both_nearest(device, rows_of("gaussian", n, dim))


@pytest.mark.parametrize("queries", [1, 100, 130])
def test_nearest_in_several_portions(queries, device, monkeypatch):
    in_portions(monkeypatch, "nearest_earlier", queries)
    x, order = rows_of("near_ties", 150, 8), np.random.default_rng(2).permutation(150)
    both_nearest(device, x, metric="euclidean")
    both_nearest(device, x, order)


def test_small_ties_go_to_the_earliest_in_the_order(device):
    x = device.to(np.tile(np.eye(4, dtype=np.float32), (100, 1)))
    ids = device.back(stope.nearest_earlier(x).ids)
    np.testing.assert_array_equal(ids, [-1, 0, 0, 0, *(np.arange(4, 400) % 4)])
    ids = device.back(stope.nearest_earlier(x, np.arange(400)[::-1].copy(), threshold=0.5).ids)
    np.testing.assert_array_equal(ids, [*(np.arange(396) % 4 + 396), -1, -1, -1, -1])


def test_a_graph_keeps_limits_and_exclusions(device):
    """Those of the recording; rows are read anew."""
    x, rng = rows_of("gaussian", 300, 12), np.random.default_rng(4)
    scores = stope.similarity(x, x)
    ceiling, floor = np.quantile(scores, 0.9, axis=1), np.quantile(scores, 0.2, axis=1)
    limits = {"ceiling": ceiling.astype(np.float32), "floor": floor.astype(np.float32)}
    exclude = np.arange(0, 1801, 6), rng.integers(50, size=1800) + 50 * np.tile(np.arange(6), 300)
    kept = {name: limit.copy() for name, limit in limits.items()}
    there = device.to(np.zeros_like(x))
    stope.topk(there, there, 5, exclude=exclude, **limits)  # torch wants a call before the graph

    def both():
        return stope.topk(there, there, 5, exclude=exclude, **limits), stope.knn_graph(there, 5)

    (found, graph), replay = device.record(both)
    for limit in limits.values():
        limit[:] = np.nan
    device.write(there, x)
    replay()
    same(device, found, stope.topk(x, x, 5, exclude=exclude, **kept))
    same(device, graph, stope.knn_graph(x, 5))


def test_a_graph_captures_the_nearest_and_no_pairs(device):
    """The order is the graph's, rows are read anew."""
    x, order = rows_of("gaussian", 300, 12), np.random.default_rng(3).permutation(300)
    there, kept = device.to(np.zeros_like(x)), order.copy()
    stope.nearest_earlier(there, order)  # torch wants a call before the graph
    found, replay = device.record(lambda: stope.nearest_earlier(there, order, threshold=0.5))
    order[:] = 0
    device.write(there, x)
    replay()
    same(device, found, stope.nearest_earlier(x, kept, threshold=0.5))
    with pytest.raises(ValueError, match="pairs_above is called while the stream records a CUDA g"):
        device.record(lambda: stope.pairs_above(there, threshold=0.5))


# --- k-means -----------------------------------------------------------------------------------


def both_clusters(device, x, k, **options):
    expected = stope.kmeans(x, k, **options)
    got = stope.kmeans(device.to(x), k, **options)
    same(device, got[:3], expected[:3], f"{options}")
    assert (got.inertia.tolist(), got.converged) == (expected.inertia.tolist(), expected.converged)
    return expected


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES if dtype != "int8"])
def test_small_clusters_of_every_dtype(metric, dtype, device, monkeypatch):
    reorder(monkeypatch)
    x = rows_of("gaussian", 100, 20, dtype)
    for init in ("k-means++" if dtype == "float32" else "random", x[:3].astype(np.float32)):
        clusters = both_clusters(device, x, 3, metric=metric, init=init, max_iterations=2)
        assert len(clusters.inertia) == 3


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("name", cases.CASES)
def test_clusters_of_hard_cases(name, metric, device):
    x = rows_of(name, 140, 36)
    both_clusters(device, x, 9, metric=metric, init="random", max_iterations=2)


@pytest.mark.parametrize("dim", [1, 15, 33, 129])
def test_small_clusters_of_ragged_shapes(dim, device):
    for n, k in ((1, 1), (2, 2), (129, 5), (300, 1)):
        both_clusters(device, rows_of("gaussian", n, dim), k, max_iterations=1)


def test_small_clusters_that_lose_their_rows(device):
    """Centers far from all rows, and rows of fewer values than there are clusters."""
    x = rows_of("gaussian", 200, 8)
    start = np.concatenate([x[:3], np.full((2, 8), 1e3, np.float32)])
    assert both_clusters(device, x, 5, init=start, max_iterations=2).labels.max() == 4
    x = np.tile(np.eye(3, dtype=np.float32), (5, 1))
    x[-1] = 0  # a zero row takes no center under cosine
    for metric in ("euclidean", "cosine"):
        both_clusters(device, x, 6, metric=metric, init="random")


def test_small_clusters_tell_progress(device):
    told = []
    x, tell = device.to(rows_of("gaussian", 130, 12)), lambda *counts: told.append(counts)
    stope.kmeans(x, 4, init="random", max_iterations=1, progress=tell)
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


# --- rows and arrays ---------------------------------------------------------------------------

WITHIN = {
    "pairs_above": lambda x: stope.pairs_above(x, threshold=0),
    "count_only": lambda x: stope.pairs_above(x, threshold=0, count_only=True),
    "nearest_earlier": lambda x: stope.nearest_earlier(x, np.arange(len(x))[::-1].copy()),
    "knn_graph": lambda x: stope.knn_graph(x, 2),
    "kmeans": lambda x: stope.kmeans(x, 3, init="random", max_iterations=1)[:3],
}
every_operation = pytest.mark.parametrize("call", WITHIN.values(), ids=WITHIN)


@every_operation
@pytest.mark.parametrize("row", [0, 150, 299])
def test_small_rows_that_are_refused_are_named(call, row, device):
    for value, said in ((np.nan, "a NaN or an inf"), (np.inf, "a NaN or an inf"), (1e19, "a norm")):
        bad = rows_of("gaussian", 300, 12)
        bad[row, 7] = value
        with pytest.raises(ValueError, match=rf"^x has {said}.* row {row}\b"):
            call(device.to(bad))


def test_small_rows_of_either_matrix_are_named(device, monkeypatch):
    monkeypatch.setattr(page, "_FIRST_ROWS", 100)
    x, bad = rows_of("gaussian", 300, 12), rows_of("gaussian", 300, 12)
    bad[250, 3] = np.nan
    with pytest.raises(ValueError, match=r"^y has a NaN .*row 250\b"):
        stope.pairs_above(device.to(x), device.to(bad), threshold=0)
    with pytest.raises(ValueError, match=r"^x has a NaN .*row 250\b"):
        stope.pairs_above(device.to(bad), device.to(x), threshold=9)


@every_operation
def test_strided_rows_and_empty_matrices(call, device):
    wide = rows_of("gaussian", 300, 20)
    there, here = call(device.to(wide)[::2]), call(wide[::2])
    if not isinstance(here, int):
        same(device, there, here)
    else:
        assert there == here
    with pytest.raises(ValueError, match="x is empty"):
        call(device.to(wide)[:0])


def test_matrices_of_two_places_are_refused(device):
    x = rows_of("gaussian", 9, 4)
    for pair, said in (
        ((device.to(x), x), "x is on cuda:0 but y is on cpu"),
        ((x, device.to(x)), "x is on cpu but y is on cuda:0"),
    ):
        with pytest.raises(ValueError, match=f"{said}; move one to the other"):
            stope.pairs_above(*pair, threshold=0)
