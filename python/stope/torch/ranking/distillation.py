"""A teacher's scores, logits or embeddings passed on to a student."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from stope._checks import choice, flag, number, real
from stope._moved import renamed_argument
from stope.torch.ranking import _tensors
from stope.torch.ranking._tensors import Reduction

Average: TypeAlias = Literal["batch", "elements"]
Dims: TypeAlias = Literal["mean", "sum"]


def kl_distillation(
    scores: torch.Tensor,
    teacher_scores: torch.Tensor,
    *,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    teacher_grad: bool = False,
    mask: torch.Tensor | None = None,
    average: Average = "batch",
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Kullback-Leibler divergence of the student's distribution over a list from the teacher's.

    ``L_i = sum_k p_ik (log p_ik - log q_ik)`` with ``p_i = softmax(teacher_scores_i /
    teacher_temperature)`` and ``q_i = softmax(scores_i / temperature)``, both over query i's own
    candidates.

    Args:
        scores, teacher_scores: float [B, L].
        teacher_grad: let gradients flow into the teacher.
        average: "batch" leaves L_i as it is; "elements" divides it by the candidates of query i,
            which for lists of equal length is the mean over all elements.

    Source: LLM-Embedder (docs/methods.md, D2, the variant without stabilisation), LLM-R (D3),
    RocketQAv2 (D4).

    >>> x, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    >>> print(f"{kl_distillation(x, teacher):.6f}")
    0.081555
    """
    scores, teacher_scores, present = _lists(scores, teacher_scores, mask)
    if not flag(teacher_grad, "teacher_grad"):
        teacher_scores = teacher_scores.detach()
    losses = _divergence(
        scores / _tensors.positive(temperature, "temperature"),
        teacher_scores / _tensors.positive(teacher_temperature, "teacher_temperature"),
        present,
        average,
    )
    return _tensors.reduce(losses, counted=present.any(1), weights=weights, reduction=reduction)


def dynamic_listwise_distillation(
    scores: torch.Tensor,
    reranker_scores: torch.Tensor,
    *,
    positives: torch.Tensor | None = None,
    temperature: float = 1.0,
    teacher_grad: bool = False,
    mask: torch.Tensor | None = None,
    average: Average = "elements",
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Retriever and reranker trained together: the reranker by labels, the retriever by it.

    ``L_i = -log c_i[positive_i] + KL(c_i || a_i)`` with ``c = softmax(reranker_scores)`` and
    ``a = softmax(scores / temperature)`` over the list of each query.

    Args:
        scores: float [B, L], the retriever's (dual encoder's) scores.
        reranker_scores: float [B, L], the reranker's (cross-encoder's); the cross-entropy always
            trains it.
        positives: int64 [B], the column of each query's positive; None is column 0.
        teacher_grad: let the divergence train the reranker too. Whether the authors' code does
            depends on the framework's operator and is recalled, not verified.
        average: "elements", as in the authors' code, divides the divergence by the candidates of
            the query; "batch" does not. The cross-entropy is the same in both.

    Raises ValueError: a positive outside the list, or one that mask leaves out.
    Source: RocketQAv2 (docs/methods.md, D4).

    >>> x, reranker = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    >>> loss = dynamic_listwise_distillation(x, reranker, average="batch")
    >>> print(f"{loss:.6f}")  # 0.169846 of cross-entropy and 0.081555 of divergence
    0.251401
    """
    scores, reranker_scores, present = _lists(
        scores, reranker_scores, mask, teacher_name="reranker_scores"
    )
    places = _tensors.positive_columns(positives, scores)
    counted = present.any(1)
    wrong = counted & ~present.gather(1, places)[:, 0]
    if bool(wrong.any()):
        raise ValueError(
            f"positives[{int(wrong.nonzero()[0])}] is a column that mask leaves out; unmask it"
        )
    logs = _tensors.floor(reranker_scores, present).log_softmax(1)
    train_both = flag(teacher_grad, "teacher_grad")
    target = reranker_scores if train_both else reranker_scores.detach()
    divergence = _divergence(
        scores / _tensors.positive(temperature, "temperature"), target, present, average
    )
    losses = divergence - logs.gather(1, places)[:, 0]
    return _tensors.reduce(losses, counted=counted, weights=weights, reduction=reduction)


@renamed_argument("own", "candidates")
def rank_weighted_distillation(
    scores: torch.Tensor,
    teacher_scores: torch.Tensor,
    *,
    candidates: torch.Tensor | None = None,
    temperature: float = 1.0,
    teacher_temperature: float = 1.0,
    mask: torch.Tensor | None = None,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Stabilised distillation: each candidate is a positive against all not ranked above it.

    ``L_i = sum_r w_ir (LSE_{j in A_ir} x_ij - x_{i,own(i,r)})``, ``x = scores / temperature``,
    ``w_i = softmax(teacher_scores_i / teacher_temperature)``; ``A_ir`` is all N columns except the
    query's own candidates of rank below r. The weights have no gradient.

    Args:
        scores: float [B, N], each query against all keys of the batch (all processes').
        teacher_scores: float [B, G], the teacher's reward of each query's own candidates, by rank:
            the chosen positive first, then the others with falling reward. The order of the columns
            is the rank; nothing is sorted here.
        candidates: int64 [B, G], the columns of scores that hold them, without repeats in a
            row; None is columns i G to i G + G - 1 for query i if N is B G, and all columns if N
            is G.
        temperature: the authors use 0.01 with cosines.
        mask: bool [B, N], True where a column counts for a query; None is all. An own candidate
            that it leaves out has no weight; a query whose candidates are all left out is skipped.

    Raises ValueError: candidates names a column twice in a row.
    Memory: a few copies of [B, N]; the G denominators cost O(N + G) per query.
    Source: LLM-Embedder (docs/methods.md, D2).

    >>> x, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[3.0, 1.0, 0.0]])
    >>> print(f"{rank_weighted_distillation(x, teacher):.6f}")
    0.379709
    """
    scores = _tensors.floats(scores, "scores", 2)
    teacher_scores = _tensors.floats(teacher_scores, "teacher_scores", 2)
    _tensors.same_device(scores, "scores", teacher_scores, "teacher_scores")
    columns = _candidate_columns(candidates, scores, teacher_scores)
    present = _tensors.mask_like(mask, "mask", scores, "scores")
    x = _tensors.floor(scores / _tensors.positive(temperature, "temperature"), present)
    mine = torch.zeros_like(present).scatter(1, columns, True)
    ours, ours_present = x.gather(1, columns), present.gather(1, columns)
    # The denominators grow from the last rank up: removing candidates one at a time from the full
    # sum would cancel when one of them dominates it.
    last = _tensors.floor(x, ~mine).logsumexp(1)
    denominators = []
    for rank in reversed(range(columns.shape[1])):
        last = torch.logaddexp(last, ours[:, rank])
        denominators.append(last)
    denominator = torch.stack(denominators[::-1], 1)
    rewards = teacher_scores.detach()
    rewards = rewards / _tensors.positive(teacher_temperature, "teacher_temperature")
    shares = _tensors.floor(rewards, ours_present).softmax(1).to(x.dtype)
    losses = (shares * (denominator - ours).masked_fill(~ours_present, 0)).sum(1)
    return _tensors.reduce(
        losses, counted=ours_present.any(1), weights=weights, reduction=reduction
    )


def logit_distillation(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    task_loss: torch.Tensor | float = 0.0,
    *,
    alpha: float = 0.5,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Mix a task's loss with the squared distance of a pair's logits from the teacher's.

    ``L = (1 - alpha) task_loss + alpha mean_i ||student_logits_i - teacher_logits_i||^2``. The
    teacher has no gradient.

    Args:
        student_logits, teacher_logits: float [B] or [B, C], of a pair's two embeddings.
        task_loss: scalar; with reduction "none" it may also be one number per pair, float [B].
        alpha: share of the teacher, from 0 to 1.
        weights: on the distances.

    Source: DSE (docs/methods.md, D6).

    >>> student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 1.0]])
    >>> float(logit_distillation(student, teacher, task_loss=1.0))  # (1 + 5) / 2
    3.0
    """
    student_logits = _tensors.floats(student_logits, "student_logits", 1, 2)
    teacher_logits = _tensors.floats(teacher_logits, "teacher_logits", 1, 2).detach()
    _tensors.same_shape(student_logits, "student_logits", teacher_logits, "teacher_logits")
    real(alpha, "alpha", 0, 1)
    if not isinstance(task_loss, torch.Tensor):
        number(task_loss, "task_loss")
    distances = (student_logits - teacher_logits).square().reshape(len(student_logits), -1).sum(1)
    reduced = _tensors.reduce(distances, weights=weights, reduction=reduction)
    if isinstance(task_loss, torch.Tensor) and task_loss.dim() and task_loss.shape != reduced.shape:
        raise ValueError(
            f"task_loss has shape {tuple(task_loss.shape)}; reduce it to a scalar"
            + (f" or to {tuple(reduced.shape)}" if reduction == "none" else ".")
        )
    return (1 - alpha) * task_loss + alpha * reduced


def embedding_distillation(
    student: torch.Tensor,
    teacher: torch.Tensor,
    *,
    translations: torch.Tensor | None = None,
    dims: Dims = "mean",
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Squared distance of the student's embeddings, of both languages, from the teacher's.

    ``L_i = ||teacher_i - student_i||^2 + ||teacher_i - translations_i||^2``: the teacher reads the
    source sentence only; the student reads the source and its translation. The teacher has no
    gradient. Another dimension than the student's: project the teacher by PCA, or the student by a
    linear layer, before.

    Args:
        student, teacher: float [B, d], embeddings of the source sentences.
        translations: float [B, d], the student's of the translations; None leaves that side out.
        dims: "mean" divides the squared norms by d, as sentence-transformers' MSELoss; "sum" does
            not, as in the formula above.

    Source: Reimers and Gurevych 2020 (docs/methods.md, D12: the two-sided sum is recalled from the
    paper, the mean over dimensions is verified in sentence-transformers).

    >>> teacher = torch.tensor([[1.0, 0.0]])
    >>> float(embedding_distillation(teacher, teacher, translations=teacher))
    0.0
    >>> float(embedding_distillation(torch.tensor([[0.0, 2.0]]), teacher, dims="sum"))
    5.0
    """
    choice(dims, "dims", get_args(Dims))
    student = _tensors.floats(student, "student", 2)
    teacher = _tensors.floats(teacher, "teacher", 2).detach()
    _tensors.same_shape(student, "student", teacher, "teacher")
    squares = (student - teacher).square()
    if translations is not None:
        translations = _tensors.floats(translations, "translations", 2)
        _tensors.same_shape(translations, "translations", teacher, "teacher")
        squares = squares + (translations - teacher).square()
    losses = squares.mean(1) if dims == "mean" else squares.sum(1)
    return _tensors.reduce(losses, weights=weights, reduction=reduction)


def _lists(
    scores: torch.Tensor,
    teacher_scores: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    teacher_name: str = "teacher_scores",
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    scores = _tensors.floats(scores, "scores", 2)
    teacher_scores = _tensors.floats(teacher_scores, teacher_name, 2)
    _tensors.same_shape(scores, "scores", teacher_scores, teacher_name)
    return scores, teacher_scores, _tensors.mask_like(mask, "mask", scores, "scores")


def _divergence(
    scores: torch.Tensor, teacher_scores: torch.Tensor, present: torch.Tensor, average: Average
) -> torch.Tensor:
    """KL(softmax(teacher_scores) || softmax(scores)) of each row over its present columns."""
    choice(average, "average", get_args(Average))
    student = _tensors.floor(scores, present).log_softmax(1)
    teacher = _tensors.floor(teacher_scores, present).log_softmax(1)
    shares = teacher.exp()
    # A share of 0 adds nothing: not even where its logarithm is -inf.
    differences = (teacher - student).masked_fill(~present | (shares == 0), 0)
    losses = (shares * differences).sum(1)
    return losses / present.sum(1).clamp(min=1) if average == "elements" else losses


def _candidate_columns(
    candidates: torch.Tensor | None, scores: torch.Tensor, teacher_scores: torch.Tensor
) -> torch.Tensor:
    (rows, columns), (lists, group) = scores.shape, teacher_scores.shape
    if rows != lists:
        raise ValueError(f"scores has {rows} queries but teacher_scores has {lists}")
    if candidates is None:
        if columns not in (rows * group, group):
            raise ValueError(
                f"scores has {columns} columns for {rows} queries with {group} candidates each; "
                f"say with candidates which columns are whose"
            )
        first = torch.arange(rows, device=scores.device) * (group if columns != group else 0)
        return first[:, None] + torch.arange(group, device=scores.device)
    places = _tensors.integers(candidates, "candidates", 0, columns)
    _tensors.same_shape(places, "candidates", teacher_scores, "teacher_scores")
    ordered = places.sort(1).values
    repeated = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if bool(repeated.any()):
        raise ValueError(f"candidates[{int(repeated.nonzero()[0])}] names a column twice")
    return places
