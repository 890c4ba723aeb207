"""What holds while a model trains and is put back: threads, precision, silence."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import stope
from stope._extras import need


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads in stope and in torch meanwhile; None leaves them."""
    if count is None:
        yield
        return
    torch = need("torch", extra="train")
    before = stope.get_num_threads(), torch.get_num_threads()
    stope.set_num_threads(count)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        stope.set_num_threads(before[0])
        torch.set_num_threads(before[1])


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Have the model in evaluation mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def autocast_training(model: Any, dtype: str | None) -> Iterator[None]:
    """Let the model's forward passes in training mode multiply in this type; others do not.

    So also where a loss encodes once more in its backward pass. Embeddings come out in float32.
    """
    if dtype is None:
        yield
        return
    torch = need("torch", extra="train")
    forward = model.forward

    def cast(*given: Any, **named: Any) -> Any:
        if not model.training:
            return forward(*given, **named)
        with torch.autocast(model.device.type, dtype=getattr(torch, dtype)):
            features = forward(*given, **named)
        half = getattr(torch, dtype)
        return {
            name: value.float() if getattr(value, "dtype", None) is half else value
            for name, value in features.items()
        }

    model.__dict__["forward"] = cast
    try:
        yield
    finally:
        del model.__dict__["forward"]


@contextmanager
def quiet(model: Any) -> Iterator[None]:
    """Keep the libraries' notices (not their errors) and the card's bar off the terminal."""
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    card = model.model_card_data
    examples = card.widget
    try:
        card.widget = examples or [{}]  # an empty one would be filled, with a bar, from the rows
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module="accelerate")
            yield
    finally:
        card.widget = examples
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
