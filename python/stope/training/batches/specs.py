"""The ways to make batches, and the spherical k-means that one of them needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import flag, integer, real
from stope._kinds import at_least, kinds, numbers
from stope.lists import Ids
from stope.training.batches.plans import Drawn, Joined, Passes, Plan
from stope.training.batches.protocol import BatchSpec, Sizes, Table, numbers_of, sources_of


@dataclass(frozen=True)
class Distinct(BatchSpec, name="distinct"):
    """Rows at random, no query and no positive twice in a batch.

    >>> from stope.training.batches import RowNumbers
    >>> rows = RowNumbers.from_texts(list("aabbcc"), list("uvwxyz"))
    >>> plan = Distinct().plan(rows, batch_size=3, seed=0)
    >>> plan.num_batches, sorted(row // 2 for row in plan.batches(0)[0])
    (2, [0, 1, 2])
    """

    def arrange(self, table: Table, sizes: Sizes, embeddings: Any) -> Plan:
        """A pass over all rows is an epoch."""
        return _whole(table, sizes)


@dataclass(frozen=True)
class Homogeneous(BatchSpec, name="homogeneous"):
    """All rows of a batch, and of the batches of one step, from one source.

    So in-batch negatives are of the query's own task, which is harder, and can not be told apart by
    their style. An epoch is a pass over every source, their batches shuffled.

    Source: LLM-Embedder (Zhang et al. 2023), docs/methods.md, D2.

    >>> from stope.training.batches import RowNumbers
    >>> rows = RowNumbers(np.arange(6), np.arange(6), np.array([0, 0, 0, 1, 1, 1]))
    >>> sorted(map(sorted, Homogeneous().plan(rows, batch_size=3).batches(0)))
    [[0, 1, 2], [3, 4, 5]]
    """

    def arrange(self, table: Table, sizes: Sizes, embeddings: Any) -> Plan:
        """A source without two rows for a batch is an error."""
        return Joined(_by_source(self, table, sizes), None, sizes.seed, sizes.processes)


@dataclass(frozen=True)
class Clustered(BatchSpec, name="clustered", papers=("TAS-B",)):
    """Batches of rows whose queries are alike: their in-batch negatives are hard.

    Queries are clustered once (:func:`kmeans`). In every epoch each cluster's rows are shuffled and
    cut into pieces of batch_size / per_batch rows; a batch is per_batch pieces. What remains of the
    clusters fills batches of its own, as many as it has a share of the rows. TAS-B draws clusters
    with replacement; here every row has its turn, which makes the number of batches exact.

    Batches have a multiple of per_batch rows, all the same unless rows clash; so up to per_batch
    rows of each batch more than elsewhere wait for the next epoch.

    Attributes:
        clusters: how many; None for one for every two batches' worth of queries.
        per_batch: clusters in a batch, 1 as in TAS-B.
        iterations: of k-means.

    Source: TAS-B (Hofstätter et al. 2021), docs/methods.md, C5.

    >>> from stope.training.batches import RowNumbers
    >>> near = np.array([[1, 0], [0, 1], [1, 0.1], [0.1, 1]], np.float32)
    >>> rows = RowNumbers(np.arange(4), np.arange(4))
    >>> plan = Clustered(clusters=2).plan(rows, batch_size=2, embeddings=near)
    >>> sorted(map(sorted, plan.batches(0)))
    [[0, 2], [1, 3]]
    """

    clusters: int | None = None
    per_batch: int = 1
    iterations: int = 10

    def __post_init__(self) -> None:
        if self.clusters is not None:
            integer(self.clusters, "clusters", 1)
        integer(self.per_batch, "per_batch", 1)
        integer(self.iterations, "iterations", 1)

    def arrange(self, table: Table, sizes: Sizes, embeddings: Any) -> Plan:
        """Embeddings are needed, and clustered here."""
        numbers_of(table)
        query_of = np.asarray(table.query_numbers)
        if embeddings is None:
            raise ValueError(
                f"batches {self.name!r} need embeddings, one row for each query number"
            )
        if query_of.min() < 0 or query_of.max() >= len(embeddings):
            raise ValueError(
                f"embeddings has {len(embeddings)} rows but query_numbers go from {query_of.min()} "
                f"to {query_of.max()}; give one row for each number"
            )
        count = self.clusters
        if count is None:
            count = max(1, len(embeddings) // (2 * sizes.batch_size))
        clusters = kmeans(embeddings, count, iterations=self.iterations, seed=sizes.seed)
        return _whole(table, sizes, clusters.labels[query_of], self.per_batch)


@dataclass(frozen=True)
class Mixed(BatchSpec, name="mixed"):
    """Sources of n_s rows, drawn with p_s = n_s^temperature / sum_r n_r^temperature.

    An epoch is as long as a pass over all rows (`Distinct`). Its K batches (or, not homogeneous,
    its rows) are shared out by the p_s: each source gets the whole part of its share, and the
    largest remainders one more. Every source is gone through pass by pass, and the next epoch
    goes on where one stopped: a small source is repeated within the epoch, a large one is spread
    over several.

    Homogeneous: shares count rounds of ``processes`` batches, each of one source; every source has
    one at least, so with more sources than rounds an epoch is longer than a pass. A batch of a
    source with few rows is shorter.

    Not homogeneous: shares count rows. No source has more rows than it could put into the batches
    without a query or positive twice; what it would have above that, the others get. A drawn row
    for which no batch has a place is left out until the source's next pass.

    Attributes:
        temperature: 1 draws sources in proportion to their rows, 0 all alike; from 0 to 1.
        homogeneous: whether all rows of a batch are of one source.

    Source: temperature sampling as in mT5 (Xue et al. 2021, there called alpha).

    >>> from stope.training.batches import RowNumbers
    >>> rows = RowNumbers(np.arange(60), np.arange(60), np.repeat([0, 1], [50, 10]))
    >>> first = Mixed(temperature=0.0).plan(rows, batch_size=10).batches(0)
    >>> sum(batch[0] >= 50 for batch in first), len(first)
    (3, 6)
    """

    temperature: float = 0.5
    homogeneous: bool = True

    def __post_init__(self) -> None:
        real(self.temperature, "temperature", 0, 1)
        flag(self.homogeneous, "homogeneous")

    def arrange(self, table: Table, sizes: Sizes, embeddings: Any) -> Plan:
        """Each source has the share above."""
        whole = _whole(table, sizes)
        _, sources = sources_of(table, self)
        lengths = np.bincount(sources)
        shares = lengths.astype(np.float64) ** self.temperature
        if self.homogeneous:
            rounds = max(whole.num_batches // sizes.processes, len(lengths))
            counts = share_out(rounds, shares, least=1) * sizes.processes
            passes = _by_source(self, table, sizes)
            return Joined(passes, counts.tolist(), sizes.seed, sizes.processes)
        queries, positives = numbers_of(table)
        limits = np.array([
            min(
                sizes.batch_size * whole.num_batches,
                *(
                    int(np.count_nonzero(np.bincount(side[sources == s]))) * whole.num_batches
                    for side in (queries, positives)
                ),
            )
            for s in range(len(lengths))
        ])  # fmt: skip
        counts = share_out(whole.total, shares, most=limits)
        return Drawn(whole, sources, counts, queries, positives, sizes.seed)


def share_out(total: int, shares: Any, *, least: int = 0, most: Any = None) -> Ids:
    """Whole numbers in proportion to shares, by largest remainder, within limits.

    Args:
        total: their sum, unless the limits make it more or less.
        shares: float64 ``[n]``, positive.
        least: each number is at least this.
        most: each is at most this, int64 ``[n]``; what goes beyond is shared out again.

    >>> share_out(10, np.array([1.0, 1.0, 4.0])).tolist()
    [2, 2, 6]
    >>> share_out(10, np.array([1.0, 1.0, 4.0]), most=np.array([9, 9, 2])).tolist()
    [4, 4, 2]
    """
    counts = np.full(len(shares), -1, dtype=np.int64)  # -1: not at a limit
    upper = np.full(len(shares), np.iinfo(np.int64).max) if most is None else most
    while True:
        free = np.flatnonzero(counts < 0)
        left = max(0, total - int(counts[counts >= 0].sum()))
        if not len(free):
            return counts
        exact = left * (shares[free] / shares[free].sum())
        low, high = free[exact < least], free[exact > upper[free]]
        if len(low):  # these first: a source at its least takes from the others
            counts[low] = least
        elif len(high):
            counts[high] = upper[high]
        else:
            parts = np.floor(exact).astype(np.int64)
            order = np.argsort(parts - exact, kind="stable")
            parts[order[: left - int(parts.sum())]] += 1
            counts[free] = parts
            return counts


def _whole(table: Table, sizes: Sizes, clusters: Ids | None = None, per_batch: int = 1) -> Passes:
    queries, positives = numbers_of(table)
    rows = np.arange(len(queries), dtype=np.int64)
    return Passes(
        rows, queries, positives, sizes.batch_size, [sizes.seed, 0], sizes.processes, "table",
        clusters, per_batch,
    )  # fmt: skip


def _by_source(spec: BatchSpec, table: Table, sizes: Sizes) -> list[Passes]:
    queries, positives = numbers_of(table)
    names, sources = sources_of(table, spec)
    found = []
    for place, name in enumerate(names.tolist()):
        rows = np.flatnonzero(sources == place)
        stream = [sizes.seed, 4, place]
        found.append(
            Passes(
                rows, queries[rows], positives[rows], sizes.batch_size, stream, sizes.processes,
                f"source {name}",
            )
        )  # fmt: skip
    return found


_CHUNK = 65_536


@dataclass(frozen=True)
class Clusters:
    """What `kmeans` found.

    Attributes:
        labels: int64 ``[n]``, the cluster of each row.
        centers: float32 ``[k, dim]``, of length one (zero where the rows of a cluster cancel out).
        scores: float32 ``[n]``, cosine of each row and its center.
    """

    labels: NDArray[np.int64]
    centers: NDArray[np.float32]
    scores: NDArray[np.float32]


@kinds(embeddings=numbers, k=at_least(1), seed=at_least(0))
def kmeans(embeddings: Any, k: int, *, iterations: int = 10, seed: int = 0) -> Clusters:
    """Cluster rows by direction.

    Starts from k random rows and repeats

        label_i = argmax_c cos(x_i, m_c),    m_c = sum_{i: label_i = c} x_i / |x_i|, normalised,

    until no label changes. Labels are `stope.topk` with k = 1: exact, ties to the lower number. A
    cluster that lost all its rows gets, as its center, the row that is farthest from its own; so
    clusters are empty at the end only where rows have fewer directions than k, or where the last
    iteration emptied one.

    Args:
        embeddings: float32 ``[n, dim]``, also a memory map; half precision is widened.
        k: clusters, 1 to n.
        iterations: at the most.
        seed: of the start.

    Raises:
        ValueError: k or iterations out of range, a wrong shape, NaN or infinity.

    Memory: 20 bytes a row, the centers in float64, and 65,536 rows at a time.

    Source: Dhillon and Modha 2001; TAS-B (docs/methods.md, C5) clusters queries this way.

    >>> rows = np.array([[1, 0], [0, 2], [3, 0.1], [0, 1]], np.float32)
    >>> found = kmeans(rows, 2, seed=0)
    >>> bool(found.labels[0] == found.labels[2] != found.labels[1] == found.labels[3])
    True
    """
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"embeddings has shape {rows.shape}; give rows of one width")
    integer(iterations, "iterations", 1)
    if integer(k, "clusters", 1) > len(rows):
        raise ValueError(f"clusters is {k!r}, but there are {len(rows)} rows; give 1 to that many")
    start = np.random.default_rng([seed, 5]).choice(len(rows), k, replace=False)
    centers = _unit(rows[np.sort(start)])
    labels, scores = _nearest(rows, centers)
    for _ in range(iterations - 1):
        centers = _centers(rows, labels, scores, k)
        before = labels
        labels, scores = _nearest(rows, centers)
        if np.array_equal(before, labels):
            break
    return Clusters(labels, centers, scores)


def _nearest(
    rows: Any, centers: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    labels = np.empty(len(rows), dtype=np.int64)
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(rows)))
        found = stope.topk(_float32(rows[part]), centers, 1, metric="cosine")
        labels[part], scores[part] = found.ids[:, 0], found.scores[:, 0]
    return labels, scores


def _centers(
    rows: Any, labels: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> NDArray[np.float32]:
    sums = np.zeros((k, rows.shape[1]))
    for start in range(0, len(rows), _CHUNK):
        part = labels[start : start + _CHUNK]
        order = np.argsort(part, kind="stable")
        present, first = np.unique(part[order], return_index=True)
        units = _unit(rows[start : start + _CHUNK]).astype(np.float64)
        sums[present] += np.add.reduceat(units[order], first, axis=0)
    centers = _unit(sums)
    empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
    if len(empty):
        farthest = np.argsort(scores, kind="stable")[: len(empty)]
        centers[empty] = _unit(rows[farthest])
    return centers


def _unit(rows: Any) -> NDArray[np.float32]:
    wide = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _float32(rows: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows, dtype=np.float32)
