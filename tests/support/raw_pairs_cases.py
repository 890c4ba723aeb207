"""Words and sentences for the tests of pairs from raw text."""

from __future__ import annotations

import numpy as np

WORDS = ["ore", "pit", "mine", "coal", "iron", "dug", "deep", "old", "rock", "metal", "vein",
         "cart"]  # fmt: skip


def prose(count, seed=0, length=9):
    random = np.random.default_rng(seed)
    made = (" ".join(random.choice(WORDS, length)) for _ in range(count))
    return " ".join(f"{sentence.capitalize()}." for sentence in made)
