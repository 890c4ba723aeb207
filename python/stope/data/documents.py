"""The documents of `Pairs` by distinct text: which of them a text is, with its title or without."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from stope._checks import one_each, shown, text_rows, unique
from stope._files.texts import KeyRows, Names, taken
from stope.data.text_identity import text_key
from stope.lists import Ids


class TextRows(NamedTuple):
    """Documents by the keys of their texts, and of their texts without the titles."""

    texts: Sequence[str]
    rows: KeyRows
    bodies: KeyRows

    @classmethod
    def of(cls, texts: Sequence[str], starts: Iterable[int]) -> TextRows:
        """Of documents whose text begins, behind the title, at these places."""
        return cls(texts, KeyRows(map(text_key, texts)), _bodies(texts, starts))

    def rows_of(self, key: bytes) -> tuple[int, ...]:
        """The document of this key, and those that have it behind their titles."""
        return tuple(dict.fromkeys((*self.rows.of(key)[:1], *self.bodies.of(key))))


class DocumentTable(NamedTuple):
    """Documents of which none has the text of another.

    Attributes:
        ids, texts: on the disk where those given are.
        places: of each among those given, -1 for a positive that was added.
        starts: where the text begins behind the title, 0 without one.
        lookup: which document a text is.
    """

    ids: Sequence[str]
    texts: Sequence[str]
    places: Ids
    starts: Ids
    lookup: TextRows


class DistinctDocuments:
    """Documents by distinct text; the first of equal texts stands for all.

    Memory: 100 bytes per document beside the strings.
    """

    def __init__(
        self, texts: Sequence[str], ids: Sequence[str], titles: Sequence[str] | None = None
    ) -> None:
        self.num_given = len(texts)
        if titles is not None:
            titles = text_rows(titles, "corpus_titles", empty=True)
            one_each(titles, "corpus_titles", len(texts), "texts")
        self._names = Names(ids)
        keys, places, self._row_of = KeyRows(map(text_key, texts)).distinct()
        if len(places) < len(texts):
            texts, ids = taken(texts, places), taken(ids, places)
        starts = np.zeros(len(places), np.int64)
        if titles is not None:
            rows = zip(texts, places.tolist(), strict=True)
            starts[:] = [body_start(text, titles[place]) for text, place in rows]
        lookup = TextRows(texts, keys, _bodies(texts, starts))
        self._table = DocumentTable(ids, texts, places, starts, lookup)
        self._added: list[tuple[str, str, int]] = []  # id, text, where the text begins
        self._rows_added: dict[bytes, list[int]] = {}
        self._number = 0

    def rows_of_positive(self, text: str, title: str = "") -> Sequence[int]:
        """Rows of the documents that a positive is; it is added at the end where none is."""
        start = body_start(text, title)
        keys = [text_key(text), *([text_key(text[start:])] if start else [])]
        for key in keys:
            rows = *self._table.lookup.rows_of(key), *self._rows_added.get(key, ())
            if rows:
                return rows
        while (name := f"positive-{self._number}") in self._names:
            self._number += 1
        self._number += 1
        row = len(self._table.places) + len(self._added)
        self._added.append((name, text, start))
        for key in keys:
            self._rows_added.setdefault(key, []).append(row)
        return (row,)

    def named(self, name: str) -> int:
        """Row of the document of this id."""
        place = self._names.get(name)
        if place is None:
            raise ValueError(
                f"qrels name document {shown(name)}, which the corpus lacks; give qrels of this "
                "corpus, or add it"
            )
        return int(self._row_of[place])

    def table(self) -> DocumentTable:
        """All documents, those that were added behind the others."""
        if not self._added:
            return self._table
        names, texts, begin = zip(*self._added, strict=True)
        ids, known, places, starts, lookup = self._table
        first, every = len(places), np.arange(len(places))
        known = taken(known, every, texts)
        keys = lookup.rows.joined(map(text_key, texts), range(first, first + len(texts)))
        bodies = lookup.bodies.joined(*_keys_of_bodies(texts, begin, first))
        return DocumentTable(
            taken(ids, every, names),
            known,
            np.concatenate([places, np.full(len(texts), -1)]),
            np.concatenate([starts, begin]),
            TextRows(known, keys, bodies),
        )


def _bodies(texts: Sequence[str], starts: Iterable[int]) -> KeyRows:
    return KeyRows(*_keys_of_bodies(texts, starts, 0))


def _keys_of_bodies(
    texts: Sequence[str], starts: Iterable[int], first: int
) -> tuple[Iterable[bytes], list[int]]:
    """The keys of the texts behind their titles, where there are titles, and their rows."""
    begin = np.asarray(starts, np.int64).reshape(-1)
    rows = np.flatnonzero(begin).tolist()
    return (text_key(texts[row][begin[row] :]) for row in rows), [first + row for row in rows]


def body_start(text: str, title: str) -> int:
    """Where the text behind its title begins; 0 where the title is not in front, or is all."""
    start = len(title) + 1
    return start if title and text.startswith(f"{title} ") and text[start:].strip() else 0


def ids_or_numbers(
    ids: Sequence[str] | None, count: int, letter: str, argument: str
) -> Sequence[str]:
    """The ids, one for each; numbers behind the letter where there are none."""
    if ids is None:
        return [f"{letter}{place}" for place in range(count)]
    names = text_rows(ids, argument, empty=True)
    one_each(names, argument, count, "texts")
    return names


def unique_ids(ids: Sequence[str] | None, count: int, letter: str, argument: str) -> Sequence[str]:
    """The same, none twice."""
    names = ids_or_numbers(ids, count, letter, argument)
    unique(names, argument)
    return names
