"""How hard a sample is, from what the fused loss, the miner or a teacher already know.

The signals that a weighting can read, one number per sample of the batch:

    loss, log_sum_exp, rank   of the fused loss, over all documents of the batch
    best_hardness             score of the best negative in the batch less the positive's
    hardness                  mean score of the sample's own hard negatives less the positive's;
                              best_hardness where it has none (docs/methods.md, A1)
    easiness                  of a first stage's ranking (`stope.weighting.AnswerRanking`)
    teacher_confidence        how sure a teacher is of the label (`stope.weighting.Teacher`)
    weight                    the data's own, which always multiplies in
    any other name            the column of numbers that the data has under it

None of these takes a gradient: a difficulty is a number about a sample, not a loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stope._checks import choice, real
from stope._kinds import kinds, matrix, maybe
from stope.lists import Lists
from stope.weighting._samples import Samples, Vector, like, not_empty, read, same_length


def score_margins(positive_scores: Samples, best_negative_scores: Samples) -> Samples:
    """m_i = s(q_i, d_i+) - max_j s(q_i, d_j): large where the positive stands out.

    Args:
        positive_scores, best_negative_scores: ``[B]``, such as those of
            :class:`stope.torch.Statistics`; -inf where a sample has no negative.

    Returns: ``[B]``, of the kind of positive_scores; inf where there is no negative.

    >>> score_margins(np.array([0.75, 0.5]), np.array([0.25, 0.875])).tolist()
    [0.5, -0.375]
    """
    positive, negative = positive_and_negatives(
        positive_scores, best_negative_scores, "best_negative_scores", dims=(1,)
    )
    return like(positive - negative, positive_scores)


def hard_negative_difficulty(
    positive_scores: Samples,
    negative_scores: Samples,
    *,
    over: str = "mean",
    temperature: float = 0.05,
) -> Samples:
    """u_i = mean_k s(q_i, n_ik) - s(q_i, d_i+): how near its hard negatives come to the positive.

    Args:
        positive_scores, negative_scores: ``[B]``, finite; ``[B, h]``, or ``[B]`` for one each, -inf
            where a row holds fewer, as the miner's rows end (:class:`stope.HardNegatives`).
        over: ``"mean"`` of the row's negatives, ``"max"``, or ``"log_sum_exp"``:
            T log sum_k exp(s_ik / T).
        temperature: T of ``"log_sum_exp"``.

    Returns: ``[B]``, of the kind of positive_scores; -inf where a row has no negative.
    Source: docs/methods.md, A1 (our realisation).

    >>> hard_negative_difficulty(np.array([0.75]), np.array([[0.5, 0.25, -np.inf]])).tolist()
    [-0.375]
    """
    choice(over, "over", ("mean", "max", "log_sum_exp"))
    width = real(temperature, "temperature", 0, above=True)
    positive, negative = positive_and_negatives(positive_scores, negative_scores)
    rows = negative.reshape(len(negative), -1)
    there = np.isfinite(rows)
    most = rows.max(axis=1)
    if over == "mean":
        total = np.where(there, rows, 0.0).sum(axis=1)
        most = np.where(there.any(axis=1), total / np.maximum(there.sum(axis=1), 1), -np.inf)
    elif over == "log_sum_exp":
        base = np.where(there.any(axis=1), most, 0.0)
        shares = np.exp((rows - base[:, None]) / width).sum(axis=1)
        with np.errstate(divide="ignore"):  # log 0 = -inf says that there is no negative
            most = base + width * np.log(shares)
    return like(most - positive, positive_scores)


@kinds(own_scores=maybe(matrix))
def difficulty_signals(
    result: Any, offsets: Any = None, *, own_scores: Samples | None = None
) -> dict[str, Samples]:
    """The signals that a loss or the miner found on its way, by name, for :func:`weigh`.

    Args:
        result: :class:`stope.torch.Statistics` (``InfoNCELoss.statistics``), :class:`stope.InfoNCE`
            or :class:`stope.HardNegatives`.
        offsets: int64 ``[B + 1]``: the positives of query i are those from offsets[i] to
            offsets[i + 1], as in the CSR given to the loss. None: one each.
        own_scores: ``[B, h]``, scores of the queries' own hard negatives, -inf where there are
            fewer or one is no negative after all; None: no query has any.

    Returns:
        Each ``[B]``. From a loss: ``"loss"``, ``"log_sum_exp"``, ``"rank"``, ``"best_hardness"``
        and ``"hardness"``; from the miner, whose negatives are the query's own: ``"hardness"``.
        Their meanings are those of this module, whoever computes them; of several positives the
        lowest counts, as the miner counts. -inf where a query has no negative or no positive: there
        is nothing to learn from it.

    Raises ValueError where positives and offsets do not go together, TypeError for other results.

    >>> import stope
    >>> result = stope.infonce_forward(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    >>> {name: signal.tolist() for name, signal in difficulty_signals(result).items()}["hardness"]
    [-1.0, -1.0]
    >>> own = np.array([[0.5], [-np.inf]], dtype=np.float32)
    >>> difficulty_signals(result, own_scores=own)["hardness"].tolist()
    [-0.5, -1.0]
    """
    if hasattr(result, "rejected") and hasattr(result, "scores"):
        return {"hardness": hard_negative_difficulty(result.positive_scores, result.scores)}
    names = ("losses", "log_sum_exp", "positive_scores", "best_negative_scores", "ranks")
    if missing := [name for name in names if not hasattr(result, name)]:
        raise TypeError(
            f"result is a {type(result).__name__} without {', '.join(missing)}; give the "
            "statistics of stope's contrastive loss or what mine_hard_negatives returned"
        )
    scores = read(result.positive_scores, "positive_scores")
    rows = int(result.losses.shape[0])
    if offsets is None:
        offsets = np.arange(rows + 1)
    bounds = read(offsets, "offsets", integers=True).astype(np.int64)
    if (
        len(bounds) != rows + 1
        or bounds[0]
        or bounds[-1] != len(scores)
        or (np.diff(bounds) < 0).any()
    ):
        raise ValueError(
            f"{rows} queries have {len(scores)} positives, but offsets has {len(bounds)} entries, "
            f"the last of them {bounds[-1]}; give the {rows + 1} offsets of the positives' CSR"
        )
    lowest = np.full(rows, np.inf)
    np.minimum.at(lowest, Lists(bounds, np.arange(len(scores))).owners, scores)
    best = read(result.best_negative_scores, "best_negative_scores", none=-np.inf) - lowest
    hardness = best
    if own_scores is not None:
        known = read(own_scores, "own_scores", dims=(2,), none=-np.inf)
        same_length("the queries", lowest, "own_scores", known)
        there = np.isfinite(known)
        count = there.sum(axis=1)
        mean = np.where(there, known, 0.0).sum(axis=1) / np.maximum(count, 1)
        hardness = np.where(count > 0, mean - lowest, best)
    return {
        "loss": result.losses,
        "log_sum_exp": result.log_sum_exp,
        "rank": result.ranks,
        "best_hardness": like(best, result.losses),
        "hardness": like(hardness, result.losses),
    }


def positive_and_negatives(
    positive_scores: Samples,
    negative_scores: Samples,
    name: str = "negative_scores",
    *,
    dims: tuple[int, ...] = (1, 2),
) -> tuple[Vector, Vector]:
    """Checked scores of each sample's positive and of its negatives, -inf for none."""
    positive = not_empty(read(positive_scores, "positive_scores"), "positive_scores")
    negative = not_empty(read(negative_scores, name, dims=dims, none=-np.inf), name)
    same_length("positive_scores", positive, name, negative)
    return positive, negative
