"""Copies that were planted in a corpus, and what `deduplicate` finds of them at each threshold.

A planted copy is found when it goes and stands for its original (or for what its original goes
for). All else that goes is natural, or wrong: pairs of each range of scores are drawn to be read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from stope.data import Collection, text_key
from stope.encoders import static_encoder
from stope.neighbors import Deduplicated, deduplicate

THRESHOLDS = (0.99, 0.98, 0.95, 0.9, 0.85, 0.8, 0.7)
_FEWEST_WORDS = 6
_SENTENCES = re.compile(r"(?<=[.!?])\s+|\n+")
_CLAUSES = re.compile(r"(?<=[;,])\s+")
_KEPT = 0.7  # of the words, where a text is cut short


def recased(text: str, rng: np.random.Generator, words: list[str]) -> str | None:
    """Other capitals, other blanks."""
    return "  ".join(text.swapcase().split())


def one_word(text: str, rng: np.random.Generator, words: list[str]) -> str | None:
    """A word replaced by one of the corpus."""
    own = text.split()
    own[rng.integers(len(own))] = words[rng.integers(len(words))]
    return " ".join(own)


def reordered(text: str, rng: np.random.Generator, words: list[str]) -> str | None:
    """The sentences (or lines, or clauses) from last to first; None where there is one."""
    for ends in (_SENTENCES, _CLAUSES):
        parts = [part for part in ends.split(text) if part]
        if len(parts) > 1:
            return " ".join(parts[::-1])
    return None


def cut_short(text: str, rng: np.random.Generator, words: list[str]) -> str | None:
    """The first 70% of the words."""
    own = text.split()
    return " ".join(own[: max(1, int(_KEPT * len(own)))])


KINDS: dict[str, Callable[[str, np.random.Generator, list[str]], str | None]] = {
    "case and blanks": recased,
    "one word": one_word,
    "order of sentences": reordered,
    "cut to 70%": cut_short,
}


class Planted(NamedTuple):
    """Texts, the planted ones last: copy `i` is row `start + i`, of kind `kinds[i]`."""

    ids: list[str]
    texts: list[str]
    start: int
    originals: np.ndarray
    kinds: list[str]


def plant(collection: Collection, documents: int, each: int, seed: int = 0) -> Planted:
    """So many documents at random, no text twice, and `each` copies of every kind."""
    rng = np.random.default_rng(seed)
    seen: dict[bytes, int] = {}
    for row in rng.permutation(len(collection.corpus_ids)).tolist():
        seen.setdefault(text_key(collection.corpus_texts[row]), row)
    rows = sorted(list(seen.values())[:documents])
    texts = [collection.corpus_texts[row] for row in rows]
    words = [word for text in texts for word in text.split()]
    free = iter(rng.permutation([row for row, text in enumerate(texts) if _long(text)]).tolist())
    copies, originals, kinds = [], [], []
    for kind, change in KINDS.items():
        made = 0
        while made < each:
            original = next(free)  # raises where a corpus is too small for so many
            copy = change(texts[original], rng, words)
            if copy is not None and copy != texts[original]:
                copies.append(copy)
                originals.append(original)
                kinds.append(kind)
                made += 1
    ids = [collection.corpus_ids[row] for row in rows]
    ids += [f"{ids[row]} ({kind})" for row, kind in zip(originals, kinds, strict=True)]
    return Planted(ids, texts + copies, len(texts), np.array(originals), kinds)


def _long(text: str) -> bool:
    return len(text.split()) >= _FEWEST_WORDS


def of_words(texts: list[str]) -> np.ndarray:
    """What `stope dedup` compares without an encoder: the words, the rare ones most."""
    letters = set().union(*(text.lower() for text in texts))
    encoder = static_encoder(texts, vocab_size=8000 + len(letters), smoothing=0.0)
    return np.asarray(encoder.encode(texts, batch_size=256), dtype=np.float32)


def found(planted: Planted, left: Deduplicated) -> np.ndarray:
    """Which copies go for their original, or for what their original goes for."""
    copies = planted.start + np.arange(len(planted.kinds))
    keepers = left.keepers[copies]
    return (keepers != copies) & (keepers == left.keepers[planted.originals])


def measure(planted: Planted, embeddings: np.ndarray) -> list[dict[str, Any]]:
    """Recall of each kind, and what else goes, by threshold.

    `other` counts documents that go and were not planted, and copies that go for something else:
    natural duplicates, or mistakes.
    """
    rows = []
    for threshold in THRESHOLDS:
        left = deduplicate(embeddings, threshold)
        right = found(planted, left)
        gone = len(embeddings) - len(left.kept)
        kinds = np.array(planted.kinds)
        rows.append(
            {
                "threshold": threshold,
                "gone": gone,
                "planted_found": int(right.sum()),
                "planted": len(right),
                "other": gone - int(right.sum()),
                "recall": {kind: float(right[kinds == kind].mean()) for kind in KINDS},
            }
        )
    return rows


def to_read(
    planted: Planted, embeddings: np.ndarray, bins: list[float], each: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Pairs to judge by reading: natural documents that go at the lowest threshold, by score."""
    left = deduplicate(embeddings[: planted.start], min(bins))
    gone = np.flatnonzero(np.isfinite(left.scores))
    rng, pairs = np.random.default_rng(seed), []
    for low, high in zip(bins, [*bins[1:], np.inf], strict=True):
        inside = gone[(left.scores[gone] >= low) & (left.scores[gone] < high)]
        for row in np.sort(rng.permutation(inside)[:each]).tolist():
            keeper = int(left.keepers[row])
            pairs.append(
                {
                    "range": low,
                    "in_range": len(inside),
                    "score": float(left.scores[row]),
                    "kept": planted.ids[keeper],
                    "dropped": planted.ids[row],
                    "texts": [planted.texts[keeper], planted.texts[row]],
                }
            )
    return pairs
