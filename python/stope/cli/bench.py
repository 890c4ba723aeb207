"""`stope bench`: how fast the operations are here, beside the libraries that are installed."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

import stope
from stope.cli import contenders, options, terminal
from stope.cli.installation import processor
from stope.cli.options import option
from stope.cli.terminal import reported

_PAUSE = 0.03  # seconds in which the threads of the contender before go to sleep
_FEWEST, _MOST = 3, 15  # turns
_SHORTEST = 0.02  # seconds of a sample: shorter calls are repeated in it

Only = Enum("Only", {name: name for name in contenders.OPERATIONS}, type=str)  # type: ignore[misc]


class Timed(NamedTuple):
    """Seconds of a call by the clock and of all processors, and what it returned."""

    wall: float
    processor: float
    answer: Any = None

    @property
    def idle(self) -> float:
        """Seconds that it takes on an idle machine, at most: others may be busy on this one."""
        return min(self.wall, self.processor)

    @classmethod
    def now(cls) -> Timed:
        """The clock and the processor time of this process."""
        return cls(time.perf_counter(), time.process_time())

    def since(self, start: Timed) -> Timed:
        """From then to now."""
        return Timed(self.wall - start.wall, self.processor - start.processor)


def timed(run: Callable[[], Any], calls: int = 1) -> Timed:
    """Time calls of a function, without the garbage collector's."""
    gc.disable()
    try:
        start = Timed.now()
        for _ in range(calls):
            answer = run()
        spent = Timed.now().since(start)
        return Timed(spent.wall / calls, spent.processor / calls, answer)
    finally:
        gc.enable()


@reported
def bench(
    context: typer.Context,
    seconds: Annotated[
        float, option("Time for all operations; their sizes are chosen by it.", min=1, max=3600)
    ] = 40.0,
    only: Annotated[
        list[Only] | None,
        option("Measure this operation; may be repeated.", metavar="OPERATION", default="all"),
    ] = None,
    dim: Annotated[int, option("Length of the vectors.", min=2, max=8192)] = 384,
    output: Annotated[
        Path | None, option("Also write the numbers as .json.", "--output", "-o", default="none")
    ] = None,
    as_json: options.Json = False,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Measure the operations on this machine, beside NumPy, torch, faiss, scikit-learn and usearch.

    Only NumPy need be there. Contenders take turns, and the median counts; a ratio above 1 means
    that stope is faster. Answers are compared with stope's, which are exact.

    [b]Example:[/b] stope bench --seconds 20 --only topk --only knn-graph
    """
    options.check_outputs((), [(output, (".json",))])
    options.set_threads(threads)
    chosen = [each.value for each in only] if only else list(contenders.OPERATIONS)
    chosen = list(dict.fromkeys(chosen))
    missing = {
        package: f"pip install {package}"
        for module, package in contenders.PEERS.items()
        if importlib.util.find_spec(module) is None
    }
    facts: dict[str, Any] = {"machine": _machine(), "dim": dim, "missing": list(missing)}
    facts["operations"], facts["failed"] = [], {}
    with terminal.bars(quiet) as bars, _blas(stope.get_num_threads()):
        for number, name in enumerate(chosen):
            bars.show("operations", number, len(chosen))
            row = _measured(name, seconds / len(chosen), dim, facts["failed"])
            if row is not None:
                facts["operations"].append(row)
        bars.show("operations", len(chosen), len(chosen))
    if output is not None:
        from stope._files.atomic import open_atomic

        with open_atomic(output) as file:
            file.write(json.dumps(facts, indent=1) + "\n")
    terminal.give(facts)
    _show(facts)
    for package, command in missing.items():
        terminal.say(f"not installed, so not measured: {package} ({command}).")
    for what, why in facts["failed"].items():
        terminal.say(f"{what} failed: {why}")
    load = facts["machine"]["load"]
    if load > 1.5 * facts["machine"]["cores"]:
        terminal.say(
            f"the machine is busy (load {load:.1f} on {facts['machine']['cores']} cores): times by "
            "the clock are too long, and processor times are steadier."
        )


def _measured(name: str, share: float, dim: int, failed: dict[str, str]) -> dict[str, Any] | None:
    """One operation: the largest size that fits its share of the time, measured in turns."""
    operation = contenders.OPERATIONS[name]
    peers = {
        peer: make
        for peer, make in operation.contenders.items()
        if importlib.util.find_spec("torch" if name == "infonce" else peer) is not None
    }
    if "stope" not in peers:
        return None
    rows = operation.smallest
    while True:
        gc.collect()
        data = contenders.inputs(rows, operation.queries, dim, stope.get_num_threads())
        runs, first = {}, {}
        started = Timed.now()
        for peer, make in list(peers.items()):
            try:
                runs[peer] = make(data)
                timed(runs[peer])
                first[peer] = timed(runs[peer])
            except Exception as error:  # of another library: the rest is measured all the same
                if peer == "stope":
                    raise
                failed[f"{name} by {peer}"] = f"{type(error).__name__}: {error}"
                del peers[peer]
                runs.pop(peer, None)
        share -= Timed.now().since(started).idle
        turn = sum(max(each.idle, _SHORTEST) for each in first.values())
        grows = (max(share, 0) / ((_FEWEST + 2) * turn)) ** (1 / operation.power)
        if grows < 2 or rows == operation.largest:
            break
        rows = min(operation.largest, rows * 2 ** int(math.log2(min(grows, 16))))
    samples = _in_turns(runs, first, share)
    medians = {
        peer: Timed(*(statistics.median(each[kind] for each in several) for kind in (0, 1)))
        for peer, several in samples.items()
    }
    exact, ours = first["stope"].answer, medians["stope"]
    return {
        "operation": name,
        "about": operation.about,
        "rows": rows,
        "contenders": [
            {
                "name": peer,
                "wall_seconds": each.wall,
                "processor_seconds": each.processor,
                "wall_ratio": each.wall / ours.wall,
                "processor_ratio": each.processor / ours.processor,
                "same_answer": operation.same(exact, first[peer].answer),
                "turns": len(samples[peer]),
            }
            for peer, each in medians.items()
        ],
    }


def _in_turns(
    runs: dict[str, Callable[[], Any]], first: dict[str, Timed], share: float
) -> dict[str, list[Timed]]:
    """Samples of each contender, taken in turns whose order rotates, as the time allows."""
    names = list(runs)
    samples: dict[str, list[Timed]] = {name: [] for name in names}
    calls = {name: math.ceil(_SHORTEST / max(first[name].idle, 1e-6)) for name in names}
    start = Timed.now()
    for turn in range(_MOST):
        if turn >= _FEWEST and Timed.now().since(start).idle > share:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            time.sleep(_PAUSE)
            samples[name].append(timed(runs[name], calls[name])._replace(answer=None))
    return samples


def _blas(threads: int) -> Any:
    """NumPy's and scikit-learn's threads, as far as they can be told."""
    if importlib.util.find_spec("threadpoolctl") is None:
        return nullcontext()
    return importlib.import_module("threadpoolctl").threadpool_limits(threads)


def _machine() -> dict[str, Any]:
    versions = {"python": platform.python_version(), "stope": stope.build_info()["version"]}
    for module, package in contenders.PEERS.items():
        if importlib.util.find_spec(module) is not None:
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                versions[package] = "unknown"
    return {
        "processor": processor(),
        "isa": stope.isa.current(),
        "cores": os.cpu_count(),
        "threads": stope.get_num_threads(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
        "versions": versions,
    }


def _show(facts: dict[str, Any]) -> None:
    machine = facts["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    terminal.tell(
        f"{machine['processor']}, {machine['isa']}, threads: {machine['threads']}; {versions}"
    )
    rows = []
    for operation in facts["operations"]:
        for place, each in enumerate(operation["contenders"]):
            about = f"{operation['operation']}: {operation['about']}"
            what = (about, f"{operation['rows']:,}") if place == 0 else ("", "")
            times = [f"{1e3 * each[f'{kind}_seconds']:,.2f}" for kind in ("wall", "processor")]
            compared = ["", "", ""]
            if each["name"] != "stope":
                compared = [f"{each[f'{kind}_ratio']:.2f}x" for kind in ("wall", "processor")]
                compared.append(f"{math.floor(each['same_answer'] * 1e3) / 10:g}%")
            rows.append((*what, each["name"], *times, *compared))
    header = [
        "operation",
        "rows",
        "by",
        "ms",
        "processor ms",
        "to stope",
        "processor",
        "same answer",
    ]
    terminal.show_table(f"Medians; vectors of {facts['dim']} float32", header, rows)
