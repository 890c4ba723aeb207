"""Losses on margins between scores: Margin-MSE, adaptive relevance margins, CoSENT and AnglE."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

from torch.nn import functional

import torch
from stope._checks import choice, flag, number
from stope.torch.ranking import _tensors
from stope.torch.ranking._tensors import Reduction

Broadcast: TypeAlias = Literal["row", "column"]
Error: TypeAlias = Literal["square", "abs", "logistic"]


def margin_mse(
    positive_scores: torch.Tensor,
    negative_scores: torch.Tensor,
    teacher_positive_scores: torch.Tensor,
    teacher_negative_scores: torch.Tensor,
    *,
    positive_mask: torch.Tensor | None = None,
    negative_mask: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Squared error of the student's margins between positives and negatives against the teacher's.

    ``L_i = mean_{p, n} ((s_ip - s_in) - (t_ip - t_in))^2`` over all pairs of a positive p and a
    negative n of query i: one and one (triples), one and several (n-tuples), or several of both.
    Adding a number to all of a query's scores changes nothing. The teacher has no gradient.

    Args:
        positive_scores, negative_scores: float [B] or [B, P], [B] or [B, N], the student's scores
            s, dot products as a rule.
        teacher_positive_scores, teacher_negative_scores: the teacher's scores t of the same.
        positive_mask, negative_mask: of the same shapes. A query without pairs is skipped.

    Memory: O(B P N).
    Source: Hofstaetter et al. 2020 in the form of matchmaker and sentence-transformers
    (docs/methods.md, D5).

    >>> one = lambda *numbers: torch.tensor(numbers)
    >>> float(margin_mse(one(2.0), one(1.0), one(5.0), one(1.0)))  # (1 - 4)^2
    9.0
    """
    positives, positives_present = _differences(
        "positive", positive_scores, teacher_positive_scores, positive_mask
    )
    negatives, negatives_present = _differences(
        "negative", negative_scores, teacher_negative_scores, negative_mask
    )
    if len(positives) != len(negatives):
        raise ValueError(
            f"positive_scores has {len(positives)} queries but negative_scores has {len(negatives)}"
        )
    _tensors.same_device(positives, "positive_scores", negatives, "negative_scores")
    present = positives_present[:, :, None] & negatives_present[:, None, :]
    squares = (positives[:, :, None] - negatives[:, None, :]).square() * present
    count = present.sum((1, 2))
    losses = squares.sum((1, 2)) / count.clamp(min=1)
    return _tensors.reduce(losses, counted=count > 0, weights=weights, reduction=reduction)


def in_batch_margin_mse(
    scores: torch.Tensor,
    teacher_scores: torch.Tensor,
    *,
    positives: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Margin-MSE over a whole batch, against a teacher that has scored every pair of it.

    ``L_i = mean_j ((s_ip - s_ij) - (t_ip - t_ij))^2`` over the columns j other than query i's
    positive p. TAS-B adds 0.75 times this to `margin_mse` of its triples (dual supervision), where
    the columns are the batch's positives, then its negatives, and mask leaves out the query's own
    negative, which is in the other term.

    Args:
        scores, teacher_scores: float [B, N], of each query and all documents of the batch.
        positives: int64 [B], the column of each query's positive; None is column i.
        mask: bool [B, N], True where a column counts; a query without another one is skipped.

    Source: TAS-B (docs/methods.md, C5).

    >>> student, teacher = torch.tensor([[3.0, 1], [0, 2]]), torch.tensor([[5.0, 1], [5, 1]])
    >>> float(in_batch_margin_mse(student, teacher))  # (2 - 4)^2 and (2 + 4)^2
    20.0
    """
    scores = _tensors.floats(scores, "scores", 2)
    teacher_scores = _tensors.floats(teacher_scores, "teacher_scores", 2)
    _tensors.same_shape(scores, "scores", teacher_scores, "teacher_scores")
    if positives is None:
        positives = torch.arange(len(scores), device=scores.device)
    places = _tensors.positive_columns(positives, scores)
    others = _tensors.mask_like(mask, "mask", scores, "scores").scatter(1, places, False)
    student, teacher = (rows.gather(1, places)[:, 0] for rows in (scores, teacher_scores))
    return margin_mse(
        student,
        scores,
        teacher,
        teacher_scores,
        negative_mask=others,
        weights=weights,
        reduction=reduction,
    )


def adaptive_relevance_margin(
    positive_scores: torch.Tensor,
    negative_scores: torch.Tensor,
    document_scores: torch.Tensor | None = None,
    *,
    target: float | None = None,
    error: Error = "square",
    broadcast: Broadcast = "row",
    detach_target: bool = False,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Margin regression without a teacher: the documents' own similarity sets the target (ARM).

    ``L_i = mean_j e(mu_ij - m_ij)``, ``mu_ij = cos(q_i, d+_i) - cos(q_i, d-_j)`` and
    ``m_ij = 1/2 + cos(d+_i, d-_j) / 2``; e is the square, the absolute value, or
    ``log(1 + exp(-x))``. The shapes say which pairs take part:

    ================ ================ ==================================================
    negative_scores  document_scores  compared
    ================ ================ ==================================================
    [B]              [B]              own margin, own target
    [B]              [B, M]           own margin with the target of every negative
    [B, M]           [B, M]           margin to every negative with its target (in-batch)
    ================ ================ ==================================================

    Args:
        positive_scores: float [B], cosines of each query and its positive.
        negative_scores: float [B] (own negative) or [B, M] (every negative), cosines.
        document_scores: float [B] or [B, M], cosines of each positive and the negatives.
        target: a constant margin instead of document_scores.
        error: "square", "abs" or "logistic".
        broadcast: "row" is the formula. "column" reproduces the authors' code where a vector meets
            a matrix: it takes number j of the vector instead of number i (cos(q_j, d+_j) - cos(q_i,
            d-_j) in-batch, mu_j with [B, M] targets), probably unintended; M must be B.
        detach_target: stop the gradient through document_scores; the authors' code does not.

    Raises ValueError: both or none of document_scores and target, "column" with M other than B.
    Source: ARM (docs/methods.md, D9), after the authors' code; that the target grows with the
    documents' similarity is as in the code and was not checked against the paper's text.

    >>> one = lambda number: torch.tensor([number])
    >>> loss = adaptive_relevance_margin(one(0.7), one(0.3), one(0.4))
    >>> print(f"{loss:.2f}")  # (0.4 - 0.7)^2
    0.09
    """
    choice(error, "error", get_args(Error))
    choice(broadcast, "broadcast", get_args(Broadcast))
    positives = _tensors.floats(positive_scores, "positive_scores", 1)
    negatives = _tensors.floats(negative_scores, "negative_scores", 1, 2)
    goal = _target(document_scores, target, negatives, detach_target)
    for name, matrix in (("negative_scores", negatives), ("document_scores", goal)):
        if matrix.dim() and len(matrix) != len(positives):
            raise ValueError(
                f"{name} has {len(matrix)} rows but positive_scores has {len(positives)}"
            )
    is_matrix = negatives.dim() == 2 or goal.dim() == 2
    width = (negatives if negatives.dim() == 2 else goal).shape[-1] if is_matrix else 1
    if is_matrix and broadcast == "column" and width != len(positives):
        raise ValueError(
            f"broadcast is 'column' but there are {width} negatives for {len(positives)} queries; "
            f"it needs as many, or broadcast='row'"
        )
    lifted = (None, slice(None)) if broadcast == "column" else (slice(None), None)
    if negatives.dim() == 2:
        margins = positives[lifted] - negatives
    elif goal.dim() == 2:
        margins = (positives - negatives)[lifted]
    else:
        margins = positives - negatives
    deviations = margins - goal
    if error == "square":
        losses = deviations.square()
    elif error == "abs":
        losses = deviations.abs()
    else:
        losses = functional.softplus(-deviations)
    if is_matrix:
        losses = losses.mean(1)
    return _tensors.reduce(losses, weights=weights, reduction=reduction)


def cosent_loss(
    scores: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float = 0.05,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Order scores as their labels: one log-sum-exp over all pairs in the wrong order (CoSENT).

    ``L = log(1 + sum_{(i, j): y_i > y_j} exp((s_j - s_i) / temperature))``, a single number for the
    batch, 0 when no two labels differ.

    Args:
        scores, labels: float [B], cosine of each pair of texts; [B] numbers whose order counts.
        temperature: 0.05 is a scale of 20.

    Raises ValueError: NaN among the labels.
    Memory: O(B^2).
    Source: CoSENT, as in sentence-transformers' CoSENTLoss (docs/methods.md, D11).

    >>> cosines, labels = torch.tensor([0.9, 0.4, 0.6]), torch.tensor([1.0, 0.5, 0.0])
    >>> print(f"{cosent_loss(cosines, labels):.6f}")
    4.018195
    """
    scores = _tensors.floats(scores, "scores", 1)
    _tensors.numbers_like(labels, "labels", scores, "scores")
    if bool(labels.isnan().any()):
        raise ValueError(f"labels[{int(labels.isnan().nonzero()[0])}] is NaN; it has no order")
    present = _tensors.mask_like(mask, "mask", scores, "scores")
    scores = scores.masked_fill(~present, 0) / _tensors.positive(temperature, "temperature")
    pairs = (labels[:, None] > labels[None, :]) & present[:, None] & present[None, :]
    wrong = (scores[None, :] - scores[:, None]).masked_fill(~pairs, -torch.inf)
    return torch.cat([scores.new_zeros(1), wrong.flatten()]).logsumexp(0)


def angle_loss(
    first: torch.Tensor,
    second: torch.Tensor,
    labels: torch.Tensor,
    *,
    temperature: float = 0.05,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """CoSENT's loss on the angle similarity of complex embeddings (AnglE).

    ``L = cosent_loss(angle_similarity(first, second), labels)``.

    Args as for both.

    Raises ValueError: an odd d.
    Memory: O(B^2 + B d).
    Source: AnglE, as in sentence-transformers' AnglELoss (docs/methods.md, D11).

    >>> first = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    >>> second = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])  # similarities 1 and sqrt(2)
    >>> loss = angle_loss(first, second, torch.tensor([1, 0]), temperature=1.0)
    >>> print(f"{loss:.6f}")  # log(1 + exp(sqrt(2) - 1))
    0.921549
    """
    return cosent_loss(angle_similarity(first, second), labels, temperature=temperature, mask=mask)


def angle_similarity(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Similarity of complex vectors by the parts of their quotient, normalised (AnglE).

    The halves of an embedding are read as real and imaginary parts, ``u = a + i b`` and
    ``v = c + i d``; the similarity is ``|sum_k (Re + Im)(u_k conj(v_k))| / (|u| |v|)``, that is
    ``|a.c + b.d + b.c - a.d| / (|u| |v|)``: from 0 to sqrt(2), and 1 for equal vectors.

    Args:
        first, second: float [B, d], embeddings of both texts, d even.

    Returns: float [B]; 0 where an embedding is zero.
    Raises ValueError: an odd d.
    Source: AnglE, as in sentence-transformers' pairwise_angle_sim (docs/methods.md, D11).

    >>> angle_similarity(torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.0]]))
    tensor([1.])
    """
    first = functional.normalize(_tensors.floats(first, "first", 2, empty=True), dim=1)
    second = functional.normalize(_tensors.floats(second, "second", 2, empty=True), dim=1)
    _tensors.same_shape(first, "first", second, "second")
    if first.shape[1] % 2:
        raise ValueError(
            f"first has dim {first.shape[1]}; an even one is needed, for real and imaginary parts"
        )
    (a, b), (c, d) = first.chunk(2, 1), second.chunk(2, 1)
    return (a * c + b * d + b * c - a * d).sum(1).abs()


def _differences(
    side: str, scores: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Student minus teacher [B, n], 0 where masked, and the mask [B, n]."""
    name, teacher_name = f"{side}_scores", f"teacher_{side}_scores"
    scores = _tensors.floats(scores, name, 1, 2)
    teacher = _tensors.floats(teacher, teacher_name, 1, 2).detach()
    _tensors.same_shape(scores, name, teacher, teacher_name)
    present = _tensors.mask_like(mask, f"{side}_mask", scores, name)
    differences = (scores - teacher).masked_fill(~present, 0)
    return differences.reshape(len(scores), -1), present.reshape(len(scores), -1)


def _target(
    document_scores: torch.Tensor | None,
    target: float | None,
    negatives: torch.Tensor,
    detach: bool,
) -> torch.Tensor:
    """The margin to reach: a scalar, [B], or [B, M]."""
    if (document_scores is None) == (target is None):
        raise ValueError("give either document_scores or target: one of them sets the margin")
    if document_scores is None:
        return negatives.new_full((), number(target, "target"))
    documents = _tensors.floats(document_scores, "document_scores", 1, 2)
    if negatives.dim() == 2 or documents.dim() == 1:
        _tensors.same_shape(documents, "document_scores", negatives, "negative_scores")
    goal = (1 + documents) / 2
    return goal.detach() if flag(detach, "detach_target") else goal
