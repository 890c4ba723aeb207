"""mine_hard_negatives against the oracle: margins, ranges, sampling, what is refused."""

from __future__ import annotations

import cases
import hypothesis.strategies as st
import numpy as np
import pytest
import reference
from hypothesis import given

import stope

METRICS = ("dot", "cosine", "euclidean")
MINED = (
    "gaussian",
    "clustered",
    "duplicated",
    "many_ties",
    "zero_rows",
    "identical",
    "mixed_norms",
)


def check(got, expected, note=""):
    ids, scores, positive_scores, counts, rejected = expected
    reference.assert_same((got.scores, got.ids), (scores, ids), note)
    np.testing.assert_array_equal(
        reference.bits(got.positive_scores), reference.bits(positive_scores)
    )
    np.testing.assert_array_equal(got.counts, counts, err_msg=f"counts {note}")
    assert set(got.rejected) == set(reference.REASONS)
    for reason in reference.REASONS:
        np.testing.assert_array_equal(
            got.rejected[reason], rejected[reason], err_msg=f"rejected[{reason!r}] {note}"
        )


def problem(case="gaussian", num_queries=12, n=400, dim=24, metric="dot"):
    """(queries, corpus, positives one to four per query, canonical scores)."""
    queries, corpus = cases.make(case, num_queries, n, dim)
    rng = np.random.default_rng(1)
    scores = reference.canonical(queries, corpus, metric)
    best = np.argsort(-scores, axis=1)[:, :20]
    positives = [rng.permutation(row)[: rng.integers(1, 5)] for row in best]
    return queries, corpus, positives, scores


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", MINED)
def test_options_against_the_oracle(metric, case):
    queries, corpus, positives, scores = problem(case, metric=metric)
    middle = np.float32(np.median(scores))
    low = np.float32(np.quantile(scores, 0.2))
    rng = np.random.default_rng(2)
    exclude = [rng.permutation(400)[: rng.integers(0, 30)] for _ in queries]
    options = [
        {},
        {"max_score": float(middle)},
        {"min_score": float(middle)},
        {"max_score": float(middle), "min_score": float(low)},
        {"range_min": 3},
        {"range_min": 5, "range_max": 14},
        {"range_min": 5, "range_max": 14, "range_counts": "raw"},
        {"range_max": 20, "range_counts": "raw", "max_score": float(middle)},
        {"range_min": 5, "range_max": 14, "range_counts": "window"},
        {"range_counts": "window", "relative_margin": 0.1},
        {"range_max": 20, "range_counts": "window", "max_score": float(middle)},
        {"exclude": exclude, "range_counts": "window", "min_score": float(low)},
        {"exclude": exclude},
        {"exclude": exclude, "range_min": 2, "range_max": 30, "range_counts": "raw"},
    ]
    for option in options:
        for num_negatives in (1, 5):
            got = stope.mine_hard_negatives(
                queries, corpus, positives, num_negatives, metric=metric, **option
            )
            check(got, reference.mine(scores, positives, num_negatives, **option), str(option))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", ["gaussian", "clustered", "duplicated", "mixed_norms"])
def test_reasons_are_counted_truly_where_nothing_is_eligible(case, metric):
    """The floor lies above most ceilings: what lies above a ceiling still counts for it."""
    queries, corpus, positives, scores = problem(case, metric=metric)
    option = {
        "absolute_margin": 2 * float(np.ptp(scores)) / 3,
        "min_score": float(np.median(scores)),
    }
    got = stope.mine_hard_negatives(queries, corpus, positives, 5, metric=metric, **option)
    check(got, reference.mine(scores, positives, 5, **option))


@given(st.data())
def test_margins_are_exact_on_exact_numbers(data):
    """Integer dot products and margins in quarters leave no rounding to argue about."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    num_queries, n, dim = (data.draw(st.integers(*span)) for span in ((1, 4), (4, 60), (1, 9)))
    queries = rng.integers(-3, 4, (num_queries, dim)).astype(np.float32)
    corpus = rng.integers(-3, 4, (n, dim)).astype(np.float32)
    positives = [rng.permutation(n)[: rng.integers(1, 4)] for _ in queries]
    option = {}
    quarters = st.integers(0, 12).map(lambda i: i / 4)
    if data.draw(st.booleans()):
        option["absolute_margin"] = data.draw(quarters)
    if data.draw(st.booleans()):
        option["relative_margin"] = data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]))
    if data.draw(st.booleans()):
        option["max_score"] = data.draw(st.integers(-10, 20)) * 1.0
    if data.draw(st.booleans()):
        option["min_score"] = data.draw(st.integers(-20, 5)) * 1.0
    if "max_score" in option and option.get("min_score", -99) > option["max_score"]:
        del option["min_score"]
    if data.draw(st.booleans()):
        option["exclude"] = [rng.permutation(n)[: rng.integers(0, n // 2)] for _ in queries]
    num_negatives = data.draw(st.integers(1, 6))
    if data.draw(st.booleans()):
        option["range_min"] = data.draw(st.integers(0, 5))
    if data.draw(st.booleans()):
        option["range_max"] = (
            option.get("range_min", 0) + num_negatives + data.draw(st.integers(0, 9))
        )
    if data.draw(st.booleans()):
        option["range_counts"] = data.draw(st.sampled_from(["raw", "window"]))
    scores = reference.canonical(queries, corpus)
    got = stope.mine_hard_negatives(
        queries, corpus, positives, num_negatives, metric="dot", **option
    )
    check(got, reference.mine(scores, positives, num_negatives, **option), str(option))


@pytest.mark.parametrize(
    ("positive", "margins", "kept"),
    [
        (8, {"relative_margin": 0.25}, [6, 5, 0, -4]),  # 8 - 2: equality kept
        (-4, {"relative_margin": 0.5}, [-6, -9]),  # -4 - 2, never -4 * 0.5
        (0, {"relative_margin": 0.5}, [-4, -6, -9]),  # a zero positive: 0 - 0; itself masked
        (8, {"absolute_margin": 2.0}, [6, 5, 0, -4]),
        (-4, {"absolute_margin": 2.0}, [-6, -9]),
        (8, {"absolute_margin": 3.0, "relative_margin": 0.25}, [5, 0, -4, -6]),
        (8, {"absolute_margin": 0.0}, [7, 6, 5, 0]),
    ],
)
def test_margins_by_hand(positive, margins, kept):
    values = np.array([9, 8, 7, 6, 5, 0, -4, -6, -9], np.float32)
    got = stope.mine_hard_negatives(
        np.ones((1, 1), np.float32),
        values[:, None],
        np.array([int(np.flatnonzero(values == positive)[0])]),
        4,
        metric="dot",
        **margins,
    )
    assert got.scores[0, : got.counts[0]].tolist() == kept
    assert got.positive_scores.tolist() == [positive]


def test_the_minimum_over_the_positives_decides():
    values = np.array([10, 9, 8, 4, 3, 2], np.float32)[:, None]
    queries = np.ones((1, 1), np.float32)
    got = stope.mine_hard_negatives(queries, values, [[0, 3]], 5, metric="dot", absolute_margin=0.5)
    assert got.positive_scores[0] == 4
    assert got.ids[0].tolist() == [4, 5, -1, -1, -1]
    assert got.counts[0] == 2
    assert got.scores[0, 2] == -np.inf
    assert got.rejected["positive"][0] == 2
    assert got.rejected["absolute_margin"][0] == 2


def test_a_query_gets_every_eligible_negative_however_deep():
    """4,000 false negatives above the ceiling: a window of candidates would starve."""
    corpus = np.linspace(1, 0, 5000, dtype=np.float32)[:, None]
    got = stope.mine_hard_negatives(
        np.ones((1, 1), np.float32),
        corpus,
        np.array([0]),
        5,
        metric="dot",
        max_score=float(corpus[4000, 0]),
    )
    assert got.ids[0].tolist() == [4000, 4001, 4002, 4003, 4004]
    assert got.rejected["max_score"][0] == 3999


def test_positive_kinds_agree():
    queries, corpus, positives, _ = problem()
    csr = (
        np.cumsum([0, *map(len, positives)]).astype(np.int64),
        np.concatenate(positives).astype(np.int64),
    )
    expected = stope.mine_hard_negatives(queries, corpus, positives, 5)
    for other in (csr, [row.tolist() for row in positives], [np.sort(row) for row in positives]):
        got = stope.mine_hard_negatives(queries, corpus, other, 5)
        np.testing.assert_array_equal(got.ids, expected.ids)
    first = np.array([row[0] for row in positives])
    got = stope.mine_hard_negatives(queries, corpus, first, 5)
    same = stope.mine_hard_negatives(queries, corpus, [[i] for i in first], 5)
    np.testing.assert_array_equal(got.ids, same.ids)


def test_default_metric_is_cosine():
    queries, corpus, positives, _ = problem("mixed_norms")
    scores = reference.canonical(queries, corpus, "cosine")
    check(
        stope.mine_hard_negatives(queries, corpus, positives), reference.mine(scores, positives, 5)
    )


# --- random sampling ---------------------------------------------------------------------------


def sample(seed, **options):
    queries, corpus, positives, scores = problem(num_queries=40)
    got = stope.mine_hard_negatives(
        queries, corpus, positives, 4, metric="dot", sampling="random", seed=seed, range_min=2,
        range_max=18, **options,
    )  # fmt: skip
    return got, positives, scores


def test_random_sampling_stays_in_the_pool_ordered_and_distinct():
    got, positives, scores = sample(3, absolute_margin=0.5)
    for row in range(40):
        inside, _, _ = reference.pool(
            scores[row], positives[row], 18, range_min=2, absolute_margin=0.5
        )
        chosen = [i for i in got.ids[row] if i >= 0]
        assert len(chosen) == min(4, len(inside)) == got.counts[row]
        assert len(set(chosen)) == len(chosen)
        assert set(chosen) <= set(inside)
        np.testing.assert_array_equal(got.scores[row, : len(chosen)], scores[row, chosen])
        assert chosen == [i for i in inside if i in set(chosen)]


def test_random_sampling_is_reproducible_and_depends_on_the_seed(threads):
    expected = sample(11)[0]
    for isa in stope.isa.available():
        for count in (1, 2, 5):
            threads(count)
            with stope.isa.only(isa):
                np.testing.assert_array_equal(sample(11)[0].ids, expected.ids)
    assert (sample(12)[0].ids != expected.ids).any()
    # Different queries draw differently: their ranks in the pool are not all the same.
    queries = np.ones((50, 1), np.float32)
    corpus = np.linspace(1, 2, 100, dtype=np.float32)[:, None]
    got = stope.mine_hard_negatives(
        queries, corpus, np.full(50, 99), 3, metric="dot", sampling="random", range_max=50
    )
    assert len({tuple(row) for row in got.ids.tolist()}) > 40


@pytest.mark.parametrize("num_negatives", [1, 5, 15])
def test_random_sampling_is_uniform(num_negatives):
    """Chi-square over 4,000 queries and one pool of 20; 99.9% of 19 degrees is 43.8."""
    queries = np.ones((4000, 1), np.float32)
    corpus = np.linspace(2, 1, 60, dtype=np.float32)[:, None]
    got = stope.mine_hard_negatives(
        queries, corpus, np.zeros(4000, np.int64), num_negatives, metric="dot", sampling="random",
        seed=5, range_min=10, range_max=30,
    )  # fmt: skip
    counts = np.bincount(got.ids.ravel(), minlength=60)
    assert counts.sum() == counts[11:31].sum() == 4000 * num_negatives
    expected = 4000 * num_negatives / 20
    variance = expected * (1 - num_negatives / 20)  # of one count, without replacement
    statistic = ((counts[11:31] - expected) ** 2 / variance).sum() * 19 / 20
    assert statistic < 43.8
    pairs = np.zeros((20, 20))
    for row in got.ids - 11:
        pairs[np.ix_(row, row)] += 1
    if num_negatives > 1:  # every pair of documents comes together about equally often
        together = pairs[np.triu_indices(20, 1)]
        mean = 4000 * num_negatives * (num_negatives - 1) / (20 * 19)
        assert np.abs(together - mean).max() < 5 * mean**0.5


def test_random_sampling_returns_the_whole_pool_when_it_is_small():
    queries, corpus, positives, _ = problem()
    random = stope.mine_hard_negatives(
        queries, corpus, positives, 6, metric="dot", sampling="random", range_min=3, range_max=9
    )
    top = stope.mine_hard_negatives(
        queries, corpus, positives, 6, metric="dot", range_min=3, range_max=9
    )
    np.testing.assert_array_equal(random.ids, top.ids)


# --- what is refused ---------------------------------------------------------------------------

WRONG = [
    ({"num_negatives": 0}, ValueError, r"num_negatives.*0"),
    ({"num_negatives": -2}, ValueError, r"num_negatives.*-2"),
    ({"absolute_margin": -0.1}, ValueError, r"absolute_margin.*-0\.1"),
    ({"relative_margin": -0.05}, ValueError, r"relative_margin.*-0\.05"),
    ({"absolute_margin": float("nan")}, ValueError, r"(?i)absolute_margin.*nan"),
    ({"relative_margin": float("nan")}, ValueError, r"(?i)relative_margin.*nan"),
    ({"max_score": float("nan")}, ValueError, r"(?i)max_score.*nan"),
    ({"min_score": float("nan")}, ValueError, r"(?i)min_score.*nan"),
    ({"max_score": 0.1, "min_score": 0.2}, ValueError, r"m(in|ax)_score.*m(in|ax)_score"),
    ({"range_min": -1}, ValueError, r"range_min.*-1"),
    ({"range_min": 4, "range_max": 4}, ValueError, r"range_max"),
    ({"range_max": 3, "num_negatives": 5}, ValueError, r"num_negatives.*range|range.*num_neg"),
    ({"range_counts": "all"}, ValueError, r"range_counts.*'all'"),
    ({"sampling": "best"}, ValueError, r"sampling.*'best'"),
    ({"metric": "l2"}, ValueError, r"metric.*'l2'"),
    ({"absolute_margin": "0.1"}, TypeError, r"absolute_margin"),
    ({"seed": "one"}, TypeError, r"seed"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "kind", "message"), WRONG, ids=[str(w[0]) for w in WRONG])
def test_wrong_options_are_refused(option, kind, message):
    queries, corpus, positives, _ = problem()
    with pytest.raises(kind, match=message):
        stope.mine_hard_negatives(queries, corpus, positives, **option)


def replaced(row, value):
    positives = [[i] for i in range(12)]
    positives[row] = value
    return positives


WRONG_POSITIVES = [
    (replaced(7, []), ValueError, r"query 7\b.*positives"),
    (replaced(7, [400]), ValueError, r"positives.*\b7\b.*\b400\b"),
    (replaced(7, [-1]), ValueError, r"positives.*\b7\b.*-1\b"),
    (replaced(7, [5, 9, 5]), ValueError, r"positives.*\b7\b"),
    (replaced(7, [1.5]), TypeError, r"positives"),
    ([[i] for i in range(11)], ValueError, r"positives.*\b11\b.*\b12\b"),
    (np.arange(11), ValueError, r"positives.*\b11\b.*\b12\b"),
    (np.arange(12, dtype=np.float64), TypeError, r"positives"),
    (np.full(12, 400), ValueError, r"positives.*\b0\b.*\b400\b"),
    ((np.arange(12), np.arange(12)), ValueError, r"positives"),  # offsets of 11 queries
    ((np.arange(13) * 2, np.arange(12)), ValueError, r"positives"),  # ids end too early
    ((np.array([0, 2, 1, *range(3, 13)]), np.arange(12)), ValueError, r"positives"),  # descending
    ((np.arange(1, 14), np.arange(13)), ValueError, r"positives"),  # does not start at 0
]


@pytest.mark.parametrize(("positives", "kind", "message"), WRONG_POSITIVES)
def test_wrong_positives_are_refused(positives, kind, message):
    queries, corpus, _, _ = problem()
    with pytest.raises(kind, match=message):
        stope.mine_hard_negatives(queries, corpus, positives)


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (value, message.replace("positives", "exclude"))
        for value, kind, message in WRONG_POSITIVES[1:4]
        if "-1" not in message  # in exclude -1 is none
    ],
)
def test_wrong_exclusions_are_refused(exclude, message):
    queries, corpus, positives, _ = problem()
    with pytest.raises(ValueError, match=message):
        stope.mine_hard_negatives(queries, corpus, positives, exclude=exclude)
    with pytest.raises(ValueError, match=message):
        stope.topk(queries, corpus, 3, exclude=exclude)


def test_ids_may_be_unsorted():
    queries, corpus, _, scores = problem()
    positives = [[5, 3, 9]] * 12
    got = stope.mine_hard_negatives(
        queries, corpus, positives, metric="dot", exclude=[[8, 2, 7]] * 12
    )
    check(got, reference.mine(scores, positives, 5, exclude=[[8, 2, 7]] * 12))


def test_a_positive_may_also_be_excluded():
    queries, corpus, positives, scores = problem()
    got = stope.mine_hard_negatives(queries, corpus, positives, metric="dot", exclude=positives)
    check(got, reference.mine(scores, positives, 5, exclude=positives))
