"""Embeddings in .npy files, mapped, and in Parquet; looked at before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import path as path_kind
from stope._extras import need
from stope._kinds import at_least, kinds, maybe, string
from stope.data.readers.fields import names
from stope.data.readers.lines import existing_file

_KINDS = ("float32", "float16", "int8", "|V2", "bfloat16")


@kinds(path=path_kind, argument=string, rows=maybe(at_least(0)))
def read_embeddings(
    path: str | PathLike[str], argument: str = "path", *, rows: int | None = None
) -> NDArray[Any]:
    """Map a .npy array ``[texts, dim]`` of float32, float16, bfloat16 or int8; or read Parquet.

    Of a .parquet file the one column of lists of numbers is read (no bfloat16 there). A .npy file
    that is shortened while it is mapped ends the process with SIGBUS.

    Args:
        argument: what an error calls it, such as the option that named it.
        rows: how many rows it must have; None is any number.

    Raises:
        ValueError: no .npy file of numbers, another number of dimensions or rows, another type or
            order of the elements; no or several columns of lists in Parquet, a missing one, lists
            of different lengths; names the argument, the file and the remedy.
        FileNotFoundError: no such file.

    Memory: none for .npy, which is mapped; the embeddings and some rows for Parquet.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "rows.npy")
        >>> np.save(path, np.zeros((2, 4)))
        >>> read_embeddings(path, "--corpus-embeddings")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: --corpus-embeddings .../rows.npy holds float64; ...
    """
    file = existing_file(path)
    called = f"{argument} {file}"
    if file.suffix == ".parquet":
        return _of_length(_from_parquet(file, called), rows, called)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(
            f"{called} is no .npy file of numbers ({error}); save it by np.save"
        ) from error
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        shape = getattr(array, "shape", "several arrays")
        raise ValueError(
            f"{called} must hold one array of two dimensions (texts, dim), but it has {shape}"
        )
    if str(array.dtype) not in _KINDS:
        raise ValueError(
            f'{called} holds {array.dtype}; save it as np.save(path, array.astype("float32"))'
        )
    if array.strides[-1] != array.itemsize and array.size and array.shape[1] > 1:
        raise ValueError(
            f"{called} is in column order (Fortran's); save it as "
            "np.save(path, np.ascontiguousarray(array))"
        )
    return _of_length(array, rows, called)


def _of_length(array: NDArray[Any], rows: int | None, called: str) -> NDArray[Any]:
    if rows is not None and len(array) != rows:
        raise ValueError(f"{called} has {len(array):,} rows for {rows:,} texts; it needs one each")
    return array


def vector_column(path: Path, unless: Iterable[str | None] = ()) -> str | None:
    """The column of lists of numbers in a Parquet file, None where there is none.

    Args:
        unless: None is returned, too, where the file has a column of one of these names.

    Raises:
        ValueError: there are several.
    """
    schema = _schema(path)
    if set(schema.names) & set(unless):
        return None
    lists = [field.name for field in schema if _number_of(field.type) is not None]
    if len(lists) > 1:
        raise ValueError(
            f"{path} has the columns of lists {names(dict.fromkeys(lists))}; leave one in it"
        )
    return lists[0] if lists else None


def _schema(path: Path) -> Any:
    parquet, arrow = need("pyarrow.parquet", extra="train"), need("pyarrow", extra="train")
    try:
        return parquet.read_schema(existing_file(path))
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no readable Parquet file ({error}); write it again") from error


def _number_of(kind: Any) -> Any:
    """The type of the numbers that a column of lists of this type holds, None for other columns."""
    types = need("pyarrow.types", extra="train")
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    number = kind.value_type
    return number if types.is_floating(number) or types.is_integer(number) else None


def _from_parquet(file: Path, called: str) -> NDArray[Any]:
    parquet, compute = (need(f"pyarrow.{part}", extra="train") for part in ("parquet", "compute"))
    name = vector_column(file)
    if name is None:
        columns = names(dict.fromkeys(_schema(file).names))
        raise ValueError(f"{called} has no column of lists of numbers among {columns}; add one")
    number = str(_number_of(_schema(file).field(name).type))
    if number not in ("float", "halffloat", "int8"):
        raise ValueError(
            f'{called} holds lists of {number} in "{name}"; cast the column to lists of float32'
        )
    with parquet.ParquetFile(file) as source:
        vectors, row = None, 0
        for batch in source.iter_batches(batch_size=16_384, columns=[name]):
            column = batch.column(0)
            if column.null_count:
                missing = row + column.is_null().to_pylist().index(True)
                raise ValueError(f'{called}: row {missing} (from 0) has no "{name}"; add it')
            flat = column.flatten()
            if flat.null_count:
                raise ValueError(
                    f"{called}: vectors from row {row} (from 0) on lack numbers; give all of them"
                )
            values = flat.to_numpy(zero_copy_only=False)
            widths = compute.list_value_length(column).to_numpy(zero_copy_only=False)
            dim = int(widths[0]) if vectors is None else vectors.shape[1]
            if (widths != dim).any():
                other = row + int(np.flatnonzero(widths != dim)[0])
                raise ValueError(
                    f"{called}: row {other} (from 0) has {widths[other - row]} numbers, others "
                    f"have {dim}; give all the same"
                )
            if vectors is None:
                vectors = np.empty((source.metadata.num_rows, dim), values.dtype)
            vectors[row : row + len(column)] = values.reshape(-1, dim)
            row += len(column)
    return np.empty((0, 0), np.float32) if vectors is None else vectors
