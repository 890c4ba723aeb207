"""Embeddings in files that need a library: Parquet, Arrow, Lance, HDF5, Zarr; by name of column.

Each opener gives a `Stored`: the rows as they lie in a memory map, where the format allows one, and
a way to read them block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.data.arrow import NUMBERS, from_arrow, matrices, number_type
from stope.data.readers.fields import names

LISTS = "column of lists of numbers"
_DTYPES = ("float32", "float16", "int8")


class Stored(NamedTuple):
    """Embeddings in a file."""

    rows: int
    mapped: NDArray[Any] | None
    blocks: Callable[[int], Iterator[NDArray[Any]]]  # of at most so many rows
    names: Sequence[str] = ()  # of all columns, where the file is a table
    column: Callable[[str], Any] | None = None  # one of them, as Arrow has it


def list_columns(schema: Any) -> list[str]:
    """The columns of an Arrow schema that hold lists of numbers."""
    return [field.name for field in schema if number_type(field.type) is not None]


def chosen_column(there: Iterable[str], column: str | None, called: str, what: str) -> str:
    """The column that is wanted, or the only one there is.

    Raises:
        ValueError: there is none, none of this name, or one has to be chosen.
    """
    known = list(there)
    listed = names(dict.fromkeys(known))
    if column is not None and column not in known:
        raise ValueError(f'{called} has no {what} "{column}"; name one of {listed}')
    if not known:
        raise ValueError(f"{called} has no {what}; add one")
    if column is None and len(known) > 1:
        raise ValueError(f"{called} has more than one {what}, {listed}; name one as FILE::NAME")
    return column or known[0]


def parquet_schema(path: Path) -> Any:
    """The columns of a Parquet file and their types."""
    library, arrow = need("pyarrow.parquet", extra="train"), need("pyarrow", extra="train")
    try:
        return library.read_schema(path)
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no readable Parquet file ({error}); write it again") from error


def parquet(path: Path, called: str, column: str | None) -> Stored:
    """A column of lists of a Parquet file."""
    schema = parquet_schema(path)
    name = _list_column(schema, called, column)
    library = need("pyarrow.parquet", extra="train")

    def blocks(rows: int) -> Iterator[NDArray[Any]]:
        with library.ParquetFile(path) as source:
            batches = (b.column(0) for b in source.iter_batches(batch_size=rows, columns=[name]))
            yield from matrices(batches, f'{called}, "{name}"')

    def beside(name: str) -> Any:
        return library.read_table(path, columns=[name])[name]

    return Stored(library.read_metadata(path).num_rows, None, blocks, schema.names, beside)


def arrow_file(path: Path, called: str, column: str | None) -> Stored:
    """A column of an Arrow or Feather file, mapped where it is one piece of fixed-size lists."""
    arrow = need("pyarrow", extra="train")
    with arrow.memory_map(str(path)) as source:
        try:
            try:
                table = arrow.ipc.open_file(source).read_all()
            except arrow.ArrowInvalid:  # a stream, as data sets keep it in their cache
                source.seek(0)
                table = arrow.ipc.open_stream(source).read_all()
        except (arrow.ArrowException, OSError) as error:
            raise ValueError(f"{called} is no Arrow file ({error}); write it again") from error
    name = _list_column(table.schema, called, column)
    vectors, said = table.column(name), f'{called}, "{name}"'

    def blocks(rows: int) -> Iterator[NDArray[Any]]:
        parts = (vectors.slice(at, rows) for at in range(0, len(vectors), rows))
        yield from matrices(parts, said)

    whole = from_arrow(vectors, said) if vectors.num_chunks == 1 else None
    return Stored(len(vectors), whole, blocks, table.column_names, table.column)


def lance(path: Path, called: str, column: str | None) -> Stored:
    """A column of vectors of a Lance data set."""
    library = need("lance", extra="lance")
    try:
        table = library.dataset(str(path))
    except (ValueError, OSError) as error:
        raise ValueError(f"{called} is no Lance data set ({error}); write it again") from error
    name = _list_column(table.schema, called, column)

    def blocks(rows: int) -> Iterator[NDArray[Any]]:
        batches = table.to_batches(columns=[name], batch_size=rows)
        yield from matrices((batch.column(0) for batch in batches), f'{called}, "{name}"')

    def beside(name: str) -> Any:
        return table.to_table(columns=[name])[name]

    return Stored(table.count_rows(), None, blocks, table.schema.names, beside)


def hdf5(path: Path, called: str, column: str | None) -> Stored:
    """A data set of an HDF5 file; mapped where it lies in one piece, read in blocks elsewhere."""
    library = need("h5py", extra="formats")
    try:
        file = library.File(path, "r")
    except OSError as error:
        raise ValueError(f"{called} is no HDF5 file ({error}); write it again") from error
    with file:
        there: list[str] = []
        file.visititems(lambda name, item: there.append(name) if _is_matrix(item) else None)
        name = chosen_column(there, column, called, "matrix")
        array, offset = file[name], file[name].id.get_offset()
        count, mapped = len(array), None
        _check_number(str(array.dtype), f'{called}, "{name}"')
        plain = array.chunks is None and not array.is_virtual and array.external is None
        if plain and offset is not None and array.size:
            mapped = np.memmap(path, array.dtype, "r", offset, array.shape)

    def blocks(rows: int) -> Iterator[NDArray[Any]]:
        with library.File(path, "r") as again:
            for at in range(0, count, rows):
                yield again[name][at : at + rows]

    return Stored(count, mapped, blocks)


def zarr(path: Path, called: str, column: str | None) -> Stored:
    """A Zarr array, or an array of a group, read in blocks."""
    library = need("zarr", extra="formats")
    try:
        array = library.open(path, mode="r")
    except Exception as error:  # many kinds, by the store and the version
        raise ValueError(f"{called} is no Zarr array or group ({error}); write it again") from error
    if hasattr(array, "arrays"):
        arrays: Mapping[str, Any] = dict(array.arrays())
        there = [name for name, each in arrays.items() if _is_matrix(each)]
        array = arrays[chosen_column(there, column, called, "matrix")]
    elif column is not None:
        raise ValueError(f'{called} is one array, without the name "{column}"; leave the name out')
    elif not _is_matrix(array):
        raise ValueError(f"{called} must hold two dimensions (texts, dim), but has {array.shape}")
    _check_number(str(array.dtype), called)
    count = array.shape[0]

    def blocks(rows: int) -> Iterator[NDArray[Any]]:
        for at in range(0, count, rows):
            yield np.asarray(array[at : at + rows])

    return Stored(count, None, blocks)


OPENERS: dict[str, Callable[[Path, str, str | None], Stored]] = {
    ".parquet": parquet,
    ".arrow": arrow_file,
    ".feather": arrow_file,
    ".lance": lance,
    ".h5": hdf5,
    ".hdf5": hdf5,
    ".zarr": zarr,
}
FOLDERS = (".lance", ".zarr")  # formats that are a folder


def _is_matrix(item: Any) -> bool:
    return len(getattr(item, "shape", None) or ()) == 2


def _check_number(dtype: str, called: str) -> None:
    if dtype not in _DTYPES:
        raise ValueError(f"{called} holds {dtype}; write it as float32, float16 or int8")


def _list_column(schema: Any, called: str, column: str | None) -> str:
    name = chosen_column(list_columns(schema), column, called, LISTS)
    number = str(number_type(schema.field(name).type))
    if NUMBERS.get(number) not in _DTYPES:
        raise ValueError(
            f'{called} holds lists of {number} in "{name}"; cast the column to lists of float32'
        )
    return name
