"""A second stage with negatives or weights stays only where held-out queries gain."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

import small_transformers

from stope.data import Pairs, Source, read_source
from stope.encoders import load_encoder, static_encoder
from stope.evaluation import Evaluation, RetrievalEvaluation
from stope.runs import Config, run
from stope.runs.judging import draw, judges
from stope.training import GuardPart, Recipe, train
from stope.training.callbacks.log import read_log
from stope.training.guard import SECOND, Verdict

QUERIES, DOCUMENTS = small_transformers.texts(0, 60), small_transformers.texts(1, 60)
PAIRS = Pairs.from_texts(QUERIES, DOCUMENTS)
REFRESH = {"mode": "periodic", "every": 4, "num_negatives": 2, "pool": 10}
OPTIONS = {"batch_size": 10, "epochs": 2, "threads": 1, "seed": 3}


def new_encoder():
    return static_encoder([*QUERIES, *DOCUMENTS], dim=8, vocab_size=64)


def of_values(values):
    queries = {f"q{place}": float(value) for place, value in enumerate(values)}
    return Evaluation({"made up": float(np.mean(values))}, {"made up": queries})


class Scripted:
    """An evaluation that says what each query got at the ends of both stages."""

    def __init__(self, before, after):
        self.next = iter((before, after))

    def __call__(self, model):
        return {"made up": 0.5}

    def evaluate(self, model):
        assert not model.training
        return of_values(next(self.next))


WORSE = [0.5] * 20, [0.25, 0.75] * 10  # no gain in the mean
BETTER = [0.5] * 20, [0.75, 0.5] * 10


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


@pytest.fixture(scope="module")
def plain():
    """A run without negatives: the encoder, and its report."""
    model = new_encoder()
    report = train(model, PAIRS, evaluation=lambda _: {"made up": 0.5}, **OPTIONS)
    return weights(model), report


@pytest.mark.parametrize(
    "entering", [{"refresh": REFRESH}, {"weighting": "progressive"}], ids=["negatives", "weights"]
)
def test_without_a_gain_the_model_is_to_the_bit_the_one_of_a_run_without(plain, entering, tmp_path):
    model, said, steps = new_encoder(), [], []
    report = train(
        model, PAIRS, guard=True, evaluation=Scripted(*WORSE), say=said.append,
        progress=lambda *told: steps.append(told), output=tmp_path / "run", **entering, **OPTIONS,
    )  # fmt: skip
    assert same(weights(model), plain[0])
    assert report.losses[: plain[1].steps] == plain[1].losses
    assert (plain[1].steps, report.steps) == (12, 18)
    assert steps == [(step, 18) for step in range(1, 19)]
    verdict = Verdict(**report.guard)
    assert (verdict.kept, verdict.gain, verdict.queries) == (False, 0.0, 20)
    assert str(verdict) == said[-1]
    assert said[-1].split()[3].startswith("negatives" if "refresh" in entering else "weights")
    assert said[-1].endswith("not kept; the model is the one without")
    lines = [line for line in read_log(tmp_path / "run") if line["kind"] == "guard"]
    assert [(line["step"], line["kept"]) for line in lines] == [(18, False)]
    assert report.evaluation_steps == [6, 12, 18]
    assert [refresh["step"] for refresh in report.refreshes] == (
        [12, 16] if "refresh" in entering else []
    )


def test_with_a_gain_it_is_the_one_of_two_runs_in_a_row(plain):
    model = new_encoder()
    options = {**OPTIONS, "learning_rate": 0.2}
    report = train(
        model, PAIRS, refresh=REFRESH, guard={"stage": 0.75, "rate": 0.25},
        evaluation=Scripted(*BETTER), **options,
    )  # fmt: skip
    assert report.guard["kept"]
    expected = new_encoder()
    first = train(expected, PAIRS, **options)
    del options["epochs"]
    options |= {"max_steps": 9, "learning_rate": 0.05}
    second = train(expected, PAIRS, refresh=REFRESH, **options)
    assert same(weights(model), weights(expected))
    assert report.losses == first.losses + second.losses
    assert not same(weights(model), plain[0])


@pytest.mark.parametrize("stops", [[3], [12], [13], [17, 18], [5, 12, 15]], ids=str)
def test_interrupted_in_either_stage_it_goes_on_to_the_same_bits(stops, tmp_path):
    options = {**OPTIONS, "refresh": REFRESH, "guard": True, "keep": "best"}
    options |= {"weighting": "progressive", "checkpoint_every": 4}
    whole = new_encoder()
    judge = RetrievalEvaluation(
        ["a", "b"], QUERIES[:2], [str(row) for row in range(60)], DOCUMENTS,
        {"a": {"0": 1}, "b": {"1": 1}},
    )  # fmt: skip
    report = train(whole, PAIRS, evaluation=judge, output=tmp_path / "whole", **options)

    def stop_at(step):
        def progress(done, total):
            if done == step:
                raise KeyboardInterrupt

        return progress

    for step in stops:
        with pytest.raises(KeyboardInterrupt):
            train(
                new_encoder(), PAIRS, evaluation=judge, output=tmp_path / "cut", resume=True,
                progress=stop_at(step), **options,
            )  # fmt: skip
    for _ in range(2):  # the second time it has come to its end
        again = new_encoder()
        other = train(
            again, PAIRS, evaluation=judge, output=tmp_path / "cut", resume=True, **options
        )
        assert same(weights(again), weights(whole))
        assert other.losses == report.losses
        assert other.guard == report.guard
        assert other.evaluations == report.evaluations
    assert (tmp_path / "cut" / SECOND / "checkpoints").is_dir()
    assert sum(line["kind"] == "guard" for line in read_log(tmp_path / "cut")) == 1


def test_a_gain_within_chance_is_no_gain():
    """The rule in float64; one query of many that gains is exactly one standard error."""
    random = np.random.default_rng(0)
    for _ in range(50):
        before, after = random.random(30), random.random(30)
        after += random.choice([0.0, 0.1, 0.2])
        d = after - before
        for errors in (0.0, 1.0, 2.0):
            verdict = Verdict.of("negatives", of_values(before), of_values(after), errors)
            assert verdict.kept == (d.mean() > errors * d.std(ddof=1) / 30**0.5 and d.mean() > 0)
            assert verdict.gain == pytest.approx(d.mean())
            assert verdict.low <= verdict.gain <= verdict.high
    flat = of_values([0.5] * 8)
    assert not Verdict.of("weights", flat, of_values([1.0] + [0.5] * 7), 1.0).kept
    assert not Verdict.of("weights", flat, flat, 0.0).kept
    one = Verdict.of("weights", of_values([0.5]), of_values([1.0]), 1.0)
    assert (one.kept, one.low) == (False, None)
    assert "brought +0.500 made up on 1 held-out query: not kept" in str(one)


def test_auto_is_mining_with_all_defaults_and_a_guard():
    recipe = Recipe(negatives="auto")
    assert recipe.guard == GuardPart()
    assert recipe.negatives.among == "positives"
    assert Recipe().with_options(negatives="auto") == recipe
    assert Recipe(guard={"stage": 1}).with_options(refresh="auto").guard.stage == 1
    assert Recipe(negatives={"num_negatives": 2}).guard is None
    with pytest.raises(ValueError, match=r"negatives is auto.*guard is false; keep one"):
        Recipe(negatives="auto", guard=False)


def test_what_a_guard_needs():
    evaluation = Scripted(*WORSE)
    for options, message in (
        ({"negatives": "auto"}, "there is no evaluation that could say"),
        ({"guard": True, "evaluation": evaluation}, "neither negatives nor a weighting"),
        (
            {"guard": True, "evaluation": evaluation, "refresh": {"mode": "query_side"}},
            "query_side",
        ),
        ({"negatives": "auto", "guard": {"stage": 0}}, "guard.stage is 0; give a number above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            train(new_encoder(), PAIRS, **options)
    model = new_encoder()
    before = weights(model)
    with pytest.raises(
        TypeError, match="guard compares query by query; give a RetrievalEvaluation"
    ):
        train(model, PAIRS, negatives="auto", evaluation=lambda _: {"made up": 0.5}, epochs=1)
    assert same(before, weights(model))  # refused before training
    returning = lambda _: of_values([0.5, 0.25])  # noqa: E731 - an Evaluation is as good
    report = train(model, PAIRS, refresh=REFRESH, guard=True, evaluation=returning, **OPTIONS)
    assert report.evaluations[0] == {"made up": 0.375}
    assert report.guard["queries"] == 2


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"query": f"{query} {place}", "positive": document}
        for query, document in zip(QUERIES, DOCUMENTS, strict=True)
        for place in ("x", "y")
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_run_makes_held_out_queries_of_its_own(folder):
    config = {
        "data": "pairs.jsonl", "encoder": {"static": {"dim": 8}}, "output": "run",
        "negatives": "auto", "schedule": {"epochs": 2, "batch_size": 16},
    }  # fmt: skip
    report = run(config)
    assert report.num_queries == report.training.guard["queries"] == 12
    assert json.loads((folder / "run" / "report.json").read_text())["training"]["guard"]["queries"]
    metric = report.training.guard["metric"]
    name = "after" if report.training.guard["kept"] else "before"
    assert report.after[metric] == pytest.approx(report.training.guard[name])
    assert run(config, resume=True).training.guard == report.training.guard
    assert load_encoder(report.model).encode(["w1"]).shape == (1, 8)
    with pytest.raises(ValueError, match="evaluation is none, but negatives: auto"):
        Config.from_dict({**config, "evaluation": "none"})
    without = {**config, "negatives": {"num_negatives": 2}, "evaluation": "none"}
    assert Config.from_dict(without).evaluation is None


def test_queries_that_share_a_positive_are_held_out_together(folder):
    def held_out(count):
        evaluation = {"holdout": count, "holdout_by": "positive"}
        given = {"data": "pairs.jsonl", "output": "run", "evaluation": evaluation}
        return judges(Config.from_dict(given), read_source(Source("pairs.jsonl")))

    judged, left = held_out(30)
    held = {document for answers in judged.held_out.qrels.values() for document in answers}
    trained = {left.pairs.corpus_ids[row] for row in left.pairs.positives.ids}
    assert len(judged.held_out.query_ids) == 30
    assert not held & trained
    rows = [{"query": f"q{n}", "positive": "the only answer"} for n in range(20)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="holdout_by is positive, but even the smallest"):
        held_out(5)


@pytest.mark.parametrize("seed", range(5))
def test_half_of_the_held_out_queries_share_no_positive(seed):
    rng = np.random.default_rng(seed)
    answers = [rng.choice(60, rng.integers(1, 3), replace=False).tolist() for _ in range(80)]
    documents = [[f"d{place}" for place in places] for places in answers]
    asked = Pairs.from_texts([f"q{row}" for row in range(80)], documents)
    rows, apart = draw(asked, 21, "both", seed)
    assert np.array_equal(rows, draw(asked, 21, "both", seed)[0])
    assert len(set(rows.tolist())) == len(rows) == 21
    trained = np.setdiff1d(np.arange(80), rows)
    known = {row for query in trained for row in asked.positives.row(query).tolist()}
    shares = [bool(known & set(asked.positives.row(query).tolist())) for query in rows]
    assert 21 - sum(shares) >= apart
    assert apart <= 10
    alone, all_apart = draw(asked, 21, "positive", seed)
    assert len(alone) == all_apart <= 21
    assert draw(asked, 21, "query", seed)[1] == 0


def test_where_all_share_their_answers_queries_are_held_out_at_random(folder):
    rows = [{"query": f"q{n}", "positive": f"one of {n % 2}"} for n in range(40)]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data": "pairs.jsonl", "output": "run", "evaluation": {"holdout": 6}}
    judged, left = judges(Config.from_dict(data), read_source(Source("pairs.jsonl")))
    assert len(judged.held_out.query_ids) == 6
    assert len(left.pairs.query_texts) == 34
    assert judged.said == (
        "holding out 6 queries to judge by: 0 share no positive with those that are trained on, 6 "
        "are drawn at random (no 3 queries or fewer have their positives to themselves)"
    )


@pytest.mark.parametrize("begun", ["positive", "query"])
def test_a_run_of_before_goes_on_with_the_queries_it_held_out(folder, begun):
    config = {
        "data": "pairs.jsonl", "encoder": {"static": {"dim": 8}}, "output": "run",
        "evaluation": {"holdout": 12, "holdout_by": begun}, "schedule": {"epochs": 1},
    }  # fmt: skip
    first = run(config)
    (folder / "run" / "report.json").unlink()
    del config["evaluation"]["holdout_by"]
    assert run(config, resume=True).before == first.before
