"""Distillation and margins: oracles of docs/methods.md, D, gradients, edges.

Geometry and late interaction are in test_list_losses_geometry.py, rankings in
test_list_losses_ranking.py, and bad input of all in test_list_losses_input.py.
"""

from __future__ import annotations

import math

import pytest
from list_loss_cases import F64, close, draw, gradcheck, t

import torch
from stope.torch import ranking as ll

# --- distillation ------------------------------------------------------------------------------


def test_kl_and_its_averages():
    x, teacher = t([2.0, 1, 0]), t([3.0, 1, 0])
    close(ll.kl_distillation(x, teacher), 0.081555, 1e-6)
    close(ll.kl_distillation(x, teacher, average="elements"), 0.081555 / 3, 1e-6)
    close(ll.kl_distillation(x / 10, teacher, temperature=0.1), ll.kl_distillation(x, teacher))
    close(
        ll.kl_distillation(x, 0.1 * teacher, teacher_temperature=0.1),
        ll.kl_distillation(x, teacher),
    )
    two, others = draw(0, 2, 5), draw(1, 2, 5)
    wanted = torch.nn.functional.kl_div(
        two.log_softmax(1), others.softmax(1), reduction="batchmean"
    )
    close(ll.kl_distillation(two, others), wanted)
    close(ll.kl_distillation(two, others, average="elements"), wanted / 5)


def test_dynamic_listwise_distillation():
    x, reranker = draw(0, 3, 4), draw(1, 3, 4)
    positives = torch.tensor([2, 0, 3])
    entropy = torch.nn.functional.cross_entropy(reranker, positives)
    for average in ("batch", "elements"):
        wanted = entropy + ll.kl_distillation(x, reranker, average=average)
        found = ll.dynamic_listwise_distillation(x, reranker, positives=positives, average=average)
        close(found, wanted)
    first = ll.dynamic_listwise_distillation(x, reranker)
    close(first, ll.dynamic_listwise_distillation(x, reranker, positives=torch.zeros(3).long()))
    assert gradcheck(
        lambda a, b: ll.dynamic_listwise_distillation(a, b, teacher_grad=True), x, reranker
    )


def test_the_teacher_learns_only_when_asked():
    x, teacher = draw(0, 2, 4).requires_grad_(), draw(1, 2, 4).requires_grad_()
    ll.kl_distillation(x, teacher).backward()
    assert teacher.grad is None
    ll.kl_distillation(x, teacher, teacher_grad=True).backward()
    assert teacher.grad.abs().sum() > 0
    # The cross-entropy always trains the reranker, and is all that does without the flag.
    teacher.grad = None
    ll.dynamic_listwise_distillation(x, teacher).backward()
    shares = teacher.detach().softmax(1)
    shares[:, 0] -= 1
    close(teacher.grad, shares / 2)
    assert gradcheck(lambda a, b: ll.kl_distillation(a, b, teacher_grad=True), x, teacher)


def test_masked_columns_and_rows_count_for_nothing():
    x, teacher = draw(0, 3, 5), draw(1, 3, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]]).bool()
    x[~mask], teacher[~mask] = torch.nan, torch.inf
    for loss in (
        ll.kl_distillation,
        ll.dynamic_listwise_distillation,
        ll.rank_weighted_distillation,
    ):
        x.grad = None
        options = {"mask": mask, "reduction": "none"}
        each = loss(x.requires_grad_(), teacher, **options)
        short = loss(x.detach()[:1, :3], teacher[:1, :3])
        close(each[0], short)
        close(each[1:].detach(), [0.0, 0.0])  # nothing there; a single candidate
        mean = loss(x, teacher, mask=mask)
        close(mean, short / 2)
        mean.backward()
        assert torch.isfinite(x.grad).all()
        assert (x.grad[~mask] == 0).all()
        nothing = loss(x, teacher, mask=torch.zeros_like(mask))
        nothing.backward()
        assert nothing == 0


def test_a_teacher_may_give_a_candidate_no_share():
    x, teacher = draw(0, 1, 3).requires_grad_(), t([1.0, 0.0, -math.inf])
    loss = ll.kl_distillation(x, teacher)
    p = torch.sigmoid(t(1.0, -1.0))
    close(loss, (p * (p.log() - x[0].log_softmax(0)[:2])).sum())
    loss.backward()
    assert torch.isfinite(x.grad).all()


def naive_rank_weighted(x, teacher, own):
    total = 0
    for row in range(len(x)):
        shares = teacher[row].softmax(0)
        for rank, column in enumerate(own[row]):
            above = set(own[row][:rank].tolist())
            rest = [j for j in range(x.shape[1]) if j not in above]
            total = total + shares[rank] * (x[row, rest].logsumexp(0) - x[row, column])
    return total / len(x)


def test_rank_weighted_distillation():
    x, teacher = t([2.0, 1, 0]), t([3.0, 1, 0])
    close(ll.rank_weighted_distillation(x, teacher), 0.379709, 1e-6)
    for terms, rank in ((0.407606, 0), (0.313262, 1), (0.0, 2)):
        sure = torch.full((1, 3), -1e4, dtype=F64)
        sure[0, rank] = 0
        close(ll.rank_weighted_distillation(x, sure), terms, 1e-6)
    scores, rewards = draw(0, 3, 12, scale=3), draw(1, 3, 4)
    own = torch.arange(12).reshape(3, 4)
    close(ll.rank_weighted_distillation(scores, rewards), naive_rank_weighted(scores, rewards, own))
    own = torch.stack([torch.randperm(12, generator=torch.Generator().manual_seed(i))[:4]
                       for i in range(3)])  # fmt: skip
    close(
        ll.rank_weighted_distillation(scores, rewards, candidates=own),
        naive_rank_weighted(scores, rewards, own),
    )
    close(
        ll.rank_weighted_distillation(
            scores * 0.01, rewards * 2, candidates=own, temperature=0.01, teacher_temperature=2
        ),
        naive_rank_weighted(scores, rewards, own),
    )
    assert gradcheck(lambda a: ll.rank_weighted_distillation(a, rewards, candidates=own), scores)


def test_rank_weighted_distillation_survives_a_dominating_score():
    x = t([1000.0, 1.0, 0.0, 0.5], dtype=torch.float32).requires_grad_()
    teacher = t([-1e4, 0.0, -1e4], dtype=torch.float32)  # all the weight on rank 1
    loss = ll.rank_weighted_distillation(x, teacher, candidates=torch.tensor([[0, 1, 2]]))
    close(loss, math.log(1 + math.exp(-1) + math.exp(-0.5)), 1e-6)
    loss.backward()
    assert torch.isfinite(x.grad).all()


def test_logit_distillation():
    student, teacher = draw(0, 3, 2), draw(1, 3, 2)
    distance = (student - teacher).square().sum(1)
    close(ll.logit_distillation(student, teacher), distance.mean() / 2)
    close(
        ll.logit_distillation(student, teacher, t(7.0)[0], alpha=0.25),
        0.75 * 7 + 0.25 * distance.mean(),
    )
    each = ll.logit_distillation(student, teacher, draw(2, 3), alpha=0.25, reduction="none")
    close(each, 0.75 * draw(2, 3) + 0.25 * distance)
    close(ll.logit_distillation(student, teacher, 7.0, alpha=0), 7.0)
    with pytest.raises(ValueError, match=r"task_loss has shape \(3,\); reduce it to a scalar"):
        ll.logit_distillation(student, teacher, draw(2, 3))
    assert gradcheck(lambda a: ll.logit_distillation(a, teacher, 1.0), student)


def test_embedding_distillation():
    teacher = draw(0, 4, 3)
    assert ll.embedding_distillation(teacher, teacher, translations=teacher) == 0
    student, translated = draw(1, 4, 3), draw(2, 4, 3)
    one_side = (student - teacher).square().sum(1).mean()
    both = one_side + (translated - teacher).square().sum(1).mean()
    close(ll.embedding_distillation(student, teacher, dims="sum"), one_side)
    close(ll.embedding_distillation(student, teacher, translations=translated), both / 3)
    assert gradcheck(
        lambda a, b: ll.embedding_distillation(a, teacher, translations=b), student, translated
    )


# --- margins -----------------------------------------------------------------------------------


def test_margin_mse():
    close(ll.margin_mse(t(2.0), t(1.0), t(5.0), t(1.0)), 9.0)
    p, n, tp, tn = draw(0, 3, 2), draw(1, 3, 4), draw(2, 3, 2), draw(3, 3, 4)
    wanted = [
        sum(((p[i, a] - n[i, b]) - (tp[i, a] - tn[i, b])) ** 2 for a in range(2) for b in range(4))
        / 8
        for i in range(3)
    ]
    close(ll.margin_mse(p, n, tp, tn, reduction="none"), torch.stack(wanted))
    tuples = ll.margin_mse(p[:, 0], n, tp[:, 0], tn)
    close(
        tuples, torch.nn.functional.mse_loss(p[:, :1] - n, tp[:, :1] - tn)
    )  # sentence-transformers' form
    shift = draw(4, 3, 1)
    close(ll.margin_mse(p + shift, n + shift, tp, tn), ll.margin_mse(p, n, tp, tn))
    close(ll.margin_mse(p, n, tp + shift, tn + shift), ll.margin_mse(p, n, tp, tn))
    assert gradcheck(lambda a, b: ll.margin_mse(a, b, tp, tn), p, n)


def test_margin_mse_skips_queries_without_pairs():
    p, n, tp, tn = draw(0, 3, 2), draw(1, 3, 4), draw(2, 3, 2), draw(3, 3, 4)
    has = torch.tensor([[1, 0], [0, 0], [1, 1]]).bool()
    p[~has] = torch.nan
    found = ll.margin_mse(p.requires_grad_(), n, tp, tn, positive_mask=has)
    kept = [ll.margin_mse(p[i : i + 1, :k], n[i : i + 1], tp[i : i + 1, :k], tn[i : i + 1])
            for i, k in ((0, 1), (2, 2))]  # fmt: skip
    close(found, sum(kept) / 2)
    found.backward()
    assert (p.grad[~has] == 0).all()
    assert ll.margin_mse(p, n, tp, tn, negative_mask=torch.zeros(3, 4).bool()) == 0


def test_the_in_batch_teacher_of_tas_b():
    """Pairs (i, j != i) with positives and with negatives, as matchmaker sums them."""
    rows = 4
    to_positives, to_negatives, tp, tn = (draw(seed, rows, rows) for seed in range(4))
    own = torch.eye(rows, dtype=torch.bool)
    terms = [
        ((s.diagonal()[i] - other[i, j]) - (t.diagonal()[i] - taught[i, j])) ** 2
        for s, t, other, taught in ((to_positives, tp, to_positives, tp),
                                    (to_positives, tp, to_negatives, tn))
        for i in range(rows) for j in range(rows) if i != j
    ]  # fmt: skip
    scores, teacher = torch.cat([to_positives, to_negatives], 1), torch.cat([tp, tn], 1)
    mask = torch.cat([torch.ones_like(own), ~own], 1)
    close(ll.in_batch_margin_mse(scores, teacher, mask=mask), sum(terms) / len(terms))
    turned, columns = torch.arange(rows).roll(1), torch.arange(rows)
    close(
        ll.in_batch_margin_mse(scores[turned], teacher[turned], positives=columns[turned],
                               mask=mask[turned]),
        sum(terms) / len(terms),
    )  # fmt: skip
    assert gradcheck(lambda s: ll.in_batch_margin_mse(s, teacher, mask=mask), scores)
    assert ll.in_batch_margin_mse(scores, teacher, mask=torch.zeros_like(mask)) == 0
    with pytest.raises(ValueError, match="positives holds 8"):
        ll.in_batch_margin_mse(scores, teacher, positives=columns + 5)


def test_adaptive_relevance_margin():
    arm = ll.adaptive_relevance_margin
    close(arm(t(0.7), t(0.3), t(0.4)), 0.09)
    close(arm(t(0.7), t(0.3), t(0.4), error="abs"), 0.3)
    close(arm(t(0.7), t(0.3), t(0.4), error="logistic"), math.log1p(math.exp(0.3)))
    close(arm(t(0.7), t(0.3), target=0.1), 0.09)
    pos, neg, doc = draw(0, 3), draw(1, 3, 3), draw(2, 3, 3)
    row, column = [], []
    for i in range(3):
        for j in range(3):
            row.append((pos[i] - neg[i, j] - (0.5 + doc[i, j] / 2)) ** 2)
            column.append((pos[j] - neg[i, j] - (0.5 + doc[i, j] / 2)) ** 2)
    close(arm(pos, neg, doc), torch.stack(row).mean())
    close(arm(pos, neg, doc, broadcast="column"), torch.stack(column).mean())
    own = neg.diagonal()
    mu = pos - own  # the code's distributed form compares mu_j with column j
    target = (1 + doc) / 2
    close(arm(pos, own, doc), (mu[:, None] - target).square().mean())
    close(arm(pos, own, doc, broadcast="column"), (mu[None, :] - target).square().mean())
    assert not torch.allclose(arm(pos, own, doc), arm(pos, own, doc, broadcast="column"))
    close(
        arm(pos, neg[:, :2], doc[:, :2]), torch.stack([row[k] for k in (0, 1, 3, 4, 6, 7)]).mean()
    )
    assert gradcheck(arm, pos, neg, doc)
    assert gradcheck(lambda a, b, c: arm(a, b, c, error="logistic", broadcast="column"),
                     pos, own.clone().detach(), doc)  # fmt: skip


def test_the_margin_target_can_be_detached():
    pos, neg, doc = draw(0, 3), draw(1, 3), draw(2, 3).requires_grad_()
    assert not ll.adaptive_relevance_margin(pos, neg, doc, detach_target=True).requires_grad
    assert ll.adaptive_relevance_margin(pos, neg, doc).requires_grad


def test_cosent():
    cosines, labels = t(0.9, 0.4, 0.6), t(1.0, 0.5, 0.0)
    close(ll.cosent_loss(cosines, labels), 4.018195, 1e-6)
    close(ll.cosent_loss(cosines, labels), math.log1p(sum(math.exp(d) for d in (-10, -6, 4))))
    mask = torch.tensor([True, True, False])
    close(ll.cosent_loss(t(0.9, 0.4, math.nan), labels, mask=mask), math.log1p(math.exp(-10)))
    scores = draw(0, 6).requires_grad_()
    same = ll.cosent_loss(scores, torch.ones(6))
    same.backward()
    assert same == 0
    assert (scores.grad == 0).all()
    assert ll.cosent_loss(t(0.3), t(1.0)) == 0
    assert gradcheck(lambda a: ll.cosent_loss(a, t(0, 1, 1, 2, 0, 3)), draw(0, 6, scale=0.1))
    extreme = ll.cosent_loss(t(-1.0, 1.0), t(1.0, 0.0), temperature=1e-3)
    close(extreme, 2000.0)


@pytest.mark.parametrize("name", ["CoSENTLoss", "AnglELoss"])
def test_cosent_and_angle_equal_sentence_transformers(name):
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    first, second = draw(0, 9, 6), draw(1, 9, 6)
    labels = t(0, 1, 1, 0.5, 0.2, 0.5, 0, 1, 0.9)
    theirs = getattr(losses, name)(torch.nn.Identity(), scale=20.0)
    wanted = theirs.compute_loss_from_embeddings([first, second], labels)
    if name == "AnglELoss":
        found = ll.angle_loss(first, second, labels)
    else:
        found = ll.cosent_loss(torch.cosine_similarity(first, second), labels)
    close(found, wanted, 1e-9)


def test_angle_similarity():
    u, v = draw(0, 5, 6), draw(1, 5, 6)
    z, w = torch.complex(u[:, :3], u[:, 3:]), torch.complex(v[:, :3], v[:, 3:])
    product = z * w.conj()
    wanted = (product.real + product.imag).sum(1).abs() / (u.norm(dim=1) * v.norm(dim=1))
    close(ll.angle_similarity(u, v), wanted)
    close(ll.angle_similarity(u, torch.zeros_like(v)), torch.zeros(5))
    assert gradcheck(lambda a, b: ll.angle_loss(a, b, t(0, 1, 2, 3, 3)), u, v)
