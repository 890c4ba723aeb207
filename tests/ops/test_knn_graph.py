"""knn_graph: the k best others of every row, against selection without the row itself."""

from __future__ import annotations

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope
from stope.ops import knn_graph as page

METRICS = ("dot", "cosine", "euclidean")


def expected_neighbors(x, k, metric="dot"):
    scores = reference.canonical(x, x, metric)
    return reference.select(scores, k, exclude=[[row] for row in range(len(x))])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_hard_inputs(case, metric):
    _, x = cases.make(case, 1, 400, 52)
    for k in (1, 20):
        got = stope.knn_graph(x, k, metric=metric)
        reference.assert_same(got, expected_neighbors(x, k, metric), f"k={k}")


def topk_of_others(x, k, metric):
    own = np.arange(len(x) + 1)
    return stope.topk(x, x, k, metric=metric, exclude=(own, own[:-1]))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_every_isa_agrees_with_topk_without_the_row_itself(case, metric, threads):
    _, x = cases.make(case, 1, 600, 33)
    expected = topk_of_others(x, 7, metric)
    threads(3)
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            got = stope.knn_graph(x, 7, metric=metric)
        reference.assert_same(got, (expected.scores, expected.ids), isa)


@pytest.mark.parametrize("n", [255, 256, 257, 512, 1000, 1100, 1537])
def test_any_number_of_blocks_and_threads(n, threads):
    """Even and odd numbers of blocks in every round of the tournament."""
    _, x = cases.make("gaussian", 1, n, 20)
    expected = topk_of_others(x, 32, "cosine")
    for count in (1, 2, 5):
        threads(count)
        got = stope.knn_graph(x, 32, metric="cosine")
        reference.assert_same(got, (expected.scores, expected.ids), f"{count} threads")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 15, 17, 64, 384])
def test_ragged_shapes_and_every_kind_of_k(metric, dim):
    for n in (2, 16, 17, 40):
        _, x = cases.make("gaussian", 1, n, dim)
        for k in sorted({1, min(32, n - 1), min(33, n - 1), n - 1}):
            got = stope.knn_graph(x, k, metric=metric)
            assert got.scores.shape == got.ids.shape == (n, k)
            assert (got.scores.dtype, got.ids.dtype) == (np.float32, np.int64)
            reference.assert_same(got, expected_neighbors(x, k, metric), f"n={n} k={k}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8])
def test_other_dtypes(dtype, metric):
    _, x = cases.make("clustered", 1, 700, 70)
    x = np.clip((40 if dtype == np.int8 else 1) * x, -128, 127).astype(dtype)
    expected = expected_neighbors(x, 9, metric)
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            reference.assert_same(stope.knn_graph(x, 9, metric=metric), expected, isa)


def test_blocks_of_thousands_of_rows(threads):
    threads(2)
    _, x = cases.make("gaussian", 1, 20_000, 24)
    expected = topk_of_others(x, 10, "cosine")
    got = stope.knn_graph(x, 10, metric="cosine")
    reference.assert_same(got, (expected.scores, expected.ids))


def test_no_row_is_its_own_neighbor_also_among_duplicates():
    x = np.tile(np.eye(4, dtype=np.float32), (50, 1))
    got = stope.knn_graph(x, 3)
    assert (got.ids != np.arange(200)[:, None]).all()
    np.testing.assert_array_equal(got.scores, 1)
    np.testing.assert_array_equal(got.ids[0], [4, 8, 12])
    np.testing.assert_array_equal(got.ids[4], [0, 8, 12])


def test_kinds_of_arrays_in_and_out(tmp_path):
    torch = pytest.importorskip("torch")
    _, x = cases.make("duplicated", 1, 200, 16)
    expected = stope.knn_graph(x, 5)
    got = stope.knn_graph(torch.from_numpy(x), 5)
    assert isinstance(got.ids, torch.Tensor)
    reference.assert_same(got, expected)
    wide = np.zeros((400, 20), np.float32)
    wide[::2, 3:19] = x
    reference.assert_same(stope.knn_graph(wide[::2, 3:19], 5), expected)
    x.tofile(tmp_path / "x.f32")
    mapped = np.memmap(tmp_path / "x.f32", np.float32, "r", shape=x.shape)
    reference.assert_same(stope.knn_graph(mapped, 5), expected)


@pytest.mark.parametrize("k", [5, 40])
@pytest.mark.parametrize("row", [0, 150, 999])
def test_a_row_that_is_not_finite_is_named(row, k):
    _, x = cases.make("gaussian", 1, 1000, 20)
    x[row, 7] = np.nan
    x[999, 3] = np.inf
    with pytest.raises(ValueError, match=rf"x has a NaN or an infinity in row {row};"):
        stope.knn_graph(x, k)


def test_wrong_input_is_refused():
    x = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="k is 3, but a row of x has 2 others; use k=2 or less"):
        stope.knn_graph(x, 3)
    with pytest.raises(ValueError, match="k is 1, but a row of x has 0 others; give more rows"):
        stope.knn_graph(x[:1], 1)
    with pytest.raises(ValueError, match="x is empty"):
        stope.knn_graph(x[:0], 1)
    with pytest.raises(ValueError, match="k is 0"):
        stope.knn_graph(x, 0)
    with pytest.raises(TypeError, match="float64"):
        stope.knn_graph(x.astype(np.float64), 1)


def test_progress_ends_with_everything_done():
    _, x = cases.make("gaussian", 1, 1100, 20)
    told = []
    stope.knn_graph(x, 4, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_search_beyond_and_the_shared_scores_agree(monkeypatch):
    _, x = cases.make("near_ties", 1, 600, 20)
    shared = stope.knn_graph(x, 20)
    monkeypatch.setattr(page, "_MOST_SHARED", 0)
    searched = stope.knn_graph(x, 20)
    reference.assert_same(shared, (searched.scores, searched.ids))
