"""Which documents are mined: all, or those that are a positive of some query."""

from __future__ import annotations

import numpy as np

from encoders import Counting
from stope.data import Pairs
from stope.mining import mine


def test_among_positives_is_to_exclude_the_others():
    rng = np.random.default_rng(0)
    embeddings = {
        "query_embeddings": rng.standard_normal((20, 12), dtype=np.float32),
        "corpus_embeddings": rng.standard_normal((100, 12), dtype=np.float32),
    }
    texts = [f"d{row}" for row in range(100)]
    answers = [texts[row] for row in rng.integers(0, 100, 20)]
    pairs = Pairs.from_texts([f"q{query}" for query in range(20)], answers, texts)
    others = np.setdiff1d(np.arange(len(pairs.corpus_ids)), pairs.positives.ids)
    assert len(others)
    first = pairs.positives.ids[pairs.positives.offsets[:-1]]
    next_one = [[row] for row in np.roll(first, -1)]  # which would be mined
    among = mine(pairs, **embeddings, among="positives", exclude=next_one)
    both = [np.union1d(others, rows) for rows in next_one]
    plain = mine(pairs, **embeddings, exclude=both)
    np.testing.assert_array_equal(among.result.ids, plain.result.ids)
    np.testing.assert_array_equal(among.result.scores, plain.result.scores)
    np.testing.assert_array_equal(among.positive_scores, plain.positive_scores)
    assert among.summary().never_positive == 0
    free = mine(pairs, **embeddings)
    counted = sum(
        row not in set(pairs.positives.ids) for row in free.result.ids.ravel() if row >= 0
    )
    assert free.summary().never_positive == counted > 0


def test_among_positives_nothing_else_is_encoded():
    pairs, model = Pairs.from_texts(["a", "b"], ["x", "y"], ["x", "y", "z", "w"]), Counting()
    mined = mine(pairs, model, among="positives", num_negatives=1)
    assert mined.negatives().keys() == {"q0", "q1"}
    assert [name for found in mined.negatives().values() for name, _ in found] == ["d1", "d0"]
    assert mined.parameters["among"] == "positives"


def test_among_positives_embeddings_may_be_of_all_texts_or_of_different_ones():
    rng = np.random.default_rng(0)
    texts = [f"d{row % 30}" for row in range(40)]  # ten of them twice
    queries = [f"q{query}" for query in range(12)]
    pairs = Pairs.from_texts(queries, [texts[2 * row] for row in range(12)], texts)
    rows = rng.standard_normal((30, 8), dtype=np.float32)
    asked = rng.standard_normal((12, 8), dtype=np.float32)
    whole, unique = (
        mine(pairs, query_embeddings=asked, corpus_embeddings=corpus, among="positives")
        for corpus in (rows[np.arange(40) % 30], rows)
    )
    np.testing.assert_array_equal(whole.result.ids, unique.result.ids)
    np.testing.assert_array_equal(whole.result.scores, unique.result.scores)
    np.testing.assert_array_equal(whole.positive_scores, unique.positive_scores)
    assert (unique.result.ids >= 0).any()
