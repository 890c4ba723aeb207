"""Pairs above a threshold within shards and between them, and the merge of these."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stope import _arrays
from stope._checks import choice, integer
from stope._host import on_host
from stope._kinds import iterable, kinds
from stope.ops._search import METRICS, Metric
from stope.ops.pairs_above import PairsAbove, pairs_above
from stope.progress import Progress
from stope.scale.shards.numbering import MOST, rows_of


def pairs_part(
    x: Any,
    x_start: int,
    y: Any = None,
    y_start: int | None = None,
    *,
    threshold: float,
    metric: Metric = "dot",
    max_pairs: int | None = None,
    progress: Progress | None = None,
) -> PairsAbove:
    """The pairs of `stope.pairs_above` within a shard, or between two.

    Each shard alone and each two of them once are all pairs of the matrix; see `merge_pairs`.

    Args:
        x: ``[n, dim]``: rows x_start to x_start + n of the matrix; perhaps none.
        x_start: number of the first.
        y: another shard, before or after x; None for the pairs within x.
        y_start: number of its first row.
        threshold, metric, max_pairs, progress: as for :func:`stope.pairs_above`.

    Returns:
        ``PairsAbove(rows, ids, scores)``: int64, int64 and float32 vectors in host memory, with row
        numbers of the whole matrix, the lower one of a pair in ``rows``.

    Raises:
        ValueError: y without y_start or the other way round, shards that overlap, and what
            :func:`stope.pairs_above` raises.
        TypeError: as :func:`stope.pairs_above`.

    Memory: as :func:`stope.pairs_above`.

    Source: docs/methods.md, H10.

    >>> import numpy as np
    >>> x = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], dtype=np.float32)
    >>> a, b = (x[:3], 0), (x[3:], 3)
    >>> parts = [pairs_part(*a, threshold=0.6), pairs_part(*b, *a, threshold=0.6)]
    >>> pairs = merge_pairs(parts)
    >>> list(zip(pairs.rows.tolist(), pairs.ids.tolist()))
    [(0, 3), (0, 1), (1, 3), (1, 2)]
    """
    first = second = integer(x_start, "x_start", 0, MOST)
    rows, others = rows_of({"x": x, "y": x if y is None else y})
    if (y is None) != (y_start is None):
        raise ValueError("y and y_start belong together; give both, or neither")
    if y is not None:
        second = integer(y_start, "y_start", 0, MOST)
        if first < second + others and second < first + rows:
            raise ValueError(
                f"x_start is {first} and y_start is {second}, with {rows} and {others} rows: both "
                f"have row {max(first, second)}; give shards that do not overlap"
            )
        if second < first:
            (x, first), (y, second) = (y, second), (x, first)
    if not rows or not others:
        _arrays.threshold(threshold, "threshold")
        choice(metric, "metric", METRICS)
        return PairsAbove(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    pairs = pairs_above(
        x, y, threshold=threshold, metric=metric, max_pairs=max_pairs, progress=progress
    )
    owners, ids, scores = map(on_host, pairs)
    return PairsAbove(owners + first, ids + second, scores)


@kinds(parts=iterable)
def merge_pairs(parts: Iterable[PairsAbove], max_pairs: int | None = None) -> PairsAbove:
    """The pairs of all shards, in the order of `stope.pairs_above`, bit for bit.

    Commutative, associative and idempotent, as `merge_topk`.

    Args:
        parts: pairs with row numbers of the whole matrix, as of `pairs_part`.
        max_pairs: refuse more than this.

    Returns:
        ``PairsAbove(rows, ids, scores)``, by (row ascending, score descending, id ascending).

    Raises:
        ValueError: no parts, more pairs than ``max_pairs``, one pair with two scores.
        TypeError: a part that is no ``PairsAbove``.

    Memory: three times the pairs, of 20 bytes each.

    Source: docs/methods.md, H10.

    >>> import numpy as np
    >>> part = PairsAbove(np.array([0, 0]), np.array([1, 3]), np.float32([0.8, 1]))
    >>> merge_pairs([part, part]).ids.tolist()
    [3, 1]
    """
    listed = list(parts)
    if not listed:
        raise ValueError("parts is empty; give the pairs of at least one shard")
    for place, part in enumerate(listed):
        if not isinstance(part, PairsAbove):
            raise TypeError(f"parts[{place}] is a {type(part).__name__}; give PairsAbove")
    rows, ids, scores = (
        np.concatenate(list(map(on_host, side))) for side in zip(*listed, strict=True)
    )
    order = np.lexsort((ids, -scores, rows))
    rows, ids, scores = rows[order], ids[order], scores[order]
    again = np.zeros(len(rows), bool)
    again[1:] = (rows[1:] == rows[:-1]) & (ids[1:] == ids[:-1]) & (scores[1:] == scores[:-1])
    rows, ids, scores = rows[~again], ids[~again], scores[~again]
    most = None if max_pairs is None else integer(max_pairs, "max_pairs", 0)
    if most is not None and len(rows) > most:
        raise ValueError(
            f"max_pairs is {most}, but parts have {len(rows)} pairs; raise max_pairs or threshold"
        )
    by_pair = np.lexsort((ids, rows))
    twice = (np.diff(rows[by_pair]) == 0) & (np.diff(ids[by_pair]) == 0)
    if twice.any():
        at = by_pair[int(twice.argmax())]
        raise ValueError(
            f"parts have the pair of rows {rows[at]} and {ids[at]} with two scores; give every "
            "shard the start of its own rows"
        )
    return PairsAbove(rows, ids, scores)
