"""The inverse cloze task: a sentence asks for the text it was taken from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from stope._checks import integer, real
from stope.data.raw_pairs.pairs import RawPairs, Row, row_by_row
from stope.data.raw_pairs.splitting import sentences, tokens


def inverse_cloze(
    texts: Iterable[Row],
    *,
    seed: int = 0,
    keep: float = 0.1,
    pairs_per_row: int = 1,
    min_tokens: int = 4,
    first_row: int = 0,
) -> RawPairs:
    """Make (sentence, rest of the text) of every text.

    The sentence is a uniform choice among those of at least min_tokens tokens. It is cut out of the
    positive, so that meaning is asked for, and left in with probability keep, so that matching
    words are learned as well.

    Args:
        texts: passages of two sentences or more, or (title, text) where the title goes before the
            positive. Cut long documents into passages first: the positive is all the rest.
        keep: probability that the positive is the whole text.
        pairs_per_row: how many sentences each text gives, no sentence twice; fewer where it has
            fewer.
        min_tokens: least length of a sentence that becomes a query.

    Sentences are those of `stope.data.raw_pairs.sentences`.

    Source: Lee et al. 2019 (ORQA), where keep is 0.1.

    Example:
        >>> text = "Ore is rock with metal in it. It is dug in a mine."
        >>> [pair] = inverse_cloze([text], keep=0)
        >>> sorted(pair[:2])
        ['It is dug in a mine.', 'Ore is rock with metal in it.']
    """
    probability = real(keep, "keep", 0, 1)
    integer(pairs_per_row, "pairs_per_row", 1, 10_000)
    integer(min_tokens, "min_tokens", 1)

    def make(text: str, random: np.random.Generator) -> list[tuple[str, str]] | str:
        spans = sentences(text)
        if len(spans) < 2:
            return "one sentence or none"
        spans = [span for span in spans if len(tokens(text[span[0] : span[1]])) >= min_tokens]
        if not spans:
            return "sentences too short"
        pairs = []
        for place in random.permutation(len(spans))[:pairs_per_row]:
            start, end = spans[place]
            whole = random.random() < probability
            pairs.append((text[start:end], text.strip() if whole else without(text, start, end)))
        return pairs

    return row_by_row(texts, seed, first_row, make)


def without(text: str, start: int, end: int) -> str:
    """The text without this part: the space before it stays, that after it goes.

    Example:
        >>> without("One.  Two. Three.", 6, 10)
        'One.  Three.'
    """
    before, after = text[:start], text[end:].lstrip()
    if not before.strip() or not after:
        return (before + after).strip()
    # A text without spaces before the part may have one after it.
    if not before[-1].isspace() and text[end].isspace():
        before += " "
    return (before + after).strip()
