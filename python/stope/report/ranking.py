"""The page of a run: metrics with intervals, and query by query where it wins and loses.

A query wins where the first metric is higher than in the baseline. Without a baseline the queries
are listed from the lowest value on: those that the search fails.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stope._checks import counted, one_each, shown
from stope._kinds import kinds, mapping, mapping_of_mappings, maybe, strings
from stope.evaluation import Evaluation, compare, confidence_interval, evaluate
from stope.evaluation.metrics import ranking
from stope.report.figures import Figure, Series, histogram
from stope.report.pages import Column, Page, Section, Table

METRICS = ("nDCG@10", "MRR@10", "R@100")
_JUDGED = "Judged@10"
_SHOWN = 200  # characters of a document
Run = Mapping[str, Mapping[str, float]]


@kinds(
    run=mapping_of_mappings, qrels=mapping_of_mappings, baseline=maybe(mapping_of_mappings),
    names=strings, metrics=strings, queries=maybe(mapping), documents=maybe(mapping),
)  # fmt: skip
def of_run(
    run: Run,
    qrels: Mapping[str, Mapping[str, float]],
    baseline: Run | None = None,
    *,
    names: Sequence[str] = ("run", "baseline"),
    metrics: Sequence[str] = METRICS,
    queries: Mapping[str, str] | None = None,
    documents: Mapping[str, str] | None = None,
) -> Page:
    """The page of a run, alone or against a baseline.

    Intervals are of 95%, by bootstrap over queries (`stope.evaluation.confidence_interval`), and of
    differences by the paired bootstrap (`stope.evaluation.compare`).

    Args:
        run, baseline: ``{query id: {document id: score}}`` (`stope.data.read_run`).
        qrels: ``{query id: {document id: relevance}}`` (`stope.data.read_qrels`); every query in it
            counts.
        names: what the run and the baseline are called.
        metrics: names of `stope.evaluation.evaluate`; queries are compared by the first.
        queries, documents: their texts by id; None, or an id that is missing, shows ids alone.

    Raises:
        ValueError: what `stope.evaluation.evaluate` refuses; fewer names than runs.

    Memory: both runs, and a row per judged query.

    Example:
        >>> qrels = {"q1": {"d1": 1}, "q2": {"d2": 1}}
        >>> run = {"q1": {"d1": 2.0, "d2": 1.0}, "q2": {"d1": 2.0, "d2": 1.0}}
        >>> of_run(run, qrels, metrics=["RR@10"]).facts()["RR@10"][:6]
        '0.7500'
    """
    both = [run] if baseline is None else [run, baseline]
    one_each(names[: len(both)], "names", len(both), "run and baseline")
    if not metrics:
        raise ValueError(f"metrics is {shown(metrics)}; name one at least, such as nDCG@10")
    wanted = list(dict.fromkeys([*metrics, _JUDGED]))
    scored = [evaluate(run, qrels, wanted)]
    if baseline is not None:
        try:
            scored.append(evaluate(baseline, qrels, wanted))
        except (TypeError, ValueError) as error:
            said = re.sub(r"\brun\b", "baseline", str(error))
            raise type(error)(said) from error
    sections = [
        _metrics(scored, metrics, names, [sum(q not in qrels for q in each) for each in both]),
        _by_query(scored, metrics[0], names),
        _queries(both, scored, qrels, metrics[0], names, queries or {}, documents or {}),
    ]
    against = "" if baseline is None else f" against {names[1]}"
    judged = counted(scored[0].num_queries, "judged queries")
    return Page(f"{names[0]}{against}", f"{judged}, by {metrics[0]} first.", sections)


def _metrics(
    scored: Sequence[Evaluation],
    metrics: Sequence[str],
    names: Sequence[str],
    unjudged: Sequence[int],
) -> Section:
    facts: dict[str, str] = {}
    text: list[str] = []
    columns: dict[str, list[Any]] = {"metric": list(metrics)}
    several = scored[0].num_queries > 1
    series = []
    for name, evaluation in zip(names, scored, strict=False):
        means = [evaluation.mean[metric] for metric in metrics]
        ends = [confidence_interval(evaluation, m) if several else (None, None) for m in metrics]
        low, high = ([end[side] for end in ends] for side in (0, 1))
        of_name = f" of {name}" if len(scored) > 1 else ""
        columns |= {f"mean{of_name}": means, f"from{of_name}": low, f"to{of_name}": high}
        series.append(Series(name, metrics, means, *((low, high) if several else ())))
        for metric, mean, end in zip(metrics, means, ends, strict=True):
            span = f" [{end[0]:.4f}, {end[1]:.4f}]" if several else ""
            facts[f"{metric}{of_name}"] = f"{mean:.4f}{span}"
    title = "Means with their 95% intervals"
    figures = [Figure("metrics", "points", title, "metric", "mean", tuple(series))]
    if len(scored) > 1 and several:
        changes = [compare(scored[1], scored[0], metric) for metric in metrics]
        gains = [change.mean_difference for change in changes]
        least, most = [change.low for change in changes], [change.high for change in changes]
        columns |= {"difference": gains, "from": least, "to": most}
        columns["p"] = [change.p_value for change in changes]
        title = f"{names[0]} less {names[1]}, with 95% intervals"
        line = Series("difference", metrics, gains, least, most)
        rules = {"no difference": 0.0}
        figures.append(
            Figure("differences", "points", title, "metric", "difference", (line,), rules)
        )
        first = changes[0]
        facts[f"{metrics[0]}, difference"] = (
            f"{first.mean_difference:+.4f} [{first.low:+.4f}, {first.high:+.4f}], "
            f"p = {first.p_value:.4f}"
        )
        how = "better" if first.mean_difference > 0 else "worse"
        text.append(
            f"{names[0]} is {how} than {names[1]} by {metrics[0]}, more than by chance."
            if first.significant
            else f"The difference in {metrics[0]} may be chance: these queries cannot tell."
        )
    shares = [evaluation.mean[_JUDGED] for evaluation in scored]
    facts["judged of the first 10"] = ", ".join(f"{share:.0%}" for share in shares)
    if len(shares) > 1 and abs(shares[0] - shares[1]) > 0.1:
        more, less = (names[place] for place in np.argsort(shares)[::-1].tolist())
        text.append(
            f"Of {more} more of the first ten documents are judged: what is not counts as wrong, "
            f"which may be unfair to {less}."
        )
    for name, evaluation, others in zip(names, scored, unjudged, strict=False):
        if others:
            facts[f"queries of {name} without judgements"] = f"{others:,}, left out"
        if evaluation.num_empty:
            empty = counted(evaluation.num_empty, "judged queries")
            text.append(f"{name} has no document for {empty}: counted as 0.")
    caption = "A row for each metric; means over the judged queries"
    parts = [Column(name, values, "number") for name, values in columns.items() if name != "metric"]
    table = Table((Column("metric", columns["metric"]), *parts), caption)
    missing = [] if several else ["Intervals are undefined with one query; judge more."]
    return Section("Metrics", text, facts, figures, table, missing)


def _by_query(scored: Sequence[Evaluation], metric: str, names: Sequence[str]) -> Section:
    values = [np.array(list(each.per_query[metric].values())) for each in scored]
    if len(values) == 1:
        series = histogram({names[0]: values[0]}, bins=20)
        nothing = int((values[0] == 0).sum())
        facts = {f"queries with {metric} of 0": f"{nothing:,} of {len(values[0]):,}"}
        title = f"{metric} of the queries"
        figure = Figure("queries", "histogram", title, metric, "queries", series)
        return Section("Queries by their metric", (), facts, [figure])
    difference = values[0] - values[1]
    results = _results(difference)
    counts = [results.count(word) for word in ("win", "tie", "loss")]
    facts = {f"wins, ties, losses in {metric}": ", ".join(f"{n:,}" for n in counts)}
    title = f"{metric} of {names[0]} less that of {names[1]}, by query"
    figure = Figure("wins", "histogram", title, "difference", "queries",
                    histogram({"queries": difference}), {"tie": 0.0})  # fmt: skip
    return Section("Wins and losses", (), facts, [figure])


def _queries(
    runs: Sequence[Run],
    scored: Sequence[Evaluation],
    qrels: Mapping[str, Mapping[str, float]],
    metric: str,
    names: Sequence[str],
    queries: Mapping[str, str],
    documents: Mapping[str, str],
) -> Section:
    values = [np.array(list(each.per_query[metric].values())) for each in scored]
    judged = list(qrels)
    difference = values[0] - values[-1] if len(runs) > 1 else values[0]
    order = np.argsort(difference, kind="stable").tolist()
    asked = [judged[place] for place in order]
    columns = _named("query", asked, queries)
    if len(runs) > 1:
        results = _results(difference)
        columns.append(Column("result", [results[place] for place in order], "word"))
        columns.append(Column("difference", difference[order], "number"))
    for name, run, value in zip(names, runs, values, strict=False):
        before = f"{name}: " if len(runs) > 1 else ""
        lists = [ranking(query, run.get(query, {})) for query in asked]
        ranks, firsts, states = zip(*map(_looked_at, lists, map(qrels.get, asked)), strict=True)
        columns += [
            Column(f"{before}{metric}", value[order], "number"),
            Column(f"{before}rank of an answer", ranks, "number"),
            *_named(f"{before}first document", firsts, documents),
            Column(f"{before}judged", states, "word"),
        ]
    columns += _named("an answer", [_answer(qrels[query]) for query in asked], documents)
    lowest = "the largest losses" if len(runs) > 1 else "the lowest values"
    table = Table(
        tuple(columns),
        f"A row for each judged query, {lowest} first",
        browse=True,
        export={"query_id": "query id" if queries else "query"},
        export_name="queries.jsonl",
    )
    missing = []
    if not (queries and documents):
        missing = ["Texts are shown where queries and documents are given beside the run."]
    return Section("Query by query", table=table, missing=missing)


def _answer(judged: Mapping[str, float]) -> str:
    """The document of the highest grade, "" where none is an answer."""
    document, grade = max(judged.items(), key=lambda entry: entry[1], default=("", 0))
    return document if grade > 0 else ""


def _named(name: str, ids: Sequence[str], texts: Mapping[str, str]) -> list[Column]:
    """The beginnings of the texts with their ids below; ids alone where there are no texts."""
    if not texts:
        return [Column(name, ids)]
    whole = [texts.get(each, "") for each in ids]
    begun = [text[:_SHOWN] + "…" * (len(text) > _SHOWN) for text in whole]
    return [Column(name, begun), Column(f"{name} id", ids, "id")]


def _results(difference: Any) -> list[str]:
    words = np.where(difference > 1e-9, "win", np.where(difference < -1e-9, "loss", "tie"))
    return [str(word) for word in words.tolist()]


def _looked_at(found: list[str], judged: Mapping[str, float] | None) -> tuple[Any, str, str]:
    """The rank of the first answer, the first document, and how it is judged."""
    grades = judged or {}
    rank = next((n for n, document in enumerate(found, 1) if grades.get(document, 0) > 0), None)
    if not found:
        return None, "", "nothing retrieved"
    grade = grades.get(found[0])
    return rank, found[0], "not judged" if grade is None else "right" if grade > 0 else "wrong"
