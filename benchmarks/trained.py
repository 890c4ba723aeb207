"""What the benchmarks of training share: how a trained encoder is judged, and what is kept."""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import report
from stope.data import Collection, Pairs
from stope.evaluation import Evaluation, compare, confidence_interval, evaluate
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


def facts(name: str, collection: Collection, pairs: Pairs) -> dict[str, Any]:
    """What a row says of its collection."""
    return {
        "collection": name,
        "pairs": len(pairs.positives[1]),
        "documents": len(collection.corpus_ids),
        "queries": len(collection.split("test").query_ids),
    }


def against(
    baseline: Evaluation, each: Sequence[Evaluation], seconds: Sequence[float]
) -> dict[str, Any]:
    """What a row says of a contender: its mean over the seeds, and the difference to a baseline."""
    reached = averaged(each)
    change = compare(baseline, reached, METRIC)
    return {
        "mean": reached.mean[METRIC],
        "interval": confidence_interval(reached, METRIC),
        "of_each_seed": [one.mean[METRIC] for one in each],
        "difference": change.mean_difference,
        "difference_interval": (change.low, change.high),
        "p_value": change.p_value,
        "seconds": list(seconds),
    }


Cell = Callable[[dict[str, Any]], str]


def mean_cell(row: dict[str, Any]) -> str:
    """The mean with its interval."""
    low, high = row["interval"]
    return f"{row['mean']:.4f} [{low:.4f}, {high:.4f}]"


def difference_cell(row: dict[str, Any]) -> str:
    """The difference to the baseline with its interval."""
    low, high = row["difference_interval"]
    return f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


def seeds_cell(row: dict[str, Any]) -> str:
    """What every seed reached."""
    return " ".join(f"{value:.4f}" for value in row["of_each_seed"])


def seconds_cell(row: dict[str, Any]) -> str:
    """The mean time of a training, if there was one."""
    return f"{np.mean(row['seconds']):.1f}" if row["seconds"] else ""


def print_table(
    rows: Sequence[dict[str, Any]],
    command: str,
    caption: str,
    group: Cell,
    note: Cell,
    columns: Mapping[str, Cell],
) -> None:
    """Everything on one screen, and below it the machine and the versions.

    Rows of one group stand together; its name, sizes and note are told once.
    """
    table = Table(title=f"$ {command}", title_justify="left", caption=caption)
    table.caption_justify = "left"
    table.add_column("collection")
    for place, heading in enumerate(columns):
        table.add_column(heading, justify="right" if place else "left")
    names = [group(row) for row in rows]
    for place, row in enumerate(rows):
        sizes = f"{row['pairs']:,} pairs, {row['documents']:,} docs, {row['queries']:,} queries"
        table.add_row(
            ""
            if place and names[place - 1] == names[place]
            else f"{names[place]}\n{sizes}\n{note(row)}",
            *(cell(row) for cell in columns.values()),
            end_section=names[place] not in names[place + 1 : place + 2],
        )
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
