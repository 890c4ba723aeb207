"""Where sentence-transformers keeps its parts: version 6 moved them and warns at the old place."""

from __future__ import annotations

import importlib
from typing import Any

from stope._extras import need

_PLACES = {
    "models": "sentence_transformers.sentence_transformer.modules",
    "losses": "sentence_transformers.sentence_transformer.losses",
    "sampler": "sentence_transformers.base.sampler",
}


def part(name: str) -> Any:
    """Return sentence-transformers' module of models, losses or sampler, of version 6 or 5.

    Raises:
        ImportError: sentence-transformers is not installed; the message has the pip command.
    """
    need("sentence_transformers", extra="train")
    try:
        return importlib.import_module(_PLACES[name])
    except ModuleNotFoundError as error:
        if error.name is None or not _PLACES[name].startswith(error.name):
            raise
        return importlib.import_module(f"sentence_transformers.{name}")


def dimension(model: Any) -> int | None:
    """The dimension of the model's embeddings, None where it does not say."""
    # Version 6 has the shorter name, and warns at the longer one.
    ask = getattr(model, "get_embedding_dimension", None)
    found = model.get_sentence_embedding_dimension() if ask is None else ask()
    return None if found is None else int(found)


def is_static(model: Any) -> bool:
    """Whether the model looks up one vector per token (StaticEmbedding)."""
    return isinstance(model[0], part("models").StaticEmbedding)
