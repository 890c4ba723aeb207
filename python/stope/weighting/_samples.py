"""One float64 vector in, one of the caller's own kind out.

Weights are one number per sample, so they are computed in NumPy whatever they come from: NumPy and
torch then agree to the last bit, and torch is not imported before somebody hands in a tensor.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Samples: TypeAlias = Any  # a NumPy array or a torch tensor; what comes back is of the same kind


def is_tensor(array: object) -> bool:
    """Whether array is a torch tensor; nobody has one before torch is imported."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(array, torch.Tensor)


def read(
    array: Samples,
    name: str,
    *,
    dims: tuple[int, ...] = (1,),
    low: float = -math.inf,
    high: float = math.inf,
    none: float | None = None,
    integers: bool = False,
) -> Vector:
    """The array as float64 on the CPU, without gradient, every entry finite and in [low, high].

    Sentences call it by its name; dims are the ranks that it may have, none the infinity that is
    allowed and says "there is none"; integers lets integers in, and booleans as 0 and 1.

    >>> read(np.float32([0.5, 2.0]), "losses").tolist()
    [0.5, 2.0]
    """
    values = _numpy(array, name, integers)
    if values.ndim not in dims:
        wanted = " or ".join(str(n) for n in dims)
        raise ValueError(
            f"{name} has {values.ndim} dimensions (shape {values.shape}); it needs {wanted}"
        )
    bad = ~np.isfinite(values)
    if none is not None:
        bad &= values != none
    if bad.any():
        where = _first(bad)
        raise ValueError(
            f"{name}[{where}] is {_at(values, bad)}; every entry must be finite"
            f"{'' if none is None else f' or {none}'}: leave out such samples and find their cause"
        )
    bad = ((values < low) | (values > high)) & np.isfinite(values)
    if bad.any():
        least = f"at least {low:g}" if low > -math.inf else ""
        most = f"at most {high:g}" if high < math.inf else ""
        raise ValueError(
            f"{name}[{_first(bad)}] is {_at(values, bad):g}; give numbers of "
            + " and ".join(part for part in (least, most) if part)
        )
    return values


def not_empty(array: Vector, name: str) -> Vector:
    """The array, if there is a sample in it."""
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); give at least one sample")
    return array


def same_length(name: str, array: Vector, other_name: str, other: Vector) -> None:
    """Refuse arrays of different numbers of samples."""
    if array.shape[0] != other.shape[0]:
        raise ValueError(
            f"{name} has {array.shape[0]} samples but {other_name} has {other.shape[0]}; "
            "give both for the same samples"
        )


def like(values: Vector, model: Samples) -> Samples:
    """The values as the kind of array that model is, on its device.

    float32 and float64 stay what they are; narrower floats and integers become float32.

    >>> like(np.ones(2), np.float32([3, 4])).dtype
    dtype('float32')
    """
    if is_tensor(model):
        torch = sys.modules["torch"]
        dtype = torch.float64 if model.dtype == torch.float64 else torch.float32
        return torch.from_numpy(values).to(device=model.device, dtype=dtype)
    return values.astype(np.float64 if model.dtype == np.float64 else np.float32)


def multiplied(factors: Mapping[str, Samples]) -> Samples:
    """w_i = the product of the weights of sample i, of the kind of the first; by name.

    >>> multiplied({"weights": np.array([0.5, 2.0]), "weight": np.array([3.0, 0.25])}).tolist()
    [1.5, 0.5]
    """
    (first, model), *others = factors.items()
    result = not_empty(read(model, first, low=0), first)
    for name, factor in others:
        values = read(factor, name, low=0)
        same_length(first, result, name, values)
        result = result * values
    return like(result, model)


def check_array(array: Samples, name: str, *, integers: bool) -> None:
    """Refuse what is no NumPy array or torch tensor of floats, or of integers where they may be."""
    if is_tensor(array):
        torch = sys.modules["torch"]
        kind = "f" if array.is_floating_point() else "b" if array.dtype == torch.bool else "i"
        kind, remedy = "c" if array.is_complex() else kind, f"{name}.float()"
    elif isinstance(array, np.ndarray):
        kind, remedy = array.dtype.kind, f"{name}.astype(np.float32)"
    else:
        raise TypeError(f"{name} is a {type(array).__name__}; give a NumPy array or a torch tensor")
    if kind not in ("fiub" if integers else "f"):
        raise TypeError(f"{name} has dtype {array.dtype}; give floats, such as {remedy}")


def _numpy(array: Samples, name: str, integers: bool) -> Vector:
    check_array(array, name, integers=integers)
    if is_tensor(array):
        torch = sys.modules["torch"]
        return array.detach().to("cpu", torch.float64).numpy()  # type: ignore[no-any-return]
    return array.astype(np.float64)  # type: ignore[no-any-return]


def _first(bad: NDArray[np.bool_]) -> str:
    return ", ".join(str(int(index)) for index in np.argwhere(bad)[0])


def _at(values: Vector, bad: NDArray[np.bool_]) -> float:
    return float(values[bad][0])
