"""Recurring spans: two passages of a document that say the same thing somewhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np

from stope._checks import integer, real, shown
from stope.data.raw_pairs.cloze import without
from stope.data.raw_pairs.pairs import RawPairs, Row, row_by_row
from stope.data.raw_pairs.splitting import Spans, tokens

_DRAWS = 16


def recurring_spans(
    texts: Iterable[Row],
    *,
    seed: int = 0,
    passage_tokens: int = 100,
    min_span: int = 3,
    max_span: int = 10,
    min_query: int = 8,
    max_query: int = 30,
    remove: float = 0.5,
    stop_words: Collection[str] = (),
    pairs_per_row: int = 1,
    first_row: int = 0,
) -> RawPairs:
    """Make (part of a passage around a span, other passage with the span) of every document.

    A document is cut into passages of passage_tokens tokens. A span of min_span tokens that stands
    in two of them, without regard to case and to punctuation at the tokens' ends, is chosen, then
    two passages that have it, each uniformly; the span grows as long as both go on alike, to at
    most max_span tokens. The query is a window of the one passage that holds the span, the positive
    the whole other one.

    Args:
        texts: documents of more than one passage, or (title, text) where the title goes before
            the positive.
        passage_tokens: tokens in a passage; a last one of less than half joins the one before.
        min_span: tokens that must recur.
        max_span: greatest length of the span.
        min_query: tokens of the window, the span included: uniform from this ...
        max_query: ... to this, and less only where the passage is shorter.
        remove: probability that the span is cut out of the query, so that meaning is asked for.
        stop_words: lower-case words; a span made of these alone does not count.
        pairs_per_row: how many pairs each document gives, if it has so many recurring spans.

    Memory: one document and its spans, a tuple of min_span strings for each token.

    Source: Ram et al. 2022 (Spider), without its rules on what a span may begin with.

    Example:
        >>> text = "The old copper mine was closed. Today the old copper mine is a museum."
        >>> [pair] = recurring_spans([text], passage_tokens=6, min_query=5, max_query=5, remove=0)
        >>> "old copper mine" in pair.query, "old copper mine" in pair.positive
        (True, True)
    """
    probability = real(remove, "remove", 0, 1)
    integer(min_span, "min_span", 1)
    integer(max_span, "max_span", min_span)
    # The query needs a token beside the span, or nothing is left when it is cut out.
    integer(passage_tokens, "passage_tokens", min_span + 1)
    integer(min_query, "min_query", min_span + 1)
    integer(max_query, "max_query", min_query)
    integer(pairs_per_row, "pairs_per_row", 1, 10_000)
    listed = isinstance(stop_words, Collection) and not isinstance(stop_words, str | bytes)
    if not listed or not all(isinstance(word, str) for word in stop_words):
        raise TypeError(f"stop_words is {shown(stop_words)}; give a set of words")
    ignored = {word.casefold() for word in stop_words}

    def pair(
        text: str, document: _Document, places: list[int], random: np.random.Generator
    ) -> tuple[str, str] | None:
        place, other = document.two(places, random)
        start, end = document.grown(place, other, min_span, max_span)
        first, last = document.bounds(place)
        if end - start == last - first:
            return None  # the passage is the span: there is nothing around it
        length = int(random.integers(min_query, max_query + 1))
        length = min(max(length, end - start + 1), last - first)
        low, high = max(first, end - length), min(start, last - length)
        window = int(random.integers(low, high + 1))
        spans = document.spans
        left, right = spans[window][0], spans[window + length - 1][1]
        query = text[left:right]
        if random.random() < probability:
            query = without(query, spans[start][0] - left, spans[end - 1][1] - left)
        of_other = document.bounds(other)
        return query, text[spans[of_other[0]][0] : spans[of_other[1] - 1][1]]

    def make(text: str, random: np.random.Generator) -> Iterable[tuple[str, str]] | str:
        document = _Document(text, passage_tokens)
        if document.passages < 2:
            return "one passage only"
        recurring = document.recurring(min_span, ignored)
        pairs: dict[tuple[str, str], None] = {}
        for _ in range(_DRAWS * pairs_per_row if recurring else 0):
            places = recurring[random.integers(len(recurring))]
            if (drawn := pair(text, document, places, random)) is not None:
                pairs[drawn] = None
            if len(pairs) == pairs_per_row:
                break
        return pairs or "no recurring span"

    return row_by_row(texts, seed, first_row, make)


class _Document:
    """Tokens of a text, what they are compared by, and the passages they are in."""

    def __init__(self, text: str, passage_tokens: int) -> None:
        self.spans: Spans = tokens(text)
        self.keys = [_key(text[start:end]) for start, end in self.spans]
        self.size = passage_tokens
        count, rest = divmod(len(self.spans), passage_tokens)
        self.passages = count + (2 * rest >= passage_tokens)

    def passage(self, place: int) -> int:
        """Number of the passage that a token is in."""
        return min(place // self.size, self.passages - 1)

    def bounds(self, place: int) -> tuple[int, int]:
        """First token of that passage, and the one after its last."""
        number = self.passage(place)
        last = number == self.passages - 1
        return number * self.size, len(self.spans) if last else (number + 1) * self.size

    def recurring(self, length: int, ignored: set[str]) -> list[list[int]]:
        """For each span that stands in two passages, the places where it begins."""
        places: dict[tuple[str, ...], list[int]] = {}
        for place in range(len(self.keys) - length + 1):
            key = tuple(self.keys[place : place + length])
            inside = self.passage(place) == self.passage(place + length - 1)
            if inside and all(key) and not ignored.issuperset(key):
                places.setdefault(key, []).append(place)
        twice = places.values()
        return [rows for rows in twice if self.passage(rows[0]) != self.passage(rows[-1])]

    def two(self, places: list[int], random: np.random.Generator) -> tuple[int, int]:
        """Two of the places, in different passages."""
        one = places[random.integers(len(places))]
        others = [place for place in places if self.passage(place) != self.passage(one)]
        return one, others[random.integers(len(others))]

    def grown(self, place: int, other: int, length: int, most: int) -> tuple[int, int]:
        """Tokens of the span around `place` that are the same around `other`, both in passages."""
        (low, high), (other_low, other_high) = self.bounds(place), self.bounds(other)
        start, end, shift, keys = place, place + length, other - place, self.keys
        high, low = min(high, other_high - shift), max(low, other_low - shift)
        while end - place < most and end < high and keys[end] == keys[end + shift]:
            end += 1
        while end - start < most and start > low and keys[start - 1] == keys[start - 1 + shift]:
            start -= 1
        return start, end


def _key(token: str) -> str:
    """The token in lower case without punctuation at its ends; empty for punctuation alone."""
    if token.isalnum():  # most tokens
        return token.casefold()
    start, end = 0, len(token)
    while start < end and not token[start].isalnum():
        start += 1
    # Marks that belong to a letter are no punctuation, though they are not alphanumeric either.
    while end > start and not (token[end - 1].isalnum() or ord(token[end - 1]) > 0x2FF):
        end -= 1
    return token[start:end].casefold()
