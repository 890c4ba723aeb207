"""The arguments of `train`: which go together, and what they are in a checkpoint's manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stope.training._library import is_static
from stope.training.refresh import NegativeRefresh

SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
_FOR_THE_LOSS = ("weighting", "refresh", "prompts", "matryoshka_dims", "matryoshka_weights")
QUERY_SIDE_LOSSES = ("lambda_mrr", "infonce")
_NOT_QUERY_SIDE = {
    "precision": "float32",
    "mini_batch_size": None,
    "symmetric": False,
    "weighting": None,
    "matryoshka_dims": None,
    "matryoshka_weights": None,
}


def say_nothing(text: str) -> None:
    """What `train` says if nobody listens."""


def check_numbers(
    batch_size: int, epochs: int, learning_rate: float, warmup: float, **counts: int | None
) -> None:
    """Refuse numbers out of range; counts are None or at least 1."""
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 (one negative each), not {batch_size}.")
    for name, value in {"epochs": epochs, **counts}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, but is {learning_rate}.")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be at least 0 and below 1, but is {warmup}.")


def check_together(told: Mapping[str, Any], table: Any) -> None:
    """Refuse words that do not exist and arguments that need, or exclude, others."""
    if told["keep"] not in ("last", "best"):
        raise ValueError(f'keep must be "last" or "best", not {told["keep"]!r}.')
    if told["scheduler"] not in SCHEDULERS:
        names = ", ".join(f'"{name}"' for name in SCHEDULERS)
        raise ValueError(f"scheduler must be one of {names}, not {told['scheduler']!r}.")
    if told["epochs"] is not None and told["max_steps"] is not None:
        raise ValueError(
            f"epochs is {told['epochs']} and max_steps is {told['max_steps']}; give one of them."
        )
    if told["evaluation"] is None:
        if told["keep"] == "best":
            raise ValueError('keep="best" needs an evaluation to judge the weights by.')
        for name in ("patience", "evaluate_every"):
            if told[name] is not None:
                raise ValueError(f"{name} is {told[name]} but there is no evaluation; give one.")
    if told["output"] is None:
        for name, unset in (("resume", False), ("tensorboard", False), ("checkpoint_every", None)):
            if told[name] != unset:
                raise ValueError(f"{name} is {told[name]} but there is no output; name a folder.")
    if told["refresh"] is not None and table.pairs is None:
        raise ValueError(
            "refresh was given, which mines in a corpus; give examples as stope.mining.Pairs."
        )
    _check_loss(told)
    if told["autocast"] not in (None, "bfloat16"):
        raise ValueError(f'autocast must be "bfloat16" or None, not {told["autocast"]!r}.')
    if told["autocast"] is not None and is_static(told["model"]):
        raise ValueError(
            "autocast was given but the model is a static encoder, which looks vectors up and "
            "multiplies nothing; leave it out."
        )


def _check_loss(told: Mapping[str, Any]) -> None:
    mode = None if told["refresh"] is None else NegativeRefresh.from_dict(told["refresh"]).mode
    if mode == "query_side":
        for name, unset in _NOT_QUERY_SIDE.items():
            if told[name] != unset:
                raise ValueError(
                    f"{name} was given, but refresh has the mode 'query_side', whose loss does not "
                    "take it; leave it out or choose another mode."
                )
        if told["loss"] not in (None, *QUERY_SIDE_LOSSES):
            raise ValueError(
                f"loss must be one of {', '.join(QUERY_SIDE_LOSSES)} with refresh in the mode "
                f"'query_side', not {told['loss']!r}."
            )
        return
    if isinstance(told["loss"], str):
        raise ValueError(
            f"loss is {told['loss']!r}, a name, which is for refresh in the mode 'query_side'; "
            "give a loss of sentence-transformers, or leave it out."
        )
    if told["loss"] is not None:
        for name in _FOR_THE_LOSS:
            if told[name] is not None:
                raise ValueError(
                    f"{name} was given, which is for the default loss; leave it or loss out."
                )


def check_output(output: str | Path) -> Path:
    """The output folder, made where it is missing."""
    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output is {folder}, which is a file; name a folder.")
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"output is {folder}, but the folder {folder.absolute().parent} does not exist; "
            "create it first."
        )
    folder.mkdir(exist_ok=True)
    return folder


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
