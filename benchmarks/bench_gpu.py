"""The CUDA core against torch and against the machine's own peaks, measured in the same run.

    python benchmarks/bench_gpu.py [--small] [--out measured.json]

Rows: the bfloat16 matrix-product peak (torch, 8,192^3) and the copy bandwidth; exact top-100 of
16,384 queries in 4,000,000 x 768 bfloat16 against torch `mm` + `topk` in chunks; one query in 8 GB;
mining with ceilings and exclusions against plain top-k. Ratios are within the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np
import torch

import stope


def seconds(call, repeat=3):
    """Median seconds of a call, by events on the current stream, after one call to warm up."""
    call()
    times = []
    for _ in range(repeat):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(times)


def peaks():
    """bfloat16 operations and copied bytes (read and written) per second."""
    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    operations = 2 * 8192**3 / seconds(lambda: a @ a, 10)
    source = torch.empty(1 << 31, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return operations, 2 * source.numel() / seconds(lambda: target.copy_(source), 10)


def unit_rows(rows, dim):
    """Random rows of length 1, made in portions."""
    out = torch.empty(rows, dim, dtype=torch.bfloat16, device="cuda")
    for part in out.split(1 << 19):
        part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, device="cuda")))
    return out


def torch_topk(queries, corpus, k, chunk=1 << 16):
    """`mm` and `topk` in chunks of the corpus."""
    scores = torch.full((len(queries), k), -torch.inf, device="cuda", dtype=torch.bfloat16)
    ids = torch.zeros((len(queries), k), device="cuda", dtype=torch.int64)
    for first in range(0, len(corpus), chunk):
        found = (queries @ corpus[first : first + chunk].T).topk(k)
        scores, order = torch.cat([scores, found.values], 1).topk(k)
        ids = torch.cat([ids, found.indices + first], 1).gather(1, order)
    return scores, ids


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="a hundredth of the corpus")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows, queries = (40_000, 512) if options.small else (4_000_000, 16_384)
    dim, k = 768, 100
    operations, bandwidth = peaks()
    q, x = unit_rows(queries, dim), unit_rows(rows, dim)
    search = seconds(lambda: stope.topk(q, x, k))
    peer = seconds(lambda: torch_topk(q, x, k), 1)
    one = seconds(lambda: stope.topk(q[:1], x, k))
    positives = np.arange(queries) % rows
    mining = seconds(lambda: stope.mine_hard_negatives(q, x, positives, k, relative_margin=0.05), 1)
    work = 2.0 * queries * rows * dim
    measured = {
        "gpu": torch.cuda.get_device_name(),
        "queries": queries,
        "rows": rows,
        "dim": dim,
        "k": k,
        "peak_tflops": operations / 1e12,
        "copy_gb_per_s": bandwidth / 1e9,
        "topk_seconds": search,
        "topk_of_peak": work / search / operations,
        "topk_against_torch": peer / search,
        "one_query_seconds": one,
        "one_query_of_copy_bandwidth": x.numel() * x.element_size() / one / bandwidth,
        "mining_seconds": mining,
        "mining_against_topk": mining / search,
    }
    text = json.dumps(measured, indent=2)
    print(text)
    if options.out is not None:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
