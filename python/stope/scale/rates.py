"""What this machine does in a second, measured in a few: searches, its disk, an encoder."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import counted, integer, one_each, path, size, texts
from stope.scale.plan import Machine, Search, products

__all__ = ["measure", "texts_per_second"]

_BYTES = 64 * 2**20  # of the corpus that is searched, and of the file that is written
_MOST_ROWS = 2**20
_FEW, _MANY = 8, 1024  # queries
_SECONDS = 2.0  # for the repeats of a search
_ENCODING, _BATCH = 5.0, 32  # seconds, texts
_SHARE = 0.8  # of the memory that there is
_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container's


def measure(
    dim: int,
    k: int = 20,
    *,
    itemsize: int = 4,
    folder: str | os.PathLike[str] = ".",
    memory: int | None = None,
) -> Machine:
    """Measure this machine, with the threads that stope has here.

    The search is timed on 64 MiB of random rows, with 8 queries and with 1,024; of the two times
    follow what a pass over the corpus takes and what the scores take. The disk is that of `folder`,
    in which a file of 64 MiB is written, let go from the memory and read by mapping it.

    Args:
        dim, k, itemsize: as of :class:`stope.scale.plan.Search`.
        folder: on the disk that corpus and results will lie on.
        memory: bytes that a worker may have. Default: 80% of the machine's, or of its container's.

    Returns:
        A :class:`stope.scale.plan.Machine` called "this". Its network is assumed, and so is the
        disk's speed of reading where the system cannot let go of a file.

    Raises:
        TypeError, ValueError: an argument that no search has; no such folder; a system that does
            not tell its memory, where `memory` is not given.
        RuntimeError: the machine was too busy: more queries took no longer than few.

    Memory: three times 64 MiB. Other work on the machine is measured with it: what is found is
    what the machine gives now.

    >>> measure(768).source.startswith("measured")
    True
    """
    size(dim, "dim"), size(k, "k")
    Search(1, k, dim, k, itemsize)  # refuses an itemsize
    folder = path(folder, "folder")
    if not folder.is_dir():
        raise ValueError(f"folder is {folder}; give a folder on the disk that is to be measured")
    memory = _memory() if memory is None else integer(memory, "memory", 1)
    rows = min(max(_BYTES // (dim * itemsize), 4), _MOST_ROWS)
    k = min(k, rows // 4)
    random = np.random.default_rng(0)
    corpus = _typed(random.standard_normal((rows, dim), np.float32), itemsize)
    near = random.integers(0, rows, _MANY)
    noise = random.standard_normal((_MANY, dim), np.float32)
    queries = _typed(corpus[near].astype(np.float32) + noise, itemsize)
    seconds = [
        _fastest(lambda count=count: stope.topk(queries[:count], corpus, k))  # type: ignore[misc]
        for count in (_FEW, _MANY)
    ]
    work = [products(Search(count, rows, dim, k, itemsize)) for count in (_FEW, _MANY)]
    if seconds[1] <= seconds[0]:
        raise RuntimeError(
            f"{_MANY} queries took {seconds[1]:.3f} s and {_FEW} took {seconds[0]:.3f} s; the "
            "machine is too busy to be measured: wait, or name another machine"
        )
    rate = (work[1] - work[0]) / (seconds[1] - seconds[0])
    one_pass = max(seconds[0] - work[0] / rate, seconds[0] / 10)
    read, written, how = _disk(folder)
    return Machine(
        "this",
        rate,
        rows * dim * itemsize / one_pass,
        memory,
        read,
        written,
        source=f"measured now, {counted(stope.get_num_threads(), 'threads')}, "
        f"{stope.isa.current()}{_load()}; {how}network: assumed",
    )


def texts_per_second(encoder: Any, sample: Sequence[str]) -> float:
    """How many texts like these an encoder embeds in a second.

    Args:
        encoder: whatever has ``encode``, as sentence-transformers' models have.
        sample: texts as long as yours, in any order; some hundred. As many are encoded, 32 at a
            time, as there is time for in five seconds.

    Raises:
        TypeError: no list of texts, or an encoder that cannot encode.
        ValueError: no text, or an encoder that does not give one row for each.

    >>> class Letters:
    ...     def encode(self, texts, **options):
    ...         return np.ones((len(texts), 4), np.float32)
    >>> texts_per_second(Letters(), ["ore", "pit"]) > 0
    True
    """
    from stope.encoders import encode_corpus

    sample = texts(sample, "sample")
    encode_corpus(encoder, sample[:8])  # loads what is loaded on the first call
    done, start = 0, time.perf_counter()
    while done < len(sample) and time.perf_counter() - start < _ENCODING:
        some = sample[done : done + _BATCH]
        one_each(encode_corpus(encoder, some), "encoder", len(some), "texts")
        done += len(some)
    return done / (time.perf_counter() - start)


def _typed(rows: NDArray[np.float32], itemsize: int) -> NDArray[Any]:
    if itemsize == 1:
        return np.clip(rows * 32, -127, 127).astype(np.int8)
    return rows.astype(np.float16) if itemsize == 2 else rows / np.float32(math.sqrt(rows.shape[1]))


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of three calls, or of as many as there is time for."""
    best, began = math.inf, time.perf_counter()
    for _ in range(3):
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() - began > _SECONDS:
            break
    return best


def _load() -> str:
    """What else the processors do, where that is much."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f" (busy: load average {load:.0f})" if load > (os.cpu_count() or 1) else ""


def _memory() -> int:
    try:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        raise ValueError(
            "memory is None but this system does not tell how much there is; give the bytes"
        ) from None
    with contextlib.suppress(OSError, ValueError):  # no container, or no limit ("max")
        there = min(there, int(_LIMIT.read_text()))
    return int(_SHARE * there)


def _disk(folder: Path) -> tuple[float, float, str]:
    """Bytes a second read and written, and what must be said of that."""
    block = np.random.default_rng(0).bytes(2**20)  # some disks compress
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".stope-plan-") as file:
        start = time.perf_counter()
        for _ in range(_BYTES // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        written = _BYTES / (time.perf_counter() - start)
        if not hasattr(os, "posix_fadvise"):
            return Machine.disk_read, written, "reading: assumed; "
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        start = time.perf_counter()
        pages = np.memmap(file.name, np.uint8, "r").reshape(-1, 4096)
        int(pages[:, 0].sum())  # touches every page
        return _BYTES / (time.perf_counter() - start), written, ""
