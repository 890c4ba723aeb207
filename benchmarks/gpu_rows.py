"""What the rows of `bench_gpu.py` share: sizes, the clock, the inputs, one row of the table."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

QUERY_COSINE = 0.7  # of a query with its positive


class Sizes(NamedTuple):
    """Of the searches, of the two losses (queries, documents, dim), of rows among each other."""

    queries: int
    rows: int
    dim: int
    k: int
    huge: tuple[int, int, int]
    square: tuple[int, int, int]
    neighbors: tuple[int, int, int]  # rows, dim, clusters


SIZES = {
    "full": Sizes(
        16_384,
        4_000_000,
        768,
        100,
        (80_000, 480_000, 1_024),
        (32_768, 32_768, 768),
        (200_000, 384, 1_000),
    ),
    "quick": Sizes(
        512, 40_000, 768, 100, (2_048, 12_288, 256), (2_048, 2_048, 768), (20_000, 384, 100)
    ),
    "tiny": Sizes(8, 200, 16, 5, (20, 60, 24), (30, 30, 24), (200, 384, 6)),
}


@dataclasses.dataclass
class Row:
    """One line of the table; `ratios` are of other contenders' times to this one's."""

    name: str
    work: str
    seconds: float
    operations: float | None = None
    of_peak: float | None = None
    of_copy_bandwidth: float | None = None
    extra_bytes: int | None = None
    ratios: dict[str, float] = dataclasses.field(default_factory=dict)
    peer_seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    target: str = ""
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    wrong: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def against(self, name: str, seconds: float) -> None:
        self.peer_seconds[name] = seconds
        self.ratios[name] = seconds / self.seconds

    def check(self, name: str, error: float, allowed: float) -> None:
        """An error of the answer, wrong beyond what its precision explains; NaN is wrong too."""
        self.errors[name] = error
        if not error <= allowed:
            self.wrong.append(f"{self.name}: {name} is {error:.3g}, allowed {allowed:.3g}")

    def line(self) -> str:
        """Name, work, time, shares of the machine's peaks, ratios, memory and target in a line."""
        parts = [f"{self.name:8} {self.work:34} {self.seconds * 1e3:10.1f} ms"]
        if self.of_peak is not None:
            parts.append(f"{self.of_peak:.1%} of the bf16 peak")
        if self.of_copy_bandwidth is not None:
            parts.append(f"{self.of_copy_bandwidth:.1%} of the copy bandwidth")
        parts += [f"{ratio:.2f}x {name}" for name, ratio in self.ratios.items()]
        if self.extra_bytes is not None:
            parts.append(f"{self.extra_bytes / 2**20:.0f} MiB extra")
        parts += [f"(target: {self.target})"] * bool(self.target)
        parts += [*self.notes, *("WRONG " + what for what in self.wrong)]
        return "  ".join(parts)


class Meter(NamedTuple):
    """Measures calls on a device: "cuda", or "cpu" to see that the rows work."""

    device: str

    def seconds(self, call: Callable[[], Any], repeat: int = 3) -> float:
        """Median seconds of a call, after one to warm up."""
        call()
        return statistics.median(self._once(call) for _ in range(repeat))

    def seconds_each(self, call: Callable[[], Any], calls: int = 10) -> float:
        """The same of a short call, repeated without a wait between."""
        return self.seconds(lambda: [call() for _ in range(calls)]) / calls

    def _once(self, call: Callable[[], Any]) -> float:
        self.wait()
        begin = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - begin

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def extra_bytes(self, call: Callable[[], Any]) -> int | None:
        """The most memory that a call had beyond inputs and results; None on the CPU."""
        if self.device != "cuda":
            return None
        self.wait()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        results = call()
        self.wait()
        kept = torch.cuda.memory_allocated() - before
        extra = torch.cuda.max_memory_allocated() - before - kept
        del results
        return extra

    def unit_rows(self, rows: int, dim: int) -> torch.Tensor:
        """Random bfloat16 rows of length 1, made in portions."""
        out = torch.empty(rows, dim, dtype=torch.bfloat16, device=self.device)
        for part in out.split(1 << 19):
            part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, device=self.device)))
        return out

    def near(self, documents: torch.Tensor, count: int) -> torch.Tensor:
        """Queries at about the cosine QUERY_COSINE of the first documents."""
        noise = (1 - QUERY_COSINE**2) ** 0.5 * self.unit_rows(count, documents.shape[1]).float()
        rows = QUERY_COSINE * documents[:count].float() + noise
        return torch.nn.functional.normalize(rows).bfloat16()
