"""Semantic deduplication: within clusters, for every epsilon at once (SemDeDup)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import choice, flag, integer, real, shown
from stope._kinds import kinds, matrix
from stope.lists import Ids, Lists
from stope.neighbors._embeddings import best_first, rows_of
from stope.progress import Progress, StageProgress, check_progress, of_stage

Keep = Literal["farthest", "nearest", "earliest"]
Mode = Literal["onepass", "greedy"]


@dataclass(frozen=True)
class SemDeDup:
    """What `semdedup` found, for every epsilon at once.

    Attributes:
        order: int64 ``[n]``, rows in the order of their claim: a row may remove later ones.
        labels: int64 ``[n]``, the cluster of each row.
        scores: float32 ``[n]``, each row's highest cosine with an earlier row of its cluster (of
            any cluster with ``across_clusters``), -inf where there is none.
        ids: int64 ``[n]``, that row, or -1.
        mode: ``"onepass"`` or ``"greedy"``.
        epsilon: the largest one that a greedy result can tell of; None for any.
        pairs: (earlier row, later row, cosine) of a greedy result, else None.
    """

    order: Ids
    labels: Ids
    scores: NDArray[np.float32]
    ids: Ids
    mode: Mode
    epsilon: float | None
    pairs: tuple[Ids, Ids, NDArray[np.float32]] | None

    def kept(self, epsilon: float) -> Ids:
        """The rows that are left, ascending, when a cosine above 1 - epsilon is a duplicate.

        Raises:
            ValueError: an epsilon outside 0 to 2, or above that of a greedy result.
        """
        limit = 1 - real(epsilon, "epsilon", 0, 2)
        if self.pairs is None:
            return np.flatnonzero(~(self.scores > limit))
        if self.epsilon is not None and epsilon > self.epsilon:
            raise ValueError(
                f"epsilon is {epsilon}, but pairs were looked for up to {self.epsilon}; give "
                f"semdedup epsilon={epsilon}"
            )
        earlier, later, scores = self.pairs
        alike = scores > limit
        rows = len(self.order)
        after = Lists.from_owners(earlier[alike], later[alike], rows)
        left = np.ones(rows, dtype=bool)
        for row in self.order[after.lengths[self.order] > 0]:
            if left[row]:
                left[after.row(row)] = False
        return np.flatnonzero(left)

    def least_alike(self, count: int) -> Ids:
        """So many rows, ascending: those whose ``scores`` are lowest, the earlier of equal ones.

        It is ``kept`` with the epsilon that leaves exactly this many.

        Raises:
            ValueError: a count outside 0 to n.
        """
        integer(count, "count", 0, len(self.order))
        return np.sort(self.order[best_first(-self.scores[self.order], count)])


@kinds(x=matrix)
def semdedup(
    x: Any,
    *,
    clusters: int | stope.KMeans = 1,
    keep: Keep = "farthest",
    mode: Mode = "onepass",
    epsilon: float | None = None,
    across_clusters: bool = False,
    seed: int = 0,
    progress: StageProgress | None = None,
) -> SemDeDup:
    """Semantic deduplication: within clusters, a row goes when it is too like an earlier one.

    Rows of a cluster stand in an order. One pass removes

        j    when    max over i before j of cos(x_i, x_j)  >  1 - epsilon,

    also where i was removed itself: of a chain a ~ b ~ c the first is left. Greedily only rows that
    are left remove others: a and c are left. The maxima are stored, so one pass serves every
    epsilon; the greedy form stores the pairs up to one. Decisions are those of canonical float32
    scores, ties in the order go to the lower row.

    Args:
        x: ``[n, dim]``, of any kind `stope.topk` takes but int8.
        clusters: how many, for `stope.kmeans` by cosine from random rows; or its result. 1 compares
            all rows. The more there are the less work it is, and the more duplicates lie in
            different clusters, where they are not seen.
        keep: the order: ``"farthest"`` from its center first (as the paper keeps them),
            ``"nearest"``, or ``"earliest"`` row.
        mode: ``"onepass"`` (the paper's) or ``"greedy"``.
        epsilon: the largest that a greedy result will be asked for; needed there.
        across_clusters: compare all rows, in the order that the clusters' centers give.
        seed: of k-means.
        progress: called with (stage, done, total): "clusters", then "rows"; greedily then "pairs".

    Returns:
        `SemDeDup`; its ``kept(epsilon)`` are the rows that are left.

    Raises:
        ValueError: greedy without an epsilon, clusters of other rows, NaN or infinity in x (naming
            the row).

    Memory: that of `stope.kmeans` and `stope.nearest_earlier`, 64 bytes a row, 50 bytes a pair of
    the greedy form.

    Source: SemDeDup (Abbas et al. 2023), docs/methods.md, F2.

    >>> angles = np.radians([0, 10, 20])
    >>> x = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    >>> semdedup(x, keep="earliest").kept(0.02).tolist()
    [0]
    >>> semdedup(x, keep="earliest", mode="greedy", epsilon=0.02).kept(0.02).tolist()
    [0, 2]
    """
    rows = rows_of(x, "x")
    check_progress(progress)
    choice(keep, "keep", get_args(Keep))
    if choice(mode, "mode", get_args(Mode)) == "greedy":
        if epsilon is None:
            raise ValueError(
                "epsilon is None, but mode 'greedy' looks for pairs up to one; give it"
            )
        real(epsilon, "epsilon", 0, 2)
    labels, closeness = _clusters(rows, clusters, seed, of_stage(progress, "clusters"))
    order = np.arange(len(rows))
    if keep != "earliest":
        order = np.argsort(closeness if keep == "farthest" else -closeness, kind="stable")
    among = None if flag(across_clusters, "across_clusters") else labels
    told = of_stage(progress, "rows")
    nearest = stope.nearest_earlier(rows, order, groups=among, metric="cosine", progress=told)
    stored = None
    if mode == "greedy":
        pairs = stope.pairs_above(
            rows,
            threshold=1 - float(epsilon or 0),
            groups=among,
            metric="cosine",
            progress=of_stage(progress, "pairs"),
        )
        places = np.empty(len(rows), np.int64)
        places[order] = np.arange(len(rows))
        first = places[pairs.rows] < places[pairs.ids]
        stored = (
            np.where(first, pairs.rows, pairs.ids),
            np.where(first, pairs.ids, pairs.rows),
            pairs.scores,
        )
    return SemDeDup(order, labels, nearest.scores, nearest.ids, mode, epsilon, stored)


def _clusters(
    rows: NDArray[Any], clusters: Any, seed: int, progress: Progress | None
) -> tuple[Ids, NDArray[np.float32]]:
    """The cluster of every row, and its cosine with the center."""
    if isinstance(clusters, stope.KMeans):
        if len(clusters.labels) != len(rows):
            raise ValueError(
                f"clusters are of {len(clusters.labels)} rows, but x has {len(rows)}; cluster x"
            )
        return np.asarray(clusters.labels), np.asarray(clusters.scores)
    try:
        count = integer(clusters, "clusters", 1)
    except TypeError:
        raise TypeError(
            f"clusters is {shown(clusters)}; give how many, or the result of stope.kmeans"
        ) from None
    if count > len(rows):
        raise ValueError(f"clusters is {count}, but x has {len(rows)} rows; give fewer")
    made = stope.kmeans(rows, count, metric="cosine", init="random", seed=seed, progress=progress)
    return made.labels, made.scores
