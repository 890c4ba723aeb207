"""Groups and SemDeDup against loops over all pairs, and the oracles of F2."""

from __future__ import annotations

import numpy as np
import pytest
import reference

pytest.importorskip("scipy", reason="needs the extra neighbors")

import stope
from stope.neighbors import duplicate_groups, semdedup


def planted(seed=0, originals=120, copies=60, noise=0.02, dim=16):
    random = np.random.default_rng(seed)
    base = random.standard_normal((originals, dim))
    made = base[random.integers(0, originals, copies)]
    x = np.concatenate([base, made + noise * random.standard_normal(made.shape)])
    return x[random.permutation(len(x))].astype(np.float32)


def angles(*degrees):
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_groups_are_the_components_of_all_pairs():
    x = planted()
    scores = reference.canonical(x, x, "cosine")
    for threshold in (0.5, 0.9, float(scores[3, 5])):
        groups = duplicate_groups(x, threshold)
        alike = scores >= threshold
        labels = np.arange(len(x))
        for _ in range(len(x)):
            smallest = np.where(alike, labels, len(x)).min(axis=1)
            if np.array_equal(labels, np.minimum(labels, smallest)):
                break
            labels = np.minimum(labels, smallest)
        first, expected = np.unique(labels, return_inverse=True)
        assert np.array_equal(groups.labels, expected)
        assert np.array_equal(groups.kept, first)
        assert groups.num_pairs == np.triu(alike, 1).sum()
        sizes = np.bincount(expected)
        assert groups.groups.lengths.tolist() == sizes[sizes > 1].tolist()
        for group in groups.groups.rows():
            assert len(set(expected[group])) == 1
            assert (np.diff(group) > 0).all()


def test_all_are_equal_or_none():
    x = np.ones((50, 4), np.float32)
    assert duplicate_groups(x, 0.999).kept.tolist() == [0]
    assert duplicate_groups(np.eye(5, dtype=np.float32), 0.5).groups.num_lists == 0
    assert duplicate_groups(x[:1], 0.5).kept.tolist() == [0]


def test_the_oracle_of_the_chain():
    """Angles 0, 10, 20 and epsilon .02: cos 10 is a duplicate, cos 20 is none."""
    x = angles(0, 10, 20)
    assert semdedup(x, keep="earliest").kept(0.02).tolist() == [0]
    greedy = semdedup(x, keep="earliest", mode="greedy", epsilon=0.1)
    assert greedy.kept(0.02).tolist() == [0, 2]
    assert greedy.kept(0.1).tolist() == [0]
    assert greedy.kept(0.0).tolist() == [0, 1, 2]
    assert duplicate_groups(x, 0.98).kept.tolist() == [0]


def loop(x, labels, order, limit, mode):
    """SemDeDup by two loops."""
    scores = reference.canonical(x, x, "cosine")
    left = np.ones(len(x), dtype=bool)
    for place, row in enumerate(order):
        for before in order[:place]:
            counts = labels[before] == labels[row] and (mode == "onepass" or left[before])
            if counts and scores[before, row] > limit:
                left[row] = False
    return np.flatnonzero(left)


@pytest.mark.parametrize("mode", ["onepass", "greedy"])
@pytest.mark.parametrize("keep", ["farthest", "nearest", "earliest"])
@pytest.mark.parametrize("across", [False, True])
def test_semdedup_is_its_loops(mode, keep, across):
    x = planted()
    x[17] = x[90]
    clusters = stope.kmeans(x, 6, metric="cosine")
    result = semdedup(
        x, clusters=clusters, keep=keep, mode=mode, epsilon=0.5, across_clusters=across
    )
    sign = {"farthest": 1, "nearest": -1, "earliest": 0}[keep]
    order = np.argsort(sign * clusters.scores, kind="stable")
    assert np.array_equal(result.order, order)
    labels = np.zeros(len(x)) if across else clusters.labels
    for epsilon in (0.0, 0.01, 0.2, 0.5):
        kept = result.kept(epsilon)
        assert np.array_equal(kept, loop(x, labels, order, 1 - epsilon, mode))
    assert len(result.kept(0.5)) < len(result.kept(0.01)) < len(x)


def test_the_most_similar_earlier_row_is_stored():
    x = planted()
    result = semdedup(x, clusters=4, seed=3)
    scores = reference.canonical(x, x, "cosine")
    place = np.argsort(result.order)
    for row in range(len(x)):
        earlier = np.flatnonzero((place < place[row]) & (result.labels == result.labels[row]))
        if not len(earlier):
            assert (result.ids[row], result.scores[row]) == (-1, -np.inf)
            continue
        best = scores[row, earlier].max()
        ties = earlier[scores[row, earlier] == best]
        assert result.scores[row] == best
        assert result.ids[row] == ties[place[ties].argmin()]


def test_least_alike_is_an_exact_share():
    x = planted()
    result = semdedup(x, clusters=4)
    for count in (0, 1, 77, len(x)):
        rows = result.least_alike(count)
        assert len(rows) == count
        rest = np.setdiff1d(np.arange(len(x)), rows)
        if count and len(rest):
            assert result.scores[rows].max() <= result.scores[rest].min()
    limit = np.sort(result.scores)[99]
    assert np.array_equal(result.least_alike(100), result.kept(float(1 - limit)))


def test_stages_of_progress():
    told = []
    semdedup(planted(), clusters=4, progress=lambda *args: told.append(args))
    assert [stage for stage, *_ in told] == sorted(stage for stage, *_ in told)
    assert told[-1][0] == "rows"
    assert told[-1][1] == told[-1][2]
    assert {stage for stage, *_ in told} == {"clusters", "rows"}


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda x: semdedup(x, mode="greedy"), ValueError, "epsilon is None, but mode 'greedy'"),
        (lambda x: semdedup(x).kept(-0.1), ValueError, "epsilon is -0.1; it must be from 0 to 2"),
        (lambda x: semdedup(x, mode="greedy", epsilon=0.1).kept(0.2), ValueError,
         "epsilon is 0.2, but pairs were looked for up to 0.1; give semdedup epsilon=0.2"),
        (lambda x: semdedup(x, clusters=stope.kmeans(x[:9], 2)), ValueError,
         "clusters are of 9 rows, but x has 180"),
        (lambda x: semdedup(x, clusters="four"), TypeError, "clusters is 'four'; give how many"),
        (lambda x: semdedup(x, clusters=181), ValueError, "clusters is 181, but x has 180 rows"),
        (lambda x: semdedup(x).least_alike(181), ValueError, "count is 181"),
        (lambda x: duplicate_groups(x, np.nan), ValueError, "threshold is nan"),
        (lambda x: duplicate_groups(x.astype(float), 0.5), TypeError, "x has dtype float64; cast"),
        (lambda x: duplicate_groups(x[:0], 0.5), ValueError, "x is empty"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence(make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make(planted())
