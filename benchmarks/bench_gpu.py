"""The CUDA core against torch and against the machine's own peaks, measured in the same run.

    python benchmarks/bench_gpu.py [--quick] [--rows topk huge] [--json measured.json]

| row | what |
|---|---|
| topk | exact top-100 of 16,384 queries in 4,000,000 x 768, against torch `mm` + `topk` in chunks |
| one | one query in the same corpus, beside the copy bandwidth |
| mining | with ceilings and exclusions, against plain top-k |
| huge | infonce forward and backward, 80,000 x 480,000 x 1,024, weights and masks on |
| square | the same plain, 32,768 x 32,768 x 768, against torch's compiled loss and one in Triton |
| graph, pairs, earlier, kmeans | rows among each other, 200,000 x 384, against torch in chunks |

All in bfloat16. The peaks are measured first: the matrix product (torch, 8,192^3) and the copy
bandwidth. Ratios are within the run; the status is 1 where an answer is wrong.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import gpu_losses
import gpu_neighbors
import stope
import torch
from gpu_neighbors import NEIGHBORS
from gpu_rows import SIZES, Meter, Row, Sizes

SEARCHES = ("topk", "one", "mining")
LOSSES = ("huge", "square")
ROWS = [*SEARCHES, *NEIGHBORS, *LOSSES]


def peaks(meter: Meter, side: int = 8192, copied: int = 1 << 31) -> tuple[float, float]:
    """bfloat16 operations and copied bytes (read and written) per second."""
    a = torch.randn(side, side, device=meter.device, dtype=torch.bfloat16)
    operations = 2 * side**3 / meter.seconds_each(lambda: a @ a)
    source = torch.empty(copied, dtype=torch.uint8, device=meter.device)
    target = torch.empty_like(source)
    return operations, 2 * copied / meter.seconds_each(lambda: target.copy_(source))


def torch_topk(queries: Any, corpus: Any, k: int, chunk: int = 1 << 16) -> tuple[Any, Any]:
    """`mm` and `topk` in chunks of the corpus."""
    shape, device = (len(queries), k), queries.device
    scores = torch.full(shape, -torch.inf, device=device, dtype=torch.bfloat16)
    ids = torch.zeros(shape, device=device, dtype=torch.int64)
    for first in range(0, len(corpus), chunk):
        found = (queries @ corpus[first : first + chunk].T).topk(k)
        scores, order = torch.cat([scores, found.values], 1).topk(k)
        ids = torch.cat([ids, found.indices + first], 1).gather(1, order)
    return scores, ids


def search_rows(
    meter: Meter, sizes: Sizes, wanted: Sequence[str], peak: float, bandwidth: float
) -> list[Row]:
    """The searches that are wanted; the plain one is measured for mining's ratio too."""
    queries, rows, dim, k = sizes[:4]
    q, x = meter.unit_rows(queries, dim), meter.unit_rows(rows, dim)
    plain = Row("topk", f"{queries:,} x {rows:,} x {dim:,}", 0.0, 2.0 * queries * rows * dim)
    if {"topk", "mining"} & set(wanted):
        plain.seconds = meter.seconds(lambda: stope.topk(q, x, k))
    found = []
    if "topk" in wanted:
        plain.of_peak = plain.operations / plain.seconds / peak
        plain.against("torch", meter.seconds(lambda: torch_topk(q, x, k), 1))
        plain.extra_bytes = meter.extra_bytes(lambda: stope.topk(q, x, k))
        plain.target = "at least 50% of the peak, 4x torch"
        found.append(plain)
    if "one" in wanted:
        one = Row("one", f"1 x {rows:,} x {dim:,}", meter.seconds(lambda: stope.topk(q[:1], x, k)))
        one.of_copy_bandwidth = x.numel() * x.element_size() / one.seconds / bandwidth
        one.target = "at least 80% of the copy bandwidth"
        found.append(one)
    if "mining" in wanted:
        positives = np.arange(queries) % rows
        options = {"relative_margin": 0.05}
        mine = lambda: stope.mine_hard_negatives(q, x, positives, k, **options)  # noqa: E731
        mining = Row("mining", plain.work, meter.seconds(mine, 1), plain.operations)
        mining.against("topk", plain.seconds)
        mining.target = "at least 0.83x topk: at most 1.2 times its time"
        found.append(mining)
    return found


def measure(
    meter: Meter,
    sizes: Sizes,
    wanted: Sequence[str],
    peak: float,
    bandwidth: float,
    said: Callable[[Row], object],
    compiled: bool = True,
) -> None:
    """The wanted rows, each told as soon as it is there."""

    def tell(rows: list[Row]) -> None:
        for row in rows:
            said(row)
        if meter.device == "cuda":
            torch.cuda.empty_cache()

    if set(SEARCHES) & set(wanted):
        tell(search_rows(meter, sizes, wanted, peak, bandwidth))
    if set(NEIGHBORS) & set(wanted):
        tell(gpu_neighbors.neighbor_rows(meter, sizes, wanted, peak))
    if "huge" in wanted:
        tell([gpu_losses.huge(meter, sizes, peak)])
    if "square" in wanted:
        tell([gpu_losses.square(meter, sizes, peak, compiled)])


def machine() -> dict[str, Any]:
    """What ran, and where."""
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
        capture_output=True,
        text=True,
        check=False,
    )
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "gpu": gpu,
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "stope": stope.build_info()["flags"],
    }


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="sizes for a few seconds")
    parser.add_argument(
        "--rows",
        nargs="+",
        choices=ROWS,
        default=ROWS,
        metavar="ROW",
        help=f"some of {', '.join(ROWS)}; all",
    )
    parser.add_argument("--json", type=Path, help="keep everything measured in this file")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    options = arguments(words)
    if not torch.cuda.is_available() or not stope.build_info()["cuda"]:
        what = "torch sees no GPU" if stope.build_info()["cuda"] else "stope was built without CUDA"
        print(f"{what}: nothing to measure", file=sys.stderr)
        return 2
    meter, sizes = Meter("cuda"), SIZES["quick" if options.quick else "full"]
    peak, bandwidth = peaks(meter)
    print(f"{torch.cuda.get_device_name()}: {peak / 1e12:.0f} TFLOP/s in bfloat16,", end=" ")
    print(f"copies {bandwidth / 1e9:,.0f} GB/s (read and written)", flush=True)
    kept = {
        **machine(),
        "sizes": sizes._asdict(),
        "peak_operations_per_second": peak,
        "copied_bytes_per_second": bandwidth,
        "rows": [],
    }

    def keep(row: Row) -> None:
        print(row.line(), flush=True)
        kept["rows"].append(dataclasses.asdict(row))
        if options.json is not None:  # what was measured stays, whatever becomes of the next row
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")

    measure(meter, sizes, options.rows, peak, bandwidth, keep)
    return int(any(row["wrong"] for row in kept["rows"]))


if __name__ == "__main__":
    sys.exit(main())
