"""An adapter outside of its process: files in a folder, or modules of sentence-transformers.

The folder holds adapter.safetensors with the arrays and adapter.json with the rest; the modules
load without any code of stope.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stope._extras import need
from stope._files.atomic import atomic_folder
from stope._files.manifest import FILES, checked, described_files, problem_with_files, read_json
from stope.adapters.maps import KINDS, Map, ResidualMLP, arrays, matrix
from stope.adapters.recipe import SIDES, Side
from stope.encoders.versions import dimension, part

_ARRAYS, _REST = "adapter.safetensors", "adapter.json"
_FORMAT = {"format": "stope adapter", "version": 2}
_KIND = {
    "format": ("stope adapter",),
    "version": (1, 2),
    "side": SIDES,
    "maps": {str: tuple(KINDS)},
    "evaluations": [[float]],
    "files": FILES,
}


class Stored(NamedTuple):
    """What a folder holds."""

    side: Side
    queries: Map | None
    documents: Map | None
    losses: list[float]
    evaluations: list[tuple[int, float]]


def save(
    folder: Path,
    side: Side,
    queries: Map | None,
    documents: Map | None,
    losses: Sequence[float],
    evaluations: Sequence[tuple[int, float]],
) -> None:
    """Write the folder whole or not at all; see `Adapter.save`."""
    library: Any = need("safetensors.numpy", extra="train")
    maps = {"queries": queries, "documents": None if side == "both" else documents}
    trained = {name: transform for name, transform in maps.items() if transform is not None}
    tensors = {
        f"{name}.{field}": array
        for name, transform in trained.items()
        for field, array in arrays(transform).items()
    }
    tensors["losses"] = np.array(losses, dtype=np.float64)
    kinds = {name: transform.kind for name, transform in trained.items()}
    rest = {**_FORMAT, "side": side, "maps": kinds, "evaluations": list(evaluations)}
    with atomic_folder(folder) as temporary:
        library.save_file(tensors, temporary / _ARRAYS)
        rest["files"] = described_files(temporary)
        (temporary / _REST).write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")


def load(folder: Path) -> Stored:
    """Read what `save` wrote; see `Adapter.load`."""
    library: Any = need("safetensors.numpy", extra="train")
    failure: Any = need("safetensors", extra="train").SafetensorError
    for name in (_ARRAYS, _REST):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} is no adapter: it has no {name}. Name a folder that Adapter.save wrote"
            )
    try:
        rest = read_json(folder / _REST)
        if isinstance(rest, dict) and rest.get("version") == 1:  # which lists no files
            rest["files"] = described_files(folder, (_REST,))
        checked(rest, _KIND)
        if problem := problem_with_files(folder, rest["files"], (_REST,)):
            raise ValueError(problem)
        tensors = library.load_file(folder / _ARRAYS)
        maps = {name: _map(tensors, name, kind) for name, kind in rest["maps"].items()}
        queries, documents = maps.get("queries"), maps.get("documents")
        return Stored(
            rest["side"],
            queries,
            queries if rest["side"] == "both" else documents,
            [float(loss) for loss in tensors["losses"]],
            [(int(epoch), float(score)) for epoch, score in rest["evaluations"]],
        )
    except (ValueError, TypeError, KeyError, OverflowError, failure) as error:
        raise ValueError(
            f"{folder} holds a damaged adapter ({type(error).__name__}: {error}); save it again"
        ) from error


def _map(tensors: dict[str, Any], name: str, kind: str) -> Map:
    prefix = f"{name}."
    own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    return KINDS[kind](**own)


def attach(queries: Map | None, documents: Map | None, shared: bool, model: Any) -> Any:
    """A new model with model's modules and these maps; see `Adapter.attach`."""
    models = part("models")
    library: Any = need("sentence_transformers", extra="train")
    transform = queries or documents
    assert transform is not None
    dim, wanted = dimension(model), transform.shape[1]
    if getattr(model, "truncate_dim", None) is not None:
        raise ValueError(
            f"model cuts its embeddings off (truncate_dim={model.truncate_dim}), which would happen"
            " after the adapter; set model.truncate_dim = None and train the adapter on whole rows"
        )
    if dim != wanted:
        raise ValueError(f"model gives embeddings of dim {dim} but the adapter has {wanted}")
    if shared:
        added = _modules(queries, models)
    elif hasattr(getattr(models, "Router", None), "for_query_document"):
        added = [
            models.Router.for_query_document(
                query_modules=_modules(queries, models),
                document_modules=_modules(documents, models),
            )
        ]
    else:
        raise ImportError(
            "Queries and documents that differ need a Router, which sentence-transformers"
            f" {library.__version__} does not have. Install version 5 or newer, or use"
            " adapter.apply on embeddings and adapter.save"
        )
    # What model says about its prompts stays true of the longer one.
    return library.SentenceTransformer(
        modules=[*model.children(), *added],
        device=str(model.device),
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
    )


def _modules(transform: Map | None, models: Any) -> list[Any]:
    """The map and a Normalize after it."""
    if transform is None:
        return [models.Normalize()]
    if not isinstance(transform, ResidualMLP):
        return [_dense(matrix(transform), None, models), models.Normalize()]
    # gelu(x) - gelu(-x) = x Phi(x) + x Phi(-x) = x: the residual passes through the hidden layer.
    identity = np.eye(transform.shape[1], dtype=np.float32)
    torch: Any = need("torch", extra="train")
    return [
        models.Normalize(),
        _dense(np.vstack([transform.inner, identity, -identity]), torch.nn.GELU(), models),
        _dense(np.hstack([transform.outer, identity, -identity]), None, models),
        models.Normalize(),
    ]


def _dense(weight: Any, activation: Any, models: Any) -> Any:
    torch: Any = need("torch", extra="train")
    return models.Dense(
        weight.shape[1],
        weight.shape[0],
        bias=False,
        activation_function=activation or torch.nn.Identity(),
        init_weight=torch.from_numpy(np.ascontiguousarray(weight, dtype=np.float32)).clone(),
    )
