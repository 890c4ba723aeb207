"""Arrays in and out: shapes, id lists, limits per query, results in the caller's own kind."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _core
from stope._checks import real, shown
from stope._host import on_host
from stope.lists import Lists, as_int64, offsets_of


class MatrixShape(NamedTuple):
    """What the core saw of a matrix."""

    rows: int
    dim: int
    dtype: str
    device: str


def matrix_shape(array: object, name: str) -> MatrixShape:
    """Check one matrix (rank, dtype, strides) and return its shape."""
    return MatrixShape(*_core.matrix_shape(array, name))


def corpus_and_queries(
    queries: object, corpus: object, *, streams: bool = False, empty: bool = False
) -> tuple[MatrixShape, MatrixShape]:
    """Check both matrices; their dims must agree, and without ``empty`` both must have rows.

    With ``streams`` the corpus may be in host memory where the queries are on a device.
    """
    q = device_shape(queries, "queries")
    c = device_shape(corpus, "corpus")
    if q.device != c.device and not (streams and c.device == "cpu"):
        raise ValueError(
            f"queries are on {q.device} but corpus is on {c.device}; move one to the other's device"
        )
    if q.rows == 0 and not empty:
        raise ValueError("queries is empty (0 rows); give at least one query")
    if c.rows == 0 and not empty:
        raise ValueError("corpus is empty (0 rows); give at least one row to search")
    if q.dim != c.dim:
        raise ValueError(
            f"corpus has dim {c.dim} but queries have dim {q.dim}; embed both with the same encoder"
        )
    return q, c


def device_shape(array: object, name: str) -> MatrixShape:
    """Check one matrix, for an operation that runs where it lies."""
    shape = matrix_shape(array, name)
    if shape.device != "cpu" and not _core.build_info()["cuda"]:
        raise RuntimeError(
            f"{name} is on {shape.device}, but this stope was built without CUDA; move it to the "
            "CPU with .cpu()"
        )
    return shape


def some_rows(array: object, name: str) -> MatrixShape:
    """Check one matrix, which may not be empty."""
    shape = device_shape(array, name)
    if shape.rows == 0:
        raise ValueError(f"{name} is empty (0 rows); give at least one row")
    return shape


def workspace(size: int) -> NDArray[np.uint8]:
    """Scratch memory for one call of the core; pages that are not touched cost nothing."""
    return np.empty(size, dtype=np.uint8)


_CACHE_LINE = 64  # bytes


class Place(NamedTuple):
    """Where a call runs and its results lie: the CPU, or a device by way of torch or CuPy.

    ``stream`` is the caller's current one there, as CUDA numbers it (0 is the default stream).
    """

    library: str
    device: int
    stream: int

    def empty(self, shape: tuple[int, ...], dtype: type[np.generic]) -> Any:
        """Memory for a result.

        On the CPU it begins with a cache line: the core adds to blocks of gradients, and a row of
        a block that straddled two lines would cost two loads and two stores.
        """
        if self.library == "torch":
            torch = sys.modules["torch"]
            kind = getattr(torch, np.dtype(dtype).name)
            return torch.empty(shape, dtype=kind, device=f"cuda:{self.device}")
        if self.library == "cupy":
            cupy = sys.modules["cupy"]
            with cupy.cuda.Device(self.device):
                return cupy.empty(shape, dtype=dtype)
        size = math.prod(shape) * np.dtype(dtype).itemsize
        return aligned_bytes(size).view(dtype).reshape(shape)

    @property
    def recording(self) -> bool:
        """Whether the stream records a CUDA graph: nothing can be read from the device then."""
        if self.library == "torch":
            return bool(sys.modules["torch"].cuda.is_current_stream_capturing())
        if self.library == "cupy":
            cupy = sys.modules["cupy"]
            with cupy.cuda.Device(self.device):
                return bool(cupy.cuda.get_current_stream().is_capturing())
        return False

    @property
    def options(self) -> dict[str, Any]:
        """What the core is told beside the arrays: the stream, where there is one."""
        return {} if self.library == "numpy" else {"stream": self.stream}

    def pinned(self, size: int) -> NDArray[np.uint8]:
        """Host memory that the device copies from by itself, on its way from a corpus there."""
        if self.library == "torch":
            torch = sys.modules["torch"]
            memory = torch.empty(size, dtype=torch.uint8, pin_memory=True).numpy()
            return np.asarray(memory)
        cupy = sys.modules["cupy"]
        return np.frombuffer(cupy.cuda.alloc_pinned_memory(size), dtype=np.uint8, count=size)

    def workspace(self, size: int) -> Any:
        """Scratch memory for one call of the core; pages that are not touched cost nothing."""
        return self.empty((size,), np.uint8)

    def join(self, parts: Sequence[Any]) -> Any:
        """Arrays of this place one after another, in new memory."""
        if self is ON_CPU:
            return np.concatenate(parts)
        if self.library == "torch":
            return sys.modules["torch"].cat(parts)
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(self.device):
            return cupy.concatenate(parts)

    def owns(self, array: object) -> bool:
        """Whether an array is of the device's library, and so may be used without the CPU."""
        return self is not ON_CPU and type(array).__module__.split(".")[0] == self.library

    def vector(self, array: Any, dtype: type[np.generic]) -> Any:
        """An array as this dtype, contiguous and on the device; itself where it is that already."""
        if not self.owns(array):
            given = np.ascontiguousarray(on_host(array), dtype=dtype)
            return given if self is ON_CPU else self.bring(given)
        if self.library == "torch":
            kind = getattr(sys.modules["torch"], np.dtype(dtype).name)
            return array.detach().to(device=f"cuda:{self.device}", dtype=kind).contiguous()
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(self.device):
            return cupy.ascontiguousarray(array, dtype=dtype)

    def bring(self, array: NDArray[Any]) -> Any:
        """A result that was found on the CPU, in the caller's kind of array."""
        if self.library == "torch":
            return sys.modules["torch"].from_numpy(array).to(f"cuda:{self.device}")
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(self.device):
            return cupy.asarray(array)


ON_CPU = Place("numpy", 0, 0)


def place_of(array: object, device: str, name: str) -> Place:
    """Where a call with this array runs, on the current stream of the array's own library."""
    if device == "cpu":
        return ON_CPU
    index = int(device.removeprefix("cuda:"))
    library = type(array).__module__.split(".")[0]
    if library == "torch":
        stream = sys.modules["torch"].cuda.current_stream(index).cuda_stream
    elif library == "cupy":
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(index):
            stream = cupy.cuda.get_current_stream().ptr
    else:
        raise TypeError(
            f"{name} is a {type(array).__name__} on {device}, and results are allocated by torch "
            f"or CuPy there; give torch.from_dlpack({name}) or cupy.from_dlpack({name})"
        )
    return Place(library, index, int(stream))


def on_cpu(matrix: Any) -> Any:
    """A matrix of a device's library in host memory, of a kind that holds every dtype."""
    return matrix.detach().cpu() if hasattr(matrix, "detach") else matrix.get()


def as_id_vector(value: Any, name: str = "ids", *, wraps: bool = False) -> NDArray[np.int64] | None:
    """A flat vector of integers, if the value is one; None for lists of lists and CSR.

    Those beyond int64 are refused, or `wraps`: they become others, as different as they were.
    """
    if isinstance(value, tuple) and len(value) == 2 and not isinstance(value[0], int):
        return None
    if isinstance(value, Sequence) and not all(isinstance(v, (int, np.integer)) for v in value):
        return None
    values = on_host(value)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        return None
    return values.astype(np.int64) if wraps else np.array(as_int64(values, name))


def _integers(array: Any, name: str) -> NDArray[np.int64]:
    values = on_host(array)
    if values.size == 0:
        return np.zeros(0, dtype=np.int64)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {values.dtype}; ids are integers")
    if values.ndim != 1:
        raise ValueError(f"{name} has {values.ndim} dimensions; give a vector of ids")
    return np.require(as_int64(values, name), np.int64, ["C", "A"])


def is_csr(value: object, rows: int) -> bool:
    """Whether a value is the tuple ``(offsets, ids)``, and not a pair of lists for two queries."""
    if isinstance(value, Lists):
        return True
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    # A pair of lists for two queries is not CSR: its first element is not rows + 1 offsets.
    first = np.asarray(on_host(value[0])) if not isinstance(value[0], int) else None
    if first is None or first.ndim != 1:
        return False
    return bool(
        rows != 2
        or (
            first.size == rows + 1
            and first[0] == 0
            and bool(np.all(np.diff(first) >= 0))
            and first[-1] == len(value[1])
        )
    )


def id_lists(value: Any, name: str, rows: int, corpus_rows: int, *, padded: bool = False) -> Lists:
    """Ids per query as sorted CSR, from CSR ``(offsets, ids)`` or a sequence of id arrays.

    Ids may come in any order; one that is repeated within a query or lies outside the corpus is
    refused, naming the query. With `padded`, -1 is no id: it fills up the rows that stope returns.
    """
    offsets, ids = ragged_ids(value, name, rows, padded=padded)
    return _sorted_lists(np.ascontiguousarray(offsets), ids, name, corpus_rows)


def ragged_ids(value: Any, name: str, rows: int, *, padded: bool = False) -> Lists:
    """As `id_lists`, but ids in the caller's order, of any value and number."""
    if is_csr(value, rows):
        offsets = _integers(value[0], f"{name} offsets")
        ids = _integers(value[1], f"{name} ids")
        if offsets.size != rows + 1:
            raise ValueError(
                f"{name} has {offsets.size} offsets for {rows} queries; give {rows + 1}, "
                "from 0 to the number of ids"
            )
        if offsets[0] != 0 or offsets[-1] != ids.size or np.any(np.diff(offsets) < 0):
            raise ValueError(
                f"{name} offsets must rise from 0 to the number of ids ({ids.size}), "
                f"but go from {offsets[0]} to {offsets[-1]}"
            )
    else:
        if not isinstance(value, Sequence) and not hasattr(value, "__len__"):
            raise TypeError(
                f"{name} is a {type(value).__name__}; give one id array per query, "
                "or CSR as a tuple (offsets, ids)"
            )
        if len(value) != rows:
            raise ValueError(f"{name} has {len(value)} id lists for {rows} queries; give one each")
        lists = [_integers(item, f"{name}[{i}]") for i, item in enumerate(value)]
        offsets = offsets_of([item.size for item in lists])
        ids = np.concatenate(lists) if lists else np.zeros(0, dtype=np.int64)
    if padded and (ids == -1).any():
        before = np.concatenate([[0], np.cumsum(ids != -1)])
        offsets, ids = before[offsets], ids[ids != -1]
    return Lists(offsets, ids)


def _sorted_lists(
    offsets: NDArray[np.int64], ids: NDArray[np.int64], name: str, corpus_rows: int
) -> Lists:
    owner = Lists(offsets, ids).owners
    outside = np.flatnonzero((ids < 0) | (ids >= corpus_rows))
    if outside.size:
        at = outside[0]
        raise ValueError(
            f"{name} of query {owner[at]} has id {ids[at]}, but corpus ids run from 0 to "
            f"{corpus_rows - 1}"
        )
    ids = ids[np.lexsort((ids, owner))]
    repeated = np.flatnonzero((np.diff(ids) == 0) & (np.diff(owner) == 0))
    if repeated.size:
        at = repeated[0]
        raise ValueError(f"{name} of query {owner[at]} has id {ids[at]} more than once")
    return Lists(offsets, np.ascontiguousarray(ids))


def limits(value: Any, name: str, rows: int, toward: float) -> NDArray[np.float32] | None:
    """One float32 score limit per query from a scalar or a vector; None stays None.

    A limit between two float32 numbers moves ``toward`` (-inf for a ceiling, inf for a floor), so
    that comparing float32 scores with it means what comparing them with the given value would.
    """
    if value is None:
        return None
    try:
        values = on_host(value)
    except ValueError:
        raise TypeError(f"{name} is {shown(value)}; give one score per query") from None
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {values.dtype}; give one score per query")
    if values.ndim == 0:
        values = np.full(rows, values)
    if values.shape != (rows,):
        raise ValueError(
            f"{name} has shape {values.shape}; give one score per query, shape ({rows},)"
        )
    wide = values.astype(np.float64)
    missing = np.flatnonzero(np.isnan(wide))
    if missing.size:
        raise ValueError(f"{name} is NaN for query {missing[0]}; use infinity for no limit")
    with np.errstate(over="ignore"):
        narrow = wide.astype(np.float32)
    passed = narrow > wide if toward < 0 else narrow < wide
    return np.where(passed, np.nextafter(narrow, np.float32(toward)), narrow)


def threshold(value: Any, name: str) -> float:
    """The least float32 score that reaches a threshold, a finite number."""
    least = limits(real(value, name), name, 1, np.inf)
    assert least is not None
    return float(least[0])


def aligned_bytes(size: int) -> NDArray[np.uint8]:
    """Uninitialised bytes that start on a cache line."""
    raw = np.empty(size + _CACHE_LINE, dtype=np.uint8)
    start = -raw.ctypes.data % _CACHE_LINE
    return raw[start : start + size]


def output(
    out: Any,
    name: str,
    shape: tuple[int, ...],
    dtype: type[np.generic],
    place: Place = ON_CPU,
) -> Any:
    """The caller's result array after a check, or a new one."""
    if out is None:
        return place.empty(shape, dtype)
    library, array = type(out).__module__.split(".")[0], out
    if place is ON_CPU:
        array = out.numpy() if library == "torch" else out
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is a {type(out).__name__}; give a NumPy array or torch tensor")
    elif library != place.library:
        raise TypeError(
            f"{name} is a {type(out).__name__}; queries are of {place.library}, on "
            f"cuda:{place.device}, and results go to an array of the same kind there"
        )
    kind = str(array.dtype).removeprefix("torch.")
    if kind != np.dtype(dtype).name:
        raise TypeError(f"{name} has dtype {kind}; results are {np.dtype(dtype)}")
    if tuple(array.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(array.shape)}; results have shape {shape}")
    # On a device the core checks that the memory is contiguous.
    if place is ON_CPU and not (array.flags.c_contiguous and array.flags.writeable):
        raise ValueError(f"{name} must be C-contiguous and writable")
    return array


def like(result: Any, model: object, place: Place = ON_CPU) -> Any:
    """A result as the kind of array that ``model`` is: torch, JAX and CuPy, else NumPy."""
    if place is not ON_CPU:
        return place.bring(result) if isinstance(result, np.ndarray) else result
    kind = type(model).__module__.split(".")[0]
    if kind == "torch":
        return sys.modules["torch"].from_numpy(result)
    if kind in ("jax", "jaxlib"):
        jax = sys.modules["jax"]
        wide = result.dtype == np.int64 and not jax.config.jax_enable_x64
        if wide and result.size and np.abs(result).max() > np.iinfo(np.int32).max:
            raise ValueError(
                f"an id is {int(np.abs(result).max())}, and JAX keeps int32 unless jax_enable_x64 "
                "is set; set it, or give NumPy arrays"
            )
        return jax.numpy.asarray(result.astype(np.int32) if wide else result)
    return result


def take_rows(array: Any, rows: NDArray[np.int64]) -> Any:
    """The named rows, in the caller's own kind of array; no copy where they are the first ones."""
    if rows.size and rows[-1] == rows.size - 1 and np.all(np.diff(rows) == 1):
        return array[: rows.size]
    kind = type(array).__module__.split(".")[0]
    if kind == "torch":
        return array[sys.modules["torch"].from_numpy(rows)]
    if kind == "cupy":
        rows = sys.modules["cupy"].asarray(rows)
    return array[rows]


def bits(matrix: Any) -> NDArray[Any]:
    """A matrix as NumPy without changing a bit; bfloat16 becomes uint16."""
    if type(matrix).__module__.split(".")[0] == "torch":
        torch = sys.modules["torch"]
        tensor = matrix.detach().cpu()
        return np.asarray(
            (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
        )
    if type(matrix).__module__.split(".")[0] == "cupy":
        matrix = matrix.get()
    if not hasattr(matrix, "__array__"):  # which JAX's bfloat16 needs: DLPack's is not NumPy's
        matrix = np.from_dlpack(matrix) if hasattr(matrix, "__dlpack__") else matrix
    array = np.asarray(matrix)
    return array.view(np.uint16) if array.dtype.name == "bfloat16" else array


def from_bits(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Undo :func:`bits`; NumPy knows bfloat16 by way of ml_dtypes."""
    if dtype != "bfloat16":
        return array
    try:
        import ml_dtypes
    except ImportError:
        raise ImportError(
            "a bfloat16 matrix in NumPy needs ml_dtypes; run: pip install ml_dtypes"
        ) from None
    return array.view(ml_dtypes.bfloat16)
