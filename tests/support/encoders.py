"""Small encoders and texts for the pipelines' tests."""

from __future__ import annotations

import random

import numpy as np


class Counting:
    """Embeds a text by the bytes of its letters; counts the texts it was asked for.

    `before` is called with the number of texts there would be after each call, to fail there.
    """

    def __init__(self, dim=8, scale=1.0, before=lambda count: None):
        self.dim, self.scale, self.before = dim, scale, before
        self.asked = []

    def fingerprint(self):
        return f"{self.dim} {self.scale}"

    def encode(self, texts):
        self.before(len(self.asked) + len(texts))
        self.asked.extend(texts)
        rows = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for place, byte in enumerate(text.encode()):
                rows[row, (byte + place) % self.dim] += self.scale * byte
        return rows


def numbered(count, word="text"):
    return [f"{word} number {i} of {i * i % 97}" for i in range(count)]


class HashEncoder:
    """Embeds a text as the sum of fixed random vectors of its words."""

    def __init__(self, dim=32):
        self.dim = dim
        self.calls = []

    def vector(self, word):
        seed = int.from_bytes(word.encode(), "little") % 2**32
        return np.random.default_rng(seed).standard_normal(self.dim)

    def encode(self, texts):
        self.calls.append(list(texts))
        rows = [sum((self.vector(w) for w in t.split()), np.zeros(self.dim)) for t in texts]
        return np.array(rows, dtype=np.float32)


def some_texts(count, seed=0, words=40, length=12):
    rng = random.Random(seed)
    return [
        " ".join(f"w{rng.randrange(words)}" for _ in range(rng.randrange(1, length)))
        for _ in range(count)
    ]
