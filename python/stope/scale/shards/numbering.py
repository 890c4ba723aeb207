"""Row numbers of the whole corpus: a shard's start plus the row in it; and the names of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope import _arrays
from stope._checks import shown
from stope._host import on_host
from stope._kinds import iterable, kinds
from stope.lists import Lists, as_int64, offsets_of

MOST = 2**62  # rows of a corpus


@kinds(names=iterable)
def named(ids: Any, names: Iterable[Sequence[str]]) -> NDArray[np.object_]:
    """The names of row numbers of the whole corpus, None for -1.

    Args:
        ids: int64, any shape.
        names: of each shard, in the order of the shards, the names of its rows.

    Raises:
        ValueError: an id beyond the last name, or below -1.
        TypeError: ids that are no integers, a name that is no text.

    >>> import numpy as np
    >>> named(np.array([[2, 0, -1]]), [["a"], [], ["b", "c"]]).tolist()
    [['c', 'a', None]]
    """
    wanted, shards = _integers(ids), list(names)
    for number, shard in enumerate(shards):
        if not hasattr(shard, "__len__"):
            raise TypeError(f"names[{number}] is {shown(shard)}; give the names of a shard's rows")
    offsets = offsets_of([len(shard) for shard in shards])
    if wanted.size and not -1 <= wanted.min() <= wanted.max() < offsets[-1]:
        raise ValueError(
            f"ids run from {wanted.min()} to {wanted.max()}, but names has {offsets[-1]} names; "
            "give the names of all shards"
        )
    answer = np.full(wanted.shape, None, object)
    for place in zip(*np.nonzero(wanted >= 0), strict=True):
        number = int(np.searchsorted(offsets, wanted[place], "right")) - 1
        name = shards[number][wanted[place] - offsets[number]]
        if not isinstance(name, str):
            raise TypeError(f"names[{number}] has {shown(name)}; give texts")
        answer[place] = name
    return answer


def _integers(ids: Any) -> NDArray[np.int64]:
    try:
        values = on_host(ids)
    except ValueError:  # lists of different lengths
        values = np.empty(0, object)
    if values.dtype.kind not in "iu":
        raise TypeError(f"ids is {shown(ids)}; give an array of integers")
    return as_int64(values, "ids")


def rows_of(matrices: dict[str, Any]) -> list[int]:
    """How many rows each matrix has, once all have one dim; messages call them as the keys do."""
    shapes = {name: _arrays.device_shape(matrix, name) for name, matrix in matrices.items()}
    (first, shape), *others = shapes.items()
    for name, other in others:
        if other.dim != shape.dim:
            raise ValueError(
                f"{name} has dim {other.dim} but {first} has dim {shape.dim}; embed both with the "
                "same encoder"
            )
    return [shape.rows for shape in shapes.values()]


def within(lists: Lists, start: int, rows: int) -> Lists:
    """Of every list the ids in a shard, as rows of the shard."""
    kept = lists.where((lists.ids >= start) & (lists.ids < start + rows))
    return kept._replace(ids=kept.ids - start)
