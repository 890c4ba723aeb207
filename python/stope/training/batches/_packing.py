"""Rows into a fixed number of batches, no query and no positive twice in one.

A batch is a set of edges of the graph between queries and positives that share no end. Of n rows
whose query q occurs d_q and whose positive p occurs d_p times, K batches of at most b rows hold at
most

    U(K) = min(K b, sum_q min(K, d_q), sum_p min(K, d_p))

where U(K) / K falls as K grows. Rows that repeat on one side only reach U(K) here: rows of one
query lie side by side and are dealt out like cards.
"""

from __future__ import annotations

import numpy as np

from stope.lists import Ids

_FULL = 0.75  # of the usual batch: the mean length that more, shorter batches must still have
_TRIES = 64  # open batches that are looked at for one row


def distinct_rows(queries: Ids, positives: Ids, limit: int) -> Ids:
    """Rows that share no query and no positive, until limit or until no row can be added.

    Rows whose query and positive are rare come first: so two are found wherever there are two.
    """
    if not _repeats(queries) and not _repeats(positives):
        return np.arange(min(len(queries), limit), dtype=np.int64)
    rarity = np.bincount(queries)[queries] + np.bincount(positives)[positives]
    order = np.argsort(rarity, kind="stable")
    seen_queries = bytearray(int(queries.max()) + 1)
    seen_positives = bytearray(int(positives.max()) + 1)
    packed: list[int] = []
    for row, query, positive in zip(
        order.tolist(), queries[order].tolist(), positives[order].tolist(), strict=True
    ):
        if seen_queries[query] or seen_positives[positive]:
            continue
        seen_queries[query] = seen_positives[positive] = 1
        packed.append(row)
        if len(packed) == limit:
            break
    return np.array(packed, dtype=np.int64)


def capacity(queries: Ids, positives: Ids, num_batches: int, batch_size: int) -> int:
    """U(K): more rows than this do not fit into num_batches batches."""
    sides = [int(np.minimum(np.bincount(side), num_batches).sum()) for side in (queries, positives)]
    return min(num_batches * batch_size, *sides)


def count_batches(
    queries: Ids,
    positives: Ids,
    batch_size: int,
    usual: int,
    processes: int,
    random: np.random.Generator,
) -> tuple[int, int]:
    """Number of batches of an epoch, a multiple of processes, and how many rows they may hold.

    The number is n / usual, rounded, or less: so many that batches are three quarters of the usual
    length, 2 at least, in the mean of U(K) / K. Where rows repeat on both sides, they may fit into
    fewer places than U(K): there one epoch is packed for a trial, and the number lowered to what it
    filled.
    """
    short = max(2.0, _FULL * usual)
    low, high = 1, max(1, int(len(queries) / usual + 0.5))
    while low < high:
        middle = (low + high + 1) // 2
        enough = capacity(queries, positives, middle, batch_size) >= short * middle
        low, high = (middle, high) if enough else (low, middle - 1)
    number = max(processes, low - low % processes)
    total = capacity(queries, positives, number, batch_size)
    if not _repeats(queries) or not _repeats(positives):
        return number, total
    while number > processes:
        order = random.permutation(len(queries))
        wished = deal(queries[order], positives[order], number, total, random)
        longest = -(-total // number)
        batches = settle(wished, queries[order], positives[order], number, longest)
        placed = sum(map(len, batches))
        if placed >= 0.9 * short * number:
            break
        fewer = min(int(placed / short), number - processes)
        number = max(processes, fewer - fewer % processes)
        total = capacity(queries, positives, number, batch_size)
    return number, total


def occurrence(values: Ids) -> Ids:
    """For every entry, how many equal ones stand before it.

    >>> occurrence(np.array([7, 3, 7, 7, 3])).tolist()
    [0, 0, 1, 2, 1]
    """
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    lengths = np.diff(np.r_[first, len(values)])
    found = np.empty(len(values), dtype=np.int64)
    found[order] = np.arange(len(values)) - np.repeat(first, lengths)
    return found


def deal(
    queries: Ids, positives: Ids, num_batches: int, total: int, random: np.random.Generator
) -> Ids:
    """Batch of every entry, or -1: at most total entries, those in front first, evenly dealt.

    Entries of equal query (or positive, whichever repeats more) are dealt one after the other, in
    random order of the queries: into different batches, so long as there are no more than batches.
    """
    fits = np.flatnonzero(occurrence(queries) < num_batches)
    fits = fits[occurrence(positives[fits]) < num_batches][:total]
    sides = (queries[fits], positives[fits])
    distinct = [np.count_nonzero(np.bincount(side)) for side in sides]
    groups = sides[0] if distinct[0] <= distinct[1] else sides[1]
    shuffled = random.permutation(int(groups.max()) + 1)[groups]
    order = fits[np.argsort(shuffled, kind="stable")]
    places = np.full(len(queries), -1, dtype=np.int64)
    places[order] = np.arange(len(order)) % num_batches
    return places


def settle(places: Ids, queries: Ids, positives: Ids, num_batches: int, longest: int) -> list[Ids]:
    """Batches of entries from wished places: who comes second moves on, if there is room.

    Args:
        places: wished batch of each entry, or -1; no more than longest wish for one.
        queries: number of each entry's query.
        positives: number of each entry's positive.
        num_batches: how many there are.
        longest: at most so many entries are in a batch.
    """
    places = places.copy()
    for side in (queries, positives):
        if _repeats(side):
            placed = np.flatnonzero(places >= 0)
            keys = places[placed] * (int(side.max()) + 1) + side[placed]
            first = np.unique(keys, return_index=True)[1]
            second = np.ones(len(placed), dtype=bool)
            second[first] = False
            places[placed[second]] = -1
    _move_on(places, queries, positives, num_batches, longest)
    placed = np.flatnonzero(places >= 0)
    order = placed[np.argsort(places[placed], kind="stable")]
    ends = np.cumsum(np.bincount(places[placed], minlength=num_batches))
    return np.split(order, ends[:-1])


def _move_on(places: Ids, queries: Ids, positives: Ids, num_batches: int, longest: int) -> None:
    """Give entries without a place the first open batch that lacks their query and positive."""
    left = np.flatnonzero(places < 0)
    room_of = longest - np.bincount(places[places >= 0], minlength=num_batches)
    batches = np.flatnonzero(room_of > 0)
    if not len(left) or not len(batches):
        return
    taken = [_taken(places, side, left) for side in (queries, positives)]
    starts: list[dict[int, int]] = [{}, {}]  # every open batch before it has the query already
    room, numbers = room_of[batches].tolist(), batches.tolist()
    following = list(range(len(numbers) + 1))  # the next open batch, found by halving paths

    def next_open(at: int) -> int:
        while following[at] != at:
            following[at] = following[following[at]]
            at = following[at]
        return at

    widths = (int(queries.max()) + 1, int(positives.max()) + 1)
    for entry, *ends in zip(
        left.tolist(), queries[left].tolist(), positives[left].tolist(), strict=True
    ):
        if next_open(0) == len(numbers):
            return
        at = next_open(max(starts[0].get(ends[0], 0), starts[1].get(ends[1], 0)))
        leading = [True, True]
        for _ in range(_TRIES):
            if at == len(numbers):
                break
            keys = [numbers[at] * widths[side] + ends[side] for side in (0, 1)]
            has = [keys[side] in taken[side] for side in (0, 1)]
            if not any(has):
                places[entry] = numbers[at]
                for side in (0, 1):
                    taken[side].add(keys[side])
                room[at] -= 1
                if room[at] == 0:
                    following[at] = at + 1
                break
            for side in (0, 1):
                leading[side] = leading[side] and has[side]
                if leading[side]:
                    starts[side][ends[side]] = at + 1
            at = next_open(at + 1)


def _taken(places: Ids, side: Ids, left: Ids) -> set[int]:
    """(batch, number) of all placed entries whose number an entry without a place has as well."""
    asked = np.zeros(int(side.max()) + 1, dtype=bool)
    asked[side[left]] = True
    placed = np.flatnonzero((places >= 0) & asked[side])
    return set((places[placed] * len(asked) + side[placed]).tolist())


def top_up(batch: Ids, least: int, spare: Ids, queries: Ids, positives: Ids, start: int) -> Ids:
    """The batch with rows of spare, from start and round, until it has least rows.

    Spare rows share no query and no positive with each other. Where too few of them go with the
    batch, they take its place.
    """
    around = np.roll(spare, -start)
    clash = np.isin(queries[around], queries[batch]) | np.isin(positives[around], positives[batch])
    added = around[~clash][: least - len(batch)]
    if len(batch) + len(added) < least:
        return around[:least]
    return np.concatenate([batch, added])


def _repeats(values: Ids) -> bool:
    return int(np.bincount(values).max()) > 1
