"""The file format of FlatIndex.

::

    bytes 0-7    b"STOPEIDX"
    bytes 8-11   format version, little-endian uint32
    bytes 12-15  length of the header, uint32
    bytes 16-19  CRC-32 of the header, uint32
    bytes 20-    the header, JSON: metric, dtype, rows, dim, and offset, size and CRC-32 of sections
    sections     the corpus row by row, then the panels, each at a multiple of 4096 bytes

Nothing is pickled. A file that is shorter, longer or different in any byte is refused; the bytes
between sections are zero and checked as well.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _core
from stope._files.atomic import atomic_path
from stope._files.manifest import checked, parse_json
from stope.errors import IndexFileError
from stope.ops._search import METRICS, Metric

_MAGIC = b"STOPEIDX"
_VERSION = 1
_ALIGNMENT = 4096
_BLOCK = 1 << 24
_STORAGE = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "|i1"}
_SECTION = {"offset": int, "size": int, "crc32": int}
_HEADER = {
    "metric": METRICS,
    "dtype": tuple(_STORAGE),
    "rows": int,
    "dim": int,
    "sections": {"corpus": _SECTION, "packed": _SECTION},
}
_MOST_COLUMNS = 1 << 31


class IndexContents(NamedTuple):
    """A memory-mapped index file."""

    corpus: NDArray[Any]
    packed: NDArray[np.uint8]
    metric: Metric
    dtype: str


def write(
    path: Path, *, corpus: NDArray[Any], packed: NDArray[np.uint8], metric: str, dtype: str
) -> None:
    """Write to a temporary name beside ``path``, then rename."""
    sections = {"corpus": corpus, "packed": packed}
    header: dict[str, Any] = {
        "metric": metric,
        "dtype": dtype,
        "rows": corpus.shape[0],
        "dim": corpus.shape[1],
        "sections": {},
    }
    offset = _ALIGNMENT
    for name, array in sections.items():
        size = array.size * array.itemsize
        header["sections"][name] = {"offset": offset, "size": size, "crc32": _checksum(array)}
        offset = _aligned(offset + size)
    text = json.dumps(header).encode()
    start = _MAGIC + struct.pack("<III", _VERSION, len(text), zlib.crc32(text)) + text
    if len(start) > _ALIGNMENT:
        raise AssertionError("the header outgrew its page")
    with atomic_path(path) as temporary:
        try:
            with temporary.open("xb") as file:
                file.write(start)
                for name, array in sections.items():
                    _pad(file, header["sections"][name]["offset"])
                    for block in _blocks(array):
                        file.write(block)
        except OSError as error:
            problem = f"cannot write the index: {error.strerror}"
            raise OSError(error.errno, problem, str(path)) from None


def read(path: Path, *, verify: bool) -> IndexContents:
    """Map a file after checking its header, its length and, if asked, every byte."""
    with path.open("rb") as file:
        header, header_end = _read_header(path, file)
    sections = header["sections"]
    last = sections["packed"]
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    if verify:
        _verify(path, whole, header, header_end)
    at, count = sections["corpus"]["offset"], sections["corpus"]["size"]
    corpus = whole[at : at + count].view(_STORAGE[header["dtype"]])
    packed = whole[last["offset"] : last["offset"] + last["size"]]
    return IndexContents(
        corpus.reshape(header["rows"], header["dim"]), packed, header["metric"], header["dtype"]
    )


def _read_header(path: Path, file: BinaryIO) -> tuple[dict[str, Any], int]:
    """The header, which describes a file of this length, and where it ends."""
    start = file.read(20)
    if start[:8] != _MAGIC:
        raise IndexFileError(
            f"{path} is not a stope index (it does not start with STOPEIDX); save one"
        )
    if len(start) < 20:
        raise _broken(path, "truncated: it ends inside its header")
    version, length, checksum = struct.unpack("<III", start[8:])
    if version != _VERSION:
        raise _broken(path, f"of format version {version}, this stope reads {_VERSION}")
    text = file.read(length) if length <= _ALIGNMENT else b""
    if zlib.crc32(text) != checksum:
        raise _broken(path, "truncated or altered: its header's checksum is wrong")
    try:
        header: dict[str, Any] = checked(parse_json(text), _HEADER)
    except ValueError as error:
        raise _broken(path, f"altered: {error}") from None
    rows, dim = header["rows"], header["dim"]
    size = os.fstat(file.fileno()).st_size
    corpus_bytes = rows * dim * np.dtype(_STORAGE[header["dtype"]]).itemsize
    if max(rows, corpus_bytes) > size or not 0 < dim <= _MOST_COLUMNS:
        what = f"truncated or altered: it has {size} bytes for {rows} rows of dim {dim}"
        raise _broken(path, what)
    end = _ALIGNMENT
    for name, needed in (("corpus", corpus_bytes), ("packed", _core.packed_bytes(rows, dim))):
        section = header["sections"][name]
        if (section["offset"], section["size"]) != (_aligned(end), needed):
            raise _broken(
                path,
                f"of another stope: it has a section '{name}' of {section['size']} bytes at "
                f"{section['offset']} where {needed} are needed at {_aligned(end)}",
            )
        end = _aligned(end) + needed
    if size != end:
        what = f"truncated or has grown: it has {size} bytes, its header says {end}"
        raise _broken(path, what)
    return header, 20 + length


def _verify(path: Path, whole: NDArray[np.uint8], header: dict[str, Any], end: int) -> None:
    for name, section in header["sections"].items():
        if np.any(whole[end : section["offset"]]):
            raise _broken(path, "altered between its sections")
        end = section["offset"] + section["size"]
        if _checksum(whole[section["offset"] : end]) != section["crc32"]:
            raise _broken(path, f"altered: the checksum of its {name} is wrong")


def _broken(path: Path, how: str) -> IndexFileError:
    return IndexFileError(f"{path} is {how}; build the index again")


def _blocks(array: NDArray[Any]) -> Iterator[memoryview]:
    """The bytes of a row-major array in blocks; rows may be strided."""
    if array.ndim == 1:
        for at in range(0, array.size, _BLOCK):
            yield array[at : at + _BLOCK].data
        return
    rows = max(1, _BLOCK // max(1, array.shape[1] * array.itemsize))
    for row in range(0, array.shape[0], rows):
        yield np.ascontiguousarray(array[row : row + rows]).data.cast("B")


def _checksum(array: NDArray[Any]) -> int:
    checksum = 0
    for block in _blocks(array):
        checksum = zlib.crc32(block, checksum)
    return checksum


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def _pad(file: BinaryIO, offset: int) -> None:
    file.write(bytes(offset - file.tell()))
