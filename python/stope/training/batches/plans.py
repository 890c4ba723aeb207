"""Plans: what every epoch's batches are, as a function of seed and epoch alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from stope.lists import Ids
from stope.training.batches import _packing as packing


class Plan(ABC):
    """The batches of every epoch.

    Attributes:
        num_batches: of each epoch, exactly; a multiple of the processes it was planned for.
        batch_size: at most so many rows are in a batch.
        least: rows of a batch at the least, 2 or more.
    """

    num_batches: int
    batch_size: int
    least: int

    def batches(self, epoch: int) -> list[list[int]]:
        """Return the num_batches batches of one epoch, rows of the table each.

        The result depends on the plan's arguments and on epoch alone. An epoch that follows the one
        asked for last takes one planning; any other is reached from epoch 0, since rows that an
        epoch leaves out come first in the next.

        Raises:
            ValueError: epoch is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; epochs count from 0")
        return [batch.tolist() for batch in self.arrays(epoch)]

    @abstractmethod
    def arrays(self, epoch: int) -> list[Ids]:
        """The same as int64 arrays."""


class Passes(Plan):
    """Passes over some rows, each row at most once in each unless a batch must be topped up.

    Args:
        rows: of the table.
        queries: number of each row's query.
        positives: number of each row's positive.
        batch_size: at most so many rows are in a batch.
        seed: numbers that name the random stream.
        processes: num_batches becomes a multiple of it.
        named: what has these rows, for sentences.
        clusters: number of each row's cluster, or None to deal rows at random.
        per_batch: clusters in a batch.
    """

    def __init__(
        self,
        rows: Ids,
        queries: Ids,
        positives: Ids,
        batch_size: int,
        seed: Sequence[int],
        processes: int,
        named: str,
        clusters: Ids | None = None,
        per_batch: int = 1,
    ) -> None:
        self.rows, self.seed, self.processes = rows, list(seed), processes
        self.batch_size = batch_size
        self._queries = np.unique(queries, return_inverse=True)[1].astype(np.int64)
        self._positives = np.unique(positives, return_inverse=True)[1].astype(np.int64)
        self._clusters, self._per_batch = clusters, per_batch
        self.spare = spare_rows(self._queries, self._positives, batch_size, named)
        usual = min(batch_size, len(self.spare))
        self.num_batches, self.total = packing.count_batches(
            self._queries,
            self._positives,
            batch_size,
            usual,
            processes,
            np.random.default_rng([*self.seed, 0, 0]),
        )
        if self.total < 2 * self.num_batches:
            raise ValueError(
                f"{named} has {len(rows)} rows, of which {self.total} fit into {processes} "
                "batches, one for each process, without a query or positive twice; a batch needs "
                "at least 2. Use fewer processes or more rows"
            )
        mean = self.total // self.num_batches
        if clusters is not None:
            if per_batch > mean:
                raise ValueError(
                    f"per_batch is {per_batch} clusters, but batches have {mean} rows; give less"
                )
            self.total = (mean - mean % per_batch) * self.num_batches
        self._longest = -(-self.total // self.num_batches)
        self.least = max(2, min(-(-usual // 2), self.total // self.num_batches))
        self._last: list[Ids] = []
        self._restart()

    def arrays(self, epoch: int) -> list[Ids]:
        """The batches of one pass."""
        if epoch < self._epoch:
            self._restart()
        while self._epoch < epoch:
            self._epoch += 1
            self._last = self._plan(np.random.default_rng([*self.seed, self._epoch]))
        return [self.rows[batch] for batch in self._last]

    def _restart(self) -> None:
        self._epoch = -1
        self._waiting = np.zeros(len(self.rows), dtype=np.int32)  # passes without the row

    def _plan(self, random: np.random.Generator) -> list[Ids]:
        shuffled = random.permutation(len(self.rows))
        order = shuffled[np.argsort(-self._waiting[shuffled], kind="stable")]
        queries, positives = self._queries[order], self._positives[order]
        if self._clusters is None:
            wished = packing.deal(queries, positives, self.num_batches, self.total, random)
        else:
            wished = self._by_cluster(self._clusters[order], self._waiting[order], random)
        planned = packing.settle(wished, queries, positives, self.num_batches, self._longest)
        batches = filled(
            [order[batch] for batch in planned],
            self.least,
            self.spare,
            self._queries,
            self._positives,
            random,
        )
        self._waiting += 1
        self._waiting[np.concatenate(batches)] = 0
        if self._clusters is not None:
            batches = shuffled_rounds(batches, self.processes, random)
        return batches

    def _by_cluster(
        self, clusters: Ids, waiting: NDArray[np.int32], random: np.random.Generator
    ) -> Ids:
        """Cut every cluster into pieces; a batch has per_batch pieces, the odd ones share some."""
        longest = self._longest
        width = longest // self._per_batch
        place_in_cluster = packing.occurrence(clusters)
        sizes = np.bincount(clusters)
        odd = place_in_cluster >= (sizes // width * width)[clusters]
        pieces = clusters * (int(sizes.max()) // width + 1) + place_in_cluster // width
        # As many batches of odd pieces as they have a share of the rows, so that none waits long.
        shared = -(-self.num_batches * int(odd.sum()) // len(clusters))
        whole = self.num_batches - shared
        places = np.full(len(clusters), -1, dtype=np.int64)
        first = 0
        for entries, count in ((~odd, whole), (odd, shared)):
            chosen = np.flatnonzero(entries)
            if not len(chosen) or not count:
                continue
            names, piece = np.unique(pieces[chosen], return_inverse=True)
            waits = np.zeros(len(names), dtype=np.int32)
            np.maximum.at(waits, piece, waiting[chosen])
            by_wait = np.lexsort((random.permutation(len(names)), -waits))
            rank = np.empty(len(names), dtype=np.int64)
            rank[by_wait] = np.arange(len(names))
            laid = chosen[np.argsort(rank[piece], kind="stable")][: count * longest]
            places[laid] = first + np.arange(len(laid)) // longest
            first += count
        return places


class Shuffles(Plan):
    """All rows in a new order every epoch, in batches of equal length but for one row.

    The rows of a step depend on their number alone, not on that of the processes that share them.

    Args:
        count: of the rows.
        batch_size: at most so many rows are in a batch.
        seed: of the orders.
        processes: num_batches becomes a multiple of it.
    """

    def __init__(self, count: int, batch_size: int, seed: int, processes: int) -> None:
        self.count, self.batch_size, self.seed = count, batch_size, seed
        self.processes = processes
        rounds = -(-count // (batch_size * processes))
        self.num_batches = rounds * processes
        self.least = count // self.num_batches
        if self.least < 2:
            raise ValueError(
                f"table has {count} rows for {self.num_batches} batches; a batch needs at least 2. "
                "Use another batch size, fewer processes or more rows"
            )

    def arrays(self, epoch: int) -> list[Ids]:
        """The batches of one pass."""
        order = np.random.default_rng([self.seed, 6, epoch]).permutation(self.count)
        steps = np.array_split(order, self.num_batches // self.processes)
        return [batch for step in steps for batch in np.array_split(step, self.processes)]


class Joined(Plan):
    """Several plans whose batches are shuffled among each other, one source to a round.

    Args:
        sources: a plan each.
        counts: batches of each in an epoch; None for one pass each.
        seed: of the order.
        processes: so many batches in a row are of one source.
    """

    def __init__(
        self, sources: Sequence[Passes], counts: Sequence[int] | None, seed: int, processes: int
    ) -> None:
        self.sources, self.seed, self.processes = list(sources), seed, processes
        self.counts = [s.num_batches for s in sources] if counts is None else list(counts)
        self.num_batches = sum(self.counts)
        self.batch_size = max(source.batch_size for source in sources)
        self.least = min(source.least for source in sources)

    def arrays(self, epoch: int) -> list[Ids]:
        """Each source goes on where the epoch before stopped."""
        found: list[Ids] = []
        for source, count in zip(self.sources, self.counts, strict=True):
            length, start, stop = source.num_batches, epoch * count, (epoch + 1) * count
            for number in range(start // length, -(-stop // length)):
                begin = number * length
                batches = source.arrays(number)
                found += batches[max(0, start - begin) : max(0, stop - begin)]
        return shuffled_rounds(found, self.processes, np.random.default_rng([self.seed, 1, epoch]))


class Drawn(Plan):
    """Batches of rows from all sources, so many of each in an epoch.

    Args:
        plan: of all rows, for the number of batches and their length.
        sources: number of each row's source, 0 to their count.
        counts: rows of each source that an epoch draws.
        queries: number of each row's query.
        positives: number of each row's positive.
        seed: of the draws.
    """

    def __init__(
        self, plan: Passes, sources: Ids, counts: Ids, queries: Ids, positives: Ids, seed: int
    ) -> None:
        self.num_batches, self.batch_size = plan.num_batches, plan.batch_size
        self.counts, self.seed = counts, seed
        self._members = [np.flatnonzero(sources == s) for s in range(len(counts))]
        self._queries, self._positives, self._spare = queries, positives, plan.spare
        self._longest = -(-int(counts.sum()) // self.num_batches)
        self.least = min(plan.least, max(2, int(counts.sum()) // self.num_batches))

    def arrays(self, epoch: int) -> list[Ids]:
        """Each source goes on where the epoch before stopped."""
        random = np.random.default_rng([self.seed, 2, epoch])
        drawn = np.concatenate([self._draw(s, epoch) for s in range(len(self.counts))])
        drawn = drawn[random.permutation(len(drawn))]
        queries, positives = self._queries[drawn], self._positives[drawn]
        wished = packing.deal(queries, positives, self.num_batches, len(drawn), random)
        found = packing.settle(wished, queries, positives, self.num_batches, self._longest)
        return filled(
            [drawn[batch] for batch in found],
            self.least,
            self._spare,
            self._queries,
            self._positives,
            random,
        )

    def _draw(self, source: int, epoch: int) -> Ids:
        """The source's part of an endless row of shuffled passes."""
        members, count = self._members[source], int(self.counts[source])
        start, stop, length = epoch * count, (epoch + 1) * count, len(members)
        found = [
            np.random.default_rng([self.seed, 3, source, number]).permutation(members)
            for number in range(start // length, -(-stop // length))
        ]
        if not found:
            return np.empty(0, dtype=np.int64)
        begin = start - start // length * length
        joined: Ids = np.concatenate(found)[begin : begin + count]
        return joined


def spare_rows(queries: Ids, positives: Ids, batch_size: int, named: str) -> Ids:
    """Rows that share nothing, two at the least, or a sentence."""
    spare = packing.distinct_rows(queries, positives, 8 * batch_size)
    if len(spare) < 2:
        raise ValueError(
            f"{named} has {len(queries)} rows but no two of them with different queries and "
            "different positives; in-batch negatives need at least two"
        )
    return spare


def filled(
    batches: list[Ids],
    least: int,
    spare: Ids,
    queries: Ids,
    positives: Ids,
    random: np.random.Generator,
) -> list[Ids]:
    """The batches, those shorter than least topped up with spare rows."""
    return [
        batch
        if len(batch) >= least
        else packing.top_up(
            batch, least, spare, queries, positives, int(random.integers(len(spare)))
        )
        for batch in batches
    ]


def shuffled_rounds(batches: list[Ids], processes: int, random: np.random.Generator) -> list[Ids]:
    """The batches in random order, those of one round (one for each process) together."""
    rounds = random.permutation(len(batches) // processes)
    return [batches[r * processes + p] for r in rounds.tolist() for p in range(processes)]
