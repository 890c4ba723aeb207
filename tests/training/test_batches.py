"""Batches by plan: exact numbers, no query or positive twice, every row in its turn."""

from __future__ import annotations

import json
import time
from collections import Counter

import numpy as np
import pytest
from batch_cases import attempt, check, random_table, sized
from hypothesis import given, settings
from hypothesis import strategies as st

from stope.training.batches import (
    BatchSpec,
    Clustered,
    Distinct,
    Homogeneous,
    Mixed,
    RowNumbers,
    Shuffled,
)
from stope.training.batches.specs import share_out

# --- what every plan keeps ---------------------------------------------------------------------


def largest_matching(table):
    """Hopcroft and Karp's answer, slowly: an augmenting path from every query."""
    edges = {}
    for query, positive in zip(table.query_numbers, table.positive_numbers, strict=True):
        edges.setdefault(int(query), set()).add(int(positive))
    partner = {}

    def augment(query, seen):
        for positive in edges[query] - seen:
            seen.add(positive)
            if positive not in partner or augment(partner[positive], seen):
                partner[positive] = query
                return True
        return False

    return sum(augment(query, set()) for query in edges)


@settings(max_examples=150)
@given(
    rows=st.integers(2, 80), queries=st.integers(1, 90), positives=st.integers(1, 90),
    batch_size=st.integers(2, 100), processes=st.integers(1, 3), seed=st.integers(0, 99),
)  # fmt: skip
def test_distinct_keeps_its_promises(rows, queries, positives, batch_size, processes, seed):
    random = np.random.default_rng(seed)
    table = random_table(random, rows, queries, positives)
    pairs = largest_matching(table)
    if pairs < 2:
        with pytest.raises(ValueError, match="no two of them with different queries"):
            Distinct().plan(table, batch_size, seed)
        return
    plan, refused = attempt(Distinct(), table, batch_size, seed, processes=processes)
    if plan is None:
        assert processes > 1
        assert "one for each process" in refused
        return
    check(plan, table, batch_size, processes)
    # a maximal set of rows that share nothing has half of the largest one's rows, at least
    if processes == 1:
        assert plan.least >= min(batch_size, -(-pairs // 2)) / 2


@settings(max_examples=60)
@given(
    rows=st.integers(4, 60), numbers=st.integers(2, 60), sources=st.integers(1, 4),
    batch_size=st.integers(2, 20), processes=st.integers(1, 2), seed=st.integers(0, 99),
    spec=st.sampled_from([
        Homogeneous(), Mixed(0.0), Mixed(0.5), Mixed(1.0), Mixed(0.0, homogeneous=False),
        Mixed(1.0, homogeneous=False), Clustered(clusters=1), Clustered(clusters=3),
        Clustered(clusters=2, per_batch=2),
    ]),
)  # fmt: skip
def test_all_specs_keep_their_promises(rows, numbers, sources, batch_size, processes, seed, spec):
    random = np.random.default_rng(seed)
    table = random_table(random, rows, numbers, numbers, sources)
    embeddings = random.standard_normal((numbers, 4)).astype(np.float32)
    plan, refused = attempt(
        spec, table, batch_size, seed, embeddings=embeddings, processes=processes
    )
    if plan is None:
        known = ("no two of them", "one for each process", "per_batch is 2", "clusters is 3, but")
        assert any(words in refused for words in known)
        return
    found = check(plan, table, batch_size, processes)
    if isinstance(spec, Homogeneous) or getattr(spec, "homogeneous", False):
        for batches in found:
            for place in range(0, len(batches), processes):
                step = [row for batch in batches[place : place + processes] for row in batch]
                assert len(set(table.sources[step])) == 1


@pytest.mark.parametrize("rows", [2, 5, 64, 65, 95, 96, 97, 100, 1000])
@pytest.mark.parametrize("processes", [1, 2])
def test_without_duplicates_no_row_waits_twice(rows, processes):
    table = RowNumbers(np.arange(rows), np.arange(rows))
    if rows < 2 * processes:
        with pytest.raises(ValueError, match="table has 2 rows, of which 2 fit into 2 batches"):
            Distinct().plan(table, 64, 0, processes=processes)
        return
    plan = Distinct().plan(table, 64, 0, processes=processes)
    before = set()
    for batches in check(plan, table, 64, processes, epochs=6):
        sizes = [len(batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        used = [row for batch in batches for row in batch]
        assert len(set(used)) == len(used)
        out = set(range(rows)) - set(used)
        assert not out & before or rows > 2 * 64 * plan.num_batches
        if processes == 1:
            assert len(out) < 32
        before = out


def test_equal_numbers_of_positives_are_all_used_every_epoch():
    """Five rows for every query: every row has its place, and all batches are full."""
    table = RowNumbers(np.repeat(np.arange(200), 5), np.arange(1000))
    plan = Distinct().plan(table, 50, 3)
    assert plan.num_batches == 20
    for batches in check(plan, table, 50):
        assert sorted(row for batch in batches for row in batch) == list(range(1000))


def test_one_giant_query():
    """Half of all rows have one query: one per batch, those that waited first."""
    table = RowNumbers(np.r_[np.zeros(500, int), np.arange(1, 501)], np.arange(1000))
    plan = Distinct().plan(table, 10, 0)
    assert plan.num_batches == 76  # the most with 76 + 500 >= 0.75 * 10 * 76
    seen = Counter()
    for batches in check(plan, table, 10, epochs=7):
        assert min(map(len, batches)) >= 7
        assert all(sum(row < 500 for row in batch) == 1 for batch in batches)
        seen.update(row for batch in batches for row in batch)
    assert set(seen) == set(range(1000))  # 500 / 76 epochs
    assert {seen[row] for row in range(500)} <= {1, 2}
    assert {seen[row] for row in range(500, 1000)} == {7}


def test_every_pair_of_few_queries_and_positives():
    grid = np.arange(400)
    table = RowNumbers(grid // 20, grid % 20)
    plan = Distinct().plan(table, 64, 0)
    epochs = check(plan, table, 64, epochs=8)
    assert plan.num_batches == 20
    assert plan.least == 10
    assert {row for batches in epochs for batch in batches for row in batch} == set(range(400))


def test_rows_that_clash_on_both_sides_make_fewer_batches():
    """Rather that than batches that are topped up with rows of others."""
    random = np.random.default_rng(0)
    often = random.zipf(1.3, 20_000) % 6_000
    table = RowNumbers(often, random.permutation(often))
    plan = Distinct().plan(table, 64, 0)
    for batches in check(plan, table, 64, epochs=2):
        used = [row for batch in batches for row in batch]
        assert len(used) == len(set(used))
        assert np.mean([len(batch) for batch in batches]) > 0.6 * 64


def test_a_row_that_clashes_with_all_others_is_in_no_batch():
    table = RowNumbers(np.array([0, 0, 1]), np.array([0, 1, 1]))
    plan = Distinct().plan(table, 2, 0)
    assert all(sorted(plan.batches(epoch)[0]) == [0, 2] for epoch in range(5))


def test_composition_is_random():
    """Every two rows of different queries meet equally often (chi-square)."""
    table = RowNumbers(np.repeat(np.arange(10), 2), np.arange(20))
    plan = Distinct().plan(table, 5, 0)
    met = np.zeros((10, 10))
    for epoch in range(3000):
        for batch in plan.batches(epoch):
            numbers = np.asarray(batch) // 2
            met[np.ix_(numbers, numbers)] += 1
    upper = met[np.triu_indices(10, 1)]
    statistic = ((upper - upper.mean()) ** 2 / upper.mean()).sum()
    assert statistic < 80  # 99.9% point at 44 degrees of freedom is 79


def test_only_seed_and_epoch_decide():
    random = np.random.default_rng(0)
    table = random_table(random, 300, 120, 150, 3)
    embeddings = random.standard_normal((120, 8)).astype(np.float32)
    for spec in (Distinct(), Homogeneous(), Clustered(4), Mixed(0.3), Mixed(0.3, False)):
        first, again, other = (
            spec.plan(table, 16, seed, embeddings=embeddings) for seed in (7, 7, 8)
        )
        forward = [first.batches(epoch) for epoch in range(5)]
        assert again.batches(4) == forward[4]  # reached at once
        assert again.batches(1) == forward[1]  # and back
        assert again.batches(1) == forward[1]
        assert forward[0] != forward[1]
        assert other.batches(0) != forward[0]


def test_a_million_rows_are_planned_in_seconds():
    random = np.random.default_rng(0)
    size = 1_000_000
    heavy = np.where(random.random(size) < 0.5, 0, random.zipf(1.3, size) % 300_000)
    tables = {
        "distinct": RowNumbers(np.arange(size), np.arange(size)),
        "heavy duplicates": RowNumbers(heavy, random.integers(0, 500_000, size)),
        "both sides": RowNumbers(heavy, random.permutation(heavy)),
        "all pairs of 1,000": RowNumbers(np.arange(size) // 1000, np.arange(size) % 1000),
    }
    for name, table in tables.items():
        began = time.process_time()
        plan = Distinct().plan(table, 256, 0)
        plan.batches(0)
        seconds = time.process_time() - began
        print(f"{name}: {seconds:.1f} s, {plan.num_batches} batches")
        assert seconds < 30, name  # measured: 1 to 5


# --- sources -----------------------------------------------------------------------------------


def test_homogeneous_is_one_pass_over_each_source():
    table = sized(100, 37, 2)
    plan = Homogeneous().plan(table, 10, 0)
    assert plan.num_batches == 10 + 4 + 1
    for batches in check(plan, table, 10):
        counts = Counter(int(table.sources[batch[0]]) for batch in batches)
        assert counts == {0: 10, 1: 4, 2: 1}
        assert len({row for batch in batches for row in batch}) == 139


@pytest.mark.parametrize("spec", [Homogeneous(), Mixed(1.0)])
@pytest.mark.parametrize("processes", [1, 2])
def test_sources_come_in_random_order(spec, processes):
    """Round by round: every place of an epoch has each source equally often (chi-square)."""
    table = sized(80, 80)
    plan = spec.plan(table, 10, 0, processes=processes)
    first = np.zeros(plan.num_batches // processes)
    for epoch in range(400):
        first += [table.sources[batch[0]] for batch in plan.batches(epoch)[::processes]]
    statistic = ((first - 200) ** 2 / 100).sum()
    assert statistic < {16: 39.3, 8: 26.1}[len(first)]  # 99.9% points


def test_homogeneous_names_the_source_that_is_too_small():
    table = RowNumbers(np.arange(5), np.arange(5), np.array([4, 4, 4, 4, 9]))
    with pytest.raises(ValueError, match="source 9 has 1 rows but no two of them"):
        Homogeneous().plan(table, 2, 0)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_mixed_batches_are_shared_out_by_the_formula(temperature):
    sizes = (6400, 1600, 400)
    plan = Mixed(temperature).plan(sized(*sizes), 10, 0)
    assert plan.num_batches == 840
    shares = np.array(sizes) ** temperature
    expected = 840 * shares / shares.sum()
    for batches in check(plan, sized(*sizes), 10, epochs=2):
        counts = np.bincount([sized(*sizes).sources[batch[0]] for batch in batches])
        assert np.abs(counts - expected).max() < 1


def test_small_sources_repeat_and_large_ones_go_on():
    table = sized(800, 40)
    plan = Mixed(0.0).plan(table, 10, 1)
    assert plan.num_batches == 84
    seen = Counter()
    for epoch in range(2):
        for batch in plan.batches(epoch):
            seen.update(batch)
    assert {seen[row] for row in range(800)} == {1, 2}  # 84 batches of a pass of 80
    assert sum(seen[row] for row in range(800)) == 840
    assert {seen[row] for row in range(800, 840)} == {21}  # 84 batches of a pass of 4


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_mixed_rows_are_shared_out_by_the_formula(temperature):
    table = sized(800, 150, 50)
    plan = Mixed(temperature, homogeneous=False).plan(table, 20, 0)
    shares = np.array([800, 150, 50.0]) ** temperature
    expected = 1000 * shares / shares.sum()
    for batches in check(plan, table, 20):
        rows = np.array([row for batch in batches for row in batch])
        counts = np.bincount(table.sources[rows], minlength=3)
        assert np.abs(counts - expected).max() <= 0.01 * 1000  # a few find no place
        assert len(rows) >= 990
        kinds = [len(set(table.sources[batch])) for batch in batches]
        assert np.mean(kinds) > 2.3


def test_a_source_of_one_row_is_in_every_mixed_batch_once():
    table = sized(300, 1)
    plan = Mixed(0.0, homogeneous=False).plan(table, 10, 0)
    for batches in check(plan, table, 10):
        assert all(batch.count(300) == 1 for batch in batches)
        assert min(map(len, batches)) >= 9


def test_shares_add_up():
    for total in range(1, 40):
        counts = share_out(total, np.array([5.0, 3.0, 1.0, 0.2]))
        assert counts.sum() == total
        assert share_out(total, np.array([5.0, 0.1]), least=1).min() >= 1


# --- configuration and bad input ---------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        *(Distinct(), Shuffled(), Homogeneous(), Clustered(), Clustered(5, 2, 3)),
        *(Mixed(), Mixed(0.0, False)),
    ],
)
def test_specs_survive_json(spec):
    assert BatchSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda: BatchSpec.from_dict("clumped"), ValueError, "'clumped'; there are the kinds"),
        (lambda: BatchSpec.from_dict({}), ValueError, "batches is {}, which has no name"),
        (lambda: BatchSpec.from_dict(3), TypeError, "batches is 3; give a mapping"),
        (lambda: BatchSpec.from_dict({"name": "distinct", "k": 1}), ValueError, "it has none"),
        (lambda: Mixed(2), ValueError, "temperature is 2; it must be from 0 to 1"),
        (lambda: Mixed("1"), TypeError, "temperature is '1'; give a number"),
        (lambda: Mixed(1.0, "no"), TypeError, "homogeneous is 'no'; give True or False"),
        (lambda: Clustered(0), ValueError, "clusters is 0; it must be at least 1"),
        (lambda: Clustered(2, 1.5), TypeError, "per_batch is 1.5; give an integer"),
        (lambda: Distinct().plan(sized(9), 1), ValueError, "batch_size is 1; it must be"),
        (lambda: Distinct().plan(sized(9), 2, -1), ValueError, "seed is -1; it must be at least 0"),
        (lambda: Distinct().plan(RowNumbers(np.arange(3), np.arange(2)), 2), ValueError,
         "query_numbers has 3 rows but positive_numbers 2"),
        (lambda: Distinct().plan(RowNumbers(np.ones(3), np.arange(3)), 2), TypeError,
         "query_numbers is array"),
        (lambda: Distinct().plan(RowNumbers(np.zeros(0, int), np.zeros(0, int)), 2), ValueError,
         "table has no rows"),
        (lambda: Mixed().plan(RowNumbers(np.arange(3), np.arange(3)), 2), ValueError,
         "batches 'mixed' need the source of every row"),
        (lambda: Clustered().plan(sized(9), 2), ValueError, "need embeddings, one row for each"),
        (lambda: Clustered().plan(sized(9), 2, embeddings=np.eye(4, dtype=np.float32)), ValueError,
         "embeddings has 4 rows but query_numbers go from 0 to 8"),
        (lambda: Clustered(2, 9).plan(sized(9), 4, embeddings=np.eye(9, dtype=np.float32)),
         ValueError, "per_batch is 9 clusters, but batches have 4 rows"),
        (lambda: Distinct().plan(sized(9), 2).batches(-1), ValueError, "epoch is -1"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence(make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make()
