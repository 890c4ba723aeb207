"""faiss's flat indexes under faiss's names, on `stope.FlatIndex`: change the import, keep the code.

::

    from stope.integrations import faiss  # instead of: import faiss
    index = faiss.IndexFlatIP(384)

faiss itself is not needed. Conventions are faiss's: rows are cast to float32; a squared distance or
an inner product and the number of the row come back, -1 (and the largest float32) where there is
none; ``range_search`` leaves out the radius itself; ``remove_ids`` passes over ids that are not
there and numbers the rows that follow anew. Two things differ: equal distances come in the order of
ids, where faiss leaves it open, and rows with NaN or infinity are refused, where faiss takes them.

What C++ code is handed (``write_index``, ``IndexIVFFlat``, ``index_factory``) must be faiss's own.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, shown, size
from stope.indexes import FlatIndex
from stope.indexes._ids import flat
from stope.lists import Lists, offsets_of

METRIC_INNER_PRODUCT, METRIC_L2 = 0, 1
_LARGEST = np.finfo(np.float32).max

Array = NDArray[Any]

__all__ = ["METRIC_INNER_PRODUCT", "METRIC_L2", "IndexFlat", "IndexFlatIP", "IndexFlatL2",
           "IndexIDMap", "IndexIDMap2", "WrongArgumentError"]  # fmt: skip


class WrongArgumentError(ValueError, AssertionError, RuntimeError):
    """What stope refuses by ValueError, and faiss by an assertion or a RuntimeError of C++."""


class IndexFlat:
    """Exact search by squared distance (``METRIC_L2``) or inner product (``METRIC_INNER_PRODUCT``).

    ``d``, ``ntotal``, ``metric_type``, ``is_trained`` and ``verbose`` are faiss's; ``index`` is the
    `stope.FlatIndex` below, to save, or for its other methods.

    Thread safety: as `stope.FlatIndex`; ``reset``, ``remove_ids`` and ``merge_from`` replace
    ``index``, and additions of other threads at that moment are lost.

    Raises:
        WrongArgumentError: a dim, k or id that faiss refuses; it is a ValueError, too.
        ValueError: NaN or infinity, as `stope.FlatIndex`.

    >>> index = IndexFlatL2(2)
    >>> index.add([[0, 0], [3, 5]])
    >>> distances, ids = index.search([[0, 1]], 3)
    >>> ids.tolist(), distances[0, :2].tolist()
    ([[0, 1, -1]], [1.0, 25.0])
    """

    is_trained, verbose = True, False

    def __init__(self, d: int, metric: int = METRIC_L2) -> None:
        self.d = size(d, "d")
        self.metric_type = choice(metric, "metric", (METRIC_INNER_PRODUCT, METRIC_L2))
        self.reset()

    def reset(self) -> None:
        """Remove all rows."""
        self.index = FlatIndex(self.d, "euclidean" if self.metric_type == METRIC_L2 else "dot")

    @property
    def ntotal(self) -> int:
        """How many rows there are."""
        return len(self.index)

    def train(self, x: Any) -> None:
        """Do nothing: there is nothing to train."""

    def add(self, x: Any) -> None:
        """Append rows."""
        self.index.add(self._rows(x))

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """Refuse: as in faiss, ids need an `IndexIDMap` around the index."""
        raise WrongArgumentError("add_with_ids needs ids; wrap the index: IndexIDMap(index)")

    def search(
        self,
        x: Any,
        k: int,
        *,
        params: Any = None,
        D: Any = None,  # noqa: N803
        I: Any = None,  # noqa: E741, N803
    ) -> tuple[Array, Array]:
        """The k best rows of every query: distances ``[n, k]``, ids ``[n, k]``.

        Args:
            params: an object whose ``sel`` has ``is_member(id)``, such as faiss's
                SearchParameters(sel=IDSelectorBatch(...)).
            D: an array for the distances.
            I: an array for the ids.
        """
        rows = self._rows(x)
        if k <= 0:
            raise WrongArgumentError(f"k is {shown(k)}; it must be at least 1")
        scores, ids = self.index.search(rows, k, among=self._selected(params))
        missing = np.where(ids < 0, -_LARGEST, scores)
        return _into(D, self._distances(missing)), _into(I, ids)

    def range_search(
        self, x: Any, thresh: float, *, params: Any = None
    ) -> tuple[Array, Array, Array]:
        """All rows nearer than the radius (or of a larger inner product): lims, distances, ids.

        Those of query i are ``lims[i]`` to ``lims[i + 1]``, in the order of ids.
        """
        rows, radius = self._rows(x), np.float32(thresh)
        least = -np.sqrt(np.maximum(radius, 0)) if self.metric_type == METRIC_L2 else radius
        threshold = float(np.clip(least, -_LARGEST, _LARGEST))  # inclusive, which is decided below
        found = self.index.range_search(rows, threshold, among=self._selected(params))
        distances = self._distances(found.scores)
        inside = distances < radius if self.metric_type == METRIC_L2 else distances > radius
        owners, ids = Lists(found.offsets, found.ids).owners[inside], found.ids[inside]
        order = np.lexsort((ids, owners))
        lims = offsets_of(np.bincount(owners, minlength=len(rows)))
        return lims, distances[inside][order], ids[order]

    def assign(self, x: Any, k: int = 1) -> Array:
        """The ids of the k best rows of every query."""
        ids = self.search(x, k)[1]
        return ids[:, 0] if k == 1 else ids

    def search_and_reconstruct(self, x: Any, k: int, **options: Any) -> tuple[Array, Array, Array]:
        """As `search`, and the rows ``[n, k, d]``; NaN where there is none."""
        distances, ids = self.search(x, k, **options)
        rows = np.full((*ids.shape, self.d), np.nan, np.float32)
        rows[ids >= 0] = self.reconstruct_batch(ids[ids >= 0])
        return distances, ids, rows

    def reconstruct(self, key: int) -> Array:
        """One row."""
        return np.array(self.reconstruct_batch([key])[0])

    def reconstruct_n(self, n0: int = 0, ni: int = -1) -> Array:
        """``ni`` rows from ``n0`` on, -1 for all that follow."""
        return self.reconstruct_batch(np.arange(n0, self.ntotal if ni == -1 else n0 + ni))

    def reconstruct_batch(self, key: Any) -> Array:
        """The rows of these ids."""
        ids = np.asarray(key, dtype=np.int64).reshape(-1)
        outside = np.flatnonzero((ids < 0) | (ids >= self.ntotal))
        if outside.size:
            raise WrongArgumentError(
                f"key is {ids[outside[0]]}; ids run from 0 to {self.ntotal - 1}"
            )
        return np.array(self.index.reconstruct(ids))

    def remove_ids(self, x: Any) -> int:
        """Remove the rows of these ids (an array or a selector), and return how many there were."""
        removed = _members(x, np.arange(self.ntotal))
        left = self.index.reconstruct(np.flatnonzero(~removed))
        self.index = FlatIndex(left, self.index.metric)
        return int(np.count_nonzero(removed))

    def merge_from(self, other_index: IndexFlat, add_id: int = 0) -> None:
        """Move the rows of another index to the end of this one."""
        metric = getattr(other_index, "metric_type", None)
        another = isinstance(other_index, IndexFlat) and other_index is not self
        if add_id or not another or metric != self.metric_type:
            raise WrongArgumentError(
                f"other_index is {shown(other_index)} with add_id={shown(add_id)}; give another "
                "flat index of the same metric, and no add_id"
            )
        self.add(other_index.index.reconstruct())
        other_index.reset()

    def _rows(self, x: Any) -> Array:
        rows = np.ascontiguousarray(x, dtype=np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.d:
            raise WrongArgumentError(f"x has shape {rows.shape}; give an array [n, {self.d}]")
        return rows

    def _distances(self, scores: Array) -> Array:
        if self.metric_type != METRIC_L2:
            return scores
        with np.errstate(over="ignore"):
            squares: Array = np.minimum(scores * scores, _LARGEST)
        return squares

    def _selected(self, params: Any) -> Array | None:
        selector = getattr(params, "sel", None)
        return None if selector is None else _members(selector, np.arange(self.ntotal))


class IndexFlatL2(IndexFlat):
    """`IndexFlat` by squared distance."""

    def __init__(self, d: int) -> None:
        super().__init__(d, METRIC_L2)


class IndexFlatIP(IndexFlat):
    """`IndexFlat` by inner product."""

    def __init__(self, d: int) -> None:
        super().__init__(d, METRIC_INNER_PRODUCT)


class IndexIDMap:
    """A flat index whose rows have ids of one's own; one that several rows have is no mistake here.

    ``index`` is the flat index, which must be empty, and ``id_map`` the ids of its rows.

    Thread safety: for one thread at a time. `stope.FlatIndex` has ids, and serves several.

    Raises:
        WrongArgumentError: as `IndexFlat`.

    >>> index = IndexIDMap(IndexFlatIP(2))
    >>> index.add_with_ids([[1, 0], [0, 1]], [70, 50])
    >>> index.search([[0, 1]], 1)[1].tolist()
    [[50]]
    """

    is_trained, verbose = True, False

    def __init__(self, index: IndexFlat) -> None:
        if not isinstance(index, IndexFlat) or index.ntotal:
            raise WrongArgumentError(f"index is {shown(index)}; give an empty IndexFlat")
        self.index, self.id_map = index, np.empty(0, np.int64)

    @property
    def d(self) -> int:
        """Elements of a row."""
        return self.index.d

    @property
    def metric_type(self) -> int:
        """What distances are."""
        return self.index.metric_type

    @property
    def ntotal(self) -> int:
        """How many rows there are."""
        return self.index.ntotal

    def train(self, x: Any) -> None:
        """Do nothing: there is nothing to train."""

    def reset(self) -> None:
        """Remove all rows."""
        self.index.reset()
        self.id_map = self.id_map[:0]

    def add(self, x: Any) -> None:
        """Refuse: rows need ids here."""
        raise WrongArgumentError("add gives no ids; use add_with_ids, or an IndexFlat")

    def add_with_ids(self, x: Any, ids: Any) -> None:
        """Append rows under their ids."""
        numbers = _integers(ids, "ids")
        if len(numbers) != len(x):
            raise WrongArgumentError(f"ids has {len(numbers)} for {len(x)} rows; give one for each")
        self.index.add(x)
        self.id_map = np.concatenate([self.id_map, numbers])

    def search(self, x: Any, k: int, *, params: Any = None) -> tuple[Array, Array]:
        """As `IndexFlat.search`; selectors are asked for ids of one's own."""
        distances, places = self.index.search(x, k, params=self._by_place(params))
        ids = np.where(places < 0, -1, self.id_map[places] if self.ntotal else -1)
        return distances, ids

    def range_search(
        self, x: Any, thresh: float, *, params: Any = None
    ) -> tuple[Array, Array, Array]:
        """As `IndexFlat.range_search`."""
        lims, distances, places = self.index.range_search(x, thresh, params=self._by_place(params))
        return lims, distances, self.id_map[places]

    def reconstruct(self, key: int) -> Array:
        """One row."""
        places = np.flatnonzero(self.id_map == key)
        if not places.size:
            raise WrongArgumentError(f"key is {shown(key)}, an id that is not there; give another")
        return self.index.reconstruct(int(places[0]))

    def remove_ids(self, x: Any) -> int:
        """Remove the rows of these ids (an array or a selector), and return how many there were."""
        removed = _members(x, self.id_map)
        self.id_map = self.id_map[~removed]
        return self.index.remove_ids(np.flatnonzero(removed))

    def _by_place(self, params: Any) -> Any:
        selector = getattr(params, "sel", None)
        if selector is None:
            return None
        return SimpleNamespace(sel=_members(selector, self.id_map))


IndexIDMap2 = IndexIDMap


def _members(selector: Any, ids: Array) -> NDArray[np.bool_]:
    """Which of the ids an array, a mask or one of faiss's selectors names."""
    if hasattr(selector, "is_member"):
        return np.fromiter(map(selector.is_member, ids.tolist()), dtype=bool, count=len(ids))
    array = np.asarray(selector)
    if array.dtype != bool:
        return np.isin(ids, _integers(np.atleast_1d(selector), "ids"))
    if array.shape != ids.shape:
        raise WrongArgumentError(f"ids is a mask of shape {array.shape}; give one of {len(ids)}")
    return array


def _integers(ids: Any, name: str) -> NDArray[np.int64]:
    """Ids as they are: a fraction is not cut off, nor a number brought into 64 bits."""
    try:
        numbers = flat(ids, name)
    except ValueError as error:
        raise WrongArgumentError(str(error)) from None
    if numbers is None or numbers.dtype != np.int64:
        raise WrongArgumentError(f"{name} is {shown(ids)}; give a list of integers")
    return numbers


def _into(out: Array | None, values: Array) -> Array:
    if out is None:
        return values
    if out.shape != values.shape:
        raise WrongArgumentError(f"D or I has shape {out.shape}; give one of {values.shape}")
    out[...] = values
    return out
