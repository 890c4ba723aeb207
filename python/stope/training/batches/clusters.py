"""Spherical k-means on the exact kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import integer
from stope._kinds import at_least, kinds, numbers

_CHUNK = 65_536


@dataclass(frozen=True)
class Clusters:
    """What `kmeans` found.

    Attributes:
        labels: int64 ``[n]``, the cluster of each row.
        centers: float32 ``[k, dim]``, of length one (zero where the rows of a cluster cancel out).
        scores: float32 ``[n]``, cosine of each row and its center.
    """

    labels: NDArray[np.int64]
    centers: NDArray[np.float32]
    scores: NDArray[np.float32]


@kinds(embeddings=numbers, k=at_least(1), seed=at_least(0))
def kmeans(embeddings: Any, k: int, *, iterations: int = 10, seed: int = 0) -> Clusters:
    """Cluster rows by direction.

    Starts from k random rows and repeats

        label_i = argmax_c cos(x_i, m_c),    m_c = sum_{i: label_i = c} x_i / |x_i|, normalised,

    until no label changes. Labels are `stope.topk` with k = 1: exact, ties to the lower number. A
    cluster that lost all its rows gets, as its center, the row that is farthest from its own; so
    clusters are empty at the end only where rows have fewer directions than k, or where the last
    iteration emptied one.

    Args:
        embeddings: float32 ``[n, dim]``, also a memory map; half precision is widened.
        k: clusters, 1 to n.
        iterations: at the most.
        seed: of the start.

    Raises:
        ValueError: k or iterations out of range, a wrong shape, NaN or infinity.

    Memory: 20 bytes a row, the centers in float64, and 65,536 rows at a time.

    Source: Dhillon and Modha 2001; TAS-B (docs/methods.md, C5) clusters queries this way.

    >>> rows = np.array([[1, 0], [0, 2], [3, 0.1], [0, 1]], np.float32)
    >>> found = kmeans(rows, 2, seed=0)
    >>> bool(found.labels[0] == found.labels[2] != found.labels[1] == found.labels[3])
    True
    """
    rows = np.asarray(embeddings)
    if rows.ndim != 2 or not len(rows):
        raise ValueError(f"embeddings has shape {rows.shape}; give rows of one width")
    integer(iterations, "iterations", 1)
    if integer(k, "clusters", 1) > len(rows):
        raise ValueError(f"clusters is {k!r}, but there are {len(rows)} rows; give 1 to that many")
    start = np.random.default_rng([seed, 5]).choice(len(rows), k, replace=False)
    centers = _unit(rows[np.sort(start)])
    labels, scores = _nearest(rows, centers)
    for _ in range(iterations - 1):
        centers = _centers(rows, labels, scores, k)
        before = labels
        labels, scores = _nearest(rows, centers)
        if np.array_equal(before, labels):
            break
    return Clusters(labels, centers, scores)


def _nearest(
    rows: Any, centers: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    labels = np.empty(len(rows), dtype=np.int64)
    scores = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(rows)))
        found = stope.topk(_float32(rows[part]), centers, 1, metric="cosine")
        labels[part], scores[part] = found.ids[:, 0], found.scores[:, 0]
    return labels, scores


def _centers(
    rows: Any, labels: NDArray[np.int64], scores: NDArray[np.float32], k: int
) -> NDArray[np.float32]:
    sums = np.zeros((k, rows.shape[1]))
    for start in range(0, len(rows), _CHUNK):
        part = labels[start : start + _CHUNK]
        order = np.argsort(part, kind="stable")
        present, first = np.unique(part[order], return_index=True)
        units = _unit(rows[start : start + _CHUNK]).astype(np.float64)
        sums[present] += np.add.reduceat(units[order], first, axis=0)
    centers = _unit(sums)
    empty = np.flatnonzero(np.bincount(labels, minlength=k) == 0)
    if len(empty):
        farthest = np.argsort(scores, kind="stable")[: len(empty)]
        centers[empty] = _unit(rows[farthest])
    return centers


def _unit(rows: Any) -> NDArray[np.float32]:
    wide = np.asarray(rows, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(lengths > 0, lengths, 1), dtype=np.float32)


def _float32(rows: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(rows, dtype=np.float32)
