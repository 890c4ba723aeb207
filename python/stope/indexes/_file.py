"""The file format of FlatIndex.

::

    bytes 0-7    b"STOPEIDX"
    bytes 8-11   format version, little-endian uint32
    bytes 12-15  length of the header, uint32
    bytes 16-19  CRC-32 of the header, uint32
    bytes 20-    the header, JSON: metric, dtype, rows, dim, and offset, size and CRC-32 of sections
    sections     the corpus row by row, then the panels, each at a multiple of 4096 bytes

Version 2 is that of an index with ids of its own: its header says their kind, the id of the next
row, and whether rows are rounded. More sections follow: ids, ascending, little-endian int64; for
strings where each begins in the last section and where it ends, and that section, their UTF-8.
Rows that have the ids 0, 1, 2, ... have neither section.

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

from stope import _arrays, _core
from stope._files.atomic import atomic_path
from stope._files.manifest import checked, parse_json
from stope.errors import IndexFileError
from stope.indexes._held import Held
from stope.indexes._ids import Ids
from stope.lists import offsets_of
from stope.ops._search import METRICS, Metric

_MAGIC = b"STOPEIDX"
_PLAIN, _WITH_IDS = 1, 2  # versions
_ALIGNMENT = 4096
_BLOCK = 1 << 24
_STORAGE = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "int8": "|i1"}
_SECTION = {"offset": int, "size": int, "crc32": int}
_KINDS = ("numbered", "int64", "text")
_HEADER = {
    "metric": METRICS,
    "dtype": tuple(_STORAGE),
    "rows": int,
    "dim": int,
    "sections": {"corpus": _SECTION, "packed": _SECTION},
}
_HEADERS = {
    _PLAIN: _HEADER,
    _WITH_IDS: {
        **_HEADER,
        "ids": {"kind": _KINDS, "next": int, "rounds": bool},
        "sections": dict.fromkeys(("corpus", "packed", "ids?", "texts?"), _SECTION),
    },
}
_MOST_COLUMNS = 1 << 31


class IndexContents(NamedTuple):
    """A memory-mapped index file."""

    corpus: NDArray[Any]
    packed: NDArray[np.uint8]
    metric: Metric
    dtype: str
    ids: Ids
    rounds: bool


def write(path: Path, held: Held, metric: str, *, rounds: bool) -> None:
    """Write to a temporary name beside ``path``, then rename; of rows in the order of their ids."""
    corpus, ids = _arrays.bits(held.corpus), held.ids
    sections = {"corpus": corpus, "packed": held.panels}
    header: dict[str, Any] = {
        "metric": metric,
        "dtype": held.shape.dtype,
        "rows": corpus.shape[0],
        "dim": corpus.shape[1],
        "sections": {},
    }
    version = _PLAIN
    if ids.values is not None or ids.next != ids.places or rounds:
        version = _WITH_IDS
        kind = "numbered" if ids.values is None else "text" if ids.texts else "int64"
        header["ids"] = {"kind": kind, "next": ids.next, "rounds": rounds}
        if ids.values is not None:
            sections |= _encoded(ids.values)
    offset = _ALIGNMENT
    for name, array in sections.items():
        size = array.size * array.itemsize
        header["sections"][name] = {"offset": offset, "size": size, "crc32": _checksum(array)}
        offset = _aligned(offset + size)
    text = json.dumps(header).encode()
    start = _MAGIC + struct.pack("<III", version, len(text), zlib.crc32(text)) + text
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


def _encoded(values: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """The sections of ids."""
    if values.dtype != object:
        return {"ids": values.astype("<i8", copy=False).view("u1")}
    texts = [text.encode("utf-8", "surrogatepass") for text in values.tolist()]
    offsets = offsets_of([len(text) for text in texts]).astype("<i8", copy=False)
    return {"ids": offsets.view("u1"), "texts": np.frombuffer(b"".join(texts), dtype="u1")}


def read(path: Path, *, verify: bool) -> IndexContents:
    """Map a file after checking its header, its length and, if asked, every byte."""
    with path.open("rb") as file:
        header, header_end = _read_header(path, file)
    whole = np.memmap(path, dtype=np.uint8, mode="r")
    if verify:
        _verify(path, whole, header, header_end)
    sections = {
        name: whole[section["offset"] : section["offset"] + section["size"]]
        for name, section in header["sections"].items()
    }
    corpus = sections["corpus"].view(_STORAGE[header["dtype"]])
    described = header.get("ids", {"next": header["rows"], "rounds": False})
    try:
        ids = _decoded(sections, header["rows"], described["next"], verify=verify)
    except ValueError as error:
        raise _broken(path, f"altered: {error}") from None
    return IndexContents(
        corpus.reshape(header["rows"], header["dim"]),
        sections["packed"],
        header["metric"],
        header["dtype"],
        ids,
        described["rounds"],
    )


def _decoded(
    sections: dict[str, NDArray[np.uint8]], rows: int, following: int, *, verify: bool
) -> Ids:
    """The ids of a file, which ascend."""
    values: NDArray[Any] | None = None
    least = rows
    if "ids" in sections:
        values = np.asarray(sections["ids"].view("<i8"))
        least = 0
    if values is not None and "texts" in sections:
        offsets, texts = values, sections["texts"].tobytes()
        if offsets[0] or offsets[-1] != len(texts) or np.any(np.diff(offsets) < 0):
            raise ValueError("its strings begin and end nowhere")
        values = np.empty(rows, dtype=object)
        ends = zip(offsets.tolist(), offsets[1:].tolist(), strict=False)
        try:
            values[:] = [texts[begin:end].decode("utf-8", "surrogatepass") for begin, end in ends]
        except UnicodeDecodeError:
            raise ValueError("its strings are not UTF-8") from None
    elif values is not None and rows:
        least = int(values[-1]) + 1
    if values is not None and (verify or values.dtype == object):
        none = values.dtype != object and bool((values == -1).any())
        if none or (values[1:] <= values[:-1]).any():
            raise ValueError("its ids do not ascend")
    if following < least:
        raise ValueError(f"its next id is {following}, where there are ids up to {least - 1}")
    return Ids(rows, values, rows, {}, None, following)


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
    if version not in _HEADERS:
        raise _broken(path, f"of format version {version}, this stope reads 1 to {_WITH_IDS}")
    text = file.read(length) if length <= _ALIGNMENT else b""
    if zlib.crc32(text) != checksum:
        raise _broken(path, "truncated or altered: its header's checksum is wrong")
    try:
        header: dict[str, Any] = checked(parse_json(text), _HEADERS[version])
    except ValueError as error:
        raise _broken(path, f"altered: {error}") from None
    rows, dim = header["rows"], header["dim"]
    size = os.fstat(file.fileno()).st_size
    corpus_bytes = rows * dim * np.dtype(_STORAGE[header["dtype"]]).itemsize
    if max(rows, corpus_bytes) > size or not 0 < dim <= _MOST_COLUMNS:
        what = f"truncated or altered: it has {size} bytes for {rows} rows of dim {dim}"
        raise _broken(path, what)
    end = _ALIGNMENT
    sizes = {"corpus": corpus_bytes, "packed": _core.packed_bytes(rows, dim)}
    kind = header["ids"]["kind"] if version == _WITH_IDS else "numbered"
    if kind != "numbered":
        sizes["ids"] = 8 * (rows + (kind == "text"))
    if kind == "text":
        sizes["texts"] = header["sections"].get("texts", {"size": 0})["size"]
    if set(sizes) != set(header["sections"]):
        raise _broken(path, f"altered: {', '.join(header['sections'])} for ids of kind {kind}")
    for name, needed in sizes.items():
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
