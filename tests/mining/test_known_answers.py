"""Copies of positives, and what is near to them, are known as answers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope.data import Pairs
from stope.data.text_identity import letters_key
from stope.mining import (
    Limits,
    MiningJob,
    Sources,
    copies_of_positives,
    mine,
    near_positives,
)

TITLE, BODY = "Iron ore", "A rock, from which iron is won."
TOGETHER = [
    "Iron ore: A rock, from which iron is won.",
    "Iron ore\n\nA rock, from which iron is won",
    "iron ore. a rock \u2013 from which iron is won!",
    "**Iron ore** A rock, from which iron is won.",
    "\u201cIron\u00a0ore\u201d (A rock, from which iron is won)",
    BODY,
    "a rock from which\u200b iron is won",
]


@pytest.mark.parametrize("positive", TOGETHER)
def test_a_titled_document_is_known_in_every_shape(positive):
    corpus = ["Ore in general.", BODY, "A rock, from which copper is won.", "Iron ore"]
    titles = ["", TITLE, TITLE, ""]
    titled = [
        f"{title} {text}" if title else text for text, title in zip(corpus, titles, strict=True)
    ]
    pairs = Pairs.from_texts(["?"], [positive], titled, corpus_titles=titles)
    answers = pairs.positives.union(copies_of_positives(pairs)).ids.tolist()
    assert set(answers) - {4} == {1}


def test_what_was_put_together_elsewhere_is_no_negative():
    corpus = [*TOGETHER, "Copper ore: A rock, from which iron is won.", "A rock"]
    pairs = Pairs.from_texts(["ore?", "pit?"], [TOGETHER[0], "A rock"], corpus)
    copies = copies_of_positives(pairs)
    assert [corpus[row] for row in copies.row(0)] == TOGETHER[1:5]
    assert copies.row(1).tolist() == []
    embeddings = np.float32([[1, n] for n in range(len(corpus))])
    mined = mine(
        pairs, query_embeddings=embeddings[:2], corpus_embeddings=embeddings, num_negatives=9
    )
    assert set(dict(mined.negatives()["q0"])) == {"d5", "d6", "d7", "d8"}
    assert len(mined.negatives()["q1"]) == len(corpus) - 1


def test_two_titles_of_one_text_are_two_documents():
    texts, titles = ["Copper Yes.", "Iron Yes.", "Yes!"], ["Copper", "Iron", ""]
    pairs = Pairs.from_texts(["?"], ["Copper: Yes."], texts, corpus_titles=titles)
    assert pairs.corpus_ids[3] == "positive-0"
    assert copies_of_positives(pairs).ids.tolist() == [0]
    pairs = Pairs.from_texts(["?"], ["Copper Yes."], texts, corpus_titles=titles)
    assert pairs.positives.ids.tolist() == [0]
    assert copies_of_positives(pairs).ids.tolist() == [2]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("\u0915\u093f", "\u0915", False),  # a vowel sign is no punctuation
        ("C++", "C", False),
        ("a\u0301b", "\u00e1-b", True),
        ("\u9244\u9271\u3002", "\u9244\u9271", True),
        ("x = 3", "x: 3", False),
        ("no", "on", False),
        ("1.5 mg", "15 mg", False),
        ("1,500 t", "1.500 t", False),
        ("version 1.2.3", "version 12.3", False),
        ("pages 3-5", "pages 35", False),
        ("pages 3\u20135", "pages 3-5", True),
        ("at -5 degrees", "at 5 degrees", False),
        ("at \u20135 degrees", "at -5 degrees", True),
        ("5% of ore", "5 of ore", False),
        ("C#", "C", False),
        ("R&D", "RD", False),
        ("a@b", "ab", False),
        ("and/or", "andor", False),
        ("a*b", "ab", False),
        ("max_size", "maxsize", False),
        ("# Ore #", "Ore", True),
        ("__Iron__ *ore*", "Iron ore", True),
        ("Covid-19", "Covid 19", True),
        ("iron / copper", "iron, copper", True),
        ("Budget 2020: 3 mines.", "Budget 2020\n\n3 mines", True),
        ("Ore - 5 tons", "Ore, 5 tons", True),
    ],
)
def test_what_changes_the_meaning_counts(first, second, same):
    assert (letters_key(first) == letters_key(second)) is same


def test_texts_of_punctuation_alone_are_equal_to_none():
    pairs = Pairs.from_texts(["?", "!"], ["...", "ore"], ["---", "***", "ore"])
    assert len(copies_of_positives(pairs).ids) == 0


def test_documents_without_text_are_no_negatives(tmp_path):
    pytest.importorskip("pyarrow", reason="tables are Parquet")
    pairs = Pairs.from_texts(["?"], ["ore"], ["", "ore", " \n", "pit", "lamp"])
    options = {
        "query_embeddings": np.ones((1, 2), np.float32),
        "corpus_embeddings": np.float32([[1, n] for n in range(5)]),
        "limits": Limits(num_negatives=9),
    }
    without = [
        mine(pairs, **options),
        mine(pairs, exclude=[[3]], **options),
        MiningJob(tmp_path / "job", pairs, sources=Sources({"random": 9}), **options).run(),
    ]
    found = [set(dict(mined.negatives()["q0"])) for mined in without]
    assert found == [{"d3", "d4"}, {"d3"}, {"d3", "d4"}]
    assert [mined.result.rejected["excluded"].tolist() for mined in without] == [[1], [2], [1]]


@given(st.integers(0, 2**32), st.floats(0.2, 1.0))
def test_near_positives_are_those_of_plain_loops(seed, threshold):
    rng = np.random.default_rng(seed)
    corpus = np.round(rng.standard_normal((20, 3))).astype(np.float32) + np.float32(0.125)
    texts = [f"text {n}" for n in range(20)]
    answers = [[texts[n] for n in rng.choice(20, 2, replace=False)] for _ in range(4)]
    pairs = Pairs.from_texts([f"query {n}" for n in range(4)], answers, texts)
    unit = corpus.astype(np.float64) / np.linalg.norm(corpus.astype(np.float64), axis=1)[:, None]
    scores = unit @ unit.T
    near = near_positives(pairs, corpus, threshold)
    for query in range(4):
        positives = pairs.positives.row(query)
        reach = scores[positives].max(axis=0)
        certain = {d for d in range(20) if reach[d] >= threshold + 1e-6} - set(positives.tolist())
        possible = {d for d in range(20) if reach[d] >= threshold - 1e-6} - set(positives.tolist())
        assert certain <= set(near.row(query).tolist()) <= possible


@pytest.mark.parametrize("threshold", [0.0, -0.1, 1.5])
def test_a_threshold_is_a_cosine(threshold):
    pairs = Pairs.from_texts(["?"], ["ore"], ["ore", "pit"])
    with pytest.raises(ValueError, match="threshold is"):
        near_positives(pairs, np.eye(2, dtype=np.float32), threshold)
