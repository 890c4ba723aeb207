"""What weightings refuse: numbers out of range, progress, wrong kinds."""

from __future__ import annotations

import math

import numpy as np
import pytest

import stope
import torch
from stope import weighting as w


@pytest.mark.parametrize("progress", [-0.1, 1.01, math.nan, math.inf])
def test_progress_is_a_share(progress):
    values = np.array([0.5, 0.25])
    for weighting in (
        w.Progressive(), w.Dynamic(), w.AnswerRanking(), w.Focal("difficulty"), w.Teacher(),
        w.Constant(), w.WarmUp(w.Constant()), w.FadeOut(w.Constant()),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"progress is .*; give the share of training"):
            weighting.weights(values, progress)
        with pytest.raises(TypeError, match="progress is 'half'; give a number"):
            weighting.weights(values, "half")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda v: w.Progressive(last=math.nan).weights(v, 0), "last is nan; it must be finite"),
        (lambda v: w.Progressive(limit=0).weights(v, 0), "limit is 0; .*above 0"),
        (lambda v: w.Progressive(warm_up=2).weights(v, 0), "warm_up is 2; .* from 0 to 1"),
        (
            lambda v: w.Dynamic(strategy="upwards").weights(v, 0),
            "strategy is 'upwards'; give one of",
        ),
        (lambda v: w.Dynamic(temperature=0).weights(v, 0), "temperature is 0; .*above 0"),
        (lambda v: w.Dynamic(burn_in=0.9, anneal_until=0.5).weights(v, 0), "burn_in comes first"),
        (lambda v: w.Focal("difficulty", gamma=-1).weights(v, 0), "gamma is -1; .*at least 0"),
        (lambda v: w.focal_difficulty(-v), r"losses\[0\] is -0.5; give numbers of at least"),
        (lambda v: w.RankCutoff(top=0).weights(v), "top is 0; .*at least 1"),
        (lambda v: w.Constant(value=0).weights(v), "value is 0; .*above 0"),
        (lambda v: w.hard_negative_difficulty(v, v, over="min"), "over is 'min'; give one of"),
        (lambda v: w.teacher_confidence(v, v[:1]), "positive_scores has 2 samples but negative"),
        (lambda v: w.Progressive().weights(v, 0, processes=2), "processes is 2; give None"),
        (lambda v: w.Progressive().weights(v, 0, processes="one"), "processes is 'one'; give None"),
    ],
)
def test_bad_numbers(call, says):
    with pytest.raises(ValueError, match=says):
        call(np.array([0.5, 0.25]))


def test_integers_are_refused():
    with pytest.raises(TypeError, match=r"loss has dtype int64; give floats, such as loss\.a"):
        w.Dynamic().weights(np.array([1, 2]), 0.5)
    with pytest.raises(TypeError, match=r"loss has dtype torch.int64; .* loss\.float\(\)"):
        w.Dynamic().weights(torch.tensor([1, 2]), 0.5)


@pytest.mark.parametrize(
    "wrong", [None, object, "hard", [0.5], {"a": 1}, np.array(["a"])], ids=repr
)
def test_wrong_kinds_are_sentences(wrong):
    for weighting in (w.Progressive(), w.Focal("hardness"), w.AnswerRanking(anti=True)):
        with pytest.raises(TypeError, match=rf"{weighting.signal} (is a|has dtype) "):
            weighting.weights(wrong)
    statistics = stope.infonce_forward(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    if wrong is not None:
        with pytest.raises((TypeError, ValueError), match=r"own_scores (is|has) .*; give an array"):
            w.difficulty_signals(statistics, own_scores=wrong)
    if not isinstance(wrong, dict):
        for weighting in (w.Progressive(), w.Constant()):
            with pytest.raises(TypeError, match=r"signals is .*; give a mapping of arrays by name"):
                weighting(wrong, 0.5)


def test_numbers_that_no_float_holds():
    for make in (lambda: w.Progressive(first=10**400), lambda: w.Constant(10**400)):
        with pytest.raises(ValueError, match=r"is 1000.*\.\.\.0+; it must be finite"):
            make()
    with pytest.raises(ValueError, match=r"progress is 1000.*; give the share"):
        w.Constant().weights(np.ones(2), 10**400)
