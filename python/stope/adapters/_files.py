"""An adapter on the disk: adapter.safetensors with the arrays, adapter.json with the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stope._extras import need
from stope._files.atomic import atomic_folder
from stope.adapters.maps import KINDS, Map, arrays

_ARRAYS, _REST = "adapter.safetensors", "adapter.json"
_FORMAT = {"format": "stope adapter", "version": 1}


class Stored(NamedTuple):
    """What a folder holds."""

    side: str
    queries: Map | None
    documents: Map | None
    losses: list[float]
    evaluations: list[tuple[int, float]]


def save(
    folder: Path,
    side: str,
    queries: Map | None,
    documents: Map | None,
    losses: Sequence[float],
    evaluations: Sequence[tuple[int, float]],
) -> None:
    """Write the folder whole or not at all; see `Adapter.save`."""
    library: Any = need("safetensors.numpy", extra="train")
    maps = {"queries": queries, "documents": None if side == "both" else documents}
    given = {name: transform for name, transform in maps.items() if transform is not None}
    tensors = {
        f"{name}.{field}": array
        for name, transform in given.items()
        for field, array in arrays(transform).items()
    }
    tensors["losses"] = np.array(losses, dtype=np.float64)
    kinds = {name: transform.kind for name, transform in given.items()}
    rest = {**_FORMAT, "side": side, "maps": kinds, "evaluations": list(evaluations)}
    with atomic_folder(folder) as temporary:
        library.save_file(tensors, temporary / _ARRAYS)
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
        rest = json.loads((folder / _REST).read_text(encoding="utf-8"))
        if not isinstance(rest, dict) or {key: rest.get(key) for key in _FORMAT} != _FORMAT:
            raise ValueError(f"{_REST} does not say {_FORMAT}")
        tensors = library.load_file(folder / _ARRAYS)
        maps = {name: _map(tensors, name, kind) for name, kind in dict(rest["maps"]).items()}
        side = str(rest["side"])
        queries, documents = maps.get("queries"), maps.get("documents")
        return Stored(
            side,
            queries,
            queries if side == "both" else documents,
            [float(loss) for loss in tensors["losses"]],
            [(int(epoch), float(score)) for epoch, score in rest["evaluations"]],
        )
    except (ValueError, TypeError, KeyError, AttributeError, failure) as error:
        raise ValueError(
            f"{folder} holds a damaged adapter ({type(error).__name__}: {error}); save it again"
        ) from error


def _map(tensors: dict[str, Any], name: str, kind: str) -> Map:
    if kind not in KINDS:
        raise ValueError(f"the map of {name} is of the unknown kind {kind!r}")
    prefix = f"{name}."
    found = {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }
    return KINDS[kind](**found)
