"""What the processes of one training run tell each other; with one process, nothing.

torch is not imported here: where several processes train together, somebody has.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray


def processes() -> tuple[int, int]:
    """The process's number and how many train together; (0, 1) without torch.distributed."""
    distributed = _distributed()
    return (0, 1) if distributed is None else (distributed.get_rank(), distributed.get_world_size())


def share(count: int) -> slice:
    """The process's part of so many things."""
    here, world = processes()
    return slice(count * here // world, count * (here + 1) // world)


@contextmanager
def together() -> Iterator[None]:
    """Let an error in one process be one in all, so that none waits for it in vain."""
    problem: Exception | None = None
    try:
        yield
    except Exception as error:  # raised again below, here and in the other processes
        problem = error
    failed = gathered(np.array([[problem is not None]], dtype=np.int64))
    if problem is not None:
        raise problem
    if failed.any():
        raise RuntimeError(
            f"Process {int(failed.argmax())} failed while negatives were refreshed; its own "
            "message says why"
        )


def gathered(rows: NDArray[Any]) -> NDArray[Any]:
    """The rows of all processes, in the order of their ranks; rows itself where there is one."""
    distributed = _distributed()
    if distributed is None:
        return rows
    torch = sys.modules["torch"]
    world = distributed.get_world_size()
    flat = rows.reshape(len(rows), -1) if rows.size else rows.reshape(len(rows), 0)
    shape = _placed(torch.tensor(flat.shape))
    sizes = [torch.zeros_like(shape) for _ in range(world)]
    distributed.all_gather(sizes, shape)
    shapes = [tuple(size.tolist()) for size in sizes]
    wide = np.zeros(tuple(max(sizes) for sizes in zip(*shapes, strict=True)), dtype=rows.dtype)
    wide[: flat.shape[0], : flat.shape[1]] = flat
    own = _placed(torch.from_numpy(wide))
    parts = [torch.empty_like(own) for _ in range(world)]
    distributed.all_gather(parts, own)
    counts = [count for count, _ in shapes]
    joined = np.concatenate(
        [part.cpu().numpy()[:count] for part, count in zip(parts, counts, strict=True)]
    )
    return joined.reshape(-1) if rows.ndim == 1 else joined


def of_first(numbers: dict[str, float]) -> dict[str, float]:
    """The first process's numbers in all, so that all decide alike."""
    if _distributed() is None:
        return numbers
    torch = sys.modules["torch"]
    found = _from_first(torch.tensor(list(numbers.values()), dtype=torch.float64))
    return dict(zip(numbers, found.tolist(), strict=True))


def same_in_all(number: int, what: str) -> None:
    """Raise, in all processes alike, unless every process has the same number."""
    distributed = _distributed()
    if distributed is None:
        return
    mine = _placed(sys.modules["torch"].tensor([number, -number]))
    distributed.all_reduce(mine, distributed.ReduceOp.MAX)
    if int(mine[0]) != -int(mine[1]):
        raise ValueError(f"The processes disagree on {what}; give all the same output folder")


def computed_in_first(compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """A matrix that the first process computes, in all."""
    if _distributed() is None:
        return compute()
    torch = sys.modules["torch"]
    rows = compute() if processes()[0] == 0 else np.empty((0, 0), np.float32)
    shape = _from_first(torch.tensor(rows.shape)).tolist()
    mine = torch.from_numpy(np.array(rows, np.float32)) if rows.size else torch.empty(shape)
    found: NDArray[np.float32] = _from_first(mine).cpu().numpy()
    return found


def wait() -> None:
    """Go on when all processes are here."""
    distributed = _distributed()
    if distributed is not None:
        distributed.barrier()


def _distributed() -> Any:
    """The module torch.distributed, where several processes train together."""
    found = sys.modules.get("torch.distributed")
    if found is None or not found.is_available() or not found.is_initialized():
        return None
    return found if found.get_world_size() > 1 else None


def _from_first(tensor: Any) -> Any:
    tensor = _placed(tensor)
    _distributed().broadcast(tensor, 0)
    return tensor


def _placed(tensor: Any) -> Any:
    """The tensor where the processes exchange tensors: NCCL moves nothing but CUDA memory."""
    return tensor.cuda() if _distributed().get_backend() == "nccl" else tensor
