"""Texts that were put together differently are one text: in pairs, positives, negatives."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope.data import Collection, NegativeTable, Pairs, join_pairs, normal_text, text_key
from stope.mining import consistency_filter, mine

TEXT = "Caf\u00e9 au lait:\nhot milk"
FORMS = [
    TEXT,
    TEXT.replace("\n", "\r\n"),
    TEXT.upper(),
    unicodedata.normalize("NFD", TEXT),
    f"  {TEXT}\t",
    TEXT.replace(" ", "\u00a0"),
    TEXT.replace("milk", "mi\u200blk"),
    "\ufeff" + TEXT,
    TEXT.replace(" ", "  "),
]


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_one_text(form):
    assert text_key(form) == text_key(TEXT)
    pairs = Pairs.from_texts(["what?"], [form], [TEXT, "tea"])
    assert pairs.corpus_texts == [TEXT, "tea"]  # verbatim, and nothing added
    assert pairs.positives.ids.tolist() == [0]
    assert Pairs.from_texts(["what?"], [TEXT], [TEXT, form, "tea"]).corpus_ids == ["d0", "d2"]
    assert pairs.rows_of([form, "cocoa"]).tolist() == [0, -1]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("title", ["", "Drinks"])
def test_a_positive_is_never_its_own_negative(form, title):
    documents = [f"{title} {TEXT}" if title else TEXT, "tea", "cocoa"]
    titles = [title, "", ""]
    pairs = Pairs.from_texts(["what?"], [form], documents, corpus_titles=titles)
    assert pairs.corpus_texts == documents
    rows = np.eye(3, dtype=np.float32) + 0.5
    mined = mine(pairs, query_embeddings=rows[:1], corpus_embeddings=rows, num_negatives=3)
    assert sorted(mined.result.ids[0].tolist()) == [-1, 1, 2]


def test_a_positive_with_its_title_is_the_document_without():
    pairs = Pairs.from_texts(
        ["what?"], [["Ore A rock."]], ["A rock.", "tea"], positive_titles=[["Ore"]]
    )
    assert pairs.corpus_texts == ["A rock.", "tea"]
    assert pairs.positives.ids.tolist() == [0]


def test_all_documents_of_the_text_behind_the_title_are_positives():
    corpus = ["One Rock.", "sea", "Two Rock.", "Rock."]
    pairs = Pairs.from_texts(["q"], ["rock."], corpus, corpus_titles=["One", "", "Two", ""])
    assert pairs.positives.ids.tolist() == [0, 2, 3]
    # A title alone is not the text behind a title.
    pairs = Pairs.from_texts(["q"], ["Ore"], ["Ore", "Ore Rock."], corpus_titles=["Ore", "Ore"])
    assert pairs.positives.ids.tolist() == [0]


def test_the_own_text_of_a_query_with_a_title_is_no_negative():
    collection = Collection(
        ["a", "b", "c"],
        ["Q1 How deep is it?", "ten feet", "sea"],
        ["q"],
        ["how deep  is it?"],
        {"train": {"q": {"b": 1}}},
        ["Q1", "", ""],
    )
    pairs = Pairs.from_collection(collection)
    assert pairs.same_text_rows().ids.tolist() == [0]
    rows = np.eye(3, dtype=np.float32) + 0.5
    options = {"query_embeddings": rows[:1], "corpus_embeddings": rows}
    assert mine(pairs, **options, num_negatives=2).result.ids.tolist() == [[2, -1]]
    assert consistency_filter(pairs, **options).ranks.tolist() == [1]


def test_queries_that_are_one_text_have_one_list_of_positives():
    pairs = Pairs.from_texts(["Ore?", "ore? ", "pit?"], ["rock", "stone", "hole"])
    assert pairs.query_texts == ["Ore?", "pit?"]
    assert [row.tolist() for row in pairs.positives.rows()] == [[0, 1], [2]]


def test_positives_that_the_corpus_lacks_get_ids_that_are_free():
    corpus = ["sea", "Ore", "pit"]
    ids = ["positive-0", "d", "positive-2"]
    answers = [["rock", "ore"], ["sand", "clay", "ROCK"]]
    pairs = Pairs.from_texts(["a", "b"], answers, corpus, corpus_ids=ids)
    assert pairs.corpus_ids == [*ids, "positive-1", "positive-3", "positive-4"]
    assert pairs.corpus_texts == [*corpus, "rock", "sand", "clay"]
    assert [row.tolist() for row in pairs.positives.rows()] == [[1, 3], [3, 4, 5]]
    assert pairs.rows_of(["clay", "Sand", "rock", "PIT", "sea"]).tolist() == [5, 4, 3, 2, 0]


def test_sources_share_what_is_one_text():
    one = Pairs.from_texts(["q"], ["Rock"])
    other = Pairs.from_texts(["q"], ["rock "], ["rock ", "sea"])
    pairs, places = join_pairs({"a": one, "b": other})
    assert pairs.corpus_texts == ["Rock", "sea"]
    assert pairs.corpus_of["b"].tolist() == [0, 1]
    assert places.tolist() == [0, 1]


@given(st.text())
def test_the_normal_form_is_a_fixed_point(text):
    form = normal_text(text)
    assert normal_text(form) == form
    assert normal_text(f" {text}\r\n") == form
    assert normal_text(unicodedata.normalize("NFD", text)) == form


def test_different_texts_stay_apart():
    texts = ["ore", "ores", "o re", "1", "\u00b9", "", "a b", "ab"]
    assert len({text_key(text) for text in texts}) == len(texts)
    table = NegativeTable(["q"], ["q"], ["a", "b"], ["x", "X"], positives=[0], negatives=[[1]])
    assert table.negatives_of(0) == [1]  # a table holds what it is given
