"""How hard a sample is, from what the fused loss, the miner or a teacher already know.

None of these takes a gradient: a difficulty is a number about a sample, not a loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stope.weighting._values import (
    Vector,
    choice,
    like,
    not_empty,
    number,
    read,
    same_length,
)


def score_margins(positive_scores: Any, best_negative_scores: Any) -> Any:
    """m_i = s(q_i, d_i+) - max_j s(q_i, d_j): large where the positive stands out.

    Args:
        positive_scores: ``[B]``, finite.
        best_negative_scores: ``[B]``, such as those of :class:`stope.torch.Statistics`; -inf where
            a sample has no negative.

    Returns:
        ``[B]``, of the kind of positive_scores; inf where there is no negative.

    Raises:
        ValueError: NaN or +inf, no samples, different numbers of samples.
        TypeError: neither NumPy arrays nor torch tensors, or no floats.

    >>> score_margins(np.array([0.75, 0.5]), np.array([0.25, 0.875])).tolist()
    [0.5, -0.375]
    """
    positive, negative = _scores(
        positive_scores, best_negative_scores, (1,), "best_negative_scores"
    )
    return like(positive - negative, positive_scores)


def hard_negative_difficulty(
    positive_scores: Any,
    negative_scores: Any,
    *,
    over: str = "mean",
    temperature: float = 0.05,
) -> Any:
    """u_i = mean_k s(q_i, n_ik) - s(q_i, d_i+): how near its hard negatives come to the positive.

    Args:
        positive_scores: ``[B]``, finite.
        negative_scores: ``[B, h]``, or ``[B]`` for one each; -inf where a row holds fewer, as the
            miner's rows end (:class:`stope.HardNegatives`).
        over: ``"mean"`` of the row's negatives, ``"max"``, or ``"log_sum_exp"``:
            T log sum_k exp(s_ik / T).
        temperature: T of ``"log_sum_exp"``.

    Returns:
        ``[B]``, of the kind of positive_scores; -inf where a row has no negative.

    Raises:
        ValueError: NaN or +inf, no samples, different numbers of samples, a temperature that is not
            positive.
        TypeError: neither NumPy arrays nor torch tensors, or no floats.

    Source: ``methods.md`` A1 (our realisation).

    >>> hard_negative_difficulty(np.array([0.75]), np.array([[0.5, 0.25, -np.inf]])).tolist()
    [-0.375]
    """
    choice(over, "over", ("mean", "max", "log_sum_exp"))
    width = number(temperature, "temperature", low=0, above=True)
    positive, negative = _scores(positive_scores, negative_scores, (1, 2), "negative_scores")
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


def focal_difficulty(losses: Any) -> Any:
    """1 - p_i with p_i = exp(-L_i), the share that the softmax gives the positive.

    Args:
        losses: L ``[B]``, row losses of a softmax with one positive (InfoNCE), at least 0.

    Returns:
        ``[B]`` in [0, 1], of the kind of losses.

    Raises:
        ValueError: a loss that is negative or not finite, no samples.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    Source: the modulating factor of the focal loss (Lin et al. 2017).

    >>> focal_difficulty(np.log([1.0, 2.0, 4.0])).round(6).tolist()
    [0.0, 0.5, 0.75]
    """
    # The fused loss rounds: the loss of a query that has won may be -1e-7.
    values = read(losses, "losses", low=-1e-4)
    return like(-np.expm1(-np.maximum(not_empty(values, "losses"), 0.0)), losses)


def margin_difficulty(margins: Any, *, temperature: float = 0.05) -> Any:
    """1 / (1 + exp(m_i / T)): the share of the best negative in a softmax with the positive alone.

    Args:
        margins: m ``[B]`` from :func:`score_margins`; inf where there is no negative (0).
        temperature: T, in the unit of the scores; that of the loss compares with
            :func:`focal_difficulty`.

    Returns:
        ``[B]`` in [0, 1], of the kind of margins; 1/2 at m = 0.

    Raises:
        ValueError: NaN or -inf, no samples, a temperature that is not positive.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    >>> margin_difficulty(np.array([0.0, np.log(3.0)]), temperature=1.0).round(6).tolist()
    [0.5, 0.25]
    """
    width = number(temperature, "temperature", low=0, above=True)
    values = not_empty(read(margins, "margins", none=np.inf), "margins")
    # exp of a number that is never positive: no overflow on either side.
    small = np.exp(-np.abs(values) / width)
    return like(np.where(values > 0, small, 1.0) / (1.0 + small), margins)


def teacher_confidence(
    positive_scores: Any, negative_scores: Any, *, temperature: float = 1.0
) -> Any:
    """c_i = softmax of the teacher's scores at the positive: how sure it is of the label.

        c_i = e^(s+_i / T) / (e^(s+_i / T) + sum_k e^(s_ik / T))

    Args:
        positive_scores: ``[B]``, a teacher's score of each sample's positive.
        negative_scores: ``[B, h]``, or ``[B]`` for one each; -inf where a row holds fewer.
        temperature: T, in the unit of the teacher's scores.

    Returns:
        ``[B]`` in [0, 1], of the kind of positive_scores; 1 where there is no negative.

    Raises:
        ValueError: NaN or +inf, no samples, different numbers of samples, a temperature that is not
            positive.
        TypeError: neither NumPy arrays nor torch tensors, or no floats.

    >>> teacher_confidence(np.array([2.0]), np.array([[2.0, 2, 2]])).tolist()
    [0.25]
    """
    width = number(temperature, "temperature", low=0, above=True)
    positive, negative = _scores(positive_scores, negative_scores, (1, 2), "negative_scores")
    rows = np.column_stack([positive, negative]) / width
    shares = np.exp(rows - rows.max(axis=1, keepdims=True))
    return like(shares[:, 0] / shares.sum(axis=1), positive_scores)


def difficulty_signals(found: Any, offsets: Any = None) -> dict[str, Any]:
    """The signals that a loss or the miner found on its way, by name, for :func:`weigh`.

    Args:
        found: :class:`stope.torch.Statistics` (``InfoNCELoss.statistics``), :class:`stope.InfoNCE`
            or :class:`stope.HardNegatives`.
        offsets: int64 ``[B + 1]``: the positives of query i are those from offsets[i] to
            offsets[i + 1], as in the CSR given to the loss. None: one each.

    Returns:
        From a loss: ``"loss"``, ``"log_sum_exp"``, ``"rank"`` (of the positive) and ``"hardness"``,
        the best negative's score less the positive's (the lowest one's, as the miner counts). From
        the miner: ``"hardness"`` with the mean of the query's negatives
        (:func:`hard_negative_difficulty`). Each ``[B]``, hardness -inf where a query has no
        negative or no positive: there is nothing to learn from it.

    Raises:
        ValueError: as many positives as queries and offsets do not go together.
        TypeError: found has no such statistics.

    >>> import stope
    >>> found = stope.infonce_forward(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    >>> {name: signal.tolist() for name, signal in difficulty_signals(found).items()}["hardness"]
    [-1.0, -1.0]
    """
    if hasattr(found, "rejected") and hasattr(found, "scores"):
        return {"hardness": hard_negative_difficulty(found.positive_scores, found.scores)}
    names = ("losses", "log_sum_exp", "positive_scores", "best_negative_scores", "ranks")
    if missing := [name for name in names if not hasattr(found, name)]:
        raise TypeError(
            f"found is a {type(found).__name__} without {', '.join(missing)}; give the statistics "
            "of stope's contrastive loss or what mine_hard_negatives returned"
        )
    scores = read(found.positive_scores, "positive_scores")
    rows = int(found.losses.shape[0])
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
    np.minimum.at(lowest, np.repeat(np.arange(rows), np.diff(bounds)), scores)
    best = read(found.best_negative_scores, "best_negative_scores", none=-np.inf)
    return {
        "loss": found.losses,
        "log_sum_exp": found.log_sum_exp,
        "rank": found.ranks,
        "hardness": like(best - lowest, found.losses),
    }


def _scores(
    positive_scores: Any, negative_scores: Any, dims: tuple[int, ...], name: str
) -> tuple[Vector, Vector]:
    positive = not_empty(read(positive_scores, "positive_scores"), "positive_scores")
    negative = not_empty(read(negative_scores, name, dims=dims, none=-np.inf), name)
    same_length("positive_scores", positive, name, negative)
    return positive, negative
