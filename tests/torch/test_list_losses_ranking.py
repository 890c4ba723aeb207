"""lambda-MRR, Plackett-Luce, partial rankings: oracles (docs/methods.md, D), edges."""

from __future__ import annotations

import itertools
import math

import pytest
from list_loss_cases import F64, close, draw, gradcheck, t

import torch
from stope.torch import ranking as ll

# --- lambda-MRR --------------------------------------------------------------------------------


def naive_lambda_mrr(x, y, ranks, cut=math.inf):
    gain = [1 / r if r <= cut else 0.0 for r in ranks]
    return [
        abs(gain[j] - gain[k]) * math.log1p(math.exp(-(x[j] - x[k])))
        for j in range(len(x))
        for k in range(len(x))
        if y[j] > y[k]
    ]


def test_lambda_mrr_oracles():
    x, by_model = t([0.2, 1.0, 0.5]), t([1.0, 1 / 2, 1 / 3])
    close(ll.lambda_mrr(x, by_model), 0.386722, 1e-6)
    close(ll.lambda_mrr(x, -t([1, 2, 3])), 0.386722, 1e-6)
    terms = naive_lambda_mrr([0.2, 1.0, 0.5], [3, 2, 1], [3, 1, 2])
    close(t(*sorted(terms)), sorted([0.237038, 0.780734, 0.142393]), 1e-6)
    scores, judged = t([3.0, 2, 1, 0]), torch.tensor([[0, 1, 0, 0]])
    close(ll.lambda_mrr(scores, judged), 0.246858, 1e-6)
    close(ll.lambda_mrr(scores, judged, metric_cut=2), 0.292242, 1e-6)


def test_lambda_mrr_against_loops():
    x, y = draw(0, 4, 7), torch.randint(0, 3, (4, 7), generator=torch.Generator().manual_seed(1))
    y[2] = 1  # no pairs: skipped
    ranks = ll.predicted_ranks(x)
    for cut in (None, 3):
        terms = [
            naive_lambda_mrr(x[i].tolist(), y[i].tolist(), ranks[i].tolist(), cut or math.inf)
            for i in range(4)
        ]
        means = [sum(pairs) / len(pairs) if pairs else 0.0 for pairs in terms]
        close(ll.lambda_mrr(x, y, metric_cut=cut, reduction="none"), means)
        close(ll.lambda_mrr(x, y, metric_cut=cut), sum(means) / 3)
        flat = [term for pairs in terms for term in pairs]
        close(ll.lambda_mrr(x, y, metric_cut=cut, average="pairs"), sum(flat) / len(flat))
    weights = t(1, 2, 5, 0.5)
    wanted = (means[0] + 2 * means[1] + 0.5 * means[3]) / 3.5
    close(ll.lambda_mrr(x, y, metric_cut=3, weights=weights), wanted)
    wanted = (sum(terms[0]) + 2 * sum(terms[1]) + 0.5 * sum(terms[3])) / (
        len(terms[0]) + 2 * len(terms[1]) + 0.5 * len(terms[3])
    )
    close(ll.lambda_mrr(x, y, metric_cut=3, weights=weights, average="pairs"), wanted)
    assert gradcheck(lambda a: ll.lambda_mrr(a, y), x)


def test_lambda_mrr_masks_and_empty_lists():
    x, y = draw(0, 2, 5), torch.tensor([[0, 1, 0, 1, 1], [1, 0, 0, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]).bool()
    x[~mask] = torch.nan
    found = ll.lambda_mrr(x.requires_grad_(), y, mask=mask)
    close(found, ll.lambda_mrr(x[:1, :3], y[:1, :3]))  # the second list has one candidate
    found.backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[~mask] == 0).all()
    for average in ("query", "pairs"):
        x.grad = None
        nothing = ll.lambda_mrr(x, torch.ones(2, 5), mask=mask, average=average)
        nothing.backward()
        assert nothing == 0
        assert (x.grad == 0).all()


def test_lambda_mrr_survives_large_margins():
    x = t([0.0, 500.0], dtype=torch.float32).requires_grad_()
    loss = ll.lambda_mrr(x, torch.tensor([[1, 0]]))
    loss.backward()
    close(loss, 250.0, 1e-4)
    close(x.grad, [[-0.5, 0.5]], 1e-6)


def test_missing_positives_are_appended_beyond_the_cut():
    retrieved = torch.tensor([[4, 7, 1], [5, 2, -1], [3, 6, 9]])
    found = ll.append_missing_positives(retrieved, [[7, 100], [8, 11], [9]])
    assert found.ids.tolist() == [[4, 7, 1, -1, -1], [5, 2, -1, 8, 11], [3, 6, 9, -1, -1]]
    assert found.relevance.int().tolist() == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 1], [0, 0, 1, 0, 0]]
    assert found.mask.tolist() == (found.ids >= 0).tolist()
    assert ll.append_missing_positives(retrieved, [[4], [2], [3]]).ids.shape == (3, 3)
    # A missed positive has gain 0 and is paired with every retrieved negative, with weight 1/k.
    x = draw(0, 3, 5)
    each = ll.lambda_mrr(
        x,
        found.relevance,
        ranks=torch.arange(1, 6),
        metric_cut=3,
        mask=found.mask,
        reduction="none",
    )
    terms = [
        torch.nn.functional.softplus(x[1, k] - x[1, j]) / (k + 1) for j in (3, 4) for k in (0, 1)
    ]
    close(each[1], sum(terms) / 4)
    with pytest.raises(ValueError, match=r"positives\[1\] is empty"):
        ll.append_missing_positives(retrieved, [[1], [], [2]])
    with pytest.raises(ValueError, match=r"positives\[0\] holds -1"):
        ll.append_missing_positives(retrieved, [[-1], [1], [2]])


# --- Plackett-Luce -----------------------------------------------------------------------------


def permutations(n, k=None):
    return torch.tensor(list(itertools.permutations(range(n), k)))


def test_log_probabilities():
    scores = t([1.0, 0.0, -1.0])
    close(ll.plackett_luce_log_prob(scores, torch.tensor([[0, 1, 2]])), [-0.720868], 1e-6)
    for n, k in ((1, 1), (3, 3), (4, 4), (5, 2), (5, 4)):
        x = draw(n, 2, n, scale=3)
        every = permutations(n, k).expand(2, -1, -1)
        close(ll.plackett_luce_log_prob(x, every).exp().sum(1), [1.0, 1.0])
    terms = ll.plackett_luce_log_prob(x, every, per_position=True)
    close(terms.sum(2), ll.plackett_luce_log_prob(x, every))
    weights = x[0].exp()
    close(terms[0, 0, 0].exp(), weights[every[0, 0, 0]] / weights.sum())
    one = torch.tensor([[2, 0, 1], [1, 2, 0]])
    assert gradcheck(lambda a: ll.plackett_luce_log_prob(a, one), draw(3, 2, 4))


def test_masked_candidates_have_no_probability():
    x = draw(0, 2, 4)
    mask = torch.tensor([[1, 0, 1, 1], [0, 0, 0, 1]]).bool()
    x[~mask] = torch.nan
    rankings = torch.tensor([[3, 0, 2, 1], [3, 0, 1, 2]])
    found = ll.plackett_luce_log_prob(x.requires_grad_(), rankings, mask=mask)
    close(found[0], ll.plackett_luce_log_prob(x[:1, [0, 2, 3]], torch.tensor([[2, 0, 1]]))[0])
    assert found[1] == 0
    found.sum().backward()
    assert torch.isfinite(x.grad).all()
    assert (x.grad[~mask] == 0).all()
    with pytest.raises(ValueError, match="mask leaves out before one it keeps"):
        ll.plackett_luce_log_prob(x, torch.tensor([[1, 0], [3, 0]]), mask=mask)
    with pytest.raises(ValueError, match="names a column twice"):
        ll.plackett_luce_log_prob(draw(0, 1, 3), torch.tensor([[1, 1]]))


def test_samples_follow_the_model():
    x, n = t([0.7, -0.4, 0.1, 1.2]), 40_000
    generator = torch.Generator().manual_seed(5)
    drawn = ll.sample_plackett_luce(x, n, generator=generator)
    again = ll.sample_plackett_luce(x, n, generator=torch.Generator().manual_seed(5))
    assert torch.equal(drawn, again)
    every = permutations(4)
    probability = ll.plackett_luce_log_prob(x, every[None])[0].exp()
    count = (drawn[0, :, None] == every[None]).all(2).sum(0)
    assert count.sum() == n
    chi_square = ((count - n * probability).square() / (n * probability)).sum()
    assert chi_square < 44.2  # 23 degrees of freedom: 0.5 %
    mask = torch.tensor([[True, False, True, False]])
    masked = ll.sample_plackett_luce(x, 50, mask=mask, generator=generator)
    assert set(masked[0, :, :2].flatten().tolist()) == {0, 2}
    assert ll.sample_plackett_luce(x, 3, depth=2, generator=generator).shape == (1, 3, 2)


def exact_gradient(x, relevance, depth, reward=ll.ndcg_gains):
    """Of minus the expected reward, over all rankings."""
    x = x.detach().requires_grad_()
    every = permutations(x.shape[1], depth)[None]
    probability = ll.plackett_luce_log_prob(x, every).exp()
    rewards = reward(relevance[:, None].expand(-1, every.shape[1], -1).gather(2, every), relevance)
    (-(probability * rewards.sum(2)).sum()).backward()
    return x.grad


@pytest.mark.parametrize("reward_to_go", [False, True])
@pytest.mark.parametrize(("n", "depth"), [(3, 3), (4, 2)])
def test_the_estimator_is_unbiased(n, depth, reward_to_go):
    x, relevance = draw(n, 1, n), t([0.0, 1.0, 0.0, 2.0][:n])
    wanted = exact_gradient(x, relevance, depth)
    rows, generator = 20_000, torch.Generator().manual_seed(11)
    many = x.expand(rows, -1).clone().requires_grad_()
    ll.plackett_luce_policy_gradient(
        many,
        relevance.expand(rows, -1),
        num_samples=3,
        depth=depth,
        reward_to_go=reward_to_go,
        generator=generator,
    ).backward()
    estimates = many.grad * rows
    error = estimates.std(0) / math.sqrt(rows)
    assert ((estimates.mean(0) - wanted[0]).abs() < 4 * error).all()
    assert (error < 0.02 * wanted.abs().max()).all()  # the bound above says something


def test_reward_to_go_has_less_variance():
    x, relevance = draw(0, 1, 8).expand(4000, -1), t([0, 1.0, 0, 0, 1, 0, 0, 1]).expand(4000, -1)
    spread = []
    for reward_to_go in (False, True):
        many = x.clone().requires_grad_()
        ll.plackett_luce_policy_gradient(
            many,
            relevance,
            num_samples=4,
            reward_to_go=reward_to_go,
            generator=torch.Generator().manual_seed(0),
        ).backward()
        spread.append(float(many.grad.var(0).sum()))
    assert spread[1] < 0.85 * spread[0]  # 0.72 measured


@pytest.mark.parametrize("reward_to_go", [False, True])
def test_the_gradient_is_that_of_the_formula(reward_to_go):
    """docs/methods.md, D7: A_j 1[j <= K] - sum_{k <= min(j, K)} A_k exp(x_r(j) - c_k)."""
    n, depth = 6, 4
    x, relevance = draw(2, 1, n).requires_grad_(), draw(3, 1, n).abs()
    full = ll.sample_plackett_luce(x, 2, generator=torch.Generator().manual_seed(3))
    loss = ll.plackett_luce_policy_gradient(
        x, relevance, rankings=full[:, :, :depth], reward_to_go=reward_to_go
    )
    loss.backward()
    gains = ll.ndcg_gains(relevance[0][full][:, :, :depth], relevance)[0]
    wanted = torch.zeros(n, dtype=F64)
    for i in range(2):
        difference = gains[i] - gains[1 - i]
        togo = [difference[k:].sum() if reward_to_go else difference.sum() for k in range(depth)]
        order, values = full[0, i], x.detach()[0]
        for j in range(n):
            g = togo[j] if j < depth else 0.0
            for k in range(min(j + 1, depth)):
                g = g - togo[k] * (values[order[j]] - values[order[k:]].logsumexp(0)).exp()
            wanted[order[j]] -= g / 2
    close(x.grad[0], wanted)


def test_equal_rewards_move_nothing():
    for relevance in (torch.zeros(2, 5), torch.ones(2, 5)):
        x = draw(0, 2, 5).requires_grad_()
        ll.plackett_luce_policy_gradient(
            x, relevance, generator=torch.Generator().manual_seed(0)
        ).backward()
        close(x.grad, torch.zeros(2, 5), 1e-15)


def test_rewards_are_an_argument():
    x, relevance = draw(0, 2, 5).requires_grad_(), torch.tensor([[0, 1, 0, 0, 1], [1, 0, 0, 0, 0]])
    seen = []

    def reciprocal_rank(ranked, given):
        seen.append((tuple(ranked.shape), given.tolist()))
        first = (ranked > 0).to(ranked.dtype).argmax(2) + 1
        return 1 / first

    mask = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]).bool()
    loss = ll.plackett_luce_policy_gradient(
        x, relevance, reward=reciprocal_rank, num_samples=4, depth=3, mask=mask, reduction="none"
    )
    assert seen == [((2, 4, 3), [[0.0, 1, 0, 0, 0], [1, 0, 0, 0, 0]])]
    assert loss.shape == (2,)
    with pytest.raises(ValueError, match="reward_to_go needs a reward per place"):
        ll.plackett_luce_policy_gradient(x, relevance, reward=reciprocal_rank, reward_to_go=True)
    with pytest.raises(ValueError, match=r"reward returned shape \(2,\); it must be \(2, 16\)"):
        ll.plackett_luce_policy_gradient(x, relevance, reward=lambda ranked, given: given.sum(1))
    with pytest.raises(ValueError, match="raise num_samples"):
        ll.plackett_luce_policy_gradient(x, relevance, num_samples=1)
    nothing = ll.plackett_luce_policy_gradient(x, relevance, mask=torch.zeros(2, 5).bool())
    nothing.backward()
    assert nothing == 0


def test_ndcg_gains():
    relevance = t([2.0, 0.0, 1.0])
    ranked = torch.stack([relevance[0, list(p)] for p in itertools.permutations(range(3))])[None]
    ideal = 2 + 1 / 2 * 0 + 1 / math.log2(3)
    wanted = [sum(g / math.log2(2 + k) for k, g in enumerate(row)) / ideal for row in ranked[0]]
    close(ll.ndcg_gains(ranked, relevance).sum(2)[0], wanted)
    cut = ll.ndcg_gains(ranked, relevance, cutoff=1)
    close(cut.sum(2)[0], [row[0] / 2 for row in ranked[0]])
    assert (ll.ndcg_gains(0 * ranked, 0 * relevance) == 0).all()


# --- partial rankings --------------------------------------------------------------------------


def test_partial_plackett_luce():
    p, n = t([0.8, 0.3], [0.2, 0.9]), t([0.7, 0.1], [0.1, 0.6])
    close(ll.partial_plackett_luce(p, n), 0.065084, 1e-6)
    each = ll.partial_plackett_luce(20 * p, 20 * n, temperature=1, reduction="none")
    close(each, [0.127310, 0.002857], 1e-6)
    # It is the log-probability of the first two places of a ranking of all 2 B documents.
    a, b = draw(0, 3, 3), draw(1, 3, 3)
    order = torch.tensor([[i, 3 + i] for i in range(3)])
    wanted = -ll.plackett_luce_log_prob(torch.cat([a, b], 1), order)
    close(ll.partial_plackett_luce(a, b, temperature=1, reduction="none"), wanted)
    close(ll.partial_plackett_luce(t([2.0]), t([1.0]), temperature=1), math.log1p(math.exp(-1)))
    assert gradcheck(lambda c, d: ll.partial_plackett_luce(c, d, temperature=0.5), a, b)


def test_summed_positive_contrast():
    positives, negatives = draw(0, 3, 4, 4), draw(1, 4, 2)
    logits = torch.cat([positives.sum(0), negatives], 1) / 0.05
    wanted = torch.nn.functional.cross_entropy(logits, torch.arange(4))
    close(ll.summed_positive_contrast(positives, negatives), wanted)
    alone = ll.summed_positive_contrast(positives[:1], negatives[:, :0], temperature=1)
    close(alone, torch.nn.functional.cross_entropy(positives[0], torch.arange(4)))
    assert gradcheck(
        lambda a, b: ll.summed_positive_contrast(a, b, temperature=1), positives, negatives
    )
