"""stope.evaluation: hand-computed values, an independent float64 implementation, the bootstrap."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stope.data import read_beir
from stope.evaluation import Evaluation, compare, confidence_interval, evaluate

pytest.importorskip("ir_measures", reason="ir-measures is not installed")

COLLECTIONS = Path(__file__).resolve().parents[3] / "shared" / "data"
ALL = ["nDCG", "nDCG@3", "RR", "RR@3", "AP", "AP@3", "R@3", "P@3", "Success@3",
       "RR(rel=2)@3", "AP(rel=2)", "R(rel=2)@3", "P(rel=2)@3"]  # fmt: skip


def reference(metric, retrieved, judged):
    """One metric of one query, from its definition, in float64."""
    name, _, cutoff = metric.partition("@")
    name, _, level = name.partition("(rel=")
    level = int(level.rstrip(")") or 1)
    order = sorted(retrieved, key=lambda document: (-retrieved[document], document))
    gains = [max(judged.get(document, 0), 0) for document in order]
    k = int(cutoff) if cutoff else len(gains)
    hits = [gain >= level for gain in gains]
    relevant = sum(relevance >= level for relevance in judged.values())
    if name == "nDCG":
        ideal = sorted((max(relevance, 0) for relevance in judged.values()), reverse=True)
        best = sum(
            gain / math.log2(rank + 2)
            for rank, gain in enumerate(ideal[: int(cutoff) if cutoff else None])
        )
        found = sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:k]))
        return found / best if best else 0.0
    if name == "RR":
        return next((1 / (rank + 1) for rank, hit in enumerate(hits[:k]) if hit), 0.0)
    if name == "AP":
        total = sum(sum(hits[: rank + 1]) / (rank + 1) for rank, hit in enumerate(hits[:k]) if hit)
        return total / relevant if relevant else 0.0
    if name == "R":
        return sum(hits[:k]) / relevant if relevant else 0.0
    if name == "P":
        return sum(hits[:k]) / k
    assert name == "Success"
    return float(any(hits[:k]))


def test_values_computed_by_hand():
    # Ranking: a (unjudged), b (2), c (0), d (1); e (3) is not retrieved.
    run = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}
    qrels = {"q": {"b": 2, "c": 0, "d": 1, "e": 3}}
    names = ["nDCG@10", "nDCG@2", "MRR@10", "RR@1", "MAP@100", "AP@2"]
    names += ["Recall@100", "R@2", "P@10", "P@2", "Success@1"]
    found = evaluate(run, qrels, names).mean
    dcg = 2 / math.log2(3) + 1 / math.log2(5)
    ideal = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)
    assert found == pytest.approx(
        {
            "nDCG@10": dcg / ideal,
            "nDCG@2": (2 / math.log2(3)) / (3 + 2 / math.log2(3)),
            "MRR@10": 1 / 2,
            "RR@1": 0.0,
            "MAP@100": (1 / 2 + 2 / 4) / 3,
            "AP@2": (1 / 2) / 3,
            "Recall@100": 2 / 3,
            "R@2": 1 / 3,
            "P@10": 2 / 10,
            "P@2": 1 / 2,
            "Success@1": 0.0,
        },
        abs=1e-12,
    )


def test_every_judged_query_counts():
    run = {"found": {"a": 1.0}, "empty": {}, "nothing relevant": {"a": 1.0}, "unjudged": {"a": 1.0}}
    qrels = {
        "missing": {"a": 1},
        "found": {"a": 1},
        "empty": {"a": 1},
        "nothing relevant": {"a": 0},
    }
    qrels["no judgements"] = {}
    result = evaluate(run, qrels, ALL)
    assert result.num_queries == 5
    for metric in ALL:
        expected = 0.0 if "rel=2" in metric else {"P@3": 1 / 3}.get(metric, 1.0)
        assert list(result.per_query[metric]) == list(qrels)
        assert result.per_query[metric].pop("found") == pytest.approx(expected)
        assert set(result.per_query[metric].values()) == {0.0}
        assert result.mean[metric] == pytest.approx(expected / 5)


@pytest.mark.parametrize("metric", ["RR", "RR@10", "AP", "P@1", "nDCG@10"])
def test_ties_are_broken_by_ascending_id_in_float64_for_every_metric(metric):
    first = {"P@1": 1.0}.get(metric, 1.0)
    second = {"P@1": 0.0, "nDCG@10": 1 / math.log2(3)}.get(metric, 0.5)
    for order in itertools.permutations(["10", "9"]):
        run = {"q": dict.fromkeys(order, 1.0)}
        assert evaluate(run, {"q": {"10": 1}}, [metric]).mean[metric] == pytest.approx(first)
        assert evaluate(run, {"q": {"9": 1}}, [metric]).mean[metric] == pytest.approx(second)
    near = {"q": {"a": 1.0, "b": 1.0 + 1e-15}}  # equal in float32
    assert evaluate(near, {"q": {"b": 1}}, [metric]).mean[metric] == pytest.approx(first)
    assert evaluate(near, {"q": {"a": 1}}, [metric]).mean[metric] == pytest.approx(second)


queries = st.sampled_from(["q", "q\0", "1 2"])
documents = st.sampled_from(["a", "b", "e\0", "e", "\ud800"])
scores = st.sampled_from([0.0, -1.0, 1.0, 1.0 + 1e-15, 1e300, -1e300, 0.5])
runs = st.dictionaries(queries, st.dictionaries(documents, scores))
judgements = st.dictionaries(
    queries, st.dictionaries(documents, st.integers(-2, 4)), min_size=1, max_size=3
)


def test_negative_relevance_counts_as_zero_and_no_judgement_as_no_hit():
    result = evaluate(
        {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": -2, "b": 1}}, ["RR", "RR@9", "nDCG@9"]
    )
    assert result.mean == pytest.approx({"RR": 0.5, "RR@9": 0.5, "nDCG@9": 1 / math.log2(3)})
    for metrics in (ALL, *([metric] for metric in ALL)):
        found = evaluate({"q": {"a": 1.0}}, {"q": {}}, metrics)
        assert found.mean == dict.fromkeys(metrics, 0.0)


@given(run=runs, qrels=judgements, metrics=st.permutations(ALL))
def test_agrees_with_the_independent_implementation(run, qrels, metrics):
    if not any(run.get(query) for query in qrels):
        with pytest.raises(ValueError, match=r"share no query|run has no document"):
            evaluate(run, qrels, metrics)
        return
    result = evaluate(run, qrels, metrics)
    assert list(result.mean) == list(result.per_query) == list(metrics)
    for metric in metrics:
        expected = {query: reference(metric, run.get(query, {}), qrels[query]) for query in qrels}
        assert result.per_query[metric] == pytest.approx(expected, abs=1e-12)
        assert result.mean[metric] == pytest.approx(sum(expected.values()) / len(qrels), abs=1e-12)


@pytest.mark.skipif(
    not COLLECTIONS.is_dir(), reason=f"the real collections are not at {COLLECTIONS}"
)
@pytest.mark.parametrize("name", ["scifact", "stackexchange_small", "multihop_small"])
def test_agrees_on_real_judgements(name):
    collection = read_beir(COLLECTIONS / name)
    split = collection.split("test")
    generator = np.random.default_rng(0)
    run = {}
    for query, judged in split.qrels.items():
        others = generator.choice(len(collection.corpus_ids), size=150, replace=False)
        names = {collection.corpus_ids[row] for row in others} | set(list(judged)[1:])
        run[query] = {name: float(generator.integers(0, 40)) / 8 for name in sorted(names)}
    run.pop(split.query_ids[0])
    metrics = ["nDCG@10", "nDCG@100", "RR@10", "R@10", "R@100", "AP@100", "P@10"]
    result = evaluate(run, split.qrels, metrics)
    for metric in metrics:
        expected = {q: reference(metric, run.get(q, {}), split.qrels[q]) for q in split.qrels}
        assert result.per_query[metric] == pytest.approx(expected, abs=1e-12)
        assert 0 < result.mean[metric] < 1
    assert result.per_query["nDCG@10"][split.query_ids[0]] == 0.0


@pytest.mark.skipif(
    not COLLECTIONS.is_dir(), reason=f"the real collections are not at {COLLECTIONS}"
)
def test_published_value_of_bm25_on_scifact():
    bm25s = pytest.importorskip("bm25s", reason="bm25s is not installed")
    stemmer = pytest.importorskip("Stemmer", reason="PyStemmer is not installed").Stemmer("english")
    collection = read_beir(COLLECTIONS / "scifact")
    split = collection.split("test")

    def tokens(texts):
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)

    model = bm25s.BM25(k1=0.9, b=0.4)
    model.index(tokens(collection.corpus_texts), show_progress=False)
    rows, found = model.retrieve(tokens(split.query_texts), k=100, show_progress=False)
    run = {
        query: {collection.corpus_ids[row]: float(score) for row, score in zip(*pair, strict=True)}
        for query, *pair in zip(split.query_ids, rows, found, strict=True)
    }
    # 0.680 in the collection's notes, 0.679 published (Anserini).
    assert evaluate(run, split.qrels, ["nDCG@10"]).mean["nDCG@10"] == pytest.approx(0.68, abs=0.01)


RIGHT = {"q": {"d": 1.0}}


@pytest.mark.parametrize(
    ("run", "qrels", "error", "message"),
    [
        ({}, {}, ValueError, "qrels is empty"),
        ({"x": {"d": 1.0}}, {"q": {"d": 1}}, ValueError, "share no query .run has 'x'"),
        ({}, {"q": {"d": 1}}, ValueError, "run has no document for any query; give a run"),
        ({"q": {}}, {"q": {"d": 1}, "p": {"d": 1}}, ValueError, "run has no document for any"),
        ({"q": ["d"]}, {"q": {"d": 1}}, TypeError, r"run\['q'\] is \['d'\]; give"),
        ({"q": {"d": 1.0}}, {"q": {"d"}}, TypeError, r"qrels\['q'\] is \{'d'\}; give"),
        ([("q", "d")], {"q": {"d": 1}}, TypeError, "run is .*; give {query id"),
        ({"q": {"d": 1.0}}, None, TypeError, "qrels is None; give {query id"),
        ({"q": {"d": "1"}}, {"q": {"d": 1}}, TypeError, "is '1'; give a number"),
        ({"q": {"d": float("nan")}}, {"q": {"d": 1}}, ValueError,
         "document 'd' for query 'q' is nan"),
        ({"q": {"d": -math.inf}}, {"q": {"d": 1}}, ValueError,
         "document 'd' for query 'q' is -inf"),
        ({"q": {5: 1.0}}, {"q": {"d": 1}}, TypeError, "document id 5 .* is a int; ids are strings"),
        (RIGHT, {"q": {5: 1}}, TypeError, "document id 5 "),
        ({5: {"d": 1.0}}, {5: {"d": 1}}, TypeError, "query id 5 is a int"),
        (RIGHT, {"q": {"d": 0.5}}, TypeError, "is 0.5; it must be a whole number"),
        (RIGHT, {"q": {"d": True}}, TypeError, "is True; it must be a whole number"),
        (RIGHT, {"q": {"d": 10**6}}, ValueError, "is 1000000; it may be at most 10000"),
    ],
)  # fmt: skip
def test_wrong_input_is_a_sentence(run, qrels, error, message):
    with pytest.raises(error, match=message):
        evaluate(run, qrels)


def test_wrong_lists_of_metrics():
    with pytest.raises(TypeError, match="metrics is the string 'nDCG@10'; give a list"):
        evaluate({}, {"q": {"d": 1}}, "nDCG@10")
    with pytest.raises(ValueError, match="metrics is empty"):
        evaluate({}, {"q": {"d": 1}}, [])
    with pytest.raises(ValueError, match='metrics names "P@1" twice'):
        evaluate({}, {"q": {"d": 1}}, ["P@1", "P@1"])


def test_numpy_values_and_two_names_for_a_metric_and_a_huge_cutoff():
    run = {"q": {"d": np.float32(0.5), "e": np.float32(0.75)}}
    result = evaluate(run, {"q": {"d": np.int64(1)}}, ["RR@10", "MRR@10", "nDCG@999999999", "R@5"])
    assert result.mean == pytest.approx(
        {"RR@10": 0.5, "MRR@10": 0.5, "nDCG@999999999": 1 / math.log2(3), "R@5": 1.0}
    )


def test_integral_grades_and_queries_without_results():
    run = {"q": {"d": 1.0}, "empty": {}}
    result = evaluate(run, {"q": {"d": 1.0, "e": np.float32(2)}, "empty": {"d": 1}, "no": {"d": 1}})
    assert result.num_empty == 2
    assert (
        result.mean
        == evaluate(run, {"q": {"d": 1, "e": 2}, "empty": {"d": 1}, "no": {"d": 1}}).mean
    )


def test_missing_library_names_the_extra():
    code = (
        "import sys; sys.modules['ir_measures'] = None\n"
        "from stope.evaluation import evaluate\n"
        "try:\n    evaluate({'q': {'d': 1.0}}, {'q': {'d': 1}})\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert 'pip install "stope[retrieval]"' in done.stdout


def evaluation(values, metric="RR@10"):
    per_query = {f"q{row}": float(value) for row, value in enumerate(values)}
    return Evaluation({metric: float(np.mean(values))}, {metric: per_query})


def test_interval_of_a_mean_is_that_of_the_normal_approximation():
    values = np.random.default_rng(1).random(2000)
    low, high = confidence_interval(evaluation(values), "RR@10")
    half = 1.959964 * values.std() / math.sqrt(len(values))
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.05 * half
    )
    low90, high90 = confidence_interval(evaluation(values), "RR@10", confidence=0.9)
    assert high90 - low90 == pytest.approx(2 * 1.644854 * half / 1.959964, rel=0.05)


def test_bootstrap_agrees_with_every_resample_of_three_queries():
    baseline, candidate = [0.0, 0.5, 0.25], [1.0, 0.5, 0.5]
    difference = np.subtract(candidate, baseline)
    means = sorted(np.mean(sample) for sample in itertools.product(difference, repeat=3))
    found = compare(
        evaluation(baseline), evaluation(candidate), "RR@10", num_samples=40_000, confidence=0.8
    )
    assert found.mean_difference == pytest.approx(difference.mean())
    assert found.low == pytest.approx(np.quantile(means, 0.1, method="inverted_cdf"), abs=1e-12)
    assert found.high == pytest.approx(np.quantile(means, 0.9, method="inverted_cdf"), abs=1e-12)
    centred = np.array(means) - difference.mean()
    exact = np.mean(np.abs(centred) >= difference.mean() - 1e-12)
    assert found.p_value == pytest.approx(exact, abs=0.01)
    assert (found.num_queries, found.confidence, found.metric) == (3, 0.8, "RR@10")


def test_comparison_is_paired():
    """The pairing takes the difference between queries out, where two intervals overlap widely."""
    generator = np.random.default_rng(2)
    base = generator.random(300)
    better = base + 0.02 + 0.05 * generator.standard_normal(300)
    found = compare(evaluation(base), evaluation(better), "RR@10")
    half = 1.959964 * (better - base).std() / math.sqrt(300)
    assert found.mean_difference == pytest.approx((better - base).mean(), abs=1e-12)
    assert found.high - found.low == pytest.approx(2 * half, rel=0.06)
    assert found.significant
    assert found.p_value < 0.001
    turned = compare(evaluation(better), evaluation(base), "RR@10")
    assert turned.mean_difference == pytest.approx(-found.mean_difference)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low), abs=0.1 * half)
    assert turned.p_value == found.p_value


def test_no_difference_has_p_value_one():
    found = compare(evaluation([0.3, 0.1, 0.7]), evaluation([0.3, 0.1, 0.7]), "RR@10")
    assert (found.mean_difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert not found.significant


def test_p_value_is_rarely_small_without_a_difference():
    generator = np.random.default_rng(3)
    small = 0
    for seed in range(200):
        first, second = generator.random((2, 60))
        small += compare(
            evaluation(first), evaluation(second), "RR@10", num_samples=400, seed=seed
        ).significant
    assert 2 <= small <= 22  # 5 % of 200, give or take four standard deviations


def test_seed_decides_the_samples():
    values = np.random.default_rng(4).random(50)
    one = confidence_interval(evaluation(values), "RR@10", seed=1)
    assert one == confidence_interval(evaluation(values), "RR@10", seed=1)
    assert one != confidence_interval(evaluation(values), "RR@10", seed=2)


def test_order_of_queries_in_the_candidate_does_not_matter():
    first = evaluation([0.1, 0.9, 0.5, 0.4])
    second = evaluation([0.2, 0.8, 0.7, 0.4])
    turned = Evaluation(second.mean, {"RR@10": dict(reversed(second.per_query["RR@10"].items()))})
    assert compare(first, second, "RR@10") == compare(first, turned, "RR@10")


def test_wrong_comparisons_are_sentences():
    two, three = evaluation([0.0, 1.0]), evaluation([0.0, 1.0, 0.5])
    with pytest.raises(ValueError, match="only one has 'q2'"):
        compare(two, three, "RR@10")
    with pytest.raises(ValueError, match="metric is 'AP'; the metrics of candidate are"):
        compare(evaluation([0, 1], "AP"), two, "AP")
    with pytest.raises(ValueError, match="evaluation has 1 queries; an interval is undefined belo"):
        confidence_interval(evaluation([0.5]), "RR@10")
    with pytest.raises(ValueError, match="num_samples is 0"):
        compare(two, two, "RR@10", num_samples=0)
    for confidence in (0, 1, float("nan")):
        with pytest.raises(ValueError, match=r"confidence is .*; it must"):
            confidence_interval(two, "RR@10", confidence=confidence)
