"""The options of one `train`, as its parts read them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stope.encoders.lora import Lora
from stope.encoders.prompts import TaskPrompts
from stope.training.batches import BatchSpec
from stope.training.losses import Precision
from stope.training.negatives.refresh import NegativeRefresh
from stope.weighting import Weighting

# These leave the result as it is: a run with others may go on from its checkpoints.
_LEAVE_THE_RESULT = (
    "output",
    "checkpoint_every",
    "keep_checkpoints",
    "resume",
    "tensorboard",
    "progress",
    "say",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The arguments of `train` beside model and rows, explained there.

    Names and mappings have become the objects that they describe, and what `train` chooses where it
    is told None (batch_size, epochs, learning_rate) is chosen.
    """

    loss: Any
    batch_size: int
    epochs: int
    max_steps: int | None
    learning_rate: float
    scheduler: str
    warmup: float
    temperature: float
    precision: Precision
    mini_batch_size: int | None
    symmetric: bool
    matryoshka_dims: Sequence[int] | None
    matryoshka_weights: Sequence[float] | None
    weighting: Weighting | None
    refresh: NegativeRefresh | None
    batches: BatchSpec | None
    prompts: TaskPrompts | None
    lora: Lora | None
    autocast: str | None
    seed: int
    evaluation: Callable[[Any], Mapping[str, float]] | None
    evaluate_every: int | None
    patience: int | None
    keep: str
    output: str | Path | None
    checkpoint_every: int | None
    keep_checkpoints: int
    resume: bool
    tensorboard: bool
    progress: Callable[[int, int], object] | None
    say: Callable[[str], object] | None

    def deciding(self) -> dict[str, Any]:
        """What decides the result, as JSON for a checkpoint's manifest."""
        names = [field.name for field in dataclasses.fields(self)]
        return {
            name: describe(getattr(self, name)) for name in names if name not in _LEAVE_THE_RESULT
        }


def describe(value: Any) -> Any:
    """A value of an argument as JSON: objects as their name and numbers, never as code.

    Example:
        >>> from stope.weighting import Constant
        >>> describe({"weighting": Constant(), "dims": (8, 4)})
        {'weighting': {'name': 'constant', 'value': 1.0}, 'dims': [8, 4]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): describe(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [describe(one) for one in value]
    if callable(getattr(value, "fingerprint", None)):
        return {"name": type(value).__name__, "sha256": value.fingerprint()}
    if callable(getattr(value, "to_dict", None)):
        return describe(value.to_dict())
    if dataclasses.is_dataclass(value):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return {"name": type(value).__name__, **describe(fields)}
    if callable(getattr(value, "get_config_dict", None)):
        return {"name": type(value).__name__, **describe(value.get_config_dict())}
    return type(value).__name__
