"""k-means of the rows of several shards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from stope._kinds import callback, iterable, kinds
from stope.ops._lloyd import ClusterMetric, KMeans, KMeansShard, Run, lloyd
from stope.progress import Progress

__all__ = ["KMeansShard", "kmeans"]


@kinds(shards=iterable, run=callback)
def kmeans(
    shards: Iterable[Any],
    k: int,
    *,
    metric: ClusterMetric = "euclidean",
    init: Any = "k-means++",
    max_iterations: int = 25,
    tolerance: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
    run: Run = map,
) -> KMeans:
    """`stope.kmeans` of the rows of all shards, bit for bit, wherever they are cut.

    Shards assign their rows at the same time, and say counts, the exact sum of their costs and
    whether a label changed. Sums of rows depend on their order in float64, so they are made one
    shard after another: the sums so far go to the next one, which adds its rows. That is n · dim
    additions in all, beside n · k · dim / shards products that take the time.

    Args:
        shards: of the rows, in their order: :class:`KMeansShard`, or what has its methods, such as
            handles of actors whose methods wait for the answer.
        k, metric, init, max_iterations, tolerance, seed: as for :func:`stope.kmeans`.
        progress: called after each pass with ``(done, total)``.
        run: ``run(ask, shards)`` gives what ``ask(shard)`` returns for each shard, in their order:
            `map`, or that of an executor, which asks all at once.

    Returns:
        ``KMeans(labels, centers, scores, inertia, converged)``, NumPy, rows in the order of the
        shards.

    Raises:
        ValueError: no shards, shards of different dims, and what :func:`stope.kmeans` raises.
        TypeError: as :func:`stope.kmeans`.

    Memory: 24 · k · dim bytes here and in each shard, 12 bytes a row at the end, and with
    ``"k-means++"`` 200 bytes a row.

    Source: docs/methods.md, F2 and C5; as :func:`stope.kmeans`.

    >>> import numpy as np
    >>> x = np.array([[0, 1], [0, 2], [5, 5], [6, 5]], dtype=np.float32)
    >>> clusters = kmeans([KMeansShard(x[:1]), KMeansShard(x[1:])], 2)
    >>> sorted(clusters.centers.tolist()), float(clusters.inertia[-1])
    ([[0.0, 1.5], [5.5, 5.0]], 1.0)
    """
    return lloyd(
        shards,
        k,
        metric=metric,
        init=init,
        max_iterations=max_iterations,
        tolerance=tolerance,
        seed=seed,
        progress=progress,
        run=run,
    )
