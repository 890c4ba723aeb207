"""The contrastive loss of training, in one place, so that it can be exchanged there.

For query i with positive column i, over all document columns j of the batch (methods.md, H1):
    loss_i = -log( exp(s_ii / temperature) / sum_j exp(s_ij / temperature) ),   s = cosine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stope.training._library import part

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def contrastive_loss(
    model: SentenceTransformer,
    *,
    temperature: float = 0.05,
    mini_batch_size: int | None = None,
    symmetric: bool = False,
) -> Any:
    """Return the in-batch contrastive loss (InfoNCE) that `train` uses for model.

    Args:
        model: the encoder that is trained.
        temperature: divides the cosines; small values look at the hardest negatives only.
        mini_batch_size: encode this many rows at a time and keep no activations between (GradCache:
            Gao et al. 2021), so that memory does not grow with the batch; None encodes at once.
        symmetric: add the same loss from documents to queries.

    Returns:
        sentence-transformers' MultipleNegativesRankingLoss, or its cached form.

    Raises:
        ValueError: temperature not positive, or mini_batch_size below 1.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, but is {temperature}.")
    if mini_batch_size is not None and mini_batch_size < 1:
        raise ValueError(f"mini_batch_size must be at least 1, not {mini_batch_size}.")
    losses = part("losses")
    options: dict[str, Any] = {"scale": 1.0 / temperature}
    if symmetric:
        options |= {
            "directions": ("query_to_doc", "doc_to_query"),
            "partition_mode": "per_direction",
        }
    if mini_batch_size is None:
        return losses.MultipleNegativesRankingLoss(model, **options)
    return losses.CachedMultipleNegativesRankingLoss(
        model, mini_batch_size=mini_batch_size, **options
    )
