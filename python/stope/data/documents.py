"""The documents of `Pairs` by distinct text: which of them a text is, with its title or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stope._checks import one_each, shown, unique
from stope._checks import texts as checked_texts
from stope.data.text_identity import text_key


class TextRows(NamedTuple):
    """Documents by the keys of their texts, and of their texts without the titles."""

    texts: list[str]
    rows: dict[bytes, int]
    bodies: dict[bytes, list[int]]

    @classmethod
    def of(cls, texts: list[str], starts: Sequence[int]) -> TextRows:
        """Of documents whose text begins, behind the title, at these places."""
        lookup = cls(texts, {}, {})
        for row, text in enumerate(texts):
            lookup.rows.setdefault(text_key(text), row)
        for row, start in enumerate(starts):
            if start:
                lookup.bodies.setdefault(text_key(texts[row][start:]), []).append(row)
        return lookup

    def rows_of(self, key: bytes) -> tuple[int, ...]:
        """The document of this key, and those that have it behind their titles."""
        whole = (self.rows[key],) if key in self.rows else ()
        return tuple(dict.fromkeys((*whole, *self.bodies.get(key, ()))))


class DistinctDocuments:
    """Documents by distinct text; the first of equal texts stands for all."""

    def __init__(
        self, texts: list[str], ids: list[str], titles: Sequence[str] | None = None
    ) -> None:
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.places: list[int] = []
        self.starts: list[int] = []
        self.num_given = len(texts)
        self.lookup = TextRows(self.texts, {}, {})
        self._row_of_key, self._bodies = self.lookup.rows, self.lookup.bodies
        self._row_of_id: dict[str, int] = {}
        self._added = 0
        if titles is not None:
            titles = checked_texts(titles, "corpus_titles", empty=True)
            one_each(titles, "corpus_titles", len(texts), "texts")
        for place, (name, text) in enumerate(zip(ids, texts, strict=True)):
            key = text_key(text)
            if key not in self._row_of_key:
                title = titles[place] if titles is not None else ""
                self._append(key, name, text, place, title)
            self._row_of_id[name] = self._row_of_key[key]

    def rows_of_positive(self, text: str, title: str = "") -> Sequence[int]:
        """Rows of the documents that a positive is; it is added at the end where none is."""
        key = text_key(text)
        keys = [key, text_key(text[body_start(text, title) :])] if title else [key]
        for each in keys:
            if rows := self.lookup.rows_of(each):
                return rows
        while (name := f"positive-{self._added}") in self._row_of_id:
            self._added += 1
        self._append(key, name, text, -1, title)
        self._row_of_id[name] = self._row_of_key[key]
        return (self._row_of_key[key],)

    def named(self, name: str) -> int:
        """Row of the document of this id."""
        if name not in self._row_of_id:
            raise ValueError(
                f"qrels name document {shown(name)}, which the corpus lacks; give qrels of this "
                "corpus, or add it"
            )
        return self._row_of_id[name]

    def _append(self, key: bytes, name: str, text: str, place: int, title: str) -> None:
        self._row_of_key[key] = len(self.texts)
        self.texts.append(text)
        self.ids.append(name)
        self.places.append(place)
        start = body_start(text, title)
        self.starts.append(start)
        if start:
            self._bodies.setdefault(text_key(text[start:]), []).append(len(self.texts) - 1)


def body_start(text: str, title: str) -> int:
    """Where the text behind its title begins; 0 where the title is not in front, or is all."""
    start = len(title) + 1
    return start if title and text.startswith(f"{title} ") and text[start:].strip() else 0


def ids_or_numbers(ids: Sequence[str] | None, count: int, letter: str, argument: str) -> list[str]:
    """The ids, one for each; numbers behind the letter where there are none."""
    if ids is None:
        return [f"{letter}{place}" for place in range(count)]
    names = checked_texts(ids, argument, empty=True)
    one_each(names, argument, count, "texts")
    return names


def unique_ids(ids: Sequence[str] | None, count: int, letter: str, argument: str) -> list[str]:
    """The same, none twice."""
    names = ids_or_numbers(ids, count, letter, argument)
    unique(names, argument)
    return names
