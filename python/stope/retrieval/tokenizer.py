r"""Words for lexical search.

A word is a run of two or more word characters (``\w\w+``, Unicode), lower-cased. Stop words are
dropped before stemming. With ``code=True`` an identifier also yields its parts, split at
underscores, lower-to-upper changes and digits ("readHTTPHeader_v2" gives the whole word and
"read", "http", "header"); the whole word is kept, so an exact identifier still matches best, and
one-letter parts are dropped. Stemming follows stop words and applies to every word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from stope._extras import need

_WORD = re.compile(r"\w\w+")
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")


class Tokenizer:
    """Turn texts into lists of words.

    Args:
        stop_words: "english" or another language that bm25s has a list for ("german", ...), any
            iterable of words, or None to keep every word.
        stemmer: None, or a language of PyStemmer ("english", "german", ...; needs PyStemmer).
        code: also split identifiers (snake_case, camelCase).

    Raises:
        ValueError: stop_words or stemmer names an unknown language.
        ImportError: PyStemmer or bm25s is needed and missing; the message has the pip command.

    Source: the word pattern and stop lists are those of bm25s and scikit-learn.

    Example:
        >>> Tokenizer(stop_words=None, code=True)(["def readHTTPHeader(file_name):"])
        [['def', 'readhttpheader', 'read', 'http', 'header', 'file_name', 'file', 'name']]
    """

    def __init__(
        self,
        *,
        stop_words: str | Iterable[str] | None = "english",
        stemmer: str | None = None,
        code: bool = False,
    ) -> None:
        self.stop_words = _stop_words(stop_words)
        self.code = code
        self._stemmer: Any = None
        self._stems: dict[str, str] = {}
        if stemmer is not None:
            library = need("Stemmer", extra="retrieval")
            if stemmer not in library.algorithms():
                raise ValueError(
                    f"stemmer is {stemmer!r}; PyStemmer knows {', '.join(library.algorithms())}"
                )
            self._stemmer = library.Stemmer(stemmer)

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """Tokenize every text; a text without words gives an empty list."""
        return [self._words(text) for text in texts]

    def _words(self, text: str) -> list[str]:
        words: list[str] = []
        for found in _WORD.findall(text):
            lowered = found.lower()
            words.append(lowered)
            if self.code:
                parts = [part.lower() for part in _PART.findall(found)]
                words.extend(part for part in parts if len(part) > 1 and part != lowered)
        kept = [word for word in words if word not in self.stop_words]
        return [self._stem(word) for word in kept] if self._stemmer is not None else kept

    def _stem(self, word: str) -> str:
        stem = self._stems.get(word)
        if stem is None:
            stem = self._stems[word] = str(self._stemmer.stemWord(word))
        return stem


def _stop_words(given: str | Iterable[str] | None) -> frozenset[str]:
    if given is None:
        return frozenset()
    if not isinstance(given, str):
        return frozenset(word.lower() for word in given)
    lists = need("bm25s.stopwords", extra="retrieval")
    known = {
        name.removeprefix("STOPWORDS_").lower(): value
        for name, value in vars(lists).items()
        if name.startswith("STOPWORDS_") and isinstance(value, Iterable)
    }
    key = {"english": "en"}.get(given.lower(), given.lower())
    if key not in known:
        raise ValueError(
            f"stop_words is {given!r}; bm25s has lists for english, {', '.join(sorted(known))}. "
            "Pass one of these, your own words, or None"
        )
    return frozenset(known[key])
