"""The contrastive loss of training, in one place, so that it can be exchanged there.

For query i with positive column i, over all document columns j of the batch (methods.md, H1):
    loss_i = -log( exp(s_ii / temperature) / sum_j exp(s_ij / temperature) ),   s = cosine,
    loss   = sum_i w_i loss_i / sum_i w_i,
with weights w that follow from how difficult row i is and how far training is (A1, E2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from stope._extras import need
from stope.encoders.versions import dimension, is_static

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from stope.training._clock import Clock
    from stope.training.rows import RowTable
    from stope.weighting import Weighting

Precision = Literal["float32", "bfloat16"]


def contrastive_loss(
    model: SentenceTransformer,
    *,
    temperature: float = 0.05,
    precision: Precision = "float32",
    mini_batch_size: int | None = None,
    symmetric: bool = False,
    weighting: Weighting | str | dict[str, Any] | None = None,
    clock: Clock | None = None,
    negatives: Any = None,
    prompts: Any = None,
    table: RowTable | None = None,
    matryoshka_dims: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
) -> Any:
    """Return the fused in-batch contrastive loss (InfoNCE) that `train` uses for model.

    Args:
        model: the encoder that is trained.
        temperature: divides the cosines; small values look at the hardest negatives only.
        precision: of the products in the loss; "bfloat16" is faster where the processor has tiles
            for it (AMX), and rounds the embeddings to 8 bits inside the loss.
        mini_batch_size: encode this many rows at a time and keep no activations between (GradCache:
            Gao et al. 2021), so that memory does not grow with the batch; None encodes at once. Not
            for a static encoder, which keeps none.
        symmetric: add the same loss from the rows' positives to the queries of all rows, and take
            the mean of both. What is known to be no negative of the other in one direction is none
            in the other.
        weighting: of `stope.weighting`, or its name, or its dictionary; None weighs by the data's
            column "weight" alone. It reads, by name: "loss", "log_sum_exp" and "rank" of the
            positive, over all documents of the batch; "best_hardness", the best negative's cosine
            less the positive's; "hardness", the mean cosine of the row's own hard negatives less
            the positive's, or best_hardness in a row that has none; and every column of numbers of
            the data. A batch in which all weights are 0 teaches nothing.
        clock: the progress that the weighting follows and the step that live negatives are drawn
            for. `train` moves it on; who trains otherwise does so before each step.
        negatives: `stope.training.LiveNegatives`: hard negatives that may change while training
            runs. Each step they are chosen, tokenized and encoded, and are then columns as any.
        prompts: with ``.document(source)``, put before the texts of live negatives.
        table: of the rows, where they are of `stope.data.Pairs`; no positive of a row's query is
            then a negative of the row. Live negatives need it.
        matryoshka_dims: such as (384, 128, 64): the loss is the weighted sum of the losses of the
            embeddings' first 384, 128 and 64 elements. The first is the model's own dimension, and
            by its losses the rows are weighted, in all of them.
        matryoshka_weights: weights of that sum; default 1 each.

    Returns:
        A loss as sentence-transformers' trainer calls it, equal to MultipleNegativesRankingLoss
        with scale 1 / temperature, or to its cached form. `stope.torch.InfoNCELoss`, which computes
        it without the score matrix, is its attribute ``infonce``: on the device of the embeddings,
        or on the CPU where this stope has no core for that device. Where several
        processes train together it has the documents of all of them, and weights are those of one
        process with all rows. In `train` documents with the text of a row's positive are no
        negatives of the row, and rows have the weights of the column "weight", if there is one.
        ``observed`` is a dictionary of numbers about the last batch: its loss (and that of each
        Matryoshka dim), how weights and hardness are spread, the share of pairs left out as false
        negatives, the mean rank of the positives.

    Raises:
        ValueError: temperature not positive, mini_batch_size below 1 or given for a static encoder,
            an unknown weighting, Matryoshka dims that do not descend from the model's own, weights
            that are not as many or not above 0, negatives without a table of pairs; at the first
            batch, a precision that does not exist, or a signal that a weighting does not find.

    Memory: the embeddings of the batch with their gradients, and O(rows + documents).

    Source: ``methods.md`` A1, E2, G12, H1, H7, H8.

    Example:
        >>> from stope.encoders import static_encoder
        >>> encoder = static_encoder(["red ore", "a deep pit", "rock and ore"] * 9, dim=8)
        >>> loss = contrastive_loss(encoder, temperature=0.02, weighting="progressive")
        >>> loss.infonce.temperature, loss.parts.weighting.name, loss.clock.progress
        (0.02, 'progressive', 0.0)
    """
    if mini_batch_size is not None and mini_batch_size < 1:
        raise ValueError(f"mini_batch_size must be at least 1, not {mini_batch_size}")
    if mini_batch_size is not None and is_static(model):
        raise ValueError(
            f"mini_batch_size is {mini_batch_size} but the model is a static encoder, which keeps "
            "no activations to save; leave it out"
        )
    if negatives is not None and (table is None or table.pairs is None):
        raise ValueError(
            "negatives are given without a table of pairs, which tells a row's query; give "
            "table=RowTable.of_pairs(pairs)"
        )
    dims, factors = _dims(model, matryoshka_dims, matryoshka_weights)
    need("torch", extra="train")
    from stope.torch.distributed import DistributedInfoNCELoss
    from stope.training._fused_loss import CachedFusedLoss, FusedLoss, Parts
    from stope.weighting import Weighting

    infonce = DistributedInfoNCELoss(temperature, precision=precision)
    found = None if weighting is None else Weighting.from_dict(weighting)
    parts = Parts(found, negatives, prompts, table, dims, factors, symmetric)
    if mini_batch_size is None:
        return FusedLoss(model, infonce, parts, clock)
    return CachedFusedLoss(model, infonce, mini_batch_size, parts, clock)


def _dims(
    model: Any, dims: Sequence[int] | None, weights: Sequence[float] | None
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    if dims is None:
        if weights is not None:
            raise ValueError(f"matryoshka_weights is {weights} without matryoshka_dims; give both")
        return (), ()
    found = tuple(int(dim) for dim in dims)
    if not found or found[-1] < 1 or any(a <= b for a, b in itertools.pairwise(found)):
        raise ValueError(
            f"matryoshka_dims is {found}; give numbers of at least 1 that descend, such as "
            "(384, 128, 64)"
        )
    whole = dimension(model)
    if whole is not None and found[0] != whole:
        raise ValueError(
            f"matryoshka_dims starts with {found[0]}, but the model's embeddings have {whole}; "
            f"start with {whole}, and let smaller ones follow"
        )
    factors = tuple(
        float(weight) for weight in (weights if weights is not None else [1.0] * len(found))
    )
    if len(factors) != len(found):
        raise ValueError(
            f"matryoshka_weights has {len(factors)} numbers for {len(found)} dims; give one each"
        )
    if not all(0 < factor < math.inf for factor in factors):
        raise ValueError(f"matryoshka_weights is {factors}; give finite numbers above 0")
    return found, factors
