"""Pairs from raw text: parts are verbatim, lengths in range, choices follow seed and row alone."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_pairs_cases import WORDS, prose

from stope.data import (
    RawPair,
    independent_crops,
    inverse_cloze,
    query_as_context,
    recurring_spans,
    title_to_body,
)
from stope.data.raw_pairs import sentences, tokens
from stope.data.raw_pairs.cloze import without

CJK = "鉄鉱石を掘る坑夫は山の中で働いた"
words = st.lists(st.sampled_from(WORDS), min_size=1, max_size=60).map(" ".join)
wide = st.text(alphabet=CJK + "。", min_size=1, max_size=60)
texts = st.one_of(words, wide, st.text(max_size=80), st.tuples(words, wide).map(" ".join))
seeds = st.integers(0, 2**63)


def bare(text):
    return re.sub(r"\s+", "", text)


# --- tokens and sentences ----------------------------------------------------------------------


@given(texts)
def test_tokens_cover_all_but_space(text):
    spans = tokens(text)
    assert "".join(text[a:b] for a, b in spans) == bare(text)
    assert all(a < b for a, b in spans)
    assert all(one[1] <= two[0] for one, two in pairwise(spans))


def test_tokens_of_scripts():
    def split(text):
        return [text[a:b] for a, b in tokens(text)]

    assert split("Iron-ore, dug!") == ["Iron-ore,", "dug!"]
    assert split("鉄とCu。") == ["鉄", "と", "Cu", "。"]
    assert split("철광석 광산") == ["철광석", "광산"]  # Korean has spaces
    assert split("ที่นี่") == ["ที่", "นี่"]  # marks stay with their consonant
    assert split("か\u3099る") == ["か\u3099", "る"]
    assert split(" \n\t") == []


@given(texts)
def test_sentences_cover_all_but_space(text):
    spans = sentences(text)
    assert bare("".join(text[a:b] for a, b in spans)) == bare(text)
    assert all(text[a:b] == text[a:b].strip() != "" for a, b in spans)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "dig." Then left.', ['He said "dig."', "Then left."]),
        ("It is e.g. iron. J. R. Smith dug 3.5 t.", ["It is e.g. iron.", "J. R. Smith dug 3.5 t."]),
        ("Wait... what? Yes.", ["Wait... what?", "Yes."]),
        ("A heading\n\nIts text. \n \nMore", ["A heading", "Its text.", "More"]),
        ("a line\nwraps. Next.", ["a line\nwraps.", "Next."]),
        ("掘った。「出た!」本当\uff1fはい。", ["掘った。", "「出た!」本当\uff1f", "はい。"]),
        ("彼は「出た。」と言った。", ["彼は「出た。」", "と言った。"]),
        ("यह खान है। वह लोहा है।", ["यह खान है।", "वह लोहा है।"]),
        ("", []),
        ("...", ["..."]),
    ],
)
def test_sentences(text, expected):
    assert [text[a:b] for a, b in sentences(text)] == expected


# --- independent crops -------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.lists(texts, max_size=4),
    seeds,
    st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    st.integers(2, 12),
)
def test_crops_are_parts_of_the_right_length(rows, seed, ratios, least):
    low, high = ratios
    found = independent_crops(
        rows, seed=seed, min_ratio=low, max_ratio=high, min_tokens=least, max_tokens=20
    )
    given_rows = []
    for query, positive, row in found:
        given_rows.append(row)
        assert query != positive
        count = min(len(tokens(rows[row])), 20)
        for crop in (query, positive):
            assert crop in rows[row]
            assert crop == crop.strip()
            assert max(1, int(low * count)) <= len(tokens(crop)) <= max(1, int(high * count))
    assert found.rows == len(rows)
    assert found.pairs + found.skipped.total() == len(rows)
    assert given_rows == sorted(set(given_rows))
    assert found.skipped["too short"] == sum(len(tokens(text)) < least for text in rows)


def test_crops_fill_their_range():
    text = " ".join(str(number) for number in range(40))
    found = list(independent_crops([text], pairs_per_row=2000, min_ratio=0.1, max_ratio=0.5))
    lengths = Counter(len(query.split()) for query, _, _ in found)
    assert (min(lengths), max(lengths)) == (4, 19)
    # Every length is as likely: 2,000 over 16 lengths, four standard deviations.
    assert all(abs(count - 125) < 45 for count in lengths.values())
    of_four = [int(query.split()[0]) for query, _, _ in found if len(query.split()) == 4]
    assert min(of_four) < 6
    assert max(of_four) > 30
    assert {query.split()[-1] for query, _, _ in found} >= {"39"}  # the end can be drawn
    # One crop says nothing about the other.
    starts = np.array([[int(q.split()[0]), int(p.split()[0])] for q, p, _ in found])
    assert abs(np.corrcoef(starts.T)[0, 1]) < 0.09


@given(texts, seeds, st.floats(0, 1))
def test_deletion_leaves_tokens_in_their_order(text, seed, delete):
    for query, positive, _ in independent_crops([text], seed=seed, delete=delete, min_tokens=3):
        for crop in (query, positive):
            rest = iter([text[a:b] for a, b in tokens(text)])
            kept = [crop[a:b] for a, b in tokens(crop)]
            assert kept
            assert bare(crop) == "".join(kept)
            # Thai may glue nothing, but a full-width mark can follow its neighbour directly.
            assert all(any(token == other for other in rest) for token in kept)


def test_deletion_follows_its_probability():
    text = " ".join(str(number) for number in range(100))
    options = {"min_ratio": 0.5, "max_ratio": 0.5, "pairs_per_row": 200}
    whole = [len(q.split()) for q, _, _ in independent_crops([text], **options)]
    assert set(whole) == {50}
    kept = [len(q.split()) for q, _, _ in independent_crops([text], delete=0.2, **options)]
    assert np.mean(kept) == pytest.approx(40, abs=1)
    assert {len(q.split()) for q, _, _ in independent_crops([text], delete=1, **options)} == {1}
    assert all(" " not in q for q, _, _ in independent_crops([CJK * 3], delete=0.3, **options))


def test_long_texts_are_cropped_in_a_window():
    text = " ".join(str(number) for number in range(1000))
    options = {"pairs_per_row": 100, "max_tokens": 50, "min_ratio": 0.5, "max_ratio": 1}
    for query, positive, _ in independent_crops([text], **options):
        ends = [int(number) for crop in (query, positive) for number in crop.split()]
        assert max(ends) - min(ends) < 50


def test_a_text_of_one_word_again_and_again_gives_no_equal_crops():
    found = independent_crops(["ore " * 20], min_ratio=0.2, max_ratio=0.2)
    assert list(found) == []
    assert found.skipped == {"crops all the same": 1}


# --- inverse cloze -----------------------------------------------------------------------------


@settings(max_examples=200)
@given(st.lists(texts, max_size=4), seeds)
def test_cloze_cuts_the_sentence_out(rows, seed):
    found = inverse_cloze(rows, seed=seed, keep=0, min_tokens=2)
    for query, positive, row in found:
        text = rows[row]
        spans = [(a, b) for a, b in sentences(text) if text[a:b] == query]
        assert len(tokens(query)) >= 2
        assert any(bare(text[:a]) + bare(text[b:]) == bare(positive) for a, b in spans)
        assert positive
    assert found.pairs + found.skipped.total() == found.rows == len(rows)
    for query, positive, row in inverse_cloze(rows, seed=seed, keep=1, min_tokens=2):
        assert positive == rows[row].strip()
        assert query in positive


def test_cloze_keeps_with_its_probability_and_no_sentence_twice():
    rows = [prose(5, seed) for seed in range(400)]
    kept = [query in positive for query, positive, _ in inverse_cloze(rows, keep=0.25)]
    assert np.mean(kept) == pytest.approx(0.25, abs=0.08)
    several = list(inverse_cloze(rows[:50], pairs_per_row=9))
    assert Counter(row for *_, row in several) == dict.fromkeys(range(50), 5)
    assert len({(query, row) for query, _, row in several}) >= 248  # prose may repeat itself
    places = Counter(
        [rows[row][a:b] for a, b in sentences(rows[row])].index(query)
        for query, _, row in inverse_cloze(rows)
    )
    assert all(abs(places[place] - 80) < 35 for place in range(5))


def test_cloze_says_what_it_skips():
    found = inverse_cloze(["One sentence of some words.", "No. Yes.", prose(2), ""])
    assert len(list(found)) == 1
    assert found.skipped == {"one sentence or none": 2, "sentences too short": 1}
    assert found.report() == (
        "4 rows gave 1 pair; rows skipped: 3 (2 one sentence or none, 1 sentence too short)."
    )


def test_without_leaves_one_space():
    assert without("A b. C d. E f.", 5, 9) == "A b. E f."
    assert without("掘った。出た。見た。", 4, 7) == "掘った。見た。"
    assert without("掘った。出た。 Next.", 4, 7) == "掘った。 Next."
    assert without("A b. C d.", 0, 4) == "C d."
    assert without("A b. C d.", 5, 9) == "A b."


# --- recurring spans ---------------------------------------------------------------------------


def normalised(text):
    return [re.sub(r"\W+", "", text[a:b]).casefold() for a, b in tokens(text)]


def grams(keys, size):
    return {tuple(keys[i : i + size]) for i in range(len(keys) - size + 1)}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(words, wide), max_size=3), seeds, st.integers(1, 4), st.integers(5, 25))
def test_both_passages_have_the_span(rows, seed, size, passage):
    options = {"passage_tokens": passage, "min_span": size, "min_query": 6, "max_query": 12}
    found = recurring_spans(rows, seed=seed, remove=0, **options)
    for query, positive, row in found:
        text = rows[row]
        assert query in text
        assert positive in text
        assert grams(normalised(query), size) & grams(normalised(positive), size)
        assert len(tokens(query)) <= 12
        assert passage / 2 <= len(tokens(positive)) < passage * 1.5 + 1
    assert found.pairs + found.skipped.total() == found.rows == len(rows)


def test_the_span_is_cut_out():
    text = (
        "When snow fell, the old copper mine above town stood empty for months. "
        "Visitors now see The Old Copper Mine, which a local society has restored."
    )
    options = {"passage_tokens": 13, "min_query": 7, "max_query": 9, "pairs_per_row": 20}
    kept = list(recurring_spans([text], remove=0, **options))
    assert all("old copper mine" in query.casefold() for query, _, _ in kept)
    assert len(kept) > 8
    cut = list(recurring_spans([text], remove=1, **options))
    assert cut
    for query, positive, _ in cut:
        assert "copper" not in query.casefold()  # the span grew to all four words it shares
        assert "the old copper mine" in positive.casefold()
        assert 3 <= len(tokens(query)) <= 5
        assert positive in text
        assert "  " not in query


def test_the_span_grows_no_further_than_it_may():
    shared = "a b c d e f g h"
    text = f"one {shared} two three nine {shared} ten"
    options = {"passage_tokens": 11, "min_query": 11, "max_query": 11, "remove": 1}
    for most, left in ((4, 7), (8, 3), (20, 3)):
        [pair] = recurring_spans([text], max_span=most, **options)
        assert len(tokens(pair.query)) in (left, left - 1)


def test_spans_of_stop_words_alone_do_not_count():
    text = "it is the ore that it is the pit and more"
    options = {"passage_tokens": 5, "min_span": 3, "min_query": 4, "max_query": 4}
    assert len(list(recurring_spans([text], **options))) == 1
    found = recurring_spans([text], stop_words=["It", "is", "the"], **options)
    assert list(found) == []
    assert found.skipped == {"no recurring span": 1}
    short = recurring_spans(["one two three"], **options)
    assert not list(short)
    assert short.skipped == {"one passage only": 1}


# --- titles and generated queries --------------------------------------------------------------


def test_titles():
    rows = [("Copper", "Copper is soft."), ("Iron ", "Iron\n\nA metal."), ("", "x"), ("Tin", " ")]
    found = title_to_body([*rows, ("Zinc", "Zinc")], first_row=10)
    assert list(found) == [
        RawPair("Copper", "Copper is soft.", 10),
        RawPair("Iron", "A metal.", 11),
    ]
    assert found.skipped == {"no title": 1, "no text": 2}
    long = title_to_body(rows, min_title_tokens=2, min_tokens=3)
    assert not list(long)
    assert long.skipped == {"title too short": 3, "no title": 1}


def test_generated_queries_come_in_batches():
    asked = []

    def generate(passages):
        asked.append(passages)
        return [[f"what is {text}?", f"why {text}?", f" what is {text}? "] for text in passages]

    rows = ["ore", "", ("Pit", "deep"), "coal", "iron"]
    found = query_as_context(rows, generate, batch_size=2)
    pairs = list(found)
    assert asked == [["ore", "Pit deep"], ["coal", "iron"]]
    assert pairs[:3] == [
        RawPair("what is ore?", "ore", 0),
        RawPair("why ore?", "ore", 0),
        RawPair("what is Pit deep?", "Pit deep", 2),
    ]
    assert (found.rows, found.pairs, found.skipped) == (5, 8, {"too short": 1})


@pytest.mark.parametrize(
    ("answers", "error", "said"),
    [
        (["a"], ValueError, "returned 1 results for 2 passages from row 3"),
        (["a", ""], ValueError, "empty query for row 4"),
        (["a", " \n"], ValueError, "empty query for row 4"),
        ([["a"], []], ValueError, "no query for row 4"),
        ([["a"], ["b", ""]], ValueError, "empty query for row 4"),
        (["a", None], TypeError, "returned None for row 4"),
        ([["a"], [5]], TypeError, "returned 5 for row 4"),
        ("ab", TypeError, "returned a str"),
        (None, TypeError, "returned a NoneType"),
    ],
)
def test_bad_generations_are_refused(answers, error, said):
    with pytest.raises(error, match=said):
        list(query_as_context(["ore", "pit"], lambda _: answers, first_row=3))
