"""pairs_above: all pairs of rows whose score reaches a threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import choice, flag, integer
from stope._host import on_host
from stope._kinds import callback, kinds, maybe
from stope.ops._groups import in_groups
from stope.ops._search import METRICS, Metric
from stope.progress import Progress, check_progress

_CHUNK_PAIRS = 1 << 22  # of one call of the core, unless a single row has more
_KINDS = (np.int64, np.int64, np.float32)  # of rows, ids and scores
_FIRST_ROWS, _MOST_ROWS = 1024, 16384  # of x in the first call, and in a later one


class PairsAbove(NamedTuple):
    """Pairs, one entry each in three vectors: row of x, row of y (or the later row of x), score."""

    rows: Any
    ids: Any
    scores: Any


@kinds(sink=maybe(callback))
def pairs_above(
    x: Any,
    y: Any = None,
    *,
    threshold: float,
    groups: Any = None,
    metric: Metric = "dot",
    max_pairs: int | None = None,
    sink: Callable[[Any, Any, Any], object] | None = None,
    count_only: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Find all pairs (row of x, row of y) whose score is at least the threshold, exactly.

    { (i, j, s(xᵢ, yⱼ)) : s(xᵢ, yⱼ) >= threshold }, with s the canonical score of
    :func:`stope.similarity`; a score that equals the threshold is in. Without y, the pairs of
    different rows of x: { (i, j, s(xᵢ, xⱼ)) : i < j }, each once, for half the products. Tiles are
    scanned in int8 (or bfloat16) with a proven error bound, as :func:`stope.topk` does, and only
    what the bound leaves open is scored again; where no pair of a tile can reach the threshold
    whatever the rest of the depth adds (Cauchy-Schwarz), that is not scanned. Pairs come in the
    order (row ascending, score descending, id ascending), the same bits for every instruction set
    and number of threads. With ``groups`` they are those of a call for each group of rows of x, in
    ascending order of the groups, one after another.

    Args:
        x: ``[n, dim]``, float32, float16, bfloat16 or int8 (NumPy, torch, DLPack, memory maps).
        y: ``[m, dim]``, likewise; None for pairs within x.
        threshold: least score of a pair, finite. A ``"euclidean"`` score is -distance, so -0.5 asks
            for pairs not farther apart than 0.5.
        groups: an integer for each row of x, such as its cluster: only pairs within a group are
            wanted. Without y, on the CPU alone; None for all pairs.
        metric: ``"dot"``, ``"cosine"`` (zero rows score 0) or ``"euclidean"``.
        max_pairs: refuse to go on once there are more pairs than this; None for any number.
        sink: called with ``(rows, ids, scores)``, chunk after chunk in that same order, so that the
            pairs need not fit in memory. What it raises ends the search. A row that is refused may
            come after chunks.
        count_only: only count the pairs; one is scored only where its bounds leave it open.
        progress: called now and then with ``(done, total)``; Ctrl-C is heard as often.

    Returns:
        ``PairsAbove(rows, ids, scores)``: int64, int64 and float32 vectors, of the kind of x. With
        a sink or ``count_only``, the number of pairs.

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError: an empty or mismatched matrix, a threshold that is not finite, more pairs than
            ``max_pairs`` (saying how many so far), a sink together with ``count_only``, groups
            together with y, of another length or of rows on a CUDA device, NaN or infinity (naming
            the row), a norm of 2^63 or more under ``dot`` or ``euclidean``.
        TypeError: a dtype that is not supported, such as float64 (cast it).

    Memory beyond inputs and results (20 bytes a pair, twice that for a moment at the end): at most
    180 MiB of pairs under way, or 44 bytes for each pair of a row with more than 4 million, and
    about 7 MiB a thread, and with groups at most 48 bytes a row. Counting takes the latter alone.
    On a CUDA device, where matrices and pairs lie on the caller's stream, instead of the 7 MiB what
    :func:`stope.topk` takes there. It waits for the number of pairs of every few thousand rows of
    x, so that no CUDA graph captures it.

    Source: docs/methods.md, H10 (order of ties), docs/concepts/exactness.md (the certificate).

    >>> import numpy as np
    >>> x = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], dtype=np.float32)
    >>> rows, ids, scores = pairs_above(x, threshold=0.6)
    >>> list(zip(rows.tolist(), ids.tolist()))
    [(0, 3), (0, 1), (1, 3), (1, 2)]
    >>> pairs_above(x, threshold=0.6, count_only=True)
    4
    >>> pairs_above(x, threshold=0.6, groups=[0, 1, 1, 0]).ids.tolist()
    [3, 2]
    """
    return pairs_beside(
        x, y, None, threshold=threshold, groups=groups, metric=metric, max_pairs=max_pairs,
        sink=sink, count_only=count_only, progress=progress,
    )  # fmt: skip


def pairs_beside(
    x: Any,
    y: Any,
    panels: Any,
    *,
    threshold: float,
    groups: Any = None,
    metric: Metric,
    max_pairs: int | None = None,
    sink: Callable[[Any, Any, Any], object] | None = None,
    count_only: bool = False,
    progress: Progress | None = None,
) -> Any:
    """`pairs_above` of a y whose panels an index has on the CPU, or None."""
    check_progress(progress)
    choice(metric, "metric", METRICS)
    if flag(count_only, "count_only") and sink is not None:
        raise ValueError("sink is given with count_only=True, which has no pairs; leave one out")
    most = None if max_pairs is None else integer(max_pairs, "max_pairs", 0)
    shape = _arrays.some_rows(x, "x")
    if y is not None and (device := _arrays.some_rows(y, "y").device) != shape.device:
        raise ValueError(
            f"x is on {shape.device} but y is on {device}; move one to the other's device"
        )
    least = _arrays.threshold(threshold, "threshold")
    place = _arrays.place_of(x, shape.device, "x")
    if groups is not None and y is not None:
        raise ValueError("groups is given together with y, but has the rows of x; leave one out")
    order, offsets = in_groups(groups, None, shape.rows, place)

    def search(first: int, end: int, room: int) -> _Block:
        counts = place.empty((end - first,), np.int64)
        ids, scores = place.empty((room,), np.int64), place.empty((room,), np.float32)
        _core.pairs_above(
            x=x,
            y=y,
            packed=panels,
            order=order,
            offsets=offsets,
            first=first,
            end=end,
            metric=metric,
            threshold=least,
            counts=counts,
            ids=None if count_only else ids,
            scores=None if count_only else scores,
            capacity=room,
            threads=_core.num_threads(),
            allocate=place.workspace,
            progress=_Hearing(progress, first, end, shape.rows) if progress else None,
            **place.options,
        )
        return _Block(on_host(counts), ids, scores)

    chunks: list[PairsAbove] = []
    total = first = 0
    rows, room = _FIRST_ROWS, 0 if count_only else _CHUNK_PAIRS
    while first < shape.rows:
        end = min(first + rows, shape.rows)
        block = search(first, end, room)
        many = int(block.counts.sum())
        if most is not None and total + many > most:
            raise ValueError(
                f"max_pairs is {most}, but the first {end} of {shape.rows} rows have "
                f"{total + many} pairs; raise max_pairs or threshold, or give a sink for chunks"
            )
        if not count_only and many > room:
            # As many rows as the chunk holds, or one row with all that it has.
            rows = max(int(np.searchsorted(np.cumsum(block.counts), room, "right")), 1)
            room = max(room, int(block.counts[0]))
            continue
        total += many
        if many and not count_only:
            rows_here = np.arange(first, end) if order is None else order[first:end]
            owners = place.vector(np.repeat(rows_here, block.counts), np.int64)
            chunk = (owners, block.ids[:many], block.scores[:many])
            if sink is not None:
                sink(*(_arrays.like(part, x, place) for part in chunk))
            else:  # of its own size
                chunks.append(PairsAbove(*(place.join([part]) for part in chunk)))
        room = min(room, _CHUNK_PAIRS)
        rows = _MOST_ROWS if count_only else _next_rows(many, end - first)
        first = end
    if sink is not None or count_only:
        return total
    chunks = chunks or [PairsAbove(*(place.empty((0,), kind) for kind in _KINDS))]
    joined = (place.join(parts) for parts in zip(*chunks, strict=True))
    return PairsAbove(*(_arrays.like(part, x, place) for part in joined))


class _Block(NamedTuple):
    """What one call of the core says of some rows: its pairs, where they fit, and how many."""

    counts: NDArray[np.int64]
    ids: Any
    scores: Any


class _Hearing:
    """The progress of all rows, told by calls that each know theirs alone."""

    def __init__(self, progress: Progress, first: int, end: int, rows: int) -> None:
        self.progress, self.first, self.end, self.rows = progress, first, end, rows

    def __call__(self, done: int, total: int, /) -> object:
        """Tell how far all rows are."""
        return self.progress(
            self.first + (self.end - self.first) * done // max(total, 1), self.rows
        )


def _next_rows(pairs: int, rows: int) -> int:
    """How many rows fill two thirds of a chunk, if the next ones are like these."""
    fitting = _CHUNK_PAIRS * 2 // 3 * rows // max(pairs, 1)
    return max(min(fitting, _MOST_ROWS), 1)
