"""Drop-ins for sentence-transformers 5 and 6, and the fused loss that `stope.training` is built on.

What has a name of the library's (`mine_hard_negatives`, `semantic_search`, the ranking losses, ...)
takes its arguments: an import is all that changes. `InfoNCELoss` is the loss behind those losses,
`InfoNCECollator` tells it what it must know of the rows.
"""

import importlib
from typing import TYPE_CHECKING, Any

from stope._extras import need
from stope.integrations.sentence_transformers.clock import Clock
from stope.integrations.sentence_transformers.row_table import RowTable

if TYPE_CHECKING:
    from stope.integrations.sentence_transformers.cached import CachedInfoNCELoss
    from stope.integrations.sentence_transformers.collator import InfoNCECollator
    from stope.integrations.sentence_transformers.evaluator import InformationRetrievalEvaluator
    from stope.integrations.sentence_transformers.hard_negatives import mine_hard_negatives
    from stope.integrations.sentence_transformers.loss import InfoNCELoss
    from stope.integrations.sentence_transformers.losses import (
        CachedGISTEmbedLoss,
        CachedMultipleNegativesRankingLoss,
        CachedMultipleNegativesSymmetricRankingLoss,
        GISTEmbedLoss,
        MultipleNegativesRankingLoss,
        MultipleNegativesSymmetricRankingLoss,
    )
    from stope.integrations.sentence_transformers.retrieval import (
        community_detection,
        paraphrase_mining,
        paraphrase_mining_embeddings,
        semantic_search,
    )

__all__ = [
    "CachedGISTEmbedLoss",
    "CachedInfoNCELoss",
    "CachedMultipleNegativesRankingLoss",
    "CachedMultipleNegativesSymmetricRankingLoss",
    "Clock",
    "GISTEmbedLoss",
    "InfoNCECollator",
    "InfoNCELoss",
    "InformationRetrievalEvaluator",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "RowTable",
    "community_detection",
    "mine_hard_negatives",
    "paraphrase_mining",
    "paraphrase_mining_embeddings",
    "semantic_search",
]
_NAMES = {
    "cached": ("CachedInfoNCELoss",),
    "collator": ("InfoNCECollator",),
    "evaluator": ("InformationRetrievalEvaluator",),
    "hard_negatives": ("mine_hard_negatives",),
    "loss": ("InfoNCELoss",),
    "losses": (
        "CachedGISTEmbedLoss",
        "CachedMultipleNegativesRankingLoss",
        "CachedMultipleNegativesSymmetricRankingLoss",
        "GISTEmbedLoss",
        "MultipleNegativesRankingLoss",
        "MultipleNegativesSymmetricRankingLoss",
    ),
    "retrieval": (
        "community_detection",
        "paraphrase_mining",
        "paraphrase_mining_embeddings",
        "semantic_search",
    ),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what derives from a class of the libraries only when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    need("sentence_transformers", extra="train")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
