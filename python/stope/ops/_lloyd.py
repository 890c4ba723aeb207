"""Lloyd's algorithm over shards of the rows, of which `stope.kmeans` has one.

A shard keeps its rows, labels, scores and bounds. What the loop hears of it does not depend on
where rows are cut: counts, the exact sum of costs (a fraction, rounded once), whether labels
changed, and sums of rows in float64 that go from shard to shard, each adding its rows in their
order: float64 sums depend on the order, and this is the one of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import choice, integer, real, shown
from stope._host import on_host
from stope.lists import Lists, offsets_of
from stope.ops._center_order import costs_of, settled_order
from stope.ops._exact_sum import exact_sum
from stope.ops._search import Besides, search
from stope.progress import Progress, check_progress

ClusterMetric = Literal["euclidean", "cosine"]
"""What k-means makes small: squared distances, or 1 - cosine (spherical k-means)."""

INITS = ("k-means++", "random")
Run = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""Calls a function with each shard, as `map` does."""

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


class Reached(NamedTuple):
    """How far :func:`lloyd` is: what a run that was stopped goes on from, with the same bits.

    Attributes:
        centers: float32 ``[k, dim]``.
        inertia: with all centers so far; empty before the first rows are assigned.
        converged: as of `KMeans`.
    """

    centers: NDArray[np.float32]
    inertia: Sequence[float]
    converged: bool


class Assigned(NamedTuple):
    """What a shard says of its rows and some centers.

    Attributes:
        counts: int64 ``[k]``, its rows in each cluster.
        cost: what its rows add to inertia, exactly.
        changed: whether a label is another than before.
    """

    counts: NDArray[np.int64]
    cost: Fraction
    changed: bool


class KMeansShard:
    """Some of the rows to cluster, between whose calls their labels and bounds are kept.

    One that was lost is made again with the same bits by `begin` and `assign` of the last centers.

    Args:
        x: ``[n, dim]``, as for :func:`stope.kmeans`; perhaps no rows.

    Raises:
        ValueError: NaN or infinity (naming the row).
        TypeError: a dtype that is not supported, as :func:`stope.kmeans`.

    Memory: 16 bytes a row and 4 more for every 16 centers (256 at most); see :func:`stope.kmeans`.

    >>> import numpy as np
    >>> shard = KMeansShard(np.eye(2, dtype=np.float32))
    >>> shard.begin(1, "euclidean")
    >>> shard.assign(np.zeros((1, 2), np.float32))
    Assigned(counts=array([2]), cost=Fraction(2, 1), changed=True)
    """

    def __init__(self, x: Any) -> None:
        shape = _arrays.device_shape(x, "x")
        if shape.dtype == "int8":
            raise TypeError(
                "x has dtype int8, and means are no integers; cast it to float16, which is exact"
            )
        self.x, self.rows, self.dim = x, shape.rows, shape.dim
        self.place = _arrays.place_of(x, shape.device, "x")
        # Refuses NaN; a device adds the rows of a group one by one, and looks at lengths, too,
        # which under cosine do not matter.
        checked = (1, "euclidean") if self.place is _arrays.ON_CPU else (1024, "cosine")
        groups, self.metric = checked
        self.labels = np.arange(self.rows) % groups
        self.add(np.zeros((groups, self.dim)))

    def shape(self) -> tuple[int, int]:
        """Rows and dim."""
        return self.rows, self.dim

    def begin(self, k: int, metric: str) -> None:
        """Forget what is known of the rows."""
        self.metric = metric
        self.before: NDArray[np.float32] | None = None
        self.labels = np.full(self.rows, -1)
        self.scores = np.empty(self.rows, dtype=np.float32)
        self.reached = np.empty((self.rows, _core.center_groups(k)), dtype=np.float32)
        self.order, self.settled = np.arange(k), False

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Some of the rows."""
        return on_host(_arrays.take_rows(self.x, rows)).astype(np.float32)

    def scores_of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The canonical scores of vectors and all rows."""
        scores = self.place.empty((len(values), self.rows), np.float32)
        if self.rows:
            _core.similarity(
                queries=self.place.vector(values, np.float32),
                corpus=self.x,
                metric=self.metric,
                scores=scores,
                threads=_core.num_threads(),
                allocate=self.place.workspace,
                progress=None,
                **self.place.options,
            )
        return on_host(scores)

    def assign(self, centers: NDArray[np.float32], progress: Progress | None = None) -> Assigned:
        """Each row's nearest center: what the last call proved is used."""
        before = self.labels.copy()
        if self.rows and self.place is not _arrays.ON_CPU:
            there, names = self.place.bring(centers), Besides(names=("x", "init"))
            best = search(self.x, there, 1, metric=self.metric, progress=progress, besides=names)
            self.labels, self.scores = (on_host(part)[:, 0] for part in (best.ids, best.scores))
        elif self.rows:
            if self.before is not None and not self.settled:
                self.settled = True
                self.order = settled_order(
                    self.reached, self.labels, self.scores, self.before, centers, self.metric
                )
            _core.nearest_centers(
                rows=self.x,
                centers=centers,
                before=self.before,
                metric=self.metric,
                order=self.order,
                labels=self.labels,
                scores=self.scores,
                reached=self.reached,
                threads=_core.num_threads(),
                allocate=_arrays.workspace,
                progress=progress,
            )
        self.before = centers
        return Assigned(
            np.bincount(self.labels, minlength=len(centers)),
            exact_sum(costs_of(self.scores, self.metric)),
            not np.array_equal(before, self.labels),
        )

    def add(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums by cluster with this shard's rows added, one after another; float64 ``[k, dim]``."""
        place, groups = self.place, dict[str, Any](groups=self.labels)
        added: Any = np.array(sums, np.float64)
        if place is not _arrays.ON_CPU:
            members = Lists.from_owners(self.labels, np.arange(self.rows), len(sums))
            groups = {
                "order": place.vector(members.ids, np.int64),
                "starts": place.vector(members.offsets, np.int64),
            }
            added = place.bring(added)
        if self.rows:
            _core.group_sums(
                rows=self.x,
                metric=self.metric,
                **groups,
                num_groups=len(sums),
                sums=added,
                threads=_core.num_threads(),
                allocate=place.workspace,
                progress=None,
                **place.options,
            )
        return on_host(added)

    def farthest(self, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and numbers of the rows farthest from their centers, without rows on them."""
        away = self.scores < (_SAME_DIRECTION if self.metric == "cosine" else 0)
        if self.metric == "cosine":  # a zero row has this score with everything
            zero = np.flatnonzero(self.scores == 0)
            away[zero] = (self.take(zero) != 0).any(axis=1)
        rows = np.flatnonzero(away)
        rows = rows[np.argsort(self.scores[rows], kind="stable")[:count]]
        return self.scores[rows], rows

    def labels_and_scores(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Of each row its cluster, and its score with that one's center."""
        return self.labels, self.scores


class _Shards:
    """All shards, asked at once; rows have their numbers in all of them."""

    def __init__(self, shards: Iterable[Any], run: Run) -> None:
        self.shards, self.run = list(shards), run
        if not self.shards:
            raise ValueError("shards is empty; give at least one")
        for place, shard in enumerate(self.shards):
            if not callable(getattr(shard, "assign", None)):
                raise TypeError(f"shards[{place}] is {shown(shard)}; give a KMeansShard")
        shapes = self.each(lambda shard: shard.shape())
        self.offsets = offsets_of([rows for rows, _ in shapes])
        self.rows, self.dim = int(self.offsets[-1]), shapes[0][1]
        for place, (_, dim) in enumerate(shapes):
            if dim != self.dim:
                raise ValueError(
                    f"shards[{place}] has dim {dim} but shards[0] has dim {self.dim}; embed all "
                    "with the same encoder"
                )

    def each(self, ask: Callable[[Any], Any]) -> list[Any]:
        """What every shard answers."""
        return list(self.run(ask, self.shards))

    def take(self, rows: NDArray[np.int64], metric: str) -> NDArray[np.float32]:
        """Some rows, as centers."""
        values = np.empty((len(rows), self.dim), np.float32)
        owners = np.searchsorted(self.offsets, rows, "right") - 1
        for owner in np.unique(owners):
            here = owners == owner
            values[here] = self.shards[owner].take(rows[here] - self.offsets[owner])
        return _unit(values) if metric == "cosine" else values

    def costs(self, rows: NDArray[np.int64], metric: str) -> NDArray[np.float64]:
        """What every row adds to inertia with each of some rows as its center, float64."""
        values = self.take(rows, "")
        scores = self.each(lambda shard: shard.scores_of(values))
        return costs_of(np.concatenate(scores, axis=1), metric)

    def assign(self, centers: NDArray[np.float32], told: _Told) -> tuple[Assigned, float]:
        """What all shards say together, and inertia."""
        progress = told.of_pass()
        if len(self.shards) == 1:
            parts = [self.shards[0].assign(centers, progress=progress)]
        else:
            parts = self.each(lambda shard: shard.assign(centers))
        if progress is not None:
            progress(1, 1)
        counts = np.sum([part.counts for part in parts], axis=0)
        cost = sum((part.cost for part in parts), Fraction(0))
        return Assigned(counts, cost, any(part.changed for part in parts)), float(cost)

    def update(
        self, counts: NDArray[np.int64], centers: NDArray[np.float32], metric: str
    ) -> NDArray[np.float32]:
        """The means of the clusters; of one without rows a row that is far from its center."""
        sums = np.zeros(centers.shape)
        for shard in self.shards:
            sums = shard.add(sums)
        if metric == "cosine":
            updated = _unit(sums)
        else:
            updated = (sums / np.maximum(counts, 1)[:, None]).astype(np.float32)
        empty = np.flatnonzero(counts == 0)
        if len(empty):
            updated[empty] = centers[empty]
            parts = self.each(lambda shard: shard.farthest(len(empty)))
            scores = np.concatenate([scores for scores, _ in parts])
            starts = np.repeat(self.offsets[:-1], [len(rows) for _, rows in parts])
            rows = np.concatenate([rows for _, rows in parts]) + starts
            rows = rows[np.lexsort((rows, scores))[: len(empty)]]
            updated[empty[: len(rows)]] = self.take(rows, metric)
        return updated


class _Told:
    """Progress over passes of n rows each, the first of them the start; some were made before."""

    def __init__(self, progress: Progress | None, rows: int, passes: int, before: int) -> None:
        self.progress, self.rows, self.total = progress, rows, rows * passes
        self.before = rows * before

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


def lloyd(
    shards: Iterable[Any],
    k: int,
    *,
    metric: ClusterMetric,
    init: Any,
    max_iterations: int,
    tolerance: float,
    seed: int,
    progress: Progress | None,
    run: Run = map,
    reached: Reached | None = None,
    keep: Callable[[Reached], None] = lambda reached: None,
) -> KMeans:
    """:func:`stope.kmeans` of the rows of all shards.

    `keep` is told the first centers and what every update reached; with the last of these as
    `reached` another run goes on.
    """
    check_progress(progress)
    choice(metric, "metric", get_args(ClusterMetric))
    integer(max_iterations, "max_iterations", 0)
    real(tolerance, "tolerance", 0, 1)
    integer(seed, "seed", 0)
    every = _Shards(shards, run)
    if not every.rows:
        raise ValueError("x is empty (0 rows); give at least one row")
    if integer(k, "k", 1) > every.rows:
        raise ValueError(f"k is {k}, but x has {every.rows} rows; use k={every.rows} or less")
    before = max(len(reached.inertia), 1) if reached else 0
    told = _Told(progress, every.rows, max_iterations + 2, before)
    every.each(lambda shard: shard.begin(k, metric))
    if reached is None:
        reached = Reached(_start(init, every, k, metric, seed, told), [], False)
        keep(reached)
    centers, inertia, converged = reached.centers, [*reached.inertia], reached.converged
    assigned, cost = every.assign(centers, told)
    if not inertia:
        inertia.append(cost)
    while len(inertia) <= max_iterations and not converged:
        centers = every.update(assigned.counts, centers, metric)
        assigned, cost = every.assign(centers, told)
        inertia.append(cost)
        falls = inertia[-1] < inertia[-2] * (1 - tolerance)
        converged = not falls or not assigned.changed
        keep(Reached(centers, inertia, converged))
    told.finish()
    sides = zip(*every.each(lambda shard: shard.labels_and_scores()), strict=True)
    labels, scores = map(np.concatenate, sides)
    return KMeans(labels, centers, scores, np.array(inertia), converged)


def _start(
    init: Any, every: _Shards, k: int, metric: str, seed: int, told: _Told
) -> NDArray[np.float32]:
    progress = told.of_pass()
    if not isinstance(init, str):
        return _own_centers(init, every.dim, k)
    if choice(init, "init", INITS) == "random":
        rows = np.random.default_rng([seed, _RANDOM]).choice(every.rows, k, replace=False)
        rows = np.sort(rows)
    else:
        rows = _plus_plus(every, k, metric, seed, progress)
    return every.take(rows, metric)


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
    every: _Shards, k: int, metric: str, seed: int, progress: Progress | None
) -> NDArray[np.int64]:
    random = np.random.default_rng([seed, _PLUS_PLUS])
    chosen = np.empty(k, dtype=np.int64)
    chosen[0] = random.integers(every.rows)
    costs = every.costs(chosen[:1], metric)[0]
    costs[chosen[0]] = 0
    count, batch = 1, 1
    while count < k:
        sums = np.cumsum(costs)
        if not sums[-1] > 0:  # every row is one that was chosen, or equal to it
            free = np.setdiff1d(np.arange(every.rows), chosen[:count])
            chosen[count:] = random.choice(free, k - count, replace=False)
            break
        drawn = random.random((2, min(batch, k - count)))
        proposed = np.searchsorted(sums, drawn[0] * sums[-1], side="right")
        proposed = np.minimum(proposed, np.flatnonzero(costs)[-1])  # a product may round up
        with_each = every.costs(proposed, metric)
        limits = drawn[1] * costs[proposed]
        for place, row in enumerate(proposed.tolist()):
            if limits[place] < costs[row]:
                chosen[count] = row
                count += 1
                np.minimum(costs, with_each[place], out=costs)
                costs[row] = 0
        batch = min(2 * batch, _PROPOSALS)
        if progress is not None:
            progress(count, k)
    return chosen


def _unit(rows: NDArray[Any]) -> NDArray[np.float32]:
    wide = rows.astype(np.float64)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    wide /= np.where(largest > 0, largest, 1)  # squares neither overflow nor vanish
    lengths = np.sqrt(np.square(wide).sum(axis=1, keepdims=True))
    return np.asarray(wide / np.where(lengths > 0, lengths, 1), dtype=np.float32)
