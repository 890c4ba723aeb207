"""The consistency filter against counting in a matrix of scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stope
from encoders import Counting, HashEncoder, some_texts
from stope.data import Pairs
from stope.mining import Consistency, consistency_filter, mine


def by_counting(pairs, queries, corpus, documents, metric="cosine", query_text=True):
    """Ranks of all positives, from the whole matrix of canonical scores."""
    scores = np.asarray(stope.similarity(queries, corpus, metric=metric))
    offsets, rows = pairs.positives
    ranks = []
    for query in range(len(pairs.query_ids)):
        own = set(rows[offsets[query] : offsets[query + 1]].tolist())
        others = [
            d for d in documents
            if d not in own
            and not (query_text and pairs.corpus_texts[d] == pairs.query_texts[query])
        ]  # fmt: skip
        for row in rows[offsets[query] : offsets[query + 1]]:
            ranks.append(1 + int((scores[query, others] > scores[query, row]).sum()))
    return np.array(ranks)


def some_pairs(random, queries, documents, most=3):
    corpus = [f"document {i}" for i in range(documents)]
    positives = [
        [corpus[d] for d in random.choice(documents, random.integers(1, most + 1), replace=False)]
        for _ in range(queries)
    ]
    return Pairs.from_texts([f"query {i}" for i in range(queries)], positives, corpus)


@given(
    queries=st.integers(1, 30), documents=st.integers(3, 40), top=st.integers(1, 6),
    seed=st.integers(0, 99), metric=st.sampled_from(["cosine", "dot", "euclidean"]),
    coarse=st.booleans(),
)  # fmt: skip
def test_ranks_are_counts(queries, documents, top, seed, metric, coarse):
    random = np.random.default_rng(seed)
    pairs = some_pairs(random, queries, documents)
    rows = [random.standard_normal((n, 3)).astype(np.float32) for n in (queries, documents)]
    if coarse:  # many ties
        rows = [np.sign(part) for part in rows]
    found = consistency_filter(
        pairs, query_embeddings=rows[0], corpus_embeddings=rows[1], top=top, metric=metric,
        greatest_rank=8,
    )  # fmt: skip
    expected = by_counting(pairs, *rows, range(documents), metric)
    assert found.ranks.tolist() == np.minimum(expected, 9).tolist()
    assert found.kept.tolist() == (expected <= top).tolist()


def test_identical_embeddings_keep_everything():
    """The identity as similarity matrix: every pair is at rank 1 (docs/methods.md, D19)."""
    eye = np.eye(20, dtype=np.float32)
    pairs = Pairs.from_texts([f"q{i}" for i in range(20)], [f"d{i}" for i in range(20)])
    found = consistency_filter(pairs, query_embeddings=eye, corpus_embeddings=eye, top=1)
    assert found.kept.all()
    assert set(found.ranks.tolist()) == {1}
    assert found.kept_pairs().query_ids == pairs.query_ids
    assert found.summary()["share"]["rank 1 or better"] == 1.0
    wrong = consistency_filter(
        pairs, query_embeddings=eye[::-1].copy(), corpus_embeddings=eye, top=1
    )
    assert not wrong.kept.any()
    assert set(wrong.ranks.tolist()) == {2}  # ties with all but one
    with pytest.raises(ValueError, match="none of the 20 pairs was kept"):
        wrong.kept_pairs()


def test_ties_are_in_favour_of_the_pair():
    rows = np.ones((5, 2), dtype=np.float32)
    pairs = Pairs.from_texts(["q"], ["d4"], [f"d{i}" for i in range(5)])
    found = consistency_filter(pairs, query_embeddings=rows[:1], corpus_embeddings=rows, top=1)
    assert found.ranks.tolist() == [1]


def test_other_positives_do_not_count():
    corpus = np.array([[1, 0], [0.9, 0.1], [0.8, 0.2], [0, 1]], np.float32)
    pairs = Pairs.from_texts(["q"], [["a", "b", "c"]], ["a", "b", "c", "d"])
    found = consistency_filter(pairs, query_embeddings=corpus[:1], corpus_embeddings=corpus, top=1)
    assert found.ranks.tolist() == [1, 1, 1]


def test_a_sample_is_what_is_counted():
    random = np.random.default_rng(0)
    pairs = some_pairs(random, 40, 60)
    rows = [random.standard_normal((n, 8)).astype(np.float32) for n in (40, 60)]
    options = {"query_embeddings": rows[0], "corpus_embeddings": rows[1], "greatest_rank": 60}
    found = consistency_filter(pairs, num_documents=20, seed=3, **options)
    sample = np.sort(np.random.default_rng([3, 6]).choice(60, 20, replace=False))
    assert found.ranks.tolist() == by_counting(pairs, *rows, sample.tolist()).tolist()
    assert (found.ranks <= consistency_filter(pairs, **options).ranks).all()
    other = consistency_filter(pairs, num_documents=20, seed=4, **options)
    assert other.ranks.tolist() != found.ranks.tolist()


def test_the_query_itself_does_not_count():
    rows = np.array([[1, 0], [0.8, 0.6]], np.float32)
    pairs = Pairs.from_texts(["same"], ["answer"], ["same", "answer"])
    options = {"query_embeddings": rows[:1], "corpus_embeddings": rows, "top": 1}
    assert consistency_filter(pairs, **options).ranks.tolist() == [1]
    assert consistency_filter(pairs, exclude_query_text=False, **options).ranks.tolist() == [2]


def test_kept_pairs_go_on_into_mining():
    corpus = np.array([[1, 0], [0.9, 0.3], [0, 1], [0.1, 1]], np.float32)
    queries = np.array([[1, 0], [0, 1], [1, 0.1]], np.float32)
    pairs = Pairs.from_texts(["q0", "q1", "q2"], [["a", "c"], ["b"], ["a"]], ["a", "b", "c", "d"])
    found = consistency_filter(pairs, query_embeddings=queries, corpus_embeddings=corpus, top=1)
    assert found.kept.tolist() == [True, False, False, True]
    left = found.kept_pairs()
    assert left.query_ids == ["q0", "q2"]
    assert [part.tolist() for part in left.positives] == [[0, 1, 2], [0, 0]]
    assert [part.tolist() for part in found.dropped()] == [[0, 1, 1], [2]]
    mined = mine(
        left, query_embeddings=queries, corpus_embeddings=corpus, num_negatives=3,
        exclude=found.dropped(),
    )  # fmt: skip
    assert mined.negatives()["q0"] == [("d1", pytest.approx(0.9487, abs=1e-3)),
                                       ("d3", pytest.approx(0.0995, abs=1e-3))]  # fmt: skip
    assert len(mined.negatives()["q2"]) == 3
    assert found.summary() == {
        "pairs": 4, "kept": 2, "queries": 3, "queries kept": 2,
        "share": {"rank 1 or better": 0.5, "rank 2 or better": 0.5, "rank 5 or better": 1.0,
                  "rank 10 or better": 1.0},
    }  # fmt: skip


def test_an_encoder_and_its_cache(tmp_path):
    texts = [f"{text} {i}" for i, text in enumerate(some_texts(60, seed=1))]
    pairs = Pairs.from_texts([f"{text} ask" for text in texts[:30]], texts[:30], texts)
    found = consistency_filter(pairs, HashEncoder())
    assert found.kept.mean() > 0.8
    encoder = Counting()
    first = consistency_filter(pairs, encoder, cache=tmp_path)
    asked = len(encoder.asked)
    stages = []
    again = consistency_filter(pairs, encoder, cache=tmp_path, progress=lambda *a: stages.append(a))
    assert len(encoder.asked) == asked
    assert np.array_equal(first.ranks, again.ranks)
    assert isinstance(again, Consistency)
    assert {stage for stage, _, _ in stages} == {"queries", "corpus", "ranking"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"top": 0}, "top is 0; it must be at least 1"),
        ({"num_documents": 4}, "num_documents is 4, but the corpus has 3"),
        ({"query_embeddings": np.eye(3, dtype=np.float32)}, "query_embeddings has 3 rows but 2"),
    ],
)
def test_bad_input_gets_a_sentence(options, sentence):
    pairs = Pairs.from_texts(["a", "b"], ["x", "y"], ["x", "y", "z"])
    eye = np.eye(3, dtype=np.float32)
    given = {"query_embeddings": eye[:2], "corpus_embeddings": eye, **options}
    with pytest.raises(ValueError, match=sentence):
        consistency_filter(pairs, **given)
    with pytest.raises(TypeError, match=r"greatest_rank is 2\.5; give an integer"):
        consistency_filter(pairs, greatest_rank=2.5)
    with pytest.raises(TypeError, match="there is no encoder and no query_embeddings"):
        consistency_filter(pairs)
