"""Embeddings that a command is given: whether a file holds them, and reading them checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_BLOCK = 16_384  # rows looked at together


def holds_vectors(path: Path, text_column: str | None = None) -> bool:
    """Whether the file holds embeddings alone: .npy, or Parquet without a column of texts."""
    from stope.data.readers.columns import QUERY_COLUMNS, TEXT_COLUMNS
    from stope.data.readers.embeddings import vector_column

    if path.suffix != ".parquet" or not path.is_file():
        return path.suffix == ".npy"
    return vector_column(path, unless=(text_column, *TEXT_COLUMNS, *QUERY_COLUMNS)) is not None


def read_vectors(path: Path, called: str, *, rows: int | None = None) -> NDArray[Any]:
    """The embeddings of a file, finite; bfloat16 as float32."""
    from stope.data import read_embeddings

    vectors = read_embeddings(path, called, rows=rows)
    if not len(vectors):
        raise ValueError(f"{called} {path} has no rows; give one at least")
    if vectors.dtype.kind == "V":  # bfloat16: the upper half of a float32
        vectors = (vectors.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    broken = next(rows_where(vectors, not_finite), None)
    if broken is not None:
        raise ValueError(
            f"{called} {path}: row {broken} (counted from 0) holds NaN or infinity; embed that "
            "document anew, or leave it out"
        )
    return vectors


def not_finite(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows hold NaN or infinity."""
    return np.asarray(~np.isfinite(rows).all(axis=1))


def rows_where(
    vectors: NDArray[Any], condition: Callable[[NDArray[Any]], NDArray[np.bool_]]
) -> Iterator[int]:
    """The numbers of the rows for which the condition holds; rows are looked at some at a time."""
    for start in range(0, len(vectors), _BLOCK):
        yield from (start + np.flatnonzero(condition(vectors[start : start + _BLOCK]))).tolist()


def parquet_ids(path: Path, id_column: str | None) -> list[str] | None:
    """The ids beside the embeddings of a Parquet file, each there once; None without a column."""
    from stope._extras import need
    from stope.data.readers.columns import ID_COLUMNS, column_of, first_of
    from stope.data.readers.fields import add_id, id_of

    parquet = need("pyarrow.parquet", extra="train")
    names = dict.fromkeys(parquet.read_schema(path).names)
    name = first_of(names, ID_COLUMNS)
    if id_column is not None:
        name = column_of(names, id_column, (), "id_column", str(path))
    if name is None:
        return None
    seen: set[str] = set()
    ids = []
    for row, value in enumerate(parquet.read_table(path, columns=[name])[name].to_pylist(), 1):
        ids.append(id_of(value, name, f"{path}: row {row}"))
        add_id(ids[-1], seen, f"{path}: row {row}")
    return ids
