"""topk: shapes, ties, exclusions, ceilings and floors against the oracle's selection."""

from __future__ import annotations

import cases
import hypothesis.strategies as st
import numpy as np
import pytest
import reference
from hypothesis import given

import stope

METRICS = ("dot", "cosine", "euclidean")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 3, 15, 16, 17, 63, 64, 65, 100, 252, 384])
def test_ragged_shapes(metric, dim):
    for n in (1, 15, 16, 17, 63, 65, 200):
        queries, corpus = cases.make("gaussian", 5, n, dim)
        scores = reference.canonical(queries, corpus, metric)
        for k in sorted({1, min(10, n), n}):
            got = stope.topk(queries, corpus, k, metric=metric)
            assert got.scores.shape == got.ids.shape == (5, k)
            assert got.scores.dtype == np.float32
            assert got.ids.dtype == np.int64
            reference.assert_same(got, reference.select(scores, k), f"n={n} k={k}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1000, 5000])
@pytest.mark.parametrize("dim", [17, 100])
def test_larger_corpora_and_every_kind_of_k(metric, n, dim):
    queries, corpus = cases.make("gaussian", 9, n, dim)
    scores = reference.canonical(queries, corpus, metric)
    for k in (1, 2, 10, 99, 100, 1000, n - 1, n):
        got = stope.topk(queries, corpus, k, metric=metric)
        reference.assert_same(got, reference.select(scores, k), f"k={k}")


@pytest.mark.parametrize("metric", METRICS)
def test_many_blocks_against_the_oracle(metric):
    queries, corpus = cases.make("gaussian", 70, 60_000, 48)
    oracle = reference.similarity(queries, corpus, metric)
    bound = reference.error_bound(queries, corpus, metric)
    for k in (1, 10, 100, 1000):
        got = stope.topk(queries, corpus, k, metric=metric)
        assert (np.diff(got.scores, axis=1) <= 0).all()
        assert all(len(set(row)) == k for row in got.ids.tolist())
        pairs = np.repeat(queries, k, axis=0), corpus[got.ids.ravel()]
        expected = reference.canonical_pairs(*pairs, metric)
        np.testing.assert_array_equal(reference.bits(got.scores.ravel()), reference.bits(expected))
        # No document left out is surely better than the last one kept.
        left_out = oracle - bound
        np.put_along_axis(left_out, got.ids, -np.inf, axis=1)
        assert (left_out.max(axis=1) <= got.scores[:, -1]).all()


def test_ties_go_to_the_smaller_id():
    corpus = np.tile(np.eye(4, dtype=np.float32), (300, 1))
    queries = np.array([[0, 1, 0, 0], [1, 0, 0, 0]], np.float32)
    got = stope.topk(queries, corpus, 310)
    np.testing.assert_array_equal(got.ids[0, :300], np.arange(1, 1200, 4))
    np.testing.assert_array_equal(got.ids[1, :300], np.arange(0, 1200, 4))
    np.testing.assert_array_equal(got.ids[0, 300:], [0, 2, 3, 4, 6, 7, 8, 10, 11, 12])


def test_minus_zero_ties_with_zero():
    """An underflowing negative product is -0, which equals +0: the smaller id wins."""
    corpus = np.array([[-1e-30], [0.0], [-1e-30], [1.0], [0.0]], np.float32)
    got = stope.topk(np.array([[1e-30]], np.float32), corpus, 5)
    np.testing.assert_array_equal(got.ids, [[3, 0, 1, 2, 4]])
    expected = reference.canonical(np.array([[1e-30]], np.float32), corpus)
    reference.assert_same(got, reference.select(expected, 5))


def test_result_is_a_named_tuple():
    queries, corpus = cases.make("gaussian", 3, 20, 8)
    got = stope.topk(queries, corpus, 4)
    scores, ids = got
    assert isinstance(got, stope.TopK)
    assert scores is got.scores
    assert ids is got.ids


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", ["gaussian", "many_ties", "identical", "near_ties"])
def test_exclusions(metric, case):
    queries, corpus = cases.make(case, 6, 300, 24)
    rng = np.random.default_rng(0)
    scores = reference.canonical(queries, corpus, metric)
    best = reference.select(scores, 300)[1]
    exclude = [
        np.array([], np.int64),  # nothing
        best[1, :5],  # the very best, unsorted
        np.arange(300),  # everything
        rng.permutation(300)[:299],  # all but one
        np.array([0, 15, 16, 31, 32, 299]),  # panel edges
        best[5, 3:200],
    ]
    csr = (
        np.cumsum([0, *map(len, exclude)]).astype(np.int64),
        np.concatenate(exclude).astype(np.int64),
    )
    for k in (1, 7, 300):
        expected = reference.select(scores, k, exclude=exclude)
        assert (expected[1][2] == -1).all()
        reference.assert_same(
            stope.topk(queries, corpus, k, metric=metric, exclude=exclude), expected
        )
        reference.assert_same(stope.topk(queries, corpus, k, metric=metric, exclude=csr), expected)
        as_lists = [row.tolist() for row in exclude]
        reference.assert_same(
            stope.topk(queries, corpus, k, metric=metric, exclude=as_lists), expected
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_ceilings_and_floors_are_inclusive(metric, case):
    queries, corpus = cases.make(case, 8, 500, 40)
    scores = reference.canonical(queries, corpus, metric)
    ordered = -np.sort(-scores, axis=1)
    inf = np.float32(np.inf)
    # Exactly a score that occurs, one step beside it, and thresholds that keep all or nothing.
    ceiling = ordered[np.arange(8), [0, 1, 3, 100, 250, 499, 20, 20]].copy()
    ceiling[6], ceiling[7] = np.nextafter(ceiling[6], -inf), inf
    floor = ordered[np.arange(8), [0, 9, 3, 140, 499, 499, 60, 60]].copy()
    floor[6], floor[7] = np.nextafter(floor[6], inf), -inf
    for k in (1, 12, 500):
        for limits in (
            {"ceiling": ceiling},
            {"floor": floor},
            {"ceiling": ceiling, "floor": floor},
        ):
            got = stope.topk(queries, corpus, k, metric=metric, **limits)
            reference.assert_same(got, reference.select(scores, k, **limits), f"k={k} {[*limits]}")


@pytest.mark.parametrize("isa", stope.isa.available())
@pytest.mark.parametrize("metric", METRICS)
def test_rows_just_beyond_a_ceiling_crowd_nothing_out(metric, isa):
    """The scan cannot tell on which side they are; their lower bounds reach above all others."""
    query, corpus, near = cases.beyond_a_ceiling(np.random.default_rng(5), 3000, 40)
    scores = reference.canonical(query, corpus, metric)
    ceiling = np.nextafter(scores[:, :near].min(axis=1), np.float32(-np.inf))
    expected = reference.select(scores, 10, ceiling=ceiling)
    assert (expected[1] >= near).all()
    with stope.isa.only(isa):
        got = stope.topk(query, corpus, 10, metric=metric, ceiling=ceiling)
    reference.assert_same(got, expected)


def test_limits_that_leave_nothing_pad_the_row():
    queries, corpus = cases.make("gaussian", 2, 50, 8)
    got = stope.topk(queries, corpus, 3, floor=np.array([1e9, -1e9], np.float32))
    assert (got.ids[0] == -1).all()
    assert (got.scores[0] == -np.inf).all()
    assert (got.ids[1] >= 0).all()


@given(st.data())
def test_any_small_problem(data):
    """Small integers give exact scores with many ties under every metric's selection rules."""
    integers = st.integers
    num_queries, n, dim = (data.draw(integers(1, top)) for top in (4, 70, 20))
    metric = data.draw(st.sampled_from(METRICS))
    rng = np.random.default_rng(data.draw(integers(0, 10_000)))
    spread = data.draw(integers(1, 3))
    queries = rng.integers(-spread, spread + 1, (num_queries, dim)).astype(np.float32)
    corpus = rng.integers(-spread, spread + 1, (n, dim)).astype(np.float32)
    k = data.draw(integers(1, n))
    limits = {}
    scores = reference.canonical(queries, corpus, metric)
    if data.draw(st.booleans()):
        limits["exclude"] = [rng.permutation(n)[: rng.integers(0, n + 1)] for _ in queries]
    for name in ("ceiling", "floor"):
        if data.draw(st.booleans()):
            limits[name] = scores[np.arange(num_queries), rng.integers(0, n, num_queries)]
    got = stope.topk(queries, corpus, k, metric=metric, **limits)
    reference.assert_same(got, reference.select(scores, k, **limits))


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.02), ("bfloat16", 0.006)])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("isa", stope.isa.available())
def test_approximate_precisions_come_close(precision, error, metric, isa, threads):
    """Errors in units of |q| |x|, as the docstring states them."""
    queries, corpus = cases.make("gaussian", 20, 3000, 64)
    exact = stope.topk(queries, corpus, 50, metric=metric).ids.tolist()
    with stope.isa.only(isa):
        got = stope.topk(queries, corpus, 50, metric=metric, precision=precision)
        for count in (1, 3):
            threads(count)
            again = stope.topk(queries, corpus, 50, metric=metric, precision=precision)
            reference.assert_same(again, (got.scores, got.ids), f"{count} threads")
    found = [len(set(a) & set(b)) / 50 for a, b in zip(got.ids.tolist(), exact, strict=True)]
    assert np.mean(found) > 1 - 5 * error
    assert (np.diff(got.scores, axis=1) <= 0).all()
    oracle = reference.similarity(queries, corpus, metric)
    expected = np.take_along_axis(oracle, got.ids, axis=1)
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(corpus[got.ids], axis=2)
    if metric == "euclidean":  # -2 q.x is the part of the squared distance that is approximate
        got_error = np.abs(got.scores.astype(np.float64) ** 2 - expected**2) / 2
    else:
        got_error = np.abs(got.scores - expected)
    assert (got_error / (1 if metric == "cosine" else norms)).max() < error


def test_out_is_written_and_returned():
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    out = np.empty((5, 3), np.float32), np.empty((5, 3), np.int64)
    got = stope.topk(queries, corpus, 3, out=out)
    assert got.scores is out[0]
    assert got.ids is out[1]
    expected = reference.select(reference.canonical(queries, corpus), 3)
    reference.assert_same(out, expected)


@pytest.mark.parametrize(
    ("scores", "ids", "kind"),
    [
        (np.empty((5, 4), np.float32), np.empty((5, 3), np.int64), ValueError),
        (np.empty((5, 3), np.float32), np.empty((4, 3), np.int64), ValueError),
        (np.empty((5, 3), np.float64), np.empty((5, 3), np.int64), TypeError),
        (np.empty((5, 3), np.float32), np.empty((5, 3), np.int32), TypeError),
        (np.empty((3, 5), np.float32).T, np.empty((5, 3), np.int64), ValueError),
    ],
)
def test_out_that_does_not_fit_is_refused(scores, ids, kind):
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    with pytest.raises(kind, match="out"):
        stope.topk(queries, corpus, 3, out=(scores, ids))


@pytest.mark.parametrize("k", [0, -1, 41])
def test_k_outside_the_corpus_is_refused(k):
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    with pytest.raises(ValueError, match=rf"\bk\b.*{k}"):
        stope.topk(queries, corpus, k)


def test_k_that_is_no_integer_is_refused():
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    with pytest.raises(TypeError, match=r"\bk\b"):
        stope.topk(queries, corpus, 2.5)


@pytest.mark.parametrize("option", [{"metric": "l2"}, {"precision": "float8"}])
def test_unknown_words_are_refused(option):
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"{name}.*'{value}'"):
        stope.topk(queries, corpus, 3, **option)


@pytest.mark.parametrize("name", ["ceiling", "floor"])
def test_wrong_limits_are_refused(name):
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    with pytest.raises(ValueError, match=name):
        stope.topk(queries, corpus, 3, **{name: np.zeros(4, np.float32)})
    limits = np.zeros(5, np.float32)
    limits[2] = np.nan
    with pytest.raises(ValueError, match=rf"{name}.*\b2\b"):
        stope.topk(queries, corpus, 3, **{name: limits})


@pytest.mark.parametrize("sign", [1, -1])
def test_the_deepest_rows_are_exact_and_deeper_ones_refused(sign):
    """Sums of int8 codes come within a factor of two of int32's largest number."""
    rng = np.random.default_rng(0)
    corpus = np.ones((40, 65_536), np.float32)
    corpus[:, ::2] += 1e-3 * rng.standard_normal((40, 1))
    scores = reference.canonical(sign * corpus[:2], corpus)
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            got = stope.topk(sign * corpus[:2], corpus, 5)
        reference.assert_same(got, reference.select(scores, 5), isa)
    deeper = np.zeros((1, 65_537), np.float32)
    with pytest.raises(ValueError, match=r"dim 65537.*65536"):
        stope.topk(deeper, deeper, 1)


def spread_sums(rng, n, dim):
    """bfloat16 rows with the same sum, each spread over its own number of elements.

    The codes lose nothing; what differs is how float32 sums round, in the scan and canonically.
    An element that dwarfs the others keeps int8 from serving.
    """
    rows = np.zeros((n, dim), np.float32)
    for row in rows:
        step = 2 ** int(rng.integers(0, 5))
        row[int(rng.integers(1, step + 1)) :: step][: dim // 32 * 32 // step - 32] = (
            1.0078125 * step
        )
        row[0] = 300
    return rows


@pytest.mark.parametrize("dim", [256, 65_536])
def test_the_rounding_of_sums_is_part_of_the_bound(dim):
    rng = np.random.default_rng(0)
    corpus = spread_sums(rng, 60 if dim > 9999 else 2000, dim)
    queries = np.full((2, dim), 1.0078125, np.float32)
    queries[1] = 1 + rng.integers(0, 2, dim) / 128
    scores = reference.canonical(queries, corpus)
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            for k in (1, 5, 20):
                got = stope.topk(queries, corpus, k)
                reference.assert_same(got, reference.select(scores, k), isa)
