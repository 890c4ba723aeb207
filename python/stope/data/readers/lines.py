"""Numbered lines of a text file, plain or compressed; damage is reported where it is found."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import IO, Any, cast

from stope._checks import shown

_OPENERS: dict[bytes, tuple[str, str, Callable[..., Any]]] = {
    b"\x1f\x8b": (".gz", "gzip", gzip.open),
    b"\xfd7zXZ": (".xz", "xz", lzma.open),
    b"BZh": (".bz2", "bzip2", bz2.open),
}
_OTHER_MAGICS = {b"\x28\xb5\x2f\xfd": "zstd", b"PK\x03\x04": "zip", b"\x04\x22\x4d\x18": "lz4"}
_DAMAGES = (gzip.BadGzipFile, zlib.error, lzma.LZMAError)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def existing_file(path: str | PathLike[str]) -> Path:
    """Return `path` as a Path, or say in a sentence that it is no file (a folder, a pipe)."""
    if not isinstance(path, (str, PathLike)):
        raise TypeError(f"path is {shown(path)}; give the name of a file")
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; name a file")
    if not file.exists():
        raise FileNotFoundError(f"{file} does not exist; check the name")
    if not file.is_file():
        raise ValueError(
            f"{file} is a pipe or a device, which can be read once alone; write what it gives to "
            "a file first, and name that"
        )
    return file


def plain_name(path: str | PathLike[str]) -> str:
    """The file's name in small letters, without the ending of a compression.

    >>> plain_name("data/Pairs.TSV.gz")
    'pairs.tsv'
    """
    name = Path(path).name.lower()
    for ending, _, _ in _OPENERS.values():
        name = name.removesuffix(ending)
    return name


def read_lines(path: str | PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text without its line end) of a UTF-8 file.

    gzip, xz and bzip2 are recognised by the content. Only a line feed ends a line (a preceding
    carriage return goes with it), so other Unicode separators inside a text are kept; in a file
    without any line feed carriage returns end lines. A byte order mark at the start is skipped, of
    any line: files that were put behind each other have it in the middle.

    Raises:
        ValueError: a line is not UTF-8, or a third of it are zero bytes, as in UTF-16 and behind
            the end of what a crash left; compressed data is damaged or ends early, or the name ends
            in .gz (.xz, .bz2) and the content is something else; names file and line. A pipe.

    Memory: one line.
    """
    file = existing_file(path)
    for number, raw in enumerate(_raw_lines(file), start=1):
        raw = raw.removeprefix(_BYTE_ORDER_MARK)
        yield number, _decode(raw.removesuffix(b"\n").removesuffix(b"\r"), file, number)


def _raw_lines(path: Path) -> Iterator[bytes]:
    kind, stream = _open_bytes(path)
    number = 0
    with stream:
        while True:
            try:
                raw = stream.readline()
            except EOFError as error:
                raise ValueError(
                    f"{path}:{number + 1}: the {kind} data ends early; copy or download the file "
                    "again"
                ) from error
            except (OSError, *_DAMAGES) as error:
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                raise ValueError(
                    f"{path}:{number + 1}: the {kind} data is damaged ({error}); copy or download "
                    "the file again"
                ) from error
            if not raw:
                return
            number += 1
            if number == 1 and b"\n" not in raw and b"\r" in raw:
                yield from raw.removesuffix(b"\r").split(b"\r")
                return
            yield raw


def _open_bytes(path: Path) -> tuple[str, IO[bytes]]:
    """The kind of compression, "" where there is none, and the bytes inside."""
    stream = path.open("rb")
    try:
        start = stream.read(8)
        stream.seek(0)
    except BaseException:
        stream.close()
        raise
    for magic, (_, kind, opener) in _OPENERS.items():
        if start.startswith(magic):
            stream.close()
            return kind, cast("IO[bytes]", opener(path, "rb"))
    wrong = next((kind for magic, kind in _OTHER_MAGICS.items() if start.startswith(magic)), None)
    expected = next((kind for end, kind, _ in _OPENERS.values() if path.name.endswith(end)), None)
    if wrong is not None or expected is not None:
        stream.close()
    if wrong is not None:
        raise ValueError(f"{path}:1: the content is {wrong}, which is not read; unpack it first")
    if expected is not None:
        raise ValueError(
            f"{path}:1: the name ends in {path.suffix} but the content is not {expected}; "
            "rename the file or compress it"
        )
    return "", stream


def _decode(raw: bytes, path: Path, number: int) -> str:
    zeros = raw.count(0)
    if (number == 1 and raw.startswith(_UTF_16)) or 3 * zeros > len(raw):
        what = "UTF-16" if zeros < len(raw) else "zero bytes alone"
        raise ValueError(
            f"{path}:{number}: not UTF-8 ({what}, it seems); save the file as UTF-8 (iconv -f "
            "UTF-16 -t UTF-8), or cut off what a crash left behind its end"
        )
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at position "
            f"{error.start + 1} of the line); save the file as UTF-8"
        ) from error
