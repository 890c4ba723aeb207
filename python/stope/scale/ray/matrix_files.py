"""Matrices whose rows lie in files: described in the driver, mapped in the workers that need them.

What cannot be mapped (Parquet, Lance, Zarr, JSON lines, Ray Data sets) is copied once, block by
block, to .npy files in the job's folder, which go when the job is done.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from numpy.typing import NDArray

from stope._extras import need
from stope._files.arrays import digest, npy_header
from stope._files.atomic import atomic_path
from stope._files.manifest import FileDescription, described_file, read_json
from stope._host import on_host
from stope._kinds import matrix
from stope.data.arrow import from_arrow
from stope.data.readers.columns import ID_COLUMNS, QUERY_ID_COLUMNS, first_of
from stope.data.readers.embeddings import opened
from stope.data.readers.stored import FOLDERS, LISTS, OPENERS, chosen_column, list_columns
from stope.data.readers.tables import read_rows

COPIES, MANIFEST = "_copies", "_manifest.json"  # readers of data sets pass over underscores
_JSON_LINES = (".jsonl", ".jsonl.gz")
_ENDINGS = (".npy", *OPENERS, *_JSON_LINES)
_BLOCK = 65_536  # rows that are copied together
_IDS = (*QUERY_ID_COLUMNS, *ID_COLUMNS)


class File(NamedTuple):
    """Rows that can be mapped, perhaps a file of their ids, and what tells both from others."""

    path: str
    rows: int
    dim: int
    dtype: str
    ids: str | None
    described: list[FileDescription]


@dataclass(frozen=True)
class Rows:
    """A matrix in files, one after the other."""

    files: tuple[File, ...]

    def __len__(self) -> int:
        return sum(file.rows for file in self.files)

    @property
    def dim(self) -> int:
        """Columns."""
        return self.files[0].dim

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.files[0].dtype).itemsize

    @property
    def has_ids(self) -> bool:
        """Whether rows have ids, and do not go by their numbers."""
        return all(file.ids is not None for file in self.files)

    @property
    def mapped(self) -> NDArray[Any]:
        """All rows, of one file."""
        (file,) = self.files
        rows: NDArray[Any] = _mapped(file.path)
        return rows

    @property
    def described(self) -> dict[str, Any]:
        """What tells these rows from others, wherever they lie."""
        return {
            "rows": len(self),
            "dim": self.dim,
            "files": [each for file in self.files for each in file.described],
        }

    def __getitem__(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        """Copies of some rows, ascending."""
        ends = np.cumsum([file.rows for file in self.files])
        cuts = np.searchsorted(numbers, [0, *ends])
        parts = [
            _mapped(file.path)[numbers[cuts[place] : cuts[place + 1]] - (ends[place] - file.rows)]
            for place, file in enumerate(self.files)
        ]
        return np.concatenate(parts)

    def pieces(self, first: int, end: int) -> Iterator[tuple[int, NDArray[Any]]]:
        """Maps of these rows, file by file, each after the number of its first row.

        Pages of other rows than those asked for last are let go.
        """
        if _asked.get(self.files[0].path) != (first, end):
            self._let_go()
            _asked[self.files[0].path] = first, end
        stop = 0
        for file in self.files:
            start, stop = stop, stop + file.rows
            here, there = max(first, start), min(end, stop)
            if here < there:
                yield here, _mapped(file.path)[here - start : there - start]

    def read(self, first: int, end: int) -> NDArray[Any]:
        """A copy of these rows."""
        rows = np.concatenate([rows for _, rows in self.pieces(first, end)])
        self._let_go()
        return rows

    def _let_go(self) -> None:
        """Leave the pages of maps to the system's cache: they no longer count as this process's."""
        for file in self.files:
            pages = getattr(_maps.get(file.path), "_mmap", None)
            if pages is not None:
                pages.madvise(mmap.MADV_DONTNEED)

    def named(self, rows: NDArray[np.int64]) -> Any:
        """The ids of rows, an Arrow array of texts; null for -1."""
        arrow = need("pyarrow", extra="ray")
        chunks = [chunk for file in self.files for chunk in _ids(file.ids).chunks]
        wanted = arrow.array(rows.reshape(-1), mask=rows.reshape(-1) < 0)
        return arrow.chunked_array(chunks).take(wanted).combine_chunks()


_maps: dict[str, Any] = {}
_asked: dict[str, tuple[int, int]] = {}  # of the file that rows begin with, those asked for last


def _mapped(path: str) -> Any:
    if path not in _maps:
        _maps[path] = opened(path, "file").mapped
    return _maps[path]


@lru_cache(maxsize=4096)
def _ids(path: str | None) -> Any:
    arrow = need("pyarrow", extra="ray")
    return arrow.ipc.open_file(arrow.memory_map(path)).read_all()["id"]


def rows_of(source: Any, name: str, folder: Path) -> Rows:
    """The rows that an argument names.

    Args:
        source: a file, a folder of files or a list of them; a `ray.data.Dataset`; a matrix.
        name: of the argument.
        folder: of the job; copies go to a folder in it.

    Raises:
        FileNotFoundError: no such file, or no file of embeddings in the folder.
        TypeError: another kind.
        ValueError: files of different dims or dtypes, and what `read_embeddings` refuses.
    """
    if isinstance(source, Rows):
        return source
    copies = folder / COPIES
    copies.mkdir(exist_ok=True)
    paths = paths_of(source, name)
    if paths:
        look = ray.remote(_of_file).options(num_cpus=1, max_retries=-1)
        asked = [look.remote(path.absolute(), name, copies) for path in paths]
        try:
            files = [file for file in ray.get(asked) if file.rows]
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
    elif type(source).__module__.startswith("ray.data"):
        files = [_of_dataset(source, name, copies)]
    else:
        matrix(source, name)
        files = [_of_matrix(on_host(source), name, copies)]
    if not sum(file.rows for file in files):
        raise ValueError(f"{name} is empty (0 rows); give at least one row")
    for file in files[1:]:
        if file[2:4] != files[0][2:4] or (file.ids is None) != (files[0].ids is None):
            raise ValueError(
                f"{name} has files that do not go together: {files[0].path} has dim "
                f"{files[0].dim} and {files[0].dtype}, {file.path} {file.dim} and {file.dtype}; "
                "write them alike, all with ids or none"
            )
    return Rows(tuple(files))


def paths_of(source: Any, name: str, endings: tuple[str, ...] = _ENDINGS) -> list[Path]:
    """The files that are meant, of a folder those with these endings; none if it is no path."""
    if isinstance(source, list | tuple) and source and isinstance(source[0], str | PathLike):
        return [path for each in source for path in paths_of(each, name, endings)]
    if not isinstance(source, str | PathLike):
        return []
    path = Path(source)
    if not path.is_dir() or path.suffix in FOLDERS:
        return [path]
    if (path / MANIFEST).exists() and not read_json(path / MANIFEST).get("complete"):
        raise ValueError(f"{name} {path} is of a job that is not done; run that to its end first")
    inside = [each for each in sorted(path.iterdir()) if each.name[0] not in "._"]
    known = [each for each in inside if each.name.endswith(endings)]
    if not known:
        raise FileNotFoundError(
            f"{name} {path} has no file that ends in {', '.join(endings)}; name another folder"
        )
    return known


def _of_file(path: Path, name: str, copies: Path) -> File:
    """The file as it is, or copied where it cannot be mapped, and its ids where it has some."""
    target = copies / digest(np.frombuffer(str(path).encode(), np.uint8))[:16]
    if path.name.endswith(_JSON_LINES):
        return _of_tables(_json_tables(path), target, f"{name} {path}")
    stored = opened(path, name)
    column = first_of(dict.fromkeys(stored.names), _IDS)
    if stored.mapped is not None:
        (count, dim), dtype = stored.mapped.shape, stored.mapped.dtype.str
        file = File(str(path), count, dim, dtype, None, [described_file(path)])
    else:
        file = _copied(target, stored.blocks(_BLOCK), name)
    return _with_ids(file, target, stored.column(column)) if column and stored.column else file


def _json_tables(path: Path) -> Iterator[Any]:
    arrow, rows = need("pyarrow", extra="ray"), (row for _, row in read_rows(path))
    while batch := list(islice(rows, _BLOCK)):
        yield arrow.Table.from_pylist(batch)


def _of_dataset(source: Any, name: str, copies: Path) -> File:
    """A Ray Data set, in its order."""
    options = ray.data.DataContext.get_current().execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        tables = source.iter_batches(batch_size=_BLOCK, batch_format="pyarrow")
        return _of_tables(tables, copies / name, name)
    finally:
        options.preserve_order = before


def _of_tables(tables: Iterable[Any], target: Path, name: str) -> File:
    """A column of lists; numbers of 64 bits, as JSON has them, become float32."""
    arrow, ids = need("pyarrow", extra="ray"), []

    def blocks() -> Iterator[NDArray[Any]]:
        for table in tables:
            vectors = chosen_column(list_columns(table.schema), None, name, LISTS)
            column, id_column = table[vectors], first_of(dict.fromkeys(table.schema.names), _IDS)
            if column.type.value_type.bit_width == 64:
                column = column.cast(arrow.list_(arrow.float32()))
            if id_column is not None:
                ids.append(table[id_column].cast(arrow.large_string()))
            yield from_arrow(column, f'{name}, "{vectors}"')

    file = _copied(target, blocks(), name)
    chunks = [chunk for column in ids for chunk in column.chunks]
    return _with_ids(file, target, arrow.chunked_array(chunks)) if chunks else file


def _of_matrix(rows: NDArray[Any], name: str, copies: Path) -> File:
    """A matrix that is all of a mapped .npy file, where it lies; any other in a file of its own."""
    path = Path(getattr(rows, "filename", None) or "")
    if isinstance(rows, np.memmap) and rows.mode == "r" and path.suffix == ".npy":
        whole = opened(path, name).mapped
        same = ("shape", "dtype", "strides", "offset")
        if whole is not None and all(getattr(whole, of) == getattr(rows, of) for of in same):
            count, dim = rows.shape
            return File(str(path), count, dim, rows.dtype.str, None, [described_file(path)])
    return _copied(copies / f"{name}-{digest(rows)[:16]}", [rows], name)


def _copied(target: Path, blocks: Iterable[NDArray[Any]], name: str) -> File:
    """Write blocks as one .npy file, whose header has room for any number of rows."""
    path = target.with_name(f"{target.name}.npy")
    shape: tuple[int, ...] = (0, 0)
    dtype = np.dtype(np.float32)
    with atomic_path(path) as temporary, temporary.open("w+b") as file:
        for block in blocks:
            if not shape[0]:
                shape, dtype = (0, block.shape[1]), block.dtype
                file.write(npy_header(dtype, shape))
            if (block.shape[1], block.dtype) != (shape[1], dtype):
                raise ValueError(
                    f"{name} has rows of dim {shape[1]} and {dtype}, and from row {shape[0]} on of "
                    f"{block.shape[1]} and {block.dtype}; write all alike"
                )
            file.write(np.ascontiguousarray(block).data)
            shape = (shape[0] + len(block), shape[1])
        file.seek(0)
        file.write(npy_header(dtype, shape))
    return File(str(path), shape[0], shape[1], dtype.str, None, [described_file(path)])


def _with_ids(file: File, target: Path, column: Any) -> File:
    """The file with its ids in another one beside it, as texts."""
    arrow = need("pyarrow", extra="ray")
    if column.null_count or len(column) != file.rows:
        raise ValueError(f"{file.path} has rows without an id; give every row one")
    path = target.with_name(f"{target.name}.arrow")
    table = arrow.table({"id": column.cast(arrow.large_string())})
    with atomic_path(path) as temporary, arrow.ipc.new_file(temporary, table.schema) as out:
        out.write_table(table, _BLOCK)
    return file._replace(ids=str(path), described=[*file.described, described_file(path)])
