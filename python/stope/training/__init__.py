"""Train encoders: a static model from scratch or any sentence-transformers model.

Needs the extra "train" (torch, sentence-transformers, datasets, tokenizers), which is imported when
a function is called.
"""

from typing import TYPE_CHECKING, Any

from stope._extras import need
from stope._moved import moved_names

need("pydantic", extra="train")  # a sentence where it is missing, before the imports below need it

from stope.integrations.sentence_transformers.distillation import Distillation  # noqa: E402
from stope.training.batches import Clustered, Distinct, Homogeneous, Mixed, Shuffled  # noqa: E402
from stope.training.dataset import pairs_dataset, training_dataset  # noqa: E402
from stope.training.losses import contrastive_loss  # noqa: E402
from stope.training.negatives.live import LiveNegatives  # noqa: E402
from stope.training.negatives.refresh import NegativeRefresh, RefreshReport, RefreshRun  # noqa: E402
from stope.training.recipe import (  # noqa: E402
    EvaluationPart,
    GuardPart,
    LossPart,
    OutputPart,
    Recipe,
    SchedulePart,
)
from stope.training.trainer import TrainingReport, train  # noqa: E402

if TYPE_CHECKING:
    from stope.training.callbacks.tasks import NegativeRefreshCallback
    from stope.training.negatives.query_side import QuerySideLoss, query_document_model

__all__ = [
    "Clustered",
    "Distillation",
    "Distinct",
    "EvaluationPart",
    "GuardPart",
    "Homogeneous",
    "LiveNegatives",
    "LossPart",
    "Mixed",
    "NegativeRefresh",
    "NegativeRefreshCallback",
    "OutputPart",
    "QuerySideLoss",
    "Recipe",
    "RefreshReport",
    "RefreshRun",
    "SchedulePart",
    "Shuffled",
    "TrainingReport",
    "contrastive_loss",
    "pairs_dataset",
    "query_document_model",
    "train",
    "training_dataset",
]


def __getattr__(name: str) -> Any:
    """Import what derives from a class of the libraries only when it is asked for."""
    if name in ("QuerySideLoss", "query_document_model"):
        from stope.training.negatives import query_side

        return getattr(query_side, name)
    if name == "NegativeRefreshCallback":
        from stope.training.callbacks.tasks import NegativeRefreshCallback

        return NegativeRefreshCallback
    return _moved(name)


_moved = moved_names(
    "stope.training",
    {
        "Adapter": "stope.adapters",
        "Config": "stope.runs",
        "Lora": "stope.encoders",
        "RetrievalEvaluation": "stope.evaluation",
        "RunReport": "stope.runs",
        "TaskPrompts": "stope.encoders",
        "load_encoder": "stope.encoders",
        "run": "stope.runs",
        "save_encoder": "stope.encoders",
        "static_encoder": "stope.encoders",
        "train_adapter": "stope.adapters",
    },
)
