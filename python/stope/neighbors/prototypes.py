"""Selectors by cluster: what is far from every prototype, and D4."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

import stope
from stope._checks import flag, integer, real
from stope._kinds import offering
from stope.neighbors._embeddings import asked, best_first
from stope.neighbors.selection import Selection
from stope.neighbors.semantic_duplicates import semdedup
from stope.progress import StageProgress, of_stage


@dataclass(frozen=True)
class Prototypes:
    """The rows that are least typical of their cluster (SSL prototypes).

    Rows are clustered by cosine; difficulty is 1 - cos(row, its center), and the most prototypical
    rows are left out.

    Attributes:
        clusters: how many.
        hardest: whether the farthest from their centers are kept; else the nearest.
        seed: of k-means.
        operations: who computes it: this process, or `KeptOperations`.

    The scores are the difficulties; equal ones go to the lower row; the reason ``cluster`` is the
    cluster. Memory: that of `stope.kmeans`.

    Source: Sorscher et al. 2022 (recalled), docs/methods.md, F3.

    >>> x = np.float32([[1, 0], [1, 0.1], [1, 0.9], [1, 0.05]])
    >>> Prototypes(clusters=1)(x, 1).ids.tolist()
    [2]
    """

    clusters: int = 100
    hardest: bool = True
    seed: int = 0
    operations: Any = field(default=stope, repr=False)

    def __post_init__(self) -> None:
        integer(self.clusters, "clusters", 1)
        flag(self.hardest, "hardest")
        integer(self.seed, "seed", 0)
        offering("kmeans")(self.operations, "operations")

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose by distance to the centers."""
        rows, count = asked(embeddings, budget, progress)
        made = _clusters(self, rows, progress)
        difficulty = 1 - made.scores.astype(np.float64)
        ids = best_first(difficulty if self.hardest else -difficulty, count)
        return Selection(ids, difficulty[ids], {"cluster": made.labels[ids]})


@dataclass(frozen=True)
class D4:
    """Deduplicate, cluster what is left anew, and leave out its most prototypical rows.

        1  SemDeDup keeps ceil(dedup_share n) rows: those least like an earlier one of their cluster
        2  k-means of these            3  the budget: the rows farthest from their centers

    Step 1 keeps this exact number, by the quantile of the stored maxima, or the budget where that
    is more.

    Attributes:
        clusters: of both k-means, at most as many as there are rows.
        dedup_share: R_dedup, 0.75 in the paper.
        seed: of k-means.
        operations: who computes it, as for `Prototypes`.

    The scores are 1 - cos(row, its center) of step 3, equal ones to the lower row; the reasons
    ``cluster``, and ``alike``, the cosine with the most similar earlier row of step 1. Memory: that
    of `stope.kmeans`, and a copy of the rows that are left.

    Source: D4 (Tirumala et al. 2023, recalled), docs/methods.md, F3.

    >>> x = np.float32([[1, 0], [1, 0], [1, 0.1], [1, 0.9]])
    >>> D4(clusters=1)(x, 2).ids.tolist()
    [3, 0]
    """

    clusters: int = 100
    dedup_share: float = 0.75
    seed: int = 0
    operations: Any = field(default=stope, repr=False)

    def __post_init__(self) -> None:
        integer(self.clusters, "clusters", 1)
        real(self.dedup_share, "dedup_share", 0, 1)
        integer(self.seed, "seed", 0)
        offering("kmeans")(self.operations, "operations")

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose in the three steps."""
        rows, count = asked(embeddings, budget, progress)
        alike = semdedup(rows, clusters=_clusters(self, rows, progress), progress=progress)
        left = alike.least_alike(max(count, int(np.ceil(self.dedup_share * len(rows)))))
        anew = Prototypes(self.clusters, seed=self.seed, operations=self.operations)
        chosen = anew(rows[left], count, progress=_renamed(progress, "clusters of what is left"))
        ids = left[chosen.ids]
        return Selection(ids, chosen.scores, {**chosen.reasons, "alike": alike.scores[ids]})


def _clusters(selector: Prototypes | D4, rows: Any, progress: StageProgress | None) -> stope.KMeans:
    made: stope.KMeans = selector.operations.kmeans(
        rows,
        min(selector.clusters, len(rows)),
        metric="cosine",
        init="random",
        seed=selector.seed,
        progress=of_stage(progress, "clusters"),
    )
    return made


def _renamed(progress: StageProgress | None, name: str) -> StageProgress | None:
    """Progress whose only stage has another name."""
    told = of_stage(progress, name)
    return None if told is None else lambda stage, done, total: told(done, total)
