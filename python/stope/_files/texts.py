"""Texts on the disk in the place of a list of strings, and rows by the digests of their texts.

No Arrow file: pyarrow is an extra, refuses lone surrogates, and takes rows by copying their texts.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
_DIGEST = 16  # bytes


class _File:
    """A file without a name, and where each string of it ends."""

    def __init__(self, folder: Path) -> None:
        self.bytes: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (others share it)
        self.ends, self.lock = array("q", [0]), threading.Lock()

    def __del__(self) -> None:
        if hasattr(self, "bytes"):
            self.bytes.close()


class StoredTexts(Sequence[str]):
    """A sequence of strings that lie in a file without a name, which goes when the object does.

    Strings are appended; then any are read where they are asked for. Threads may share it, and
    processes that fork may read it; copies share the file, and pickling is refused.

    Args:
        folder: where the file is made.

    Raises:
        OSError: the disk is full, or the folder cannot be written.

    Memory: 16 bytes a string, and 8 for each of what is `taken`.

    >>> texts = StoredTexts(Path(tempfile.mkdtemp()))
    >>> texts.extend(["ore", "", "Gestein, erzhaltig"])
    >>> len(texts), texts[-1], texts[:2], list(texts.taken(np.array([2, 0]), ["pit"]))
    (3, 'Gestein, erzhaltig', ['ore', ''], ['Gestein, erzhaltig', 'ore', 'pit'])
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._places = _File(folder), np.empty(0, np.int64)

    def extend(self, texts: Iterable[str]) -> None:
        """Append strings."""
        file = self._file
        with file.lock:
            first = len(file.ends) - 1
            file.bytes.seek(file.ends[-1])
            for text in texts:
                data = text.encode("utf-8", "surrogatepass")
                file.bytes.write(data)
                file.ends.append(file.ends[-1] + len(data))
            file.bytes.flush()
            places = np.arange(first, len(file.ends) - 1)
        self._places = np.concatenate([self._places, places])

    def taken(self, rows: Ids, more: Iterable[str] = ()) -> StoredTexts:
        """These strings in this order, and behind them more, in the same file."""
        others = StoredTexts.__new__(StoredTexts)
        others._file, others._places = self._file, self._places[rows]
        others.extend(more)
        return others

    def __copy__(self) -> StoredTexts:
        """The same strings; what is appended to one of the two the other does not have."""
        return self.taken(np.arange(len(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> StoredTexts:
        """As `copy.copy`: what lies in the file is not changed."""
        return self.__copy__()

    def __reduce__(self) -> str:
        """Refuse: another process does not have the file."""
        raise TypeError(
            "texts that lie in an unnamed file on the disk cannot be pickled for another process; "
            "give it list(texts), or read them without a folder there"
        )

    def __len__(self) -> int:
        """How many strings there are."""
        return len(self._places)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """One string, or a list of some."""
        if isinstance(row, slice):
            return [self[place] for place in range(*row.indices(len(self)))]
        file, place = self._file, int(self._places[row])
        start, end = file.ends[place : place + 2]
        # Not by the file's position, which forked processes share.
        return os.pread(file.bytes.fileno(), end - start, start).decode("utf-8", "surrogatepass")


def taken(texts: Sequence[str], rows: Ids, more: Iterable[str] = ()) -> Sequence[str]:
    """These strings in this order, and more behind them: on the disk where they lie there."""
    if isinstance(texts, StoredTexts):
        return texts.taken(rows, more)
    return [*(texts[row] for row in np.asarray(rows).tolist()), *more]


def digest(text: str) -> bytes:
    """16 bytes that are equal for equal strings (BLAKE2b, as `stope.data.text_key`)."""
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


class KeyRows:
    """Rows by keys of 16 bytes, in order, so that a key is found by halving.

    Args:
        keys: of row 0, 1, ..., or of these rows; several rows may have one key.

    Memory: 24 bytes a row, where a dictionary takes 250; 16 more while it is made.

    >>> rows = KeyRows(map(digest, ["ore", "pit", "ore"]))
    >>> rows.of(digest("ore")), rows.of(digest("sea")), rows.distinct()[2].tolist()
    ([0, 2], [], [0, 1, 0])
    """

    def __init__(self, keys: Iterable[bytes], rows: Iterable[int] | None = None) -> None:
        data = bytearray()
        for key in keys:
            data += key
        table = np.frombuffer(data, f"S{_DIGEST}") if data else np.empty(0, f"S{_DIGEST}")
        order = np.argsort(table, kind="stable")
        self.keys = table[order]
        self.rows: Ids = order if rows is None else np.fromiter(rows, np.int64)[order]

    def of(self, key: bytes) -> list[int]:
        """The rows of a key, as they came."""
        first, end = (int(self.keys.searchsorted(key, side)) for side in ("left", "right"))
        return self.rows[first:end].tolist() if end > first else []

    def joined(self, keys: Iterable[bytes], rows: Iterable[int]) -> KeyRows:
        """With more keys, of these rows."""
        more = KeyRows(keys, rows)
        every = KeyRows(())
        both = np.concatenate([self.keys, more.keys])
        order = np.argsort(both, kind="stable")
        every.keys, every.rows = both[order], np.concatenate([self.rows, more.rows])[order]
        return every

    def distinct(self) -> tuple[KeyRows, Ids, Ids]:
        """Each key once, its rows counted anew; the first row of each; and the new one of each."""
        starts = np.ones(len(self.keys), bool)
        starts[1:] = self.keys[1:] != self.keys[:-1]
        firsts = np.empty(len(self.rows), np.int64)
        firsts[self.rows] = self.rows[starts][np.cumsum(starts) - 1]
        places, row_of = np.unique(firsts, return_inverse=True)
        every = KeyRows(())
        every.keys, every.rows = self.keys[starts], row_of[self.rows[starts]]
        return every, places, row_of


class Names(Iterable[str]):
    """Where each name of a sequence stands, by digests.

    >>> names = Names(["d1", "d2"])
    >>> names["d2"], names.get("d3"), "d1" in names
    (1, None, True)
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names, self._rows = names, KeyRows(map(digest, names))

    def get(self, name: str) -> int | None:
        """The row of a name, or None."""
        return next(iter(self._rows.of(digest(name))), None)

    def __getitem__(self, name: str) -> int:
        """The row of a name that is there."""
        row = self.get(name)
        if row is None:
            raise KeyError(name)
        return row

    def __contains__(self, name: object) -> bool:
        """Whether a name is there."""
        return isinstance(name, str) and self.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """The names in their order."""
        return iter(self._names)
