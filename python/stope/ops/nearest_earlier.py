"""nearest_earlier: of every row the most similar one that comes earlier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import choice, shown
from stope.ops._groups import in_groups
from stope.ops._search import METRICS, Metric, TopK
from stope.progress import Progress, check_progress


def nearest_earlier(
    x: Any,
    order: Any = None,
    *,
    groups: Any = None,
    metric: Metric = "dot",
    threshold: float | None = None,
    progress: Progress | None = None,
) -> TopK:
    """Find every row's most similar earlier row, exactly: what deduplication asks.

    idsᵢ = the earliest j before i with the highest s(xᵢ, xⱼ), scoresᵢ = that score; s is the
    canonical score of :func:`stope.similarity`. "Before" is the order of rows, or ``order``. Only
    pairs (row, earlier row) are scanned, half the products of a search of x in x; the answer is the
    same bits for every instruction set and number of threads.

    With ``groups`` rows are compared with those of their own group alone: the answer is that of a
    call for each group, in one go (clusters of a few hundred rows are too little work for a call).

    Keeping the rows whose score is below a threshold, in one pass, is the greedy rule of "drop
    whatever resembles an earlier row"; whether a row that is itself dropped may drop others is up
    to the caller, who has its id.

    Args:
        x: ``[n, dim]``, float32, float16, bfloat16 or int8 (NumPy, torch, DLPack, memory maps).
        order: a permutation of the row numbers, the row that comes first at the front; None for the
            order of the rows. Results stay in the order of the rows.
        groups: an integer for each row, such as its cluster; None for one group. On the CPU alone.
        metric: ``"dot"``, ``"cosine"`` (zero rows score 0) or ``"euclidean"`` (-distance).
        threshold: least score to return, inclusive; None for any. With one, whatever is below is
            not even looked for, which is faster.
        progress: called now and then with ``(done, total)``; Ctrl-C is heard as often.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[n]``, of the kind of x; -inf and -1 for the
        first row, and where no earlier row reaches the threshold.

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError: an empty matrix, an order that is no permutation, groups of another length or of
            rows on a CUDA device, a threshold that is not finite, NaN or infinity (naming the row),
            a norm of 2^63 or more under ``dot`` or ``euclidean``.
        TypeError: a dtype that is not supported, such as float64 (cast it).

    Memory beyond inputs and results: about 7 MiB a thread (10 where rows are normalised or
    widened), less for small x, and with groups at most 48 bytes a row; on a CUDA device that
    of :func:`stope.topk` with k = 1, and a copy of the order. There the scan is topk's, on the
    caller's stream, and a CUDA graph captures it as it does that.

    Source: docs/methods.md, H10 (order of ties), docs/concepts/exactness.md (the certificate).

    >>> import numpy as np
    >>> x = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], dtype=np.float32)
    >>> nearest_earlier(x).ids.tolist()
    [-1, 0, 1, 0]
    >>> nearest_earlier(x, [3, 2, 1, 0], threshold=0.7).ids.tolist()
    [3, 3, -1, -1]
    >>> nearest_earlier(x, groups=[0, 1, 1, 1]).ids.tolist()
    [-1, -1, 1, 1]
    """
    check_progress(progress)
    choice(metric, "metric", METRICS)
    shape = _arrays.some_rows(x, "x")
    places = None if order is None else permutation(order, shape.rows)
    least = -np.inf if threshold is None else _arrays.threshold(threshold, "threshold")
    place = _arrays.place_of(x, shape.device, "x")
    places, offsets = in_groups(groups, places, shape.rows, place)
    scores, ids = place.empty((shape.rows,), np.float32), place.empty((shape.rows,), np.int64)
    _core.nearest_earlier(
        x=x,
        order=places,
        offsets=offsets,
        metric=metric,
        threshold=least,
        scores=scores,
        ids=ids,
        threads=_core.num_threads(),
        allocate=place.workspace,
        progress=progress,
        **place.options,
    )
    return TopK(_arrays.like(scores, x, place), _arrays.like(ids, x, place))


def in_order(answer: Callable[[Any], TopK], x: Any, order: Any) -> TopK:
    """What `answer` says of the earlier rows of a matrix on the host, for the rows in an order.

    The rows are copied in that order; ids and the places of results are those of x again.
    """
    places = np.arange(len(x)) if order is None else permutation(order, len(x))
    if np.array_equal(places, np.arange(len(x))):
        return answer(x)
    near = answer(x[places])
    result = TopK(np.empty_like(near.scores), np.empty_like(near.ids))
    result.scores[places] = near.scores
    result.ids[places] = np.where(near.ids < 0, near.ids, places[near.ids])
    return result


def permutation(order: Any, rows: int) -> NDArray[np.int64]:
    """The order of so many rows, each there once; TypeError or ValueError otherwise."""
    places = _arrays.as_id_vector(order, "order")
    if places is None:
        raise TypeError(f"order is {shown(order)}; give a permutation of the row numbers")
    if places.size != rows:
        raise ValueError(f"order has {places.size} entries for {rows} rows of x; give one for each")
    seen = np.zeros(rows, bool)
    inside = places[(places >= 0) & (places < rows)]
    seen[inside] = True
    if not seen.all():
        missing = int(np.flatnonzero(~seen)[0])
        raise ValueError(
            f"order leaves out row {missing}; give every row number from 0 to {rows - 1} once"
        )
    return np.ascontiguousarray(places)
