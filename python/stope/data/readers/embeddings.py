"""Embeddings in files: .npy, and by column Parquet, Arrow, Lance, HDF5 and Zarr."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import path as path_kind
from stope._kinds import at_least, kinds, maybe, string
from stope.data.readers.fields import names
from stope.data.readers.lines import existing_file
from stope.data.readers.stored import FOLDERS, OPENERS, Stored, list_columns, parquet_schema

_KINDS = ("float32", "float16", "int8", "|V2", "bfloat16")
_BLOCK_ROWS = 16_384


@kinds(path=path_kind, argument=string, rows=maybe(at_least(0)), column=maybe(string))
def read_embeddings(
    path: str | PathLike[str],
    argument: str = "path",
    *,
    rows: int | None = None,
    column: str | None = None,
) -> NDArray[Any]:
    """Map or read embeddings ``[texts, dim]`` of float32, float16 or int8.

    | ending | what is read | memory |
    |---|---|---|
    | ``.npy`` | the array (bfloat16, too) | mapped |
    | ``.arrow``, ``.feather`` | a column of lists | mapped where it is one piece, uncompressed |
    | ``.h5``, ``.hdf5`` | an array by its path | mapped where it is contiguous, without filters |
    | ``.parquet``, ``.lance``, ``.zarr`` | a column of lists; an array of the group | read |

    A file that is shortened while it is mapped ends the process with SIGBUS.

    Args:
        path: the file (Lance and Zarr: the folder), or ``FILE::COLUMN``.
        argument: what an error calls it, such as the option that named it.
        rows: how many rows it must have; None is any number.
        column: which column of lists or array; None where there is one.

    Raises:
        ValueError: a file of another format, another number of dimensions or rows, another type or
            order of the elements; no or several columns and none named, a missing list or number,
            lists of different lengths; names the argument, the file and the remedy.
        FileNotFoundError: no such file.
        ImportError: h5py, zarr or lance is missing; names the extra.

    Memory: none where it is mapped; else the embeddings, and 16,384 rows.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "rows.npy")
        >>> np.save(path, np.zeros((2, 4)))
        >>> read_embeddings(path, "--corpus-embeddings")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: --corpus-embeddings .../rows.npy holds float64; ...
    """
    stored = opened(path, argument, rows, column)
    if stored.mapped is not None:
        return stored.mapped
    vectors, at = None, 0
    for block in stored.blocks(_BLOCK_ROWS):
        if vectors is None:
            vectors = np.empty((stored.rows, block.shape[1]), block.dtype)
        vectors[at : at + len(block)] = block
        at += len(block)
    return np.empty((0, 0), np.float32) if vectors is None else vectors


@kinds(path=path_kind, block_rows=at_least(1), column=maybe(string))
def embedding_blocks(
    path: str | PathLike[str], *, column: str | None = None, block_rows: int = 65_536
) -> Iterator[NDArray[Any]]:
    """Go through the embeddings of a file in blocks, for a corpus larger than memory.

    ``stope.topk_blocks(queries, embedding_blocks("corpus.h5"), 10)`` needs the memory of a block;
    ``for block in embedding_blocks(path): index.add(block)`` packs an index.

    Args:
        path, column: as :func:`read_embeddings`.
        block_rows: rows of a block at most.

    Yields:
        Matrices ``[up to block_rows, dim]`` in order.

    Raises:
        ValueError, FileNotFoundError, ImportError: as :func:`read_embeddings`.

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "rows.npy")
    >>> np.save(path, np.zeros((5, 4), np.float32))
    >>> [len(block) for block in embedding_blocks(path, block_rows=2)]
    [2, 2, 1]
    """
    return opened(path, "path", None, column).blocks(block_rows)


def opened(
    path: str | PathLike[str], argument: str, rows: int | None = None, column: str | None = None
) -> Stored:
    """The embeddings of a file, mapped or to be read in blocks; arguments of `read_embeddings`."""
    file = Path(path)
    if column is None and "::" in str(file) and not file.exists():
        name, _, column = str(file).partition("::")
        file = Path(name)
    if file.suffix not in FOLDERS or not file.is_dir():
        existing_file(file)
    called = f"{argument} {file}"
    stored = OPENERS.get(file.suffix, _npy)(file, called, column)
    if rows is not None and stored.rows != rows:
        raise ValueError(f"{called} has {stored.rows:,} rows for {rows:,} texts; it needs one each")
    return stored


def _npy(file: Path, called: str, column: str | None) -> Stored:
    if column is not None:
        raise ValueError(f'{called} is one array, without the column "{column}"; leave it out')
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
    if isinstance(array, np.memmap) and array.offset + array.nbytes < file.stat().st_size:
        raise ValueError(
            f"{called} goes on behind its array of {len(array):,} rows, which would be left out; "
            "save one array into it (np.concatenate joins several)"
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
    return Stored(
        len(array), array, lambda rows: (array[at : at + rows] for at in range(0, len(array), rows))
    )


def vector_column(path: Path, unless: Iterable[str | None] = ()) -> str | None:
    """The column of lists of numbers in a Parquet file, None where there is none.

    Args:
        unless: None is returned, too, where the file has a column of one of these names.

    Raises:
        ValueError: there are several.
    """
    schema = parquet_schema(existing_file(path))
    if set(schema.names) & set(unless):
        return None
    lists = list_columns(schema)
    if len(lists) > 1:
        raise ValueError(
            f"{path} has the columns of lists {names(dict.fromkeys(lists))}; leave one in it"
        )
    return lists[0] if lists else None
