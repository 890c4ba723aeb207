"""The contrastive loss of training, in one place, so that it can be exchanged there.

For query i with positive column i, over all document columns j of the batch (methods.md, H1):
    loss_i = -log( exp(s_ii / temperature) / sum_j exp(s_ij / temperature) ),   s = cosine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from stope._extras import need
from stope.training._library import is_static

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Precision = Literal["float32", "bfloat16"]


def contrastive_loss(
    model: SentenceTransformer,
    *,
    temperature: float = 0.05,
    precision: Precision = "float32",
    mini_batch_size: int | None = None,
    symmetric: bool = False,
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
        symmetric: add the same loss from documents to queries, and take the mean of both.

    Returns:
        A loss as sentence-transformers' trainer calls it, equal to MultipleNegativesRankingLoss
        with scale 1 / temperature, or to its cached form. `stope.torch.InfoNCELoss`, which computes
        it on the CPU without the score matrix, is its attribute ``infonce``. In `train` documents
        with the text of a row's positive are no negatives of the row, and rows have the weights of
        the column "weight", if there is one.

    Raises:
        ValueError: temperature not positive, mini_batch_size below 1 or given for a static encoder;
            at the first batch, a precision that does not exist.

    Memory: the embeddings of the batch with their gradients, and O(rows + documents).

    Example:
        >>> from stope.training import static_encoder
        >>> encoder = static_encoder(["red ore", "a deep pit", "rock and ore"] * 9, dim=8)
        >>> contrastive_loss(encoder, temperature=0.02).infonce.temperature
        0.02
    """
    if mini_batch_size is not None and mini_batch_size < 1:
        raise ValueError(f"mini_batch_size must be at least 1, not {mini_batch_size}.")
    if mini_batch_size is not None and is_static(model):
        raise ValueError(
            f"mini_batch_size is {mini_batch_size} but the model is a static encoder, which keeps "
            "no activations to save; leave it out."
        )
    need("torch", extra="train")
    from stope.torch import InfoNCELoss
    from stope.training._fused_loss import CachedFusedLoss, FusedLoss

    options: dict[str, Any] = {"precision": precision}
    if symmetric:
        options |= {
            "directions": ("query_to_document", "document_to_query"),
            "partition": "per_direction",
        }
    infonce = InfoNCELoss(temperature, **options)
    if mini_batch_size is None:
        return FusedLoss(model, infonce)
    return CachedFusedLoss(model, infonce, mini_batch_size)
