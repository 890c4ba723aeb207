"""The contrastive loss of training: the options of a recipe become the loss that computes them.

For query i with positive column i, over all document columns j of the batch (docs/methods.md, H1):
    loss_i = -log( exp(s_ii / temperature) / sum_j exp(s_ij / temperature) ),   s = cosine,
    loss   = sum_i w_i loss_i / sum_i w_i,
with weights w that follow from how difficult row i is and how far training is (A1, E2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stope._checks import shown
from stope._extras import need
from stope._kinds import kinds
from stope.encoders.encode import has_encode
from stope.integrations.sentence_transformers.clock import Clock
from stope.integrations.sentence_transformers.row_table import RowTable
from stope.ops._objectives import objective_of
from stope.weighting import Weighting

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from stope.integrations.sentence_transformers import InfoNCELoss
    from stope.training.recipe import LossPart

_SIGMOID_BIAS = -10.0  # where SigLIP starts


@kinds(model=has_encode)
def contrastive_loss(
    model: SentenceTransformer,
    part: LossPart | Mapping[str, Any] | None = None,
    *,
    weighting: Weighting | Mapping[str, Any] | str | None = None,
    clock: Clock | None = None,
    negatives: Any = None,
    prompts: Any = None,
    table: RowTable | None = None,
    **options: Any,
) -> InfoNCELoss:
    """Return the fused in-batch contrastive loss (InfoNCE) that `train` uses for model.

    Args:
        model: the encoder that is trained.
        part: `stope.training.recipe.LossPart`, or its options as a mapping.
        weighting: as for :class:`stope.integrations.sentence_transformers.InfoNCELoss`.
        clock: likewise.
        negatives: likewise.
        prompts: likewise.
        table: its ``rows``.
        **options: more of the part's, which come before those of part.

    Returns:
        That class's loss. Where several processes train together it has the documents of all of
        them, and weights are those of one process with all rows.

    Raises:
        ValueError, TypeError: what the loss says of its options; an option that it does not have.

    Memory: the embeddings of the batch with their gradients, and O(rows + documents).

    Source: docs/methods.md, A1, E2, G12, H1, H7, H8.

    Example:
        >>> from stope.encoders import static_encoder
        >>> encoder = static_encoder(["red ore", "a deep pit", "rock and ore"] * 9, dim=8)
        >>> loss = contrastive_loss(encoder, temperature=0.02, weighting="progressive")
        >>> loss.temperature, loss.weighting.name, loss.clock.progress
        (0.02, 'progressive', 0.0)
    """
    need("torch", extra="train")
    need("sentence_transformers", extra="train")
    from stope.integrations.sentence_transformers.loss import InfoNCELoss

    if part is not None and not isinstance(part, Mapping) and not hasattr(part, "model_fields_set"):
        raise TypeError(f"part is {shown(part)}; give a LossPart, or its options as a mapping")
    chosen = options_said({**({} if part is None else dict(part)), **options})
    if "queue" in chosen:
        chosen["queue_size"] = chosen.pop("queue")
    if isinstance(chosen.get("guide"), str):
        from stope.encoders import load_encoder

        chosen["guide"] = load_encoder(chosen["guide"])
    return InfoNCELoss(
        model,
        gather_across_devices=True,
        weighting=weighting,
        clock=clock,
        negatives=negatives,
        prompts=prompts,
        rows=table,
        **chosen,
    )


def options_said(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of a part that are said: it is silent where it is None.

    `query_side` is another loss's.

    >>> options_said({"objective": "SigLIP", "guide": None})
    {'objective': 'SigLIP', 'bias': -10.0}
    """
    chosen = {name: value for name, value in options.items() if value is not None}
    chosen.pop("query_side", None)
    if objective_of(chosen.get("objective")) == "sigmoid":
        chosen.setdefault("bias", _SIGMOID_BIAS)
    return chosen
