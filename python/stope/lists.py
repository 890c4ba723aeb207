"""Ragged lists: for each row a list of ids, of any length, in two arrays (CSR).

List i is ``ids[offsets[i] : offsets[i + 1]]``. A `Lists` is the pair ``(offsets, ids)``, so it can
be given wherever stope takes CSR (positives, exclusions, candidates), and unpacked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stope._host import on_host

Ids = NDArray[np.int64]


class Lists(NamedTuple):
    """Ragged lists of ids.

    Attributes:
        offsets: int64 ``[lists + 1]``, from 0, rising.
        ids: int64 ``[offsets[-1]]``.

    Memory: 8 bytes per list and per id.

    >>> lists = Lists.from_sequences([[3, 5], [], [4]])
    >>> lists.num_lists, lists.lengths.tolist(), lists.owners.tolist(), lists.row(0).tolist()
    (3, [2, 0, 1], [0, 0, 2], [3, 5])
    """

    offsets: Ids
    ids: Ids

    @classmethod
    def from_sequences(cls, sequences: Iterable[ArrayLike]) -> Lists:
        """One list per sequence of integers.

        Raises:
            TypeError: a sequence that does not hold integers alone.
            ValueError: one beyond int64, or masked.

        >>> Lists.from_sequences([])
        Lists(offsets=array([0]), ids=array([], dtype=int64))
        """
        rows = [_integers(ids, f"sequences[{row}]") for row, ids in enumerate(sequences)]
        return cls(
            offsets_of([len(ids) for ids in rows]),
            np.concatenate(rows) if rows else np.empty(0, dtype=np.int64),
        )

    @classmethod
    def from_owners(cls, owners: ArrayLike, ids: ArrayLike, num_lists: int) -> Lists:
        """List i holds the ids whose owner is i, in the order in which they are given.

        Raises:
            ValueError: owners and ids differ in length, or an owner outside [0, num_lists).

        >>> Lists.from_owners([1, 0, 1], [7, 8, 9], 2)
        Lists(offsets=array([0, 1, 3]), ids=array([8, 7, 9]))
        """
        rows, values = _integers(owners, "owners"), _integers(ids, "ids")
        if len(rows) != len(values):
            raise ValueError(f"owners has {len(rows)} entries for {len(values)} ids; give one each")
        if len(rows) and not 0 <= rows.min() <= rows.max() < num_lists:
            raise ValueError(
                f"owners has entries from {rows.min()} to {rows.max()}; with {num_lists} lists "
                f"they are from 0 to {num_lists - 1}"
            )
        # NumPy sorts 16 bits by radix, ten times as fast: the lower ones first, then the others.
        order = np.argsort(rows.astype(np.uint16), kind="stable")
        for shift in range(16, int(num_lists).bit_length(), 16):
            digits = (rows[order] >> shift).astype(np.uint16)
            order = order[np.argsort(digits, kind="stable")]
        return cls(offsets_of(np.bincount(rows, minlength=num_lists)), values[order])

    @property
    def num_lists(self) -> int:
        """How many lists there are."""
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Ids:
        """int64 ``[lists]``: how many ids each list has."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> Ids:
        """int64 ``[ids]``: the list that each id is in."""
        return np.repeat(np.arange(self.num_lists), self.lengths)

    def row(self, row: int) -> Ids:
        """The ids of one list, a view."""
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def rows(self) -> Iterator[Ids]:
        """The ids of every list, views."""
        return (self.row(row) for row in range(self.num_lists))

    def take(self, rows: ArrayLike) -> Lists:
        """These lists, in this order; one may be taken several times.

        >>> Lists.from_sequences([[3, 5], [], [4]]).take([2, 0]).ids.tolist()
        [4, 3, 5]
        """
        chosen = _integers(rows, "rows")
        lengths = self.lengths[chosen]
        return Lists(offsets_of(lengths), self.ids[ranges(self.offsets[chosen], lengths)])

    def union(self, other: Lists) -> Lists:
        """List by list the ids of both, each once, ascending.

        Raises:
            ValueError: other has another number of lists.

        >>> both = Lists.from_sequences([[5, 3], []]), Lists.from_sequences([[3, 4], [1]])
        >>> both[0].union(both[1]).ids.tolist()
        [3, 4, 5, 1]
        """
        self._check_as_many(other)
        owners = np.concatenate([self.owners, other.owners])
        ids = np.concatenate([self.ids, other.ids])
        return Lists.from_owners(owners, ids, self.num_lists).distinct()

    def distinct(self) -> Lists:
        """List by list each id once, ascending.

        >>> Lists.from_sequences([[5, 3, 5], [1]]).distinct().ids.tolist()
        [3, 5, 1]
        """
        owners = self.owners
        order = np.lexsort((self.ids, owners))
        owners, ids = owners[order], self.ids[order]
        first = np.ones(len(ids), dtype=bool)
        first[1:] = (owners[1:] != owners[:-1]) | (ids[1:] != ids[:-1])
        return Lists.from_owners(owners[first], ids[first], self.num_lists)

    def without(self, other: Lists) -> Lists:
        """List by list the ids that are not in other's, in their order.

        Raises:
            ValueError: other has another number of lists.

        >>> both = Lists.from_sequences([[5, 3], [1]]), Lists.from_sequences([[3], []])
        >>> both[0].without(both[1]).ids.tolist()
        [5, 1]
        """
        self._check_as_many(other)
        return self.where(~other.contains(self.owners, self.ids))

    def where(self, kept: NDArray[np.bool_]) -> Lists:
        """List by list the ids to keep, of which kept says one for each.

        >>> Lists.from_sequences([[5, 3], [1]]).where(np.array([False, True, True])).ids.tolist()
        [3, 1]
        """
        return Lists.from_owners(self.owners[kept], self.ids[kept], self.num_lists)

    def among(self, known: Ids) -> Lists:
        """List by list the places of its ids among these ascending ones, without the others.

        >>> Lists.from_sequences([[5, 3], [1]]).among(np.array([3, 4, 5])).ids.tolist()
        [2, 0]
        """
        kept = self.where(np.isin(self.ids, known))
        return kept._replace(ids=np.searchsorted(known, kept.ids))

    def contains(self, owners: ArrayLike, ids: ArrayLike) -> NDArray[np.bool_]:
        """For each pair of a list and an id whether the list has the id.

        Memory: O(pairs + ids), and O((pairs + ids) log) time.

        >>> Lists.from_sequences([[5, 3], [1]]).contains([0, 1, 1], [3, 3, 1]).tolist()
        [True, False, True]
        """
        lists, wanted = _integers(owners, "owners"), _integers(ids, "ids")
        if not len(self.ids) or not len(wanted):
            return np.zeros(len(wanted), dtype=bool)
        # Ids by their rank, so that a key of list and id cannot overflow.
        known, ranks = np.unique(self.ids, return_inverse=True)
        keys = np.sort(self.owners * len(known) + ranks.reshape(-1))
        rank = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        key = lists * len(known) + rank
        place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        return np.asarray((known[rank] == wanted) & (keys[place] == key))

    def padded(self) -> Ids:
        """int64 ``[lists, longest]``, -1 at the end of shorter ones.

        >>> Lists.from_sequences([[5, 3], [], [1]]).padded().tolist()
        [[5, 3], [-1, -1], [1, -1]]
        """
        table = np.full((self.num_lists, int(self.lengths.max(initial=0))), -1, dtype=np.int64)
        owners = self.owners
        table[owners, np.arange(len(owners)) - self.offsets[owners]] = self.ids
        return table

    def _check_as_many(self, other: Lists) -> None:
        if other.num_lists != self.num_lists:
            raise ValueError(
                f"other has {other.num_lists} lists for {self.num_lists}; give one for each"
            )


def offsets_of(lengths: Sequence[int] | Ids) -> Ids:
    """Where lists of these lengths begin and end: 0, then their cumulative sum.

    >>> offsets_of([2, 0, 1]).tolist()
    [0, 2, 2, 3]
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: Ids, lengths: Ids) -> Ids:
    """starts[0], starts[0] + 1, ... (lengths[0] of them), then those of the next.

    >>> ranges(np.array([5, 2, 7]), np.array([2, 0, 3])).tolist()
    [5, 6, 7, 8, 9]
    """
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.repeat(starts - before, lengths) + np.arange(int(lengths.sum())))


def _integers(values: Any, name: str) -> Ids:
    array = on_host(values)
    if array.ndim != 1:
        raise TypeError(f"{name} has {array.ndim} dimensions; give a sequence of integers")
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"{name} holds {array.dtype}; give integers")
    return as_int64(array, name)


def as_int64(integers: NDArray[Any], name: str) -> Ids:
    """Integers of any size as int64, themselves where they are.

    >>> as_int64(np.uint64([3, 2**63]), "ids")
    Traceback (most recent call last):
        ...
    ValueError: ids has 9223372036854775808, beyond int64; give ids of int64
    """
    if integers.dtype.kind == "u" and int(integers.max(initial=0)) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} has {integers.max()}, beyond int64; give ids of int64")
    return integers.astype(np.int64, copy=False)
