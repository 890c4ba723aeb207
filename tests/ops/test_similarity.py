"""similarity against the float64 oracle and, bit by bit, against the canonical score."""

from __future__ import annotations

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope

METRICS = ("dot", "cosine", "euclidean")
DIMS = (1, 3, 15, 16, 17, 63, 64, 65, 100, 252, 384)
ROWS = (1, 15, 16, 17, 63, 65)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", DIMS)
def test_ragged_shapes_have_the_canonical_bits(metric, dim):
    for n in ROWS:
        for num_queries in (1, 4, 7):
            queries, corpus = cases.make("gaussian", num_queries, n, dim)
            got = stope.similarity(queries, corpus, metric=metric)
            assert got.shape == (num_queries, n)
            assert got.dtype == np.float32
            expected = reference.canonical(queries, corpus, metric)
            np.testing.assert_array_equal(reference.bits(got), reference.bits(expected))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_hard_values_against_oracle_and_canonical_score(metric, case):
    queries, corpus = cases.make(case, 7, 131, 37)
    got = stope.similarity(queries, corpus, metric=metric)
    error = np.abs(got - reference.similarity(queries, corpus, metric))
    assert (error <= reference.error_bound(queries, corpus, metric)).all()
    expected = reference.canonical(queries, corpus, metric)
    np.testing.assert_array_equal(reference.bits(got), reference.bits(expected))


@pytest.mark.parametrize("metric", METRICS)
def test_several_panels_and_threads(metric, threads):
    queries, corpus = cases.make("gaussian", 33, 5000, 64)
    expected = reference.bits(reference.canonical(queries, corpus, metric))
    for count in (1, 3):
        threads(count)
        got = stope.similarity(queries, corpus, metric=metric)
        np.testing.assert_array_equal(reference.bits(got), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_widened_exactly(metric, dtype):
    queries, corpus = cases.make("gaussian", 5, 77, 45)
    corpus[3], corpus[4] = 6e-8, 0.0  # a float16 denormal
    queries, corpus = queries.astype(dtype), corpus.astype(dtype)
    got = stope.similarity(queries, corpus, metric=metric)
    expected = reference.canonical(queries, corpus, metric)
    np.testing.assert_array_equal(reference.bits(got), reference.bits(expected))


def test_every_finite_half_value_is_widened_exactly():
    for dtype in (np.float16, ml_dtypes.bfloat16):
        rows = np.arange(1 << 16, dtype=np.uint16).view(dtype)
        rows = rows[np.abs(np.nan_to_num(rows.astype(np.float32), nan=np.inf)) < 2.0**63][:, None]
        assert len(rows) > 48_000
        got = stope.similarity(np.ones((1, 1), dtype), rows)[0]
        # fma(1, x, +0) turns -0 into +0 and leaves every other value as it is.
        np.testing.assert_array_equal(
            reference.bits(got), reference.bits(rows[:, 0] + np.float32(0))
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 15, 16, 63, 64, 65, 100, 384, 2100])
def test_int8_is_exact(metric, dim):
    rng = np.random.default_rng(dim)
    queries = rng.integers(-128, 128, (6, dim), dtype=np.int8)
    corpus = rng.integers(-128, 128, (50, dim), dtype=np.int8)
    queries[0], corpus[0], corpus[1] = -128, -128, 127  # the largest sums; beyond 2^24 at dim 2100
    got = stope.similarity(queries, corpus, metric=metric)
    expected = reference.canonical(queries, corpus, metric)
    np.testing.assert_array_equal(reference.bits(got), reference.bits(expected))


def test_known_values():
    queries = np.array([[3.0, 4.0]], np.float32)
    corpus = np.array([[3.0, 4.0], [0.0, 0.0], [-4.0, 3.0], [-6.0, -8.0]], np.float32)
    np.testing.assert_array_equal(stope.similarity(queries, corpus), [[25, 0, 0, -50]])
    np.testing.assert_allclose(
        stope.similarity(queries, corpus, metric="cosine"), [[1, 0, 0, -1]], atol=1e-7
    )
    np.testing.assert_allclose(
        stope.similarity(queries, corpus, metric="euclidean"), [[0, -5, -(50**0.5), -15]], rtol=1e-7
    )


def test_out_is_written_and_returned():
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    out = np.full((5, 40), np.nan, np.float32)
    assert stope.similarity(queries, corpus, out=out) is out
    np.testing.assert_array_equal(out, stope.similarity(queries, corpus))


@pytest.mark.parametrize(
    ("out", "kind"),
    [
        (np.empty((5, 39), np.float32), ValueError),
        (np.empty((5, 40), np.float64), TypeError),
        (np.empty((40, 5), np.float32).T, ValueError),
        (np.empty(200, np.float32), ValueError),
    ],
)
def test_out_that_does_not_fit_is_refused(out, kind):
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    with pytest.raises(kind, match="out"):
        stope.similarity(queries, corpus, out=out)


def test_read_only_out_is_refused():
    queries, corpus = cases.make("gaussian", 5, 40, 20)
    out = np.zeros((5, 40), np.float32)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out"):
        stope.similarity(queries, corpus, out=out)
    assert (out == 0).all()


def test_unknown_metric_is_refused():
    queries, corpus = cases.make("gaussian", 2, 4, 8)
    with pytest.raises(ValueError, match=r"metric.*'manhattan'.*cosine"):
        stope.similarity(queries, corpus, metric="manhattan")


def test_the_deepest_int8_rows_are_exact_and_deeper_ones_refused():
    rows = np.full((2, 65_536), -128, np.int8)
    rows[1] = 127
    expected = np.array([[128 * 128, -128 * 127], [-128 * 127, 127 * 127]]) * 65_536.0
    np.testing.assert_array_equal(stope.similarity(rows, rows), expected.astype(np.float32))
    deeper = np.zeros((1, 65_537), np.int8)
    with pytest.raises(ValueError, match=r"dim 65537.*65536"):
        stope.similarity(deeper, deeper)
