"""What the loss asks of torch.distributed: rows of all processes, sums, and one step of a ring."""

from __future__ import annotations

from typing import Any

import torch
from stope._kinds import a, at_least, kinds
from stope.scale.processes import hearing, processes
from torch import distributed as dist

_GATHERED, _PASSED = "while rows were gathered", "while rows went round the ring"


def world_size(group: Any = None) -> int:
    """How many processes train together."""
    return processes(group)[1]


def rank(group: Any = None) -> int:
    """The number of this process among them."""
    return processes(group)[0]


@hearing(_GATHERED)
def row_counts(rows: int, device: Any, group: Any = None) -> list[int]:
    """How many rows every process has."""
    if world_size(group) == 1:
        return [rows]
    counts = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world_size(group))]
    dist.all_gather(counts, torch.tensor([rows], dtype=torch.int64, device=device), group=group)
    return [int(count) for count in counts]


@kinds(rows=at_least(0))
def own_rows(rows: int, device: Any = "cpu", group: Any = None) -> slice:
    """Where this process's rows lie among those of all processes."""
    counts = row_counts(rows, device, group)
    first = sum(counts[: rank(group)])
    return slice(first, first + rows)


@kinds(tensor=a(torch.Tensor))
def gather_rows(tensor: Any, group: Any = None, counts: list[int] | None = None) -> Any:
    """The rows of all processes, in the order of their ranks, with gradient.

    Processes may have different numbers of rows. The backward pass gives every process the sum of
    the gradients that all processes have for its rows.

    Args:
        tensor: ``[rows, ...]``; dtype and the other axes agree among the processes.
        group: a process group; default all processes.
        counts: rows of every process, where the caller knows them.

    >>> import torch
    >>> gather_rows(torch.ones(2, 3)).shape  # without a process group: what was given
    torch.Size([2, 3])
    """
    if world_size(group) == 1:
        return tensor
    if counts is None:
        counts = row_counts(tensor.shape[0], tensor.device, group)
    return _Gather.apply(tensor, counts, group)


@kinds(tensor=a(torch.Tensor))
def sum_of_all(tensor: Any, group: Any = None) -> Any:
    """The sum over all processes, with gradient."""
    return tensor if world_size(group) == 1 else _Sum.apply(tensor, group)


def padded(tensor: Any, rows: int) -> Any:
    """The tensor with as many rows as the largest of all processes, zeros at its end."""
    if tensor.shape[0] == rows:
        return tensor.contiguous()
    wide = tensor.new_zeros((rows, *tensor.shape[1:]))
    wide[: tensor.shape[0]] = tensor
    return wide


class Passing:
    """A tensor on its way to the next process of the ring, while the previous one's arrives."""

    def __init__(self, tensor: Any, group: Any = None) -> None:
        count, here = world_size(group), rank(group)
        ahead, behind = (here + 1) % count, (here - 1) % count
        if group is not None:
            ahead, behind = (dist.get_global_rank(group, r) for r in (ahead, behind))
        self._sent = tensor  # alive until it has left
        self._arriving = torch.empty_like(tensor)
        with hearing(_PASSED):
            self._work = dist.batch_isend_irecv(
                [
                    dist.P2POp(dist.isend, tensor, ahead, group),
                    dist.P2POp(dist.irecv, self._arriving, behind, group),
                ]
            )

    @hearing(_PASSED)
    def arrived(self) -> Any:
        """Wait, and return the tensor of the previous process."""
        for work in self._work:
            work.wait()
        return self._arriving


class _Gather(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    @hearing(_GATHERED)
    def forward(ctx: Any, tensor: Any, counts: list[int], group: Any) -> Any:
        ctx.counts, ctx.group = counts, group
        mine = padded(tensor.detach(), max(counts))
        parts = [torch.empty_like(mine) for _ in counts]
        dist.all_gather(parts, mine, group=group)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @hearing("while gradients were added up")
    def backward(ctx: Any, gradient: Any) -> Any:
        # Half precision is summed in float32: the sum has one term per process.
        half = gradient.dtype in (torch.float16, torch.bfloat16)
        total = gradient.float() if half else gradient.clone()
        dist.all_reduce(total.contiguous(), group=ctx.group)
        first = sum(ctx.counts[: rank(ctx.group)])
        mine = total[first : first + ctx.counts[rank(ctx.group)]]
        return mine.to(gradient.dtype), None, None


class _Sum(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    @hearing("while numbers were added up")
    def forward(ctx: Any, tensor: Any, group: Any) -> Any:
        ctx.group = group
        total = tensor.detach().clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    @hearing("while gradients were added up")
    def backward(ctx: Any, gradient: Any) -> Any:
        total = gradient.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None
