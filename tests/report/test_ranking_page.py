"""The page of runs: the metrics, intervals and differences of stope.evaluation, and each query."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("ir_measures", reason="needs the extra retrieval")

from stope.evaluation import compare, confidence_interval, evaluate
from stope.report.ranking import METRICS, of_run

QUERIES = 30


@pytest.fixture(scope="module")
def case():
    random = np.random.default_rng(0)
    qrels = {f"q{n}": {f"d{n}": 1, f"d{n + 1}": 0} for n in range(QUERIES)}
    runs = []
    for better in (3.0, 1.0):
        run = {
            query: {f"d{d}": float(random.random()) for d in range(40)} for query in list(qrels)[1:]
        }
        for query in run:
            run[query][f"d{query[1:]}"] *= better
        runs.append(run)
    return runs, qrels


def columns(page):
    return {column.name: column for column in page.sections[-1].table.columns}


def test_two_runs_are_compared_query_by_query(case):
    (run, other), qrels = case
    texts = {f"q{n}": f"query {n}" for n in range(QUERIES)}
    documents = {f"d{n}": "text " * 100 for n in range(20)}
    page = of_run(run, qrels, other, names=("new", "old"), queries=texts, documents=documents)
    scored, earlier = (evaluate(each, qrels, METRICS) for each in (run, other))
    change = compare(earlier, scored, "nDCG@10")
    means, differences = page.figures[:2]
    assert list(means.series[1].y) == [earlier.mean[name] for name in METRICS]
    assert means.series[0].low[2] == confidence_interval(scored, "R@100")[0]
    assert differences.series[0].y[0] == change.mean_difference
    assert page.facts()["nDCG@10, difference"].endswith(f"p = {change.p_value:.4f}")
    assert change.significant
    assert "new is better than old by nDCG@10, more than by chance." in page.sections[0].text
    assert "new has no document for 1 judged query: counted as 0" in page.sections[0].text[-2]
    row = columns(page)
    difference = np.array(row["difference"].values)
    assert (np.diff(difference) >= 0).all()
    for place, query in enumerate(row["query id"].values):
        for name, each in (("new", scored), ("old", earlier)):
            assert row[f"{name}: nDCG@10"].values[place] == each.per_query["nDCG@10"][query]
        word = row["result"].values[place]
        assert word == (
            "win" if difference[place] > 0 else "loss" if difference[place] < 0 else "tie"
        )
        assert row["query"].values[place] == texts[query]
        answer = f"d{query[1:]}"
        ranked = sorted(run.get(query, {}), key=lambda d, q=query: -run[q][d])
        rank = row["new: rank of an answer"].values[place]
        assert rank == (ranked.index(answer) + 1 if ranked else None)
        state = row["new: judged"].values[place]
        grade = qrels[query].get(ranked[0]) if ranked else -1
        assert state == {1: "right", 0: "wrong", None: "not judged", -1: "nothing retrieved"}[grade]
        assert row["an answer id"].values[place] == answer
        assert (
            row["an answer"].values[place]
            == (documents.get(answer, "")[:200] + "…")[: 201 * (int(query[1:]) < 20)]
        )
    counts = [row["result"].values.count(word) for word in ("win", "tie", "loss")]
    assert page.facts()["wins, ties, losses in nDCG@10"] == ", ".join(map(str, counts))
    assert sum(page.figures[2].series[0].y) == QUERIES


def test_one_run_shows_what_fails_first(case):
    (run, _), qrels = case
    page = of_run({**run, "other": {"d1": 1.0}}, qrels, metrics=["MRR@10"])
    assert page.facts()["queries of run without judgements"] == "1, left out"
    row = columns(page)
    assert row["MRR@10"].values[0] == 0
    assert (np.diff(row["MRR@10"].values) >= 0).all()
    assert "result" not in row
    zeros = sum(value == 0 for value in row["MRR@10"].values)
    assert page.facts()["queries with MRR@10 of 0"] == f"{zeros} of {QUERIES}"
    assert page.sections[-1].missing
    assert page.facts()["judged of the first 10"]


def test_one_query_has_no_interval():
    page = of_run({"q": {"d": 1.0}}, {"q": {"d": 1}}, {"q": {"x": 1.0}})
    assert page.facts()["nDCG@10 of run"] == "1.0000"
    assert page.sections[0].missing == ["Intervals are undefined with one query; judge more."]
    assert page.figures[0].series[0].low is None
    assert page.html()


def test_wrong_arguments(case):
    (run, other), qrels = case
    with pytest.raises(ValueError, match="names has 1 entries"):
        of_run(run, qrels, other, names=["new"])
    with pytest.raises(ValueError, match="no query"):
        of_run({"x": {"d": 1.0}}, qrels)
