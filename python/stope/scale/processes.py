"""Who trains together, and what the processes tell each other; with one process, nothing.

A group is a process group of torch.distributed, None all processes. torch is not imported here:
where several processes train together, somebody has (`first_to_say` does, where they end early).
"""

from __future__ import annotations

import builtins
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from stope._extras import need

T = TypeVar("T")
_ASKING = timedelta(seconds=5)  # the launcher who has spoken already
_PATIENCE = timedelta(days=1)  # for what one process does alone; one that ends is heard of at once


def distributed() -> Any:
    """The module torch.distributed where it is initialised, else None."""
    module = sys.modules.get("torch.distributed")
    return module if module and module.is_available() and module.is_initialized() else None


def processes(group: Any = None) -> tuple[int, int]:
    """The process's number and how many train together; (0, 1) without torch.distributed."""
    module = distributed()
    return (module.get_rank(group), module.get_world_size(group)) if module else (0, 1)


def alone(group: Any = None) -> bool:
    """Whether there is no other process."""
    return processes(group)[1] <= 1


def launched() -> int:
    """How many processes a launcher such as torchrun says it has started; 1 without one."""
    told = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
    return int(os.environ["WORLD_SIZE"]) if told else 1


def meet(torch: Any) -> None:
    """Make a process group of the processes that torchrun started, unless there is one.

    Each takes the GPU of its number on its machine, where there are GPUs.

    Raises:
        ValueError: more processes on a machine than it has GPUs.
    """
    if launched() == 1 or distributed() is not None:
        return
    backend = "gloo"
    if torch.cuda.is_available():
        here, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if here >= count:
            raise ValueError(
                f"process {here} of this machine has no GPU, of which there are {count}; start as "
                "many processes as GPUs, or hide them all with CUDA_VISIBLE_DEVICES="
            )
        torch.cuda.set_device(here)
        backend = "cpu:gloo,cuda:nccl"  # a static encoder trains on the CPU
    torch.distributed.init_process_group(backend, timeout=_PATIENCE)


def first_to_say(sentence: str) -> bool:
    """Whether no other of the processes that torchrun started has asked this about the sentence.

    They need not come by together, nor at all: the launcher's store counts.
    """
    if launched() == 1:
        return True
    try:
        torch: Any = need("torch.distributed", extra="train")
        store = torch.TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            is_master=False,
            timeout=_ASKING,
        )
        round_of = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        key = hashlib.sha256(f"{round_of} {sentence}".encode()).hexdigest()
        return bool(store.add(f"stope/said/{key}", 1) == 1)
    except (ImportError, RuntimeError, ValueError):  # nobody is left to ask
        return True


def share(count: int) -> slice:
    """The process's part of so many things."""
    here, world = processes()
    return slice(count * here // world, count * (here + 1) // world)


def placed(tensor: Any, group: Any = None) -> Any:
    """The tensor where the processes exchange tensors: NCCL moves nothing but CUDA memory.

    One on a device stays on that device; another goes to the one that the group is bound to
    (``device_id`` of init_process_group), else to the current one.
    """
    module = distributed()
    if tensor.is_cuda or module.get_backend(group) != "nccl":
        return tensor
    bound = getattr(module.group.WORLD if group is None else group, "bound_device_id", None)
    return tensor.cuda(bound)


# What torch.distributed says where another process has ended, or does not come in time.
_LOST = re.compile(
    r"closed by (remote )?peer|connection (was )?(reset|refused|closed)|broken pipe|"
    r"timed out waiting|timeout caused pair|(wait|socket|operation) timeout|monitoredBarrier|"
    r"ncclRemoteError|remote process exit",
    re.IGNORECASE,
)


@contextmanager
def hearing(what: str) -> Iterator[None]:
    """Make a sentence of the error of a process whose peer has ended.

    Also a decorator. Messages of torch are left where they are about something else.

    Args:
        what: what was being done, such as "while rows were gathered".

    Raises:
        RuntimeError: another process ended, or did not come in time.
    """
    try:
        yield
    except RuntimeError as error:
        if distributed() is None or not _LOST.search(str(error)):
            raise
        here, world = processes()
        missing = re.search(r"\[Rank 0\].*Rank (\d+) failed", str(error))
        which = f"process {missing[1]}" if missing else "another one"
        raise RuntimeError(
            f"Process {here} of {world} lost {which} {what}: that one ended or stands still; its "
            "own message says why, or the log of the system that killed it"
        ) from error


@hearing("while numbers were added up")
def reduced(
    values: Sequence[float], operation: Literal["SUM", "MAX"], group: Any = None
) -> list[float]:
    """Sums or maxima over the processes, in float64; the values themselves where there is one."""
    if alone(group):
        return list(values)
    tensor = placed(sys.modules["torch"].tensor(values, dtype=sys.modules["torch"].float64), group)
    module = distributed()
    module.all_reduce(tensor, op=getattr(module.ReduceOp, operation), group=group)
    return [float(value) for value in tensor.tolist()]


@contextmanager
def together() -> Iterator[None]:
    """Let an error in one process be one in all, so that none waits for it in vain."""
    problem: Exception | None = None
    try:
        yield
    except Exception as error:  # raised again below, here and in the other processes
        problem = error
    told: list[Any] = []
    try:
        told = _told(None if problem is None else _described(problem))
    except RuntimeError:
        if problem is None:
            raise
    if problem is not None:
        raise problem
    if (first := next((each for each in told if each is not None), None)) is not None:
        raise _error(*first)


def _described(error: Exception) -> tuple[str, list[Any]]:
    """An error as JSON: its class's name and its arguments."""
    words = list(error.args)
    if isinstance(error, OSError) and error.filename is not None:
        words.append(str(error.filename))
    plain = all(word is None or isinstance(word, str | int) for word in words)
    return type(error).__name__, words if plain else [str(error)]


def _error(name: str, words: list[Any]) -> Exception:
    """What `_described` described; a RuntimeError where the class is none of Python's own."""
    kind = getattr(builtins, name, None)
    try:
        if isinstance(kind, type) and issubclass(kind, Exception):
            return kind(*words)
    except TypeError:  # other arguments than its own
        pass
    return RuntimeError(f"{name}: {' '.join(map(str, words))}")


def _told(value: Any) -> list[Any]:
    """The value of each process, which is one of JSON."""
    if alone():
        return [value]
    rows = gathered(np.frombuffer(json.dumps(value).encode(), np.uint8)[None])
    return [json.loads(row.tobytes().rstrip(b"\0")) for row in rows]


@hearing("while rows were gathered")
def gathered(rows: NDArray[Any]) -> NDArray[Any]:
    """The rows of all processes, in the order of their ranks; rows itself where there is one."""
    if alone():
        return rows
    torch, module = sys.modules["torch"], distributed()
    flat = rows.reshape(len(rows), -1) if rows.size else rows.reshape(len(rows), 0)
    shape = placed(torch.tensor(flat.shape))
    sizes = [torch.zeros_like(shape) for _ in range(module.get_world_size())]
    module.all_gather(sizes, shape)
    shapes = [tuple(size.tolist()) for size in sizes]
    wide = np.zeros(tuple(max(sizes) for sizes in zip(*shapes, strict=True)), dtype=rows.dtype)
    wide[: flat.shape[0], : flat.shape[1]] = flat
    mine = placed(torch.from_numpy(wide))
    parts = [torch.empty_like(mine) for _ in shapes]
    module.all_gather(parts, mine)
    joined = np.concatenate(
        [part.cpu().numpy()[:count] for part, (count, _) in zip(parts, shapes, strict=True)]
    )
    return joined.reshape(-1) if rows.ndim == 1 else joined


def of_first(value: T) -> T:
    """The first process's value in all, which is one of JSON, so that all decide alike."""
    first: T = _told(value if processes()[0] == 0 else None)[0]
    return first


def by_first(do: Callable[[], T]) -> T:
    """What the first process does alone, and what comes of it (JSON), in all; so its error."""
    if alone():
        return do()  # whatever it is
    done: Any = None
    with together():
        if processes()[0] == 0:
            done = do()
    first: T = of_first(done)
    return first


def same_in_all(number: int, what: str, remedy: str) -> None:
    """Raise, in all processes alike, unless every process has the same number (below 2^53)."""
    most, least = reduced([number, -number], "MAX")
    if most != -least:
        raise ValueError(f"The processes disagree on {what}; {remedy}")


def computed_in_first(compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """`by_first` of a matrix, which travels as it is."""
    if alone():
        return compute()
    torch = sys.modules["torch"]
    rows = np.empty((0, 0), np.float32)
    with together():
        if processes()[0] == 0:
            rows = compute()
    shape = _from_first(torch.tensor(rows.shape)).tolist()
    mine = torch.from_numpy(np.array(rows, np.float32)) if rows.size else torch.empty(shape)
    matrix: NDArray[np.float32] = _from_first(mine).cpu().numpy()
    return matrix


@hearing("while all waited for each other")
def wait(seconds: float | None = None) -> None:
    """Go on when all processes are here.

    Args:
        seconds: how long to wait for the others; default as long as the process group does.
    """
    if alone():
        return
    module = distributed()
    if module.get_backend() == "gloo":  # which can say who is missing
        limit = None if seconds is None else timedelta(seconds=seconds)
        module.monitored_barrier(timeout=limit)
    else:
        module.barrier()


@hearing("while the first one's numbers were sent")
def _from_first(tensor: Any) -> Any:
    tensor = placed(tensor)
    distributed().broadcast(tensor, 0)
    return tensor
