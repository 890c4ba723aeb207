"""Independent cropping: two parts of one text, cut without regard to each other."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stope._checks import integer, real
from stope.data.raw_pairs.pairs import RawPairs, Row, row_by_row
from stope.data.raw_pairs.splitting import Spans, tokens

_DRAWS = 16


def independent_crops(
    texts: Iterable[Row],
    *,
    seed: int = 0,
    min_ratio: float = 0.1,
    max_ratio: float = 0.5,
    delete: float = 0.0,
    pairs_per_row: int = 1,
    min_tokens: int = 8,
    max_tokens: int = 256,
    first_row: int = 0,
) -> RawPairs:
    """Make (crop, other crop) of every text.

    A crop of n tokens has max(1, int(r n)) of them, r uniform from min_ratio to max_ratio, and a
    uniform start; query and positive are drawn without regard to each other, and again where they
    are the same text. They may overlap: that a query shares words with its passage is part of it.

    Args:
        texts: texts, or (title, text) where the title goes before the positive.
        min_ratio: least share of the tokens in a crop.
        max_ratio: greatest share.
        delete: probability that a token of a crop is left out; one always stays.
        pairs_per_row: how many pairs each text gives.
        min_tokens: shorter texts are skipped.
        max_tokens: of a longer text only so many tokens in a row, at a uniform place, are cropped.

    Tokens are those of `stope.data.raw_pairs.tokens`; without deletion a crop is a part of its
    text, space and all.

    Source: Izacard et al. 2022 (Contriever); docs/methods.md, D17.

    Example:
        >>> text = "one two three four five six seven eight nine ten"
        >>> [pair] = independent_crops([text], seed=1)
        >>> pair.query in text, pair.positive in text, pair.row
        (True, True, 0)
    """
    low, high = real(min_ratio, "min_ratio", 0, 1), real(max_ratio, "max_ratio", 0, 1)
    if low > high:
        raise ValueError(f"min_ratio is {low} but max_ratio is {high}; the lesser comes first")
    probability = real(delete, "delete", 0, 1)
    integer(pairs_per_row, "pairs_per_row", 1, 10_000)
    least = integer(min_tokens, "min_tokens", 2)
    most = integer(max_tokens, "max_tokens", least)

    def crop(text: str, spans: Spans, random: np.random.Generator) -> str:
        length = max(1, int(random.uniform(low, high) * len(spans)))
        start = int(random.integers(len(spans) - length + 1))
        chosen = spans[start : start + length]
        if not probability:
            return text[chosen[0][0] : chosen[-1][1]]
        kept = random.random(length) >= probability
        if not kept.any():
            kept[random.integers(length)] = True
        return joined(text, [span for span, stays in zip(chosen, kept, strict=True) if stays])

    def make(text: str, random: np.random.Generator) -> list[tuple[str, str]] | str:
        spans = tokens(text)
        if len(spans) < least:
            return "too short"
        pairs = []
        for _ in range(pairs_per_row):
            start = int(random.integers(max(0, len(spans) - most) + 1))
            window = spans[start : start + most]
            for _ in range(_DRAWS):
                pair = crop(text, window, random), crop(text, window, random)
                if pair[0] != pair[1]:
                    pairs.append(pair)
                    break
        return pairs or "crops all the same"

    return row_by_row(texts, seed, first_row, make)


def joined(text: str, spans: Spans) -> str:
    """The spans one after the other, with one space where the text has any between them."""
    parts: list[str] = []
    for place, (start, end) in enumerate(spans):
        if place and any(c.isspace() for c in text[spans[place - 1][1] : start]):
            parts.append(" ")
        parts.append(text[start:end])
    return "".join(parts)
