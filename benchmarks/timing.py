"""How the benchmarks measure: interleaved times, extra memory in a fresh process, measured peaks.

Contenders of one row take turns, so a noisy minute hits all of them; the median of each counts.
Between turns there is a short pause, because OpenMP workers of the one before go on spinning.
Memory is the high-water mark (VmHWM) of a process that has loaded the inputs and nothing else:
run as a script, this file is that process.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import inputs as data
import peers

PAUSE_SECONDS = 0.03
SAMPLE_SECONDS = 0.05  # shorter calls are repeated inside one sample
FEWEST_SAMPLES = 3


class Timing(NamedTuple):
    """Seconds of each sample, their median, and what the first call returned."""

    seconds: list[float]
    median: float
    result: Any


class Memory(NamedTuple):
    """Bytes kept by preparation, and the peak of the run beyond them, its results not counted.

    `resident` is the high-water mark of the whole process during the run, inputs and all.
    """

    kept: int
    extra: int
    resident: int


def interleaved(
    runs: dict[str, peers.Run], threads: int, repeat: int, budget_seconds: float
) -> dict[str, Timing]:
    """Time the runs `repeat` times in turns; one that would exceed the budget gets fewer turns.

    With `repeat` 1 the first call counts, and is the only one.
    """
    results, calls, turns = {}, {}, {}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for name, run in runs.items():
        with peers.threads_of(name, threads):
            seconds, results[name] = _timed(run, 1)
            if seconds < SAMPLE_SECONDS:
                seconds = _seconds(run, 1)
        if repeat == 1:
            samples[name].append(seconds)
            calls[name], turns[name] = 1, 0
            continue
        calls[name] = max(1, math.ceil(SAMPLE_SECONDS / max(seconds, 1e-6)))
        affordable = int(budget_seconds / (seconds * calls[name]))
        turns[name] = min(repeat, max(FEWEST_SAMPLES, affordable))
    names = list(runs)
    for turn in range(repeat):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            if turn < turns[name]:
                time.sleep(PAUSE_SECONDS)
                with peers.threads_of(name, threads):
                    seconds = _seconds(runs[name], calls[name])
                samples[name].append(seconds / calls[name])
    return {
        name: Timing(samples[name], statistics.median(samples[name]), results[name])
        for name in names
    }


def _seconds(run: peers.Run, calls: int) -> float:
    """What it returns is let go at once: the next turn takes the same memory, already touched."""
    return _timed(run, calls)[0]


def _timed(run: peers.Run, calls: int) -> tuple[float, Any]:
    gc.collect()
    gc.disable()
    try:
        start = time.perf_counter()
        for _ in range(calls):
            result = run()
        return time.perf_counter() - start, result
    finally:
        gc.enable()


def peak_operations(isas: list[str]) -> dict[str, dict[str, Any]]:
    """Measured peaks of one core for each instruction set; exact scans use the int8 unit."""
    import stope
    from stope import _core

    peaks = {}
    for isa in isas:
        with stope.isa.only(isa):
            measured = [_core.measure_peak() for _ in range(3)]
        best = {unit: max(peak[unit] for peak in measured) for unit in measured[0]}
        peaks[isa] = {"unit": "int8", "ops_per_second": best["int8"], "all_units": best}
    return peaks


def extra_memory(names: list[str], work: data.Work, given: data.Inputs) -> dict[str, Memory]:
    """Memory of each contender on this row, each in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="stope-bench-") as folder:
        _save(given, Path(folder))
        return {name: _memory_in_child(name, work, folder) for name in names}


def _memory_in_child(name: str, work: data.Work, folder: str) -> Memory:
    order = json.dumps([name, type(work).__name__, dataclasses.asdict(work), folder])
    command = [sys.executable, os.fspath(Path(__file__).resolve()), order]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"measuring the memory of {name} failed:\n{done.stderr}")
    return Memory(*json.loads(done.stdout.splitlines()[-1]))


def _save(given: data.Inputs, folder: Path) -> None:
    is_bfloat16 = given.corpus.dtype.name == "bfloat16"
    corpus = given.corpus.view(np.uint16) if is_bfloat16 else given.corpus
    arrays = {"queries": given.queries, "corpus": corpus}
    arrays["positives_offsets"], arrays["positives_ids"] = given.positives
    if given.excluded is not None:
        arrays["excluded_offsets"], arrays["excluded_ids"] = given.excluded
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def _load(folder: Path, work: data.Work) -> data.Inputs:
    arrays = {path.stem: np.load(path) for path in folder.glob("*.npy")}
    corpus = arrays["corpus"]
    if work.dtype == "bfloat16":
        import ml_dtypes

        corpus = corpus.view(ml_dtypes.bfloat16)
    excluded = None
    if "excluded_ids" in arrays:
        excluded = (arrays["excluded_offsets"], arrays["excluded_ids"])
    positives = (arrays["positives_offsets"], arrays["positives_ids"])
    return data.Inputs(arrays["queries"], corpus, positives, excluded)


def _measure_here(name: str, work: data.Work, folder: Path) -> Memory:
    given = _load(folder, work)
    peers.import_packages(name, work)
    threads = peers.threads_for(work)
    with peers.threads_of(name, threads):
        before = _status_bytes("VmRSS")
        run = peers.prepare(name, work, given)
        gc.collect()
        _reset_high_water()
        prepared = _status_bytes("VmRSS")
        result = run()
        peak = _status_bytes("VmHWM")
    extra = peak - prepared - peers.result_bytes(result)
    return Memory(max(0, prepared - before), max(0, extra), peak)


def _reset_high_water() -> None:
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _status_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}: memory is measured on Linux only")


if __name__ == "__main__":
    contender, kind, fields, where = json.loads(sys.argv[1])
    asked = getattr(data, kind)(**fields)
    print(json.dumps(_measure_here(contender, asked, Path(where))))
