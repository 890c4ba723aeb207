"""topk of many queries at once: thresholds guessed from a sample, candidates rescored by rows."""

from __future__ import annotations

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope

METRICS = ("dot", "cosine", "euclidean")
QUERIES = 160  # enough for two threads to share queries, not the corpus


@pytest.fixture(autouse=True)
def two_threads(threads):
    threads(2)


def one_by_one(queries, corpus, k, **options):
    """Batches too small for a sample or for rescoring by rows."""
    per_query = {
        name: value for name, value in options.items() if name in ("ceiling", "floor", "exclude")
    }
    rest = {name: value for name, value in options.items() if name not in per_query}
    parts = []
    for start in range(0, len(queries), 40):
        batch = slice(start, start + 40)
        own = {name: value[batch] for name, value in per_query.items()}
        parts.append(stope.topk(queries[batch], corpus, k, **own, **rest))
    return np.concatenate([p.scores for p in parts]), np.concatenate([p.ids for p in parts])


def assert_equal(got, expected, note=""):
    np.testing.assert_array_equal(got.ids, expected[1], err_msg=note)
    np.testing.assert_array_equal(
        reference.bits(got.scores), reference.bits(expected[0]), err_msg=note
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_every_kind_of_data(metric, case):
    queries, corpus = cases.make(case, QUERIES, 2500, 40)
    scores = reference.canonical(queries, corpus, metric)
    for k in (50, 300, 1200, 2500):
        got = stope.topk(queries, corpus, k, metric=metric)
        reference.assert_same(got, reference.select(scores, k), f"k={k}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8])
def test_dtypes(metric, dtype):
    queries, corpus = cases.make("gaussian", QUERIES, 2500, 70)
    if dtype is np.int8:
        queries, corpus = (np.clip(m * 30, -127, 127) for m in (queries, corpus))
    queries, corpus = queries.astype(dtype), corpus.astype(dtype)
    for precision in ("exact", "int8", "bfloat16"):
        options = {"metric": metric, "precision": precision}
        got = stope.topk(queries, corpus, 300, **options)
        assert_equal(got, one_by_one(queries, corpus, 300, **options), precision)


@pytest.mark.parametrize("metric", METRICS)
def test_exclusions_and_limits(metric):
    queries, corpus = cases.make("gaussian", QUERIES, 4000, 24)
    ordered = -np.sort(-reference.canonical(queries, corpus, metric), axis=1)
    rng = np.random.default_rng(5)
    # From one id that hardly counts to so many that the sample says nothing.
    excluded = [np.sort(rng.choice(4000, 1 + i * i // 10, replace=False)) for i in range(QUERIES)]
    limits = {
        "ceiling": ordered[np.arange(QUERIES), np.arange(QUERIES) * 20].copy(),
        "floor": ordered[np.arange(QUERIES), 4000 - 1 - np.arange(QUERIES) * 10].copy(),
    }
    for options in ({"exclude": excluded}, limits, {"exclude": excluded, **limits}):
        got = stope.topk(queries, corpus, 200, metric=metric, **options)
        expected = one_by_one(queries, corpus, 200, metric=metric, **options)
        assert_equal(got, expected, f"{[*options]}")


def sampled_rows(n, k):
    """RowSample of cpp/scan/candidates.h; another sample leaves the test below true, but idle."""
    count = min(62 * n // k, n // 16, n * k // 3200)
    mixed = (np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(
        32
    )
    return np.arange(count) * (n // count) + (mixed % np.uint64(n // count)).astype(np.int64)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("indexed", [False, True])
def test_a_sample_that_misleads_changes_no_answer(metric, indexed):
    n, k = 8000, 60
    rows = sampled_rows(n, k)
    rng = np.random.default_rng(2)
    corpus = rng.standard_normal((n, 32)).astype(np.float32) * np.float32(0.1)
    corpus[rows[:45], 0] += 3  # near every second query, and fewer than k of them
    queries = rng.standard_normal((QUERIES, 32)).astype(np.float32) * np.float32(0.1)
    queries[::2, 0] += 1
    if indexed:
        got = stope.FlatIndex(corpus, metric=metric).search(queries, k)
    else:
        got = stope.topk(queries, corpus, k, metric=metric)
    reference.assert_same(got, reference.select(reference.canonical(queries, corpus, metric), k))


def test_a_bad_row_in_the_sample_is_named_in_its_turn():
    n, k = 60_000, 60  # several regions: what the sample saw first must not be named first
    rows = sampled_rows(n, k)
    corpus = np.ones((n, 32), np.float32)
    corpus[rows[-10], 5] = np.nan
    corpus[rows[-500] - 1, 5] = np.inf
    with pytest.raises(ValueError, match=f"row {rows[-500] - 1};"):
        stope.topk(np.ones((QUERIES, 32), np.float32), corpus, k)
