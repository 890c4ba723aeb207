"""A second stage of an adapter stays only where held-out queries gain."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.stats

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from adapter_cases import DIM, normal, pairs

from stope.adapters import train_adapter
from stope.evaluation import Evaluation
from stope.runs import run
from stope.training.guard import Verdict

OPTIONS = {"epochs": 4, "batch_size": 16, "num_documents": 30, "seed": 2}


def judge(values):
    """Says these values for 20 queries, one after another, then the last."""
    left = list(values)

    def evaluate(adapter):
        value = left.pop(0) if len(left) > 1 else left[0]
        queries = {f"q{n}": value + 0.01 * (n % 2) for n in range(20)}
        return Evaluation({"made up": float(np.mean(list(queries.values())))}, {"made up": queries})

    return evaluate


@pytest.mark.parametrize(
    "entering", [{"refresh_every": 1}, {"weighting": "progressive"}], ids=["negatives", "weights"]
)
@pytest.mark.parametrize("helps", [False, True])
def test_only_what_helps_stays(entering, helps):
    queries, corpus = pairs(60)
    noted = []
    # One look before; then of the encoder and each epoch, of the first stage and of the second.
    scores = [0.1, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.6 if helps else 0.5]
    found = train_adapter(
        queries, corpus, np.arange(60), evaluate=judge(scores), guard={"rate": 1.0},
        log=lambda kind, step, **numbers: noted.append((kind, step, numbers)),
        **entering, **OPTIONS,
    )  # fmt: skip
    plain = train_adapter(queries, corpus, np.arange(60), **OPTIONS)
    assert np.array_equal(found.weight, plain.weight) != helps
    assert found.losses[: len(plain.losses)] == plain.losses
    assert len(found.losses) == 1.5 * len(plain.losses)
    kind, step, numbers = noted[-1]
    verdict = Verdict(**numbers)
    assert (kind, step, verdict.kept, verdict.queries) == ("guard", len(found.losses), helps, 20)
    assert verdict.what == next(
        iter({"refresh_every": "negatives"}.get(n, "weights") for n in entering)
    )
    assert [epoch for epoch, _ in found.evaluations] == [0, 1, 2, 3, 4, 4, 5, 6]
    assert [place for kind, place, _ in noted if kind == "step"] == list(range(1, step + 1))


def noisy(means, spread=0.3, queries=40):
    """Evaluations of these means whose queries differ by chance, but are the same queries."""
    rng = np.random.default_rng(5)
    evaluations = []
    for mean in means:
        values = rng.normal(0, spread, queries)
        values += mean - values.mean()
        named = {f"q{n}": float(value) for n, value in enumerate(values)}
        evaluations.append(Evaluation({"made up": float(values.mean())}, {"made up": named}))
    return evaluations


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4], 3),
        ([0.1, 0.2, 0.41, 0.4], 3),  # better, by less than its standard error
        ([0.1, 0.2, 0.5, 0.4], 3),  # by one to two of them: enough for the start alone
        ([0.1, 0.2, 0.6, 0.4], 2),
        ([0.41, 0.2, 0.3, 0.4], 3),
        ([0.5, 0.2, 0.3, 0.4], 0),
        ([0.7, 0.2, 0.3, 0.4], 0),
        ([0.1, 0.4, 0.4, 0.4], 3),
    ],
)
def test_the_end_stays_unless_another_is_better_by_more_than_chance(means, expected):
    queries, corpus = pairs(60)
    evaluations, seen = noisy(means), []

    def evaluate(adapter):
        seen.append(adapter.weight)
        return evaluations[len(seen) - 1]

    options = {**OPTIONS, "epochs": 3}
    found = train_adapter(queries, corpus, np.arange(60), evaluate=evaluate, **options)
    assert np.array_equal(found.weight, seen[expected])
    assert [score for _, score in found.evaluations] == pytest.approx(means)
    gains = np.array(
        [np.array(list(e.per_query["made up"].values())) for e in evaluations]
    ) - np.array(list(evaluations[-1].per_query["made up"].values()))
    errors = np.array([1.0, 2.0, 2.0]) * scipy.stats.sem(gains[:-1], axis=1)
    assert (gains[:-1].mean(axis=1) > errors).any() == (expected < 3)
    by_score = train_adapter(
        queries, corpus, np.arange(60), **options,
        evaluate=lambda adapter: means[min(3, len(adapter.losses) // 4)],
    )  # fmt: skip
    assert np.array_equal(by_score.weight, seen[int(np.argmax(means))])


def test_evaluations_that_cannot_be_compared():
    queries, corpus = pairs(60)
    other = Evaluation({"made up": 0.5}, {"made up": {"another": 0.5, "q1": 0.5}})
    for judged, message in (
        ([noisy([0.5])[0], other], "not over the same queries: only one has 'another'"),
        ([Evaluation({"made up": 0.5}, {})], "without values of single queries"),
    ):
        left = list(judged)
        with pytest.raises(ValueError, match=message):
            train_adapter(
                queries, corpus, np.arange(60), **OPTIONS,
                evaluate=lambda _, left=left: left.pop(0) if len(left) > 1 else left[0],
            )  # fmt: skip


def test_never_worse_than_the_encoder_itself():
    queries, corpus = pairs(60)
    found = train_adapter(
        queries, corpus, np.arange(60), evaluate=judge([0.9, 0.9, 0.1]), refresh_every=1,
        guard=True, **OPTIONS,
    )  # fmt: skip
    np.testing.assert_array_equal(found.weight, np.eye(DIM))


def test_what_a_guard_of_an_adapter_needs():
    rows, corpus = pairs(60)
    for options, error, message in (
        (
            {"evaluate": judge([0.5])},
            ValueError,
            "neither negatives .refresh_every. nor a weighting",
        ),
        ({"refresh_every": 1}, ValueError, "there is no evaluation to judge by"),
        ({"refresh_every": 1, "evaluate": lambda _: 0.5}, TypeError, "evaluate returned 0.5, but"),
    ):
        with pytest.raises(error, match=message):
            train_adapter(rows, corpus, np.arange(60), guard=True, **options, **OPTIONS)


def test_a_run_reports_it(tmp_path):
    rows = [{"query": f"q{n} w{n % 7}", "positive": f"d{n} w{n % 5}"} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("q", "c"):
        np.save(tmp_path / f"{name}.npy", normal(60, DIM, seed=len(name)))
    adapter = {"query_embeddings": str(tmp_path / "q.npy"), "num_documents": 30, "refresh_every": 1}
    report = run(
        {
            "data": {"path": str(tmp_path / "pairs.jsonl")}, "output": str(tmp_path / "run"),
            "adapter": {**adapter, "corpus_embeddings": str(tmp_path / "c.npy")},
            "guard": True, "schedule": {"epochs": 4, "batch_size": 16},
        }
    )  # fmt: skip
    assert report.num_queries == report.training.guard["queries"] == 6
    told = json.loads((tmp_path / "run" / "report.json").read_text())["training"]["guard"]
    assert told == report.training.guard
    assert report.after["nDCG@10"] >= report.before["nDCG@10"]
