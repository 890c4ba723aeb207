"""What the list losses share: checks that end in a sentence, masking, and the mean over queries."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from stope._checks import choice, number

Reduction: TypeAlias = Literal["mean", "none"]


def floats(value: torch.Tensor, name: str, *dims: int, empty: bool = False) -> torch.Tensor:
    """The float tensor, half and bfloat16 widened to float32, if it is of such rank and filled."""
    _check_tensor(value, name)
    if not value.is_floating_point():
        raise TypeError(f"{name} has dtype {value.dtype}; cast it with {name}.float()")
    if dims and value.dim() not in dims:
        wanted = " or ".join(str(dim) for dim in dims)
        raise ValueError(
            f"{name} has {value.dim()} dimensions (shape {tuple(value.shape)}); it needs {wanted}"
        )
    if value.numel() == 0 and not empty:  # its mean would be 0 / 0
        raise ValueError(f"{name} has shape {tuple(value.shape)}; it needs at least one entry")
    narrow = value.dtype in (torch.float16, torch.bfloat16)
    return value.float() if narrow else value


def same_shape(value: torch.Tensor, name: str, other: torch.Tensor, other_name: str) -> None:
    """Refuse two tensors of different shapes or on different devices."""
    if value.shape != other.shape:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)} but {other_name} has shape "
            f"{tuple(other.shape)}; they must be equal"
        )
    same_device(value, name, other, other_name)


def same_device(value: torch.Tensor, name: str, other: torch.Tensor, other_name: str) -> None:
    """Refuse two tensors on different devices."""
    if value.device != other.device:
        raise ValueError(
            f"{name} is on {value.device} but {other_name} is on {other.device}; "
            f"move one with .to(...)"
        )


def mask_like(
    value: torch.Tensor | None, name: str, other: torch.Tensor, other_name: str
) -> torch.Tensor:
    """The mask, True where an entry counts, or all True when it is None."""
    if value is None:
        return torch.ones_like(other, dtype=torch.bool)
    _check_tensor(value, name)
    if value.dtype != torch.bool:
        raise TypeError(f"{name} has dtype {value.dtype}; give torch.bool, True where it counts")
    same_shape(value, name, other, other_name)
    return value


def integers(value: torch.Tensor, name: str, low: int, high: int) -> torch.Tensor:
    """The integer tensor as int64, if all entries are in [low, high)."""
    _check_tensor(value, name)
    if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {value.dtype}; give integers, torch.int64")
    value = value.long()
    wrong = (value < low) | (value >= high)
    if bool(wrong.any()):
        raise ValueError(
            f"{name} holds {int(value[wrong][0])}; its entries must be from {low} to {high - 1}"
        )
    return value


def positive_columns(value: torch.Tensor | None, scores: torch.Tensor) -> torch.Tensor:
    """The column of each query's positive, int64 [B, 1], if they are columns of scores."""
    rows, columns = scores.shape
    if value is None:
        value = torch.zeros(rows, dtype=torch.long, device=scores.device)
    value = integers(value, "positives", 0, columns)
    if value.shape != (rows,):
        raise ValueError(f"positives has shape {tuple(value.shape)}; it needs ({rows},)")
    same_device(value, "positives", scores, "scores")
    return value[:, None]


def numbers_like(
    value: torch.Tensor, name: str, other: torch.Tensor, other_name: str
) -> torch.Tensor:
    """The tensor of any numbers, if it has the other's shape."""
    _check_tensor(value, name)
    same_shape(value, name, other, other_name)
    return value


def positive(value: float, name: str) -> float:
    """The number, or tensor of one element (which may have a gradient), if it is above 0."""
    remedy = "it must be a finite number above 0"
    if not number(value, name, remedy) > 0:
        raise ValueError(f"{name} is {value}; {remedy}")
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
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Reduce losses [B] of queries: ``sum_i w_i L_i / sum_i w_i``, or ``w_i L_i`` for "none".

    Queries that counted leaves out have weight 0; if it leaves out all of them, the mean is 0.
    """
    choice(reduction, "reduction", get_args(Reduction))
    shares = torch.ones_like(losses) if weights is None else _shares(weights, losses)
    if counted is not None:
        losses = losses.masked_fill(~counted, 0)
        shares = shares.masked_fill(~counted, 0)
    if reduction == "none":
        return shares * losses
    total = shares.sum()
    return (shares * losses).sum() / total.masked_fill(total == 0, 1)


def _shares(weights: torch.Tensor, losses: torch.Tensor) -> torch.Tensor:
    shares = floats(weights, "weights", 1).to(losses.dtype)
    if shares.shape != losses.shape:
        raise ValueError(f"weights has {len(shares)} numbers for {len(losses)} queries")
    same_device(shares, "weights", losses, "the losses")
    wrong = ~torch.isfinite(shares) | (shares < 0)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"weights[{row}] is {float(shares[row])}; weights must be finite and at least 0"
        )
    if not bool((shares > 0).any()):
        raise ValueError("weights are all 0; at least one must be above 0")
    return shares


def _check_tensor(value: object, name: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is of type {type(value).__name__}; give a torch.Tensor")
