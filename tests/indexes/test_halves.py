"""Codes of half as many bits, which an index reads first: the same answers, whatever they drop."""

from __future__ import annotations

import copy

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope
from stope.ops import _search

METRICS = ("dot", "cosine", "euclidean")


@pytest.fixture(autouse=True)
def halves_for_all(monkeypatch):
    """Small indexes, several queries and any k go by them, too."""
    monkeypatch.setattr(_search, "_LEAST_FOR_HALVES", 0)
    monkeypatch.setattr(_search, "_MOST_QUERIES_FOR_HALVES", 1 << 30)
    monkeypatch.setattr(_search, "_MOST_K_FOR_HALVES", 1 << 30)


def on_every_isa(queries, index, k, expected, threads, **options):
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            for count in (1, 3):
                threads(count)
                got = index.search(queries, k, **options)
                reference.assert_same(got, expected, f"{isa}, {count} threads, {[*options]}")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_hard_inputs(case, metric, threads):
    queries, corpus = cases.make(case, 5, 900, 52)
    index = stope.FlatIndex(corpus, metric)
    scores = reference.canonical(queries, corpus, metric)
    for k in (1, 30, 900):
        expected = reference.select(scores, k)
        on_every_isa(queries, index, k, expected, threads)
    on_every_isa(queries[:1], index, 7, reference.select(scores[:1], 7), threads)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", ["many_ties", "near_ties", "increasing", "outlier_rows"])
def test_exclusions_and_limits(case, metric, threads):
    queries, corpus = cases.make(case, 4, 800, 40)
    index = stope.FlatIndex(corpus, metric)
    scores = reference.canonical(queries, corpus, metric)
    ordered = -np.sort(-scores, axis=1)
    exclude = [reference.ranking(row)[5:60:2] for row in scores]
    options = {"exclude": exclude, "ceiling": ordered[:, 20], "floor": ordered[:, 300]}
    expected = reference.select(scores, 90, **options)
    on_every_isa(queries, index, 90, expected, threads, **options)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 4, 15, 17, 63, 64, 65, 130, 384])
def test_ragged_dimensions(dim, metric, threads):
    queries, corpus = cases.make("near_ties", 9, 345, dim)
    index = stope.FlatIndex(corpus, metric)
    expected = reference.select(reference.canonical(queries, corpus, metric), 50)
    on_every_isa(queries, index, 50, expected, threads)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33, 250])
def test_few_rows(rows, threads):
    queries, corpus = cases.make("gaussian", 3, rows, 48)
    index = stope.FlatIndex(corpus)
    k = min(rows, 5)
    on_every_isa(
        queries, index, k, reference.select(reference.canonical(queries, corpus), k), threads
    )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8])
def test_other_dtypes_strides_additions_and_files(dtype, metric, threads, tmp_path):
    queries, corpus = cases.make("clustered", 3, 700, 70)
    scale = 40 if dtype == np.int8 else 1
    queries, corpus = (np.clip(scale * rows, -128, 127).astype(dtype) for rows in (queries, corpus))
    expected = reference.select(reference.canonical(queries, corpus, metric), 25)
    wide = np.zeros((700, 75), dtype)
    wide[:, :70] = corpus
    index = stope.FlatIndex(wide[:300, :70], metric)
    index.add(corpus[300:315])
    index.add(corpus[315:])
    on_every_isa(queries, index, 25, expected, threads)
    index.save(tmp_path / "index")
    loaded = stope.FlatIndex.load(tmp_path / "index")
    loaded.add(corpus[:0])
    reference.assert_same(loaded.search(queries, 25), expected)


def test_lists_that_overflow(threads):
    """More rows pass than a list holds: all scores equal, far apart only by their rounding."""
    rng = np.random.default_rng(5)
    corpus = np.float32(1) + np.float32(1e-6) * rng.standard_normal((40_000, 8), dtype=np.float32)
    queries = np.ones((2, 8), np.float32)
    index = stope.FlatIndex(corpus)
    expected = reference.select(reference.canonical(queries, corpus), 20)
    for count in (1, 2):
        threads(count)
        reference.assert_same(index.search(queries, 20), expected)


def test_changes_while_others_read(threads):
    """A panel that is shared with a copy is written to beside it, halves and all."""
    queries, corpus = cases.make("gaussian", 3, 60, 33)
    index = stope.FlatIndex(corpus[:20])
    index.add(corpus[20:25])
    other = copy.copy(index)
    index.add(corpus[25:40])
    other.add(corpus[40:60])
    index.remove([3])
    index.update(corpus[41:42], [7])
    rows = corpus[:40].copy()
    rows[7] = corpus[41]
    scores = reference.canonical(queries, rows)
    scores[:, 3] = -np.inf
    on_every_isa(queries, index, 9, reference.select(scores, 9), threads)
    rows = np.vstack([corpus[:25], corpus[40:]])
    expected = reference.select(reference.canonical(queries, rows), 9)
    on_every_isa(queries, other, 9, expected, threads)


def test_halves_are_what_is_read_first():
    """With halves that promise nothing of the last rows, these are dropped unseen."""
    queries, corpus = cases.make("gaussian", 1, 640, 64)
    corpus[600] = 10 * queries[0]
    index = stope.FlatIndex(corpus)
    assert index.search(queries, 1).ids.tolist() == [[600]]
    index._store.held.halves[:] = 0
    assert index.search(queries, 1).ids.tolist() != [[600]]
