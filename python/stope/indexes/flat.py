"""FlatIndex: a corpus packed once, searched many times, saved and memory-mapped."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope.indexes import _file as _index_file
from stope.ops._search import TopK, search

_METRICS = ("dot", "cosine", "euclidean")


class FlatIndex:
    """An exact index: its answers equal :func:`stope.topk`'s, bit for bit.

    The corpus is packed once into int8 panels with their error bounds, a quarter of its float32
    size; a search then reads the panels instead of the corpus, and the corpus only to rescore.
    The index keeps a reference to the corpus it is given: do not change it afterwards.

    A corpus on a CUDA device (torch or CuPy) stays there, with panels of bfloat16 beside it, and is
    searched there, by queries on the same device.
    Queries on a device may search an index in host memory: its corpus streams through the device,
    as in :func:`stope.topk`, and its panels are not used.

    Args:
        corpus: ``[n, dim]``, float32, float16, bfloat16 or int8; n may not be 0.
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
        self,
        corpus: Any,
        metric: str = "dot",
        *,
        progress: Callable[[int, int], object] | None = None,
    ) -> None:
        if metric not in _METRICS:
            raise ValueError(f"metric is {metric!r}; give 'dot', 'cosine' or 'euclidean'")
        _arrays.check_progress(progress)
        shape = _arrays.matrix_shape(corpus, "corpus")
        if shape.rows == 0:
            raise ValueError("corpus is empty (0 rows); give at least one row to search")
        self._corpus = corpus
        self._metric = metric
        self._shape = shape
        self._owned: NDArray[Any] | None = None  # a growing copy on the CPU, once rows were added
        self._packed: Any  # bytes of the corpus's device
        if shape.device == "cpu":
            self._packed = _arrays.aligned_bytes(_core.packed_bytes(shape.rows, shape.dim))
            self._pack(corpus, 0, self._packed, progress)
        else:
            place = _arrays.place_of(corpus, shape.device, "corpus")
            self._packed = place.workspace(_core.packed_cuda_bytes(shape.rows, shape.dim))
            self._pack(corpus, 0, self._packed, progress, place=place)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._shape.rows

    def __repr__(self) -> str:
        """Return a short description."""
        s = self._shape
        return f"FlatIndex({s.rows} rows, dim={s.dim}, {s.dtype}, metric={self._metric!r})"

    @property
    def dim(self) -> int:
        """Elements of a row."""
        return self._shape.dim

    @property
    def metric(self) -> str:
        """What scores mean."""
        return self._metric

    @property
    def dtype(self) -> str:
        """Element type of the corpus: ``"float32"``, ``"float16"``, ``"bfloat16"``, ``"int8"``."""
        return self._shape.dtype

    def add(self, rows: Any) -> None:
        """Append rows; their ids continue from ``len(index)``.

        The first addition copies the corpus; capacity then grows by half, so that adding n rows
        in any portions costs O(n). On a CUDA device every addition copies the corpus.

        Raises:
            ValueError, TypeError: another dim, dtype or device, NaN or infinity (naming the row).
                The index is then as it was.
        """
        more = _arrays.matrix_shape(rows, "rows")
        if more.dim != self.dim:
            raise ValueError(f"rows have dim {more.dim} but the index has dim {self.dim}")
        if more.dtype != self.dtype:
            raise TypeError(f"rows are {more.dtype} but the index holds {self.dtype}; cast them")
        if more.device != self._shape.device:
            raise ValueError(
                f"rows are on {more.device} but the index is on {self._shape.device}; move them "
                "to its device"
            )
        if more.rows == 0:
            return
        before, after = len(self), len(self) + more.rows
        if more.device != "cpu":
            place = _arrays.place_of(self._corpus, more.device, "corpus")
            corpus = place.join(self._corpus, rows)
            packed = place.workspace(_core.packed_cuda_bytes(after, self.dim))
            have = _core.packed_cuda_bytes(before, self.dim)
            packed[:have] = self._packed
            self._pack(corpus, before, packed, None, "rows", place)
            self._corpus, self._packed = corpus, packed
            self._shape = self._shape._replace(rows=after)
            return
        store = self._room_for(after)
        store[before:after] = _arrays.bits(rows)
        packed = self._packed[: _core.packed_bytes(after, self.dim)]
        self._pack(_arrays.from_bits(store[:after], self.dtype), before, packed, None, "rows")
        self._corpus = _arrays.from_bits(store[:after], self.dtype)
        self._shape = self._shape._replace(rows=after)

    def search(
        self,
        queries: Any,
        k: int,
        *,
        exclude: Any = None,
        ceiling: Any = None,
        floor: Any = None,
        precision: str = "exact",
        out: tuple[Any, Any] | None = None,
        progress: Callable[[int, int], object] | None = None,
    ) -> TopK:
        """Find the k best rows of every query; the arguments are those of :func:`stope.topk`."""
        return search(
            queries,
            self._corpus,
            k,
            metric=self._metric,
            exclude=exclude,
            ceiling=ceiling,
            floor=floor,
            precision=precision,
            out=out,
            progress=progress,
            packed=self._panels(),
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the index to one file, by way of a temporary name in the same folder.

        The file holds a header, the corpus and the panels, each with a checksum; it is the same for
        every instruction set. :meth:`load` gives an index on the CPU.

        Raises:
            OSError: the file cannot be written; nothing is left behind.
        """
        corpus, panels = _arrays.bits(self._corpus), self._panels()
        if self._shape.device != "cpu":
            on_cpu = FlatIndex(_arrays.from_bits(corpus, self.dtype), self._metric)
            on_cpu.save(path)
            return
        _index_file.write(
            Path(path),
            corpus=corpus,
            packed=panels,
            metric=self._metric,
            dtype=self.dtype,
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, verify: bool = True) -> FlatIndex:
        """Open a saved index as a memory map.

        Args:
            path: what :meth:`save` wrote.
            verify: read the whole file once and compare its checksums; without it only the header
                and the file's length are checked.

        Raises:
            stope.errors.IndexFileError: not an index, another version, truncated or altered.
            OSError: the file cannot be read.
        """
        contents = _index_file.read(Path(path), verify=verify)
        index = cls.__new__(cls)
        index._corpus = _arrays.from_bits(contents.corpus, contents.dtype)
        index._metric = contents.metric
        index._shape = _arrays.matrix_shape(index._corpus, "corpus")
        index._packed = contents.packed
        index._owned = None
        return index

    def _panels(self) -> Any:
        """The packed corpus without the room to grow, which there is none of on a CUDA device."""
        if self._shape.device != "cpu":
            return self._packed
        return self._packed[: _core.packed_bytes(len(self), self.dim)]

    def _pack(
        self,
        corpus: Any,
        first: int,
        packed: Any,
        progress: Callable[[int, int], object] | None,
        name: str = "corpus",
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

    def _room_for(self, rows: int) -> NDArray[Any]:
        """The owned store, large enough; corpus and panels move when it grows."""
        if self._owned is None or self._owned.shape[0] < rows:
            capacity = max(rows, len(self) + len(self) // 2)
            current = _arrays.bits(self._corpus)
            owned = np.empty((capacity, self.dim), dtype=current.dtype)
            owned[: len(self)] = current
            packed = _arrays.aligned_bytes(_core.packed_bytes(capacity, self.dim))
            panels = self._panels()
            packed[: panels.size] = panels
            self._owned, self._packed = owned, packed
        return self._owned
