"""Rows that are compared with those of their own group alone, as the core takes them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope import _arrays
from stope._checks import shown

Vector = NDArray[np.int64]


def in_groups(
    groups: Any, order: Vector | None, rows: int, place: Any
) -> tuple[Vector | None, Vector | None]:
    """(order, offsets): group after group, in each the order given; without groups that order."""
    if groups is None:
        return order, None
    labels = _arrays.as_id_vector(groups, wraps=True)  # hashes, say: whether they differ counts
    if labels is None:
        raise TypeError(f"groups is {shown(groups)}; give an integer for each row, or None")
    if labels.size != rows:
        raise ValueError(
            f"groups has {labels.size} entries for {rows} rows of x; give one for each"
        )
    if place is not _arrays.ON_CPU:
        raise ValueError("groups is given for an x on a GPU; move x to the CPU, which has groups")
    labels = labels if order is None else labels[order]
    by_group = np.argsort(labels, kind="stable")
    starts = np.flatnonzero(np.diff(labels[by_group])) + 1
    placed = by_group if order is None else order[by_group]
    return np.ascontiguousarray(placed), np.concatenate([[0], starts, [rows]])
