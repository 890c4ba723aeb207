"""How a search is cut, and what it is predicted to take: properties, and sums by hand."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stope
from stope.scale import plan
from stope.scale.plan import MACHINES, Machine, Search, layout, predict

GIB = 2**30
searches = st.builds(
    Search,
    queries=st.integers(1, 10**9),
    corpus=st.integers(2000, 10**9),
    dim=st.integers(1, 4096),
    k=st.integers(1, 2000),
    itemsize=st.sampled_from((1, 2, 4)),
)
machines = st.sampled_from(sorted(MACHINES))
counts = st.integers(1, 5000)


@settings(max_examples=300, deadline=None)
@given(searches, st.integers(GIB, 2**41), counts)
def test_a_layout_covers_everything_once_and_fits(work, memory, workers):
    cut = layout(work, memory=memory, workers=workers)
    assert (cut.shards - 1) * cut.shard_rows < work.corpus <= cut.shards * cut.shard_rows
    assert (cut.blocks - 1) * cut.block_rows < work.queries <= cut.blocks * cut.block_rows
    assert cut.memory <= memory
    assert (cut.strategy == "replicate") == (cut.shards == 1)
    whole = dataclasses.replace(cut, shard_rows=work.corpus)
    beside = cut.memory - cut.shard_rows * work.dim * work.itemsize
    if cut.shards == 1:  # the corpus fits, and all have something to do
        assert beside + work.corpus_bytes <= memory
        assert whole == cut
    elif beside + work.corpus_bytes <= memory:
        assert cut.blocks < workers
    else:
        fewest = math.ceil(work.corpus / ((memory - beside) // (work.dim * work.itemsize)))
        rounded = -(-fewest // workers) * workers
        assert cut.shards <= max(rounded, -(-workers // cut.blocks))


def test_where_the_corpus_fits_to_the_byte():
    work = Search(10**6, 10**6, 384, 10)

    def cut(memory, workers=1):
        return layout(work, memory=memory, workers=workers, block_rows=4096)

    needed = cut(2**40).memory
    assert cut(needed).strategy == "replicate"
    halves = cut(needed - 1)
    assert (halves.strategy, halves.shards, halves.shard_rows) == ("shards", 2, 500_000)
    assert "do not fit" in str(halves)
    assert cut(needed - 1, workers=3).shards == 2
    assert cut(needed // 3, workers=4).shards == 8  # 6 fit, and 8 leave nobody idle
    assert cut(needed // 3, workers=3).shards == 6
    idle = layout(Search(4000, 10**6, 8, 1), memory=needed, workers=5)
    assert idle.shards == 3
    assert "leave some of 5 workers idle" in str(idle)


def test_what_does_not_fit_is_refused_with_the_memory_it_takes():
    with pytest.raises(
        ValueError, match=r"memory is 300\.0 MiB; a worker needs \d+\.\d MiB"
    ) as told:
        layout(Search(10**6, 10**6, 768, 10), memory=300 * 2**20)
    assert not str(told.value).endswith(".")
    with pytest.raises(ValueError, match=r"k is 11; it must be from 1 to 10"):
        Search(1, 10, 4, 11)
    with pytest.raises(ValueError, match="itemsize is 3"):
        Search(1, 10, 4, 1, itemsize=3)
    with pytest.raises(ValueError, match="no rate of texts"):
        predict(Search(1, 10, 4, 1), MACHINES["h200"], encode=True)


GROWING = ("queries", "corpus", "dim", "k")


@settings(max_examples=300, deadline=None)
@given(searches, machines, counts, st.sampled_from(GROWING), st.floats(1, 50))
def test_more_work_never_takes_less(work, name, workers, field, factor):
    grown = int(getattr(work, field) * factor)
    grown = min(grown, {"k": 2000, "dim": 8192}.get(field, 2**40))
    more = dataclasses.replace(work, **{field: max(grown, getattr(work, field))})
    less, most = (predict(each, MACHINES[name], workers=workers) for each in (work, more))
    if most.layout.shards == less.layout.shards:
        assert all(most.seconds[each] >= seconds for each, seconds in less.seconds.items())
        assert most.read >= less.read
        assert most.written >= less.written
    else:  # another cut may read less again, but has the same scores
        assert most.seconds["memory"] >= less.seconds["memory"]
        at_equal_cut = plan.products(more, less.layout.shards)
        assert at_equal_cut >= plan.products(work, less.layout.shards)


@settings(max_examples=200, deadline=None)
@given(searches, machines, st.integers(1, 1000), st.integers(1, 20))
def test_more_workers_never_take_longer(work, name, workers, times):
    """They may all the same move more bytes, so the arithmetic is looked at by itself.

    Twice the workers may take less than half: 85 shards that fit are 90 for 15 workers, and 85 for
    90, with fewer candidates.
    """
    few, many = (predict(work, MACHINES[name], workers=w) for w in (workers, workers * times))
    ratio = few.seconds["arithmetic"] / many.seconds["arithmetic"]
    assert ratio >= 1 - 1e-9
    same = plan.products(work, few.layout.shards) / plan.products(work, many.layout.shards)
    assert math.isclose(ratio, times * same, rel_tol=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 1000), machines)
def test_time_is_linear_in_whole_blocks(blocks, name):
    size = 8192
    once, many = (
        predict(Search(size * count, 10**6, 256, 10), MACHINES[name], block_rows=size)
        for count in (1, blocks)
    )
    fixed = 10**6 * 256 * 4 / MACHINES[name].disk_read  # the corpus is read once for all blocks
    for resource, share in once.seconds.items():
        grown = share - (fixed if resource == "disk" else 0)
        expected = grown * blocks + (fixed if resource == "disk" else 0)
        assert math.isclose(many.seconds[resource], expected, rel_tol=1e-9, abs_tol=1e-15)
    assert math.isclose(many.task_seconds * blocks, many.total_seconds, rel_tol=1e-12)


def test_sums_by_hand():
    machine = Machine("slow", 1e6, 1e5, 2**30, 1e3, 1e2, 1e4, texts=50.0)
    work = Search(queries=100, corpus=1000, dim=16, k=1000, itemsize=4)
    alone = predict(work, machine, encode=True)
    assert alone.seconds == {
        "arithmetic": pytest.approx((100 * 1000 * 32 + 50 * 16 * 100 * 1000) / 1e6),
        "memory": 1000 * 16 * 4 / 1e5,
        "disk": pytest.approx((1100 * 64) / 1e3 + 100 * 1000 * 12 / 1e2),
        "network": 0,
        "encoding": 1100 / 50,
    }
    assert alone.limit == "disk"
    assert alone.total_seconds == pytest.approx(sum(alone.seconds.values()))
    pair = predict(work, machine, workers=2)  # one block, so two shards
    assert (pair.layout.shards, pair.layout.shard_rows, pair.layout.tasks) == (2, 500, 2)
    results = 100 * 1000 * 12
    assert pair.read == 1000 * 64 + 2 * 100 * 64 + 2 * results
    assert pair.written == 3 * results
    assert pair.moved == pair.read + pair.written
    assert pair.seconds["network"] == pytest.approx(pair.moved / 1e4 / 2)
    assert json.loads(json.dumps(pair.as_dict()))["memory_total"] == 2 * pair.layout.memory


def test_groups_of_queries_read_the_corpus_again():
    machine = dataclasses.replace(MACHINES["zen4-2"], memory=2**38)
    work = Search(100_000, 10**6, 64, 20)
    seconds = [
        predict(work, machine, block_rows=rows).seconds["memory"] for rows in (1000, 2500, 7500)
    ]
    corpus = work.corpus_bytes / machine.pass_bytes
    assert seconds == pytest.approx([100 * corpus, 40 * corpus, (13 * 2 + 1) * corpus])


@pytest.mark.parametrize("k", [1, 20, 100, 1000])
def test_groups_are_those_of_topk(k, monkeypatch):
    """What a search takes grows with its queries up to a group, and no further."""
    real, taken = stope._core.topk, []

    def watched(*, allocate, **options):
        return real(allocate=lambda size: taken.append(size) or allocate(size), **options)

    monkeypatch.setattr("stope._core.topk", watched)
    group = Search(10**6, 10**6, 1, k).group
    for queries in (group - 1, group, group + 100):
        stope.topk(np.zeros((queries, 1), np.float32), np.zeros((k, 1), np.float32), k)
    fewer, whole, more = taken
    assert fewer < whole == more


def test_every_machine_says_where_its_numbers_come_from():
    for name, machine in MACHINES.items():
        assert ("never measured by us" in machine.source) == (not name.endswith("-2"))
        assert "disk and network: assumed" in machine.source
