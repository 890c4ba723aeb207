"""Contenders whose processor time is measured, in turns: what bench_neighbors_large.py shares.

Every contender has one thread. One that would take hours answers a share of the work in each of
two turns, before and after what is measured whole; its seconds are those of the whole work.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import report


class Contender(NamedTuple):
    """What runs: given a turn (0 or 1) it answers that turn's `share` of the work."""

    run: Callable[[int], Any]
    share: float = 1.0


class Measured(NamedTuple):
    """Seconds of the whole work (share taken into account) and the answer of each turn."""

    processor: list[float]
    clock: list[float]
    answers: list[Any]


def in_turns(contenders: dict[str, Contender]) -> dict[str, Measured]:
    """Run shares, then what is whole, then the other shares."""
    made = {name: Measured([], [], []) for name in contenders}
    shared = [name for name, each in contenders.items() if each.share < 1]
    whole = [name for name in contenders if name not in shared]
    for turn, name in [
        *((0, name) for name in shared),
        *((0, name) for name in whole),
        *((1, name) for name in shared),
    ]:
        gc.collect()
        start, processor = time.perf_counter(), time.process_time()
        answer = contenders[name].run(turn)
        took = (time.process_time() - processor, time.perf_counter() - start)
        made[name].processor.append(took[0] / contenders[name].share)
        made[name].clock.append(took[1] / contenders[name].share)
        made[name].answers.append(answer)
        print(f"  {name}, turn {turn}: {took[0]:.1f} s of processor time, {took[1]:.1f} s")
        sys.stdout.flush()
    return made


def shares(rows: int, share: float) -> list[slice]:
    """The rows of each turn: the first ones of either half."""
    size = int(rows * share)
    return [slice(start, start + size) for start in (0, rows // 2)]


def seconds_of(run: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def described(
    label: str, made: dict[str, Measured], share: float, told: dict[str, Any]
) -> dict[str, Any]:
    """What was measured, for the file; answers themselves are left out."""
    seconds = {
        name: {
            "processor_seconds": float(np.mean(each.processor)),
            "of each turn": each.processor,
            "clock_seconds": float(np.mean(each.clock)),
        }
        for name, each in made.items()
    }
    print(label)
    for name, each in seconds.items():
        print(f"  {name}: {each['processor_seconds']:.1f} s")
    print(json.dumps(told, indent=1))
    return {"label": label, "share of what runs twice": share, "seconds": seconds, "told": told}


def one_thread() -> None:
    """Give every contender a single thread."""
    import faiss

    import stope
    import torch

    stope.set_num_threads(1)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def keep(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put one result beside those that the file has."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    around = {"machine": report.machine(), "versions": report.versions()}
    stored[name] = {"command": " ".join(sys.argv), **around, **result}
    path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
