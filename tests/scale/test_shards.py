"""stope.scale.shards: merged answers of shards are the answer of the whole, bit for bit.

Rows of two values tie nearly always, so that the order of ties is tested; shards may be empty, of
one row, or shorter than k; parts are merged in a random order and tree.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import stope
from stope.ops._search import METRICS
from stope.scale import shards

ROWS = 60
TopK, PairsAbove = stope.TopK, stope.PairsAbove


@st.composite
def sharded(draw):
    """A matrix, its shards as (rows, start), and a generator of random numbers."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    kind = draw(st.sampled_from(["ties", "copies", "real", "int8"]))
    shape = (ROWS, 5)
    if kind == "real":
        x = rng.standard_normal(shape).astype(np.float32)
    elif kind == "copies":
        x = rng.standard_normal((7, 5)).astype(np.float32)[rng.integers(0, 7, ROWS)]
    else:
        x = rng.integers(-2, 3, shape).astype(np.int8 if kind == "int8" else np.float32)
    cuts = sorted(draw(st.lists(st.integers(0, ROWS), max_size=6)))
    return x, list(zip(np.split(x, cuts), [0, *cuts], strict=True)), rng


def tree(merge, parts, rng):
    """The parts merged two or three at a time, in a random order, one of them twice."""
    parts = [parts[i] for i in rng.permutation(len(parts))]
    parts.append(parts[int(rng.integers(len(parts)))])
    while len(parts) > 1:
        taken = int(rng.integers(2, 4))
        parts = [*parts[taken:], merge(parts[:taken])]
    return parts[0]


def same(merged, whole):
    for mine, theirs in zip(merged, whole, strict=True):
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(
            mine.view(f"u{mine.itemsize}"), theirs.view(f"u{theirs.itemsize}")
        )


@given(
    case=sharded(),
    k=st.integers(1, ROWS + 9),
    metric=st.sampled_from(METRICS),
    limited=st.booleans(),
)
def test_topk(case, k, metric, limited):
    x, parts, rng = case
    queries = x[rng.integers(0, ROWS, 9)]
    options = {"metric": metric}
    if limited:
        options["exclude"] = [rng.choice(ROWS, rng.integers(0, 20), replace=False) for _ in queries]
        options["floor"], options["ceiling"] = -1.0, np.linspace(-1, 4, 9)
    found = [shards.topk_part(queries, part, k, start, **options) for part, start in parts]
    same(
        tree(lambda some: shards.merge_topk(some, k), found, rng),
        stope.topk(queries, x, k, pad=True, **options),
    )


@given(case=sharded(), k=st.integers(1, ROWS - 1), metric=st.sampled_from(METRICS))
def test_graph_by_rows_and_shards(case, k, metric):
    x, parts, rng = case
    whole = stope.knn_graph(x, k, metric=metric)
    for rows, first in parts:
        found = [
            shards.knn_part(rows, part, k, first, start, metric=metric) for part, start in parts
        ]
        merged = tree(lambda some: shards.merge_topk(some, k), found, rng)
        same(merged, [side[first : first + len(rows)] for side in whole])


@given(case=sharded(), k=st.integers(1, 12), metric=st.sampled_from(METRICS))
def test_graph_by_pairs_of_shards(case, k, metric):
    """Each two shards' own graph, in which a score serves both rows: parts overlap."""
    x, _, rng = case
    blocks = np.array_split(np.arange(ROWS), 4)
    found = [[] for _ in blocks]
    for a in range(4):
        for b in range(a):
            rows = np.concatenate([blocks[b], blocks[a]])
            scores, ids = stope.knn_graph(x[rows], k, metric=metric)
            for block, here in ((b, slice(0, 15)), (a, slice(15, 30))):
                found[block].append(TopK(scores[here], rows[ids[here]]))
    merged = [tree(lambda some: shards.merge_topk(some, k), part, rng) for part in found]
    same(map(np.concatenate, zip(*merged, strict=True)), stope.knn_graph(x, k, metric=metric))


@given(case=sharded(), metric=st.sampled_from(METRICS), threshold=st.sampled_from([-1.5, 0.5, 3.0]))
def test_pairs(case, metric, threshold):
    x, parts, rng = case
    options = {"metric": metric, "threshold": threshold}
    found = [shards.pairs_part(*part, **options) for part in parts]
    for a in range(len(parts)):
        for b in range(a):
            order = (parts[a], parts[b]) if rng.integers(2) else (parts[b], parts[a])
            found.append(shards.pairs_part(*order[0], *order[1], **options))
    whole = stope.pairs_above(x, **options)
    same(tree(shards.merge_pairs, found, rng), whole)
    many = len(whole.rows)
    assert len(shards.merge_pairs(found, max_pairs=many).rows) == many
    if many:
        with pytest.raises(
            ValueError, match=f"max_pairs is {many - 1}, but parts have {many} pairs"
        ):
            shards.merge_pairs(found, max_pairs=many - 1)


@given(
    case=sharded(), metric=st.sampled_from(METRICS), threshold=st.sampled_from([None, -1.0, 0.75])
)
def test_nearest_earlier(case, metric, threshold):
    x, parts, rng = case
    options = {"metric": metric, "threshold": threshold}
    whole = stope.nearest_earlier(x, **options)
    for rows, first in parts:
        found = [shards.earlier_part(rows, first, **options)]
        for other, start in parts:
            if start + len(other) <= first:
                found.append(shards.earlier_part(rows, first, other, start, **options))
        same(
            tree(shards.merge_earlier, found, rng),
            [side[first : first + len(rows)] for side in whole],
        )


LIMITS = [
    {},
    {"relative_margin": 0.1, "min_score": 0.1},
    {"absolute_margin": 0.5, "relative_margin": 0.3, "max_score": 0.6, "min_score": -0.5},
    {"absolute_margin": 0.0, "range_min": 2},
    {"relative_margin": 0.2, "sampling": "random", "range_max": 12},
    {"relative_margin": 0.2, "range_counts": "window", "range_max": 9},
    {"absolute_margin": 0.2, "min_score": 0.0, "range_counts": "raw", "range_max": 40},
    {"range_counts": "raw", "range_min": 1, "range_max": 200, "sampling": "random"},
]


@given(
    case=sharded(),
    metric=st.sampled_from(METRICS),
    limits=st.sampled_from(LIMITS),
    excluding=st.booleans(),
    m=st.integers(1, 8),
)
def test_hard_negatives(case, metric, limits, excluding, m):
    """Counts and reasons too; queries in two blocks answer as together."""
    x, parts, rng = case
    queries = x[rng.integers(0, ROWS, 10)]
    positives = [rng.choice(ROWS, rng.integers(1, 5), replace=False) for _ in queries]
    exclude = [rng.choice(ROWS, rng.integers(0, 9), replace=False) for _ in queries]
    limits = {"metric": metric, "seed": 3, **limits}
    whole = stope.mine_hard_negatives(
        queries, x, positives, m, exclude=exclude if excluding else None, **limits
    )
    most = max(map(len, positives))
    for here in (slice(0, 4), slice(4, 10)):
        mining = shards.NegativeSearch(
            positives[here],
            ROWS,
            m,
            exclude=exclude[here] if excluding else None,
            most_positives=most,
            **limits,
        )
        scored = [mining.positive_scores(queries[here], *part) for part in parts]
        lowest = mining.lowest(scored[i] for i in rng.permutation(len(parts)))
        found = [mining.part(queries[here], *part, lowest) for part in parts]
        found = [found[i] for i in rng.permutation(len(parts))]
        middle = int(rng.integers(len(parts)))
        pairs = [mining.merge(half) for half in (found[:middle], found[middle:]) if half]
        mined = mining.result(mining.merge(pairs), here.start)
        same(mined[:4], [np.asarray(side)[here] for side in whole[:4]])
        assert mined.rejected.keys() == whole.rejected.keys()
        for reason, counts in whole.rejected.items():
            np.testing.assert_array_equal(mined.rejected[reason], counts[here], reason)


def test_names():
    names = [["a", "b"], [], ["c"]]
    assert shards.named(np.array([[2, -1], [0, 1]]), names).tolist() == [["c", None], ["a", "b"]]
    with pytest.raises(ValueError, match="ids run from 0 to 3, but names has 3 names"):
        shards.named(np.array([0, 3]), names)
    with pytest.raises(TypeError, match="give an array of integers"):
        shards.named(np.array([0.5]), names)
    with pytest.raises(ValueError, match="ids has 18446744073709551615, beyond int64"):
        shards.named(np.uint64([2**64 - 1]), names)


def part(scores, ids):
    return TopK(np.float32([scores]), np.array([ids]))


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([], "parts is empty"),
        ([part([1, 2], [0, 1])], r"parts\[0\] is no answer of a search in row 0"),
        ([part([1, 1], [0, 1]), part([1, 1], [4, 3])], r"parts\[1\] is no answer"),
        ([part([1, -np.inf], [0, 1])], "is no answer"),
        ([part([1, np.nan], [0, 1])], "is no answer"),
        ([part([2, 1], [0, 1]), part([3, 1], [0, 1])], "parts have id 0 for row 0 with scores"),
        (
            [part([2], [0]), TopK(np.zeros((2, 1), np.float32), np.zeros((2, 1), np.int64))],
            r"\[1, 2\] rows",
        ),
    ],
)
def test_parts_that_do_not_belong_together(parts, said):
    with pytest.raises(ValueError, match=said):
        shards.merge_topk(parts, 2)


def test_kinds_of_parts():
    with pytest.raises(TypeError, match=r"parts\[0\] is a int"):
        shards.merge_topk([3], 2)
    with pytest.raises(TypeError, match="float64 scores"):
        shards.merge_topk([TopK(np.zeros((1, 1)), np.zeros((1, 1), np.int64))], 2)
    with pytest.raises(TypeError, match=r"parts\[0\] is a TopK; give PairsAbove"):
        shards.merge_pairs([part([1], [0])])
    pair = np.array([0]), np.array([1])
    twice = [PairsAbove(*pair, np.float32([score])) for score in (1, 2)]
    with pytest.raises(ValueError, match="rows 0 and 1 with two scores"):
        shards.merge_pairs(twice)


def test_shards_that_do_not_fit():
    x = np.eye(6, dtype=np.float32)
    with pytest.raises(ValueError, match="both have row 3"):
        shards.pairs_part(x[:4], 0, x[3:5], 3, threshold=0.5)
    with pytest.raises(ValueError, match="y and y_start belong together"):
        shards.pairs_part(x[:4], 0, x[3:5], threshold=0.5)
    with pytest.raises(ValueError, match="earlier ends with row 5, and x begins with row 2"):
        shards.earlier_part(x[2:], 2, x, 0)
    with pytest.raises(ValueError, match="metric is 'cos'"):
        shards.pairs_part(x[:0], 0, threshold=0.5, metric="cos")
    with pytest.raises(ValueError, match="start is -1"):
        shards.topk_part(x, x, 2, -1)
    mining = shards.NegativeSearch([0, 5], 6, 2)
    queries, halves = x[:2], [(x[:3], 0), (x[3:], 3)]
    scored = [mining.positive_scores(queries, *half) for half in halves]
    with pytest.raises(ValueError, match="no positive of query 1; give the part of every shard"):
        mining.lowest(scored[:1])
    with pytest.raises(ValueError, match=r"parts have the shapes \[\]; give one vector"):
        mining.lowest([])
    with pytest.raises(ValueError, match=r"positive_scores has shape \(1,\)"):
        mining.part(queries, *halves[0], [0.5])
    with pytest.raises(ValueError, match="a score that is not finite"):
        mining.part(queries, *halves[0], scored[0])
    lowest = mining.lowest(scored)
    found = [mining.part(queries, *half, lowest) for half in halves]
    with pytest.raises(
        ValueError, match="part has rows 3 to 5 of the corpus, which has rows 0 to 5"
    ):
        mining.result(mining.merge(found[1:]))
    with pytest.raises(ValueError, match="parts have row 0 of the corpus twice"):
        mining.merge([*found, found[0]])
    with pytest.raises(ValueError, match="different positive_scores"):
        mining.merge([found[0], mining.part(queries, *halves[1], lowest + 1)])
    with pytest.raises(ValueError, match="shard ends with row 7, but corpus_rows is 6"):
        mining.part(queries, x, 2, lowest)
    with pytest.raises(ValueError, match="queries has 3 rows, but positives are of 2"):
        mining.part(x[:3], *halves[0], lowest)
