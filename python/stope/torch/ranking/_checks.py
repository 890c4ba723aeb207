"""What the list losses share: checks that end in a sentence, masking, and the mean over queries."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

REDUCTIONS = ("mean", "none")


def floats(name: str, value: torch.Tensor, *dims: int) -> torch.Tensor:
    """Return value, half and bfloat16 widened to float32, if it is a float tensor of such rank."""
    _is_tensor(name, value)
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}; cast it with {name}.float()")
    if dims and value.dim() not in dims:
        wanted = " or ".join(str(dim) for dim in dims)
        raise ValueError(
            f"{name} has {value.dim()} dimensions (shape {tuple(value.shape)}); it needs {wanted}"
        )
    narrow = value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if narrow else value


def same_shape(name: str, value: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Refuse two tensors of different shapes or on different devices."""
    if value.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} but {other_name} has shape "
            f"{tuple(other.shape)}; they must be equal"
        )
    same_device(name, value, other_name, other)


def same_device(name: str, value: torch.Tensor, other_name: str, other: torch.Tensor) -> None:
    """Refuse two tensors on different devices."""
    if value.device != other.device:
        raise ValueError(
            f"{name} is on {value.device} but {other_name} is on {other.device}; "
            f"move one with .to(...)"
        )


def mask_like(
    name: str, value: torch.Tensor | None, other_name: str, other: torch.Tensor
) -> torch.Tensor:
    """Return the mask value, True where an entry counts, or all True when it is None."""
    if value is None:
        return torch.ones_like(other, dtype=torch.bool)
    _is_tensor(name, value)
    if value.dtype != torch.bool:
        raise TypeError(f"{name} has dtype {value.dtype}; give torch.bool, True where it counts")
    same_shape(name, value, other_name, other)
    return value


def integers(name: str, value: torch.Tensor, low: int, high: int) -> torch.Tensor:
    """Return value as int64 if it is an integer tensor with all entries in [low, high)."""
    _is_tensor(name, value)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {value.dtype}; give integers, torch.int64")
    value = value.long()
    wrong = (value < low) | (value >= high)
    if bool(wrong.any()):
        raise ValueError(
            f"{name} holds {int(value[wrong][0])}; its entries must be from {low} to {high - 1}"
        )
    return value


def positive(name: str, value: float) -> float:
    """Return value if it is a finite number above 0."""
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} is {value}; it must be a finite number above 0")
    return value


def not_negative(name: str, value: float) -> float:
    """Return value if it is a finite number of at least 0."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value}; it must be a finite number of at least 0")
    return value


def at_least_one(name: str, value: int) -> int:
    """Return value if it is at least 1."""
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1")
    return value


def choice(name: str, value: str, values: Sequence[str]) -> str:
    """Return value if it is one of values."""
    if value not in values:
        raise ValueError(f"{name} is {value!r}; choose one of {', '.join(values)}")
    return value


def floor(scores: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Replace what mask leaves out by a finite number far below every score.

    Its exponential is exactly 0 beside any score, like that of -inf, but differences of two such
    entries, and gradients of a log-sum-exp over nothing else, stay numbers instead of NaN.
    """
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min / 4)


def reduce(
    losses: torch.Tensor,
    *,
    counted: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    reduction: str = "mean",
) -> torch.Tensor:
    """Reduce losses [B] of queries: ``sum_i w_i L_i / sum_i w_i``, or ``w_i L_i`` for "none".

    Queries that counted leaves out have weight 0; if it leaves out all of them, the mean is 0.
    """
    choice("reduction", reduction, REDUCTIONS)
    shares = torch.ones_like(losses)
    if weights is not None:
        shares = floats("weights", weights, 1).to(losses.dtype)
        if shares.shape != losses.shape:
            raise ValueError(f"weights has {len(shares)} numbers for {len(losses)} queries")
        same_device("weights", shares, "the losses", losses)
        _check_weights(shares)
    if counted is not None:
        losses = losses.masked_fill(~counted, 0)
        shares = shares.masked_fill(~counted, 0)
    if reduction == "none":
        return shares * losses
    total = shares.sum()
    return (shares * losses).sum() / total.masked_fill(total == 0, 1)


def batch(name: str, value: torch.Tensor) -> None:
    """Refuse a batch without rows, or rows without entries: its mean would be 0 / 0."""
    if value.numel() == 0:
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it needs at least one entry")


def _is_tensor(name: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is of type {type(value).__name__}; give a torch.Tensor")


def _check_weights(weights: torch.Tensor) -> None:
    wrong = ~torch.isfinite(weights) | (weights < 0)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"weights[{row}] is {float(weights[row])}; weights must be finite and at least 0"
        )
    if not bool((weights > 0).any()):
        raise ValueError("weights are all 0; at least one must be above 0")
