"""Sampling of negatives and their sources: exact probabilities, draws that can be repeated."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders import HashEncoder, some_texts
from stope.data import Pairs
from stope.lists import Lists
from stope.mining import (
    SimANS,
    Spread,
    TeacherMargin,
    Top,
    Uniform,
    Window,
    lexical_candidates,
    merge_sources,
    mine,
    mixed_negatives,
    sampling_names,
)
from stope.mining.pipeline import Limits
from stope.mining.quotas import check_quotas, fill_at_random
from stope.mining.sampling import Sampling, distinct_numbers, sampling_keys

EVERY = [Top(), Window(2, 7), Uniform(), SimANS(20.0, 0.1), TeacherMargin(4)]
BY_PARTS = Spread(ends=3, of_best=2)
DRAWS = 40_000


def table(queries=6, pool=12, seed=0, short=True):
    random = np.random.default_rng(seed)
    ids = np.array([random.permutation(50)[:pool] for _ in range(queries)])
    scores = -np.sort(-random.random((queries, pool), dtype=np.float32), axis=1)
    if short:
        for row in range(queries):
            ids[row, pool - row :], scores[row, pool - row :] = -1, -np.inf
    return ids, scores, random.random(queries, dtype=np.float32)


def repeated(ids, scores, positive):
    """One query's candidates for each of many draws."""
    rows = [np.repeat(np.asarray(x), DRAWS, axis=0) for x in (ids, scores, positive)]
    return rows[0].astype(np.int64), rows[1].astype(np.float32), rows[2].astype(np.float32)


def chi_square(drawn, ids, probabilities):
    """The statistic, and a bound that is passed over once in 100,000 cases (Laurent, Massart)."""
    counts = np.array([(drawn == one).sum() for one in ids])
    expected = np.asarray(probabilities) * len(drawn)
    freedom = len(ids) - 1
    bound = freedom + 2 * np.sqrt(freedom * 11.5) + 23
    return float(((counts - expected) ** 2 / expected).sum()), bound


# --- probabilities ------------------------------------------------------------------------------


def test_simans_reference():
    ids, gaps = np.array([[5, 6, 7, 8]]), np.float32([[-3, -1, 0, 1]])
    found = SimANS(a=0.5, b=0.0).probabilities(ids, gaps, np.float32([0]))
    np.testing.assert_allclose(found, [[0.004995, 0.272700, 0.449606, 0.272700]], atol=5e-7)


def test_simans_is_relative_to_the_positive_and_b():
    ids, scores = np.array([[1, 2, 3]]), np.float32([[0.9, 0.7, 0.5]])
    found = SimANS(a=10.0, b=-0.1).probabilities(ids, scores, np.float32([0.8]))
    weights = np.exp(-10 * np.array([0.2, 0.0, -0.2]) ** 2)
    np.testing.assert_allclose(found[0], weights / weights.sum(), rtol=1e-5)


def test_teacher_margin_reference():
    """Two bins of nine and one pair: each bin has half of the mass."""
    scores = np.float32([[0.9 - 0.001 * i for i in range(9)] + [0.1]])
    found = TeacherMargin(bins=2).probabilities(np.arange(10)[None], scores, np.float32([1.0]))
    np.testing.assert_allclose(found[0], [0.5 / 9] * 9 + [0.5], rtol=1e-6)


def test_teacher_margin_of_equal_scores_is_uniform():
    scores = np.full((1, 4), 0.25, np.float32)
    found = TeacherMargin().probabilities(np.arange(4)[None], scores, np.float32([1.0]))
    np.testing.assert_allclose(found, 0.25)


@pytest.mark.parametrize(
    "strategy", [SimANS(0.5), SimANS(3.0, 0.5), TeacherMargin(2), TeacherMargin(3)]
)
def test_first_draws_have_these_probabilities(strategy):
    case = [[5, 6, 7, 8]], [[-3, -1, 0, 1]], [0.0]
    rows = repeated(*case)
    keys = sampling_keys(1, 1, 0, np.arange(DRAWS))
    drawn = strategy.choose(*rows, 2, keys)
    p = strategy.probabilities(*(part[:1] for part in rows))[0]
    statistic, bound = chi_square(drawn[:, 0], [5, 6, 7, 8], p)
    assert statistic < bound
    # Without replacement: the second is drawn in proportion to what is left.
    second = [sum(p[i] * p[j] / (1 - p[i]) for i in range(4) if i != j) for j in range(4)]
    statistic, bound = chi_square(drawn[:, 1], [5, 6, 7, 8], second)
    assert statistic < bound


def test_uniform_draws_every_ordered_choice_equally_often():
    rows = repeated([[5, 6, 7, 8, -1]], [[4, 3, 2, 1, -np.inf]], [0.0])
    drawn = Uniform().choose(*rows, 3, sampling_keys(2, 1, 0, np.arange(DRAWS)))
    names = drawn @ np.array([10_000, 100, 1])
    every = [a * 10_000 + b * 100 + c for a, b, c in itertools.permutations([5, 6, 7, 8], 3)]
    statistic, bound = chi_square(names, every, np.full(24, 1 / 24))
    assert statistic < bound


def test_steps_draw_independently():
    """Over the steps of one query, as over the queries of one step."""
    rows = [part[:1] for part in repeated([[5, 6, 7, 8]], [[4, 3, 2, 1]], [0.0])]
    drawn = [
        int(Uniform().choose(*rows, 1, sampling_keys(0, 1, step, [9]))[0, 0])
        for step in range(4000)
    ]
    statistic, bound = chi_square(np.array(drawn), [5, 6, 7, 8], np.full(4, 0.25))
    assert statistic < bound
    pairs = np.array(drawn[:-1]) * 10 + np.array(drawn[1:])
    every = [a * 10 + b for a, b in itertools.product([5, 6, 7, 8], repeat=2)]
    statistic, bound = chi_square(pairs, every, np.full(16, 1 / 16))
    assert statistic < bound


# --- what all strategies hold to ----------------------------------------------------------------


@pytest.mark.parametrize("strategy", EVERY, ids=lambda one: one.name)
def test_draws_are_distinct_candidates_and_short_rows_end_in_minus_one(strategy):
    ids, scores, positive = table(queries=13)
    found = strategy.choose(ids, scores, positive, 9, sampling_keys(0, 1, 5, np.arange(13)))
    for row, own in zip(found, ids, strict=True):
        there = row[row >= 0]
        window = own[strategy.first : strategy.last] if isinstance(strategy, Window) else own
        assert set(there) <= set(window[window >= 0])
        assert len(set(there)) == len(there) == min(9, (window >= 0).sum())
        assert (row[len(there) :] == -1).all()


@pytest.mark.parametrize("strategy", EVERY, ids=lambda one: one.name)
def test_draws_depend_on_the_query_alone(strategy):
    ids, scores, positive = table(queries=300, pool=20, short=False)
    keys = sampling_keys(7, 3, 11, np.arange(300))
    whole = strategy.choose(ids, scores, positive, 4, keys)
    some = np.random.default_rng(0).permutation(300)[:17]
    part = strategy.choose(ids[some], scores[some], positive[some], 4, keys[some])
    np.testing.assert_array_equal(part, whole[some])
    again = strategy.choose(ids, scores, positive, 4, sampling_keys(7, 3, 12, np.arange(300)))
    assert (whole == again).all() == isinstance(strategy, Top)


@pytest.mark.parametrize("strategy", EVERY, ids=lambda one: one.name)
def test_nothing_to_draw_from(strategy):
    ids = np.empty((2, 0), np.int64)
    positive, keys = np.zeros(2, np.float32), sampling_keys(0, 0, 0, [0, 1])
    found = strategy.choose(ids, ids.astype(np.float32), positive, 3, keys)
    assert (found == -1).all()
    assert found.shape == (2, 3)
    none = np.full((2, 4), -1)
    scores = np.full((2, 4), -np.inf, np.float32)
    assert (strategy.choose(none, scores, positive, 3, keys) == -1).all()


def test_keys_differ_in_every_number():
    numbers = itertools.product(range(4), range(4), range(4))
    keys = {int(key) for three in numbers for key in sampling_keys(*three, range(4))}
    assert len(keys) == 256
    with pytest.raises(ValueError, match="step is -1"):
        sampling_keys(0, 0, -1, [0])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.integers(0, 14), st.integers(0, 99))
def test_distinct_numbers(counts, n, seed):
    found = distinct_numbers(sampling_keys(seed, 0, 0, range(len(counts))), counts, n)
    for row, count in zip(found, counts, strict=True):
        there = row[row >= 0]
        assert len(there) == len(set(there)) == min(n, count)
        assert (there < count).all()


# --- UDR's lists ---------------------------------------------------------------------------------


def test_lists_of_the_best_the_worst_and_what_lies_between():
    """docs/methods.md, D1: two of ranks 0 to 2, one of the last three, the others between."""
    ids, scores, positive = table(queries=1, short=False)
    rows = repeated(ids, scores, positive)
    drawn = BY_PARTS.choose(*rows, 6, sampling_keys(5, 1, 2, np.arange(DRAWS)))
    ranks = np.argsort(ids[0])[np.searchsorted(np.sort(ids[0]), drawn)]
    assert (np.diff(ranks, axis=1) > 0).all()
    assert (ranks[:, 1] < 3).all()
    assert ((ranks[:, 2:5] >= 3) & (ranks[:, 2:5] < 9)).all()
    assert (ranks[:, 5] >= 9).all()
    for part, members, share in ((slice(0, 2), range(3), 2 / 3), (slice(2, 5), range(3, 9), 1 / 2),
                                 (slice(5, 6), range(9, 12), 1 / 3)):  # fmt: skip
        counts = np.array([(ranks[:, part] == rank).sum() for rank in members])
        assert np.abs(counts / DRAWS - share).max() < 5 * np.sqrt(share / DRAWS)


def test_lists_of_short_rows_and_of_few():
    ids, scores, positive = table(pool=9)  # rows of 9 down to 4
    keys = sampling_keys(0, 0, 0, np.arange(6))
    drawn = BY_PARTS.choose(ids, scores, positive, 6, keys)
    for row, there in zip(drawn, ids, strict=True):
        count = int((there >= 0).sum())
        kept = row[row >= 0]
        between = max(0, count - 6)
        assert len(kept) == len(set(kept)) == 2 + min(3, between) + 1
        assert np.isin(kept, there).all()
        assert (row[len(kept) :] == -1).all()
    for n in range(4):
        some = BY_PARTS.choose(ids, scores, positive, n, keys)
        assert some.shape == (6, n)
        assert np.isin(some[:, :2], np.column_stack([ids[:, :3]])).all()
    assert BY_PARTS.choose(ids[:, :0], scores[:, :0], positive, 3, keys).tolist() == [[-1] * 3] * 6
    alone = BY_PARTS.choose(ids[3:4], scores[3:4], positive[3:4], 6, keys[3:4])
    assert alone.tolist() == drawn[3:4].tolist()


def test_papers_names():
    for paper, own in (("ANCE", Uniform()), ("star", Uniform()), ("UDR", Spread()),
                       ("tas-b", TeacherMargin()), ("SimANS", SimANS())):  # fmt: skip
        assert Sampling.from_dict(paper) == own
        assert Limits(sampling=paper).sampling == own
    assert Sampling.from_dict({"name": "SimANS", "a": 3.0}).to_dict()["name"] == "simans"
    assert "ANCE" not in sampling_names()


@pytest.mark.parametrize("strategy", [*EVERY, BY_PARTS], ids=lambda one: one.name)
def test_configuration(strategy):
    assert Sampling.from_dict(strategy.to_dict()) == strategy
    assert Sampling.from_dict(strategy) is strategy
    assert strategy.name in sampling_names()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("best", "sampling has the name 'best'; there are the strategies simans, "),
        ({"a": 1}, "sampling is {'a': 1}, which has no name; give name, one of simans"),
        ({"name": "simans", "c": 1}, "no field 'c'; it has a, b"),
        ({"name": "simans", "a": -1}, "a is -1"),
        ({"name": "window", "first": 5, "last": 5}, "last is 5"),
        ({"name": "UDR", "ends": 2, "of_best": 3}, "of_best is 3; give at most ends=2"),
        ({"name": "uniform", "first": 5}, "'uniform' has no field 'first'; it has none"),
        ({"name": "window", "first": -1}, "first is -1"),
        ({"name": "teacher_margin", "bins": 0}, "bins is 0"),
    ],
)
def test_bad_configurations(config, words):
    with pytest.raises(ValueError, match=words):
        Sampling.from_dict(config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"name": "window", "first": True}, "first is True; give an integer"),
        ({"name": "window", "last": 2.5}, r"last is 2\.5; give an integer"),
        ({"name": "simans", "a": "sharp"}, "a is 'sharp'; give a number"),
        ({"name": "teacher_margin", "bins": None}, "bins is None; give an integer"),
    ],
)
def test_numbers_of_the_wrong_kind(config, words):
    with pytest.raises(TypeError, match=words):
        Sampling.from_dict(config)


def test_bad_shapes():
    ids, scores, positive = table()
    keys = sampling_keys(0, 0, 0, range(6))
    with pytest.raises(TypeError, match="sampling is 3; give a mapping"):
        Sampling.from_dict(3)
    with pytest.raises(ValueError, match="keys has shape"):
        Top().choose(ids, scores, positive, 2, keys[:3])
    with pytest.raises(ValueError, match="give both"):
        Uniform().choose(ids, scores[:, :3], positive, 2, keys)
    with pytest.raises(ValueError, match="n is -1"):
        SimANS().choose(ids, scores, positive, -1, keys)


# --- sources ------------------------------------------------------------------------------------


def some_pairs(documents=60, queries=15, seed=0):
    texts = list(dict.fromkeys(some_texts(documents, seed)))
    random = np.random.default_rng(seed)
    answers = [
        [texts[row] for row in random.choice(len(texts), random.integers(1, 5), replace=False)]
        for _ in range(queries)
    ]
    asked = [*(f"q{i} {one[0]} w1" for i, one in enumerate(answers[:-1])), texts[3]]
    return Pairs.from_texts(asked, answers, texts)


def test_merged_sources_make_up_for_each_other():
    first = np.array([[1, 2, -1, -1], [1, 2, 3, 4], [-1, -1, -1, -1]])
    second = np.array([[2, 5, 6, 7], [1, 9, 2, 3], [8, -1, -1, -1]])
    found = merge_sources([first, second], [3, 1])
    assert found.tolist() == [[1, 2, 5, 6], [1, 2, 3, 9], [8, -1, -1, -1]]
    with pytest.raises(ValueError, match="2 lists for 1 quotas"):
        merge_sources([first, second], [1])


@given(st.integers(0, 10**6), st.integers(1, 9))
def test_random_documents_are_uniform_outside_the_list(seed, n):
    random = np.random.default_rng(seed)
    size = 12
    never = [np.sort(random.permutation(size)[: random.integers(0, size - n + 1)]) for _ in "abcd"]
    csr = Lists.from_sequences(never)
    queries = random.integers(0, 4, 7)
    ids = np.full((7, n), -1)
    for row, query in enumerate(queries):
        rest = np.setdiff1d(np.arange(size), never[query])
        keep = random.random(n) < 0.4
        ids[row, keep] = random.permutation(rest)[: keep.sum()]
    found = fill_at_random(ids, queries, csr, size, sampling_keys(seed, 0, 0, queries))
    np.testing.assert_array_equal(found[ids >= 0], ids[ids >= 0])
    for row, query in zip(found, queries, strict=True):
        assert len(set(row)) == n
        assert not set(row) & set(never[query])
        assert 0 <= row.min() <= row.max() < size


def test_random_documents_are_equally_likely():
    queries = np.zeros(DRAWS, np.int64)
    csr = Lists(np.array([0, 3]), np.array([0, 4, 5]))
    keys = sampling_keys(0, 0, 0, np.arange(DRAWS))
    found = fill_at_random(np.full((DRAWS, 2), -1), queries, csr, 9, keys)
    for column in found.T:
        statistic, bound = chi_square(column, [1, 2, 3, 6, 7, 8], np.full(6, 1 / 6))
        assert statistic < bound


def test_one_long_list_does_not_widen_the_others(monkeypatch):
    """Chunks of rows give what all rows at once give."""
    pairs = some_pairs()
    never, size = pairs.never_negatives(), len(pairs.corpus_ids)
    every = np.arange(15)
    keys = sampling_keys(3, 0, 0, every)
    whole = fill_at_random(np.full((15, 6), -1), every, never, size, keys)
    monkeypatch.setattr("stope.mining.quotas._CHUNK_ELEMENTS", 20)
    chunks = fill_at_random(np.full((15, 6), -1), every, never, size, keys)
    np.testing.assert_array_equal(whole, chunks)


def test_never_negatives_are_positives_and_the_own_text():
    pairs = some_pairs()
    offsets, rows = pairs.never_negatives()
    for query, text in enumerate(pairs.query_texts):
        own = pairs.positives[1][pairs.positives[0][query] : pairs.positives[0][query + 1]]
        also = {row for row, document in enumerate(pairs.corpus_texts) if document == text}
        assert rows[offsets[query] : offsets[query + 1]].tolist() == sorted({*own} | also)


def test_lexical_candidates():
    pytest.importorskip("bm25s")
    pairs = some_pairs()
    found = lexical_candidates(pairs, 8)
    assert found.shape == (15, 8)
    offsets, never = pairs.never_negatives()
    for query, row in enumerate(found):
        assert not set(row) & set(never[offsets[query] : offsets[query + 1]])
    np.testing.assert_array_equal(lexical_candidates(pairs, 8, queries=[4, 2]), found[[4, 2]])


def test_mixed_negatives():
    pairs = some_pairs()
    mined = mine(pairs, HashEncoder(), num_negatives=6)
    lexical = np.full((15, 4), -1)
    lexical[:, 0] = mined.result.ids[:, 0]  # the same first: BM25's second must do
    lexical[::2, 1] = mined.result.ids[::2, 5]
    found = mixed_negatives(mined, {"dense": 3, "bm25": 1, "random": 2}, lexical=lexical, seed=1)
    assert found.shape == (15, 6)
    np.testing.assert_array_equal(found[:, :3], mined.result.ids[:, :3])
    np.testing.assert_array_equal(found[::2, 3], mined.result.ids[::2, 5])
    offsets, never = pairs.never_negatives()
    for query, row in enumerate(found):
        assert len(set(row)) == 6
        assert not set(row) & set(never[offsets[query] : offsets[query + 1]])
    other = mixed_negatives(mined, {"dense": 3, "bm25": 1, "random": 2}, lexical=lexical, seed=2)
    assert (found != other).any()


@pytest.mark.parametrize(
    ("quotas", "words"),
    [
        ({"sparse": 1}, "quotas names 'sparse'"),
        ({"dense": -1}, "is -1"),
        ({"dense": 0}, "no negative at all"),
    ],
)
def test_bad_quotas(quotas, words):
    with pytest.raises(ValueError, match=words):
        check_quotas(quotas)
    with pytest.raises(TypeError, match=r"quotas\['dense'\] is 1\.5; give an integer"):
        check_quotas({"dense": 1.5})
