"""Train encoders: a static model from scratch, any sentence-transformers model, a small adapter.

Needs the extra "train" (torch, sentence-transformers, datasets, tokenizers), which is imported when
a function is called.
"""

from typing import TYPE_CHECKING, Any

from stope.training.adapters import Adapter, train_adapter
from stope.training.batches import Clustered, Distinct, Homogeneous, Mixed
from stope.training.configuration import Config, RunReport, run
from stope.training.dataset import pairs_dataset, training_dataset
from stope.training.evaluation import RetrievalEvaluation
from stope.training.folder import load_encoder, save_encoder
from stope.training.lora import Lora
from stope.training.losses import contrastive_loss
from stope.training.negatives import LiveNegatives
from stope.training.prompts import TaskPrompts
from stope.training.refresh import NegativeRefresh, RefreshReport, RefreshRun
from stope.training.report import TrainingReport
from stope.training.static import static_encoder
from stope.training.trainer import train

if TYPE_CHECKING:
    from stope.training._refresh_callback import NegativeRefreshCallback
    from stope.training.query_side import QuerySideLoss, query_document_model

__all__ = [
    "Adapter",
    "Clustered",
    "Config",
    "Distinct",
    "Homogeneous",
    "LiveNegatives",
    "Lora",
    "Mixed",
    "NegativeRefresh",
    "NegativeRefreshCallback",
    "QuerySideLoss",
    "RefreshReport",
    "RefreshRun",
    "RetrievalEvaluation",
    "RunReport",
    "TaskPrompts",
    "TrainingReport",
    "contrastive_loss",
    "load_encoder",
    "pairs_dataset",
    "query_document_model",
    "run",
    "save_encoder",
    "static_encoder",
    "train",
    "train_adapter",
    "training_dataset",
]


def __getattr__(name: str) -> Any:
    """Import what derives from a class of the libraries only when it is asked for."""
    if name in ("QuerySideLoss", "query_document_model"):
        from stope.training import query_side

        return getattr(query_side, name)
    if name == "NegativeRefreshCallback":
        from stope.training._refresh_callback import NegativeRefreshCallback

        return NegativeRefreshCallback
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
