"""kmeans: Lloyd's algorithm with exact assignments and sums of a fixed order."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import choice, integer, real, shown
from stope._host import on_host
from stope.progress import Progress, check_progress

ClusterMetric = Literal["euclidean", "cosine"]
"""What k-means makes small: squared distances, or 1 - cosine (spherical k-means)."""

INITS = ("k-means++", "random")
_RANDOM, _PLUS_PLUS = 5, 6  # streams of random numbers, beside the seed
_PROPOSALS = 16  # rows that k-means++ scores at once
_SAME_DIRECTION = np.float32(1 - 2.0**-20)  # a cosine with which rounding cannot tell rows apart


class KMeans(NamedTuple):
    """What :func:`stope.kmeans` found; arrays are of the kind of ``x``, ``inertia`` is NumPy's.

    Attributes:
        labels: int64 ``[n]``, the cluster of each row.
        centers: float32 ``[k, dim]``; under cosine of length one, or zero where rows cancel out.
        scores: float32 ``[n]``, the canonical score of each row and its center.
        inertia: float64 ``[updates + 1]``, before and after every update; the last is that of these
            labels and centers.
        converged: whether no label changed any more, or inertia stopped falling.
    """

    labels: Any
    centers: Any
    scores: Any
    inertia: NDArray[np.float64]
    converged: bool


def kmeans(
    x: Any,
    k: int,
    *,
    metric: ClusterMetric = "euclidean",
    init: Any = "k-means++",
    max_iterations: int = 25,
    tolerance: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> KMeans:
    """Cluster rows around k centers: exact Lloyd iterations.

    Repeats, until no label changes or inertia no longer falls,

        label_i = the nearest center of row i,      m_c = mean of the rows of cluster c.

    The nearest center is `stope.topk` with k = 1: that of the canonical scores, ties to the lower
    number. Under ``"euclidean"`` inertia is sum_i ‖x_i - m‖²; under ``"cosine"`` (spherical
    k-means) rows count as x / ‖x‖, a center is its rows' sum brought to length one, and inertia is
    sum_i (1 - cos(x_i, m)), in which a zero row counts 1. Means are sums in float64, row after row,
    rounded to float32 once. So labels, centers and inertia have the same bits for any number of
    threads and on every instruction set. Inertia never rises by more than rounding (1e-6 of it).

    A cluster that has lost all its rows gets as its center the row that is farthest from its own
    (the next one for the next such cluster, ties to the lower row; no zero row under cosine). It
    stays where it was when every row lies on its center. So a cluster is empty at the end only
    where rows have fewer distinct values than k, or where the last update emptied it.

    Args:
        x: ``[n, dim]``, float32, float16 or bfloat16 (NumPy, torch, DLPack), also a memory map; on
            the CPU.
        k: clusters, 1 to n.
        metric: ``"euclidean"`` or ``"cosine"``.
        init: ``"k-means++"``: each center is a row, drawn with a probability in proportion to its
            inertia with those before. ``"random"``: k different rows, drawn alike; much cheaper
            where n and k are large. Or the k centers, ``[k, dim]``.
        max_iterations: updates of the centers at most; with 0 rows are assigned to ``init``.
        tolerance: stop, too, when an update lowers inertia by at most this share of it.
        seed: of the start; nothing else is random.
        progress: called now and then with ``(done, total)``; Ctrl-C is heard as often.

    Returns:
        `KMeans` with ``labels``, ``centers``, ``scores``, ``inertia`` and ``converged``.

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError: k outside 1..n, an empty or mismatched matrix, NaN or infinity (naming the row),
            a norm of 2^63 or more under ``"euclidean"``, rows on a CUDA device.
        TypeError: a dtype that is not supported (int8 has no float centers: cast it to float16,
            which is exact), an init of another kind.

    Memory beyond inputs and outputs: 30·k·dim bytes of centers and sums, 100 bytes a row and 4
    more for every 16 centers (256 at most), 4,096 rows of float32, and 1,100·dim bytes and 350 KiB
    a thread; k-means++ another 100 bytes a row.

    Speed: from the second update on a row is scored against its own center alone, and against those
    of groups of 16 (64 groups at most) that could hold a nearer one by what was proven before and
    by how far they moved. The later the update, the fewer.

    Source: Lloyd 1982; k-means++ (Arthur and Vassilvitskii 2007), here by rejection: rows are
    proposed by the inertia of a moment ago and taken with the ratio of that of now, which is the
    same distribution; spherical k-means (Dhillon and Modha 2001). docs/methods.md, F2
    and C5.

    >>> import numpy as np
    >>> x = np.array([[0, 1], [0, 2], [5, 5], [6, 5]], dtype=np.float32)
    >>> clusters = kmeans(x, 2)
    >>> bool(clusters.labels[0] == clusters.labels[1] != clusters.labels[2] == clusters.labels[3])
    True
    >>> sorted(clusters.centers.tolist()), float(clusters.inertia[-1])
    ([[0.0, 1.5], [5.5, 5.0]], 1.0)
    """
    check_progress(progress)
    choice(metric, "metric", get_args(ClusterMetric))
    integer(max_iterations, "max_iterations", 0)
    real(tolerance, "tolerance", 0, 1)
    integer(seed, "seed", 0)
    shape = _arrays.matrix_shape(x, "x")
    _check_rows(shape, k)
    told = _Told(progress, shape.rows, max_iterations + 2)
    _sums(x, shape, np.zeros(shape.rows, dtype=np.int64), 1, metric)  # refuses NaN, naming x
    centers = _start(init, x, shape, k, metric, seed, told)
    nearest = _Nearest(x, shape.rows, k, metric)
    labels, scores = nearest(centers, told)
    inertia = [_inertia(scores, metric)]
    converged = False
    while len(inertia) <= max_iterations and not converged:
        centers = _update(x, shape, labels, scores, centers, metric)
        before = labels.copy()
        labels, scores = nearest(centers, told)
        inertia.append(_inertia(scores, metric))
        falls = inertia[-1] < inertia[-2] * (1 - tolerance)
        converged = not falls or np.array_equal(before, labels)
    told.finish()
    arrays = [_arrays.like(array, x) for array in (labels, centers, scores)]
    return KMeans(arrays[0], arrays[1], arrays[2], np.array(inertia), converged)


class _Told:
    """Progress over passes of n rows each, the first of them the start."""

    def __init__(self, progress: Progress | None, rows: int, passes: int) -> None:
        self.progress, self.rows, self.total, self.before = progress, rows, rows * passes, 0

    def of_pass(self) -> Progress | None:
        """Progress of the next pass."""
        if self.progress is None:
            return None
        start, self.before = self.before, self.before + self.rows
        progress = self.progress
        return lambda done, total: progress(start + self.rows * done // total, self.total)

    def finish(self) -> None:
        """All is done, perhaps before the last pass."""
        if self.progress is not None:
            self.progress(self.total, self.total)


def _check_rows(shape: _arrays.MatrixShape, k: Any) -> None:
    if shape.device != "cpu":
        raise ValueError(
            f"x is on {shape.device}, and k-means runs on the CPU; move it there with .cpu()"
        )
    if shape.dtype == "int8":
        raise TypeError(
            "x has dtype int8, and means are no integers; cast it to float16, which is exact"
        )
    if shape.rows == 0:
        raise ValueError("x is empty (0 rows); give at least one row")
    if integer(k, "k", 1) > shape.rows:
        raise ValueError(f"k is {k}, but x has {shape.rows} rows; use k={shape.rows} or less")


def _start(
    init: Any, x: Any, shape: _arrays.MatrixShape, k: int, metric: str, seed: int, told: _Told
) -> NDArray[np.float32]:
    progress = told.of_pass()
    if not isinstance(init, str):
        return _own_centers(init, shape.dim, k)
    if choice(init, "init", INITS) == "random":
        rows = np.random.default_rng([seed, _RANDOM]).choice(shape.rows, k, replace=False)
        rows = np.sort(rows)
    else:
        rows = _plus_plus(x, shape.rows, k, metric, seed, progress)
    return _as_centers(x, rows, metric)


def _own_centers(init: Any, dim: int, k: int) -> NDArray[np.float32]:
    try:
        centers = _arrays.matrix_shape(init, "init")
    except TypeError as error:
        raise TypeError(
            f"init is {shown(init)}; give 'k-means++', 'random' or centers [k, dim] ({error})"
        ) from None
    if (centers.rows, centers.dim) != (k, dim):
        raise ValueError(
            f"init has shape {(centers.rows, centers.dim)}; {k} centers of x have {(k, dim)}"
        )
    values = on_host(init).astype(np.float32)
    wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(wrong):
        raise ValueError(f"init has a NaN or an infinity in row {wrong[0]}; repair that row")
    return values


def _plus_plus(
    x: Any, rows: int, k: int, metric: str, seed: int, progress: Progress | None
) -> NDArray[np.int64]:
    random = np.random.default_rng([seed, _PLUS_PLUS])
    chosen = np.empty(k, dtype=np.int64)
    chosen[0] = random.integers(rows)
    costs = _costs(_scores(x, chosen[:1], rows, metric)[0], metric)
    costs[chosen[0]] = 0
    count, batch = 1, 1
    while count < k:
        sums = np.cumsum(costs)
        if not sums[-1] > 0:  # every row is one that was chosen, or equal to it
            free = np.setdiff1d(np.arange(rows), chosen[:count])
            chosen[count:] = random.choice(free, k - count, replace=False)
            break
        drawn = random.random((2, min(batch, k - count)))
        proposed = np.searchsorted(sums, drawn[0] * sums[-1], side="right")
        proposed = np.minimum(proposed, np.flatnonzero(costs)[-1])  # a product may round up
        scores = _scores(x, proposed, rows, metric)
        limits = drawn[1] * costs[proposed]
        for place, row in enumerate(proposed.tolist()):
            if limits[place] < costs[row]:
                chosen[count] = row
                count += 1
                np.minimum(costs, _costs(scores[place], metric), out=costs)
                costs[row] = 0
        batch = min(2 * batch, _PROPOSALS)
        if progress is not None:
            progress(count, k)
    return chosen


def _scores(x: Any, ids: NDArray[np.int64], rows: int, metric: str) -> NDArray[np.float32]:
    scores = np.empty((len(ids), rows), dtype=np.float32)
    _core.similarity(
        queries=_arrays.take_rows(x, ids),
        corpus=x,
        metric=metric,
        scores=scores,
        threads=_core.num_threads(),
        allocate=_arrays.workspace,
        progress=None,
    )
    return scores


def _costs(scores: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """What each row adds to inertia."""
    wide = scores.astype(np.float64)
    return np.square(wide) if metric == "euclidean" else np.maximum(1 - wide, 0)


def _inertia(scores: NDArray[np.float32], metric: str) -> float:
    return math.fsum(_costs(scores, metric).tolist())


class _Nearest:
    """The nearest center of each row, of centers that move: what the last call proved is kept."""

    def __init__(self, x: Any, rows: int, k: int, metric: str) -> None:
        self.x, self.metric = x, metric
        self.labels = np.empty(rows, dtype=np.int64)
        self.scores = np.empty(rows, dtype=np.float32)
        self.reached = np.empty((rows, _core.center_groups(k)), dtype=np.float32)
        self.before: NDArray[np.float32] | None = None

    def __call__(
        self, centers: NDArray[np.float32], told: _Told
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Labels and scores, in the same arrays each time."""
        _core.nearest_centers(
            rows=self.x,
            centers=centers,
            before=self.before,
            metric=self.metric,
            labels=self.labels,
            scores=self.scores,
            reached=self.reached,
            threads=_core.num_threads(),
            allocate=_arrays.workspace,
            progress=told.of_pass(),
        )
        self.before = centers
        return self.labels, self.scores


def _sums(
    x: Any, shape: _arrays.MatrixShape, labels: NDArray[np.int64], k: int, metric: str
) -> NDArray[np.float64]:
    sums = np.empty((k, shape.dim))
    _core.group_sums(
        rows=x,
        metric=metric,
        groups=labels,
        num_groups=k,
        sums=sums,
        threads=_core.num_threads(),
        allocate=_arrays.workspace,
        progress=None,
    )
    return sums


def _update(
    x: Any,
    shape: _arrays.MatrixShape,
    labels: NDArray[np.int64],
    scores: NDArray[np.float32],
    centers: NDArray[np.float32],
    metric: str,
) -> NDArray[np.float32]:
    sums = _sums(x, shape, labels, len(centers), metric)
    counts = np.bincount(labels, minlength=len(centers))
    if metric == "cosine":
        updated = _unit(sums)
    else:
        updated = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        updated[empty] = centers[empty]
        away = scores < (_SAME_DIRECTION if metric == "cosine" else 0)
        if metric == "cosine":  # a zero row has this score with everything
            zero = np.flatnonzero(scores == 0)
            away[zero] = (on_host(_arrays.take_rows(x, zero)) != 0).any(axis=1)
        rows = np.flatnonzero(away)
        rows = rows[np.argsort(scores[rows], kind="stable")[: len(empty)]]
        updated[empty[: len(rows)]] = _as_centers(x, rows, metric)
    return updated


def _as_centers(x: Any, rows: NDArray[np.int64], metric: str) -> NDArray[np.float32]:
    values = on_host(_arrays.take_rows(x, rows)).astype(np.float32)
    return _unit(values) if metric == "cosine" else values


def _unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    wide = rows.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    wide /= np.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    lengths = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    return np.asarray(wide / np.where(lengths > 0, lengths, 1), dtype=np.float32)
