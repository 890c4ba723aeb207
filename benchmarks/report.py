"""What a benchmark leaves behind: one table on the terminal and, when asked, a JSON file."""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

import inputs as data
import timing

FLAGS = (
    *("avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512bw", "avx512_bf16", "avx512_vnni"),
    *("amx_tile", "amx_int8", "amx_bf16"),
)
PACKAGES = (
    *("stope", "numpy", "faiss-cpu", "torch", "usearch", "sentence-transformers", "datasets"),
    *("ml-dtypes", "rich"),
)


class Row(NamedTuple):
    """One line of the table: a subject on one work, the peers it was timed with, the verdict."""

    work: data.Work
    subject: str
    timings: dict[str, timing.Timing]
    memory: dict[str, timing.Memory]
    peak: dict[str, Any] | None
    answer: str
    details: dict[str, Any]

    @property
    def rate(self) -> float:
        """Operations per second of the subject."""
        return self.work.operations / self.timings[self.subject].median

    @property
    def peak_share(self) -> float | None:
        """The subject's rate over the measured peak of all its threads."""
        if self.peak is None:
            return None
        return self.rate / (self.peak["ops_per_second"] * (self.work.threads or 1))

    def ratio(self, peer: str) -> float:
        """How many times the peer's median time exceeds the subject's."""
        return self.timings[peer].median / self.timings[self.subject].median


def print_table(title: str, rows: list[Row], peer_names: list[str]) -> None:
    """Print the one table of a benchmark."""
    table = Table(title=title, title_justify="left", caption_justify="left", caption=caption(rows))
    table.add_column("work")
    for heading in ("subject", "time", "rate", "of peak", "memory"):
        table.add_column(heading, justify="left" if heading == "subject" else "right")
    for peer in peer_names:
        table.add_column(peer, justify="right")
    table.add_column("answer")
    for position, row in enumerate(rows):
        last = position + 1 == len(rows) or rows[position + 1].work != row.work
        table.add_row(*_cells(row, peer_names), end_section=last)
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)


def caption(rows: list[Row]) -> str:
    """What the columns mean."""
    return (
        f"time: median of interleaved runs. rate: {rows[0].work.counted} / time. of peak: of the "
        "measured peak of the unit used, all threads.\nmemory: what preparation keeps + peak of "
        "the run, beyond inputs and results. peers: ratio of the peer's time to the subject's, its "
        "time, its memory."
    )


def _cells(row: Row, peer_names: list[str]) -> list[str]:
    work = row.work
    unit = "GOP/s" if row.peak and "int" in row.peak["unit"] else "GFLOP/s"
    share = "" if row.peak_share is None else f"{row.peak_share:.0%}\n{row.peak['unit']}"
    cells = [
        f"{work.name}\n{work.label}",
        row.subject,
        seconds_text(row.timings[row.subject].median),
        f"{row.rate / 1e9:,.0f}\n{unit}",
        share,
        _memory_text(row.memory.get(row.subject)),
    ]
    for peer in peer_names:
        if peer == row.subject or peer not in row.timings:
            cells.append("")
            continue
        time_text = seconds_text(row.timings[peer].median)
        cells.append(f"{row.ratio(peer):.2f}x\n{time_text}\n{_memory_text(row.memory.get(peer))}")
    return [*cells, row.answer]


def seconds_text(seconds: float) -> str:
    """Seconds with three digits in a unit a person reads."""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("us", 1e6)):
        if seconds * scale >= 1 or unit == "us":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError("unreachable")


def _memory_text(memory: timing.Memory | None) -> str:
    if memory is None:
        return ""
    kept, extra = (size / 2**20 for size in memory[:2])
    return f"{kept:.0f} + {extra:.0f} MiB" if kept >= 1 else f"{extra:.0f} MiB"


def write_json(path: Path, rows: list[Row], options: dict[str, Any]) -> None:
    """Write everything a later reader needs to judge or repeat the run."""
    report = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "options": options,
        "machine": machine(),
        "versions": versions(),
        "rows": [_row_json(row) for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _row_json(row: Row) -> dict[str, Any]:
    return {
        "work": {"kind": type(row.work).__name__, **dataclasses.asdict(row.work)},
        "subject": row.subject,
        "operations": row.work.operations,
        "operations_per_second": row.rate,
        "peak_of_one_core": row.peak,
        "peak_share": row.peak_share,
        "contenders": {
            name: {
                "median_seconds": found.median,
                "seconds": found.seconds,
                "ratio_to_subject": row.ratio(name),
                "memory_bytes": row.memory[name]._asdict() if name in row.memory else None,
            }
            for name, found in row.timings.items()
        },
        "answer": row.answer,
        "details": row.details,
    }


def machine() -> dict[str, Any]:
    """Processor, the flags that matter here, cores, memory, and how busy the machine was."""
    cpu = _fields("/proc/cpuinfo")
    present = set(cpu.get("flags", "").split())
    return {
        "cpu": cpu.get("model name", platform.processor()),
        "flags": [flag for flag in FLAGS if flag in present],
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_fields("/proc/meminfo")["MemTotal"].split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "load_average": os.getloadavg(),
    }


def versions() -> dict[str, Any]:
    """Versions of Python and every package that takes part, the BLAS of each, and our commit."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    found["commit"] = _git("rev-parse", "HEAD")
    found["uncommitted_changes"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
    if "stope" in sys.modules:
        found["stope_build"] = sys.modules["stope"].build_info()
    if importlib.util.find_spec("threadpoolctl"):
        import threadpoolctl

        found["thread_pools"] = [
            {**pool, "filepath": "/".join(Path(pool["filepath"]).parts[-2:])}
            for pool in threadpoolctl.threadpool_info()
        ]
    return found


def _fields(path: str) -> dict[str, str]:
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    pairs = (line.split(":", 1) for line in reversed(lines) if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _git(*words: str) -> str | None:
    command = ["git", "-C", os.fspath(data.REPOSITORY), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
