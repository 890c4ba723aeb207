"""What stope needs of sentence-transformers, wherever versions 5 and 6 keep it.

Version 6 moved its parts and warns at the old places; nothing else of stope knows of versions.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from stope._extras import need
from stope.lists import offsets_of

Features = dict[str, Any]  # what a model reads of some texts: tensors, and how they lie in them

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


def library_version() -> str:
    """The version of sentence-transformers that is installed."""
    return str(need("sentence_transformers", extra="train").__version__)


def collator_base() -> Any:
    """The class of the trainer's collator."""
    return _first(
        "sentence_transformer.data_collator:SentenceTransformerDataCollator",
        "data_collator:SentenceTransformerDataCollator",
    )


def cached_loss_base() -> Any:
    """The class by which sentence-transformers knows a loss with a gradient cache."""
    return _first("base.losses:CachedLossMixin", "losses:CachedMultipleNegativesRankingLoss")


def evaluator_base() -> Any:
    """The class of the evaluator of retrieval."""
    name = "InformationRetrievalEvaluator"
    return _first(f"sentence_transformer.evaluation:{name}", f"evaluation:{name}")


def embed_columns(model: Any, columns: Sequence[Features]) -> list[Any]:
    """The embeddings of each column's features, in as few forward passes as the version can.

    Modules write their results into the features, and wrappers around a loss read them there. A
    static encoder has nothing to read there: it looks up each of its texts once, in one pass.
    """
    if has_bags(model):
        return _embed_bags(model, columns)
    together = _first("base.losses.merged_forward:embed_columns")
    if together is not None:
        return list(together(model, columns))
    return [model(features)["sentence_embedding"] for features in columns]


def reader_of(model: Any) -> Callable[[list[str]], Features]:
    """The model's function from texts to features."""
    reader: Callable[[list[str]], Features] = (
        model.preprocess if hasattr(model, "preprocess") else model.tokenize
    )
    return reader


def dimension(model: Any) -> int | None:
    """The dimension of the model's embeddings, None where it does not say."""
    # Version 6 has the shorter name, and warns at the longer one.
    ask = getattr(model, "get_embedding_dimension", None)
    size = model.get_sentence_embedding_dimension() if ask is None else ask()
    return None if size is None else int(size)


def router(queries: Iterable[Any], documents: Iterable[Any]) -> Any:
    """A module of some modules for queries and of others for documents.

    Raises:
        ImportError: sentence-transformers is older than 5 and has no Router.
    """
    kind = getattr(part("models"), "Router", None)
    if kind is None:
        raise ImportError(
            "Queries and documents that differ need a Router, which sentence-transformers "
            f"{library_version()} does not have. Install version 5 or newer"
        )
    return kind.for_query_document(query_modules=list(queries), document_modules=list(documents))


def is_static(model: Any) -> bool:
    """Whether the model looks up one vector per token (StaticEmbedding) and keeps no activations.

    Not one behind a Router.
    """
    return isinstance(getattr(model, "_orig_mod", model)[0], part("models").StaticEmbedding)


def has_static_input(model: Any) -> bool:
    """The same, also behind a Router: what cannot be encoded in mini-batches."""
    asked = _first("base.losses:has_static_embedding_input")
    return is_static(model) if asked is None else bool(asked(model))


def has_bags(model: Any) -> bool:
    """Whether equal token ids have equal embeddings also in training: static, then normalised.

    Not one with other modules, which might draw at random (Dropout).
    """
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):  # wrappers
        model = getattr(model, "module", None) or model._orig_mod
    if not isinstance(model, need("torch", extra="train").nn.Sequential):
        return False
    static, normalize = part("models").StaticEmbedding, part("models").Normalize
    usual = static.forward, normalize.forward  # a class of somebody's own may draw in it
    return isinstance(model[0], static) and all(type(each).forward in usual for each in model)


def _embed_bags(model: Any, columns: Sequence[Features]) -> list[Any]:
    """The same for a static encoder: a text of several rows is looked up once, in one pass.

    The gradient of the table of vectors is the sum over the rows, as a matrix of its size: to make
    one for each column is most of what a step of this model costs.
    """
    torch = need("torch", extra="train")
    places: dict[bytes, int] = {}
    rows = [_bags(features) for features in columns]
    order = [places.setdefault(ids.tobytes(), len(places)) for bags in rows for ids in bags]
    ids = [np.frombuffer(ids, np.int64) for ids in places]
    offsets = offsets_of(np.array([len(bag) for bag in ids]))[:-1]
    device = columns[0]["input_ids"].device
    arrays = {"input_ids": np.concatenate(ids), "offsets": offsets}
    features = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
    distinct = model(features)["sentence_embedding"]
    chosen = distinct.index_select(0, torch.tensor(order, device=distinct.device))
    return list(chosen.split([len(bags) for bags in rows]))


def _bags(features: Features) -> list[Any]:
    """The token ids of each text."""
    ids, offsets = (features[name].cpu().numpy() for name in ("input_ids", "offsets"))
    return np.split(ids.astype(np.int64, copy=False), offsets[1:])


def _first(*places: str) -> Any:
    """The first of these names ("module:attribute") that the installed version has, or None."""
    need("sentence_transformers", extra="train")
    for place in places:
        module, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(f"sentence_transformers.{module}"), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("sentence_transformers"):
                raise
    return None
