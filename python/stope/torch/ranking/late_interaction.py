"""Soft late interaction: similarities of token sequences, to be fed to a contrastive loss.

With raw products r_ab = e_a . e_b of unnormalised tokens, both forms weigh cosines by a softmax of
r: over the target's tokens for each query token (MaxSim made smooth), or over the query's tokens
for a target pooled into one vector.
"""

from __future__ import annotations

from torch.nn import functional

import torch
from stope._checks import flag
from stope.torch.ranking import _tensors


def soft_late_interaction(
    query_tokens: torch.Tensor,
    target_tokens: torch.Tensor,
    *,
    query_mask: torch.Tensor | None = None,
    target_mask: torch.Tensor | None = None,
    temperature: float = 0.1,
    pairwise: bool = False,
) -> torch.Tensor:
    """Each query token against a soft choice of the target's tokens.

    ``sim(q, y) = sum_{a, b} A_ab cos(e_a, e_b)`` with ``A_a = softmax_b(e_a . e_b / temperature)``
    over the target's tokens. As the temperature goes to 0 it becomes the sum over query tokens of
    the cosine with the target token of the largest product: MaxSim, for tokens of equal length.

    Args:
        query_tokens, target_tokens: float [M, Lq, d] and [N, Ly, d], not normalised (normalised
            ones make A less sharp).
        query_mask, target_mask: bool, False at padding, where nothing matters, not even NaN.
        pairwise: score query i with target i only (M must be N) instead of with all.

    Returns: Float [M, N], or [M] when pairwise; float32, or float64 for float64 tokens.
    Raises ValueError: a row without a token.
    Memory: O(M N Lq Ly), or O(M Lq Ly) when pairwise.
    Source: UWE (docs/methods.md, D10, verified in a reader's summary, not in the authors' code).

    >>> query = torch.eye(2)[None]
    >>> target = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    >>> print(f"{soft_late_interaction(query, target).item():.6f}")
    1.792537
    >>> print(f"{soft_late_interaction(query, target, temperature=1e-3).item():.6f}")  # MaxSim
    1.800000
    """
    _tensors.positive(temperature, "temperature")
    flag(pairwise, "pairwise")
    queries, _ = _tokens("query", query_tokens, query_mask)
    targets, target_present = _tokens("target", target_tokens, target_mask)
    _fits("query_tokens", queries, "target_tokens", targets, pairwise)
    unit_queries, unit_targets = _unit(queries), _unit(targets)
    form = "mad,mbd->mab" if pairwise else "mad,nbd->mnab"
    products = torch.einsum(form, queries, targets) / temperature
    cosines = torch.einsum(form, unit_queries, unit_targets)
    choices = target_present[:, None, :] if pairwise else target_present[None, :, None, :]
    weights = _tensors.floor(products, choices).softmax(-1)
    return (weights * cosines).sum((-2, -1))  # the query's padding is zero, and so its cosines


def pooled_late_interaction(
    query_tokens: torch.Tensor,
    targets: torch.Tensor,
    *,
    query_mask: torch.Tensor | None = None,
    temperature: float = 1.0,
    pairwise: bool = False,
) -> torch.Tensor:
    """A soft choice of the query's tokens against a target that is one vector (ConTeXT-Match).

    ``sim(q, y) = sum_a A_a cos(e_a, y)`` with ``A = softmax_a(e_a . y / temperature)`` over the
    query's tokens. Padding is what query_mask says; the authors' code takes tokens whose product is
    below 1e-9 for padding.

    Args:
        query_tokens, targets: float [M, L, d], and [N, d], pooled; not normalised.
        query_mask, pairwise: as for :func:`soft_late_interaction`.

    Returns: Float [M, N], or [M] when pairwise; float32, or float64 for float64 tokens.
    Raises ValueError: a row without a token.
    Memory: O(M N L), or O(M L) when pairwise.
    Source: ConTeXT-Match (docs/methods.md, D10).

    >>> query, target = torch.eye(2)[None], torch.tensor([[1.0, 0.0]])
    >>> print(f"{pooled_late_interaction(query, target).item():.6f}")  # e / (e + 1)
    0.731059
    """
    _tensors.positive(temperature, "temperature")
    flag(pairwise, "pairwise")
    queries, present = _tokens("query", query_tokens, query_mask)
    targets = _tensors.floats(targets, "targets", 2)
    _fits("query_tokens", queries, "targets", targets, pairwise)
    unit_queries, unit_targets = _unit(queries), _unit(targets)
    form = "mad,md->ma" if pairwise else "mad,nd->mna"
    products = torch.einsum(form, queries, targets) / temperature
    cosines = torch.einsum(form, unit_queries, unit_targets)
    weights = _tensors.floor(products, present if pairwise else present[:, None, :]).softmax(-1)
    return (weights * cosines).sum(-1)


def _tokens(
    side: str, tokens: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens with zeros at padding, and the mask [rows, tokens]."""
    name = f"{side}_tokens"
    tokens = _tensors.floats(tokens, name, 3)
    present = _tensors.mask_like(
        mask, f"{side}_mask", tokens[..., 0], f"{name} without its last axis"
    )
    empty = ~present.any(1)
    if bool(empty.any()):
        raise ValueError(
            f"{side}_mask[{int(empty.nonzero()[0])}] leaves no token; drop that row, or keep one"
        )
    return tokens.masked_fill(~present[..., None], 0), present


def _unit(tokens: torch.Tensor) -> torch.Tensor:
    return functional.normalize(tokens, dim=-1)


def _fits(
    name: str, queries: torch.Tensor, target_name: str, targets: torch.Tensor, pairwise: bool
) -> None:
    if queries.shape[-1] != targets.shape[-1]:
        raise ValueError(
            f"{name} has dim {queries.shape[-1]} but {target_name} has dim {targets.shape[-1]}"
        )
    if pairwise and len(queries) != len(targets):
        raise ValueError(
            f"pairwise needs as many targets as queries, but {name} has {len(queries)} rows and "
            f"{target_name} has {len(targets)}"
        )
    _tensors.same_device(queries, name, targets, target_name)
