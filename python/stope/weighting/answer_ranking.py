"""Curricula for answer ranking: first what a first-stage ranking already tells apart.

A first stage (BM25, or any other ranking) gives every pair (query, document) an evidence f in
[0, 1]; a sample is easy where its positive has much of it and its negatives have little. Weights
start at that easiness and rise to 1 for all.

Source: MacAvaney et al., training curricula for open domain answer re-ranking, and their code in
OpenNIR (docs/methods.md, E1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from stope._checks import flag, real
from stope._kinds import at_least, kinds
from stope.weighting._processes import Processes
from stope.weighting._samples import Samples, Vector, like, not_empty, read, same_length
from stope.weighting._schedule import ramp
from stope.weighting.protocol import OfSignal, Range

_TINY = 1e-8  # no sample is left out altogether


@dataclass(frozen=True)
class AnswerRanking(OfSignal, name="answer_ranking"):
    """Weights that start at the easiness D and rise to 1 for every sample.

        w_i = D_i (1 - t/m) + t/m   for t < m,    w_i = 1 afterwards

    The curriculum is the sum over w_i L_i / B: a loss that divides by the sum of the weights, as
    :class:`stope.torch.InfoNCELoss` does, keeps their proportions and drops their common size.
    Source: docs/methods.md, E1. There m is 20 epochs, and D = 0.25 in epoch 5 weighs 0.4375.

    Attributes:
        signal: the easiness D in [0, 1] (1 + 1e-8 passes), from :func:`pairwise_easiness`,
            :func:`pointwise_easiness` or a source of your own.
        until: m, share of training at which all weights are 1; 0 never uses D.
        batch_mean: give every sample the mean of the weights. The published code multiplies the
            mean loss of a batch by the mean weight, which this repeats; the curriculum itself is
            per sample.
        anti: 1 - D, to compare with.

    >>> AnswerRanking().weights(np.array([0.25, 0.95]), 5 / 20).tolist()
    [0.4375, 0.9624999999999999]
    """

    reads = Range(low=0, high=1 + 1e-6)
    signal: str = "easiness"
    until: float = 1.0
    batch_mean: bool = False
    anti: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        real(self.until, "until", 0, 1)
        flag(self.batch_mean, "batch_mean")

    def _prepared(self, values: Samples) -> Samples:
        return abs(1.0 - values) if self.anti else values  # 1 + 1e-8 turns into 1e-8

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        done = ramp(progress, 0.0, self.until)
        weights: Vector = samples * (1.0 - done) + done
        if not self.batch_mean:
            return weights
        count, total = together.sums(float(weights.size), float(weights.sum()))
        return np.full_like(weights, total / count)


@kinds(missing_rank=at_least(1))
def reciprocal_rank_evidence(ranks: Samples, *, missing_rank: int = 1000) -> Samples:
    """F = 1 / rank: evidence from the place of a document in the first-stage ranking.

    Args:
        ranks: ``[B]`` or ``[B, n]``, whole, 1 for the best document; 0 for one that the ranking
            does not hold (as of :class:`stope.torch.Statistics`), which counts as missing_rank.

    Returns: f in ]0, 1], of the shape and kind of ranks; float64 for float64, else float32.
    Raises ValueError: a rank that is negative or not whole.
    Source: docs/methods.md, E1 (reciprank).

    >>> reciprocal_rank_evidence(np.array([1, 4, 0])).tolist()
    [1.0, 0.25, 0.0010000000474974513]
    """
    last = real(missing_rank, "missing_rank", 1)
    places = not_empty(read(ranks, "ranks", dims=(1, 2), low=0, integers=True), "ranks")
    if (broken := places != np.floor(places)).any():
        raise ValueError(f"ranks holds {places[broken][0]:g}; ranks are whole numbers from 1")
    return like(1.0 / np.where(places == 0, last, places), ranks)


def normalized_score_evidence(scores: Samples, run_scores: Samples) -> Samples:
    """F = (score - min) / (max - min) over the query's first-stage ranking, within [0, 1].

    Args:
        scores: ``[q]`` or ``[q, n]``, of documents of each query; -inf where there is none (f = 0).
        run_scores: ``[q, k]``, of the query's ranking, whose extremes count; short rows end in
            -inf. f = 1/2 where all are equal.

    Returns: f in [0, 1], of the shape and kind of scores.
    Raises ValueError: a query without any score in its ranking.
    Source: docs/methods.md, E1 (normscore).

    >>> normalized_score_evidence(np.array([2.0, 7.0]), np.array([[4.0, 2, 0], [7, 7, 7]])).tolist()
    [0.5, 0.5]
    """
    wanted, run = _scores_and_run(scores, run_scores)
    return like(_normalized(wanted, run).reshape(scores.shape), scores)


def kernel_density_evidence(scores: Samples, run_scores: Samples) -> Samples:
    """F = the share of the query's first-stage ranking below a score, smoothed.

        f(x) = (1/k) sum_j Phi((x - x_j) / b),    b = k^(-1/5) · std(x_1..x_k),

    the distribution function of a Gaussian kernel density estimate with Scott's bandwidth (std with
    k - 1 in its denominator), Phi that of the normal distribution. A ranking with fewer than two
    distinct scores has no bandwidth: there :func:`normalized_score_evidence` answers.
    Arguments, result and errors are its own.

    Memory: ``k`` float64 per score, one query at a time; one call of erf for each.
    Source: docs/methods.md, E1 (kdescore).

    >>> evidence = kernel_density_evidence(np.array([1.0, 3.0]), np.array([[0.0, 1, 2]] * 2))
    >>> evidence.round(6).tolist()
    [0.5, 0.962371]
    """
    wanted, run = _scores_and_run(scores, run_scores)
    evidence = _normalized(wanted, run)
    for row in range(len(run)):
        ranked = run[row][np.isfinite(run[row])]
        if ranked.size < 2 or np.ptp(ranked) == 0:
            continue
        bandwidth = ranked.size**-0.2 * ranked.std(ddof=1)
        for column, score in enumerate(wanted[row]):
            below = (math.erf(z / math.sqrt(2.0)) for z in (score - ranked) / bandwidth)
            evidence[row, column] = 0.5 + 0.5 * math.fsum(below) / ranked.size
    return like(evidence.reshape(scores.shape), scores)


@kinds(anti=flag)
def pairwise_easiness(
    positive_evidence: Samples, negative_evidence: Samples, *, anti: bool = False
) -> Samples:
    """D = (f(d+) - f(d-) + 1) / 2, the least over several negatives: how easy a pair is to rank.

    Args:
        positive_evidence, negative_evidence: f of each sample's positive ``[B]`` and of its
            negatives ``[B]`` or ``[B, h]``, in [0, 1].
        anti: 1 - D: hard samples first, to compare with.

    Returns: D + 1e-8, ``[B]``, of the kind of positive_evidence.
    Source: docs/methods.md, E1.

    A positive at rank 2 with a negative at rank 1, and one at rank 1 with a negative at rank 10:

    >>> positive = reciprocal_rank_evidence(np.array([2, 1]))
    >>> negative = reciprocal_rank_evidence(np.array([1, 10]))
    >>> pairwise_easiness(positive, negative).round(6).tolist()
    [0.25, 0.949999988079071]
    """
    positive = read(positive_evidence, "positive_evidence", low=0, high=1)
    negative = read(negative_evidence, "negative_evidence", dims=(1, 2), low=0, high=1)
    not_empty(positive, "positive_evidence")
    not_empty(negative, "negative_evidence")
    same_length("positive_evidence", positive, "negative_evidence", negative)
    hardest = negative if negative.ndim == 1 else negative.max(axis=1)
    easiness = (positive - hardest + 1.0) / 2.0
    return like((1.0 - easiness if anti else easiness) + _TINY, positive_evidence)


@kinds(anti=flag)
def pointwise_easiness(evidence: Samples, relevant: Samples, *, anti: bool = False) -> Samples:
    """D = f for a relevant document and 1 - f for another: how easy a document is to judge.

    Args:
        evidence, relevant: ``[B]``, f of each sample's document; 1 or True where it is an answer.
        anti: 1 - D.

    Returns: as :func:`pairwise_easiness`.

    >>> pointwise_easiness(np.array([0.9, 0.9]), np.array([1, 0])).round(6).tolist()
    [0.9, 0.1]
    """
    values = not_empty(read(evidence, "evidence", low=0, high=1), "evidence")
    answers = read(relevant, "relevant", low=0, high=1, integers=True)
    same_length("evidence", values, "relevant", answers)
    easiness = answers * values + (1.0 - answers) * (1.0 - values)
    return like((1.0 - easiness if anti else easiness) + _TINY, evidence)


def _scores_and_run(scores: Samples, run_scores: Samples) -> tuple[Vector, Vector]:
    """Scores ``[q, n]`` and rankings ``[q, k]``, each with a score in every row."""
    wanted = not_empty(read(scores, "scores", dims=(1, 2), none=-np.inf), "scores")
    run = not_empty(read(run_scores, "run_scores", dims=(2,), none=-np.inf), "run_scores")
    same_length("scores", wanted, "run_scores", run)
    if (empty := ~np.isfinite(run).any(axis=1)).any():
        raise ValueError(
            f"run_scores of query {np.flatnonzero(empty)[0]} holds no score; leave out queries for "
            "which the first stage found nothing"
        )
    return wanted.reshape(len(wanted), -1), run


def _normalized(scores: Vector, run: Vector) -> Vector:
    low = np.where(np.isfinite(run), run, np.inf).min(axis=1, keepdims=True)
    high = run.max(axis=1, keepdims=True)
    width = np.where(high > low, high - low, 1.0)
    evidence = np.clip((scores - low) / width, 0.0, 1.0)
    return np.where(high > low, evidence, 0.5)
