"""Which id every row of an index has, which rows are still there, and in which row an id is.

Rows have places, 0, 1, 2, ... in the order in which they came; a row that was removed or replaced
keeps its place until the index is compacted. The ids of the first places ascend and are searched by
halving; those that came out of order stand in a dictionary.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope._checks import first_twice, one_each, shown
from stope._host import on_host

Mask = NDArray[np.bool_]
Places = NDArray[np.int64]
_LARGEST = 2**63 - 1


class Ids(NamedTuple):
    """The ids of an index; all but ``later`` is replaced, never changed.

    Attributes:
        places: how many rows came.
        values: the id of each, int64 or strings in an array of objects; None: its place is its id.
        ascending: how many of the first places have ascending ids.
        later: the place of each id that is there and came after those.
        live: which places hold rows that are there; None for all.
        next: the id of the next row that comes without one.
    """

    places: int
    values: NDArray[Any] | None
    ascending: int
    later: dict[Any, int]
    live: Mask | None
    next: int

    @property
    def rows(self) -> int:
        """How many rows are there."""
        return self.places if self.live is None else int(np.count_nonzero(self.live))

    @property
    def sorted(self) -> bool:
        """Whether places and ids have the same order."""
        return self.ascending == self.places

    @property
    def texts(self) -> bool:
        """Whether ids are strings."""
        return self.values is not None and self.values.dtype == object

    def of(self, places: Places) -> NDArray[Any]:
        """The ids of places; of -1, which is none, -1 or None."""
        named: NDArray[Any] = places
        if self.values is not None:
            missing = places < 0
            named = np.full(places.shape, None if self.texts else -1, dtype=self.values.dtype)
            named[~missing] = self.values[places[~missing]]
        return named

    def find(self, wanted: NDArray[Any]) -> Places:
        """The place of every id, -1 for one that is not there."""
        if not self.places:
            return np.full(len(wanted), -1, dtype=np.int64)
        if self.values is None:
            places = np.where((wanted >= 0) & (wanted < self.places), wanted, -1)
        elif self.ascending and len(wanted):
            known = self.values[: self.ascending]
            places = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            places[~(known[places] == wanted).astype(bool)] = -1
        else:
            places = np.full(len(wanted), -1, dtype=np.int64)
        if self.live is not None:
            places = np.where(self.live[places], places, -1)
        if self.later:
            missing = np.flatnonzero(places < 0)
            places[missing] = [self.later.get(id_, -1) for id_ in wanted[missing].tolist()]
        return places

    def ranks(self, places: Places) -> Places:
        """Numbers in the order of the ids of these places."""
        if self.sorted or self.values is None:
            return places
        return np.asarray(np.unique(self.values[places], return_inverse=True)[1]).reshape(-1)

    def in_order(self, chosen: Mask | None = None) -> Places:
        """The places of the rows that are there, or of the chosen ones, in the order of ids."""
        if chosen is None:
            chosen = self.live
        places = np.arange(self.places) if chosen is None else np.flatnonzero(chosen)
        if self.sorted or self.values is None:
            return places
        return places[np.argsort(self.values[places], kind="stable")]

    def at(self, order: Places) -> Ids:
        """The ids of these places alone, which ascend."""
        values: NDArray[Any] | None = self.of(order)
        if self.values is None and np.array_equal(order, np.arange(len(order))):
            values = None  # ids that a caller gave stay a caller's, also 0, 1, 2, ...
        return begin(len(order), values, self.next)

    def following(self, count: int) -> NDArray[np.int64]:
        """The ids of rows that come without any."""
        if self.texts and self.places:
            raise ValueError(
                "ids is None, but the ids of the index are strings; give one for each row"
            )
        if self.next + count > _LARGEST:
            raise ValueError(
                f"ids is None, but the numbers after {self.next - 1} do not fit int64; give ids"
            )
        return np.arange(self.next, self.next + count)

    def appended(self, new: NDArray[Any], values: NDArray[Any] | None, replaced: Places) -> Ids:
        """With more rows, whose ids the values end in, and without the places that they replace.

        :meth:`changes` are what the dictionary has to hear of.
        """
        places, ascending = self.places + len(new), self.ascending
        if self.sorted and values is not None:
            before = values[self.places - 1 : self.places]
            joined = np.concatenate([before, new])
            falls = np.flatnonzero((joined[1:] <= joined[:-1]).astype(bool))
            ascending = self.places + len(new) if not falls.size else ascending + int(falls[0])
            ascending += int(falls.size > 0 and not len(before))
        elif self.sorted:
            ascending = places
        live = self.live
        if live is not None or len(replaced):
            live = np.ones(places, dtype=bool)
            live[: self.places] = True if self.live is None else self.live
            live[replaced] = False
        following = self.next
        if new.dtype != object and len(new):
            following = max(following, int(new.max()) + 1)
        return Ids(places, values, ascending, self.later, live, following)

    def changes(self, before: Ids) -> dict[Any, int]:
        """The places of the ids that the dictionary does not know yet."""
        if self.sorted or self.values is None:
            return {}
        first = max(before.places, self.ascending)
        places = range(first, self.places)
        return dict(zip(self.values[first:].tolist(), places, strict=True))

    def learn_again(self) -> None:
        """Tell the dictionary anew which places its ids have."""
        self.later.clear()
        if self.values is not None:
            places = np.arange(self.ascending, self.places)
            places = places if self.live is None else places[self.live[places]]
            self.later.update(zip(self.values[places].tolist(), places.tolist(), strict=True))

    def without(self, removed: Places) -> Ids:
        """Without these places; the dictionary still has to hear of it."""
        live = np.ones(self.places, dtype=bool) if self.live is None else self.live.copy()
        live[removed] = False
        return self._replace(live=live)


def begin(rows: int, values: NDArray[Any] | None, following: int = 0) -> Ids:
    """The ids of rows that nothing came before."""
    none = Ids(0, values, 0, {}, None, following)
    new = np.arange(rows) if values is None else values
    ids = none.appended(new, values, np.empty(0, dtype=np.int64))
    return ids._replace(later=ids.changes(none))


def of_caller(
    ids: Any, count: int | None = None, of: str = "rows", *, repeated: bool = False
) -> NDArray[Any]:
    """A caller's ids, a flat vector of int64 or of strings (an array of objects), each once.

    Raises:
        TypeError: neither integers alone nor strings alone.
        ValueError: another number of them than there are of something, one twice (unless they may
            be repeated), -1, or one beyond int64.
    """
    name = "ids"
    values = flat(ids, name)
    if values is None:
        raise TypeError(f"{name} is {shown(ids)}; give a list of integers, or of strings")
    if count is not None:
        one_each(values, name, count, of)
    if values.dtype != object and (values == -1).any():
        raise ValueError(f"{name} has -1, which marks a missing place; give another id")
    if values.dtype == object and (values == None).any():  # noqa: E711 (element by element)
        raise TypeError(f"{name} has None; give strings alone")
    if repeated:
        return values
    if len(set(values.tolist()) if values.dtype == object else np.unique(values)) < len(values):
        twice = first_twice(values.tolist())
        raise ValueError(f"{name} has {shown(twice)} more than once; ids must be unique")
    return values


def flat(ids: Any, name: str) -> NDArray[Any] | None:
    """Ids as they come, with -1 and None; None where this is no flat vector of ids."""
    if isinstance(ids, str | bytes | Mapping | Set) or not hasattr(ids, "__len__"):
        return None
    if hasattr(ids, "dtype"):
        array = on_host(ids)
    else:
        listed = list(ids)
        if not all(isinstance(id_, str | int | np.integer | None.__class__) for id_ in listed):
            return None
        array = np.empty(len(listed), dtype=object)
        array[:] = listed
    if array.ndim != 1:
        return None
    if not array.size:
        return np.empty(0, dtype=np.int64)
    if array.dtype.kind in ("O", "T", "U"):
        listed = array.tolist()
        if all(isinstance(id_, str) or id_ is None for id_ in listed):
            array = np.empty(len(listed), dtype=object)
            array[:] = listed
            return array
        if not all(isinstance(i, int | np.integer) and not isinstance(i, bool) for i in listed):
            return None
        if not all(-(2**63) <= i <= _LARGEST for i in listed):
            raise ValueError(f"{name} has an id beyond 64 bits; give int64, or strings")
        return np.array(listed, dtype=np.int64)
    if array.dtype.kind not in "iu":
        return None
    if array.dtype.kind == "u" and array.size and int(array.max()) > _LARGEST:
        raise ValueError(f"{name} has {array.max()}, beyond int64; give int64, or strings")
    return array.astype(np.int64)


def refuse_missing(ids: NDArray[Any], places: Places) -> None:
    """Refuse ids of which one has no place."""
    missing = np.flatnonzero(places < 0)
    if missing.size:
        raise ValueError(
            f"ids has {shown(ids[missing].tolist()[0])}, which is not in the index; leave it out"
        )


def same_kind(ids: NDArray[Any], name: str, known: Ids) -> NDArray[Any]:
    """The ids, if they are of the kind of those that an index has."""
    if known.places and len(ids) and known.texts != (ids.dtype == object):
        kind, first = "strings" if known.texts else "integers", ids[:1].tolist()[0]
        raise TypeError(
            f"{name} has {shown(first)}, but the ids of the index are {kind}; give {kind}"
        )
    return ids
