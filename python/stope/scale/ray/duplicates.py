"""Deduplication as a job."""

from __future__ import annotations

import dataclasses
import shutil
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from stope._checks import choice, real
from stope._kinds import kinds
from stope.neighbors.duplicates import left_of
from stope.ops._search import METRICS, Metric
from stope.progress import StageProgress
from stope.scale.ray.block_answers import ids_of, write_columns
from stope.scale.ray.job import Answer, Job
from stope.scale.ray.jobs import OF_JOBS
from stope.scale.ray.operations import Operations
from stope.scale.ray.pool import Cluster

_STEPS = "_steps"


@kinds(**OF_JOBS, threshold=real)
def dedup(
    x: Any,
    threshold: float,
    output: str | PathLike[str],
    *,
    metric: Metric = "cosine",
    cluster: Cluster | None = None,
    progress: StageProgress | None = None,
) -> Answer:
    """`stope.neighbors.deduplicate` as jobs on a Ray cluster, in the order of the rows.

    First every row's nearest earlier row is found, then, of rows that have one at the threshold,
    all pairs; which row is kept is decided in the driver, row after row.

    Args:
        x: as the corpus of `topk`.
        threshold, metric: as for :func:`stope.neighbors.deduplicate`.
        output, cluster: as for `topk`.
        progress: called with (stage, done, total): "nearest", then "duplicates".

    Returns:
        `Answer`; parts have the columns id, kept (bool), keeper_id (of kept rows their own) and
        score (with the keeper, -inf for kept rows).

    Raises:
        ValueError, TypeError: as :func:`stope.neighbors.deduplicate`.
        FileNotFoundError, RuntimeError: as `topk`.

    Memory: as `topk`; in the driver 40 bytes a row, a copy of the rows that have one before them at
    the threshold, and the pairs of a block of them.

    Source: docs/methods.md, F2 (the greedy form).
    """
    choice(metric, "metric", METRICS)
    with Job.at(output, cluster, None) as job:
        rows = job.rows(x, "x")
        inside = dataclasses.replace(job.cluster, address=None)
        operations = Operations(job.folder / _STEPS, inside)

        def compute() -> Any:
            left = left_of(rows, threshold, metric, None, operations, progress)

            def write(path: Path, first: int, end: int) -> None:
                numbers, keepers = np.arange(first, end), left.keepers[first:end]
                write_columns(
                    path,
                    id=ids_of(rows, numbers),
                    kept=keepers == numbers,
                    keeper_id=ids_of(rows, keepers),
                    score=left.scores[first:end],
                )

            return write

        options = {
            "operation": "dedup",
            "x": rows.described,
            "threshold": threshold,
            "metric": metric,
        }
        answer = job.write(options, compute, len(rows), "blocks of rows against those before them")
        shutil.rmtree(job.folder / _STEPS, ignore_errors=True)
        return dataclasses.replace(answer, plan="; ".join(operations.plans) or answer.plan)
