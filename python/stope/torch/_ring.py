"""Row losses over document shards that go around a ring of processes (docs/methods.md, H7, case 4).

Every shard gives, for the local queries, the log-sum-exp n_i of its negatives; they merge by

    n_i <- log(exp(n_i) + exp(n_i of the shard)),   d n_i / d n_i of the shard = exp(shard's - n_i).

The positives lie in the local shard: their few similarities are plain torch. Backward, the shards
go around once more, each with the sum of its gradient, which so comes home.

The negatives' log-sum-exp of one shard is the core's objective "decoupled" with one more document,
the zero vector, as everybody's positive: its logit is 0 and its gradient is thrown away.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import stope
import torch
from stope.torch._collectives import Passing, gather_rows, padded, rank, row_counts, world_size
from stope.torch._lists import id_lists, of_rows
from stope.torch._operators import Statistics

_OBJECTIVES = ("out", "in", "excl", "decoupled")
_BLOCK_OPTIONS = (
    "metric",
    "hard_negative_log_weight",
    "hardness",
    "hardness_strength",
    "precision",
)
_TENSORS = (
    "positive_weights",
    "hard_negatives",
    "log_weights",
    "exclude",
    "document_ids",
    "max_score",
    "min_score",
)


def check_options(options: dict[str, Any]) -> None:
    """Only what can be computed shard by shard."""
    directions = tuple(options.get("directions") or ("query_to_document",))
    objective = options.get("objective", "out")
    wrong = None
    if directions != ("query_to_document",):
        wrong = f"directions {directions}"
    elif objective not in _OBJECTIVES:
        wrong = f"objective {objective!r}"
    elif options.get("focal_margin") is not None:
        wrong = "focal_margin"
    elif options.get("drop"):
        wrong = f"drop={options['drop']}"
    elif not options.get("foreign_hard_negatives", True):
        wrong = "foreign_hard_negatives=False"
    if wrong:
        raise ValueError(f"the ring does not have {wrong}; use form='gather'")


class _Shard(NamedTuple):
    """Keyword arguments of the core for the local queries and one process's documents."""

    first: int  # id of its first document among those of all processes
    rows: int
    arguments: dict[str, Any]


def row_losses(
    queries: Any,
    documents: Any,
    positives: Any,
    temperature: Any,
    options: dict[str, Any],
    tensors: dict[str, Any],
    group: Any,
) -> tuple[Any, Statistics]:
    """Row losses of the local queries with gradient, and their statistics."""
    for name in tensors:
        if name not in _TENSORS:
            raise ValueError(f"the ring does not have {name}; use form='gather'")
    metric, weights = options.get("metric", "cosine"), tensors.get("positive_weights")
    owner, ids, share, scores = of_rows(queries, documents, positives, weights, metric)
    if not isinstance(temperature, torch.Tensor):
        temperature = torch.tensor(temperature, dtype=torch.float64)
    shards = _shards(queries, documents, owner, ids, scores.detach(), options, tensors, group)
    results = _Negatives.apply(queries, documents, temperature, shards, group)
    negatives, counts, best, best_scores = results
    objective = options.get("objective", "out")
    losses, log_sum_exp = _merge(objective, negatives, scores / temperature, owner, share)
    statistics = Statistics(
        losses.detach(),
        log_sum_exp.detach(),
        scores.detach(),
        counts,
        best,
        best_scores,
        ranks=None,
        kept=counts,
        left_out=torch.zeros_like(losses),
    )
    return losses, statistics


def _shards(
    queries: Any,
    documents: Any,
    owner: Any,
    ids: Any,
    scores: Any,
    options: dict[str, Any],
    tensors: dict[str, Any],
    group: Any,
) -> list[_Shard]:
    rows, device = queries.shape[0], queries.device
    counts = row_counts(documents.shape[0], device, group)
    first = [sum(counts[:r]) for r in range(len(counts))]
    shared = {name: options[name] for name in _BLOCK_OPTIONS if name in options}
    shared |= _limits(owner, scores, rows, options, tensors)
    log_weights, document_ids = (
        None
        if value is None
        else gather_rows(torch.as_tensor(value, device=device).detach(), group, counts)
        for value in (tensors.get("log_weights"), tensors.get("document_ids"))
    )
    of_queries = {
        name: _on(device, id_lists(tensors[name], name, rows, device))
        for name in ("hard_negatives", "exclude")
        if name in tensors
    }
    shards = []
    for r, count in enumerate(counts):
        mine = slice(first[r], first[r] + count)
        arguments = dict(shared)
        # Pairs (query, document of the shard) that are no negatives, one number each.
        pairs = [owner.new_zeros(0)]
        if r == rank(group):
            pairs.append(owner * count + ids)
            if "exclude" in of_queries:
                pairs.append(_owners(of_queries["exclude"]) * count + of_queries["exclude"][1])
            if "hard_negatives" in of_queries:
                arguments["hard_negatives"] = of_queries["hard_negatives"]
        elif "hard_negatives" in of_queries:
            arguments["hard_negatives"] = (owner.new_zeros(rows + 1), owner.new_zeros(0))
        if document_ids is not None:
            asked = document_ids[first[rank(group)] + ids]
            pairs.append(_same(owner, asked, document_ids[mine], count))
        arguments["exclude"] = _as_lists(torch.cat(pairs).unique(), rows, count)
        if log_weights is not None:
            arguments["log_weights"] = torch.cat([log_weights[mine], log_weights.new_zeros(1)])
        arguments["positives"] = owner.new_full((rows,), count)
        shards.append(_Shard(first[r], count, arguments))
    return shards


def _limits(
    owner: Any, scores: Any, rows: int, options: dict[str, Any], tensors: dict[str, Any]
) -> dict[str, Any]:
    """Margins as ceilings: the positives they are measured from lie in one shard only."""
    ceiling = scores.new_full((rows,), torch.inf)
    lowest = ceiling.scatter_reduce(0, owner, scores, "amin")
    for name in ("max_score", "absolute_margin", "relative_margin"):
        value = tensors.get(name, options.get(name))
        if value is None:
            continue
        limit = torch.as_tensor(value, dtype=torch.float32, device=scores.device)
        if name == "absolute_margin":
            limit = lowest - limit
        elif name == "relative_margin":
            limit = lowest - lowest.abs() * limit
        ceiling = torch.minimum(ceiling, limit)
    found = {} if bool(torch.isinf(ceiling).all()) else {"max_score": ceiling}
    floor = tensors.get("min_score", options.get("min_score"))
    return found if floor is None else {**found, "min_score": floor}


def _on(device: Any, lists: tuple[Any, Any]) -> tuple[Any, Any]:
    return lists[0].to(device), lists[1].to(device)


def _owners(lists: tuple[Any, Any]) -> Any:
    offsets = lists[0]
    rows = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff())


def _same(owner: Any, asked: Any, ids: Any, count: int) -> Any:
    """Pairs (query, document) whose document has an id that was asked for."""
    ordered, order = ids.sort(stable=True)
    low, high = torch.searchsorted(ordered, asked), torch.searchsorted(ordered, asked, right=True)
    lengths = high - low
    starts = torch.repeat_interleave(low - lengths.cumsum(0) + lengths, lengths)
    places = starts + torch.arange(int(lengths.sum()), device=starts.device)
    return torch.repeat_interleave(owner, lengths) * count + order[places]


def _as_lists(pairs: Any, rows: int, count: int) -> tuple[Any, Any]:
    """CSR from sorted pairs."""
    lengths = torch.bincount(pairs // count, minlength=rows)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]), pairs % count


def _merge(objective: str, negatives: Any, logits: Any, owner: Any, share: Any) -> tuple[Any, Any]:
    """Row losses from log-sum-exps of negatives and logits of positives (docs/methods.md, H1)."""
    rows = len(negatives)
    mean = negatives.new_zeros(rows).index_add(0, owner, share * logits)
    if objective == "decoupled":
        some = torch.isfinite(negatives)
        losses = torch.where(some, torch.where(some, negatives, 0.0) - mean, 0.0)
        return _where_positive(losses, owner, rows), negatives
    top = negatives.new_full((rows,), -torch.inf)
    top = top.scatter_reduce(0, owner, logits.detach(), "amax")
    top = torch.where(torch.isfinite(top), top, 0.0)
    summed = negatives.new_zeros(rows).index_add(0, owner, torch.exp(logits - top[owner]))
    positive = top + torch.log(torch.where(summed > 0, summed, 1.0))
    log_sum_exp = torch.logaddexp(negatives, positive)
    if objective == "excl":
        terms = share * torch.nn.functional.softplus(negatives[owner] - logits)
        losses = negatives.new_zeros(rows).index_add(0, owner, terms)
    else:
        losses = log_sum_exp - (mean if objective == "out" else positive)
    return _where_positive(losses, owner, rows), log_sum_exp


def _where_positive(losses: Any, owner: Any, rows: int) -> Any:
    some = torch.bincount(owner, minlength=rows) > 0
    return torch.where(some, losses, 0.0)


class _Negatives(torch.autograd.Function):  # type: ignore[misc]
    """The negatives' log-sum-exp over all shards."""

    @staticmethod
    def forward(
        ctx: Any, queries: Any, documents: Any, temperature: Any, shards: list[_Shard], group: Any
    ) -> Any:
        core: dict[str, Any] = {"objective": "decoupled", "temperature": float(temperature)}
        count, here = world_size(group), rank(group)
        rows = queries.shape[0]
        travelling = padded(documents.detach(), max(shard.rows for shard in shards))
        parts, states = [], []
        device = queries.device
        kept = torch.zeros(rows, dtype=torch.int64, device=device)
        best = torch.full((rows,), -1, dtype=torch.int64, device=device)
        best_scores = torch.full((rows,), -torch.inf, device=device)
        for step in range(count):
            shard = shards[(here - step) % count]
            passing = Passing(travelling, group) if step + 1 < count else None
            forward = stope.infonce_forward(
                queries.detach(), _with_zero(travelling, shard), **core, **shard.arguments
            )
            empty = forward.negatives == 0
            parts.append(torch.where(empty, -torch.inf, forward.losses))
            states.append(forward)
            kept += forward.negatives
            ids = torch.where(empty, -1, forward.best_negatives + shard.first)
            better = forward.best_negative_scores > best_scores
            better |= (forward.best_negative_scores == best_scores) & ~empty & (ids < best)
            best = torch.where(better, ids, best)
            best_scores = torch.where(better, forward.best_negative_scores, best_scores)
            if passing is not None:
                travelling = passing.arrived()
        stacked = torch.stack(parts)
        total = torch.logsumexp(stacked, 0)
        ctx.mark_non_differentiable(kept, best, best_scores)
        ctx.save_for_backward(queries, documents, temperature, stacked, total)
        ctx.states, ctx.shards, ctx.group = states, shards, group
        return total, kept, best, best_scores

    @staticmethod
    def backward(ctx: Any, gradient: Any, *_: Any) -> Any:
        queries, documents, temperature, stacked, total = ctx.saved_tensors
        core: dict[str, Any] = {"objective": "decoupled", "temperature": float(temperature)}
        shards, finite = ctx.shards, torch.isfinite(total)
        count, here = world_size(ctx.group), rank(ctx.group)
        travelling = padded(documents.detach(), max(shard.rows for shard in shards))
        arriving = torch.zeros_like(travelling, dtype=torch.float32)
        dq = torch.zeros_like(queries, dtype=torch.float32)
        dt = torch.zeros((), dtype=torch.float64)
        homeward = None
        for step in range(count):
            shard = shards[(here - step) % count]
            passing = Passing(travelling, ctx.group) if step + 1 < count else None
            share = torch.where(finite, gradient * torch.exp(stacked[step] - total), 0.0)
            gradients = stope.infonce_backward(
                queries.detach(),
                _with_zero(travelling, shard),
                ctx.states[step],
                share.contiguous(),
                **core,
                **shard.arguments,
            )
            dq += gradients.queries
            dt += gradients.temperature
            if homeward is not None:
                arriving = homeward.arrived()
            arriving[: shard.rows] += gradients.documents[: shard.rows]
            homeward = Passing(arriving, ctx.group)
            if passing is not None:
                travelling = passing.arrived()
        arriving = homeward.arrived() if homeward is not None else arriving
        return (
            dq.to(queries.dtype),
            arriving[: documents.shape[0]].to(documents.dtype),
            dt.to(temperature),
            None,
            None,
        )


def _with_zero(travelling: Any, shard: _Shard) -> Any:
    """The shard's documents and the zero vector."""
    documents = travelling[: shard.rows]
    return torch.cat([documents, documents.new_zeros((1, documents.shape[1]))])
