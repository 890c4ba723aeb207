"""knn_graph: of every row the k nearest others."""

from __future__ import annotations

from typing import Any

import numpy as np

from stope import _arrays, _core
from stope._checks import choice, integer
from stope.ops._search import METRICS, Besides, Metric, TopK, search
from stope.progress import Progress, check_progress

_MOST_SHARED = 32  # neighbours up to which a score that serves both of its rows saves time


def knn_graph(x: Any, k: int, *, metric: Metric = "dot", progress: Progress | None = None) -> TopK:
    """Find the k nearest other rows of every row, exactly.

    idsᵢ = the k rows j ≠ i with the highest canonical s(xᵢ, xⱼ) (see :func:`stope.similarity`), in
    the order (score descending, id ascending). A row is never its own neighbour, while its
    duplicates are; the answer is that of :func:`stope.topk` with each row's own id excluded, bit
    for bit. Up to k = 32 on the CPU a score serves both of its rows, which takes half the products;
    beyond, and on a CUDA device, that very search runs. The graph is directed: i may name j and j
    not i.

    Args:
        x: ``[n, dim]``, float32, float16, bfloat16 or int8 (NumPy, torch, DLPack, memory maps).
        k: how many, 1 to n - 1.
        metric: ``"dot"``, ``"cosine"`` (zero rows score 0) or ``"euclidean"`` (-distance).
        progress: called now and then with ``(done, total)``; Ctrl-C is heard as often.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[n, k]``, of the kind of x.

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError: k outside 1..n - 1, an empty matrix, NaN or infinity (naming the row), a norm of
            2^63 or more under ``dot`` or ``euclidean``.
        TypeError: a dtype that is not supported, such as float64 (cast it).

    Memory beyond inputs and results: up to k = 32 24·k + 1,208 bytes a row for its candidates, and
    about 7 MiB a thread; beyond, 16 bytes a row and what :func:`stope.topk` takes.

    Source: docs/methods.md, H10 (order of ties), docs/concepts/exactness.md (the certificate).

    >>> import numpy as np
    >>> x = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], dtype=np.float32)
    >>> knn_graph(x, 2).ids.tolist()
    [[3, 1], [0, 3], [1, 0], [0, 1]]
    """
    check_progress(progress)
    choice(metric, "metric", METRICS)
    shape = _arrays.some_rows(x, "x")
    neighbors, others = integer(k, "k", 1), shape.rows - 1
    if neighbors > others:
        remedy = f"use k={others} or less" if others else "give more rows"
        raise ValueError(f"k is {neighbors}, but a row of x has {others} others; {remedy}")
    if shape.device != "cpu" or neighbors > _MOST_SHARED:
        itself = np.arange(shape.rows + 1)
        return search(
            x,
            x,
            neighbors,
            metric=metric,
            exclude=(itself, itself[:-1]),
            progress=progress,
            besides=Besides(names=("x", "x")),
        )
    area = (shape.rows, neighbors)
    scores, ids = np.empty(area, np.float32), np.empty(area, np.int64)
    _core.knn_graph(
        x=x,
        k=neighbors,
        metric=metric,
        scores=scores,
        ids=ids,
        threads=_core.num_threads(),
        allocate=_arrays.workspace,
        progress=progress,
    )
    return TopK(_arrays.like(scores, x), _arrays.like(ids, x))
