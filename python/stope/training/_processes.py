"""What the processes of one training run tell each other; with one process, nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist


def several() -> bool:
    """Whether this process is one of several."""
    return bool(dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def of_first(numbers: dict[str, float]) -> dict[str, float]:
    """The first process's numbers in all, so that all decide alike."""
    if not several():
        return numbers
    found = _from_first(torch.tensor(list(numbers.values()), dtype=torch.float64))
    return dict(zip(numbers, found.tolist(), strict=True))


def same_in_all(number: int, what: str) -> None:
    """Raise, in all processes alike, unless every process has the same number."""
    if not several():
        return
    mine = _placed(torch.tensor([number, -number]))
    dist.all_reduce(mine, dist.ReduceOp.MAX)
    if int(mine[0]) != -int(mine[1]):
        raise ValueError(f"The processes disagree on {what}; give all the same output folder.")


def computed_in_first(compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """A matrix that the first process computes, in all."""
    if not several():
        return compute()
    rows = compute() if dist.get_rank() == 0 else np.empty((0, 0), np.float32)
    shape = _from_first(torch.tensor(rows.shape)).tolist()
    mine = torch.from_numpy(np.array(rows, np.float32)) if rows.size else torch.empty(shape)
    found: NDArray[np.float32] = _from_first(mine).cpu().numpy()
    return found


def wait() -> None:
    """Go on when all processes are here."""
    if several():
        dist.barrier()


def _from_first(tensor: Any) -> Any:
    tensor = _placed(tensor)
    dist.broadcast(tensor, 0)
    return tensor


def _placed(tensor: Any) -> Any:
    return tensor.cuda() if dist.get_backend() == "nccl" else tensor
