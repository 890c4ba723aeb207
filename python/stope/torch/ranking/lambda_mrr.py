"""Pairwise ranking weighted by reciprocal ranks: lambda-MRR, as UDR and ADORE train with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from torch.nn import functional

import torch
from stope._checks import choice, integer, shown
from stope._kinds import sequence
from stope.torch.ranking import _tensors
from stope.torch.ranking._tensors import Reduction

Average: TypeAlias = Literal["query", "pairs"]


def lambda_mrr(
    scores: torch.Tensor,
    relevance: torch.Tensor,
    *,
    ranks: torch.Tensor | None = None,
    metric_cut: int | None = None,
    mask: torch.Tensor | None = None,
    average: Average = "query",
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """RankNet over the pairs of a list, weighted by how much a swap would change the MRR.

    Over the ordered pairs ``P_i = {(j, k): y_ij > y_ik}`` of query i,
    ``L_i = 1 / |P_i| sum_{(j, k) in P_i} |a_j - a_k| log(1 + exp(x_ik - x_ij))`` with
    ``a_j = 1 / rank_j``, 0 for ranks beyond metric_cut. The ranks are those that the scores predict
    now, and have no gradient.

    Args:
        scores: float [B, L], x.
        relevance: [B, L] numbers y, larger is better: 1 and 0 for judged documents (ADORE), or
            ``1 / rank`` or minus the rank by a language model (UDR).
        ranks: integers [B, L] or [L], from 1; None ranks by falling score, the lower column first
            among equals. For documents in retrieved order with missing positives appended give
            ``torch.arange(1, L + 1)``: the positions that `append_missing_positives` speaks of.
        metric_cut: ranks beyond it count as 0; None is no cut. ADORE uses the number retrieved.
        average: "query" averages the pairs of each query and then the queries, as ADORE does;
            "pairs" averages all pairs of the batch, as UDR does. A query without pairs is skipped.
        reduction: the mean for "pairs" is ``sum w_i |P_i| L_i / sum w_i |P_i|``; "none" goes with
            "query" only.

    Raises ValueError: reduction "none" with average "pairs".
    Memory: O(B L^2).
    Source: UDR (docs/methods.md, D1; its clamp of score differences to 50 is left out), ADORE (B2).

    >>> by_model = torch.tensor([[1 / 1, 1 / 2, 1 / 3]])  # the language model's ranks
    >>> print(f"{lambda_mrr(torch.tensor([[0.2, 1.0, 0.5]]), by_model):.6f}")
    0.386722
    >>> scores, judged = torch.tensor([[3.0, 2, 1, 0]]), torch.tensor([[0, 1, 0, 0]])
    >>> print(f"{lambda_mrr(scores, judged):.6f}")
    0.246858
    >>> print(f"{lambda_mrr(scores, judged, metric_cut=2):.6f}")
    0.292242
    """
    choice(average, "average", get_args(Average))
    if average == "pairs" and reduction == "none":
        raise ValueError(
            "reduction is 'none' but average is 'pairs', which has no number per query; "
            "use average='query'"
        )
    scores = _tensors.floats(scores, "scores", 2)
    _tensors.numbers_like(relevance, "relevance", scores, "scores")
    present = _tensors.mask_like(mask, "mask", scores, "scores")
    scores = _tensors.floor(scores, present)
    places = predicted_ranks(scores) if ranks is None else _given_ranks(ranks, scores)
    gains = 1 / places.to(scores.dtype)
    if metric_cut is not None:
        gains = gains * (places <= integer(metric_cut, "metric_cut", 1))
    pairs = relevance[:, :, None] > relevance[:, None, :]
    pairs = pairs & present[:, :, None] & present[:, None, :]
    # Masked scores lie at the floor: their differences are replaced, not multiplied by 0.
    behind = (scores[:, None, :] - scores[:, :, None]).masked_fill(~pairs, 0)
    swaps = (gains[:, :, None] - gains[:, None, :]).abs() * pairs
    sums = (swaps * functional.softplus(behind)).sum((1, 2))
    count = pairs.sum((1, 2))
    losses = sums / count.clamp(min=1)
    if average == "pairs":
        shares = count.to(losses.dtype)
        if weights is not None:
            _tensors.reduce(losses, weights=weights)  # for what it says of bad weights
            shares = shares * weights.to(losses.dtype)
        total = shares.sum()
        choice(reduction, "reduction", get_args(Reduction))
        return (shares * losses).sum() / total.masked_fill(total == 0, 1)
    return _tensors.reduce(losses, counted=count > 0, weights=weights, reduction=reduction)


def predicted_ranks(scores: torch.Tensor) -> torch.Tensor:
    """Rank of each column by falling score, from 1; the lower column first among equal scores.

    Args:
        scores: float [..., L].

    Returns: int64 of the same shape, without gradient.
    Source: docs/methods.md, D1.

    >>> predicted_ranks(torch.tensor([[0.2, 1.0, 0.5]]))
    tensor([[3, 1, 2]])
    """
    scores = _tensors.floats(scores, "scores", empty=True).detach()
    order = scores.sort(dim=-1, descending=True, stable=True).indices
    counted = torch.arange(1, order.shape[-1] + 1, device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, counted)


class RetrievedList(NamedTuple):
    """Documents of each query in retrieved order, with positives that were missed at the end.

    Attributes:
        ids: int64 [B, K + A], -1 where there is none; column c has rank c + 1.
        relevance: bool [B, K + A], True at positives.
        mask: bool [B, K + A], True where there is a document.
    """

    ids: torch.Tensor
    relevance: torch.Tensor
    mask: torch.Tensor


def append_missing_positives(
    retrieved: torch.Tensor, positives: Sequence[Sequence[int]]
) -> RetrievedList:
    """Mark the positives of retrieved lists; a list without any gets all of its own at the end.

    The appended documents stand from column K on, that is at ranks from K + 1. With
    ``lambda_mrr(..., ranks=torch.arange(1, K + A + 1), metric_cut=K)`` they have gain 0 and are
    still paired with every retrieved document.

    Args:
        retrieved: int64 [B, K], document ids of each query by falling score; -1 where there is
            none.
        positives: for each query the ids of its positives, at least 0, at least one.

    Returns: `RetrievedList`; A is the largest number of ids appended to any query, and may be 0.
    Raises ValueError: a query without positives, an id below 0.
    Source: ADORE (docs/methods.md, B2).

    >>> found = append_missing_positives(torch.tensor([[4, 7], [5, 2]]), [[7, 9], [8]])
    >>> found.ids
    tensor([[ 4,  7, -1],
            [ 5,  2,  8]])
    >>> found.relevance.int()
    tensor([[0, 1, 0],
            [0, 0, 1]], dtype=torch.int32)
    """
    retrieved = _tensors.integers(retrieved, "retrieved", -1, torch.iinfo(torch.long).max)
    if retrieved.dim() != 2:
        raise ValueError(f"retrieved has shape {tuple(retrieved.shape)}; it needs 2 dimensions")
    sequence(positives, "positives")
    if len(positives) != len(retrieved):
        raise ValueError(f"positives has {len(positives)} queries, retrieved {len(retrieved)}")
    relevance = torch.zeros_like(retrieved, dtype=torch.bool)
    missing: list[torch.Tensor] = []
    for query, ids in enumerate(positives):
        try:
            known = torch.as_tensor(ids, device=retrieved.device).reshape(-1)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"positives[{query}] is {shown(ids)}; give integer ids") from None
        if not len(known):
            raise ValueError(f"positives[{query}] is empty; every query needs a positive")
        known = _tensors.integers(known, f"positives[{query}]", 0, torch.iinfo(torch.long).max)
        relevance[query] = torch.isin(retrieved[query], known)
        missing.append(known[:0] if bool(relevance[query].any()) else known)
    width = max((len(ids) for ids in missing), default=0)
    tail = retrieved.new_full((len(retrieved), width), -1)
    for query, ids in enumerate(missing):
        tail[query, : len(ids)] = ids
    ids = torch.cat([retrieved, tail], 1)
    return RetrievedList(ids, torch.cat([relevance, tail >= 0], 1), ids >= 0)


def _given_ranks(ranks: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    ranks = _tensors.integers(ranks, "ranks", 1, torch.iinfo(torch.long).max)
    if ranks.shape not in (scores.shape, scores.shape[1:]):
        raise ValueError(
            f"ranks has shape {tuple(ranks.shape)} for scores of shape {tuple(scores.shape)}"
        )
    _tensors.same_device(ranks, "ranks", scores, "scores")
    return ranks.expand_as(scores)
