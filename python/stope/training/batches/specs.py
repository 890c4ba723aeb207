"""The ways to make batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import stope
from stope._checks import flag, integer, real
from stope._host import on_host
from stope._moved import warn_moved
from stope.lists import Ids
from stope.training.batches.plans import Drawn, Joined, Passes, Plan, Shuffles
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
class Shuffled(BatchSpec, name="shuffled"):
    """Rows at random, every one once an epoch, whatever queries and positives they share.

    For batches of more rows than there are distinct positives, as PEG's are: `Distinct` ends at
    their number. A document of n rows is n columns of the loss, and a negative n times of all rows
    but those whose query it answers: it counts as often as it is asked for. stope's loss knows
    which those are; with others, such as sentence-transformers', copies of a row's positive are
    its negatives. The rows are shared out evenly, so that no batch has two rows more than another.

    >>> from stope.training.batches import RowNumbers
    >>> plan = Shuffled().plan(RowNumbers(np.arange(5), np.zeros(5, int)), batch_size=4)
    >>> [len(batch) for batch in plan.batches(0)], sorted(sum(plan.batches(1), []))
    ([3, 2], [0, 1, 2, 3, 4])
    """

    def arrange(self, table: Table, sizes: Sizes, embeddings: Any) -> Plan:
        """Fewer than two rows for a batch are an error."""
        queries, _ = numbers_of(table)
        return Shuffles(len(queries), sizes.batch_size, sizes.seed, sizes.processes)


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

    Queries are clustered once (`stope.kmeans` by cosine, from random rows). In every epoch each
    cluster's rows are shuffled and cut into pieces of batch_size / per_batch rows; a batch is
    per_batch pieces. What remains of the clusters fills batches of its own, as many as it has a
    share of the rows. TAS-B draws clusters with replacement; here every row has its turn, which
    makes the number of batches exact.

    Batches have a multiple of per_batch rows, all the same unless rows clash; so up to per_batch
    rows of each batch more than elsewhere wait for the next epoch.

    Attributes:
        clusters: how many; None for one for every two batches' worth of queries.
        per_batch: clusters in a batch, 1 as in TAS-B.
        iterations: assignments of k-means, at most.

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
        if count > len(embeddings):
            raise ValueError(
                f"clusters is {count}, but there are {len(embeddings)} rows of embeddings; "
                "give that many at most"
            )
        labels = _by_direction(embeddings, count, self.iterations, sizes.seed).labels
        return _whole(table, sizes, on_host(labels)[query_of], self.per_batch)


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


def kmeans(embeddings: Any, k: int, *, iterations: int = 10, seed: int = 0) -> stope.KMeans:
    """`stope.kmeans` as batches call it, by its name of before; it goes with the next release."""
    warn_moved("stope.training.batches.kmeans", "stope.kmeans", stacklevel=2)
    return _by_direction(embeddings, k, iterations, seed)


def _by_direction(embeddings: Any, k: int, iterations: int, seed: int) -> stope.KMeans:
    return stope.kmeans(
        embeddings, k, metric="cosine", init="random", max_iterations=iterations - 1, seed=seed
    )
