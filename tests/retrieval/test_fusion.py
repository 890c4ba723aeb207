"""Fusion against its oracles, in one total order, and rankings as runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders import HashEncoder, some_texts
from stope.retrieval import (
    Bm25,
    DenseRetriever,
    HybridRetriever,
    Ranking,
    Tokenizer,
    fuse,
    search,
)

PLAIN = Tokenizer(stop_words=None)


# --- fusion ------------------------------------------------------------------------------------


def ranking(*rows):
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), -1)
    scores = np.full((len(rows), width), -np.inf, np.float32)
    for place, row in enumerate(rows):
        for column, (name, score) in enumerate(row):
            ids[place, column], scores[place, column] = name, score
    return Ranking(ids, scores)


def test_reciprocal_ranks():
    one = ranking([(5, 9.0), (6, 8.0), (7, 1.0)])
    two = ranking([(9, 3.0), (8, 2.0), (5, 1.0)])
    found = fuse([one, two])
    table = dict(zip(found.ids[0].tolist(), found.scores[0].tolist(), strict=True))
    assert found.ids.tolist() == [[5, 9, 6]]
    assert table[5] == pytest.approx(1 / 61 + 1 / 63)
    assert table[9] == pytest.approx(1 / 61)
    assert table[6] == pytest.approx(1 / 62)  # before 8, of the same score
    weighted = fuse([one, two], weights=[0, 2], rrf_k=0, k=5)
    assert weighted.ids.tolist() == [[9, 8, 5, 6, 7]]
    np.testing.assert_allclose(weighted.scores[0], [2, 1, 2 / 3, 0, 0])


def test_minmax():
    one = ranking([(0, 10.0), (1, 5.0), (2, 0.0)])  # a b c
    two = ranking([(1, 2.0), (3, 1.0)])  # b d
    found = fuse([one, two], method="minmax", k=4)
    assert found.ids.tolist() == [[1, 0, 2, 3]]
    assert found.scores.tolist() == [[0.75, 0.5, 0.0, 0.0]]
    flat = fuse([ranking([(4, 3.0), (2, 3.0)])], method="minmax")
    assert flat.ids.tolist() == [[2, 4]]
    assert flat.scores.tolist() == [[1.0, 1.0]]


def test_a_query_may_be_missing_from_one_ranking():
    one = ranking([(0, 1.0)], [(1, 2.0), (0, 1.0)])
    two = ranking([(3, 1.0)], [])
    for method in ("rrf", "minmax"):
        found = fuse([one, two], method=method, k=3)
        assert found.ids.tolist() == [[0, 3, -1], [1, 0, -1]]
        assert np.isneginf(found.scores[found.ids < 0]).all()


lists = st.lists(st.lists(st.integers(0, 12), max_size=8, unique=True), min_size=2, max_size=4)


@given(lists, st.randoms(use_true_random=False), st.sampled_from(["rrf", "minmax"]))
def test_the_order_of_the_rankings_changes_nothing(rows, rng, method):
    rankings = [
        ranking([(name, float(len(row) - place)) for place, name in enumerate(row)]) for row in rows
    ]
    shuffled = rankings[:]
    rng.shuffle(shuffled)
    if not any(rows):
        return
    one, two = (fuse(part, method=method, k=13) for part in (rankings, shuffled))
    assert (one.ids == two.ids).all()
    assert (one.scores.view(np.uint32) == two.scores.view(np.uint32)).all()
    keys = [(-s, i) for i, s in zip(one.ids[0], one.scores[0], strict=True) if i >= 0]
    assert keys == sorted(keys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rankings": []}, "rankings is empty"),
        ({"method": "sum"}, "method is 'sum'"),
        ({"weights": [1]}, "weights has 1 numbers for 2 rankings"),
        ({"weights": [1, -1]}, "at least 0, and not all 0"),
        ({"weights": [0, 0]}, "at least 0, and not all 0"),
        ({"weights": [1, math.nan]}, "must be finite"),
        ({"rrf_k": -1}, "rrf_k is -1"),
        ({"k": 0}, "k is 0"),
    ],
)
def test_fuse_refuses(arguments, message):
    pair = [ranking([(0, 1.0)]), ranking([(1, 1.0)])]
    with pytest.raises(ValueError, match=message):
        fuse(**{"rankings": pair, **arguments})


def test_fuse_refuses_different_queries():
    with pytest.raises(ValueError, match=r"rankings have \[1, 2\] queries"):
        fuse([ranking([(0, 1.0)]), ranking([(0, 1.0)], [(0, 1.0)])])


def test_hybrid_is_the_fusion_of_its_parts():
    corpus, queries = some_texts(200), some_texts(5, seed=2)
    parts = [Bm25(corpus, tokenizer=PLAIN), DenseRetriever(HashEncoder(), corpus)]
    hybrid = HybridRetriever(parts, method="minmax", weights=[0.3, 0.7], depth=50)
    want = fuse(
        [part.search(queries, 50) for part in parts], method="minmax", weights=[0.3, 0.7], k=10
    )
    got = hybrid.search(queries, k=10)
    assert (got.ids == want.ids).all()
    assert (got.scores == want.scores).all()
    shallow = HybridRetriever(parts[1:], depth=1).search(queries, k=10)
    assert (shallow.ids >= 0).all()
    with pytest.raises(ValueError, match=r"corpora of \[2, 200\] documents"):
        HybridRetriever([parts[0], Bm25(["aa bb", "cc"])])


# --- runs --------------------------------------------------------------------------------------


def test_run_and_back():
    names, documents = ["q1", "q2"], ["a", "b", "c"]
    found = ranking([(2, 0.5), (0, 0.25)], [])
    run = found.to_run(names, documents)
    assert run == {"q1": {"c": 0.5, "a": 0.25}, "q2": {}}
    assert list(run["q1"]) == ["c", "a"]
    back = Ranking.from_run(run, names, documents)
    assert (back.ids == found.ids).all()
    assert (back.scores == found.scores).all()
    tied = Ranking.from_run({"q1": {"c": 1.0, "a": 1.0}}, names, documents)
    assert tied.ids.tolist() == [[0, 2], [-1, -1]]
    rounded = Ranking.from_run({"q1": {"c": 1.0 + 1e-9, "a": 1.0}}, names, documents)
    assert rounded.ids.tolist() == [[0, 2], [-1, -1]]  # equal in float32


def test_ranking_refuses():
    with pytest.raises(ValueError, match=r"ids has shape \(1, 2\) and scores has shape \(1, 1\)"):
        Ranking(np.zeros((1, 2), int), np.zeros((1, 1)))
    with pytest.raises(ValueError, match="query_ids has 2 entries for 1 queries of the ranking"):
        ranking([(0, 1.0)]).to_run(["a", "b"], ["x"])
    with pytest.raises(ValueError, match="corpus_ids has 1 ids but the ranking names row 4"):
        ranking([(4, 1.0)]).to_run(["a"], ["x"])
    with pytest.raises(ValueError, match="document 'z' for query 'a'"):
        Ranking.from_run({"a": {"z": 1.0}}, ["a"], ["x"])
    with pytest.raises(TypeError, match=r"ids is .*; give integers"):
        Ranking(np.zeros((1, 1)), np.zeros((1, 1)))


def test_no_id_is_lost_where_two_are_equal():
    two = ranking([(0, 1.0), (1, 0.5)])
    with pytest.raises(ValueError, match="corpus_ids has 'x' more than once"):
        two.to_run(["a"], ["x", "x"])
    with pytest.raises(ValueError, match="corpus_ids has 'x' more than once"):
        Ranking.from_run({"a": {"x": 1.0}}, ["a"], ["x", "x"])
    with pytest.raises(ValueError, match="query_ids has 'a' more than once"):
        ranking([(0, 1.0)], [(1, 1.0)]).to_run(["a", "a"], ["x", "y"])
    with pytest.raises(ValueError, match="corpus_ids has 'x' more than once"):
        search(Bm25(["aa", "bb"], tokenizer=PLAIN), ["q"], ["aa"], ["x", "x"], k=1)


@pytest.mark.parametrize("batch_size", [1, 3, 1024])
def test_search_makes_the_same_run_in_any_batches(batch_size):
    corpus, queries = some_texts(50), some_texts(10, seed=5)
    ids, names = [f"d{i}" for i in range(50)], [f"q{i}" for i in range(10)]
    bm25 = Bm25(corpus, tokenizer=PLAIN)
    seen = []
    run = search(
        bm25,
        names,
        queries,
        ids,
        k=5,
        batch_size=batch_size,
        progress=lambda *step: seen.append(step),
    )
    assert run == bm25.search(queries, 5).to_run(names, ids)
    assert seen[-1] == (10, 10)


def test_search_leaves_out_the_query_itself():
    corpus = ["aa bb", "aa", "bb", "aa cc"]
    ids = ["w", "x", "y", "z"]
    bm25 = Bm25(corpus, tokenizer=PLAIN)
    run = search(bm25, ["x", "new"], ["aa", "aa"], ids, k=2, exclude_self=True)
    assert run["new"].keys() == {"x", "w"}
    assert run["x"].keys() == {"w", "z"}
    assert len(search(bm25, ["x"], ["aa"], ids, k=4, exclude_self=True)["x"]) == 2


@pytest.mark.parametrize(
    ("query_ids", "corpus_ids", "message"),
    [
        (["q"], ["a", "b"], "query_ids has 1 entries for 2 query_texts"),
        (["q", "q"], ["a", "b"], "query_ids has 'q' more than once"),
        (["p", "q"], ["a"], "corpus_ids has 1 entries for 2 documents of the retriever"),
    ],
)
def test_search_over_names_refuses(query_ids, corpus_ids, message):
    with pytest.raises(ValueError, match=message):
        search(Bm25(["aa", "bb"]), query_ids, ["aa", "bb"], corpus_ids, k=1)
