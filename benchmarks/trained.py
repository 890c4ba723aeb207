"""What the benchmarks of training share: how a trained encoder is judged, and what is kept."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import report
from stope.data import Collection
from stope.evaluation import Evaluation, evaluate
from stope.retrieval import DenseRetriever
from stope.retrieval.ranking import Ranking

METRIC = "nDCG@10"


def score(found: Ranking, collection: Collection, split: str = "test") -> Evaluation:
    """The metric of every query of a split."""
    part = collection.split(split)
    return evaluate(found.to_run(part.query_ids, collection.corpus_ids), part.qrels, [METRIC])


def judged(model: Any, collection: Collection, split: str = "test") -> Evaluation:
    """Exact retrieval of a split's queries over the whole corpus."""
    part = collection.split(split)
    found = DenseRetriever(model, collection.corpus_texts).search(part.query_texts, 10)
    return score(found, collection, split)


def averaged(evaluations: Sequence[Evaluation]) -> Evaluation:
    """One evaluation whose queries have their mean over the seeds."""
    each = [evaluation.per_query[METRIC] for evaluation in evaluations]
    queries = {query: float(np.mean([values[query] for values in each])) for query in each[0]}
    return Evaluation({METRIC: float(np.mean(list(queries.values())))}, {METRIC: queries})


def print_with_machine(table: Table) -> None:
    """Print the table, and below it the machine and the versions."""
    console = Console(width=150)
    console.print(table)
    machine, versions = report.machine(), report.versions()
    console.print(f"{machine['cpu']}, {' '.join(machine['flags'])}", soft_wrap=True)
    told = ("stope", "torch", "sentence-transformers", "numpy", "python", "commit")
    cores = f"{machine['cores']} cores, load {machine['load_average'][0]:.1f}"
    console.print(f"{cores}; {', '.join(f'{name} {versions[name]}' for name in told)}")


def write_json(path: Path, rows: list[dict[str, Any]], command: str, seconds: float) -> None:
    """Everything measured, with what is needed to judge or repeat it."""
    found = {
        "schema": 1,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": command,
        "seconds": seconds,
        "machine": report.machine(),
        "versions": report.versions(),
        "rows": rows,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
