"""Pairs from raw text: what all makers have in common, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from raw_pairs_cases import prose

from stope.data import (
    Pairs,
    RawPair,
    independent_crops,
    inverse_cloze,
    query_as_context,
    recurring_spans,
    title_to_body,
)

MAKERS = {
    "crops": lambda rows, **more: independent_crops(rows, delete=0.1, pairs_per_row=2, **more),
    "cloze": lambda rows, **more: inverse_cloze(rows, pairs_per_row=2, **more),
    "spans": lambda rows, **more: recurring_spans(
        rows, min_span=2, passage_tokens=25, pairs_per_row=2, **more
    ),
}
ROWS = [prose(10, seed) for seed in range(12)]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_row_gives_the_same_whatever_stands_before_it(make):
    whole = list(make(ROWS, seed=3))
    assert {row for *_, row in whole} == set(range(12))
    assert list(make(iter(ROWS), seed=3)) == whole
    assert list(make(ROWS[5:], seed=3, first_row=5)) == [pair for pair in whole if pair.row >= 5]
    changed = [*ROWS[:4], "short", *ROWS[5:]]
    assert list(make(changed, seed=3)) == [pair for pair in whole if pair.row != 4]
    assert list(make(ROWS, seed=4)) != whole


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_rows_are_read_as_pairs_are_asked_for(make):
    read = []

    def rows():
        for text in ROWS:
            read.append(text)
            yield text

    stream = iter(make(rows()))
    next(stream)
    assert len(read) == 1


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_title_goes_before_the_positive(make):
    plain = list(make(ROWS))
    titled = list(make([("Mines", text) for text in ROWS]))
    assert titled == [RawPair(q, f"Mines {p}", row) for q, p, row in plain]


def test_pairs_go_into_mining_and_training():
    crops = independent_crops(ROWS)
    pairs = Pairs.from_texts(*crops.columns())
    assert len(pairs.query_texts) == 12
    assert crops.examples() == list(zip(*crops.columns(), strict=True))
    with pytest.raises(ValueError, match=r"there is no pair: 1 row gave 0 pairs; rows skipped: 1"):
        independent_crops(["short"]).columns()


def test_an_iterator_is_read_once():
    found = independent_crops(iter(ROWS))
    assert len(list(found)) == 12
    with pytest.raises(ValueError, match="were an iterator and have been read"):
        list(found)
    again = independent_crops(ROWS)
    assert list(again) == list(again)
    assert again.rows == 12


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda: independent_crops("a text"), TypeError, "texts is one string"),
        (lambda: inverse_cloze(5), TypeError, "texts is int"),
        (lambda: title_to_body("a"), TypeError, "rows is one string"),
        (lambda: query_as_context(["a"], "model"), TypeError, "generate is 'model'"),
        (lambda: list(inverse_cloze(["a", 5])), TypeError, "row 1 is 5"),
        (lambda: list(title_to_body([("a", "b", "c")])), TypeError, "row 0 is"),
        (lambda: list(title_to_body([("a", None)])), TypeError, "row 0 is"),
        (lambda: independent_crops([], min_ratio=0.6), ValueError, "min_ratio is 0.6 but max_r"),
        (lambda: independent_crops([], max_ratio=1.5), ValueError, "max_ratio is 1.5"),
        (lambda: independent_crops([], delete=np.nan), ValueError, "delete is nan"),
        (lambda: independent_crops([], delete="x"), TypeError, "delete is 'x'"),
        (lambda: independent_crops([], min_tokens=1), ValueError, "min_tokens is 1"),
        (lambda: independent_crops([], max_tokens=5), ValueError, "max_tokens is 5"),
        (lambda: independent_crops([], seed=-1), ValueError, "seed is -1"),
        (lambda: inverse_cloze([], seed=1.5), TypeError, "seed is 1.5"),
        (lambda: inverse_cloze([], keep=2), ValueError, "keep is 2"),
        (lambda: inverse_cloze([], first_row=-1), ValueError, "first_row is -1"),
        (lambda: inverse_cloze([], pairs_per_row=0), ValueError, "pairs_per_row is 0"),
        (lambda: recurring_spans([], max_span=2), ValueError,
         "max_span is 2; it must be at least 3"),
        (lambda: recurring_spans([], min_query=3), ValueError,
         "min_query is 3; it must be at least 4"),
        (lambda: recurring_spans([], max_query=4), ValueError, "max_query is 4"),
        (lambda: recurring_spans([], passage_tokens=3), ValueError, "passage_tokens is 3"),
        (lambda: recurring_spans([], stop_words="the"), TypeError,
         "stop_words is 'the'; give a set"),
        (lambda: query_as_context([], list, batch_size=0), ValueError, "batch_size is 0"),
    ],
)  # fmt: skip
def test_bad_input(make, error, said):
    with pytest.raises(error, match=said):
        make()
