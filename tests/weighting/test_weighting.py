"""stope.weighting: oracles (docs/methods.md, A1, E1, E2), properties, NumPy and torch alike."""

from __future__ import annotations

import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

import stope
import torch
from stope import weighting as w
from stope.weighting.dynamic import STRATEGIES

VALUES = st.floats(-50, 50, width=32)
BATCHES = hnp.arrays(np.float64, st.integers(1, 12), elements=VALUES)
SHARES = hnp.arrays(np.float64, st.integers(1, 12), elements=st.floats(0, 1, width=32))
PROGRESS = st.floats(0, 1)
LOSSES = np.array([1.0, 2.0, 3.0, 4.0])

# Every function of one vector: name -> (function of values, values it can take)
OF_ONE = {
    "progressive": (lambda v: w.Progressive().weights(v, 0.8), BATCHES),
    **{
        f"dynamic {s}": (lambda v, s=s: w.Dynamic(strategy=s).weights(v, 0.5), BATCHES)
        for s in STRATEGIES
    },
    "answer ranking": (lambda v: w.AnswerRanking().weights(v, 0.3), SHARES),
    "focal": (lambda v: w.Focal("difficulty", first_gamma=0.5).weights(v, 0.3), SHARES),
    "teacher": (lambda v: w.Teacher(power=0.5).weights(v), SHARES),
    "constant": (lambda v: w.Constant(value=2.0).weights(v), BATCHES),
    "focal difficulty": (w.focal_difficulty, SHARES),
    "margin difficulty": (w.margin_difficulty, BATCHES),
    "anti": (w.Anti(w.Constant()).weights, SHARES),
    "clip": (lambda v: w.Clipped(w.Constant(), low=0.1, high=0.7).weights(v), SHARES),
    "warm-up": (lambda v: w.WarmUp(w.Constant()).weights(v, 0.03), SHARES),
    "fade-out": (lambda v: w.FadeOut(w.Constant()).weights(v, 0.3), SHARES),
}
each = pytest.mark.parametrize(("function", "batches"), OF_ONE.values(), ids=OF_ONE)


def ordered(difficulty, weights):
    """The weights in the order of difficulty."""
    return weights[np.argsort(difficulty, kind="stable")]


# --- all of them -------------------------------------------------------------------------------


@each
@given(data=st.data())
def test_numpy_and_torch_agree_and_keep_their_kind(function, batches, data):
    values = data.draw(batches)
    for dtype in (np.float32, np.float64):
        given_array = values.astype(dtype)
        before = given_array.copy()
        expected = function(given_array)
        tensor = torch.from_numpy(given_array).requires_grad_()
        found = function(tensor)
        assert type(expected) is np.ndarray
        assert expected.dtype == dtype
        assert expected.shape == values.shape
        assert found.dtype == tensor.dtype
        assert not found.requires_grad
        assert np.array_equal(found.numpy(), expected)
        assert np.array_equal(given_array, before)
        assert np.isfinite(expected).all()
        assert (expected >= 0).all()


@each
@given(data=st.data())
def test_the_order_of_samples_does_not_matter(function, batches, data):
    values = data.draw(batches)
    order = data.draw(st.permutations(range(len(values))))
    np.testing.assert_allclose(function(values[order]), function(values)[order], rtol=1e-9)


@each
def test_half_precision_becomes_float32(function, batches):
    values = torch.tensor([0.25, 0.5, 1.0])
    for dtype in (torch.float16, torch.bfloat16):
        found = function(values.to(dtype))
        assert found.dtype == torch.float32
        assert torch.equal(found, function(values))
    assert function(np.float16([0.25, 0.5, 1.0])).dtype == np.float32


@each
def test_bad_arrays(function, batches):
    for bad in (math.nan, -math.inf if function is w.margin_difficulty else math.inf):
        values = np.array([0.5, bad, 0.25], np.float32)
        with pytest.raises(
            ValueError, match=r"\w+\[1\] is -?(nan|inf); every entry must be finite"
        ):
            function(values)
        with pytest.raises(ValueError, match=r"\[1\] is -?(nan|inf)"):
            function(torch.from_numpy(values))
    with pytest.raises(ValueError, match=r"is empty \(shape \(0,\)\); give at least one sample"):
        function(np.zeros(0, np.float32))
    with pytest.raises(ValueError, match=r"has 3 dimensions \(shape \(2, 2, 2\)\)"):
        function(np.zeros((2, 2, 2), np.float32))
    with pytest.raises(TypeError, match="is a list; give a NumPy array or a torch tensor"):
        function([0.5])


@each
def test_shares_have_limits(function, batches):
    if batches is BATCHES:
        return
    with pytest.raises(ValueError, match=r"\[1\] is -1; give numbers of at least"):
        function(np.array([0.5, -1.0]))


# --- progressive -------------------------------------------------------------------------------


@given(BATCHES, PROGRESS)
def test_progressive_weights_have_mean_1(difficulty, progress):
    weights = w.Progressive().weights(difficulty, progress)
    assert weights.sum() == pytest.approx(len(difficulty), rel=1e-12)


@given(BATCHES)
def test_progressive_weights_follow_difficulty(difficulty):
    at = {t: ordered(difficulty, w.Progressive().weights(difficulty, t)) for t in (0.0, 0.1, 1.0)}
    assert (np.diff(at[0.0]) <= 1e-12).all()
    assert (np.diff(at[1.0]) >= -1e-12).all()
    assert np.array_equal(at[0.0], at[0.1])  # warm-up
    opposite = w.Progressive(first=1.0, last=-1.0).weights(difficulty, 1.0)
    assert np.array_equal(opposite, w.Progressive().weights(difficulty, 0.0))


@given(BATCHES)
def test_kappa_0_is_the_plain_loss_bit_for_bit(difficulty):
    for dtype in (np.float32, np.float64):
        weights = w.Progressive(first=0.0, last=0.0).weights(difficulty.astype(dtype), 0.5)
        assert (weights == 1.0).all()


def test_progressive_weights_of_the_fused_loss():
    from stope.torch import InfoNCELoss

    rows = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(1))
    loss = InfoNCELoss(0.1)
    plain = loss(rows[0], rows[1])
    hardness = w.difficulty_signals(loss.statistics)["hardness"]
    uniform = w.Progressive(first=0.0, last=0.0).weights(hardness, 0.5)
    assert torch.equal(loss(rows[0], rows[1], weights=uniform), plain)
    assert loss(rows[0], rows[1], weights=w.Progressive().weights(hardness, 1.0)) > plain
    assert loss(rows[0], rows[1], weights=w.Progressive().weights(hardness, 0.0)) < plain


def test_a_large_kappa_takes_the_hardest():
    difficulty = np.array([0.1, 0.9, 0.2, 0.3])
    weights = w.Progressive(last=1e4).weights(difficulty, 1.0)
    np.testing.assert_allclose(weights, [0, 4, 0, 0], atol=1e-12)


@given(BATCHES, st.floats(0.5, 20), st.floats(-5, 5))
def test_progressive_weights_know_no_unit(difficulty, factor, shift):
    if difficulty.std() < 0.1:
        return
    np.testing.assert_allclose(
        w.Progressive().weights(difficulty * factor + shift, 0.9),
        w.Progressive().weights(difficulty, 0.9),
        rtol=1e-3,  # 1e-6 beside the standard deviation
    )


def test_equal_difficulty_is_uniform_however_large():
    for size in (1, 3, 7, 1000):
        for value in (0.1, 1e6, -3e-5):
            weights = w.Progressive().weights(np.full(size, value, np.float32), 1.0)
            np.testing.assert_allclose(weights, 1.0, rtol=1e-6)


def test_no_negatives_is_easiest_and_leaves_the_others_alone():
    some = w.Progressive().weights(np.array([0.0, 1.0, -np.inf]), 1.0)
    both = w.Progressive().weights(np.array([0.0, 1.0]), 1.0)
    assert some[2] < some[0] < some[1]
    assert some[1] / some[0] == pytest.approx(both[1] / both[0])
    assert some[2] / some[0] == pytest.approx(math.exp(-3 + 1 / (1 + 2e-6)), rel=1e-5)
    assert (w.Progressive().weights(np.full(3, -np.inf), 1.0) == 1).all()


# --- dynamic -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "temperature", "expected"),
    [
        ("lin_upper", 1.0, [0.119271, 0.232307, 0.324211, 0.324211]),
        ("quadratic", 1.0, [0.145670, 0.354330, 0.354330, 0.145670]),
        ("extremes", 1.0, [0.330378, 0.169622, 0.169622, 0.330378]),
        ("lin_upper", 0.4, [0.032616, 0.172687, 0.397348, 0.397348]),
        ("uniform", 1.0, [0.25] * 4),
    ],
)
def test_dynamic_oracle(strategy, temperature, expected):
    weights = w.Dynamic(strategy=strategy, temperature=temperature).weights(LOSSES, 0.5)
    np.testing.assert_allclose(weights / 4, expected, atol=5e-7)


def test_upper_is_half_of_h():
    h = np.array([-1, -1 / 3, 1 / 3, 1])
    expected = np.exp(h / 2) / np.exp(h / 2).mean()
    np.testing.assert_allclose(
        w.Dynamic(strategy="upper").weights(LOSSES, 0.5), expected, rtol=1e-12
    )


@given(BATCHES, PROGRESS, st.sampled_from(STRATEGIES), st.booleans())
def test_dynamic_weights_have_mean_1(losses, progress, strategy, anti):
    weights = w.Dynamic(strategy=strategy, temperature=0.3, anti=anti).weights(losses, progress)
    assert weights.sum() == pytest.approx(len(losses), rel=1e-12)
    if np.ptp(losses) == 0:
        np.testing.assert_allclose(weights, 1.0)


@given(BATCHES)
def test_dynamic_weights_follow_the_losses(losses):
    for strategy in ("lin_upper", "upper"):
        weights = ordered(losses, w.Dynamic(strategy=strategy).weights(losses, 0.5))
        anti = ordered(losses, w.Dynamic(strategy=strategy, anti=True).weights(losses, 0.5))
        assert (np.diff(weights) >= -1e-12).all()
        assert (np.diff(anti) <= 1e-12).all()


@given(BATCHES, st.floats(0.5, 20), st.floats(-5, 5), st.sampled_from(STRATEGIES))
def test_dynamic_weights_know_no_unit(losses, factor, shift, strategy):
    if 0 < np.ptp(losses) < 0.1:
        return
    np.testing.assert_allclose(
        w.Dynamic(strategy=strategy).weights(losses * factor + shift, 0.5),
        w.Dynamic(strategy=strategy).weights(losses, 0.5),
        rtol=1e-6,
    )


def test_dynamic_schedule():
    def at(progress):
        return w.Dynamic(
            temperature=0.4, first_temperature=40.0, burn_in=0.2, anneal_until=0.8
        ).weights(LOSSES, progress)

    assert (at(0.0) == 1).all()
    assert (at(0.19) == 1).all()
    first = w.Dynamic(temperature=40.0).weights(LOSSES, 0.5)
    middle = w.Dynamic(temperature=4.0).weights(LOSSES, 0.5)  # halfway from 40 to 0.4
    last = w.Dynamic(temperature=0.4).weights(LOSSES, 0.5)
    for progress, expected in ((0.2, first), (0.5, middle), (0.8, last), (1.0, last)):
        np.testing.assert_allclose(at(progress), expected, rtol=1e-12)


# --- answer ranking ----------------------------------------------------------------------------


def test_answer_ranking_oracle():
    positive = w.reciprocal_rank_evidence(np.array([2.0, 1.0, 0.0]))
    negative = w.reciprocal_rank_evidence(np.array([1.0, 10.0, 1000.0]))
    easiness = w.pairwise_easiness(positive, negative)
    np.testing.assert_allclose(easiness, [0.25, 0.95, 0.5], atol=2e-8)
    anti = w.pairwise_easiness(positive, negative, anti=True)
    np.testing.assert_allclose(anti, [0.75, 0.05, 0.5], atol=2e-8)
    assert w.AnswerRanking().weights(easiness, 5 / 20)[0] == pytest.approx(0.4375)
    half = w.AnswerRanking(until=0.5).weights(easiness, 0.25)
    np.testing.assert_allclose(half, easiness / 2 + 0.5)
    for until in (0.25, 0.5, 0.0):
        assert (w.AnswerRanking(until=until).weights(easiness, 0.5) == 1).all()
    assert (w.AnswerRanking().weights(easiness, 1.0) == 1).all()
    np.testing.assert_array_equal(w.AnswerRanking().weights(easiness, 0.0), easiness)
    mean = w.AnswerRanking(batch_mean=True).weights(easiness, 0.25)
    np.testing.assert_allclose(mean, np.mean(easiness * 0.75 + 0.25))


def test_the_hardest_of_several_negatives_counts():
    positive, negatives = np.array([0.5, 0.5]), np.array([[0.1, 0.3], [0.9, 0.2]])
    np.testing.assert_allclose(w.pairwise_easiness(positive, negatives), [0.6, 0.3], atol=2e-8)


def test_pointwise_easiness():
    evidence = torch.tensor([0.9, 0.9, 0.0])
    found = w.pointwise_easiness(evidence, torch.tensor([True, False, True]))
    assert found.tolist() == pytest.approx([0.9, 0.1, 1e-8], abs=1e-7)
    assert found.min() > 0
    anti = w.pointwise_easiness(evidence, torch.tensor([True, False, True]), anti=True)
    assert anti.tolist() == pytest.approx([0.1, 0.9, 1.0], abs=1e-7)


def test_score_evidence():
    run = np.array([[4.0, 2, 0, -np.inf], [7, 7, 7, 7], [3, -np.inf, -np.inf, -np.inf]])
    scores = np.array([[2.0, 9, -5, -np.inf], [7, 8, 6, -np.inf], [3, 3, 3, 3]])
    expected = [[0.5, 1, 0, 0], [0.5] * 4, [0.5] * 4]
    np.testing.assert_allclose(w.normalized_score_evidence(scores, run), expected)
    np.testing.assert_allclose(w.kernel_density_evidence(scores, run)[1:], expected[1:])


def test_kernel_density_is_scipys():
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(3)
    run, scores = random.normal(size=(4, 9)), random.normal(size=(4, 2))
    found = w.kernel_density_evidence(torch.from_numpy(scores), torch.from_numpy(run))
    for row in range(4):
        density = stats.gaussian_kde(run[row])
        for column in range(2):
            expected = density.integrate_box_1d(-np.inf, scores[row, column])
            assert found[row, column].item() == pytest.approx(expected, rel=1e-10)


def test_bad_evidence():
    with pytest.raises(ValueError, match=r"ranks holds 1\.5; ranks are whole numbers"):
        w.reciprocal_rank_evidence(np.array([1.5]))
    with pytest.raises(ValueError, match="run_scores of query 1 holds no score"):
        w.normalized_score_evidence(np.zeros(2), np.array([[1.0], [-np.inf]]))
    with pytest.raises(ValueError, match="scores has 2 samples but run_scores has 1"):
        w.kernel_density_evidence(np.zeros(2), np.zeros((1, 3)))


# --- difficulty, focal, teacher, ranks ---------------------------------------------------------


def test_hard_negative_difficulty():
    positive = np.array([0.5, 0.5])
    negative = np.array([[0.25, 0.75, -np.inf], [-np.inf] * 3])
    expected = {"mean": 0.0, "max": 0.25, "log_sum_exp": np.logaddexp(0.25, 0.75) - 0.5}
    for over, first in expected.items():
        found = w.hard_negative_difficulty(positive, negative, over=over, temperature=1.0)
        assert found[0] == pytest.approx(first)
        assert found[1] == -np.inf
    margins = w.score_margins(positive, negative.max(axis=1))
    assert margins.tolist() == [-0.25, np.inf]
    assert w.margin_difficulty(margins, temperature=0.25).tolist() == pytest.approx(
        [1 / (1 + math.exp(-1)), 0]
    )


def test_margin_difficulty_is_focal_difficulty_of_two():
    positive, negative, temperature = np.array([0.5, 0.1]), np.array([0.25, 0.9]), 0.05
    loss = np.logaddexp(positive / temperature, negative / temperature) - positive / temperature
    margins = w.score_margins(positive, negative)
    np.testing.assert_allclose(w.margin_difficulty(margins), w.focal_difficulty(loss), rtol=1e-12)


@given(SHARES, PROGRESS, st.floats(0, 5))
def test_focal_weights(difficulty, progress, gamma):
    weights = w.Focal("difficulty", gamma=gamma, first_gamma=0.0).weights(difficulty, progress)
    assert (np.diff(ordered(difficulty, weights)) >= 0).all()
    assert (w.Focal("difficulty", gamma=gamma, first_gamma=0.0).weights(difficulty, 0.0) == 1).all()
    expected = np.maximum(difficulty, 1e-6) ** gamma
    np.testing.assert_allclose(
        w.Focal("difficulty", gamma=gamma).weights(difficulty, 1.0), expected
    )
    anti = w.Focal("difficulty", gamma=gamma, anti=True).weights(difficulty, 1.0)
    assert (np.diff(ordered(difficulty, anti)) <= 0).all()


def test_teacher_confidence():
    found = w.teacher_confidence(np.array([2.0, 1.0]), np.array([[2.0, 2], [-np.inf, -np.inf]]))
    np.testing.assert_allclose(found, [1 / 3, 1])
    assert w.Teacher(power=2).weights(found).tolist() == pytest.approx([1 / 9, 1])
    assert w.Teacher(anti=True).weights(found).tolist() == pytest.approx([2 / 3, 1e-6])


def test_rank_cutoff():
    ranks = torch.tensor([0, 1, 2, 3])
    assert w.RankCutoff(top=2).weights(ranks).tolist() == [0, 1, 1, 0]
    identity = np.eye(4, dtype=np.float32)
    found = stope.infonce_forward(identity, identity)  # docs/methods.md, D19: all ranks 1, all kept
    assert (w.RankCutoff(top=1).weights(found.ranks) == 1).all()


def test_signals_of_the_loss_and_of_the_miner():
    queries = np.float32([[1, 0], [0, 1], [1, 1]])
    corpus = np.float32([[1, 0], [0.6, 0.8], [0, 1]])
    found = stope.infonce_forward(
        queries, corpus, positives=(np.array([0, 2, 3, 3]), np.array([0, 1, 2])), metric="dot"
    )
    signals = w.difficulty_signals(found, offsets=np.array([0, 2, 3, 3]))
    np.testing.assert_allclose(signals["hardness"], [0 - 0.6, 0.8 - 1, -np.inf], rtol=1e-6)
    assert signals["rank"].tolist() == [1, 1, 0]
    assert signals["loss"] is found.losses
    with pytest.raises(ValueError, match=r"positives, but offsets has .* give the 4 offsets"):
        w.difficulty_signals(found, offsets=np.array([0, 1, 2]))
    mined = stope.mine_hard_negatives(queries[:2], corpus, [0, 2], 3)
    hardness = w.difficulty_signals(mined)["hardness"]
    np.testing.assert_allclose(hardness, [0.3 - 1, 0.4 - 1], rtol=1e-6)
    with pytest.raises(TypeError, match="result is a int without losses"):
        w.difficulty_signals(3)
