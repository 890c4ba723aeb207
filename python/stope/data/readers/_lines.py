"""Numbered lines of a text file, plain or gzip; damage is reported where it is found."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import IO, cast

_GZIP_MAGIC = b"\x1f\x8b"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def existing_file(path: str | PathLike[str]) -> Path:
    """Return `path` as a Path, or raise FileNotFoundError / IsADirectoryError in a sentence."""
    found = Path(path)
    if found.is_dir():
        raise IsADirectoryError(f"{found} is a folder; name a file")
    if not found.exists():
        raise FileNotFoundError(f"{found} does not exist")
    return found


def read_lines(path: str | PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without its line end) of a UTF-8 file; gzip is recognised.

    Only a line feed ends a line (a preceding carriage return goes with it), so other Unicode
    separators inside a text are kept. A byte order mark at the start is skipped.

    Raises:
        ValueError: a line is not UTF-8, the gzip data is damaged or ends early, or the name ends
            in .gz and the content is not gzip; the message has file and line number.

    Memory: one line.
    """
    found = existing_file(path)
    number = 0
    with _open_bytes(found) as stream:
        while True:
            try:
                raw = stream.readline()
            except EOFError as error:
                raise ValueError(
                    f"{found}:{number + 1}: the gzip data ends early; "
                    "copy or download the file again"
                ) from error
            except (gzip.BadGzipFile, zlib.error) as error:
                raise ValueError(
                    f"{found}:{number + 1}: the gzip data is damaged ({error}); "
                    "copy or download the file again"
                ) from error
            if not raw:
                return
            number += 1
            if number == 1:
                raw = raw.removeprefix(_BYTE_ORDER_MARK)
            yield number, _decode(raw.removesuffix(b"\n").removesuffix(b"\r"), found, number)


def _open_bytes(path: Path) -> IO[bytes]:
    stream = path.open("rb")
    try:
        magic = stream.read(2)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    if magic != _GZIP_MAGIC:
        if path.suffix == ".gz":
            stream.close()
            raise ValueError(
                f"{path}:1: the name ends in .gz but the content is not gzip; "
                "rename the file or compress it"
            )
        return stream
    stream.close()
    return cast("IO[bytes]", gzip.open(path, "rb"))


def _decode(raw: bytes, path: Path, number: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at position "
            f"{error.start + 1} of the line); save the file as UTF-8"
        ) from error
