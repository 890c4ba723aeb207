"""FlatIndex: rows under ids, packed once, searched many times, changed, saved and memory-mapped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stope import _arrays
from stope._checks import choice, flag, shown, size
from stope._checks import path as checked_path
from stope.indexes import _answers, _ids
from stope.indexes import _file as _index_file
from stope.indexes._answers import InRange, Question
from stope.indexes._filters import Filter, resolve
from stope.indexes._held import Held, held, stored
from stope.indexes._ids import Ids
from stope.indexes._store import Store
from stope.ops import _search
from stope.ops._search import METRICS, PRECISIONS, Metric, Precision, TopK
from stope.progress import Progress, check_progress

Storage = Literal["float32", "float16", "bfloat16", "int8"]
"""Element types of the rows of an index."""


class FlatIndex:
    """An exact index of rows under ids: its answers equal :func:`stope.topk`'s, bit for bit.

    **What it answers** (exactly, as by default) depends on the pairs (id, row) that are in it, and
    on nothing else: not on the order in which they came, on what was removed or replaced before, on
    saving, threads or instruction sets. A search returns the k best by (canonical score of the
    stored row descending, id ascending); int64 ids ascend as numbers, texts by code points. So
    parts of an index that are searched one by one, their answers merged in that order, answer as
    the whole does, with filters, too.

    Rows without ids are numbered: the first is 0, and each gets one more than the largest id that
    there ever was; no number is given twice. Ids may be int64 (any but -1, which marks a missing
    place in answers) or strings; the first ones decide. ``len(index)`` counts rows, ``id in index``
    asks for one, and iteration goes through the ids in ascending order, the order of
    :attr:`ids` and of masks.

    The corpus is packed once into int8 panels with their error bounds, a quarter of its float32
    size; a search reads these (one query first codes of half as many bits, not kept in files), then
    the corpus to rescore. The index keeps a reference to the corpus it is given, where it need not
    convert it: do not change it afterwards. Rows removed or replaced stay in memory, unseen, until
    they are 1,024 and a third of those that are there; then, or by :meth:`compact`, all rows are
    copied.

    A corpus on a CUDA device (torch or CuPy) stays there, with panels of bfloat16 beside it, and is
    searched there, by queries on the same device; each change copies it. Queries on a device may
    search an index in host memory: its corpus streams through the device, as in :func:`stope.topk`,
    and its panels are not used.

    **Threads** may call any method at any time. A method that reads (search, range_search,
    reconstruct, save, ids, ``in``, copies) sees the index as it was at one moment between two
    changes: all of a change, or nothing. Changes (add, update, remove, merge, compact) wait for
    each other and for nobody else. A signal handler or ``__del__`` that interrupts a change may
    search; filters by id, ``in`` and changes raise RuntimeError there. A copy (``copy.copy``,
    ``copy.deepcopy``, or sent to a process) shows no change of the other; ``copy.copy``
    shares the rows' memory until one of the two grows.

    Args:
        corpus: ``[n, dim]``, float32, float16, bfloat16 or int8, n may be 0; or dim, a number, for
            an index that starts empty.
        metric: ``"dot"``, ``"cosine"`` or ``"euclidean"``.
        ids: n integers or n strings, each once; None numbers the rows from 0.
        storage: element type of the rows in the index. Rows of another type of floats, the corpus
            and later ones, are then rounded to it (to the nearest, ties to even), and scores are
            those of the rounded rows. int8 takes int8 rows alone: there is no scale to round by.
            None: that of the corpus (float32 where there is none), and later rows must have it.
        progress: called now and then with ``(done, total)`` rows packed.

    Raises:
        ValueError, TypeError: as :func:`stope.topk`; ids that repeat, are -1 or not as many as the
            rows; a number too large for the storage.

    Memory: 1.5 x (dim rounded up to 64) + 48 bytes a row beside the corpus (two thirds of it when
    loaded, or of int8 under the dot product); on a CUDA device, there, two for each element of dim
    rounded up to 32, and 20, of rows rounded up to 128. Ids of one's own take 8 a row, about 100
    more (and text) where they do not ascend. :meth:`search` needs what :func:`stope.topk` does,
    less the packing.

    >>> import numpy as np
    >>> index = FlatIndex(3)
    >>> index.add(np.eye(3, dtype=np.float32), ids=["c", "a", "b"]).tolist()
    ['c', 'a', 'b']
    >>> query = np.array([[0, 1, 1]], dtype=np.float32)
    >>> index.search(query, 2).ids.tolist()
    [['a', 'b']]
    >>> index.search(query, 2, exclude=["a"]).ids.tolist()
    [['b', 'c']]
    >>> index.remove(["b"])
    >>> index.search(query, 3).ids.tolist()
    [['a', 'c', None]]
    """

    def __init__(
        self,
        corpus: Any,
        metric: Metric = "dot",
        *,
        ids: Any = None,
        storage: Storage | None = None,
        progress: Progress | None = None,
    ) -> None:
        choice(metric, "metric", METRICS)
        check_progress(progress)
        if storage is not None:
            choice(storage, "storage", get_args(Storage))
        if isinstance(corpus, int | np.integer) and not isinstance(corpus, bool):
            kind = storage or "float32"
            empty = np.empty((0, size(corpus, "corpus")), "u2" if kind == "bfloat16" else kind)
            corpus = _arrays.from_bits(empty, kind)
        shape = _arrays.matrix_shape(corpus, "corpus")
        corpus = stored(corpus, "corpus", storage or shape.dtype, rounds=True)
        values = None if ids is None else _ids.of_caller(ids, shape.rows, "rows of corpus")
        start = held(corpus, metric, values, progress=progress)
        self._store = Store(start, metric, rounds=storage is not None)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._store.held.ids.rows

    def __contains__(self, id_: object) -> bool:
        """Whether a row of this id is there."""
        ids = self._store.held.ids
        number = isinstance(id_, int | np.integer) and -(2**63) <= id_ < 2**63
        wanted = _ids.flat([id_], "id") if number or isinstance(id_, str) else None
        if wanted is None or ids.texts != (wanted.dtype == object):
            return False
        return bool(self._store.places(wanted)[1][0] >= 0)

    def __iter__(self) -> Iterator[Any]:
        """Go through the ids there are at this moment, ascending."""
        return iter(self.ids.tolist())

    def __repr__(self) -> str:
        """Return a short description."""
        return f"FlatIndex({len(self)} rows, dim={self.dim}, {self.dtype}, metric={self.metric!r})"

    def __copy__(self) -> FlatIndex:
        """An index of the same rows, which are shared until one of the two grows."""
        return _of(self._store.copied())

    def __deepcopy__(self, memo: dict[int, Any]) -> FlatIndex:
        """An index of a copy of the rows."""
        rebuild, (corpus, *others) = self.__reduce__()
        return rebuild(corpus.clone() if hasattr(corpus, "clone") else corpus.copy(), *others)

    def __reduce__(self) -> tuple[Callable[..., FlatIndex], tuple[Any, ...]]:
        """What another process is sent: the rows, which are packed again where they arrive."""
        corpus, ids = self._store.contents()
        store = self._store
        return _packed_again, (corpus, store.metric, store.rounds, ids.values, ids.next)

    @property
    def dim(self) -> int:
        """Elements of a row."""
        return self._store.held.shape.dim

    @property
    def metric(self) -> Metric:
        """What scores mean."""
        return self._store.metric

    @property
    def dtype(self) -> str:
        """Element type of the corpus: ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"int8"``."""
        return self._store.held.shape.dtype

    @property
    def ids(self) -> NDArray[Any]:
        """The ids, ascending: int64, or strings in an array of objects."""
        ids = self._store.held.ids
        return np.array(ids.of(ids.in_order()))

    @property
    def nbytes(self) -> int:
        """Bytes of rows, panels and ids: room to grow and rows that are gone included."""
        return self._store.nbytes()

    def add(self, rows: Any, ids: Any = None, *, replace: bool = False) -> NDArray[Any]:
        """Append rows and return their ids.

        The first addition copies the corpus; capacity then grows by half, so that adding n rows
        in any portions costs O(n). While others search, an addition may copy the panels. On a CUDA
        device every addition copies the corpus.

        Args:
            rows: ``[count, dim]``, of the dtype of the index unless it was given a ``storage``.
            ids: one for each row; None numbers them (see the class).
            replace: put rows in the place of those whose ids are there; without it such an id is
                refused.

        Raises:
            ValueError, TypeError: another dim, dtype or device, NaN or infinity (naming the row),
                ids as the class refuses them, or that are there. The index is then as it was.
            RuntimeError: called by a signal handler that interrupts a change of this index.
        """
        values = None if ids is None else _ids.of_caller(ids, _count(rows))
        old = "replaced" if flag(replace, "replace") else "refused"
        new: NDArray[Any] = self._store.put(rows, values, old=old)
        return np.array(new)

    def update(self, rows: Any, ids: Any) -> None:
        """Put other rows in the place of those that have these ids.

        Costs what adding them costs.

        Raises:
            ValueError, TypeError: as :meth:`add`; an id that is not there. Nothing has changed
                then.
            RuntimeError: as :meth:`add`.
        """
        self._store.put(rows, _ids.of_caller(ids, _count(rows)), old="needed")

    def remove(self, ids: Any) -> None:
        """Remove the rows that have these ids.

        Costs a byte a row; now and then, as the class says, a copy of all rows.

        Raises:
            ValueError, TypeError: ids as the class refuses them, or one that is not there. Nothing
                is removed then.
            RuntimeError: as :meth:`add`.
        """
        self._store.remove(_ids.of_caller(ids))

    def merge(self, other: FlatIndex) -> None:
        """Add the rows of another index, under their ids.

        To number them anew instead: ``index.add(other.reconstruct())``.

        Raises:
            ValueError, TypeError: as :meth:`add`; another metric.
            RuntimeError: as :meth:`add`.
        """
        if not isinstance(other, FlatIndex):
            raise TypeError(f"other is {shown(other)}; give a stope.FlatIndex")
        if other.metric != self.metric:
            raise ValueError(
                f"other has metric {other.metric!r} but the index has {self.metric!r}; build it "
                "with the same metric"
            )
        corpus, ids = other._store.contents()
        self.add(corpus, ids.of(np.arange(ids.places)))

    def compact(self) -> None:
        """Copy the rows into the order of their ids, without those that are gone.

        It changes no answer. A search of an index whose rows came in another order than that of
        their ids asks for one row more and looks for ties; after this it need not.

        Raises:
            RuntimeError: as :meth:`add`.
        """
        self._store.compact()

    def reconstruct(self, ids: Any = None) -> Any:
        """Return rows as they are stored, in the order of these ids; None for all, ascending.

        Args:
            ids: a list of ids, which may repeat.

        Returns:
            ``[ids, dim]``, of the kind and on the device of the corpus. Not a copy where that can
            be avoided: do not write to it.

        Raises:
            ValueError, TypeError: an id that is not there, or of another kind.
        """
        if ids is None:
            return self._store.contents()[0]
        wanted = _ids.of_caller(ids, repeated=True)
        now, places = self._store.places(_ids.same_kind(wanted, "ids", self._store.held.ids))
        _ids.refuse_missing(wanted, places)
        return _arrays.take_rows(now.corpus, places)

    def search(
        self,
        queries: Any,
        k: int,
        *,
        exclude: Any = None,
        among: Any = None,
        ceiling: Any = None,
        floor: Any = None,
        precision: Precision = "exact",
        out: tuple[Any, Any] | None = None,
        progress: Progress | None = None,
    ) -> TopK:
        """Find the k best rows of every query; the arguments are those of :func:`stope.topk`.

        An index serves whatever comes: there may be no queries, no rows, and k may be larger than
        the number of rows. What is missing is score -inf and id -1 (None where ids are strings).

        Filters name rows. One for all queries is a flat list of ids (or a set), or a mask
        ``[rows]`` of booleans in the order of :attr:`ids`. One for each query is a list of lists of
        ids, CSR ``(offsets, ids)``, an array ``[queries, any]`` padded with -1 (None), as stope
        returns, or a mask ``[queries, rows]``. Ids that are not in the index, or repeated, make no
        difference, whoever numbered the rows: so a filter serves every part of a corpus that is
        split, before and after removals.

        Args:
            exclude: rows never to return.
            among: the only rows to return, less those excluded.
            out: ``(scores, ids)`` to write to; not where ids are strings.

        Returns:
            ``TopK(scores, ids)``: float32 and int64 ``[q, k]``, of the kind of ``queries``; ids
            that are strings in an array of objects.

        Raises:
            ValueError, TypeError: as :func:`stope.topk`; a filter of another kind or shape.

        Cost: one filter for all queries is a bit for each row in the scan; where it leaves at most
        an eighth of the rows (a 32nd for fewer than 16 queries), these are copied and searched
        alone, as on a CUDA device. ``among`` for each query scores the pairs it names, in about 60
        bytes a pair (docs/guides/index.md has times).
        """
        if out is not None and self._store.held.ids.texts:
            raise TypeError("out takes int64 ids, but those of the index are strings; leave it out")
        shape, k = _arrays.matrix_shape(queries, "queries"), size(k, "k")
        choice(precision, "precision", PRECISIONS)
        check_progress(progress)
        with self._reading(exclude, among, shape.rows) as (now, filter_):
            ids = now.ids
            options: dict[str, Any] = {"metric": self.metric, "precision": precision}
            options |= {"ceiling": ceiling, "floor": floor, "progress": progress}
            if ids.values is None and filter_.mask is None and filter_.listed is None:
                options |= {"exclude": filter_.excluded, "besides": now.besides()}
                whole = shape.rows > 0 and k <= ids.places
                answer = _search.search if whole else _search.padded_search
                return answer(queries, now.corpus, k, out=out, **options)
            question = Question(now, queries, filter=filter_, **options)
            scores, places = _answers.best(question, k)
        place = _arrays.place_of(queries, shape.device, "queries")
        named = ids.of(places)
        if ids.texts:
            return TopK(_arrays.like(scores, queries, place), named)
        if out is None:
            return TopK(*(_arrays.like(array, queries, place) for array in (scores, named)))
        written = _search.results(out, (shape.rows, k), place)
        for array, values in zip(written, (scores, named), strict=True):
            array[...] = values if place is _arrays.ON_CPU else place.bring(values)
        return TopK(*out)

    def range_search(
        self,
        queries: Any,
        threshold: float,
        *,
        exclude: Any = None,
        among: Any = None,
        progress: Progress | None = None,
    ) -> InRange:
        """Find all rows whose score is at least the threshold, exactly.

        The rows of a query come in the order (score descending, id ascending). Filters are those of
        :meth:`search`. A ``"euclidean"`` score is -distance: -0.5 asks for rows not farther than
        0.5.

        Returns:
            ``InRange(offsets, scores, ids)`` on the host: int64 ``[q + 1]``, float32 and ids, one
            for each row that was found.

        Raises:
            ValueError, TypeError, RuntimeError: as :func:`stope.pairs_above` and :meth:`search`.

        Memory: as :func:`stope.pairs_above`, and 60 bytes for each row that was found.
        """
        check_progress(progress)
        rows = _arrays.matrix_shape(queries, "queries").rows
        with self._reading(exclude, among, rows) as (now, filter_):
            question = Question(now, queries, self.metric, filter_, progress=progress)
            return _answers.within(question, threshold)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, by way of a temporary name in the same folder.

        The file holds a header, the corpus, the panels and the ids, each with a checksum. It is the
        same for every instruction set and every way in which the rows came to be in the index.
        :meth:`load` gives an index on the CPU.

        Memory: none beside the index, unless rows are gone or came in another order than that of
        their ids: then that of a copy.

        Raises:
            OSError: the file cannot be written; nothing is left behind.
        """
        target = checked_path(path, "path")
        with self._store.reading(lambda ids: None) as (now, _):
            now = now.compacted(self.metric)
            if now.shape.device != "cpu":
                rows = _arrays.from_bits(_arrays.bits(now.corpus), self.dtype)
                now = held(rows, self.metric)._replace(ids=now.ids)
            _index_file.write(target, now, self.metric, rounds=self._store.rounds)

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
        corpus = _arrays.from_bits(contents.corpus, contents.dtype)
        start = Held(corpus, contents.packed, _arrays.matrix_shape(corpus, "corpus"), contents.ids)
        return _of(Store(start, contents.metric, rounds=contents.rounds))

    def _reading(
        self, exclude: Any, among: Any, queries: int
    ) -> AbstractContextManager[tuple[Held, Filter]]:
        """What is held at this moment, and which of it the queries may find."""

        def look(ids: Ids) -> Filter:
            if exclude is None and among is None:
                return Filter(ids.live, None, None)
            return resolve(exclude, among, queries, ids, self._store.find)

        return self._store.reading(look)


def _count(rows: Any) -> int:
    return _arrays.matrix_shape(rows, "rows").rows


def _of(store: Store) -> FlatIndex:
    index = FlatIndex.__new__(FlatIndex)
    index._store = store
    return index


def _packed_again(corpus: Any, metric: Metric, rounds: bool, *ids: Any) -> FlatIndex:
    return _of(Store(held(corpus, metric, *ids), metric, rounds=rounds))
