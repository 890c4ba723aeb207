"""`stope evaluate`: metrics of a run, with intervals, and against a baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stope._checks import counted, first_twice, shown
from stope.cli import options, terminal
from stope.cli.options import option, switch
from stope.cli.terminal import reported

if TYPE_CHECKING:
    from stope.data import Qrels, Run
    from stope.evaluation import Evaluation

_METRICS = ("nDCG@10", "MRR@10", "R@100")
_OFTEN = (
    *("nDCG@10", "nDCG@100", "MRR@10", "R@10", "R@100", "R@1000", "MAP@100", "P@5", "P@10"),
    *("Success@1", "Success@10", "Rprec", "Bpref", "Judged@10", "ndcg_cut_10", "map", "recip_rank"),
)


def _often_asked(incomplete: str) -> list[str]:
    """What the shell completes after --metric."""
    return [name for name in _OFTEN if name.startswith(incomplete)]


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
            "nDCG@10, MRR@10, R@100, MAP@100, P@5, Rprec, Bpref, Judged@10 or another of "
            "ir-measures' names or trec_eval's (ndcg_cut_10, map); commas between several.",
            *("--metric", "--metrics", "-m"),
            default=", ".join(_METRICS),
            autocompletion=_often_asked,
        ),
    ] = None,
    ignore_identical_ids: Annotated[
        bool,
        switch(
            "--ignore-identical-ids",
            "Leave documents with the query's own id out of the run, as BEIR does; by default they "
            "count.",
        ),
    ] = False,
    confidence: Annotated[float, option("Of the intervals, between 0 and 1.")] = 0.95,
    num_samples: Annotated[int, option("Bootstrap samples.", min=1)] = 10_000,
    seed: Annotated[int, option("Of the bootstrap.", min=0)] = 0,
    output: Annotated[
        Path | None, option("Also write the numbers as .json.", "--output", "-o", default="none")
    ] = None,
    per_query: Annotated[
        Path | None, option("Also write every query's numbers as .jsonl.", default="none")
    ] = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Score a run against judgements, with confidence intervals by bootstrap over queries.

    Every judged query counts; one that the run lacks scores 0. A run that shares no query or no
    document with the judgements is refused. With one judged query there are means and no intervals.

    [b]Example:[/b] stope evaluate run.trec qrels/test.tsv --baseline bm25.trec
    """
    options.check_outputs(
        (run, qrels, baseline), [(output, (".json",)), (per_query, (".jsonl", ".jsonl.gz"))]
    )
    from stope.data import open_atomic, read_qrels, read_run, write_jsonl
    from stope.evaluation import evaluate as score

    names = metric_names(metric, _METRICS)
    judged = read_qrels(qrels)
    results = read_run(run)

    def scored_by(path: Path, ranked: Run) -> Evaluation:
        refuse_unlike(path, ranked, qrels, judged)
        try:
            return score(ranked, judged, names, ignore_identical_ids=ignore_identical_ids)
        except ValueError as error:
            place = qrels if str(error).startswith("the relevance") else path
            raise ValueError(f"{place}: {error}") from error

    scored = scored_by(run, results)
    other = None if baseline is None else scored_by(baseline, read_run(baseline))
    rows = []
    with terminal.bars(quiet) as bars:
        for number, name in enumerate(names, start=1):
            row = _row(name, scored, other, confidence, num_samples=num_samples, seed=seed)
            rows.append(row)
            bars.show("intervals", number, len(names))
    document: dict[str, Any] = {
        "run": str(run),
        "qrels": str(qrels),
        "baseline": None if baseline is None else str(baseline),
        "num_queries": scored.num_queries,
        "num_empty": scored.num_empty,
        "num_identical": scored.num_identical,
        "identical_relevant": len(scored.identical_relevant),
        "ignore_identical_ids": ignore_identical_ids,
        "confidence": confidence,
        "num_samples": num_samples,
        "seed": seed,
        "metrics": rows,
    }
    if output is not None:
        with open_atomic(output) as file:
            file.write(json.dumps(document, indent=1) + "\n")
    if per_query is not None:
        write_jsonl(
            per_query,
            (
                {"query_id": query, **{name: scored.per_query[name][query] for name in names}}
                for query in judged
            ),
        )
    terminal.give(document)
    _show(rows, run, baseline, scored, confidence)
    unanswered = sum(max(grades.values(), default=0) < 1 for grades in judged.values())
    if unanswered:
        terminal.say(
            f"{qrels} has no relevant document (of grade 1 at least) for {unanswered:,} of "
            f"{counted(len(judged), 'judged queries')}, where none can be found."
        )
    _say_empty(run, scored)
    if baseline is not None and other is not None:
        _say_empty(baseline, other)
    _say_identical(run, scored, ignore_identical_ids)
    unjudged = sum(query not in judged for query in results)
    if unjudged:
        terminal.say(f"{run}: {counted(unjudged, 'queries')} without judgements left out.")


def _say_empty(path: Path, scored: Evaluation) -> None:
    if scored.num_empty:
        terminal.say(
            f"{path} has no document for {scored.num_empty:,} of "
            f"{counted(scored.num_queries, 'judged queries')}, which score 0."
        )


def _say_identical(path: Path, scored: Evaluation, ignored: bool) -> None:
    """What became of documents that have the query's own id."""
    if not scored.num_identical:
        return
    documents = f"{counted(scored.num_identical, 'documents')} with the id of the query"
    if not ignored:
        terminal.say(
            f"{path} has {documents}; --ignore-identical-ids leaves out such, as BEIR does."
        )
        return
    terminal.say(f"{path}: {documents} left out.")
    if scored.identical_relevant:
        queries = counted(len(scored.identical_relevant), "queries")
        terminal.say(
            f"{queries}, such as {scored.identical_relevant[0]}, with the document of the same id "
            "judged relevant: left out, it counts as not found."
        )


def refuse_unlike(path: Path, run: Run, qrels: Path, judged: Qrels) -> None:
    """Refuse judgements that hold nothing, or no document of the run: the ids are not the same."""
    if not judged:
        raise ValueError(f"{qrels} holds no judgements; give what says which documents answer")
    known = {document for documents in judged.values() for document in documents}
    names = [document for documents in run.values() for document in documents]
    if names and known and known.isdisjoint(names):
        raise ValueError(
            f"no document of {path} is judged for any query, so all numbers would be 0; its ids "
            f"are as {shown(names[0])}, those of the judgements as {shown(min(known))}; give "
            "judgements of the corpus that was searched"
        )


def metric_names(asked: list[str] | None, default: Sequence[str]) -> Sequence[str]:
    """The metrics that the option names; an unknown one is refused before a file is read."""
    from stope.evaluation.names import parse_metric

    if not asked:
        return default
    names = [name for text in asked for name in re.split(r",\s*(?![^(]*\))", text)]
    for name in names:
        try:
            parse_metric(name)
        except ValueError as error:
            raise ValueError(f"--metric: {str(error).removeprefix('metrics has ')}") from None
    twice = first_twice(names)
    if twice is not None:
        raise ValueError(f"--metric names {twice} twice; name it once")
    return names


def _row(
    name: str, scored: Evaluation, other: Evaluation | None, confidence: float, **sampling: int
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
