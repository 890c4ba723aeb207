"""What holds while a model trains and is put back: threads, tokens, precision, silence."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import stope
from stope._extras import need
from stope.encoders.versions import is_static


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
def tokens_once(model: Any) -> Iterator[None]:
    """Let a static encoder meanwhile tokenize each text once: that is most of its training time."""
    if not is_static(model):
        yield
        return
    torch = need("torch", extra="train")
    module = model[0]
    known: dict[str, Any] = {}

    def preprocess(inputs: Any, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        texts = [prompt + text for text in inputs] if prompt else list(inputs)
        new = list(dict.fromkeys(text for text in texts if text not in known))
        encodings = module.tokenizer.encode_batch(new, add_special_tokens=False)
        for text, encoding in zip(new, encodings, strict=True):
            known[text] = np.array(encoding.ids, dtype=np.int32)
        rows = [known[text] for text in texts]
        ends = np.cumsum([0, *map(len, rows)])
        ids = np.concatenate([*rows, np.empty(0, np.int32)]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "offsets": torch.from_numpy(ends[:-1])}

    name = "preprocess" if hasattr(module, "preprocess") else "tokenize"
    module.__dict__[name] = preprocess
    try:
        yield
    finally:
        del module.__dict__[name]


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
        yield
    finally:
        card.widget = examples
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
