"""FlatIndex: a corpus packed once, searched many times, saved and memory-mapped."""

from __future__ import annotations

import copy
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import choice, size
from stope._checks import path as checked_path
from stope.indexes import _file as _index_file
from stope.ops._search import METRICS, Metric, Precision, TopK, results, search
from stope.progress import Progress, check_progress

_PANEL_ROWS = 16


class _Held(NamedTuple):
    """What a search reads; an addition replaces it in one assignment."""

    corpus: Any
    panels: Any  # bytes of the corpus's device
    shape: _arrays.MatrixShape


class _Room(NamedTuple):
    """Memory on the CPU with room to grow; what is held are its first rows and panels."""

    rows: NDArray[Any]
    panels: NDArray[np.uint8]


class FlatIndex:
    """An exact index: its answers equal :func:`stope.topk`'s, bit for bit.

    The corpus is packed once into int8 panels with their error bounds, a quarter of its float32
    size; a search then reads the panels instead of the corpus, and the corpus only to rescore.
    The index keeps a reference to the corpus it is given: do not change it afterwards.

    A corpus on a CUDA device (torch or CuPy) stays there, with panels of bfloat16 beside it, and is
    searched there, by queries on the same device.
    Queries on a device may search an index in host memory: its corpus streams through the device,
    as in :func:`stope.topk`, and its panels are not used.

    Threads may search, add, copy and save at once. Each search answers from the rows that were in
    the index when it began; additions wait for each other and for nobody else. A copy
    (``copy.copy``, ``copy.deepcopy``, or sent to a process) grows on its own.

    Args:
        corpus: ``[n, dim]``, float32, float16, bfloat16 or int8; n may be 0.
        metric: ``"dot"``, ``"cosine"`` or ``"euclidean"``.
        progress: called now and then with ``(done, total)`` rows packed.

    Raises:
        ValueError, TypeError: as :func:`stope.topk`.

    Memory: (dim rounded up to 64 + 24) bytes a row beside the corpus; on a CUDA device, there, two
    bytes for each element of dim rounded up to 32, and 20, for each of the rows rounded up to 128.
    :meth:`search` needs what :func:`stope.topk` needs without the packed corpus.

    >>> import numpy as np
    >>> index = FlatIndex(np.eye(3, dtype=np.float32))
    >>> index.add(np.array([[0, 2, 0]], dtype=np.float32))
    >>> index.search(np.array([[0, 1, 0]], dtype=np.float32), 2).ids.tolist()
    [[3, 1]]
    """

    def __init__(
        self, corpus: Any, metric: Metric = "dot", *, progress: Progress | None = None
    ) -> None:
        self._metric: Metric = choice(metric, "metric", METRICS)
        check_progress(progress)
        shape = _arrays.matrix_shape(corpus, "corpus")
        place = _arrays.ON_CPU
        if shape.device == "cpu":
            panels = _arrays.aligned_bytes(_core.packed_bytes(shape.rows, shape.dim))
        else:
            place = _arrays.place_of(corpus, shape.device, "corpus")
            panels = place.workspace(_core.packed_cuda_bytes(shape.rows, shape.dim))
        self._begin(_Held(corpus, panels, shape))
        if shape.rows:
            self._pack(corpus, 0, panels, progress=progress, place=place)

    def _begin(self, held: _Held) -> None:
        self._held = held
        self._room: _Room | None = None  # once rows were added
        # What is held may be read and replaced. A signal handler may come here twice.
        self._lock = threading.RLock()
        self._readers = 0
        self._adding = threading.Lock()
        self._adder: int | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._held.shape.rows

    def __repr__(self) -> str:
        """Return a short description."""
        s = self._held.shape
        return f"FlatIndex({s.rows} rows, dim={s.dim}, {s.dtype}, metric={self._metric!r})"

    def __copy__(self) -> FlatIndex:
        """An index of the same rows, which are shared until one of the two grows."""
        other = FlatIndex.__new__(FlatIndex)
        other._metric = self._metric
        with self._lock:
            self._room = None  # whose last panel both hold
            other._begin(self._held)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> FlatIndex:
        """An index of a copy of the rows."""
        return FlatIndex(copy.deepcopy(self._held.corpus, memo), self._metric)

    def __reduce__(self) -> tuple[Any, ...]:
        """What another process is sent: the rows, which are packed again where they arrive."""
        return FlatIndex, (self._held.corpus, self._metric)

    @property
    def dim(self) -> int:
        """Elements of a row."""
        return self._held.shape.dim

    @property
    def metric(self) -> Metric:
        """What scores mean."""
        return self._metric

    @property
    def dtype(self) -> str:
        """Element type of the corpus: ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"int8"``."""
        return self._held.shape.dtype

    def add(self, rows: Any) -> None:
        """Append rows; their ids continue from ``len(index)``.

        The first addition copies the corpus; capacity then grows by half, so that adding n rows
        in any portions costs O(n). While others search, an addition may copy the panels. On a CUDA
        device every addition copies the corpus.

        Raises:
            ValueError, TypeError: another dim, dtype or device, NaN or infinity (naming the row).
                The index is then as it was.
            RuntimeError: called by a signal handler that interrupts an addition to this index.
        """
        more = _arrays.matrix_shape(rows, "rows")
        if more.dim != self.dim:
            raise ValueError(
                f"rows have dim {more.dim} but the index has dim {self.dim}; use the same encoder"
            )
        if more.dtype != self.dtype:
            raise TypeError(f"rows are {more.dtype} but the index holds {self.dtype}; cast them")
        device = self._held.shape.device
        if more.device != device:
            raise ValueError(
                f"rows are on {more.device} but the index is on {device}; move them to its device"
            )
        if more.rows == 0:
            return
        if self._adder == threading.get_ident():
            raise RuntimeError(
                "add was called while this thread adds to the same index, by a signal handler or "
                "__del__; let it note the rows, and add them later"
            )
        with self._adding:
            self._adder = threading.get_ident()
            try:
                (self._add if device == "cpu" else self._add_on_device)(rows, more.rows)
            finally:
                self._adder = None

    def _add(self, rows: Any, count: int) -> None:
        held, room = self._held, self._room
        before, after = held.shape.rows, held.shape.rows + count
        # The panel in which the new rows begin holds old ones that others may be reading.
        first = before - before % _PANEL_ROWS
        shared = first < before
        if room is None or len(room.rows) < after:
            room, shared = _grown(held, max(after, before + before // 2)), False
        room.rows[before:after] = _arrays.bits(rows)
        corpus = _arrays.from_bits(room.rows[:after], self.dtype)
        start, end = (_core.packed_bytes(number, self.dim) for number in (first, after))
        fresh = _arrays.aligned_bytes(end - start)
        self._pack(corpus[first:], before - first, fresh, name="rows")
        with self._lock:
            if shared and (self._readers or self._room is not room):  # not ours alone: a copy's
                room = room._replace(panels=_aligned_copy(room.panels))
            room.panels[start:end] = fresh
            shape = held.shape._replace(rows=after)
            self._room, self._held = room, _Held(corpus, room.panels[:end], shape)

    def _add_on_device(self, rows: Any, count: int) -> None:
        held = self._held
        before, after = held.shape.rows, held.shape.rows + count
        place = _arrays.place_of(held.corpus, held.shape.device, "corpus")
        corpus = place.join(held.corpus, rows)
        panels = place.workspace(_core.packed_cuda_bytes(after, self.dim))
        panels[: _core.packed_cuda_bytes(before, self.dim)] = held.panels
        self._pack(corpus, before, panels, name="rows", place=place)
        self._held = _Held(corpus, panels, held.shape._replace(rows=after))

    def search(
        self,
        queries: Any,
        k: int,
        *,
        exclude: Any = None,
        ceiling: Any = None,
        floor: Any = None,
        precision: Precision = "exact",
        out: tuple[Any, Any] | None = None,
        progress: Progress | None = None,
    ) -> TopK:
        """Find the k best rows of every query; the arguments are those of :func:`stope.topk`.

        An index serves whatever comes: there may be no queries, no rows, and k may be larger than
        the number of rows. What is missing is score -inf and id -1, as where rows are excluded.
        """
        with self._reading() as held:
            options: dict[str, Any] = {"metric": self._metric, "precision": precision}
            options |= {"exclude": exclude, "ceiling": ceiling, "floor": floor}
            options["progress"] = progress

            def best(count: int, out: tuple[Any, Any] | None) -> TopK:
                panels = held.panels
                return search(queries, held.corpus, count, out=out, packed=panels, **options)

            shape, k = _arrays.matrix_shape(queries, "queries"), size(k, "k")
            rows = held.shape.rows
            if shape.rows and k <= rows:
                return best(k, out)
            if shape.dim != self.dim:
                raise ValueError(
                    f"corpus has dim {self.dim} but queries have dim {shape.dim}; embed both with "
                    "the same encoder"
                )
            place = _arrays.place_of(queries, shape.device, "queries")
            scores, ids = results(out, (shape.rows, k), place)
            scores[...], ids[...] = -np.inf, -1
            if shape.rows and rows:
                scores[:, :rows], ids[:, :rows] = best(rows, None)
            if out is not None:
                return TopK(*out)
            return TopK(_arrays.like(scores, queries, place), _arrays.like(ids, queries, place))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, by way of a temporary name in the same folder.

        The file holds a header, the corpus and the panels, each with a checksum; it is the same for
        every instruction set. :meth:`load` gives an index on the CPU.

        Raises:
            OSError: the file cannot be written; nothing is left behind.
        """
        target = checked_path(path, "path")
        with self._reading() as held:
            corpus, panels = _arrays.bits(held.corpus), held.panels
            if held.shape.device != "cpu":
                panels = FlatIndex(_arrays.from_bits(corpus, self.dtype), self._metric)._held.panels
            _index_file.write(
                target, corpus=corpus, packed=panels, metric=self._metric, dtype=self.dtype
            )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> FlatIndex:
        """Open a saved index as a memory map.

        The file must not be shortened while the index is in use: reading a page that the file no
        longer has ends the process with SIGBUS, which no library can turn into an exception. To
        replace an index, save under the same name, as :meth:`save` does, never write into it.

        Args:
            verify: read the whole file once and compare its checksums; without it only the header
                and the file's length are checked.

        Raises:
            stope.errors.IndexFileError: not an index, another version, truncated or altered.
            OSError: the file cannot be read.
        """
        contents = _index_file.read(checked_path(path, "path"), verify=verify)
        index = cls.__new__(cls)
        corpus = _arrays.from_bits(contents.corpus, contents.dtype)
        index._metric = contents.metric
        index._begin(_Held(corpus, contents.packed, _arrays.matrix_shape(corpus, "corpus")))
        return index

    @contextmanager
    def _reading(self) -> Iterator[_Held]:
        """What is held, which nobody writes to in the meantime."""
        with self._lock:
            self._readers += 1
            held = self._held
        try:
            yield held
        finally:
            with self._lock:
                self._readers -= 1

    def _pack(
        self,
        corpus: Any,
        first: int,
        packed: Any,
        *,
        name: str = "corpus",
        progress: Progress | None = None,
        place: _arrays.Place = _arrays.ON_CPU,
    ) -> None:
        """Pack the rows from the first one on, which have to be finite and not too long."""
        _core.pack(
            corpus=corpus,
            name=name,
            metric=self._metric,
            first_row=first,
            packed=packed,
            threads=_core.num_threads(),
            allocate=place.workspace,
            progress=progress,
            **place.options,
        )


def _grown(held: _Held, capacity: int) -> _Room:
    """A copy of what is held, with room for more rows."""
    current = _arrays.bits(held.corpus)
    rows = np.empty((capacity, held.shape.dim), dtype=current.dtype)
    rows[: len(current)] = current
    panels = _arrays.aligned_bytes(_core.packed_bytes(capacity, held.shape.dim))
    panels[: held.panels.size] = held.panels
    return _Room(rows, panels)


def _aligned_copy(panels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    other = _arrays.aligned_bytes(panels.size)
    other[:] = panels
    return other
