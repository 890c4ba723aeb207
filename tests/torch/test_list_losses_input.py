"""What every list loss does with weights, dtypes and bad input, and the words it refuses with."""

from __future__ import annotations

import importlib
import math

import pytest
from list_loss_cases import close, draw, t

import torch
from stope.torch import ranking as ll

# --- every loss: dtypes, weights, bad input ----------------------------------------------------

B, L, D = 4, 5, 6
LABELS = torch.tensor([0, 1, 0, 1])
RELEVANCE = torch.tensor([[0, 1, 0, 0, 2]]).expand(B, L)
RANKINGS = torch.stack([torch.arange(L), torch.arange(L).flip(0)]).expand(B, 2, L)
# name -> (call(scores or embeddings, **options), its shape): the first argument varies
CALLS = {
    "kl_distillation": (lambda x, **o: ll.kl_distillation(x, draw(9, B, L), **o), (B, L)),
    "dynamic_listwise_distillation": (
        lambda x, **o: ll.dynamic_listwise_distillation(x, draw(9, B, L), **o),
        (B, L),
    ),
    "rank_weighted_distillation": (
        lambda x, **o: ll.rank_weighted_distillation(x, draw(9, B, L), **o),
        (B, L),
    ),
    "logit_distillation": (lambda x, **o: ll.logit_distillation(x, draw(9, B, L), **o), (B, L)),
    "embedding_distillation": (
        lambda x, **o: ll.embedding_distillation(x, draw(9, B, L), **o),
        (B, L),
    ),
    "margin_mse": (
        lambda x, **o: ll.margin_mse(x, draw(8, B, 3), draw(9, B, L), draw(7, B, 3), **o),
        (B, L),
    ),
    "adaptive_relevance_margin": (
        lambda x, **o: ll.adaptive_relevance_margin(x, draw(8, B), draw(9, B, B), **o),
        (B,),
    ),
    "center_loss": (lambda x, **o: ll.center_loss(x, LABELS, draw(9, 2, D), **o), (B, D)),
    "prototype_triplet": (
        lambda x, **o: ll.prototype_triplet(x, LABELS, draw(9, 2, D), **o),
        (B, D),
    ),
    "soft_neighbors": (lambda x, **o: ll.soft_neighbors(x, LABELS, **o), (B, D)),
    "orthogonal_projection": (lambda x, **o: ll.orthogonal_projection(x, draw(9, B, 2), **o), (B,)),
    "lambda_mrr": (lambda x, **o: ll.lambda_mrr(x, RELEVANCE, **o), (B, L)),
    "plackett_luce_policy_gradient": (
        lambda x, **o: ll.plackett_luce_policy_gradient(x, RELEVANCE, rankings=RANKINGS, **o),
        (B, L),
    ),
    "summed_positive_contrast": (
        lambda x, **o: ll.summed_positive_contrast(x, draw(9, B, 2), **o),
        (2, B, B),
    ),
    "partial_plackett_luce": (
        lambda x, **o: ll.partial_plackett_luce(x, draw(9, B, B), **o),
        (B, B),
    ),
}
every_loss = pytest.mark.parametrize(("call", "shape"), CALLS.values(), ids=CALLS)


@every_loss
def test_weights_and_reductions(call, shape):
    x, weights = draw(0, *shape), t(1.0, 0.0, 3.0, 0.5)
    each = call(x, reduction="none")
    assert each.shape == (B,)
    close(call(x), each.mean())
    close(call(x, weights=weights), (weights * each).sum() / 4.5)
    close(call(x, weights=7 * weights), call(x, weights=weights))
    close(call(x, weights=weights, reduction="none"), weights * each)


@every_loss
def test_narrow_types_are_widened(call, shape):
    for dtype in (torch.float16, torch.bfloat16):
        x = draw(0, *shape).to(dtype).requires_grad_()
        loss = call(x)
        loss.backward()
        close(loss.double(), call(x.detach().double()), 1e-5 * max(1.0, abs(loss.item())))
        assert x.grad.dtype == dtype


@every_loss
def test_bad_input_gets_a_sentence(call, shape):
    x = draw(0, *shape)
    with pytest.raises(TypeError, match=r"has dtype torch\.int64; cast it with \w+\.float\(\)"):
        call(x.long())
    with pytest.raises(TypeError, match=r"is of type list; give a torch\.Tensor"):
        call(x.tolist())
    with pytest.raises(ValueError, match=r"has \d dimensions \(shape \(.*1.*\)\); it needs"):
        call(x[None, None, None])
    with pytest.raises(ValueError, match=r"reduction is 'sum'; give one of 'mean', 'none'"):
        call(x, reduction="sum")
    with pytest.raises(ValueError, match=r"weights has 3 numbers for 4 queries"):
        call(x, weights=t(1, 2, 3))
    with pytest.raises(ValueError, match=r"weights\[1\] is -2\.0; weights must be finite"):
        call(x, weights=t(1, -2, 3, 4))
    with pytest.raises(ValueError, match=r"weights\[2\] is nan"):
        call(x, weights=t(1, 1, math.nan, 1))
    with pytest.raises(ValueError, match=r"weights are all 0; at least one must be above 0"):
        call(x, weights=torch.zeros(4))
    with pytest.raises(ValueError, match=r"shape|has \d+ (queries|rows)|dim \d|embeddings"):
        call(x[:0])


# --- single arguments --------------------------------------------------------------------------

X, Y = draw(0, 2, 3), draw(1, 2, 3)
PAIR = torch.tensor([0, 1])
ONES = torch.ones(2)

WRONG = {
    "temperature is 0.0; it must be a finite number above 0": lambda: ll.kl_distillation(
        X, Y, temperature=0.0
    ),
    "teacher_temperature is nan": lambda: ll.kl_distillation(X, Y, teacher_temperature=math.nan),
    "temperature is inf": lambda: ll.cosent_loss(ONES, ONES, temperature=math.inf),
    "average is 'list'; give one of 'batch', 'elements'": lambda: ll.kl_distillation(
        X, Y, average="list"
    ),
    "scores has shape (2, 3) but teacher_scores has shape (2, 2)": lambda: ll.kl_distillation(
        X, Y[:, :2]
    ),
    "mask has shape (3,) but scores has shape (2, 3)": lambda: ll.kl_distillation(
        X, Y, mask=torch.ones(3).bool()
    ),
    "positives holds 3; its entries must be from 0 to 2": lambda: ll.dynamic_listwise_distillation(
        X, Y, positives=torch.tensor([0, 3])
    ),
    "positives[1] is a column that mask leaves out": lambda: ll.dynamic_listwise_distillation(
        X, Y, mask=torch.tensor([[1, 1, 1], [0, 1, 1]]).bool()
    ),
    "candidates[1] names a column twice": lambda: ll.rank_weighted_distillation(
        X, Y[:, :2], candidates=torch.tensor([[0, 1], [2, 2]])
    ),
    "scores has 3 columns for 2 queries with 2 candidates": lambda: ll.rank_weighted_distillation(
        X, Y[:, :2]
    ),
    "alpha is 1.5; it must be from 0 to 1": lambda: ll.logit_distillation(X, Y, alpha=1.5),
    "dims is 'max'": lambda: ll.embedding_distillation(X, Y, dims="max"),
    "positive_scores has 2 queries but negative_scores has 1": lambda: ll.margin_mse(
        X, X[:1], Y, Y[:1]
    ),
    "give either document_scores or target": lambda: ll.adaptive_relevance_margin(ONES, ONES),
    "broadcast is 'column' but there are 3 negatives for 2": lambda: ll.adaptive_relevance_margin(
        ONES, X, Y, broadcast="column"
    ),
    "document_scores has shape (2,) but negative_scores has shape (2, 3)": lambda: (
        ll.adaptive_relevance_margin(ONES, X, ONES)
    ),
    "error is 'huber'": lambda: ll.adaptive_relevance_margin(ONES, ONES, ONES, error="huber"),
    "labels[1] is NaN": lambda: ll.cosent_loss(ONES, t(0.0, math.nan)),
    "first has dim 3; an even one is needed": lambda: ll.angle_similarity(X, Y),
    "labels holds 2; its entries must be from 0 to 1": lambda: ll.center_loss(
        X, torch.tensor([0, 2]), Y
    ),
    "labels has shape (3,) for 2 embeddings": lambda: ll.center_loss(X, torch.tensor([0, 1, 1]), Y),
    "centers has dim 2 but embeddings has dim 3": lambda: ll.center_loss(X, PAIR, Y[:, :2]),
    "num_classes is 0; it must be at least 1": lambda: ll.CenterLoss(0, 2),
    "rate is 2.0": lambda: ll.CenterLoss(1, 2, rate=2.0),
    "update is 'ema'; give one of 'gradient', 'running'": lambda: ll.CenterLoss(1, 2, update="ema"),
    "class 2 has no embedding": lambda: ll.class_means(X, PAIR, 3),
    "prototypes has 1 rows": lambda: ll.prototype_triplet(X, PAIR, Y[:1]),
    "margin is -1": lambda: ll.prototype_triplet(X, PAIR, Y, margin=-1),
    "neighbours need at least 2": lambda: ll.soft_neighbors(X[:1], PAIR[:1]),
    "epsilon is 0": lambda: ll.soft_neighbors(X, PAIR, epsilon=0),
    "k is 0": lambda: ll.soft_neighbors(X, PAIR, k=0),
    "gamma is -0.5": lambda: ll.orthogonal_projection(ONES, ONES, gamma=-0.5),
    "target_mask[1] leaves no token": lambda: ll.soft_late_interaction(
        X[None], draw(0, 2, 2, 3), target_mask=torch.tensor([[1, 0], [0, 0]]).bool()
    ),
    "query_tokens has dim 3 but targets has dim 2": lambda: ll.pooled_late_interaction(
        X[None], Y[:, :2]
    ),
    "pairwise needs as many targets": lambda: ll.pooled_late_interaction(X[None], Y, pairwise=True),
    "average is 'pairs', which has no number per query": lambda: ll.lambda_mrr(
        X, Y, average="pairs", reduction="none"
    ),
    "metric_cut is 0": lambda: ll.lambda_mrr(X, Y, metric_cut=0),
    "ranks holds 0": lambda: ll.lambda_mrr(X, Y, ranks=torch.arange(3)),
    "ranks has shape (2,) for scores of shape (2, 3)": lambda: ll.lambda_mrr(
        X, Y, ranks=torch.arange(1, 3)
    ),
    "positives has 1 queries, retrieved 2": lambda: ll.append_missing_positives(
        torch.zeros(2, 2).long(), [[1]]
    ),
    "rankings has shape (1, 2)": lambda: ll.plackett_luce_log_prob(X, torch.tensor([[0, 1]])),
    "num_samples is 0": lambda: ll.sample_plackett_luce(X, 0),
    "depth is 0": lambda: ll.sample_plackett_luce(X, 1, depth=0),
    "cutoff is 0": lambda: ll.ndcg_gains(X[None], Y, cutoff=0),
    "they need [P, B, B] and [B, M]": lambda: ll.summed_positive_contrast(X[None], Y),
    "preferred_scores has shape 2 x 3; it must be square": lambda: ll.partial_plackett_luce(X, Y),
    "is on cpu but teacher_scores is on meta": lambda: ll.kl_distillation(X, Y.to("meta")),
}


@pytest.mark.parametrize("words", WRONG)
def test_wrong_values(words):
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the words are compared below)
        WRONG[words]()
    assert words in str(caught.value)
    assert not str(caught.value).endswith(".")


def test_wrong_kinds():
    with pytest.raises(TypeError, match=r"mask has dtype torch\.int64; give torch\.bool, True"):
        ll.kl_distillation(X, Y, mask=torch.ones(2, 3).long())
    with pytest.raises(TypeError, match=r"labels has dtype torch\.float32; give integers"):
        ll.center_loss(X, ONES, Y)
    with pytest.raises(TypeError, match="labels is of type list"):
        ll.cosent_loss(ONES, [0, 1])
    with pytest.raises(TypeError, match="relevance is of type list"):
        ll.lambda_mrr(X, [[0, 1, 0]] * 2)
    with pytest.raises(TypeError, match="relevance is of type list"):
        ll.plackett_luce_policy_gradient(X, [[0, 1, 0]] * 2)
    with pytest.raises(
        TypeError, match=r"temperature is 'low'; it must be a finite number above 0"
    ):
        ll.kl_distillation(X, Y, temperature="low")
    with pytest.raises(TypeError, match=r"k is 2\.5; give an integer"):
        ll.soft_neighbors(X, PAIR, k=2.5)


def test_a_temperature_may_be_learned():
    temperature = torch.tensor(0.5, requires_grad=True)
    ll.kl_distillation(X, Y, temperature=temperature).backward()
    step = 1e-4
    rise = ll.kl_distillation(X, Y, temperature=0.5 + step) - ll.kl_distillation(
        X, Y, temperature=0.5 - step
    )
    close(temperature.grad.double(), rise / (2 * step), 1e-3)


def test_modules_of_before():
    for old, new in {"pairs": ll.margin_mse, "ranking": ll.lambda_mrr}.items():
        with pytest.warns(DeprecationWarning, match="the old name goes with the next release"):
            module = importlib.import_module(f"stope.torch.list_losses.{old}")
        assert getattr(module, new.__name__) is new
    columns = torch.tensor([[0, 1], [2, 1]])
    with pytest.warns(DeprecationWarning, match="rank_weighted_distillation's own is candidates"):
        loss = ll.rank_weighted_distillation(X, Y[:, :2], own=columns)
    assert loss == ll.rank_weighted_distillation(X, Y[:, :2], candidates=columns)


KINDS = {
    "teacher_grad": lambda x: ll.kl_distillation(X, Y, teacher_grad=x),
    "task_loss": lambda x: ll.logit_distillation(X, Y, x),
    "target": lambda x: ll.adaptive_relevance_margin(ONES, ONES, target=x),
    "detach_target": lambda x: ll.adaptive_relevance_margin(ONES, ONES, ONES, detach_target=x),
    "positives": lambda x: ll.append_missing_positives(PAIR[:, None], x),
    "positives[0]": lambda x: ll.append_missing_positives(PAIR[:, None], [x, [1]]),
    "ranked": lambda x: ll.ndcg_gains(x, X),
    "relevance": lambda x: ll.ndcg_gains(X[None], x),
    "rankings": lambda x: ll.plackett_luce_policy_gradient(X, Y, rankings=x),
    "reward_to_go": lambda x: ll.plackett_luce_policy_gradient(X, Y, reward_to_go=x),
    "per_position": lambda x: ll.plackett_luce_log_prob(X, PAIR[:, None], per_position=x),
    "pairwise": lambda x: ll.soft_late_interaction(X[None], Y[None], pairwise=x),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("wrong", [object, "two", {1: 2}], ids=repr)
def test_what_is_of_another_kind_is_named(name, wrong):
    with pytest.raises(TypeError) as caught:
        KINDS[name](wrong)
    assert str(caught.value).startswith(f"{name} is ")
