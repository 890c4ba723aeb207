"""The contrastive loss over the documents of several processes (docs/methods.md, H7).

Process r of W has its own queries and documents; every document of every process is a negative of
every query. Its loss is

    L_r = W * sum_{i of r} w_i L_i / sum_{i of all} w_i,

so that the average over processes, which DistributedDataParallel takes of the gradients, is the
loss of one process with the concatenated batch: for the encoders, for the temperature and for the
weights, whatever the number of rows per process.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from stope._checks import choice
from stope._kinds import iterable, kinds
from stope.scale.processes import hearing
from stope.torch import _ring
from stope.torch._collectives import (
    gather_rows,
    own_rows,
    rank,
    row_counts,
    sum_of_all,
    world_size,
)
from stope.torch._lists import id_lists, one_each
from stope.torch._operators import Statistics
from stope.torch.losses import InfoNCELoss, check_weights, weighted_mean
from torch import distributed as dist

__all__ = [
    "DistributedInfoNCELoss", "average_gradients", "gather_rows", "own_rows", "rank", "sum_of_all",
    "world_size",
]  # fmt: skip

_OF_DOCUMENTS = ("log_weights", "document_ids", "guide_documents")
_OF_QUERIES = ("max_score", "min_score", "guide_queries")


class DistributedInfoNCELoss(InfoNCELoss):
    """:class:`stope.torch.InfoNCELoss` with the documents of all processes as negatives.

    Args:
        temperature: as for :class:`stope.torch.InfoNCELoss`.
        form: ``"gather"`` collects all documents in every process: O(W · b · d) memory for b
            documents each. ``"ring"`` passes them around and merges log-sum-exps: O(b · d), and
            every process waits for the slowest at every step. Both give the same loss up to
            rounding; the ring has only the direction ``"query_to_document"`` and no guides, queue,
            ``focal_margin``, ``foreign_hard_negatives=False``, or objectives ``"hardness"`` and
            ``"pairwise"``.
        group: a process group; default all processes.
        **options: as for :class:`stope.torch.InfoNCELoss`.

    Called as :class:`stope.torch.InfoNCELoss` is, with this process's queries and documents; ids in
    ``positives``, ``hard_negatives`` and ``exclude`` count this process's documents; in the gather
    form ``exclude`` reaches those of the others, too, which come before 0 and after the last, in
    the order of their ranks. Weights that are a function get this process's statistics. A queue is
    each process's own and should be the same in all. Without a process group, and with one process,
    it is :class:`stope.torch.InfoNCELoss`. With directions beyond ``"query_to_document"`` every
    process computes the rows of all of them and keeps its own.

    The loss's own parameters belong into a module that averages gradients over the processes:
    wrap the loss in DistributedDataParallel, or call :func:`average_gradients` after ``backward``.

    Its ``statistics`` are of this process's queries; ``best_negatives`` counts the documents of all
    processes in the order of their ranks. ``ranks`` is None in the ring form.

    Thread safety: one call at a time: the processes exchange tensors in the order of their calls.

    Raises:
        ValueError: an unknown form, an option that the ring does not have, weights that are zero in
            all processes, and what :class:`stope.torch.InfoNCELoss` raises. An error in one process
            leaves the others waiting until that process ends, as it does by itself under torchrun.
        RuntimeError: another process ended, or did not come within the group's timeout.

    Source: docs/methods.md, H7; ring: Cheng et al. 2024 (Inf-CL).

    >>> import torch
    >>> loss = DistributedInfoNCELoss(0.1, form="ring")
    >>> torch.equal(loss(torch.eye(3), torch.eye(3)), InfoNCELoss(0.1)(torch.eye(3), torch.eye(3)))
    True
    """

    def __init__(
        self,
        temperature: float = 0.05,
        *,
        form: str = "gather",
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(temperature, **options)
        choice(form, "form", ("gather", "ring"))
        if form == "ring":
            _ring.check_options(self.options)
        self.form = form
        self.group = group

    def _fused(
        self, queries: Any, documents: Any, positives: Any, tensors: dict[str, Any]
    ) -> tuple[Any, Statistics]:
        """The losses of this process's queries against the documents of all."""
        if world_size(self.group) == 1:
            return super()._fused(queries, documents, positives, tensors)
        extras = {name: value for name, value in tensors.items() if value is not None}
        if self.form == "ring":
            return _ring.row_losses(
                queries, documents, positives, self.temperature, self.options, extras, self.group
            )
        return self._gathered(queries, documents, positives, extras)

    def _softmax(self, logits: Any) -> Any:
        if world_size(self.group) == 1:
            return super()._softmax(logits)
        here = own_rows(logits.shape[0], logits.device, self.group)
        return super()._softmax(gather_rows(logits, self.group))[here]

    def mean(self, losses: Any, weights: Any = None, negatives: Any = None) -> Any:
        """The share of this process in the mean over the queries of all."""
        if world_size(self.group) == 1:
            return super().mean(losses, weights, negatives)
        if weights is None:
            weights = torch.ones_like(losses)
        weights = check_weights(losses, weights, none_is_fine=True)
        if self._of_pairs and negatives is not None:
            pairs = (weights * negatives.to(losses)).sum()
            total = sum_of_all(pairs, self.group).clamp(min=1e-30)
        else:
            total = sum_of_all(weights.sum(), self.group)
        if not bool(total > 0):
            return weighted_mean(losses, torch.zeros_like(losses))  # raises: there is no mean
        return world_size(self.group) * (weights * losses).sum() / total

    def _gathered(
        self, queries: Any, documents: Any, positives: Any, extras: dict[str, Any]
    ) -> tuple[Any, Statistics]:
        rows, device = queries.shape[0], queries.device
        counts = row_counts(documents.shape[0], device, self.group)
        first = sum(counts[: rank(self.group)])
        lists = {"positives": one_each(rows, device)}
        if positives is not None:
            lists["positives"] = id_lists(positives, "positives", rows, device)
        for name in ("hard_negatives", "exclude"):
            if name in extras:
                lists[name] = id_lists(extras.pop(name), name, rows, device)
        # Every process's device: NCCL moves nothing else.
        lists = {
            name: (offsets.to(device), ids.to(device) + first)
            for name, (offsets, ids) in lists.items()
        }
        for name in _OF_DOCUMENTS:
            if name in extras:
                extras[name] = gather_rows(_constant(extras[name], device), self.group, counts)
        documents = gather_rows(documents, self.group, counts)
        directions = self.options.get("directions") or ()
        if not isinstance(directions, (tuple, list)) or len(directions) < 2:
            return super()._fused(queries, documents, lists.pop("positives"), {**lists, **extras})
        return self._all_rows(queries, documents, lists, extras)

    def _all_rows(
        self, queries: Any, documents: Any, lists: dict[str, Any], extras: dict[str, Any]
    ) -> tuple[Any, Statistics]:
        """Queries of all processes are columns too, so all their rows are needed."""
        device = queries.device
        counts = row_counts(queries.shape[0], device, self.group)
        count = lists["positives"][1].shape[0]
        for name in _OF_QUERIES:
            if name in extras and torch.as_tensor(extras[name]).ndim:
                extras[name] = gather_rows(_constant(extras[name], device), self.group, counts)
        if "positive_weights" in extras:
            mine = _constant(extras["positive_weights"], device)
            extras["positive_weights"] = gather_rows(mine, self.group)
        lists = {name: self._all_lists(offsets, ids) for name, (offsets, ids) in lists.items()}
        positives = lists.pop("positives")
        everyone = gather_rows(queries, self.group, counts)
        losses, statistics = super()._fused(everyone, documents, positives, {**lists, **extras})
        first = sum(counts[: rank(self.group)])
        here = slice(first, first + queries.shape[0])
        start = int(positives[0][first])
        fields = {
            name: value[start : start + count] if name == "positive_scores" else value[here]
            for name, value in statistics._asdict().items()
        }
        return losses[here], Statistics(**fields)

    def _all_lists(self, offsets: Any, ids: Any) -> tuple[Any, Any]:
        lengths = gather_rows(offsets.diff(), self.group)
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        return offsets, gather_rows(ids, self.group)


def _constant(values: Any, device: Any) -> Any:
    return torch.as_tensor(values, device=device).detach()


@kinds(parameters=iterable)
@hearing("while gradients were averaged")
def average_gradients(parameters: Iterable[Any], group: Any = None) -> None:
    """Average gradients over the processes, in place, for parameters that no wrapper looks after.

    Args:
        parameters: such as ``loss.parameters()``; those without a gradient are left out, and must
            be the same ones in all processes.
        group: a process group; default all processes.
    """
    count = world_size(group)
    if count == 1:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad, group=group)
            parameter.grad /= count
