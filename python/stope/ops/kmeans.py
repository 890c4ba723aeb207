"""kmeans: Lloyd's algorithm with exact assignments and sums of a fixed order."""

from __future__ import annotations

from typing import Any

from stope import _arrays
from stope.ops._lloyd import ClusterMetric, KMeans, KMeansShard, lloyd
from stope.progress import Progress


def kmeans(
    x: Any,
    k: int,
    *,
    metric: ClusterMetric = "euclidean",
    init: Any = "k-means++",
    max_iterations: int = 25,
    tolerance: float = 0.0,
    seed: int = 0,
    progress: Progress | None = None,
) -> KMeans:
    """Cluster rows around k centers: exact Lloyd iterations.

    Repeats, until no label changes or inertia no longer falls,

        label_i = the nearest center of row i,      m_c = mean of the rows of cluster c.

    The nearest center is `stope.topk` with k = 1: that of the canonical scores, ties to the lower
    number. Under ``"euclidean"`` inertia is sum_i ‖x_i - m‖²; under ``"cosine"`` (spherical
    k-means) rows count as x / ‖x‖, a center is its rows' sum brought to length one, and inertia is
    sum_i (1 - cos(x_i, m)), in which a zero row counts 1. Means are sums in float64, row after row,
    rounded to float32 once. So labels, centers and inertia have the same bits for any number of
    threads and on every instruction set. Inertia never rises by more than rounding (1e-6 of it).

    A cluster that has lost all its rows gets as its center the row that is farthest from its own
    (the next one for the next such cluster, ties to the lower row; no zero row under cosine). It
    stays where it was when every row lies on its center. So a cluster is empty at the end only
    where rows have fewer distinct values than k, or where the last update emptied it.

    Args:
        x: ``[n, dim]``, float32, float16 or bfloat16 (NumPy, torch, CuPy, DLPack, memory maps).
        k: clusters, 1 to n.
        metric: ``"euclidean"`` or ``"cosine"``.
        init: ``"k-means++"``: each center is a row, drawn with a probability in proportion to its
            inertia with those before. ``"random"``: k different rows, drawn alike; much cheaper
            where n and k are large. Or the k centers, ``[k, dim]``.
        max_iterations: updates of the centers at most; with 0 rows are assigned to ``init``.
        tolerance: stop, too, when an update lowers inertia by at most this share of it.
        seed: of the start; nothing else is random.
        progress: called now and then with ``(done, total)``; Ctrl-C is heard as often.

    Returns:
        `KMeans` with ``labels``, ``centers``, ``scores``, ``inertia`` and ``converged``.

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError: k outside 1..n, an empty or mismatched matrix, NaN or infinity (naming the row),
            a norm of 2^63 or more under ``"euclidean"``.
        TypeError: a dtype that is not supported (int8 has no float centers: cast it to float16,
            which is exact), an init of another kind.

    Memory beyond inputs and outputs: 30·k·dim bytes of centers and sums, 100 bytes a row and 4
    more for every 16 centers (256 at most), 4,096 rows of float32, and 1,100·dim bytes and 400 KiB
    a thread; k-means++ another 100 bytes a row. On a CUDA device what :func:`stope.topk` takes
    there with k = 1, and 32 bytes a row. Each round brings labels and scores from there (12 bytes a
    row), makes the centers of the sums, and takes the order of rows by cluster back (8 bytes a
    row).

    Speed: from the second update on a row is scored against its own center alone, and against those
    of groups of 16 (64 groups at most) that could hold a nearer one by what was proven before and
    by how far they moved. The later the update, the fewer. Where centers move so far at first that
    this rules out little, groups are made anew, of centers that are alike, before the second
    assignment; of 400 centers and more the 3% that moved farthest (64 at most) are scored for
    themselves. On a CUDA device every round scores all rows against all centers on tensor cores;
    labels, centers and inertia are the CPU's, bit for bit. The rows of a cluster are added up by
    one thread for each of its columns there, so that few clusters of many rows take long.

    Source: Lloyd 1982; k-means++ (Arthur and Vassilvitskii 2007), here by rejection: rows are
    proposed by the inertia of a moment ago and taken with the ratio of that of now, which is the
    same distribution; spherical k-means (Dhillon and Modha 2001). docs/methods.md, F2
    and C5.

    >>> import numpy as np
    >>> x = np.array([[0, 1], [0, 2], [5, 5], [6, 5]], dtype=np.float32)
    >>> clusters = kmeans(x, 2)
    >>> bool(clusters.labels[0] == clusters.labels[1] != clusters.labels[2] == clusters.labels[3])
    True
    >>> sorted(clusters.centers.tolist()), float(clusters.inertia[-1])
    ([[0.0, 1.5], [5.5, 5.0]], 1.0)
    """
    rows = KMeansShard(x)
    answer = lloyd(
        [rows],
        k,
        metric=metric,
        init=init,
        max_iterations=max_iterations,
        tolerance=tolerance,
        seed=seed,
        progress=progress,
    )
    labels, centers, scores = (_arrays.like(array, x, rows.place) for array in answer[:3])
    return KMeans(labels, centers, scores, answer.inertia, answer.converged)
