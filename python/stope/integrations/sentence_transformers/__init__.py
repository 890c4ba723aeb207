"""The fused contrastive loss for sentence-transformers' trainer, and a collator for its weights and
ids, for versions 5 and 6.
"""

from stope.integrations.sentence_transformers.loss import InfoNCECollator, InfoNCELoss

__all__ = ["InfoNCECollator", "InfoNCELoss"]
