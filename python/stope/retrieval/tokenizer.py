r"""Words for lexical search.

Texts are brought to one Unicode form first (NFKC and case folding; joiners, soft hyphens, Arabic
and Hebrew points and accents that compose with no letter are left out), so that full-width,
decomposed, pointed or capital letters are no other words. A word is a run of two
or more word characters with their combining marks (``\w\w+``, Unicode). Scripts that put no blanks
between words (Chinese, Japanese, Korean, Thai, Lao, Khmer, Myanmar and Tai scripts) give bigrams
instead, as Lucene's CJKAnalyzer does: every two letters that stand beside each other, a letter
taken with its marks; a letter that stands alone is a word.

Stop words are dropped before stemming. With ``code=True`` an identifier also yields its parts,
split at underscores, lower-to-upper changes and digits ("readHTTPHeader_v2" gives the whole word
and "read", "http", "header"); the whole word is kept, so an exact identifier still matches best,
and one-letter parts are dropped. Stemming follows stop words and applies to every word.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from stope._checks import choice, flag, shown, texts
from stope._extras import need

_ASCII_WORD = re.compile(r"\w\w+", re.ASCII)
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+")
# Joiners, direction marks, soft hyphens and variation selectors change no word; nor do accents that
# compose with no letter and Arabic and Hebrew points, which many writers leave out.
_IGNORED = re.compile(
    "[\u00ad\u200c-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufe00-\ufe0f\ufeff"
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670"
    "\u06d6-\u06ed\u1ab0-\u1aff\u1dc0-\u1dff]"
)
_WITHOUT_BLANKS = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1100, 0x11FF), (0x1780, 0x17FF), (0x1950, 0x19DF)),
    *((0x1A20, 0x1AAF), (0x3005, 0x3007), (0x3041, 0x30FF), (0x3105, 0x318F), (0x31A0, 0x31FF)),
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA9E0, 0xA9FF), (0xAA60, 0xAADF), (0xAC00, 0xD7FF)),
    *((0xF900, 0xFAFF), (0x1B000, 0x1B16F), (0x20000, 0x323AF)),
)


class Tokenizer:
    """Turn texts into lists of words; see the module for what a word is.

    Args:
        stop_words: "english" or another language that bm25s has a list for ("german", ...), any
            iterable of words, or None to keep every word.
        stemmer: None, or a language of PyStemmer ("english", "german", ...; needs PyStemmer).
        code: also split identifiers (snake_case, camelCase).

    Raises:
        ValueError: stop_words or stemmer names an unknown language.
        TypeError: stop_words or stemmer is no text, code is no bool.
        ImportError: PyStemmer or bm25s is needed and missing; the message has the pip command.

    Thread safety: calls may overlap, unless there is a stemmer (PyStemmer's are not shared).

    Source: the word pattern and stop lists are those of bm25s and scikit-learn; bigrams as in
    Lucene's CJKAnalyzer.

    Example:
        >>> Tokenizer(stop_words=None, code=True)(["def readHTTPHeader(file_name):"])
        [['def', 'readhttpheader', 'read', 'http', 'header', 'file_name', 'file', 'name']]
        >>> Tokenizer()(["東京都 Ore"])
        [['東京', '京都', 'ore']]
    """

    def __init__(
        self,
        *,
        stop_words: str | Iterable[str] | None = "english",
        stemmer: str | None = None,
        code: bool = False,
    ) -> None:
        self.stop_words = _stop_words(stop_words)
        self.code = flag(code, "code")
        self._stemmer: Any = None
        self._stems: dict[str, str] = {}
        if stemmer is not None:
            library = need("Stemmer", extra="retrieval")
            self._stemmer = library.Stemmer(choice(stemmer, "stemmer", library.algorithms()))

    def __call__(self, texts: Sequence[str]) -> list[list[str]]:
        """Tokenize every text; a text without words gives an empty list."""
        return [self._words(text) for text in texts]

    def _words(self, text: str) -> list[str]:
        words: list[str] = []
        for word in _ASCII_WORD.findall(text) if text.isascii() else _unicode_words(text):
            folded = _folded(word)
            words.append(folded)
            if self.code:
                parts = [_folded(part) for part in _PART.findall(word)]
                words.extend(part for part in parts if len(part) > 1 and part != folded)
        kept = [word for word in words if word not in self.stop_words]
        return [self._stem(word) for word in kept] if self._stemmer is not None else kept

    def _stem(self, word: str) -> str:
        stem = self._stems.get(word)
        if stem is None:
            stem = self._stems[word] = str(self._stemmer.stemWord(word))
        return stem


def _folded(word: str) -> str:
    return word.lower() if word.isascii() else unicodedata.normalize("NFKC", word.casefold())


def _unicode_words(text: str) -> Iterator[str]:
    """Words as they are written, and bigrams where there are no blanks between words."""
    run_of, letter_of = _patterns()
    for run in run_of.finditer(_IGNORED.sub("", unicodedata.normalize("NFKC", text))):
        if run.lastgroup is None:
            yield run.group()
            continue
        letters = letter_of.findall(run.group())
        if len(letters) == 1:
            yield letters[0]
        for first, second in itertools.pairwise(letters):
            yield first + second


@functools.cache
def _patterns() -> tuple[re.Pattern[str], re.Pattern[str]]:
    r"""A run of words without blanks (group `solid`) or a word; and one letter with its marks.

    Python's ``\w`` holds no combining marks, without which words of Hindi or Tamil fall to pieces.
    """
    marks = _ranges(
        code for code in range(0x300, 0x1E950) if unicodedata.category(chr(code))[0] == "M"
    )
    letters = _ranges(
        code
        for first, last in _WITHOUT_BLANKS
        for code in range(first, last + 1)
        if unicodedata.category(chr(code))[0] == "L" or code == 0x3007
    )
    marks += f"{chr(0xE0100)}-{chr(min(0xE01EF, sys.maxunicode))}"
    letter = f"[{letters}][{marks}]*"
    return (
        re.compile(rf"(?P<solid>(?:{letter})+)|(?![{letters}])\w(?:(?![{letters}])[\w{marks}])+"),
        re.compile(letter),
    )


def _ranges(codes: Iterable[int]) -> str:
    """The inside of a character class."""
    spans: list[list[int]] = []
    for code in codes:
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)


def _stop_words(words: str | Iterable[str] | None) -> frozenset[str]:
    if words is None:
        return frozenset()
    if not isinstance(words, str):
        return frozenset(map(_folded, texts(words, "stop_words", empty=True)))
    lists = need("bm25s.stopwords", extra="retrieval")
    known = {
        name.removeprefix("STOPWORDS_").lower(): value
        for name, value in vars(lists).items()
        if name.startswith("STOPWORDS_") and isinstance(value, Iterable)
    }
    key = {"english": "en"}.get(words.lower(), words.lower())
    if key not in known:
        raise ValueError(
            f"stop_words is {shown(words)}; bm25s has lists for english, "
            f"{', '.join(sorted(known))}. Pass one of these, your own words, or None"
        )
    return frozenset(map(_folded, known[key]))
