"""Ids per query as torch tensors in CSR form: list i is ids[offsets[i]:offsets[i + 1]]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from stope._checks import shown


def one_each(rows: Any, device: Any) -> tuple[Any, Any]:
    """Document i for query i."""
    offsets = torch.arange(rows + 1, dtype=torch.int64, device=device)
    return offsets, offsets[:-1].clone()


def id_lists(value: Any, name: str, rows: Any, device: Any) -> tuple[Any, Any]:
    """(offsets, ids) from a tuple of both, a tensor of ids [rows] or [rows, n], or id lists.

    Whether offsets rise and ids are in range is checked by the core, which reads them anyway.
    """
    if isinstance(value, tuple):
        if len(value) != 2:
            raise ValueError(
                f"{name} is a tuple of {len(value)}; a tuple is CSR (offsets, ids); give a list "
                "for one sequence of ids per query"
            )
        return _integers(value[0], f"{name} offsets"), _integers(value[1], f"{name} ids")
    if isinstance(value, Sequence) and not all(isinstance(item, int) for item in value):
        return _from_sequences(value, name, rows, device)
    ids = _integers(value, name)
    if ids.ndim not in (1, 2):
        raise ValueError(f"{name} has {ids.ndim} dimensions; give ids of shape [queries] or 2-D")
    if ids.shape[0] != rows:
        raise ValueError(
            f"{name} has ids for {ids.shape[0]} queries, but there are {rows}; give one row each"
        )
    width = 1 if ids.ndim == 1 else ids.shape[1]
    offsets = torch.arange(rows + 1, dtype=torch.int64, device=ids.device) * width
    return offsets, ids.reshape(-1).contiguous()


def of_rows(
    queries: Any, documents: Any, positives: Any, weights: Any, metric: str
) -> tuple[Any, Any, Any, Any]:
    """Of every positive: query, id, share of the query's weight, similarity with gradient.

    Args:
        positives: as for :func:`id_lists`; None: document i is query i's.
        weights: one for each, or None.
    """
    rows, device = queries.shape[0], queries.device
    if positives is None:
        offsets, ids = one_each(rows, device)
    else:
        offsets, ids = (t.to(device) for t in id_lists(positives, "positives", rows, device))
    owner = torch.repeat_interleave(torch.arange(rows, device=device), offsets.diff())
    share = torch.ones(len(ids), device=device)
    if weights is not None:
        share = torch.as_tensor(weights, dtype=torch.float32, device=device).detach()
    share = share / share.new_zeros(rows).index_add(0, owner, share)[owner]
    left, right = queries[owner].float(), documents[ids].float()
    if metric == "cosine":
        left, right = _unit(left), _unit(right)
    return owner, ids, share, (left * right).sum(1)


def _unit(x: Any) -> Any:
    """Rows of length 1; zero rows stay zero and get no gradient."""
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    some = length > 0
    return torch.where(some, x, 0.0) / torch.where(some, length, 1.0)


def _from_sequences(value: Sequence[Any], name: str, rows: Any, device: Any) -> tuple[Any, Any]:
    if len(value) != rows:
        raise ValueError(f"{name} has {len(value)} id lists for {rows} queries; give one each")
    lists = [_integers(item, f"{name}[{i}]").reshape(-1) for i, item in enumerate(value)]
    offsets = [0]
    for item in lists:
        offsets.append(offsets[-1] + item.shape[0])
    ids = torch.cat(lists) if lists else torch.zeros(0, dtype=torch.int64)
    return torch.tensor(offsets, dtype=torch.int64, device=device), ids.to(device)


def _integers(value: Any, name: str) -> Any:
    if isinstance(value, str | bytes | Mapping | Set):
        raise TypeError(f"{name} is {shown(value)}; give ids")
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is {shown(value)}; give ids") from None
    if tensor.numel() == 0:
        return tensor.to(torch.int64)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise TypeError(f"{name} has dtype {tensor.dtype}; ids are integers")
    return tensor.to(torch.int64).contiguous()
