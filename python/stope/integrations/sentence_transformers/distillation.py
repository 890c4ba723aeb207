"""What a batch learns from a teacher's scores of each row's own list: its positive and negatives.

`Distillation` has the formula. torch is imported where a loss is computed: options are read without
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from stope._checks import choice, real, shown

if TYPE_CHECKING:
    from torch import Tensor

ListObjective: TypeAlias = Literal["listwise", "margin_mse", "stabilised", "lambda_mrr"]


@dataclass(frozen=True)
class Distillation:
    """How a training learns from a teacher's scores; a section of `stope.training.Recipe`.

    The list of row i is its positive (k = 0) and those of its hard negatives, the row's own and
    live ones, that the teacher has scored (k = 1, 2, ...). With the student's similarities s (the
    metric of the loss) and the teacher's scores t,

        x_ik = s_ik / temperature,  y_ik = t_ik / teacher_temperature,
        loss = contrastive * L_contrastive + weight * sum_i w_i L_i / sum_i w_i,

        listwise    L_i = sum_k p_ik (log p_ik - log q_ik),  p_i = softmax(y_i), q_i = softmax(x_i)
        margin_mse  L_i = mean_(k > 0) ((x_i0 - x_ik) - (y_i0 - y_ik))^2
        stabilised  L_i = sum_k p_ik (LSE over A_ik of x_i - x_ik); A_ik is every document of the
                    batch but those of the list that rank above k: the positive is first, then
                    the negatives by falling y
        lambda_mrr  L_i = mean over k, l with y_ik > y_il of
                    abs(1 / r_ik - 1 / r_il) log(1 + exp(x_il - x_ik)), r the rank by x in the list

    The mean is over the rows with at least one scored negative, with the weights w of the
    contrastive loss; of several processes over the rows of all, while A_ik has the documents of
    this process's. With matryoshka_dims each of the dims has both terms. No gradient reaches the
    teacher's scores.

    Source: docs/methods.md, D2 to D5, D1.

    Attributes:
        objective: listwise (the divergence of LLM-R, RocketQAv2 and E5), margin_mse (Margin-MSE,
            TAS-B), stabilised (LLM-Embedder) or lambda_mrr (UDR).
        weight: of the distillation in the loss; 0 uses the teacher to filter or to weigh alone.
        contrastive: weight of the contrastive loss; 0 distils alone.
        temperature: divides the student's similarities; default that of the loss, and 1 for
            margin_mse, as in its paper.
        teacher_temperature: divides the teacher's scores, which are in a unit of its own; default
            1, and the student's temperature where they are an encoder's cosines.

    >>> Distillation("margin_mse", contrastive=0.0).weight
    1.0
    """

    objective: ListObjective = "listwise"
    weight: float = 1.0
    contrastive: float = 1.0
    temperature: float | None = None
    teacher_temperature: float | None = None

    def __post_init__(self) -> None:
        choice(self.objective, "distillation.objective", get_args(ListObjective))
        for name in ("weight", "contrastive"):
            real(getattr(self, name), f"distillation.{name}", 0)
        for name in ("temperature", "teacher_temperature"):
            if getattr(self, name) is not None:
                real(getattr(self, name), f"distillation.{name}", 0, above=True)
        if self.weight == 0 and self.contrastive == 0:
            raise ValueError(
                "distillation.weight and distillation.contrastive are both 0, which leaves nothing "
                "to learn; raise one of them"
            )

    @classmethod
    def read(cls, given: Any) -> Distillation:
        """From an objective alone, or from a mapping of the attributes; one is returned as it is.

        >>> Distillation.read("stabilised").objective
        'stabilised'
        """
        if isinstance(given, cls):
            return given
        if isinstance(given, str):
            return cls(given)  # type: ignore[arg-type]
        if not isinstance(given, Mapping):
            raise TypeError(
                f"distillation is {shown(given)}; give an objective ({_WORDS}), or a mapping of "
                "its options"
            )
        return cls(**given)

    def student_temperature(self, of_loss: float) -> float:
        """What divides the student's similarities, where the contrastive loss has this one."""
        usual = 1.0 if self.objective == "margin_mse" else of_loss
        return usual if self.temperature is None else self.temperature

    def of_cosines(self, of_loss: float) -> Distillation:
        """The same for a teacher whose scores are cosines, like the student's own."""
        if self.teacher_temperature is not None:
            return self
        return replace(self, teacher_temperature=self.student_temperature(of_loss))


_WORDS = ", ".join(get_args(ListObjective))


@dataclass(frozen=True)
class OwnLists:
    """The lists of a batch and what the teacher says of them.

    Attributes:
        teacher_scores: float32 [rows, 1 + h]; what present leaves out is 0.
        present: bool [rows, 1 + h], which columns are in the row's list.
        outside: bool [rows, documents], which documents of the batch that are not in the row's list
            are its negatives; read by stabilised.
    """

    teacher_scores: Tensor
    present: Tensor
    outside: Tensor | None = None

    @property
    def counted(self) -> Tensor:
        """Bool [rows], whether a row has a list: its positive and at least one negative."""
        return self.present[:, 0] & (self.present.sum(1) > 1)

    def row_losses(
        self, asked: Distillation, queries: Tensor, columns: Sequence[Tensor], temperature: float
    ) -> Tensor:
        """The L_i of `Distillation`, ``[rows]`` with gradient; 0 where a row has no list.

        Args:
            asked: objective and temperatures.
            queries, columns: embeddings, ``[rows, d]`` each, of length one where cosines count.
            temperature: of the contrastive loss.

        Memory: O(rows h d); stabilised O(rows documents) as well.
        """
        import torch
        from stope.torch import ranking

        present = self.present & self.counted[:, None]
        x = torch.stack([(queries * rows).sum(1) for rows in columns], 1)
        x = x / asked.student_temperature(temperature)
        y = (self.teacher_scores / (asked.teacher_temperature or 1.0)).to(x)
        if asked.objective == "listwise":
            losses = ranking.kl_distillation(x, y, mask=present, reduction="none")
        elif asked.objective == "margin_mse":
            losses = ranking.margin_mse(
                x[:, 0], x[:, 1:], y[:, 0], y[:, 1:], negative_mask=present[:, 1:], reduction="none"
            )
        elif asked.objective == "lambda_mrr":
            losses = ranking.lambda_mrr(x, y, mask=present, reduction="none")
        else:
            losses = self._stabilised(x, y, present, queries, columns, asked, temperature)
        return losses

    def _stabilised(
        self,
        x: Tensor,
        y: Tensor,
        present: Tensor,
        queries: Tensor,
        columns: Sequence[Tensor],
        asked: Distillation,
        temperature: float,
    ) -> Tensor:
        import torch
        from stope.torch import ranking

        assert self.outside is not None
        scores = queries @ torch.cat(list(columns)).mT
        scores = scores / asked.student_temperature(temperature)
        # What the teacher has not scored has no share; a row without a list is left out below.
        y = y.masked_fill(~present & self.counted[:, None], -torch.inf)
        order = y[:, 1:].sort(dim=1, descending=True, stable=True).indices + 1
        order = torch.cat([torch.zeros_like(order[:, :1]), order], 1)
        places = torch.arange(len(x), device=x.device)[:, None] + len(x) * order
        there = present.gather(1, order) | self.outside.gather(1, places)
        mask = self.outside.scatter(1, places, there)
        losses = ranking.rank_weighted_distillation(
            scores, y.gather(1, order), candidates=places, mask=mask, reduction="none"
        )
        return losses.masked_fill(~self.counted, 0)


def own_lists(
    asked: Distillation,
    teacher_scores: Tensor,
    mistaken: Tensor | None,
    document_ids: Tensor | None,
    exclude: tuple[Tensor, Tensor] | None,
) -> OwnLists:
    """The lists of a batch.

    Args:
        asked: whose objective says what is read.
        teacher_scores: float32 [rows, 1 + h], -inf where the teacher has scored nothing.
        mistaken: bool [rows, h], negatives that are known to be answers; they are in no list.
        document_ids: int64 [documents], equal for equal documents, or None.
        exclude: CSR of the documents that answer each row's query, or None.

    >>> import torch
    >>> lists = own_lists(Distillation(), torch.tensor([[2.0, 1.0, -torch.inf]]), None, None, None)
    >>> lists.present.tolist(), lists.counted.tolist()
    ([[True, True, False]], [True])
    """
    import torch

    present = teacher_scores > -torch.inf
    if mistaken is not None:
        present[:, 1:] &= ~mistaken.to(present.device)
    scores = teacher_scores.masked_fill(~present, 0)
    if asked.objective != "stabilised":
        return OwnLists(scores, present)
    rows, width = present.shape
    outside = torch.ones((rows, rows * width), dtype=torch.bool, device=present.device)
    if exclude is not None:
        offsets, ids = (part.to(present.device) for part in exclude)
        owners = torch.repeat_interleave(offsets.diff())
        here = (ids >= 0) & (ids < rows * width)
        outside[owners[here], ids[here]] = False
    if document_ids is not None:
        marks = document_ids.to(present.device)
        for listed, there in zip(marks.reshape(width, rows), present.mT, strict=True):
            outside &= (listed[:, None] != marks) | ~there[:, None]  # a copy is no other document
    return OwnLists(scores, present, outside)
