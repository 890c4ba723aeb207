"""Embeddings in .npy files: mapped, and looked at before anything is computed."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import path as path_kind
from stope._kinds import at_least, kinds, maybe, string
from stope.data.readers.lines import existing_file

_KINDS = ("float32", "float16", "int8", "|V2", "bfloat16")


@kinds(path=path_kind, argument=string, rows=maybe(at_least(0)))
def read_embeddings(
    path: str | PathLike[str], argument: str = "path", *, rows: int | None = None
) -> NDArray[Any]:
    """Map a .npy array ``[texts, dim]`` of float32, float16, bfloat16 or int8.

    A file that is shortened while it is mapped ends the process with SIGBUS.

    Args:
        argument: what an error calls it, such as the option that named it.
        rows: how many rows it must have; None is any number.

    Raises:
        ValueError: no .npy file of numbers, another number of dimensions or rows, another type or
            order of the elements; names the argument, the file and the remedy.
        FileNotFoundError: no such file.

    Memory: none; the file is mapped.

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
    if rows is not None and len(array) != rows:
        raise ValueError(f"{called} has {len(array):,} rows for {rows:,} texts; it needs one each")
    return array
