"""The CUDA kernels on the emulated machine: their logic against the CPU core, bit for bit.

They run in a build with STOPE_CUDA=EMULATED. No GPU has a part in it; tests/cuda/test_gpu.py needs
one.
"""

from __future__ import annotations

import itertools

import cases
import fake_cupy
import numpy as np
import pytest
from cuda_cases import (
    DTYPES,
    METRICS,
    assert_all_same,
    assert_same,
    both_topk,
    cast,
    needs_emulation,
    to_device,
    use_budget,
)
from fake_cupy import on_device

import stope

pytestmark = needs_emulation


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    fake_cupy.install(monkeypatch)


@pytest.fixture(params=[0, 5])
def order(request, monkeypatch):
    """Blocks, warps and lanes in their natural order and in another one."""
    monkeypatch.setenv("STOPE_EMULATED_ORDER", str(request.param))


# --- similarity and pairs ----------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_similarity_of_every_dtype(metric, dtype, order):
    for rows, n, dim in ((1, 1, 1), (33, 70, 20), (5, 40, 64), (3, 31, 15)):
        queries, corpus = (cast(m, dtype) for m in cases.make("gaussian", rows, n, dim))
        assert_same(
            stope.similarity(to_device(queries), to_device(corpus), metric=metric),
            stope.similarity(queries, corpus, metric=metric),
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", cases.CASES)
def test_similarity_of_hard_cases(metric, name):
    queries, corpus = cases.make(name, 7, 40, 37)
    assert_same(
        stope.similarity(on_device(queries), on_device(corpus), metric=metric),
        stope.similarity(queries, corpus, metric=metric),
    )


def test_dtypes_mix_and_rows_may_be_strided():
    queries, corpus = cases.make("gaussian", 9, 50, 24)
    wide = np.zeros((100, 30), np.float16)
    wide[::2, 3:27] = corpus
    for q, x in ((queries, wide[::2, 3:27]), (queries[::-1], corpus[::3]), (queries, corpus[:1])):
        assert_same(stope.similarity(on_device(q), on_device(x)), stope.similarity(q, x))


# --- topk --------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_topk_of_every_dtype(metric, dtype, order):
    for rows, n, dim, k in ((1, 1, 1, 1), (5, 130, 20, 7), (3, 300, 65, 300)):
        queries, corpus = (cast(m, dtype) for m in cases.make("gaussian", rows, n, dim))
        both_topk(queries, corpus, k, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", cases.CASES)
def test_topk_of_hard_cases(metric, name):
    queries, corpus = cases.make(name, 5, 400, 40)
    both_topk(queries, corpus, 10, metric=metric)


@pytest.mark.parametrize("metric", METRICS)
def test_the_graph_on_a_device_is_that_of_the_cpu(metric):
    _, x = cases.make("duplicated", 1, 200, 24)
    there, here = (stope.knn_graph(rows, 9, metric=metric) for rows in (on_device(x), x))
    assert_same(there._asdict(), here._asdict())


@pytest.mark.parametrize("rows", [1, 127, 129])
def test_topk_of_ragged_tiles(rows, order):
    queries, corpus = cases.make("duplicated", rows, 257, 33)
    both_topk(queries, corpus, 9)


@pytest.mark.parametrize("rows", [129, 255])
def test_topk_finds_nothing_beyond_the_corpus(rows):
    """What lies behind the last row scores best by far, and fills the rest of its tile."""
    rng = np.random.default_rng(1)
    queries = rng.random((128, 32), np.float32) + 1
    memory = np.concatenate(
        [-rng.random((rows, 32), np.float32) - 1, np.ones((256, 32), np.float32)]
    )
    both_topk(queries, memory[:rows], 3)


def in_chunks_of_128_rows(monkeypatch, rows, columns, k):
    budget = use_budget(monkeypatch, lists=1, codes=1)
    plan = stope._core.cuda_topk_plan(queries=3, rows=rows, columns=columns, k=k, budget=budget)
    assert (plan["group"], plan["chunk"]) == (1, 128)


@pytest.mark.parametrize("name", ["gaussian", "near_ties"])
def test_topk_of_several_chunks(name, monkeypatch, order):
    queries, corpus = cases.make(name, 3, 2_000, 8)
    in_chunks_of_128_rows(monkeypatch, 2_000, 8, 20)
    both_topk(queries, corpus, 20)


@pytest.mark.parametrize("queries_at_once", [1, 130])
def test_topk_of_several_groups(queries_at_once, monkeypatch):
    """More queries than lists fit the budget, each with exclusions and limits of its own."""
    k, n = 6, 300
    rows = 3 if queries_at_once == 1 else 300
    budget = use_budget(
        monkeypatch, lists=queries_at_once * (2 * k + 512 + 256) * 12, codes=1 << 14
    )
    plan = stope._core.cuda_topk_plan(queries=rows, rows=n, columns=20, k=k, budget=budget)
    assert plan["group"] == plan["pass"] == min(queries_at_once, 128)
    assert plan["chunk"] == 256
    rng = np.random.default_rng(5)
    queries, corpus = cases.make("near_ties", rows, n, 20)
    scores = stope.similarity(queries, corpus)
    both_topk(queries, corpus, k)
    both_topk(
        queries,
        corpus,
        k,
        exclude=[rng.choice(n, rng.integers(0, 9), replace=False) for _ in range(rows)],
        ceiling=np.quantile(scores, 0.9, axis=1),
        floor=np.quantile(scores, 0.2, axis=1),
    )


def test_topk_of_many_equal_rows_rescores_while_it_scans(monkeypatch):
    """No bound tells equal rows apart, so lists fill up and the smallest ids have to survive."""
    queries, corpus = cases.make("identical", 3, 2_000, 4)
    in_chunks_of_128_rows(monkeypatch, 2_000, 4, 40)
    found = both_topk(queries, corpus, 40)
    np.testing.assert_array_equal(found.ids, np.tile(np.arange(40), (3, 1)))


@pytest.mark.parametrize("metric", METRICS)
def test_topk_with_exclusions_ceilings_and_floors(metric, order):
    rng = np.random.default_rng(3)
    queries, corpus = cases.make("many_ties", 9, 500, 12)
    exclude = [rng.choice(500, rng.integers(0, 60), replace=False) for _ in range(9)]
    scores = stope.similarity(queries, corpus, metric=metric)
    ceiling = np.array([np.quantile(row, q) for row, q in zip(scores, rng.random(9), strict=True)])
    floor = ceiling - np.abs(rng.standard_normal(9))
    both_topk(queries, corpus, 20, metric=metric, exclude=exclude)
    both_topk(queries, corpus, 20, metric=metric, ceiling=ceiling)
    both_topk(queries, corpus, 20, metric=metric, floor=floor)
    both_topk(queries, corpus, 20, metric=metric, exclude=exclude, ceiling=ceiling, floor=floor)
    both_topk(queries, corpus, 20, metric=metric, ceiling=floor, floor=ceiling)
    both_topk(queries, corpus, 500, metric=metric, exclude=exclude, ceiling=ceiling)


@pytest.mark.parametrize("metric", METRICS)
def test_rows_just_beyond_a_ceiling_crowd_nothing_out(metric):
    """The scan cannot tell on which side they are; their lower bounds reach above all others."""
    query, corpus, near = cases.beyond_a_ceiling(np.random.default_rng(5), 400, 32)
    scores = stope.similarity(query, corpus, metric=metric)[:, :near]
    ceiling = np.nextafter(scores.min(axis=1), np.float32(-np.inf))
    _, ids = both_topk(query, corpus, 10, metric=metric, ceiling=ceiling)
    assert (ids >= near).all()


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_the_certificate_covers_the_rounding_of_tensor_cores(metric, monkeypatch):
    """bfloat16 rows lose nothing to the codes, so the term for roundings alone has to suffice."""
    queries, corpus = (cast(m, "bfloat16") for m in cases.make("clustered", 6, 900, 64))
    monkeypatch.setenv("STOPE_EMULATED_ROUNDING", "20")
    both_topk(queries, corpus, 50, metric=metric)
    monkeypatch.setenv("STOPE_EMULATED_ROUNDING", "60000")  # the test would see it
    with pytest.raises(AssertionError):
        both_topk(queries, corpus, 50, metric=metric)


def test_topk_of_strided_rows_and_mixed_dtypes():
    queries, corpus = cases.make("gaussian", 6, 200, 24)
    wide = np.zeros((400, 30), np.float16)
    wide[::2, 3:27] = corpus
    both_topk(queries[::-1], wide[::2, 3:27], 11)
    both_topk(queries, np.broadcast_to(corpus[0], (200, 24)), 11)


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
@pytest.mark.parametrize("metric", METRICS)
def test_topk_without_the_proof_is_about_right(precision, metric):
    queries, corpus = cases.make("gaussian", 5, 300, 32)
    got = stope.topk(on_device(queries), on_device(corpus), 10, metric=metric, precision=precision)
    exact = stope.topk(queries, corpus, 10, metric=metric)
    np.testing.assert_allclose(got.scores.get(), exact.scores, rtol=0.02, atol=0.5)


# --- mining ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["top", "random"])
@pytest.mark.parametrize("counts", ["eligible", "raw"])
def test_mining(sampling, counts, order):
    queries, corpus = cases.make("clustered", 12, 400, 16)
    positives = [[i, i + 100] for i in range(12)]
    options = {
        "num_negatives": 4,
        "relative_margin": 0.05,
        "absolute_margin": 0.01,
        "min_score": -0.2,
        "exclude": [[i + 200] for i in range(12)],
        "sampling": sampling,
        "range_counts": counts,
        "range_max": 30,
    }
    assert_all_same(
        stope.mine_hard_negatives(on_device(queries), on_device(corpus), positives, **options),
        stope.mine_hard_negatives(queries, corpus, positives, **options),
    )


# --- the index ---------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_flat_index_stays_on_its_device(metric, tmp_path):
    queries, corpus = cases.make("duplicated", 5, 300, 20)
    expected = stope.topk(queries, corpus, 7, metric=metric)
    index = stope.FlatIndex(on_device(corpus[:200]), metric)
    index.add(on_device(corpus[200:]))
    assert len(index) == 300
    assert_all_same(index.search(on_device(queries), 7), expected)
    for count, k in ((5, 302), (0, 3)):
        found = index.search(on_device(queries[:count]), k)
        assert_all_same(found, stope.FlatIndex(corpus, metric).search(queries[:count], k))
    with pytest.raises(ValueError, match=r"queries are on cpu but corpus is on cuda:0"):
        index.search(queries, 7)
    with pytest.raises(ValueError, match=r"rows are on cpu but the index is on cuda:0"):
        index.add(corpus)
    bad = corpus.copy()
    bad[3, 2] = np.nan
    for refused, name in ((stope.FlatIndex, "corpus"), (index.add, "rows")):
        with pytest.raises(ValueError, match=rf"{name} has a NaN .* row 3\b"):
            refused(on_device(bad))
    assert len(index) == 300
    index.save(tmp_path / "index")
    found = stope.FlatIndex.load(tmp_path / "index").search(queries, 7)
    np.testing.assert_array_equal(found.ids, expected.ids)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_flat_index_keeps_panels_on_its_device(metric, dtype, monkeypatch):
    """In panels of 128 rows: added before, at and behind a border; scanned in several chunks."""
    queries, corpus = (cast(m, dtype) for m in cases.make("near_ties", 3, 500, 33))
    bounds = (0, 1, 128, 200, 256, 500)
    parts = [to_device(corpus[a:b]) for a, b in itertools.pairwise(bounds)]
    if dtype == "bfloat16":  # the fake library joins no tensors of torch
        parts = [to_device(corpus)]
    index = stope.FlatIndex(parts[0], metric)
    for rows in parts[1:]:
        index.add(rows)
    row_bytes = 2 * 64 + 20
    assert index._store.held.panels.shape == (4 * 128 * row_bytes,)
    expected = stope.topk(queries, corpus, 9, metric=metric)
    assert_all_same(index.search(to_device(queries), 9), expected)
    in_chunks_of_128_rows(monkeypatch, 500, 33, 9)
    assert_all_same(index.search(to_device(queries), 9), expected)
    index._store.held.panels.memory[:] = 0  # so they are what is scanned
    assert (index.search(to_device(queries), 9).ids.get() != expected.ids).any()


@pytest.mark.parametrize("texts", [False, True])
def test_flat_index_changes_and_filters_on_its_device(texts, tmp_path):
    """Against the same index on the CPU, whose tests have an oracle."""
    queries, corpus = cases.make("many_ties", 5, 300, 20)
    ids = np.random.default_rng(0).permutation(500)[:300]
    ids = [f"{id_:03}" for id_ in ids] if texts else ids.tolist()
    here, there = stope.FlatIndex(20), stope.FlatIndex(on_device(corpus[:0]))
    for index, put in ((here, lambda rows: rows), (there, on_device)):
        index.add(put(corpus[:200]), ids[:200])
        index.remove(ids[10:50])
        index.update(put(corpus[200:220]), ids[60:80])
        index.add(put(corpus[200:]), [*ids[200:290], *ids[:10]], replace=True)
        assert index.ids.tolist() == sorted({*ids[:10], *ids[50:290]})
    mask = np.arange(len(here)) % 3 > 0
    some = [ids[60 + row : 100 : 2] for row in range(5)]
    for options in ({}, {"exclude": some}, {"among": some}, {"among": mask}, {"exclude": ids[::2]}):
        expected = here.search(queries, 9, **options)
        for index in (there, here):
            found = index.search(on_device(queries), 9, **options)
            assert_same(found.scores, expected.scores)
            named = found.ids if texts else found.ids.get()  # strings are nowhere else
            np.testing.assert_array_equal(named, expected.ids)
    np.testing.assert_array_equal(there.reconstruct(ids[60:70]).get(), here.reconstruct(ids[60:70]))
    for index in (here, there):
        index.save(tmp_path / str(index is here))
    assert (tmp_path / "True").read_bytes() == (tmp_path / "False").read_bytes()
    answers = there.range_search(on_device(queries), 0.5)
    for mine, theirs in zip(here.range_search(queries, 0.5), answers, strict=True):
        np.testing.assert_array_equal(theirs, mine)


# --- the border --------------------------------------------------------------------------------

OPERATIONS = {
    "similarity": lambda q, x: stope.similarity(q, x),
    "topk": lambda q, x: stope.topk(q, x, 2).scores,
    "mine_hard_negatives": lambda q, x: (
        stope.mine_hard_negatives(q, x, [[0]] * len(q), 2, metric="dot").scores
    ),
}
every_operation = pytest.mark.parametrize("call", OPERATIONS.values(), ids=OPERATIONS)


@pytest.fixture
def arrays():
    return cases.make("gaussian", 6, 50, 20)


@every_operation
def test_results_come_back_on_the_device_of_the_queries(call, arrays):
    queries, corpus = arrays
    got = call(on_device(queries, 1), on_device(corpus, 1))
    assert (type(got), got.device) == (fake_cupy.ndarray, 1)


@every_operation
def test_arrays_on_different_devices_are_refused_by_name(call, arrays):
    queries, corpus = arrays
    pairs = [
        (queries, on_device(corpus, 1), "queries are on cpu but corpus is on cuda:1"),
        (on_device(queries, 0), on_device(corpus, 1), "cuda:0 but corpus is on cuda:1"),
    ]
    if call is OPERATIONS["similarity"]:  # the others stream a corpus from host memory
        pairs.append((on_device(queries), corpus, "queries are on cuda:0 but corpus is on cpu"))
    for q, x, said in pairs:
        with pytest.raises(ValueError, match=said):
            call(q, x)


@every_operation
def test_a_device_that_fails_is_a_runtime_error_with_the_call(call, arrays):
    queries, corpus = (on_device(rows, 9) for rows in arrays)
    with pytest.raises(RuntimeError, match=r"cudaSetDevice failed"):
        call(queries, corpus)


@every_operation
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_argument_and_row(call, value, arrays):
    for row, column in ((0, 0), (37, 19), (49, 16)):
        queries, corpus = (rows.copy() for rows in arrays)
        corpus[row, column] = value
        if call is OPERATIONS["mine_hard_negatives"]:
            corpus[[0, row]] = corpus[[row, 0]]  # pairs are scored before the rest is read
            row = 0
        with pytest.raises(ValueError, match=rf"corpus has a NaN .*row {row}\b"):
            call(on_device(queries), on_device(corpus))
    queries, corpus = (rows.copy() for rows in arrays)
    queries[5, 7] = value
    with pytest.raises(ValueError, match=r"queries has a NaN .*row 5\b"):
        call(on_device(queries), on_device(corpus))


@every_operation
def test_rows_whose_scores_could_overflow_are_refused(call, arrays):
    queries, corpus = arrays
    corpus[0] = 3e18
    with pytest.raises(ValueError, match=r"corpus has a norm of 2\^63 .*row 0\b"):
        call(on_device(queries), on_device(corpus))


@every_operation
def test_bad_input_is_refused_as_on_the_cpu(call, arrays):
    queries, corpus = arrays
    with pytest.raises(ValueError, match=r"corpus.*strided last axis"):
        call(on_device(queries), on_device(np.asfortranarray(corpus)))
    with pytest.raises(TypeError, match=r"corpus.*float64.*float32"):
        call(on_device(queries), on_device(corpus.astype(np.float64)))
    with pytest.raises(ValueError, match="corpus has dim 20 but queries have dim 19"):
        call(on_device(queries[:, :19].copy()), on_device(corpus))
    with pytest.raises(TypeError, match="int8"):
        call(on_device(queries.astype(np.int8)), on_device(corpus))


def test_an_array_interface_alone_is_read(arrays):
    queries, corpus = arrays
    wide = np.zeros((100, 24), np.float32)
    wide[::2, :20] = corpus
    for rows in (corpus, wide[::2, :20], corpus.astype(np.float16)):
        got = stope.topk(on_device(queries), fake_cupy.InterfaceOnly(rows), 5)
        assert_all_same(got, stope.topk(queries, rows, 5))
    with pytest.raises(TypeError, match=r"InterfaceOnly on cuda:0.*torch\.from_dlpack"):
        stope.topk(fake_cupy.InterfaceOnly(queries), on_device(corpus), 5)


def test_results_are_written_where_the_caller_says(arrays):
    queries, corpus = (on_device(rows) for rows in arrays)
    out = on_device(np.zeros((6, 4), np.float32)), on_device(np.zeros((6, 4), np.int64))
    found = stope.topk(queries, corpus, 4, out=out)
    assert found.scores is out[0]
    np.testing.assert_array_equal(out[1].get(), stope.topk(*arrays, 4).ids)
    with pytest.raises(TypeError, match=r"out scores is a ndarray.*same kind"):
        stope.topk(queries, corpus, 4, out=(np.zeros((6, 4), np.float32), out[1]))
    with pytest.raises(ValueError, match=r"out scores has shape \(6, 3\)"):
        stope.topk(queries, corpus, 4, out=(on_device(np.zeros((6, 3), np.float32)), out[1]))
    with pytest.raises(TypeError, match=r"out ids has dtype int32"):
        stope.topk(queries, corpus, 4, out=(out[0], on_device(np.zeros((6, 4), np.int32))))
    with pytest.raises(ValueError, match=r"out scores is not on cuda:0"):
        stope.topk(queries, corpus, 4, out=(on_device(np.zeros((6, 4), np.float32), 1), out[1]))


def test_progress_is_reported_and_stops(arrays):
    queries, corpus = (on_device(rows) for rows in arrays)
    seen = []
    stope.topk(queries, corpus, 4, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (50, 50)

    def stop(done, total):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        stope.topk(queries, corpus, 4, progress=stop)
