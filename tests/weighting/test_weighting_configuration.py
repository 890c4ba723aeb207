"""Weightings as configurations name them: what they compute, composed, written and read again."""

from __future__ import annotations

import dataclasses
import json

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import torch
from stope import weighting as w
from stope.weighting import Weighting, weigh

SIGNALS = {
    "loss": np.array([0.1, 2.0, 0.7, 4.0]),
    "hardness": np.array([-0.5, 0.1, -0.2, 0.3]),
    "easiness": np.array([0.9, 0.1, 0.8, 0.5]),
    "teacher_confidence": np.array([0.9, 0.5, 1.0, 0.0]),
    "rank": np.array([1, 3, 2, 7]),
    "log_sum_exp": np.array([3.0, 1.0, 2.0, 0.0]),
}
EXAMPLES = [
    w.Constant(),
    w.Constant(3),
    w.Progressive(),
    w.Progressive(signal="log_sum_exp", first=-2, last=0.5, warm_up=0.0, limit=2, anti=True),
    w.AnswerRanking(),
    w.AnswerRanking(until=0.4, batch_mean=True, anti=True),
    w.Dynamic(),
    w.Dynamic(
        signal="hardness", strategy="extremes", temperature=0.4, first_temperature=9.0, burn_in=0.1
    ),
    w.Focal(),
    w.Focal(signal="hardness", gamma=1, first_gamma=0.0, temperature=0.2, anti=True),
    w.Teacher(power=0.5),
    w.RankCutoff(top=2),
    w.Product((w.Progressive(), w.Teacher())),
    w.Clipped(w.Dynamic(), 0.2, 3.0),
    w.Normalized(w.Teacher(anti=True)),
    w.Anti(w.Focal()),
    w.WarmUp(w.Dynamic(), start=0.1, end=0.3),
    w.FadeOut(w.Normalized(w.Clipped(w.Product((w.Focal(), w.RankCutoff(3))), high=2.0))),
]
every = pytest.mark.parametrize("weighting", EXAMPLES, ids=lambda e: json.dumps(e.to_dict()))
SHARES = hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 5, width=32))


@every
@pytest.mark.parametrize("progress", [0.0, 0.2, 1.0])
def test_json_and_back(weighting, progress):
    again = Weighting.from_dict(json.loads(json.dumps(weighting.to_dict())))
    assert again == weighting
    assert hash(again) == hash(weighting)
    before, after = (each(SIGNALS, progress) for each in (weighting, again))
    np.testing.assert_array_equal(before, after)
    assert (before >= 0).all()
    tensors = {name: torch.from_numpy(values) for name, values in SIGNALS.items()}
    found = weighting(tensors, progress)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_array_equal(found.numpy(), before)
    with pytest.raises(dataclasses.FrozenInstanceError):
        weighting.other = 1


def test_every_name_has_an_example():
    # Tests, doctests and recipes that ran before add classes of their own.
    ours = {
        name
        for name, cls in Weighting._registry.items()
        if issubclass(cls, Weighting) and cls.__module__.startswith("stope.")
        if not name.startswith("doctest_")
    }
    assert {example.name for example in EXAMPLES} == ours


def test_what_each_reads():
    loss, hardness = SIGNALS["loss"], SIGNALS["hardness"]
    of_difficulty = w.Focal("difficulty")
    for weighting, expected in [
        (w.Progressive(), w.Progressive().weights(hardness, 0.7)),
        (w.Progressive(anti=True), w.Progressive(first=1.0, last=-1.0).weights(hardness, 0.7)),
        (w.AnswerRanking(anti=True), w.AnswerRanking().weights(1 - SIGNALS["easiness"], 0.7)),
        (w.Focal(), of_difficulty.weights(w.focal_difficulty(loss), 0.7)),
        (w.Focal("hardness"), of_difficulty.weights(w.margin_difficulty(-hardness), 0.7)),
        (w.RankCutoff(2), np.array([1.0, 0.0, 1.0, 0.0])),
        (w.Teacher(), np.array([0.9, 0.5, 1.0, 1e-6])),
        (w.Constant(2), np.full(4, 2.0)),
    ]:
        np.testing.assert_allclose(weighting(SIGNALS, 0.7), expected, rtol=1e-12)


def test_the_functions_of_before():
    loss, hardness, weights = SIGNALS["loss"], SIGNALS["hardness"], SIGNALS["teacher_confidence"]
    constant = w.Constant()
    for name, arguments, fields, expected in [
        ("progressive", (hardness, 0.7), {"last": 2.0}, w.Progressive(last=2.0)),
        ("dynamic", (loss, 0.7, "upper"), {}, w.Dynamic(strategy="upper")),
        ("answer_ranking", (weights, 0.7), {"until": 0.9}, w.AnswerRanking(until=0.9)),
        ("focal", (weights, 0.7), {"gamma": 3}, w.Focal("difficulty", gamma=3)),
        ("teacher", (weights,), {"power": 2}, w.Teacher(power=2)),
        ("rank_cutoff", (SIGNALS["rank"],), {"top": 2}, w.RankCutoff(2)),
        ("constant", (loss,), {"value": 3.0}, w.Constant(3.0)),
        ("clip", (weights, 0.6, 0.95), {}, w.Clipped(constant, 0.6, 0.95)),
        ("normalize", (weights,), {}, w.Normalized(constant)),
        ("anti", (weights,), {}, w.Anti(constant)),
        ("warm_up", (weights, 0.05), {"end": 0.2}, w.WarmUp(constant, end=0.2)),
        ("fade_out", (weights, 0.05), {"end": 0.2}, w.FadeOut(constant, end=0.2)),
    ]:
        with pytest.warns(DeprecationWarning, match=r"\.weights now; the old name goes"):
            function = getattr(w, f"{name}_weights")
        progress = arguments[1] if len(arguments) > 1 and name != "clip" else 0.0
        found = function(*arguments, **fields)
        np.testing.assert_array_equal(found, expected.weights(arguments[0], progress))
    with pytest.warns(DeprecationWarning, match=r"product_weights is stope.weighting.Product"):
        product = w.product_weights
    assert product(np.array([0.5, 2.0]), np.array([3.0, 0.25])).tolist() == [1.5, 0.5]
    with pytest.raises(AttributeError, match="has no attribute 'heavy_weights'"):
        w.heavy_weights  # noqa: B018


def test_composition():
    teacher, easiness = SIGNALS["teacher_confidence"], SIGNALS["easiness"]
    product = w.Product((w.Teacher(), w.AnswerRanking()))
    np.testing.assert_allclose(product(SIGNALS, 0.0)[:3], (teacher * easiness)[:3])
    clipped = w.Clipped(w.Teacher(), 0.6, 0.95)
    assert clipped(SIGNALS, 0.0).tolist() == [0.9, 0.6, 0.95, 0.6]
    assert w.Normalized(product)(SIGNALS, 0.3).mean() == pytest.approx(1)
    warm = w.WarmUp(w.Teacher(), start=0.2, end=0.4)
    fade = w.FadeOut(w.Teacher(), start=0.2, end=0.4)
    full = w.Teacher()(SIGNALS, 0.0)
    for progress, done in ((0.0, 0), (0.2, 0), (0.3, 0.5), (0.4, 1), (1.0, 1)):
        np.testing.assert_allclose(warm(SIGNALS, progress), 1 + (full - 1) * done)
        np.testing.assert_allclose(fade(SIGNALS, progress), 1 + (full - 1) * (1 - done))
    switch = w.WarmUp(w.Teacher(), start=0.2, end=0.2)
    assert (switch(SIGNALS, 0.19) == 1).all()
    np.testing.assert_array_equal(switch(SIGNALS, 0.2), full)


@given(SHARES)
def test_anti_turns_around_and_keeps_the_mean(weights):
    found = w.Anti(w.Constant()).weights(weights)
    assert found.mean() == pytest.approx(weights.mean(), rel=1e-9)
    assert (found >= 0).all()
    order = np.argsort(weights, kind="stable")
    assert (np.diff(found[order]) <= 1e-12).all()
    if len(set(weights)) == 2:
        assert found.min() < found.max()


@given(SHARES)
def test_normalized_weights_know_no_size(weights):
    if not weights.any():
        with pytest.raises(ValueError, match="weights are all 0"):
            w.Normalized(w.Constant()).weights(weights)
        return
    found = w.Normalized(w.Constant()).weights(weights)
    assert found.mean() == pytest.approx(1, rel=1e-9)
    np.testing.assert_allclose(w.Normalized(w.Constant()).weights(weights * 8), found, rtol=1e-12)
    effective = w.summarize_weights(weights).effective
    assert 1 / len(weights) - 1e-9 <= effective <= 1 + 1e-9
    assert effective == pytest.approx(w.summarize_weights(found).effective)


def test_summary():
    assert w.summarize_weights(np.ones(3)) == (1, 1, 1, 0, 1)
    assert w.summarize_weights(torch.tensor([0.0, 4, 0, 0])) == (1, 0, 4, 0.75, 0.25)
    assert w.summarize_weights(np.zeros(2)).effective == 0


def test_weights_of_the_data_multiply_in():
    column = np.array([0.0, 1.0, 2.0, 0.5])
    found = weigh(w.Progressive(), {**SIGNALS, "weight": column}, 1.0)
    np.testing.assert_allclose(found, w.Progressive()(SIGNALS, 1.0) * column)
    np.testing.assert_array_equal(
        weigh(w.Progressive(), SIGNALS, 1.0), w.Progressive()(SIGNALS, 1.0)
    )
    with pytest.raises(ValueError, match=r"weight\[1\] is -1; give numbers"):
        weigh(w.Constant(), {**SIGNALS, "weight": np.array([1.0, -1, 1, 1])}, 0.0)
    with pytest.raises(ValueError, match=r"has 4 samples but .* has 3"):
        weigh(w.Constant(), {**SIGNALS, "weight": np.ones(3)}, 0.0)


@pytest.mark.parametrize(
    ("config", "kind", "says"),
    [
        ({}, ValueError, "weighting is {}, which has no name; give name, one of answer_ranking"),
        ({"kappa": 1}, ValueError, "weighting is {'kappa': 1}, which has no name"),
        ({"name": "progresive"}, ValueError, "the name 'progresive'; there are .*progressive"),
        ({"name": ["focal"]}, ValueError, r"the name \['focal'\]; there are"),
        ({"name": "rank_cutoff"}, ValueError, "'rank_cutoff' needs the field 'top'"),
        ({"name": "focal", "gama": 1}, ValueError, "has no field 'gama'; it has signal, gamma"),
        ({"name": "focal", "gamma": "big"}, TypeError, "gamma is 'big'; give a number"),
        ({"name": "focal", "signal": "rank"}, ValueError, "signal is 'rank'; give one of"),
        ({"name": "focal", "anti": 1}, TypeError, "anti is 1; give True or False"),
        ({"name": "progressive", "signal": 3}, TypeError, "signal is 3; give the name"),
        ({"name": "progressive", "first": "a"}, TypeError, "first is 'a'; give a number"),
        ({"name": "progressive", "warm_up": 3}, ValueError, "warm_up is 3"),
        ({"name": "dynamic", "strategy": "no"}, ValueError, "strategy is 'no'"),
        ({"name": "product", "parts": []}, ValueError, r"parts is \(\); give at least one"),
        ({"name": "product", "parts": "focal"}, ValueError, "parts is 'focal'; give at least"),
        ({"name": "product", "parts": [1]}, TypeError, r"parts\[0\] is 1; give a weighting"),
        ({"name": "anti", "of": {"name": "x"}}, ValueError, "weighting.of has the name 'x'; there"),
        ({"name": "anti", "of": {}}, TypeError, "of is {}; give a weighting"),
        ({"name": "product", "parts": [{"name": 1}]}, ValueError, r"weighting.parts\[0\] has the"),
        ({"name": "clipped", "of": {"name": "focal"}, "low": 2, "high": 1}, ValueError, "low is 2"),
        ({"name": "warm_up", "of": {"name": "focal"}, "start": 1}, ValueError, "start comes first"),
        (7, TypeError, "weighting is 7; give a mapping with a name and fields, or a name"),
    ],
)
def test_bad_configurations_fail_before_training(config, kind, says):
    with pytest.raises(kind, match=says):
        Weighting.from_dict(config)


def test_a_missing_signal_is_named():
    with pytest.raises(ValueError, match="'teacher' reads the signal 'teacher_confidence', but si"):
        w.Teacher()({"loss": SIGNALS["loss"]}, 0.0)
    with pytest.raises(ValueError, match="signals is empty"):
        w.Constant()({}, 0.0)


def test_own_weightings():
    @dataclasses.dataclass(frozen=True)
    class Own(Weighting, name="doctest_own"):
        values: tuple = (1.0,)

        def __call__(self, signals, progress, *, processes=None):
            return w.Constant(value=self.values[0]).weights(signals["loss"], progress)

    wrapped = w.Clipped(Own((2.0,)), high=1.5)
    assert Weighting.from_dict(wrapped.to_dict()) == wrapped
    assert wrapped(SIGNALS, 0.0).tolist() == [1.5] * 4
    with pytest.raises(TypeError, match="holds finite numbers"):
        Own((np.ones(2),)).to_dict()
    with pytest.raises(ValueError, match=r"name is 'focal', which .*Focal has"):
        type("Other", (Weighting,), {}, name="focal")
    with pytest.raises(TypeError, match=r"Other has no name; write class Other\(Weighting, name="):
        type("Other", (Weighting,), {})


def test_importing_needs_numpy_only(succeeds):
    said = succeeds("""
        import sys
        sys.modules["torch"] = None  # importing it is an error from here on
        import numpy as np
        from stope import weighting as w
        loss = np.ones(2, np.float32)
        print(w.weigh(w.Dynamic(), {"loss": loss}, 0.5, processes="all").tolist())
    """)
    assert said.split("\n")[0] == "[1.0, 1.0]"


def test_papers_names():
    assert Weighting.from_dict({"name": "E5", "top": 2}) == w.RankCutoff(2)
    assert w.Dynamic(strategy="LinUpper") == w.Dynamic(strategy="lin_upper")
    assert w.Dynamic(strategy="Extremes").to_dict()["strategy"] == "extremes"
