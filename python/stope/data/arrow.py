"""Arrow's lists of numbers as matrices and back, without a copy where the memory allows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import shown
from stope._extras import need
from stope._host import on_host
from stope._kinds import kinds, matrix, string

NUMBERS = {"float": "float32", "halffloat": "float16", "int8": "int8", "int64": "int64"}


@kinds(name=string)
def from_arrow(column: Any, name: str = "column") -> NDArray[Any]:
    """A column of lists of numbers, all of one length, as a matrix ``[rows, dim]``.

    Not a copy where the column is in one piece (an ``Array``, or a ``ChunkedArray`` of one chunk):
    so embeddings in a memory-mapped Arrow file are searched where they lie.

    Args:
        column: ``pyarrow.Array`` or ``ChunkedArray`` of lists (fixed-size lists, lists or large
            lists) of float32, float16, int8 or int64, or of tensors with one axis (Arrow's of fixed
            shape, Ray Data's).
        name: what an error calls it.

    Raises:
        TypeError: another kind of column; lists of other numbers, float64 among them (cast them).
        ValueError: a missing list or number, lists of different lengths; names the row.

    Memory: none, or a copy of a column in several pieces.

    >>> import pyarrow as pa
    >>> from_arrow(pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)))[1].tolist()
    [3.0, 4.0]
    """
    arrow = need("pyarrow", extra="train")
    if not isinstance(column, arrow.Array | arrow.ChunkedArray):
        raise TypeError(f"{name} is {shown(column)}; give an Arrow array of lists of numbers")
    if isinstance(column.type, arrow.BaseExtensionType) and _is_vector(column.type):
        chunks = [chunk.storage for chunk in getattr(column, "chunks", [column])]
        column = arrow.chunked_array(chunks, column.type.storage_type)
    number = str(number_type(column.type))
    if number not in NUMBERS:
        raise TypeError(f"{name} is of type {column.type}; cast it to lists of float32")
    chunks = column.chunks if isinstance(column, arrow.ChunkedArray) else [column]
    parts = list(matrices(chunks, name))
    if not parts:
        return np.empty((0, max(getattr(column.type, "list_size", 0), 0)), NUMBERS[number])
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


@kinds(rows=matrix)
def to_arrow(rows: Any) -> Any:
    """A matrix as a ``pyarrow.FixedSizeListArray``, without a copy of rows in the CPU's memory.

    So ``pyarrow.table({"ids": to_arrow(best.ids), "scores": to_arrow(best.scores)})`` is an answer
    of :func:`stope.topk` for Parquet, for a data set or for Lance. -1 and -inf stay what they are.

    Raises:
        TypeError: no matrix, or bfloat16, which Arrow lacks (cast it to float32).

    >>> import numpy as np
    >>> to_arrow(np.int64([[3, 1], [2, -1]])).to_pylist()
    [[3, 1], [2, -1]]
    """
    arrow = need("pyarrow", extra="train")
    if "bfloat16" in str(getattr(rows, "dtype", "")):
        raise TypeError("rows are bfloat16, which Arrow does not have; cast them to float32")
    values = np.ascontiguousarray(on_host(rows))
    return arrow.FixedSizeListArray.from_arrays(values.reshape(-1), values.shape[1])


def _is_vector(tensor: Any) -> bool:
    """Whether a type of tensors has one axis."""
    return len(getattr(tensor, "shape", ())) == 1


def number_type(kind: Any) -> Any:
    """The type of the numbers that a column of lists of this type holds, None for other columns."""
    types = need("pyarrow.types", extra="train")
    if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
        return None
    number = kind.value_type
    return number if types.is_floating(number) or types.is_integer(number) else None


def matrices(columns: Iterable[Any], name: str) -> Iterator[NDArray[Any]]:
    """Each of the pieces of a column that has rows as a matrix; errors count the rows of all."""
    row, dim = 0, None
    for column in columns:
        for chunk in getattr(column, "chunks", [column]):
            if len(chunk):
                block = _matrix(chunk, name, row, dim)
                yield block
                row, dim = row + len(block), block.shape[1]


def _matrix(chunk: Any, name: str, row: int, dim: int | None) -> NDArray[Any]:
    """One piece, which begins at a row of the whole; all its lists have `dim` numbers."""
    if chunk.null_count:
        missing = row + chunk.is_null().to_pylist().index(True)
        raise ValueError(f"{name}: row {missing} (from 0) has no list; add it")
    flat = chunk.flatten()
    if flat.null_count:
        raise ValueError(f"{name}: lists from row {row} (from 0) on lack numbers; give all of them")
    lengths = need("pyarrow.compute", extra="train").list_value_length(chunk)
    lengths = lengths.to_numpy(zero_copy_only=False)
    dim = int(lengths[0]) if dim is None else dim
    if not dim:
        raise ValueError(f"{name}: row {row} (from 0) has an empty list; give one number or more")
    if (lengths != dim).any():
        other = int(np.flatnonzero(lengths != dim)[0])
        raise ValueError(
            f"{name}: row {row + other} (from 0) has {lengths[other]} numbers, others have {dim}; "
            "give all the same"
        )
    values: NDArray[Any] = flat.to_numpy(zero_copy_only=True)
    return values.reshape(-1, dim)
