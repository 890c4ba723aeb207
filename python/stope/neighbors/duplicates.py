"""Duplicates and near-duplicates by a threshold: groups of them, and one row for all alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import choice, real
from stope._extras import need
from stope._kinds import kinds, matrix, offering
from stope.lists import Ids, Lists
from stope.neighbors._embeddings import rows_of
from stope.neighbors.graph import join
from stope.ops._search import METRICS, Metric, TopK
from stope.progress import Progress, StageProgress, check_progress, of_stage


class DuplicateGroups(NamedTuple):
    """Rows that are alike, and what is left of them.

    Attributes:
        labels: int64 ``[n]``, the group of each row, numbered in the order of their first rows.
        kept: int64, ascending: the first row of every group, and of those without a duplicate.
        groups: `Lists`, the groups of two rows and more, each ascending.
        num_pairs: how many pairs reach the threshold.
    """

    labels: Ids
    kept: Ids
    groups: Lists
    num_pairs: int


@kinds(x=matrix)
def duplicate_groups(
    x: Any, threshold: float, *, metric: Metric = "cosine", progress: Progress | None = None
) -> DuplicateGroups:
    """Group rows that a chain of pairs with score >= threshold connects. Every such pair is found.

    A group may hold two rows that are not alike themselves, where others lie between; `semdedup`
    with mode ``"greedy"`` has no chains. Which rows are alike is decided by canonical scores.

    Args:
        x: ``[n, dim]``, of any kind `stope.topk` takes; texts as embeddings of an encoder.
        threshold: inclusive. What counts as a duplicate depends on the encoder: look at pairs near
            a threshold before trusting it.
        metric: ``"cosine"``, ``"dot"`` or ``"euclidean"`` (the score is -distance).
        progress: called now and then with (done, total).

    Returns:
        `DuplicateGroups` with ``labels``, ``kept``, ``groups`` and ``num_pairs``.

    Raises:
        ImportError: scipy is missing (the extra ``neighbors``).
        ValueError: a threshold that is not finite, NaN or infinity in x (naming the row).

    Memory: that of `stope.pairs_above` in chunks, and 40 bytes a row.

    Source: docs/methods.md, F2.

    >>> x = np.float32([[1, 0], [0, 1], [1, 0.01], [1, 1]])
    >>> found = duplicate_groups(x, 0.99)
    >>> found.kept.tolist(), found.groups.row(0).tolist()
    ([0, 1, 3], [0, 2])
    """
    rows = rows_of(x, "x")
    least = real(threshold, "threshold")
    choice(metric, "metric", METRICS)
    check_progress(progress)
    need("scipy.sparse", extra="neighbors")  # before the search
    labels = np.arange(len(rows))

    def merge(earlier: Ids, later: Ids, scores: object) -> None:
        nonlocal labels
        labels = join(labels[earlier], labels[later], len(rows)).labels[labels]

    num_pairs = stope.pairs_above(
        rows, threshold=least, metric=metric, sink=merge, progress=progress
    )
    members = Lists.from_owners(labels, np.arange(len(rows)), int(labels.max()) + 1)
    kept = members.ids[members.offsets[:-1]]
    groups = members.take(np.flatnonzero(members.lengths > 1))
    return DuplicateGroups(labels, kept, groups, num_pairs)


class Deduplicated(NamedTuple):
    """What is left of rows, and which row stands for each that is not.

    Attributes:
        kept: int64, ascending: the rows that are left.
        keepers: int64 ``[n]``, the kept row that stands for each; a kept row's own number.
        scores: float32 ``[n]``, each row's score with its keeper, -inf for rows that are kept.
        nearest: each row's most similar row before it, kept or not (`stope.nearest_earlier`).
    """

    kept: Ids
    keepers: Ids
    scores: NDArray[np.float32]
    nearest: TopK


@kinds(x=matrix, operations=offering("nearest_earlier", "pairs_above"))
def deduplicate(
    x: Any,
    threshold: float,
    *,
    metric: Metric = "cosine",
    order: Any = None,
    operations: Any = stope,
    progress: StageProgress | None = None,
) -> Deduplicated:
    """Keep a row unless its score with a kept row before it is at least the threshold.

        row i goes   when   s(x_i, x_j) >= threshold for a kept row j before i

    So no two kept rows are alike, and every row that goes is like its keeper itself: chains, as
    `duplicate_groups` has them, remove nothing. It is `semdedup` greedy, without clusters and with
    an inclusive threshold; decisions are those of canonical scores, all pairs are looked at.

    Args:
        x: ``[n, dim]``, of any kind `stope.topk` takes.
        threshold: inclusive. What counts as a duplicate depends on the encoder.
        metric: ``"cosine"``, ``"dot"`` or ``"euclidean"`` (the score is -distance).
        order: a permutation of the row numbers, the one that has the first claim at the front; None
            for the order of the rows.
        operations: who computes: this process, `KeptOperations` (which goes on where it was
            stopped), or `stope.scale.ray.Operations`; the answer is the same.
        progress: called with (stage, done, total): "nearest", then "duplicates".

    Returns:
        `Deduplicated`. A keeper is the most similar kept row before, of equal ones the lower.

    Raises:
        ValueError: a threshold that is not finite, an order that is no permutation, an empty
            matrix, NaN or infinity in x (naming the row).

    Memory: that of `stope.nearest_earlier` and of `stope.pairs_above` in chunks, 32 bytes a row,
    and a copy of the rows that have one before them at the threshold.

    Source: docs/methods.md, F2 (the greedy form).

    >>> x = np.float32([[1, 0], [0.96, 0.28], [0.84, 0.54], [0, 1]])  # 0, 16, 33, 90 degrees
    >>> left = deduplicate(x, 0.95)
    >>> left.kept.tolist(), left.keepers.tolist()
    ([0, 2, 3], [0, 0, 2, 3])
    """
    check_progress(progress)
    rows = rows_of(x, "x")
    real(threshold, "threshold")
    choice(metric, "metric", METRICS)
    return left_of(rows, threshold, metric, order, operations, progress)


def left_of(
    rows: Any,
    threshold: float,
    metric: Metric,
    order: Any,
    operations: Any,
    progress: StageProgress | None,
) -> Deduplicated:
    """`deduplicate` of anything that has a length, gives rows by number, and operations know."""
    least = np.float64(threshold)  # no rounding of it in comparisons
    count = len(rows)
    step = of_stage(progress, "nearest")
    nearest = operations.nearest_earlier(rows, order, metric=metric, progress=step)
    places = np.arange(count)
    if order is not None:
        places[np.asarray(order)] = np.arange(count)
    keepers, scores = np.arange(count), np.full(count, -np.inf, np.float32)
    alike = np.flatnonzero(nearest.scores >= least)
    alike = alike[np.argsort(places[alike])]

    def decide(owners: Ids, ids: Ids, values: NDArray[np.float32]) -> None:
        before = places[ids] < places[alike[owners]]
        owners, ids, values = owners[before], ids[before], values[before]
        starts = np.flatnonzero(np.diff(owners, prepend=-1))
        for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True):
            others = ids[start:stop]
            left = np.flatnonzero(keepers[others] == others)
            if len(left):
                row = alike[owners[start]]
                keepers[row], scores[row] = others[left[0]], values[start + left[0]]

    if len(alike):
        operations.pairs_above(
            rows[alike],
            rows,
            threshold=float(least),
            metric=metric,
            sink=decide,
            progress=of_stage(progress, "duplicates"),
        )
    kept = np.flatnonzero(keepers == np.arange(count))
    return Deduplicated(kept, keepers, scores, nearest)
