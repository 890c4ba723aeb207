"""Rows under ids that threads read and change at once: what an index keeps, and its locks."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from numpy.typing import NDArray

from stope import _arrays
from stope._checks import shown
from stope.indexes import _ids
from stope.indexes._held import Held, Room, grow, joined, stored
from stope.indexes._ids import Ids, Places
from stope.ops._search import Metric

T = TypeVar("T")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_MOST_GONE = 1024  # rows that are gone before a store is compacted, and a third of those there


class Store:
    """What is held is replaced in one assignment, so that whoever reads it keeps what was there.

    Changes take turns, and prepare aside what they then assign. Two things are changed in place,
    under the lock: the panel in which added rows begin, which is copied first where somebody is
    reading it, and the dictionary of ids that came out of order, in which readers look under the
    lock, before they go.
    """

    def __init__(self, start: Held, metric: Metric, *, rounds: bool) -> None:
        self.held, self.metric, self.rounds = start, metric, rounds
        self._room: Room | None = None  # once rows were added
        self._lock = threading.RLock()  # a signal handler may come here twice
        self._readers = 0
        self._turn = threading.Lock()
        self._changer: int | None = None
        self._half_told = False  # the dictionary knows of rows that are not held yet
        with _registering:
            _stores.add(self)

    @contextmanager
    def reading(self, look: Callable[[Ids], T]) -> Iterator[tuple[Held, T]]:
        """What is held, which nobody writes to in the meantime, and what was looked up in its ids.

        Looking up needs the dictionary, and so is refused to whoever interrupted a change.
        """
        with self._lock:
            now = self.held
            looked_up = look(now.ids)
            self._readers += 1
        try:
            yield now, looked_up
        finally:
            with self._lock:
                self._readers -= 1

    def places(self, wanted: NDArray[Any]) -> tuple[Held, Places]:
        """Where the rows of some ids are, -1 for one that is not there."""
        with self.reading(lambda ids: self.find(ids, wanted)) as (now, places):
            return now, places

    def find(self, ids: Ids, wanted: NDArray[Any]) -> Places:
        """The places of ids, under the lock."""
        self._refuse_to_handler("looked for an id")
        return ids.find(wanted)

    def nbytes(self) -> int:
        """Bytes of rows, panels and ids, with what is gone and room to grow."""
        with self._lock:
            now, room = self.held, self._room
        ids, shape = now.ids, now.shape
        if room is None:
            count = shape.rows * shape.dim * _BYTES[shape.dtype] + int(now.panels.nbytes)
            count += 0 if now.halves is None else now.halves.nbytes
            count += 0 if ids.values is None else ids.values.nbytes
        else:
            count = sum(array.nbytes for array in room if array is not None)
        count += sys.getsizeof(ids.later) + (0 if ids.live is None else ids.live.nbytes)
        if ids.values is not None and ids.texts:
            count += sum(map(sys.getsizeof, ids.values.tolist()))
        return count

    def contents(self) -> tuple[Any, Ids]:
        """The rows that are there and their ids, ascending."""
        with self.reading(lambda ids: None) as (now, _):
            order = now.ids.in_order()
            corpus = now.corpus
            if now.ids.live is not None or not now.ids.sorted:
                corpus = _arrays.take_rows(corpus, order)
            return corpus, now.ids.at(order)

    def copied(self) -> Store:
        """The same rows, which are shared until one of the two grows."""
        with self._lock:
            self._refuse_to_handler("copied the index")
            self._room = None  # whose last panel both hold
            ids = self.held.ids
            start = self.held._replace(ids=ids._replace(later=dict(ids.later)))
        return Store(start, self.metric, rounds=self.rounds)

    def put(self, rows: Any, ids: NDArray[Any] | None, *, old: str) -> NDArray[Any]:
        """Append rows; what becomes of old ones with their ids: ``refused``, ``replaced``, or
        ``needed``, where each must be there. Returns the ids.
        """
        shape = _arrays.matrix_shape(rows, "rows")
        if shape.dim != self.held.shape.dim:
            raise ValueError(
                f"rows have dim {shape.dim} but the index has dim {self.held.shape.dim}; use the "
                "same encoder"
            )
        if shape.device != self.held.shape.device:
            raise ValueError(
                f"rows are on {shape.device} but the index is on {self.held.shape.device}; move "
                "them to its device"
            )
        rows = stored(rows, "rows", self.held.shape.dtype, rounds=self.rounds)
        with self._change() as before:
            new = before.ids.following(shape.rows) if ids is None else ids
            replaced = _known(before.ids, new, old)
            if not shape.rows:
                return new
            numbered = before.ids.values is None and ids is None
            numbered = numbered and before.ids.next == before.ids.places
            explicit = None if numbered else new
            if shape.device != "cpu":
                self.held = joined(before, rows, explicit, replaced, self.metric)
                return new
            room = self._room
            growth = grow(before, room, rows, explicit, replaced, self.metric)
            with self._lock:
                crowded = bool(self._readers) or self._room is not room  # not ours alone: a copy's
                self._room, after = growth.finished(crowded=crowded)
                changes, self._half_told = after.ids.changes(before.ids), True
                before.ids.later.update(changes)
                self.held, self._half_told = after, False
            self._compact_if_due()
            return new

    def remove(self, ids: NDArray[Any]) -> None:
        """Remove the rows of these ids, which must be there."""
        with self._change() as before:
            places = _known(before.ids, ids, "needed")
            if not len(places):
                return
            after = before._replace(ids=before.ids.without(places))
            if before.shape.device != "cpu":
                self.held = after.compacted(self.metric)
                return
            with self._lock:
                self._half_told = True
                for id_ in ids.tolist():
                    before.ids.later.pop(id_, None)
                self.held, self._half_told = after, False
            self._compact_if_due()

    def compact(self) -> None:
        """Copy the rows that are there into the order of their ids."""
        with self._change():
            self._compact()

    def _compact_if_due(self) -> None:
        ids = self.held.ids
        if ids.live is not None and ids.places - ids.rows > max(ids.rows // 3, _MOST_GONE):
            self._compact()

    def _compact(self) -> None:
        after = self.held.compacted(self.metric)
        if after is not self.held:
            with self._lock:
                self._room, self.held = None, after

    @contextmanager
    def _change(self) -> Iterator[Held]:
        """Whose turn it is to change what is held."""
        self._refuse_to_handler("changed the index")
        with self._turn:
            self._changer = threading.get_ident()
            try:
                self._tell_again()
                yield self.held
            finally:
                try:
                    self._tell_again()
                finally:
                    self._changer = None

    def _tell_again(self) -> None:
        """Mend the dictionary where Ctrl-C came between it and what is held."""
        if self._half_told:
            with self._lock:
                self.held.ids.learn_again()
                self._half_told = False

    def _refuse_to_handler(self, what: str) -> None:
        if self._changer == threading.get_ident():
            raise RuntimeError(
                f"this thread {what} while it changes the same index, in a signal handler or "
                "__del__; let it note the rows, and do that later"
            )


_stores: weakref.WeakSet[Store] = weakref.WeakSet()
_registering = threading.RLock()
_forking: list[Store] = []


def _before_fork() -> None:
    """Wait for whoever looks at what is held or replaces it, which takes no time."""
    _registering.acquire()
    _forking.extend(_stores)
    for store in _forking:
        store._lock.acquire()


def _after_fork(*, child: bool = False) -> None:
    """A change that another thread was at is not there in the child, and nobody's turn any more."""
    while _forking:
        store = _forking.pop()
        if child:
            store._turn = threading.Lock()
            if store._changer != threading.get_ident():
                store._changer = None
        store._lock.release()
    _registering.release()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork,
    after_in_child=lambda: _after_fork(child=True),
)


def _known(known: Ids, new: NDArray[Any], old: str) -> Places:
    """The places of those of the ids that are there, as far as that is allowed."""
    _ids.same_kind(new, "ids", known)
    places = known.find(new)
    there = places >= 0
    if old == "refused" and there.any():
        raise ValueError(
            f"ids has {shown(new[there].tolist()[0])}, which is in the index already; give another "
            "id, or replace=True"
        )
    if old == "needed":
        _ids.refuse_missing(new, places)
    return places[there]
