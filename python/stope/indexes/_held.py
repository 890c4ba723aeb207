"""What a search reads: the rows of an index, their panels and their ids, replaced as one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope.indexes import _ids
from stope.indexes._ids import Ids, Places
from stope.ops._search import Besides
from stope.progress import Progress

_PANEL_ROWS = 16
_FLOATS = ("float32", "float16", "bfloat16")


class Held(NamedTuple):
    """Rows by their places; an operation replaces all of it in one assignment."""

    corpus: Any
    panels: Any  # bytes of the corpus's device
    shape: _arrays.MatrixShape
    ids: Ids
    halves: NDArray[np.uint8] | None = None  # codes of half as many bits

    def besides(self, allowed: NDArray[np.uint8] | None = None) -> Besides:
        """What a search of all rows reads, of those that are allowed."""
        return Besides(self.panels, allowed, halves=self.halves)

    def compacted(self, metric: str) -> Held:
        """The rows that are there, in the order of their ids."""
        if self.ids.live is None and self.ids.sorted:
            return self
        order = self.ids.in_order()
        ids = self.ids.at(order)
        return held(_arrays.take_rows(self.corpus, order), metric, ids.values, ids.next)


class Room(NamedTuple):
    """Memory on the CPU with room to grow; what is held are its first rows, panels and ids."""

    rows: NDArray[Any]
    panels: NDArray[np.uint8]
    ids: NDArray[Any] | None
    halves: NDArray[np.uint8] | None


def held(
    corpus: Any,
    metric: str,
    values: NDArray[Any] | None = None,
    following: int = 0,
    *,
    progress: Progress | None = None,
) -> Held:
    """Pack a corpus where it is, under ids or, without them, numbers from 0."""
    shape = _arrays.matrix_shape(corpus, "corpus")
    place, halves = _arrays.ON_CPU, None
    if shape.device == "cpu":
        if (shape.dtype, metric) != ("int8", "dot"):
            halves = _arrays.aligned_bytes(_core.packed_half_bytes(shape.rows, shape.dim))
        panels = _arrays.aligned_bytes(_core.packed_bytes(shape.rows, shape.dim))
    else:
        place = _arrays.place_of(corpus, shape.device, "corpus")
        panels = place.workspace(_core.packed_cuda_bytes(shape.rows, shape.dim))
    if shape.rows:
        pack(corpus, 0, panels, metric, halves=halves, progress=progress, place=place)
    return Held(corpus, panels, shape, _ids.begin(shape.rows, values, following), halves)


class Growth(NamedTuple):
    """Rows that were added behind those that are held, whose last panel others may be reading."""

    room: Room
    after: Held  # its panels are still the old ones
    panels: NDArray[np.uint8]  # from the one in which the new rows begin
    halves: NDArray[np.uint8] | None
    first: int  # the first row of that one
    shared: bool  # whether it holds old rows, too

    def finished(self, *, crowded: bool) -> tuple[Room, Held]:
        """With the panels written, into a copy of the room's where others may be reading them."""
        room, dim, copies = self.room, self.after.shape.dim, self.shared and crowded
        begin = _core.packed_bytes(self.first, dim)
        panels = _written(room.panels, self.panels, begin, copies=copies)
        halves = room.halves
        if halves is not None and self.halves is not None:
            begin = _core.packed_half_bytes(self.first, dim)
            halves = _written(halves, self.halves, begin, copies=copies)
        rows = self.after.shape.rows
        after = self.after._replace(panels=panels[: _core.packed_bytes(rows, dim)])
        if halves is not None:
            after = after._replace(halves=halves[: _core.packed_half_bytes(rows, dim)])
        return room._replace(panels=panels, halves=halves), after


def grow(
    before: Held,
    room: Room | None,
    rows: Any,
    new: NDArray[Any] | None,
    replaced: Places,
    metric: str,
) -> Growth:
    """Append rows on the CPU; new are their ids, None for numbers that go on from the places."""
    start, count = before.ids.places, len(rows)
    after, dim = start + count, before.shape.dim
    first = start - start % _PANEL_ROWS
    shared = first < start
    if room is None or len(room.rows) < after:
        room, shared = _larger(before, max(after, start + start // 2)), False
    if new is not None:
        if room.ids is None or room.ids.dtype != new.dtype:
            named = np.empty(len(room.rows), dtype=new.dtype)
            named[:start] = before.ids.of(np.arange(start))
            room = room._replace(ids=named)
        assert room.ids is not None
        room.ids[start:after] = new
    room.rows[start:after] = _arrays.bits(rows)
    corpus = _arrays.from_bits(room.rows[:after], before.shape.dtype)
    panels = _arrays.aligned_bytes(_core.packed_bytes(after - first, dim))
    halves = None
    if room.halves is not None:
        halves = _arrays.aligned_bytes(_core.packed_half_bytes(after - first, dim))
    pack(corpus[first:], start - first, panels, metric, halves=halves, name="rows")
    values = None if room.ids is None else room.ids[:after]
    numbers = np.arange(start, after) if new is None else new
    ids = before.ids.appended(numbers, values, replaced)
    grown = Held(corpus, before.panels, before.shape._replace(rows=after), ids)
    return Growth(room, grown, panels, halves, first, shared)


def joined(
    before: Held, rows: Any, new: NDArray[Any] | None, replaced: Places, metric: str
) -> Held:
    """The same on a device, where the corpus is copied and keeps nothing that was replaced."""
    start, after = before.ids.places, before.ids.places + len(rows)
    place = _arrays.place_of(before.corpus, before.shape.device, "corpus")
    corpus = place.join([before.corpus, rows])
    panels = place.workspace(_core.packed_cuda_bytes(after, before.shape.dim))
    panels[: _core.packed_cuda_bytes(start, before.shape.dim)] = before.panels
    pack(corpus, start, panels, metric, name="rows", place=place)
    values = None
    if new is not None:
        values = np.concatenate([before.ids.of(np.arange(start)).astype(new.dtype), new])
    numbers = np.arange(start, after) if new is None else new
    ids = before.ids.appended(numbers, values, replaced)
    ids.later.update(ids.changes(before.ids))
    shape = before.shape._replace(rows=after)
    grown = Held(corpus, panels, shape, ids)
    return grown.compacted(metric) if ids.live is not None else grown


def stored(rows: Any, name: str, dtype: str, *, rounds: bool) -> Any:
    """The rows in the element type of an index.

    Raises:
        TypeError: another type, unless both are of floats and the index may round.
        ValueError: a number that is too large for it.
    """
    shape = _arrays.matrix_shape(rows, name)
    if shape.dtype == dtype:
        return rows
    if not (rounds and shape.dtype in _FLOATS and dtype in _FLOATS and shape.device == "cpu"):
        remedy = "cast them"
        if "int8" in (shape.dtype, dtype):
            remedy = "int8 goes with int8: quantise them all, or none"
        raise TypeError(f"{name} are {shape.dtype} but the index holds {dtype}; {remedy}")
    wide = _arrays.from_bits(_arrays.bits(rows), shape.dtype)
    kind = _arrays.from_bits(np.empty(0, "u2"), "bfloat16").dtype if dtype == "bfloat16" else dtype
    with np.errstate(over="ignore"):
        narrow = wide.astype(kind)
    lost = (np.isinf(narrow) & np.isfinite(wide)).any(axis=1)
    if lost.any():
        raise ValueError(
            f"{name} has a number beyond {dtype} in row {np.flatnonzero(lost)[0]}; "
            "scale the rows, or give storage='float32'"
        )
    return narrow


def _larger(before: Held, capacity: int) -> Room:
    """A copy of what is held, with room for more rows."""
    current, ids = _arrays.bits(before.corpus), before.ids.values
    rows = np.empty((capacity, before.shape.dim), dtype=current.dtype)
    rows[: len(current)] = current
    panels = _copied(before.panels, _core.packed_bytes(capacity, before.shape.dim))
    halves = before.halves
    if halves is not None:
        halves = _copied(halves, _core.packed_half_bytes(capacity, before.shape.dim))
    if ids is not None:
        ids = np.concatenate([ids, np.empty(capacity - len(ids), dtype=ids.dtype)])
    return Room(rows, panels, ids, halves)


def _written(
    whole: NDArray[np.uint8], part: NDArray[np.uint8], begin: int, *, copies: bool
) -> NDArray[np.uint8]:
    whole = _copied(whole, whole.size) if copies else whole
    whole[begin : begin + part.size] = part
    return whole


def _copied(panels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    other = _arrays.aligned_bytes(size)
    other[: panels.size] = panels
    return other


def pack(
    corpus: Any,
    first: int,
    packed: Any,
    metric: str,
    *,
    halves: NDArray[np.uint8] | None = None,
    name: str = "corpus",
    progress: Progress | None = None,
    place: _arrays.Place = _arrays.ON_CPU,
) -> None:
    """Pack the rows from the first one on, which have to be finite and not too long."""
    _core.pack(
        corpus=corpus,
        name=name,
        metric=metric,
        first_row=first,
        packed=packed,
        halves=halves,
        threads=_core.num_threads(),
        allocate=place.workspace,
        progress=progress,
        **place.options,
    )
