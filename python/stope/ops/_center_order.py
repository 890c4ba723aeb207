"""Which centers lie side by side, so that one bound for a group of them says much of each.

A bound of a group is that of its nearest center, less the way of the one that went farthest. So a
group should be near a row as a whole or not at all, and of centers that move alike.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stope import _core

_BANDS = 4  # of centers whose clusters are about as wide
_ROUNDS = 8  # of the power method
_SAMPLE, _ENOUGH = 512, 0.5  # rows, and the share of their groups that bounds rule out


def side_by_side(
    centers: NDArray[np.float32], widths: NDArray[np.float64], group: int
) -> NDArray[np.int64]:
    """A permutation of the centers that puts likes into one group of so many.

    They are cut into bands by the widths of their clusters, wide ones move least, and bands into
    halves, again and again, across the direction in which they vary most.

    >>> centers = np.float32([[0, 1], [9, 1], [0, 2], [9, 2]])
    >>> side_by_side(centers, np.array([1.0, 2.0, 1.0, 2.0]), 2).tolist()
    [0, 2, 1, 3]
    """
    values = centers / np.maximum(np.abs(centers).max(), np.float32(1e-30)).astype(np.float64)
    order = np.argsort(-widths, kind="stable")
    groups = -(-len(order) // group)
    cuts = [band[0] * group for band in np.array_split(np.arange(groups), _BANDS) if len(band)]
    parts = np.split(order, cuts[1:])
    done: list[NDArray[np.int64]] = []
    while parts:
        part = parts.pop()
        if len(part) <= group:
            done.append(part)
            continue
        away = values[part] - values[part].mean(axis=0)
        along = away[np.square(away).sum(axis=1).argmax()]
        for _ in range(_ROUNDS):
            along = away.T @ (away @ along)
            along /= max(np.linalg.norm(along), 1e-300)
        part = part[np.argsort(away @ along, kind="stable")]
        half = -(-len(part) // group) // 2 * group
        parts += [part[half:], part[:half]]
    done.sort(key=len, reverse=True)  # the one that is not full comes last
    return np.concatenate(done)


def settled_order(
    reached: NDArray[np.float32],
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    before: NDArray[np.float32],
    centers: NDArray[np.float32],
    metric: str,
) -> NDArray[np.int64]:
    """The order for all assignments from the second one on.

    It is that of the first one, the centers' numbers, where bounds of that rule out most groups of
    a sample of rows. Else likes are put side by side, and `reached` becomes infinity: nothing is
    known of the new groups.
    """
    group = _core.group_centers(len(centers))
    ways = np.linalg.norm(centers.astype(np.float64) - before, axis=1)
    ways = np.maximum.reduceat(ways, np.arange(0, len(ways), group))
    some = slice(None, None, -(-len(scores) // _SAMPLE))
    bounds, limits = reached[some].astype(np.float64), scores[some, None].astype(np.float64)
    if metric == "euclidean":  # of squared distances
        bounds = -np.sqrt(np.maximum(-bounds, 0))
    if np.mean(bounds + ways < limits) > _ENOUGH:
        return np.arange(len(centers))
    counts = np.maximum(np.bincount(labels, minlength=len(centers)), 1)
    widths = np.bincount(labels, costs_of(scores, metric), len(centers)) / counts
    reached.fill(np.inf)
    return side_by_side(centers, widths, group)


def costs_of(scores: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """What each row adds to inertia."""
    wide = scores.astype(np.float64)
    return np.square(wide) if metric == "euclidean" else np.maximum(1 - wide, 0)
