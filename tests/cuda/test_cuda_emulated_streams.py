"""A corpus in host memory, searched by queries on a device: the emulated machine against the CPU.

Every test runs with copies as late as they may be, with the caller's kernels, and with both.
"""

from __future__ import annotations

import cases
import fake_cupy
import numpy as np
import pytest
from cuda_cases import (
    DTYPES,
    METRICS,
    assert_all_same,
    cast,
    needs_emulation,
    to_device,
    use_budget,
)
from fake_cupy import on_device

import stope

pytestmark = needs_emulation


@pytest.fixture(autouse=True, params=["own", "caller", "all"])
def streams(request, monkeypatch):
    fake_cupy.install(monkeypatch)
    monkeypatch.setenv("STOPE_EMULATED_STREAMS", request.param)


@pytest.fixture(params=["staged", "pinned"])
def memory(request, monkeypatch):
    """Rows that are gathered in pinned buffers, and rows that are pinned where they are."""
    if request.param == "pinned":
        monkeypatch.setenv("STOPE_EMULATED_PINNED", "1")


def small(monkeypatch, queries, corpus, k):
    """Chunks of 128 rows, groups of a few queries, several groups to a pass, several passes."""
    dim = corpus.shape[1]
    codes = 2 * (-(-dim // 32) * 32)
    budget = use_budget(
        monkeypatch,
        lists=2 * (2 * k + 512 + 128) * 12,
        codes=max(128 * codes, 4 * (codes + 12 * k)),
        block=1,
    )
    plan = stope._core.cuda_topk_plan(
        queries=len(queries), rows=len(corpus), columns=dim, k=k, in_host_memory=True, budget=budget
    )
    assert plan["chunk"] == 128
    assert plan["group"] == min(2, len(queries))
    return plan


def both(queries, corpus, k, **options):
    expected = stope.topk(queries, corpus, k, **options)
    assert_all_same(stope.topk(to_device(queries), corpus, k, **options), expected)
    return expected


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(metric, dtype, memory, monkeypatch):
    queries, corpus = (cast(m, dtype) for m in cases.make("gaussian", 5, 700, 20))
    plan = small(monkeypatch, queries, corpus, 7)
    assert plan["pass"] >= 4
    both(queries, corpus, 7, metric=metric)


@pytest.mark.parametrize("name", cases.CASES)
def test_hard_cases(name, monkeypatch):
    queries, corpus = cases.make(name, 3, 500, 24)
    small(monkeypatch, queries, corpus, 9)
    for metric in METRICS:
        both(queries, corpus, 9, metric=metric)


@pytest.mark.parametrize("rows", [1, 127, 128, 129, 256, 385])
def test_every_number_of_blocks(rows, memory, monkeypatch):
    queries, corpus = cases.make("duplicated", 3, rows, 12)
    small(monkeypatch, queries, corpus, 1)
    both(queries, corpus, 1)


def test_several_passes_of_several_groups(monkeypatch):
    """What a group keeps between two chunks is neither lost nor another group's."""
    queries, corpus = cases.make("near_ties", 300, 300, 8)
    k = 40
    budget = use_budget(monkeypatch, lists=2 * (2 * k + 640) * 12, codes=128 * 64, block=1)
    plan = stope._core.cuda_topk_plan(
        queries=300, rows=300, columns=8, k=k, in_host_memory=True, budget=budget
    )
    assert (plan["pass"], plan["group"], plan["chunk"]) == (14, 2, 128)
    both(queries[:31], corpus, k)


@pytest.mark.parametrize("metric", METRICS)
def test_exclusions_ceilings_and_floors(metric, monkeypatch):
    rng = np.random.default_rng(3)
    queries, corpus = cases.make("many_ties", 5, 500, 12)
    small(monkeypatch, queries, corpus, 20)
    scores = stope.similarity(queries, corpus, metric=metric)
    ceiling = np.quantile(scores, 0.7, axis=1)
    options = {
        "exclude": [rng.choice(500, rng.integers(0, 60), replace=False) for _ in range(5)],
        "ceiling": ceiling,
        "floor": ceiling - 1,
    }
    both(queries, corpus, 20, metric=metric, **options)


def test_rows_in_any_place(memory, monkeypatch, tmp_path):
    """Strided, reversed, repeated, read-only and on a disk."""
    queries, corpus = cases.make("gaussian", 3, 300, 24)
    small(monkeypatch, queries, corpus, 5)
    wide = np.zeros((600, 30), np.float16)
    wide[::2, 3:27] = corpus
    np.save(tmp_path / "rows.npy", corpus)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    for x in (wide[::2, 3:27], corpus[::-1], np.broadcast_to(corpus[0], (300, 24)), mapped):
        both(queries, x, 5)


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_without_the_proof_answers_are_those_of_a_corpus_on_the_device(precision, monkeypatch):
    queries, corpus = cases.make("gaussian", 5, 400, 32)
    there = stope.topk(on_device(queries), on_device(corpus), 10, precision=precision)
    small(monkeypatch, queries, corpus, 10)
    got = stope.topk(on_device(queries), corpus, 10, precision=precision)
    for mine, other in zip(got, there, strict=True):
        np.testing.assert_array_equal(mine.get(), other.get())


@pytest.mark.parametrize("counts", ["eligible", "raw"])
def test_mining(counts, monkeypatch):
    queries, corpus = cases.make("clustered", 6, 400, 16)
    small(monkeypatch, queries, corpus, 30)
    options = {
        "num_negatives": 4,
        "relative_margin": 0.05,
        "min_score": -0.2,
        "exclude": [[i + 200] for i in range(6)],
        "sampling": "random",
        "range_counts": counts,
        "range_max": 30,
    }
    positives = [[i, i + 100] for i in range(6)]
    assert_all_same(
        stope.mine_hard_negatives(on_device(queries), corpus, positives, **options),
        stope.mine_hard_negatives(queries, corpus, positives, **options),
    )


def test_an_index_in_host_memory_is_searched_from_a_device():
    queries, corpus = cases.make("gaussian", 3, 200, 16)
    index = stope.FlatIndex(corpus, "cosine")
    assert_all_same(index.search(on_device(queries), 5), index.search(queries, 5))


def test_memory_does_not_grow_with_the_corpus():
    def bytes_of(rows):
        plan = stope._core.cuda_topk_plan(
            queries=16_384, rows=rows, columns=768, k=100, in_host_memory=True
        )
        return plan["workspace_bytes"], plan["pinned_bytes"]

    device, pinned = bytes_of(4_000_000)
    assert (device, pinned) == bytes_of(400_000_000)
    assert device < (768 + 128) << 20
    assert pinned <= 128 << 20


def test_bad_rows_are_named_by_their_number(monkeypatch):
    queries, corpus = cases.make("gaussian", 3, 300, 12)
    small(monkeypatch, queries, corpus, 4)
    for row in (0, 130, 299):
        bad = corpus.copy()
        bad[row, 5] = np.nan
        with pytest.raises(ValueError, match=rf"corpus has a NaN .*row {row}\b"):
            stope.topk(on_device(queries), bad, 4)
        bad[row] = 3e18
        with pytest.raises(ValueError, match=rf"corpus has a norm of 2\^63 .*row {row}\b"):
            stope.topk(on_device(queries), bad, 4)


def test_no_graph_records_what_it_would_not_read_again():
    queries, corpus = cases.make("gaussian", 3, 30, 12)
    said = "corpus is in host memory while the stream records"
    with pytest.raises(ValueError, match=said), fake_cupy.Graph():
        stope.topk(on_device(queries), corpus, 4)


def test_progress_is_reported_and_stops(monkeypatch):
    queries, corpus = cases.make("gaussian", 5, 700, 12)
    small(monkeypatch, queries, corpus, 4)
    seen = []
    stope.topk(on_device(queries), corpus, 4, progress=lambda *now: seen.append(now))
    assert seen[-1] == (700, 700)

    def stop(done, total):
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        stope.topk(on_device(queries), corpus, 4, progress=stop)
    both(queries, corpus, 4)
