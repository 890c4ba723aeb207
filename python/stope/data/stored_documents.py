"""Documents whose texts and ids lie on the disk, for a corpus that is larger than memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from stope._checks import unique
from stope._files.texts import Names, StoredTexts
from stope.data.readers.texts import Document

_BLOCK = 1024  # documents that are written at once


class _Reads(Protocol):
    def __call__(self, *, repeated_ids: bool) -> Iterator[Document]: ...


class StoredDocuments(Mapping[str, Document]):
    """Documents by id, read once into files without names (`stope._files.texts`).

    Args:
        read: gives the documents, one at a time.
        folder: where the files are made.

    Raises:
        ValueError: an id that is there twice, and what reading raises.

    Memory: 100 bytes a document.
    """

    def __init__(self, read: _Reads, folder: Path) -> None:
        self.ids, self.texts, self.titles = (StoredTexts(folder) for _ in Document._fields)
        block: list[Document] = []
        for document in read(repeated_ids=True):
            block.append(document)
            if len(block) == _BLOCK:
                self._append(block)
        self._append(block)
        try:
            unique(self.ids, "ids")
        except ValueError:
            deque(read(repeated_ids=False), 0)  # says in which line
            raise
        self._rows = Names(self.ids)

    def __getitem__(self, name: str) -> Document:
        """The document of an id."""
        row = self._rows[name]
        return Document(self.ids[row], self.texts[row], self.titles[row])

    def __contains__(self, name: object) -> bool:
        """Whether there is a document of an id; none is read."""
        return name in self._rows

    def __iter__(self) -> Iterator[str]:
        """The ids in their order."""
        return iter(self.ids)

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.ids)

    def _append(self, block: list[Document]) -> None:
        for place, column in enumerate((self.ids, self.texts, self.titles)):
            column.extend(document[place] for document in block)
        block.clear()


def columns_of(
    documents: Mapping[str, Document],
) -> tuple[Sequence[str], Sequence[str], Sequence[str]]:
    """Ids, texts and titles: on the disk where the documents are."""
    if isinstance(documents, StoredDocuments):
        return documents.ids, documents.texts, documents.titles
    every = documents.values()
    return list(documents), [each.text for each in every], [each.title for each in every]
