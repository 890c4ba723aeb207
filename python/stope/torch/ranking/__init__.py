"""List losses in plain torch: tensors of scores or embeddings in, a scalar out.

They see a short list per query, unlike the contrastive loss over a whole batch, so nothing here is
fused or tiled. What all share, and their own pages do not repeat:

    dtypes     float32 and float64 stay, float16 and bfloat16 are widened to float32; so is the loss
    mask       bool of the shape of the scores, True where there is a candidate; None is all. A
               query without any is skipped
    weights    float [B] of the queries, finite, at least 0 and not all 0; None is all 1
    reduction  "mean": sum_i w_i L_i / sum_i w_i over the queries that are not skipped; "none": the
               float [B] of w_i L_i, 0 where skipped
    errors     TypeError: no tensor, no floats (labels, ids and ranks: no integers), a mask that is
               not bool. ValueError: shapes that do not fit, no entries, two devices, integers out
               of range, numbers out of range, unknown words, bad weights

Thread safety: functions keep nothing; a module with state (`CenterLoss`) is as safe as torch's.
"""

from __future__ import annotations

from stope.torch.ranking.distillation import (
    dynamic_listwise_distillation,
    embedding_distillation,
    kl_distillation,
    logit_distillation,
    rank_weighted_distillation,
)
from stope.torch.ranking.geometry import (
    CenterLoss,
    center_loss,
    class_means,
    orthogonal_projection,
    prototype_triplet,
    soft_neighbors,
)
from stope.torch.ranking.lambda_mrr import (
    RetrievedList,
    append_missing_positives,
    lambda_mrr,
    predicted_ranks,
)
from stope.torch.ranking.late_interaction import pooled_late_interaction, soft_late_interaction
from stope.torch.ranking.margins import (
    adaptive_relevance_margin,
    angle_loss,
    angle_similarity,
    cosent_loss,
    in_batch_margin_mse,
    margin_mse,
)
from stope.torch.ranking.plackett_luce import (
    ndcg_gains,
    partial_plackett_luce,
    plackett_luce_log_prob,
    plackett_luce_policy_gradient,
    sample_plackett_luce,
    summed_positive_contrast,
)

__all__ = [
    "CenterLoss", "RetrievedList", "adaptive_relevance_margin", "angle_loss", "angle_similarity",
    "append_missing_positives", "center_loss", "class_means", "cosent_loss",
    "dynamic_listwise_distillation", "embedding_distillation", "in_batch_margin_mse",
    "kl_distillation", "lambda_mrr", "logit_distillation", "margin_mse", "ndcg_gains",
    "orthogonal_projection", "partial_plackett_luce", "plackett_luce_log_prob",
    "plackett_luce_policy_gradient", "pooled_late_interaction", "predicted_ranks",
    "prototype_triplet", "rank_weighted_distillation", "sample_plackett_luce",
    "soft_late_interaction", "soft_neighbors", "summed_positive_contrast",
]  # fmt: skip
