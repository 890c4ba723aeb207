"""Rows of `bench_gpu.py` that compare the rows of one matrix with each other, in bfloat16.

Every other row lies at a cosine of about 0.7 to the one before it, all else near 0. Answers of 48
rows are compared with float64, k-means with torch's from the same centers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import stope
import torch
from gpu_rows import Meter, Row, Sizes

NEIGHBORS = ("graph", "pairs", "earlier", "kmeans")
K, THRESHOLD, UPDATES = 15, 0.6, 10
SAMPLE = 48  # rows checked in float64
ROUNDING = 1e-5  # of a score in float32
SAME_INERTIA = 1e-3  # relative: torch's products are bfloat16
_CHUNK = 1 << 14


def neighbor_rows(meter: Meter, sizes: Sizes, wanted: Sequence[str], peak: float) -> list[Row]:
    """The rows of the table that are wanted."""
    count, dim, clusters = sizes.neighbors
    half = meter.unit_rows(count // 2, dim)
    x = torch.stack([half, meter.near(half, count // 2)], dim=1).reshape(-1, dim)
    work, operations = f"{len(x):,} x {len(x):,} x {dim:,}", 2.0 * len(x) ** 2 * dim
    asked: dict[str, Callable[[Row], None]] = {
        "graph": lambda row: _graph(meter, x, row),
        "pairs": lambda row: _pairs(meter, x, row),
        "earlier": lambda row: _earlier(meter, x, row),
        "kmeans": lambda row: _kmeans(meter, x, x[:clusters].float(), row),
    }
    made = []
    for name in [name for name in NEIGHBORS if name in wanted]:
        row = Row(name, work, 0.0, operations)
        if name == "kmeans":
            row.work = f"{len(x):,} x {clusters:,} x {dim:,}, {UPDATES} updates"
            row.operations = 2.0 * (UPDATES + 1) * len(x) * clusters * dim
        asked[name](row)
        row.of_peak = row.operations / row.seconds / peak
        made.append(row)
    return made


def _graph(meter: Meter, x: Any, row: Row) -> None:
    best = stope.knn_graph(x, K)
    row.seconds = meter.seconds(lambda: stope.knn_graph(x, K))
    row.against("torch", meter.seconds(lambda: _in_chunks(x, lambda scores: scores.topk(K + 1)), 1))
    row.extra_bytes = meter.extra_bytes(lambda: stope.knn_graph(x, K))
    row.target = "at least 4x torch"
    exact = _exact(x)
    exact[torch.arange(len(exact)), torch.arange(len(exact))] = -torch.inf
    _check(row, "score", exact.topk(K).values - best.scores[: len(exact)].double())


def _pairs(meter: Meter, x: Any, row: Row) -> None:
    call = lambda: stope.pairs_above(x, threshold=THRESHOLD)  # noqa: E731
    made = call()
    row.seconds = meter.seconds(call)
    chunks = lambda: _in_chunks(x, lambda scores: (scores >= THRESHOLD).nonzero())  # noqa: E731
    row.against("torch", meter.seconds(chunks, 1))
    row.extra_bytes = meter.extra_bytes(call)
    row.target = "at least 4x torch"
    row.notes.append(f"{len(made.rows):,} pairs")
    exact = torch.triu(_exact(x), diagonal=1)
    few = made.rows < len(exact)
    told = torch.zeros_like(exact)
    told[made.rows[few], made.ids[few]] = 1
    # A score within rounding of the threshold may be either.
    wrong = (told > 0) != (exact >= THRESHOLD)
    row.check("pairs", float((wrong & ((exact - THRESHOLD).abs() > ROUNDING)).sum()), 0)


def _earlier(meter: Meter, x: Any, row: Row) -> None:
    best = stope.nearest_earlier(x)
    row.seconds = meter.seconds(lambda: stope.nearest_earlier(x))
    row.extra_bytes = meter.extra_bytes(lambda: stope.nearest_earlier(x))
    row.target = "no slower than the graph"
    exact = _exact(x)[:, :SAMPLE]
    later = torch.ones_like(exact).triu().bool()
    highest = exact.masked_fill(later, -torch.inf).max(dim=1).values
    _check(row, "score", (highest - best.scores[: len(exact)].double())[1:])


def _kmeans(meter: Meter, x: Any, init: Any, row: Row) -> None:
    call = lambda: stope.kmeans(  # noqa: E731
        x, len(init), init=init, max_iterations=UPDATES
    )
    clusters = call()
    row.seconds = meter.seconds(call, 1)
    row.against("torch", meter.seconds(lambda: _torch_clusters(x, init), 1))
    row.extra_bytes = meter.extra_bytes(call)
    row.target = "at least 1x torch, whose sums have another order each time"
    inertia = _torch_clusters(x, init)
    mine = clusters.inertia[min(UPDATES, len(clusters.inertia) - 1)]
    row.check("inertia", abs(inertia - mine) / mine, SAME_INERTIA)


def _torch_clusters(x: Any, init: Any) -> float:
    """Inertia after so many updates from the same centers; empty clusters stay."""
    centers = init.clone()
    for update in range(UPDATES + 1):
        halves, costs, labels = centers.square().sum(1) / 2, 0.0, []
        for part in x.split(_CHUNK):
            scores = (part @ centers.to(x.dtype).T).float() - halves
            best = scores.max(dim=1)
            costs += float((part.float().square().sum(1) - 2 * best.values).sum())
            labels.append(best.indices)
        if update == UPDATES:
            return costs
        where = torch.cat(labels)
        sums = torch.zeros_like(centers).index_add_(0, where, x.float())
        counts = torch.bincount(where, minlength=len(centers))[:, None]
        centers = torch.where(counts > 0, sums / counts.clamp(min=1), centers)
    return costs


def _in_chunks(x: Any, consume: Callable[[Any], Any]) -> list[Any]:
    return [consume(part @ x.T) for part in x.split(_CHUNK)]


def _exact(x: Any) -> Any:
    """Float64 scores of the first rows with all."""
    return x[:SAMPLE].double() @ x.double().T


def _check(row: Row, name: str, errors: Any) -> None:
    row.check(name, float(errors.abs().max()), ROUNDING)
