"""Where tokens and sentences are, as (start, end) in the text, so that parts of it stay verbatim.

Tokens: in scripts that put spaces between words, what stands between two spaces. In scripts that do
not (Chinese, Japanese, Thai, Lao, Tibetan, Burmese, Khmer), every character with its combining
marks. The rule goes by character, so a text may mix both.

Sentences end (1) after one or more of . ! ? ... and the like, with the quotes and brackets that
close there, if a space follows and then no lower-case letter, but not after a single letter and a
full stop ("J. Smith"); (2) after one or more full-width stops, with or without a space; (3) at an
empty line. "Dr. Smith" is taken for two sentences: lists of abbreviations are another for each
language.
"""

from __future__ import annotations

import re
import unicodedata

from stope._kinds import kinds, string

Spans = list[tuple[int, int]]

_UNSPACED = (
    *((0x0E00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF)),  # Thai, Lao, Tibetan; Burmese; Khmer
    *((0x3001, 0x312F), (0x31F0, 0x31FF)),  # CJK punctuation, kana, bopomofo
    *((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF)),  # Han
    *((0xA9E0, 0xA9FF), (0xAA60, 0xAA7F), (0xFF00, 0xFFEF)),  # Burmese; full-width forms
)
_CLASS = "".join(f"{chr(first)}-{chr(last)}" for first, last in _UNSPACED)
_MARKS = "".join(
    chr(code)
    for first, last in ((0x0300, 0x036F), *_UNSPACED[:4], (0xFE00, 0xFE0F))
    for code in range(first, last + 1)
    if unicodedata.category(chr(code)).startswith("M")
)
_TOKEN = re.compile(rf"[{_CLASS}][{_MARKS}]*|[^\s{_CLASS}]+")
_WIDE_STOPS = "\u3002\uff01\uff1f\uff61"
_END = re.compile(
    r"(?P<spaced>[.!?\u2026\u061f\u06d4\u0964\u0965\u1362]+[\"'\u201d\u2019\u00bb)\]]*(?=\s))"
    rf"|[{_WIDE_STOPS}]+[\u300d\u300f\u201d\u2019\uff09\u3011\u3009\u300b]*"
    r"|\n\s*\n"
)
_INITIAL = re.compile(r"(?:^|[\s(\[\"'])[^\W\d_]\.$")


@kinds(text=string)
def tokens(text: str) -> Spans:
    """Places of the tokens of a text; see the module for the rule.

    Example:
        >>> [text[a:b] for text in ["Iron ore, 鉄鉱石"] for a, b in tokens(text)]
        ['Iron', 'ore,', '鉄', '鉱', '石']
    """
    return [match.span() for match in _TOKEN.finditer(text)]


@kinds(text=string)
def sentences(text: str) -> Spans:
    """Places of the sentences of a text, without the space around them; see the module.

    Example:
        >>> text = "J. Smith dug. He asked: why? 掘った。出た。"
        >>> [text[a:b] for a, b in sentences(text)]
        ['J. Smith dug.', 'He asked: why?', '掘った。', '出た。']
    """
    found: Spans = []
    start = 0
    for match in _END.finditer(text):
        if match["spaced"] and not _ends(text, start, match.end()):
            continue
        _add(found, text, start, match.end())
        start = match.end()
    _add(found, text, start, len(text))
    return found


def _ends(text: str, start: int, end: int) -> bool:
    rest = text[end : end + 64].lstrip()
    if rest and rest[0].islower():
        return False
    # The longest initial that the pattern can see is three characters before its end.
    return not _INITIAL.search(text, max(start, end - 3), end)


def _add(found: Spans, text: str, start: int, end: int) -> None:
    part = text[start:end]
    left = len(part) - len(part.lstrip())
    if left < len(part):
        found.append((start + left, start + len(part.rstrip())))
