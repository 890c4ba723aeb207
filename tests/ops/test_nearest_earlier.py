"""nearest_earlier: every row's best earlier row, the earliest of equals, against a loop."""

from __future__ import annotations

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope

METRICS = ("dot", "cosine", "euclidean")


def expected_nearest(scores, order=None, threshold=-np.inf):
    """(scores, ids) by looking at every earlier row in turn."""
    n = len(scores)
    order = np.arange(n) if order is None else order
    best, ids = np.full(n, -np.inf, np.float32), np.full(n, -1, np.int64)
    for place, row in enumerate(order):
        for earlier in order[:place]:
            score = scores[row, earlier]
            if score >= threshold and (ids[row] < 0 or score > best[row]):
                best[row], ids[row] = score, earlier
    return best, ids


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_hard_inputs(case, metric):
    _, x = cases.make(case, 1, 400, 52)
    scores = reference.canonical(x, x, metric)
    order = np.random.default_rng(0).permutation(400)
    best = expected_nearest(scores)
    reference.assert_same(stope.nearest_earlier(x, metric=metric), best)
    got = stope.nearest_earlier(x, order, metric=metric)
    reference.assert_same(got, expected_nearest(scores, order))
    threshold = float(np.sort(best[0])[200])  # the score of a row: equality decides
    got = stope.nearest_earlier(x, metric=metric, threshold=threshold)
    reference.assert_same(got, expected_nearest(scores, threshold=threshold))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", ["gaussian", "many_ties", "near_ties", "outlier_rows"])
def test_every_isa_and_number_of_threads(metric, case, threads):
    """Several blocks in every round of the tournament, odd and even numbers of them."""
    for n in (600, 1100):
        _, x = cases.make(case, 1, n, 33)
        order = np.random.default_rng(1).permutation(n)
        expected = expected_nearest(reference.canonical(x, x, metric), order)
        for isa in stope.isa.available():
            for count in (1, 3):
                threads(count)
                with stope.isa.only(isa):
                    got = stope.nearest_earlier(x, order, metric=metric)
                reference.assert_same(got, expected, f"n={n} {isa} {count} threads")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_more_rows_than_are_kept_normalised(dtype, threads):
    """Of 4,000 dims 3 MiB hold 196 rows; blocks have 256 and more."""
    rng = np.random.default_rng(2)
    centers = rng.standard_normal((9, 4000))
    x = (centers[rng.integers(9, size=600)] + rng.standard_normal((600, 4000))).astype(dtype)
    order = rng.permutation(600)
    expected = expected_nearest(stope.similarity(x, x, metric="cosine"), order)
    for isa in stope.isa.available():
        for count in (1, 3):
            threads(count)
            with stope.isa.only(isa):
                got = stope.nearest_earlier(x, order, metric="cosine")
            reference.assert_same(got, expected, f"{isa} {count} threads")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 15, 17, 64, 100])
def test_ragged_shapes(metric, dim):
    for n in (1, 2, 15, 16, 17, 255, 257):
        _, x = cases.make("gaussian", 1, n, dim)
        got = stope.nearest_earlier(x, metric=metric)
        assert (got.scores.dtype, got.ids.dtype) == (np.float32, np.int64)
        reference.assert_same(got, expected_nearest(reference.canonical(x, x, metric)), f"n={n}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8])
def test_other_dtypes(dtype, metric):
    _, x = cases.make("clustered", 1, 300, 70)
    x = np.clip((40 if dtype == np.int8 else 1) * x, -128, 127).astype(dtype)
    expected = expected_nearest(reference.canonical(x, x, metric))
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            reference.assert_same(stope.nearest_earlier(x, metric=metric), expected, isa)


def test_ties_go_to_the_earliest_in_the_order():
    x = np.tile(np.eye(4, dtype=np.float32), (300, 1))
    got = stope.nearest_earlier(x)
    np.testing.assert_array_equal(got.ids, [-1, 0, 0, 0, *(np.arange(4, 1200) % 4)])
    order = np.arange(1200)[::-1]
    last = stope.nearest_earlier(x, order, threshold=0.5)
    np.testing.assert_array_equal(last.ids, [*(np.arange(1196) % 4 + 1196), -1, -1, -1, -1])


def test_a_threshold_that_none_reaches():
    x = np.eye(5, dtype=np.float32)
    got = stope.nearest_earlier(x, threshold=0.5)
    assert (got.ids == -1).all()
    assert (got.scores == -np.inf).all()
    assert (stope.nearest_earlier(x, threshold=0.0).ids == [-1, 0, 0, 0, 0]).all()


def test_many_blocks_agree_with_a_search_among_earlier_rows(threads):
    """Blocks of thousands of rows, as in real use: topk with a floor is the second oracle."""
    threads(2)
    _, x = cases.make("clustered", 1, 20_000, 24)
    got = stope.nearest_earlier(x, metric="cosine")
    for row in (1, 4095, 4096, 8192, 12_345, 19_999):
        best = stope.topk(x[row : row + 1], x[:row], 1, metric="cosine")
        assert (got.ids[row], got.scores[row]) == (best.ids[0, 0], best.scores[0, 0])


def of_each_group(x, order, groups, **options):
    """(scores, ids) by a call for each group."""
    best, ids = np.full(len(x), -np.inf, np.float32), np.full(len(x), -1, np.int64)
    for group in np.unique(groups):
        rows = order[groups[order] == group]
        got = stope.nearest_earlier(x[rows], **options)
        best[rows] = got.scores
        ids[rows] = np.where(got.ids >= 0, rows[got.ids], -1)
    return best, ids


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", ["gaussian", "many_ties", "duplicated", "mixed_norms"])
def test_groups_are_calls_of_their_own(case, metric, threads):
    """Groups of one row and of more than a block, labels that no row has, any order of rows."""
    rng = np.random.default_rng(3)
    _, x = cases.make(case, 1, 900, 70)
    for groups in (
        rng.integers(-40, 900, 900),  # mostly of one row
        np.minimum(rng.geometric(0.4, 900), 9) * 10**12,
        np.arange(900) // 890,
        np.zeros(900, np.int32),
    ):
        order = rng.permutation(900)
        for options in ({}, {"threshold": 0.0 if metric != "euclidean" else -11.0}):
            expected = of_each_group(x, order, groups, metric=metric, **options)
            for isa in stope.isa.available():
                for count in (1, 3):
                    threads(count)
                    with stope.isa.only(isa):
                        got = stope.nearest_earlier(
                            x, order, groups=groups, metric=metric, **options
                        )
                    reference.assert_same(got, expected, f"{isa} {count} threads")
    rows = stope.nearest_earlier(x, groups=groups.tolist(), metric=metric)
    reference.assert_same(rows, stope.nearest_earlier(x, metric=metric))


def test_groups_are_told_by_hashes_of_64_bits():
    torch = pytest.importorskip("torch")
    _, x = cases.make("gaussian", 1, 6, 5)
    hashes = np.uint64([2**63 + 1, 7, 2**64 - 1, 2**63 + 1, 2**64 - 1, 7])
    expected = stope.nearest_earlier(x, groups=[0, 1, 2, 0, 2, 1])
    assert expected.ids.ravel().tolist() == [-1, -1, -1, 0, 2, 1]
    for groups in (hashes, (hashes | np.uint64(2**63)).tolist(), torch.from_numpy(hashes)):
        reference.assert_same(stope.nearest_earlier(x, groups=groups), expected)
    with pytest.raises(ValueError, match="masked elements"):
        stope.nearest_earlier(x, groups=np.ma.array(hashes, mask=hashes == 7))


def test_a_row_alone_in_its_group_is_looked_at_all_the_same():
    x = np.ones((5, 3), np.float32)
    x[3, 1] = np.nan
    with pytest.raises(ValueError, match="x has a NaN or an infinity in row 3"):
        stope.nearest_earlier(x, groups=[0, 0, 0, 1, 0])


def test_groups_that_are_refused():
    x = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="groups has 2 entries for 3 rows of x; give one for each"):
        stope.nearest_earlier(x, groups=[0, 1])
    with pytest.raises(TypeError, match=r"groups is .*; give an integer for each row, or None"):
        stope.nearest_earlier(x, groups=[0.5, 1, 2])


def test_kinds_of_arrays_in_and_out(tmp_path):
    torch = pytest.importorskip("torch")
    _, x = cases.make("duplicated", 1, 200, 16)
    order = np.random.default_rng(0).permutation(200)
    expected = stope.nearest_earlier(x, order)
    got = stope.nearest_earlier(torch.from_numpy(x), torch.from_numpy(order))
    assert isinstance(got.ids, torch.Tensor)
    reference.assert_same(got, expected)
    reference.assert_same(stope.nearest_earlier(x, order.tolist()), expected)
    wide = np.zeros((400, 20), np.float32)
    wide[::2, 3:19] = x
    reference.assert_same(stope.nearest_earlier(wide[::2, 3:19], order), expected)
    x.tofile(tmp_path / "x.f32")
    mapped = np.memmap(tmp_path / "x.f32", np.float32, "r", shape=x.shape)
    reference.assert_same(stope.nearest_earlier(mapped, order), expected)


@pytest.mark.parametrize("row", [0, 150, 999])
def test_a_row_that_is_not_finite_is_named(row):
    _, x = cases.make("gaussian", 1, 1000, 20)
    x[row, 7] = np.inf
    with pytest.raises(ValueError, match=rf"x has a NaN or an infinity in row {row};"):
        stope.nearest_earlier(x)
    with pytest.raises(ValueError, match=rf"x has a NaN or an infinity in row {row};"):
        stope.nearest_earlier(x, np.arange(1000)[::-1])


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ([0, 1], "order has 2 entries for 3 rows"),
        ([0, 1, 1], "order leaves out row 2"),
        ([0, 1, 3], "order leaves out row 2"),
        ([-1, 1, 2], "order leaves out row 0"),
    ],
)
def test_an_order_that_is_no_permutation_is_refused(order, said):
    with pytest.raises(ValueError, match=said):
        stope.nearest_earlier(np.ones((3, 4), np.float32), order)


def test_wrong_input_is_refused():
    x = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="x is empty"):
        stope.nearest_earlier(x[:0])
    with pytest.raises(TypeError, match="order"):
        stope.nearest_earlier(x, [[0, 1, 2]])
    with pytest.raises(TypeError, match="float64"):
        stope.nearest_earlier(x.astype(np.float64))
    with pytest.raises(ValueError, match="threshold"):
        stope.nearest_earlier(x, threshold=np.inf)
