"""What the benchmarks of training share: how recipes are compared, and what is kept."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import report
from stope.evaluation import Evaluation, compare, confidence_interval

METRIC = "nDCG@10"


def evaluation_of(queries: Mapping[str, float]) -> Evaluation:
    """The evaluation that has these values."""
    return Evaluation({METRIC: float(np.mean(list(queries.values())))}, {METRIC: dict(queries)})


def averaged(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation whose queries have their mean over the seeds."""
    each = [evaluation.per_query[METRIC] for evaluation in evaluations]
    return evaluation_of(
        {query: float(np.mean([values[query] for values in each])) for query in each[0]}
    )


def change(baseline: Evaluation, reached: Evaluation, queries: Sequence[str]) -> dict[str, Any]:
    """The difference to a baseline over some of the queries, with its interval."""
    first, second = (
        evaluation_of({query: whole.per_query[METRIC][query] for query in queries})
        for whole in (baseline, reached)
    )
    between = compare(first, second, METRIC)
    return {
        "difference": between.mean_difference,
        "difference_interval": (between.low, between.high),
        "p_value": between.p_value,
    }


def against(
    baseline: Evaluation, each: Sequence[Evaluation], seconds: Sequence[float]
) -> dict[str, Any]:
    """What a row says of a contender: its mean over the seeds, and the difference to a baseline."""
    reached = averaged(each)
    return {
        "mean": reached.mean[METRIC],
        "interval": confidence_interval(reached, METRIC),
        "of_each_seed": [evaluation.mean[METRIC] for evaluation in each],
        **change(baseline, reached, list(reached.per_query[METRIC])),
        "seconds": list(seconds),
    }


def print_with_machine(table: Table) -> None:
    """A table, and below it the machine and the versions."""
    console = Console(width=200)
    console.print(table)
    machine, versions = report.machine(), report.versions()
    console.print(f"{machine['cpu']}, {' '.join(machine['flags'])}", soft_wrap=True)
    told = ("stope", "torch", "sentence-transformers", "numpy", "python", "commit")
    cores = f"{machine['cores']} cores, load {machine['load_average'][0]:.1f}"
    console.print(f"{cores}; {', '.join(f'{name} {versions[name]}' for name in told)}")


def write_json(path: Path, rows: list[dict[str, Any]], command: str, seconds: float) -> None:
    """Everything measured, with what is needed to judge or repeat it."""
    measured = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "seconds": seconds,
        "machine": report.machine(),
        "versions": report.versions(),
        "rows": rows,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
