"""What a shard says of a search, a graph and of earlier rows; and the merge of that."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stope import _arrays
from stope._checks import integer, size
from stope._host import on_host
from stope._kinds import iterable, kinds
from stope.lists import Lists
from stope.ops._merge import best, shifted
from stope.ops._search import Besides, Metric, TopK, padded_search
from stope.ops.knn_graph import knn_graph
from stope.ops.nearest_earlier import nearest_earlier
from stope.progress import Progress
from stope.scale.shards.numbering import MOST, rows_of, within


def topk_part(
    queries: Any,
    shard: Any,
    k: int,
    start: int,
    *,
    metric: Metric = "dot",
    exclude: Any = None,
    ceiling: Any = None,
    floor: Any = None,
    progress: Progress | None = None,
) -> TopK:
    """What a shard adds to `stope.topk`.

    Args:
        queries: ``[q, dim]``, as for :func:`stope.topk`.
        shard: ``[rows, dim]``: rows start to start + rows of the corpus; perhaps none.
        k: how many of the whole corpus; a shard may have fewer.
        start: number of the shard's first row.
        exclude: as for :func:`stope.topk`, with ids of the whole corpus.
        metric, ceiling, floor, progress: as for :func:`stope.topk`. The lowest score that is kept
            so far may be given as the floor: it is inclusive.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[q, k]`` in host memory with ids of the whole
        corpus, for `merge_topk`; where the shard has fewer than k rows, -inf and -1.

    Raises:
        ValueError, TypeError: as :func:`stope.topk`.

    Memory: as :func:`stope.topk`.

    Source: docs/methods.md, H10.

    >>> import numpy as np
    >>> x, q = np.eye(4, dtype=np.float32), np.float32([[0.1, 0.9, 0.3, 0.9]])
    >>> parts = [topk_part(q, x[:3], 3, 0), topk_part(q, x[3:], 3, 3)]
    >>> parts[1].ids.tolist(), merge_topk(parts, 3).ids.tolist()
    ([[3, -1, -1]], [[1, 3, 2]])
    """
    options = {"metric": metric, "ceiling": ceiling, "floor": floor, "progress": progress}
    return _searched(("queries", "shard"), queries, shard, k, start, exclude, options)


def _searched(
    names: tuple[str, str],
    queries: Any,
    shard: Any,
    k: int,
    start: int,
    exclude: Any,
    options: dict[str, Any],
) -> TopK:
    """A search of a shard, in messages about matrices that have these names."""
    first = integer(start, "start", 0, MOST)
    count, rows = rows_of(dict(zip(names, (queries, shard), strict=True)))
    if exclude is not None:
        exclude = within(_arrays.ragged_ids(exclude, "exclude", count, padded=True), first, rows)
    besides = Besides(names=names)
    answer = padded_search(queries, shard, k, exclude=exclude, besides=besides, **options)
    return shifted(answer, first)


@kinds(parts=iterable)
def merge_topk(parts: Iterable[TopK], k: int) -> TopK:
    """The k best of several shards: `stope.topk` of the rows of all, bit for bit.

    Commutative, associative and idempotent: parts may come in any order and any tree, one that
    comes twice counts once, and a merge is a part of a further merge.

    Args:
        parts: answers of shards to the same queries, such as of `topk_part` or `knn_part`: each
            holds the best of its rows, k of them or all, in the order of :func:`stope.topk`.
        k: how many to keep.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[q, k]``, NumPy; -inf and -1 where all parts
        together have fewer.

    Raises:
        ValueError: no parts, parts of different queries, a part whose rows are not in that order,
            one id with two scores (a shard was given the wrong start).
        TypeError: a part that is no ``TopK`` of float32 and int64.

    Memory: three times the parts.

    Source: docs/methods.md, H10.

    >>> import numpy as np
    >>> a = TopK(np.float32([[0.9, 0.5]]), np.array([[7, 2]]))
    >>> b = TopK(np.float32([[0.9, -np.inf]]), np.array([[4, -1]]))
    >>> merge_topk([a, b, a], 3).ids.tolist()
    [[4, 7, 2]]
    """
    return best(parts, size(k, "k"))


def knn_part(
    rows: Any,
    shard: Any,
    k: int,
    row_start: int,
    start: int,
    *,
    metric: Metric = "dot",
    progress: Progress | None = None,
) -> TopK:
    """What a shard adds to `stope.knn_graph` for some rows: each one's nearest others in it.

    Merged over all shards by `merge_topk` these are the graph's entries of the rows, bit for bit.
    Two shards give each other a part, so the parts of all rows are those of all ordered pairs of
    shards. Where ``shard`` is ``rows`` itself, a score serves both of its rows as in
    :func:`stope.knn_graph`; to save as much between shards, give the graph of several at once: the
    merge takes parts that overlap.

    Args:
        rows: ``[r, dim]``: rows row_start to row_start + r of the matrix.
        shard: ``[s, dim]``: rows start to start + s of it.
        k: neighbours of a row in the whole matrix; a shard may have fewer.
        row_start, start: numbers of their first rows.
        metric, progress: as for :func:`stope.knn_graph`.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[r, k]`` as of `topk_part`.

    Raises:
        ValueError, TypeError: as :func:`stope.topk`.

    Memory: as :func:`stope.knn_graph`.

    Source: docs/methods.md, H10.

    >>> import numpy as np
    >>> x = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], dtype=np.float32)
    >>> a, b = x[:3], x[3:]
    >>> merge_topk([knn_part(a, a, 2, 0, 0), knn_part(a, b, 2, 0, 3)], 2).ids.tolist()
    [[3, 1], [0, 3], [1, 0]]
    """
    count, _ = rows_of({"rows": rows, "shard": shard})
    k, first = size(k, "k"), integer(row_start, "row_start", 0, MOST)
    offset = integer(start, "start", 0, MOST)
    if shard is rows and first == offset and count > k:
        return shifted(knn_graph(rows, k, metric=metric, progress=progress), first)
    numbers = np.arange(first, first + count)
    itself = Lists(np.arange(count + 1), numbers)
    options = {"metric": metric, "progress": progress}
    return _searched(("rows", "shard"), rows, shard, k, offset, itself, options)


def earlier_part(
    x: Any,
    x_start: int,
    earlier: Any = None,
    start: int | None = None,
    *,
    metric: Metric = "dot",
    threshold: float | None = None,
    progress: Progress | None = None,
) -> TopK:
    """What a shard adds to `stope.nearest_earlier` for some rows.

    Each shard asks itself and every one before it; see `merge_earlier`. For another order than that
    of the rows, let the shards hold the rows in that order: then ids are places in it.

    Args:
        x: ``[n, dim]``: rows x_start to x_start + n of the matrix; perhaps none.
        x_start: number of the first.
        earlier: a shard that ends before x begins; None for the earlier rows within x.
        start: number of its first row.
        metric, threshold, progress: as for :func:`stope.nearest_earlier`.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[n]`` in host memory, with row numbers of the
        whole matrix; -inf and -1 where there is none.

    Raises:
        ValueError: earlier without start or the other way round, a shard that does not end before
            x, and what :func:`stope.nearest_earlier` raises.
        TypeError: as :func:`stope.nearest_earlier`.

    Memory: as :func:`stope.topk` with k = 1.

    Source: docs/methods.md, H10.

    >>> import numpy as np
    >>> x = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], dtype=np.float32)
    >>> b = x[2:], 2
    >>> merge_earlier([earlier_part(*b), earlier_part(*b, x[:2], 0)]).ids.tolist()
    [1, 0]
    """
    first = integer(x_start, "x_start", 0, MOST)
    rows, many = rows_of({"x": x, "earlier": x if earlier is None else earlier})
    if (earlier is None) != (start is None):
        raise ValueError("earlier and start belong together; give both, or neither")
    if earlier is None:
        if not rows:
            return TopK(np.empty(0, np.float32), np.empty(0, np.int64))
        answer = nearest_earlier(x, metric=metric, threshold=threshold, progress=progress)
        return shifted(answer, first)
    offset = integer(start, "start", 0, MOST)
    if offset + many > first:
        raise ValueError(
            f"earlier ends with row {offset + many - 1}, and x begins with row {first}; give a "
            "shard that ends before it"
        )
    floor = None if threshold is None else _arrays.threshold(threshold, "threshold")
    options = {"metric": metric, "floor": floor, "progress": progress}
    answer = _searched(("x", "earlier"), x, earlier, 1, offset, None, options)
    return TopK(answer.scores[:, 0], answer.ids[:, 0])


@kinds(parts=iterable)
def merge_earlier(parts: Iterable[TopK]) -> TopK:
    """The most similar earlier row of every row over several shards: `stope.nearest_earlier`.

    Bit for bit; commutative, associative and idempotent, as `merge_topk`.

    Args:
        parts: what `earlier_part` gave for the same rows.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 vectors.

    Raises:
        ValueError, TypeError: as `merge_topk`.

    Memory: three times the parts.

    Source: docs/methods.md, H10.

    >>> import numpy as np
    >>> a = TopK(np.float32([0.5, 0.25]), np.array([4, 1]))
    >>> b = TopK(np.float32([0.5, -np.inf]), np.array([2, -1]))
    >>> merge_earlier([a, b]).ids.tolist()
    [2, 1]
    """
    columns = []
    for place, part in enumerate(parts):
        if not isinstance(part, TopK):
            raise TypeError(f"parts[{place}] is a {type(part).__name__}; give TopK(scores, ids)")
        columns.append(TopK(*(on_host(side).reshape(-1, 1) for side in part)))
    answer = best(columns, 1)
    return TopK(answer.scores[:, 0], answer.ids[:, 0])
