"""The fused contrastive loss for sentence-transformers' trainer, and a collator for what it must
know of the rows, for versions 5 and 6. `stope.training.train` is built on both.
"""

import importlib
from typing import TYPE_CHECKING, Any

from stope._extras import need
from stope.integrations.sentence_transformers.clock import Clock
from stope.integrations.sentence_transformers.row_table import RowTable

if TYPE_CHECKING:
    from stope.integrations.sentence_transformers.cached import CachedInfoNCELoss
    from stope.integrations.sentence_transformers.collator import InfoNCECollator
    from stope.integrations.sentence_transformers.loss import InfoNCELoss

__all__ = ["CachedInfoNCELoss", "Clock", "InfoNCECollator", "InfoNCELoss", "RowTable"]
_MODULES = {"CachedInfoNCELoss": "cached", "InfoNCECollator": "collator", "InfoNCELoss": "loss"}


def __getattr__(name: str) -> Any:
    """Import what derives from a class of the libraries only when it is asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    need("sentence_transformers", extra="train")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
