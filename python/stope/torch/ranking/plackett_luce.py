"""Rankings as random choices: Plackett-Luce sampling, policy gradient, and partial rankings.

The Plackett-Luce model draws a ranking r by choosing without replacement, each time with
probability proportional to exp(score): pi(r) = prod_k exp(x_r(k)) / sum_{j >= k} exp(x_r(j)).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from stope._checks import flag, integer, size
from stope._kinds import callback, kinds
from stope.torch.ranking import _tensors
from stope.torch.ranking._tensors import Reduction

Reward = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def plackett_luce_log_prob(
    scores: torch.Tensor,
    rankings: torch.Tensor,
    *,
    mask: torch.Tensor | None = None,
    per_position: bool = False,
) -> torch.Tensor:
    """Log-probability of rankings, or of their first K places, under the Plackett-Luce model.

    ``log pi(r) = sum_{k <= K} (x_r(k) - LSE_{j not among r(1), ..., r(k-1)} x_j)``.

    Args:
        scores: float [B, n], x.
        rankings: int64 [B, K] or [B, N, K], columns of scores, best first, without repeats; K may
            be less than n.
        mask: a place that holds a candidate that it leaves out adds 0; such places come last.
        per_position: return the K terms instead of their sum.

    Returns: Float of the shape of rankings without its last axis, or with it when per_position.
    Raises ValueError: a column repeated in a ranking, an absent candidate before a present one.
    Memory: O(B N n).
    Source: docs/methods.md, D7.

    >>> scores = torch.tensor([[1.0, 0.0, -1.0]])
    >>> log_prob = plackett_luce_log_prob(scores, torch.tensor([[0, 1, 2]]))
    >>> print(f"{log_prob.item():.6f}")
    -0.720868
    """
    scores = _tensors.floats(scores, "scores", 2)
    present = _tensors.mask_like(mask, "mask", scores, "scores")
    rankings = _tensors.integers(rankings, "rankings", 0, scores.shape[1])
    if rankings.dim() not in (2, 3) or len(rankings) != len(scores) or not rankings.shape[-1]:
        raise ValueError(
            f"rankings has shape {tuple(rankings.shape)}; it needs [{len(scores)}, K] or "
            f"[{len(scores)}, N, K]"
        )
    _tensors.same_device(rankings, "rankings", scores, "scores")
    many = rankings if rankings.dim() == 3 else rankings[:, None]
    samples = many.shape[1]
    x = _tensors.floor(scores, present)[:, None].expand(-1, samples, -1)
    there = present[:, None].expand(-1, samples, -1).gather(2, many)
    chosen = torch.zeros_like(x, dtype=torch.int8)
    chosen.scatter_add_(2, many, torch.ones_like(many, dtype=torch.int8))
    if bool((chosen > 1).any()):
        raise ValueError("rankings holds a ranking that names a column twice")
    if bool((there[:, :, 1:] & ~there[:, :, :-1]).any()):
        raise ValueError("rankings holds a candidate that mask leaves out before one it keeps")
    taken = x.gather(2, many)
    # What is left at place k: the places from k on, and everything that was not ranked.
    rest = _tensors.floor(x, chosen == 0).logsumexp(2, keepdim=True)
    left = torch.cat([taken, rest], 2).flip(2).logcumsumexp(2).flip(2)[:, :, :-1]
    terms = (taken - left).masked_fill(~there, 0)
    log_probs = terms if flag(per_position, "per_position") else terms.sum(2)
    return log_probs if rankings.dim() == 3 else log_probs[:, 0]


def sample_plackett_luce(
    scores: torch.Tensor,
    num_samples: int,
    *,
    depth: int | None = None,
    mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Draw rankings from the Plackett-Luce model: sort the scores after adding Gumbel noise.

    ``r = argsort descending of x + G``, G independent standard Gumbel variables, is an exact
    sample.

    Args:
        scores: float [B, n]; no gradient is taken. What mask leaves out comes last.
        num_samples, depth: N rankings per query, K places of each, cut to n; None is all.
        generator: of the device of scores; None is torch's own.

    Returns: int64 [B, N, K], columns of scores, best first.
    Memory: O(B N n).
    Source: docs/methods.md, D7.

    >>> scores, generator = torch.tensor([[0.0, 50.0]]), torch.Generator().manual_seed(0)
    >>> sample_plackett_luce(scores, 2, generator=generator)
    tensor([[[1, 0],
             [1, 0]]])
    """
    scores = _tensors.floats(scores, "scores", 2).detach()
    present = _tensors.mask_like(mask, "mask", scores, "scores")
    size(num_samples, "num_samples")
    rows, columns = scores.shape
    kept = columns if depth is None else min(integer(depth, "depth", 1), columns)
    waits = scores.new_empty(rows, num_samples, columns).exponential_(generator=generator)
    # Minus the logarithm of an exponential variable is a Gumbel variable.
    noisy = scores[:, None] - waits.log()
    noisy = noisy.masked_fill(~present[:, None], -torch.inf)
    return noisy.argsort(2, descending=True)[:, :, :kept]


def ndcg_gains(ranked: torch.Tensor, relevance: torch.Tensor, *, cutoff: int = 10) -> torch.Tensor:
    """What each place of a ranking adds to nDCG@cutoff: the default reward of the policy gradient.

    ``g_k = relevance_r(k) / log2(1 + k) / IDCG`` for k up to cutoff, then 0; IDCG is the same sum
    for the best ranking. The gain is linear in the relevance, as in trec_eval.

    Args:
        ranked, relevance: float [B, N, K], relevance of the documents in ranked order; [B, n], of
            all documents, at least 0; 0 at padding.

    Returns: float [B, N, K]; its sum over K is nDCG@cutoff, 0 without relevant documents.
    Source: docs/methods.md, D7.

    >>> relevance = torch.tensor([[1.0, 0.0, 0.0]])
    >>> ranked = torch.tensor([[[0.0, 0.0, 1.0]]])
    >>> ndcg_gains(ranked, relevance).sum(-1)
    tensor([[0.5000]])
    """
    integer(cutoff, "cutoff", 1)
    ranked = _tensors.floats(ranked, "ranked", 3)
    relevance = _tensors.floats(relevance, "relevance", 2)
    if len(ranked) != len(relevance):
        raise ValueError(f"ranked has {len(ranked)} queries but relevance has {len(relevance)}")
    best = relevance.sort(1, descending=True).values[:, None]
    ideal = _discounted(best, cutoff).sum(2, keepdim=True)
    return _discounted(ranked, cutoff) / ideal.masked_fill(ideal == 0, 1)


@kinds(reward=callback)
def plackett_luce_policy_gradient(
    scores: torch.Tensor,
    relevance: torch.Tensor,
    *,
    num_samples: int = 16,
    depth: int | None = 10,
    reward: Reward = ndcg_gains,
    reward_to_go: bool = False,
    mask: torch.Tensor | None = None,
    generator: torch.Generator | None = None,
    rankings: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Raise the expected reward of sampled rankings (policy gradient, leave-one-out baseline).

    ``L = -1/N sum_i A_i log pi(r_i)`` with ``A_i = R(r_i) - 1/(N-1) sum_{j != i} R(r_j)``, held
    constant: the gradient of L is an unbiased estimate of that of ``-E_r R(r)``. The value of L
    itself means nothing; watch the reward.

    With reward_to_go the term of place k is multiplied by the reward of places from k on alone,
    less its own leave-one-out mean: the same expectation, since earlier places do not depend on
    that choice, and as a rule less noise (not where all relevant documents are ranked anyway and
    the whole reward hardly varies).

    Args:
        scores, relevance: float [B, n], x of the policy, after a temperature; [B, n] numbers, at
            least 0 for the default reward.
        num_samples, depth: N, at least 2, and K as for :func:`sample_plackett_luce`. Exact for
            rewards that look at no later place, as nDCG@10 with K of 10 or more; with fewer it is
            the reward of what was ranked.
        reward: called as ``reward(ranked, relevance)`` with the relevance in ranked order [B, N, K]
            and of all documents [B, n], 0 at padding; returns [B, N], or one part per place
            [B, N, K], whose sum is the reward and which may depend on that place's document only.
        reward_to_go: needs rewards per place.
        rankings: int64 [B, N, K], given instead of drawn with the generator.

    Raises ValueError: fewer than 2 samples, reward_to_go with a reward that is not per place.
    Memory: O(B N n).
    Source: Neural PG-RANK (docs/methods.md, D7; the estimator's details are recalled from the
    paper, not verified in code).

    >>> scores = torch.zeros(1, 3, requires_grad=True)
    >>> samples = torch.tensor([[[0, 1, 2], [1, 0, 2]]])  # rewards 1 and 0.6309
    >>> loss = plackett_luce_policy_gradient(
    ...     scores, torch.tensor([[1.0, 0.0, 0.0]]), rankings=samples
    ... )
    >>> loss.backward()
    >>> print([round(x, 4) for x in scores.grad[0, :2].tolist()])  # descent raises the first
    [-0.0923, 0.0923]
    """
    scores = _tensors.floats(scores, "scores", 2)
    _tensors.numbers_like(relevance, "relevance", scores, "scores")
    present = _tensors.mask_like(mask, "mask", scores, "scores")
    if rankings is None:
        rankings = sample_plackett_luce(
            scores, num_samples, depth=depth, mask=mask, generator=generator
        )
    rankings = _tensors.integers(rankings, "rankings", 0, scores.shape[1])
    if rankings.dim() != 3 or rankings.shape[1] < 2:
        raise ValueError(
            f"the rankings have shape {tuple(rankings.shape)}; the leave-one-out baseline needs "
            f"[B, N, K] with at least 2 samples per query: raise num_samples"
        )
    terms = plackett_luce_log_prob(scores, rankings, mask=mask, per_position=True)
    samples = rankings.shape[1]
    with torch.no_grad():
        judged = relevance.to(scores.dtype).masked_fill(~present, 0)
        rewards = reward(judged[:, None].expand(-1, samples, -1).gather(2, rankings), judged)
        if rewards.shape not in (rankings.shape, rankings.shape[:2]):
            raise ValueError(
                f"reward returned shape {tuple(rewards.shape)}; it must be "
                f"{tuple(rankings.shape[:2])} or {tuple(rankings.shape)}"
            )
        if flag(reward_to_go, "reward_to_go"):
            if rewards.dim() != 3:
                raise ValueError(
                    "reward_to_go needs a reward per place [B, N, K], but reward returned [B, N]"
                )
            rewards = rewards.flip(2).cumsum(2).flip(2)
        elif rewards.dim() == 3:
            rewards = rewards.sum(2)
        others = (rewards.sum(1, keepdim=True) - rewards) / (samples - 1)
        advantages = rewards - others
    weighted = terms * advantages if reward_to_go else terms.sum(2) * advantages
    losses = -weighted.reshape(len(scores), samples, -1).sum(2).mean(1)
    return _tensors.reduce(losses, counted=present.any(1), weights=weights, reduction=reduction)


def summed_positive_contrast(
    positive_scores: torch.Tensor,
    negative_scores: torch.Tensor,
    *,
    temperature: float = 0.05,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """In-batch contrast of several positives per query, their scores added up (Syntriever).

    Row i has the logits ``sum_p s_pij / temperature`` of the B queries' positives j and
    ``t_ij / temperature`` of the negatives; ``L_i`` is the cross-entropy with column i.

    Args:
        positive_scores: float [P, B, B], cosine of query i with positive p of query j; the authors
            have P = 3 (gold, synthetic, augmented).
        negative_scores: float [B, M], cosine of query i with negative j; M may be 0.
        temperature: divides the cosines; 0.05 is the authors' scale of 20.

    Source: Syntriever, stage 1 (docs/methods.md, D8).

    >>> positives = torch.eye(2).expand(3, 2, 2)  # row 0 has the logits 3, 0 and 0
    >>> loss = summed_positive_contrast(positives, torch.zeros(2, 1), temperature=1.0)
    >>> print(f"{loss:.6f}")  # log(1 + 2 exp(-3))
    0.094923
    """
    positives = _tensors.floats(positive_scores, "positive_scores", 3)
    negatives = _tensors.floats(negative_scores, "negative_scores", 2, empty=True)
    if positives.shape[1] != positives.shape[2] or len(negatives) != positives.shape[1]:
        raise ValueError(
            f"positive_scores has shape {tuple(positives.shape)} and negative_scores "
            f"{tuple(negatives.shape)}; they need [P, B, B] and [B, M]"
        )
    _tensors.same_device(positives, "positive_scores", negatives, "negative_scores")
    logits = torch.cat([positives.sum(0), negatives], 1)
    logits = logits / _tensors.positive(temperature, "temperature")
    losses = logits.logsumexp(1) - logits.diagonal()
    return _tensors.reduce(losses, weights=weights, reduction=reduction)


def partial_plackett_luce(
    preferred_scores: torch.Tensor,
    dispreferred_scores: torch.Tensor,
    *,
    temperature: float = 0.05,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """The preferred document first, the dispreferred second, everything else unordered last.

    With query i's scores ``p_ij`` of all preferred and ``n_ij`` of all dispreferred documents of
    the batch, divided by the temperature,
    ``L_i = [LSE(p_i*, n_i*) - p_ii] + [LSE(n_i*, p_ij for j != i) - n_ii]``.

    Args:
        preferred_scores, dispreferred_scores: float [B, B], cosine of query i with that document
            of query j.
        temperature: divides the cosines; 0.05 is the authors' scale of 20.

    Source: Syntriever, stage 2 (docs/methods.md, D8).

    >>> preferred = torch.tensor([[0.8, 0.3], [0.2, 0.9]])
    >>> dispreferred = torch.tensor([[0.7, 0.1], [0.1, 0.6]])
    >>> loss = partial_plackett_luce(preferred.double(), dispreferred.double())
    >>> print(f"{loss:.6f}")
    0.065084
    """
    preferred = _tensors.floats(preferred_scores, "preferred_scores", 2)
    dispreferred = _tensors.floats(dispreferred_scores, "dispreferred_scores", 2)
    _tensors.same_shape(preferred, "preferred_scores", dispreferred, "dispreferred_scores")
    rows, columns = preferred.shape
    if rows != columns:
        raise ValueError(f"preferred_scores has shape {rows} x {columns}; it must be square")
    logits = torch.cat([preferred, dispreferred], 1)
    logits = logits / _tensors.positive(temperature, "temperature")
    first, second = logits.diagonal(), logits.diagonal(offset=rows)
    itself = torch.eye(rows, 2 * rows, dtype=torch.bool, device=logits.device)
    left = logits.masked_fill(itself, -torch.inf)  # the dispreferred document always remains
    losses = (logits.logsumexp(1) - first) + (left.logsumexp(1) - second)
    return _tensors.reduce(losses, weights=weights, reduction=reduction)


def _discounted(relevance: torch.Tensor, cutoff: int) -> torch.Tensor:
    places = torch.arange(1, relevance.shape[-1] + 1, device=relevance.device)
    discounts = (places <= cutoff) / (places + 1).to(relevance.dtype).log2()
    return relevance * discounts
