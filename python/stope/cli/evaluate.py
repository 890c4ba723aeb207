"""`stope evaluate`: metrics of a run, with intervals, and against a baseline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stope._checks import counted, shown
from stope.cli import options, terminal
from stope.cli.options import option
from stope.cli.terminal import reported

if TYPE_CHECKING:
    from stope.data import Qrels, Run
    from stope.evaluation import Evaluation

_METRICS = ("nDCG@10", "MRR@10", "R@100")


@reported
def evaluate(
    context: typer.Context,
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Run in TREC format (query Q0 document rank score tag), or .jsonl as [b]stope "
            "search[/b] writes it.",
        ),
    ],
    qrels: Annotated[
        Path,
        typer.Argument(
            metavar="QRELS", help="Judgements: TREC qrels, or a BEIR .tsv with its header line."
        ),
    ],
    baseline: Annotated[
        Path | None, option("Run to compare with, query by query.", default="none")
    ] = None,
    metric: Annotated[
        list[str] | None,
        option(
            "nDCG@10, MRR@10, R@100, MAP@100, P@5, ...; may be repeated.",
            *("--metric", "-m"),
            default=", ".join(_METRICS),
        ),
    ] = None,
    confidence: Annotated[float, option("Of the intervals, between 0 and 1.")] = 0.95,
    num_samples: Annotated[int, option("Bootstrap samples.", min=1)] = 10_000,
    seed: Annotated[int, option("Of the bootstrap.", min=0)] = 0,
    output: Annotated[
        Path | None, option("Also write the numbers as .json.", "--output", "-o", default="none")
    ] = None,
    per_query: Annotated[
        Path | None, option("Also write every query's numbers as .jsonl.", default="none")
    ] = None,
    debug: options.Debug = False,
) -> None:
    """Score a run against judgements, with confidence intervals by bootstrap over queries.

    Every judged query counts; one that the run lacks scores 0. A run that shares no query or no
    document with the judgements is refused. With one judged query there are means and no intervals.

    [b]Example:[/b] stope evaluate run.trec qrels/test.tsv --baseline bm25.trec
    """
    if output is not None:
        options.check_output(output, ".json")
    if per_query is not None:
        options.check_output(per_query, ".jsonl", ".jsonl.gz")
    from stope.data import open_atomic, read_qrels, read_run, write_jsonl
    from stope.evaluation import evaluate as score

    names = tuple(metric) if metric else _METRICS
    for name in names:
        _check_metric(name)
    judged = read_qrels(qrels)
    results = read_run(run)
    _refuse_other_ids(run, results, judged)
    scored = _of_file(run, lambda: score(results, judged, names))
    other = None
    if baseline is not None:
        earlier = read_run(baseline)
        other = _of_file(baseline, lambda: score(earlier, judged, names))
    rows = [
        _row(name, scored, other, confidence=confidence, num_samples=num_samples, seed=seed)
        for name in names
    ]
    if output is not None:
        document = {"run": str(run), "qrels": str(qrels), "num_queries": scored.num_queries}
        document |= {"num_empty": scored.num_empty}
        document |= {"confidence": confidence, "num_samples": num_samples, "seed": seed}
        with open_atomic(output) as file:
            file.write(json.dumps({**document, "metrics": rows}, indent=1) + "\n")
    if per_query is not None:
        write_jsonl(
            per_query,
            (
                {"query_id": query, **{name: scored.per_query[name][query] for name in names}}
                for query in scored.per_query[names[0]]
            ),
        )
    _show(rows, run, baseline, scored, confidence)
    for path, evaluation in ((run, scored), (baseline, other)):
        if evaluation is not None and evaluation.num_empty:
            terminal.say(
                f"{path} has no document for {evaluation.num_empty:,} of "
                f"{evaluation.num_queries:,} judged queries, which score 0."
            )
    unjudged = sum(query not in judged for query in results)
    if unjudged:
        terminal.say(f"{run}: queries without judgements are left out, {unjudged:,} of them.")


def _refuse_other_ids(path: Path, run: Run, judged: Qrels) -> None:
    """Refuse a run none of whose documents is judged for any query: the ids are not the same."""
    known = {document for documents in judged.values() for document in documents}
    names = [document for documents in run.values() for document in documents]
    if names and known and known.isdisjoint(names):
        raise ValueError(
            f"no document of {path} is judged for any query, so all numbers would be 0; its ids "
            f"are as {shown(names[0])}, those of the judgements as {shown(min(known))}; give "
            "judgements of the corpus that was searched"
        )


def _check_metric(name: str) -> None:
    """Refuse an unknown metric before a file is read, by the option's name."""
    from stope.evaluation.metrics import parse_metric

    try:
        parse_metric(name)
    except ValueError as error:
        raise ValueError(f"--metric: {str(error).removeprefix('metrics has ')}") from None


def _of_file(path: Path, work: Callable[[], Evaluation]) -> Evaluation:
    """The same, with the file's name before what is wrong with its content."""
    try:
        return work()
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _row(
    name: str, scored: Evaluation, other: Evaluation | None, *, confidence: float, **sampling: int
) -> dict[str, Any]:
    """The numbers of one metric; intervals are None with one query, where they are undefined."""
    from stope.evaluation import compare, confidence_interval

    several = scored.num_queries > 1
    low, high = None, None
    if several:
        low, high = confidence_interval(scored, name, confidence=confidence, **sampling)
    row: dict[str, Any] = {"metric": name, "mean": scored.mean[name], "low": low, "high": high}
    if other is not None:
        gain: dict[str, float | None] = dict.fromkeys(("low", "high", "p_value"))
        gain = {"mean": scored.mean[name] - other.mean[name], **gain}
        if several:
            change = compare(other, scored, name, confidence=confidence, **sampling)
            gain = {"mean": change.mean_difference, "low": change.low, "high": change.high}
            gain["p_value"] = change.p_value
        row |= {"baseline": other.mean[name], "difference": gain}
    return row


def _show(
    rows: list[dict[str, Any]],
    run: Path,
    baseline: Path | None,
    scored: Evaluation,
    confidence: float,
) -> None:
    interval = f"{confidence * 100:g}% interval"
    header = ["metric", "mean", interval]
    if baseline is not None:
        header += ["baseline", "difference", interval, "p"]
    cells = []
    for row in rows:
        cells.append([row["metric"], f"{row['mean']:.4f}", _interval(row, "")])
        if baseline is not None:
            gain = row["difference"]
            p_value = "undefined" if gain["p_value"] is None else f"{gain['p_value']:.4f}"
            cells[-1] += [f"{row['baseline']:.4f}", f"{gain['mean']:+.4f}", _interval(gain, "+")]
            cells[-1].append(p_value)
    count = scored.num_queries
    title = f"{run} on {counted(count, 'queries')}"
    terminal.show_table(title, header, cells)
    if count == 1:
        terminal.say("an interval is undefined with one query; judge more.")


def _interval(row: dict[str, Any], sign: str) -> str:
    if row["low"] is None:
        return "undefined"
    return f"{row['low']:{sign}.4f} to {row['high']:{sign}.4f}"
