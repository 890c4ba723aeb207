"""The maps that an adapter puts on rows of length one: linear, low-rank, residual MLP.

    linear     f(x) = W x                    W [out, d], starts as the identity
    low_rank   f(x) = x + U V' x             U, V [d, r], U starts at 0
    mlp        f(x) = x + W2 gelu(W1 x)      W1 [h, d], W2 [d, h], W2 starts at 0

The same formulas serve training (torch tensors) and use (NumPy arrays); only gelu, which NumPy does
not have, always runs in torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from stope._checks import shown
from stope._extras import need
from stope._host import on_host
from stope._kinds import kinds
from stope._kinds import matrix as matrix_kind

Floats = NDArray[np.float32]


@kinds(weight=matrix_kind)
@dataclass(frozen=True, eq=False)
class Linear:
    """f(x) = W x.

    Attributes:
        weight: W, float32 [out, d].

    Example:
        >>> Linear(np.float32([[0, 2]]))(np.float32([[5, 3]])).tolist()
        [[6.0]]
    """

    kind: ClassVar[str] = "linear"
    weight: Any

    def __call__(self, rows: Any) -> Any:
        """Map rows [n, d] to [n, out]."""
        return rows @ self.weight.T

    @property
    def shape(self) -> tuple[int, int]:
        """(out, d)."""
        return int(self.weight.shape[0]), int(self.weight.shape[1])


@kinds(left=matrix_kind, right=matrix_kind)
@dataclass(frozen=True, eq=False)
class LowRank:
    """f(x) = x + U V' x, which is the matrix I + U V'.

    Attributes:
        left: U, float32 [d, r].
        right: V, float32 [d, r].

    Example:
        >>> LowRank(np.float32([[1], [0]]), np.float32([[0], [2]]))(np.float32([[5, 3]])).tolist()
        [[11.0, 3.0]]
    """

    kind: ClassVar[str] = "low_rank"
    left: Any
    right: Any

    def __call__(self, rows: Any) -> Any:
        """Map rows [n, d] to [n, d]."""
        return rows + (rows @ self.right) @ self.left.T

    @property
    def shape(self) -> tuple[int, int]:
        """(d, d)."""
        return int(self.left.shape[0]), int(self.right.shape[0])


@kinds(inner=matrix_kind, outer=matrix_kind)
@dataclass(frozen=True, eq=False)
class ResidualMLP:
    """f(x) = x + W2 gelu(W1 x), gelu(z) = z Phi(z) with Phi the normal distribution.

    Attributes:
        inner: W1, float32 [h, d].
        outer: W2, float32 [d, h].
    """

    kind: ClassVar[str] = "mlp"
    inner: Any
    outer: Any

    def __call__(self, rows: Any) -> Any:
        """Map rows [n, d] to [n, d]."""
        return rows + _gelu(rows @ self.inner.T) @ self.outer.T

    @property
    def shape(self) -> tuple[int, int]:
        """(d, d)."""
        return int(self.outer.shape[0]), int(self.inner.shape[1])


Map: TypeAlias = Linear | LowRank | ResidualMLP
KINDS: dict[str, type[Linear] | type[LowRank] | type[ResidualMLP]] = {
    kind.kind: kind for kind in (Linear, LowRank, ResidualMLP)
}


def arrays(transform: Map) -> dict[str, Any]:
    """The arrays of a map by name, in the order of its class.

    >>> list(arrays(Linear(np.eye(2, dtype=np.float32))))
    ['weight']
    """
    return {field.name: getattr(transform, field.name) for field in fields(transform)}


def matrix_of_rows(embeddings: Any, name: str) -> Floats:
    """Float32 [n, d], C-contiguous and finite; n and d above 0.

    Raises:
        TypeError: no numbers.
        ValueError: another shape, NaN or infinity.
    """
    try:
        array = np.asarray(on_host(embeddings), dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} is {shown(embeddings)}; give a float32 matrix [n, d]") from None
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; a filled matrix [n, d] is needed")
    wrong = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(wrong):
        raise ValueError(f"{name} has a NaN or an infinity in row {wrong[0]}")
    return np.ascontiguousarray(array)


def checked(transform: Any, name: str) -> Map:
    """The map with float32 arrays whose shapes agree; a matrix is a linear map.

    Raises:
        TypeError: neither a map nor a matrix.
        ValueError: arrays that are no matrices, do not fit together or hold NaN or infinity.
    """
    if not isinstance(transform, (Linear, LowRank, ResidualMLP)):
        if not isinstance(transform, np.ndarray):
            raise TypeError(
                f"{name} is a {type(transform).__name__}; give a matrix, or a Linear, LowRank or"
                " ResidualMLP"
            )
        transform = Linear(transform)
    converted = {
        field: np.ascontiguousarray(array, dtype=np.float32)
        for field, array in arrays(transform).items()
    }
    for field, array in converted.items():
        if array.ndim != 2 or 0 in array.shape:
            raise ValueError(f"{name}.{field} has shape {array.shape}; a filled matrix is needed")
        if not np.isfinite(array).all():
            raise ValueError(f"{name}.{field} has a NaN or an infinity")
    shapes = [array.shape for array in converted.values()]
    if (transform.kind == "low_rank" and shapes[0] != shapes[1]) or (
        transform.kind == "mlp" and shapes[0] != shapes[1][::-1]
    ):
        raise ValueError(
            f"{name} has {' and '.join(f'{field} {a.shape}' for field, a in converted.items())},"
            " which do not fit together"
        )
    return KINDS[transform.kind](**converted)


def matrix(transform: Linear | LowRank) -> Floats:
    """The dense matrix of a map that has one, float32 [out, d].

    >>> matrix(LowRank(np.float32([[1], [0]]), np.float32([[0], [2]]))).tolist()
    [[1.0, 2.0], [0.0, 1.0]]
    """
    if isinstance(transform, Linear):
        return np.asarray(transform.weight, dtype=np.float32)
    identity = np.eye(len(transform.left), dtype=np.float32)
    return np.asarray(identity + transform.left @ transform.right.T, dtype=np.float32)


def unit(rows: Any) -> Floats:
    """Rows of length one, float32; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True).clip(1e-12)
    return np.asarray(rows / lengths, dtype=np.float32)


def _gelu(values: Any) -> Any:
    torch: Any = need("torch", extra="train")
    if isinstance(values, np.ndarray):
        return torch.nn.functional.gelu(torch.from_numpy(values)).numpy()
    return torch.nn.functional.gelu(values)
