"""When two texts are the same text, and the fingerprint of a list of texts.

Texts are kept verbatim everywhere. What is compared is their normal form: Unicode's NFC, letters
folded for case, characters without width left out, every run of blanks and line ends one space. So
a text that went through an editor, a spreadsheet or another operating system is still itself.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable

from stope._checks import shown

# Soft hyphen; zero-width space, joiners and direction marks; word joiner; byte order mark.
_WITHOUT_WIDTH = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


def normal_text(text: str) -> str:
    r"""The form of a text that is compared.

    >>> normal_text(" Cafe\u0301\r\n au\u200b  lait ") == "caf\u00e9 au lait"
    True
    """
    if not isinstance(text, str):
        raise TypeError(f"text is {shown(text)}; give a string")
    if not text.isascii():
        text = unicodedata.normalize("NFC", _WITHOUT_WIDTH.sub("", text))
        # Folding may take a text out of NFC, and makes "ss" of one letter.
        return unicodedata.normalize("NFC", " ".join(text.split()).casefold())
    if text.isprintable() and "  " not in text:  # no run of blanks, no line end: nothing to split
        return text.strip().lower()
    return " ".join(text.split()).lower()


def text_key(text: str) -> bytes:
    r"""16 bytes that are equal for equal texts: a dictionary of them holds no texts.

    Two of a billion different texts collide with a chance of 1 in 10^21 (BLAKE2b, 128 bits).

    >>> text_key("Iron  ore") == text_key("iron ore\n"), text_key("ore") == text_key("ores")
    (True, False)
    """
    form = normal_text(text).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(form, digest_size=16).digest()


class _LettersOf(dict[int, int | None]):
    """For `str.translate`: letters, marks, digits and symbols stay, what separates them goes."""

    def __missing__(self, letter: int) -> int | None:
        self[letter] = None if unicodedata.category(chr(letter))[0] in "PZC" else letter
        return self[letter]


_LETTERS = _LettersOf()
_DASHES = dict.fromkeys(range(0x2010, 0x2016), "-")
_MEANING = re.compile(  # all alternatives behind one set of letters, which is fast to look for
    r"([\d%&@#*/_-](?:(?<=\d)[^\w\s]+(?=\d)|(?<=[%&@])|(?<=[^\W_]\#)"
    r"|(?<=[^\W_][*/_])(?=[^\W_])|(?<=-)(?<!\w-)(?=\d)))"
)


def letters_key(text: str) -> bytes | None:
    """`text_key` of a text without the punctuation that separates; None where nothing is left.

    So equal are texts that differ in punctuation and blanks: what was joined by ": ", ". " or a
    line end, put in quotation marks or asterisks, or broken by a hyphen. What changes the meaning
    stays: letters, digits and symbols (C++); what joins two digits (1.5, 10-20) and a minus before
    one; %, & and @; # behind a letter or digit (C#), and *, / and _ that join two.

    >>> letters_key("Iron ore: a rock.") == letters_key("iron ore \u2013 a rock")
    True
    >>> letters_key("1.5 mg") == letters_key("15 mg"), letters_key("C#") == letters_key("C")
    (False, False)
    >>> letters_key(" - ")
    """
    parts = _MEANING.split(normal_text(text).translate(_DASHES))
    parts[::2] = (part.translate(_LETTERS) for part in parts[::2])
    letters = "".join(parts)
    return text_key(letters) if letters else None


def fingerprint_texts(texts: Iterable[str]) -> str:
    """Return a SHA-256 hex digest of texts, verbatim, and their order."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()
