"""The fused contrastive loss for sentence-transformers' trainer, and a collator for its weights and
ids, for versions 5 and 6.
"""

from stope._extras import need

need("sentence_transformers", extra="train")

from stope.integrations.sentence_transformers.loss import (  # noqa: E402
    InfoNCECollator,
    InfoNCELoss,
)

__all__ = ["InfoNCECollator", "InfoNCELoss"]
