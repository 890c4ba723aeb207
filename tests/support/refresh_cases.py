"""A small collection and an encoder whose vectors turn, for tests of refreshed negatives."""

from __future__ import annotations

import numpy as np

from encoders import HashEncoder, some_texts
from stope.data import Pairs

QUERIES, SIZE = 20, 120


class Turning(HashEncoder):
    """Word vectors turn with `turn`, as if the model were trained."""

    def __init__(self, turn=0.0):
        super().__init__(16)
        self.turn = turn

    def vector(self, word):
        one = super().vector(word)
        return (1 - self.turn) * one + self.turn * np.roll(one, 1) * np.sign(one)

    def fingerprint(self):
        return f"turned {self.turn}"


def some_pairs(seed=0, size=SIZE):
    texts = list(dict.fromkeys(some_texts(size, seed)))
    random = np.random.default_rng(seed)
    answers = [
        [texts[row] for row in random.choice(len(texts), random.integers(1, 4), replace=False)]
        for _ in range(QUERIES)
    ]
    asked = [f"q{i} {one[0]}" for i, one in enumerate(answers)]
    return Pairs.from_texts(asked, answers, texts)


def own(pairs, query):
    offsets, rows = pairs.positives
    return set(rows[offsets[query] : offsets[query + 1]].tolist())


def check_choice(pairs, queries, ids, n):
    assert ids.shape == (len(queries), n)
    assert ids.dtype == np.int64
    for query, row in zip(queries, ids, strict=True):
        assert len(set(row.tolist())) == n
        assert row.min() >= 0
        assert not set(row.tolist()) & own(pairs, query)
