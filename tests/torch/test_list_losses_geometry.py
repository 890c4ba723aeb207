"""Centers, prototypes, neighbours, late interaction: oracles of docs/methods.md, D."""

from __future__ import annotations

import math

from list_loss_cases import F64, close, draw, gradcheck, t

import torch
from stope.torch import ranking as ll

# --- geometry ----------------------------------------------------------------------------------


def test_center_loss():
    points, labels = t([1.0], [-1.0]), torch.tensor([0, 0])
    close(ll.center_loss(points, labels, t([0.0])), 1.0)
    x, y = draw(0, 6, 3), torch.tensor([0, 1, 1, 2, 0, 1])
    best = ll.class_means(x, y, 3).requires_grad_()
    ll.center_loss(x, y, best).backward()
    close(best.grad, torch.zeros(3, 3))
    assert gradcheck(lambda a, c: ll.center_loss(a, y, c), x, best)


def test_running_centers_move_by_the_rule_and_frozen_ones_stay():
    loss = ll.CenterLoss(3, 2, update="running", rate=0.5).double()
    loss.centers.copy_(draw(0, 3, 2))
    loss.freeze(torch.tensor([2]))
    before, x, y = (
        loss.centers.clone(),
        draw(1, 5, 2).requires_grad_(),
        torch.tensor([0, 0, 1, 2, 2]),
    )
    found = loss(x, y)
    close(found, ll.center_loss(x, y, before))
    found.backward()  # at the centers of before, although they have moved since
    close(x.grad, 2 * (x - before[y]).detach() / 5)
    for k in range(2):
        own = x.detach()[y == k]
        step = 0.5 * (before[k] - own).sum(0) / (1 + len(own))
        close(loss.centers[k], before[k] - step)
    close(loss.centers[2], before[2])
    moved = loss.centers.clone()
    loss.eval()(x, y)
    close(loss.centers, moved)


def test_learned_centers_and_frozen_rows():
    torch.manual_seed(1)  # other centers than the points below
    loss = ll.CenterLoss(2, 2)
    assert isinstance(loss.centers, torch.nn.Parameter)
    loss.freeze(torch.tensor([0]))
    x = draw(0, 4, 2).float().requires_grad_()
    loss(x, torch.tensor([0, 0, 1, 1])).backward()
    assert (loss.centers.grad[0] == 0).all()
    assert (loss.centers.grad[1] != 0).all()
    assert (x.grad != 0).all()
    assert set(loss.state_dict()) == {"centers", "frozen"}


def test_prototype_triplet():
    support, of = t([0.0, 0], [2.0, 0], [9.0, 0], [11.0, 0]), torch.tensor([0, 0, 1, 1])
    prototypes = ll.class_means(support, of, 2)
    close(prototypes, [[1.0, 0], [10.0, 0]])
    points, labels = t([1.0, 0], [5.5, 0], [7.5, 0]), torch.tensor([0, 0, 0])
    each = ll.prototype_triplet(points, labels, prototypes, reduction="none")
    close(each, [0.0, 0.5, 6.5**2 - 2.5**2 + 0.5])
    x, y, c = draw(0, 5, 3), torch.tensor([0, 1, 2, 1, 0]), draw(1, 3, 3)
    wanted = []
    for row, label in zip(x, y, strict=True):
        far = (row - c).square().sum(1)
        others = min(far[k] for k in range(3) if k != label)
        wanted.append((far[label] - others + 0.5).clamp(min=0))
    close(ll.prototype_triplet(x, y, c, reduction="none"), torch.stack(wanted))
    assert gradcheck(lambda a, b: ll.prototype_triplet(a, y, b), x, c)


def test_soft_neighbors():
    x, y = draw(0, 8, 2), torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    far = (x[:, None] - x[None, :]).square().sum(2)
    each = ll.soft_neighbors(x, y, k=3, temperature=0.7, epsilon=1e-3, reduction="none")
    for i in range(7):
        near = sorted((j for j in range(8) if j != i), key=lambda j: float(far[i, j]))[:3]
        kernel = [math.exp(-far[i, j] / 0.7) for j in near]
        score = sum(v for v, j in zip(kernel, near, strict=True) if y[j] == y[i]) / sum(kernel)
        close(each[i], math.log1p(1e-3) - math.log(score + 1e-3), 1e-9)
    assert each[7] == 0  # alone in its class: skipped
    close(ll.soft_neighbors(x, y, k=3, temperature=0.7, epsilon=1e-3), each.sum() / 7)
    apart = t([0.0], [0.1], [0.2], [50.0], [50.1], [50.2])
    assert ll.soft_neighbors(apart, torch.tensor([0, 0, 0, 1, 1, 1]), k=2) == 0
    # Far from its own: bounded loss, finite gradient.
    wrong = t([0.0], [100.0], [0.1], [100.1]).requires_grad_()
    loss = ll.soft_neighbors(wrong, torch.tensor([0, 0, 1, 1]), k=1)
    loss.backward()
    close(loss, math.log1p(1e6), 1e-6)
    assert torch.isfinite(wrong.grad).all()
    assert gradcheck(lambda a: ll.soft_neighbors(a, y, k=4), x)


def test_orthogonal_projection():
    close(ll.orthogonal_projection(t(0.8), t(-0.2)), 0.30)
    close(ll.orthogonal_projection(t(1.0), t(0.0)), 0.0)
    assert ll.orthogonal_projection(t(1.0), t(-1.0)) == 0.5
    close(ll.orthogonal_projection(t(0.8), t([-0.2, 0.6])), 0.2 + 0.5 * 0.4)
    assert gradcheck(ll.orthogonal_projection, t(0.3, 0.9), t(-0.4, 0.5))


# --- late interaction --------------------------------------------------------------------------


def test_soft_late_interaction():
    query, target = torch.eye(2, dtype=F64)[None], t([[1.0, 0.0], [0.6, 0.8]])
    close(ll.soft_late_interaction(query, target), [[1.792537]], 1e-6)
    close(ll.soft_late_interaction(query, target, temperature=1e-4), [[1.8]])
    q, y = draw(0, 3, 4, 5), draw(1, 2, 6, 5)
    unit_q, unit_y = (e / e.norm(dim=-1, keepdim=True) for e in (q, y))
    for i in range(3):
        for j in range(2):
            weights = (q[i] @ y[j].T / 0.3).softmax(1)
            wanted = (weights * (unit_q[i] @ unit_y[j].T)).sum()
            close(ll.soft_late_interaction(q, y, temperature=0.3)[i, j], wanted)
    maximum = torch.einsum("mad,nbd->mnab", unit_q, unit_y).amax(3).sum(2)
    close(ll.soft_late_interaction(unit_q, unit_y, temperature=1e-4), maximum, 1e-6)
    both = ll.soft_late_interaction(q, torch.cat([y, y[:1]]), pairwise=True)
    close(both, ll.soft_late_interaction(q, torch.cat([y, y[:1]])).diagonal())
    assert gradcheck(lambda a, b: ll.soft_late_interaction(a, b, temperature=0.7), q, y)


def test_pooled_late_interaction():
    q, y = draw(0, 3, 4, 5), draw(1, 2, 5)
    for i in range(3):
        for j in range(2):
            weights = (q[i] @ y[j] / 0.5).softmax(0)
            wanted = (weights * torch.cosine_similarity(q[i], y[j][None])).sum()
            close(ll.pooled_late_interaction(q, y, temperature=0.5)[i, j], wanted)
    three = draw(2, 3, 5)
    close(
        ll.pooled_late_interaction(q, three, pairwise=True),
        ll.pooled_late_interaction(q, three).diagonal(),
    )
    assert gradcheck(ll.pooled_late_interaction, q, y)


def test_padding_has_no_influence():
    q, y = draw(0, 2, 4, 3), draw(1, 2, 5, 3)
    q_mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]).bool()
    y_mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    q[~q_mask], y[~y_mask] = torch.nan, 1e30
    q.requires_grad_()
    y.requires_grad_()
    found = ll.soft_late_interaction(q, y, query_mask=q_mask, target_mask=y_mask)
    close(found[0, 0], ll.soft_late_interaction(q[:1, :2], y[:1, :3])[0, 0])
    close(found[1, 1], ll.soft_late_interaction(q[1:], y[1:, :1])[0, 0])
    pooled = ll.pooled_late_interaction(q, y[:, 0], query_mask=q_mask)
    close(pooled[0], ll.pooled_late_interaction(q[:1, :2], y[:, 0])[0])
    (found.sum() + pooled.sum()).backward()
    assert torch.isfinite(q.grad).all()
    assert torch.isfinite(y.grad).all()
    assert (q.grad[~q_mask] == 0).all()
    paired = ll.soft_late_interaction(q, y, query_mask=q_mask, target_mask=y_mask, pairwise=True)
    close(paired, found.diagonal())
