"""The inverse cloze task: a sentence asks for the text it was taken from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stope._checks import integer, real
from stope.data.raw_pairs.pairs import RawPair, RawPairs, Row, check_rows, generator
from stope.data.raw_pairs.splitting import sentences, tokens
from stope.data.readers.fields import join_title


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
    check_rows(texts, "texts")
    probability = real(keep, "keep", 0, 1)
    integer(seed, "seed", 0)
    integer(pairs_per_row, "pairs_per_row", 1)
    integer(min_tokens, "min_tokens", 1)

    def make(pairs: RawPairs) -> Iterator[RawPair]:
        for row, title, text in pairs.numbered():
            spans = sentences(text)
            long_enough = [
                span for span in spans if len(tokens(text[span[0] : span[1]])) >= min_tokens
            ]
            if len(spans) < 2 or not long_enough:
                reason = "one sentence or none" if len(spans) < 2 else "sentences too short"
                pairs.skipped[reason] += 1
                continue
            random = generator(seed, row)
            count = min(pairs_per_row, len(long_enough))
            for place in random.permutation(len(long_enough))[:count]:
                start, end = long_enough[place]
                whole = random.random() < probability
                rest = text.strip() if whole else without(text, start, end)
                yield RawPair(text[start:end], join_title(title, rest), row)

    return RawPairs(texts, make, first_row)


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
