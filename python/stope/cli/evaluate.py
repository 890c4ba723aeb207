"""`stope evaluate`: metrics of a run, with intervals, and against a baseline."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from stope.cli import support
from stope.cli.support import reported

if TYPE_CHECKING:
    from stope.evaluation import Evaluation


@reported
def evaluate(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Run in TREC format (query Q0 document rank score tag)."
        ),
    ],
    qrels: Annotated[
        Path,
        typer.Argument(
            metavar="QRELS", help="Judgements: TREC qrels, or a BEIR .tsv with its header line."
        ),
    ],
    baseline: Annotated[
        Path | None,
        typer.Option(help="Run to compare with, query by query.", show_default="none"),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            "-m",
            help="nDCG@10, MRR@10, R@100, MAP@100, P@5, ...; may be repeated.",
            show_default="nDCG@10, MRR@10, R@100",
        ),
    ] = None,
    confidence: Annotated[float, typer.Option(help="Of the intervals, between 0 and 1.")] = 0.95,
    num_samples: Annotated[int, typer.Option(help="Bootstrap samples.", min=1)] = 10_000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.", min=0)] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Also write the numbers as .json.", show_default="none"
        ),
    ] = None,
    per_query: Annotated[
        Path | None,
        typer.Option(help="Also write every query's numbers as .jsonl.", show_default="none"),
    ] = None,
    debug: support.Debug = False,
) -> None:
    """Score a run against judgements, with confidence intervals by bootstrap over queries.

    Every judged query counts; one that the run lacks scores 0.

    [b]Example:[/b] stope evaluate run.trec qrels/test.tsv --baseline bm25.trec
    """
    if output is not None:
        support.check_output(output, ".json")
    if per_query is not None:
        support.check_output(per_query, ".jsonl", ".jsonl.gz")
    from stope.data import open_atomic, read_qrels, read_run, write_jsonl
    from stope.evaluation import evaluate as score

    names = tuple(metric) if metric else ("nDCG@10", "MRR@10", "R@100")
    judged = read_qrels(qrels)
    found = score(read_run(run), judged, names)
    other = None if baseline is None else score(read_run(baseline), judged, names)
    rows = [
        _row(name, found, other, confidence=confidence, num_samples=num_samples, seed=seed)
        for name in names
    ]
    if output is not None:
        document = {"run": str(run), "qrels": str(qrels), "num_queries": found.num_queries}
        document |= {"confidence": confidence, "num_samples": num_samples, "seed": seed}
        with open_atomic(output) as file:
            file.write(json.dumps({**document, "metrics": rows}, indent=1) + "\n")
    if per_query is not None:
        write_jsonl(
            per_query,
            (
                {"query_id": query, **{name: found.per_query[name][query] for name in names}}
                for query in found.per_query[names[0]]
            ),
        )
    _show(rows, run, baseline, found.num_queries, confidence)


def _row(
    name: str, found: Evaluation, other: Evaluation | None, *, confidence: float, **options: int
) -> dict[str, Any]:
    from stope.evaluation import compare, confidence_interval

    low, high = confidence_interval(found, name, confidence=confidence, **options)
    row: dict[str, Any] = {"metric": name, "mean": found.mean[name], "low": low, "high": high}
    if other is not None:
        difference = asdict(compare(other, found, name, confidence=confidence, **options))
        row["baseline"] = other.mean[name]
        row["difference"] = {
            "mean": difference["mean_difference"],
            "low": difference["low"],
            "high": difference["high"],
            "p_value": difference["p_value"],
        }
    return row


def _show(
    rows: list[dict[str, Any]], run: Path, baseline: Path | None, queries: int, confidence: float
) -> None:
    level = f"{confidence * 100:g}%"
    table = Table(title=f"{run} on {queries:,} queries", title_justify="left")
    table.add_column("metric")
    table.add_column("mean", justify="right")
    table.add_column(f"{level} interval", justify="right")
    if baseline is not None:
        table.add_column("baseline", justify="right")
        table.add_column("difference", justify="right")
        table.add_column(f"{level} interval", justify="right")
        table.add_column("p", justify="right")
    for row in rows:
        cells = [row["metric"], f"{row['mean']:.4f}", f"{row['low']:.4f} to {row['high']:.4f}"]
        if baseline is not None:
            gain = row["difference"]
            cells += [
                f"{row['baseline']:.4f}",
                f"{gain['mean']:+.4f}",
                f"{gain['low']:+.4f} to {gain['high']:+.4f}",
                f"{gain['p_value']:.4f}",
            ]
        table.add_row(*cells)
    Console(width=None if Console().is_terminal else 120).print(table)
