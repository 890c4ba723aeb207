"""Adapter: trained maps on the embeddings of a frozen encoder, for queries, documents or both.

Outside of its process it is a folder, whose adapter.safetensors has the arrays and adapter.json the
rest, or modules of sentence-transformers, which load without any code of stope.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stope._checks import choice, path, shown
from stope._extras import need
from stope._files.atomic import atomic_folder
from stope._files.manifest import FILES, described_files, problem_with_files, read_json
from stope._files.manifest import checked as check_kind
from stope._kinds import kinds, numbers, sequence
from stope.adapters.maps import (
    KINDS,
    Floats,
    Linear,
    LowRank,
    Map,
    ResidualMLP,
    arrays,
    checked,
    matrix,
    matrix_of_rows,
    unit,
)
from stope.adapters.recipe import SIDES, Side
from stope.encoders.versions import dimension, part, router

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_BLOCK = 16_384
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


@kinds(losses=numbers, evaluations=sequence)
class Adapter:
    """Maps on embeddings: rows of length one go in, rows of length one come out.

    Thread safety: using an adapter changes nothing, so threads may share it.

    Args:
        transform: `Linear`, `LowRank`, `ResidualMLP`, or a float32 matrix [out, d] for a linear
            one; with side "separate" that of the queries.
        losses: loss of each training step.
        side: "both": one map for queries and documents; "queries" or "documents": a map for
            these, while the others are only normalised; "separate": a map for each.
        documents: the documents' map, for side "separate" only.
        evaluations: (epochs done, score) of each evaluation while it was trained.

    Attributes:
        queries: the queries' map, None where they are only normalised.
        documents: likewise.
        side: see above.
        losses: see above.
        evaluations: see above.

    Raises:
        ValueError: an unknown side, matrices that do not fit together, output dimensions that
            differ between queries and documents.
        TypeError: a transform of another type.

    Example:
        >>> adapter = Adapter(np.float32([[0, 1], [1, 0]]), side="queries")
        >>> adapter.apply(np.float32([[3, 4]]), side="queries").round(3).tolist()
        [[0.800000011920929, 0.6000000238418579]]
        >>> adapter.apply(np.float32([[3, 4]]), side="documents").round(3).tolist()
        [[0.6000000238418579, 0.800000011920929]]
    """

    def __init__(
        self,
        transform: Map | Floats,
        losses: Sequence[float] = (),
        *,
        side: Side = "both",
        documents: Map | Floats | None = None,
        evaluations: Sequence[tuple[int, float]] = (),
    ) -> None:
        choice(side, "side", SIDES)
        if (documents is not None) != (side == "separate"):
            raise ValueError(
                f"side is {side!r} and documents is {'given' if documents is not None else 'None'};"
                " the documents have a map of their own with side 'separate', and only then"
            )
        self.side: Side = side
        self.losses = list(losses)
        self.evaluations = list(evaluations)
        first = checked(transform, "transform")
        self.queries: Map | None = None if side == "documents" else first
        self.documents: Map | None = None if side == "queries" else first
        if documents is not None:
            self.documents = checked(documents, "documents")
        shapes = [self._shape(name) for name in ("queries", "documents")]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"With side {side!r}, queries have a map of shape {shapes[0]} and documents of"
                f" {shapes[1]}; both must start in the same dimension and end in the same"
            )

    @property
    def weight(self) -> Floats:
        """The dense matrix [out, d] of the one map, where the adapter has one linear map.

        Raises:
            ValueError: the adapter has two maps or an MLP.
        """
        transform = self.documents if self.queries is None else self.queries
        if self.side == "separate" or not isinstance(transform, (Linear, LowRank)):
            raise ValueError(
                f"{self!r} has no single matrix; use adapter.queries and adapter.documents"
            )
        return matrix(transform)

    def apply(self, embeddings: Floats, side: str | None = None) -> Floats:
        """Return the adapted embeddings, float32 [n, out] with rows of length one.

        Args:
            embeddings: float32 [n, d]; a row of zeros stays zero.
            side: what they are of, "queries" or "documents"; None is enough where both have the
                same map.

        Raises:
            ValueError: another dimension than the adapter's, NaN or infinity, no side where it
                matters.

        Memory: the result; a hidden layer exists for 16,384 rows at a time.

        Example:
            >>> Adapter(np.eye(2, dtype=np.float32)).apply(np.array([[0, 4]], np.float32)).tolist()
            [[0.0, 1.0]]
        """
        if side not in ("queries", "documents"):
            if side is not None or self.side != "both":
                raise ValueError(
                    f"side is {shown(side)}; say whether the embeddings are of 'queries' or"
                    f" 'documents': this adapter was made for side {self.side!r}"
                )
            side = "queries"
        rows = matrix_of_rows(embeddings, "embeddings")
        if rows.shape[1] != self._dim:
            raise ValueError(
                f"embeddings has dim {rows.shape[1]} but the adapter has dim {self._dim}"
            )
        transform = self.queries if side == "queries" else self.documents
        if transform is None:
            return unit(rows)
        adapted = np.empty((len(rows), transform.shape[0]), dtype=np.float32)
        for first in range(0, len(rows), _BLOCK):
            adapted[first : first + _BLOCK] = unit(transform(unit(rows[first : first + _BLOCK])))
        return adapted

    def attach(self, model: SentenceTransformer) -> SentenceTransformer:
        """Return a new model: model's modules (shared, not copied), the maps, Normalize.

        A matrix becomes a Dense module. An MLP becomes two of them, with x = gelu(x) - gelu(-x)
        carrying the residual, so that no code of stope is needed to load the model. Where queries
        and documents differ, a Router chooses: use ``encode_query`` and ``encode_document``;
        ``encode`` takes its texts for documents. The result saves and loads as any
        sentence-transformers model does.

        Raises:
            ValueError: model's embeddings have another dimension than the adapter, or are cut off
                (truncate_dim).
            ImportError: sentence-transformers is missing, or is too old for a Router.
        """
        return _attached(self.queries, self.documents, self.side == "both", model)

    def save(self, folder: str | Path) -> None:
        """Write adapter.safetensors and adapter.json; the folder appears when complete.

        Args:
            folder: new, or an empty folder.

        Raises:
            FileExistsError: folder exists and is not an empty folder.
            FileNotFoundError: the folder that should hold it does not exist.
        """
        target = path(folder, "folder")
        library: Any = need("safetensors.numpy", extra="train")
        maps = {
            "queries": self.queries,
            "documents": None if self.side == "both" else self.documents,
        }
        trained = {name: transform for name, transform in maps.items() if transform is not None}
        tensors = {
            f"{name}.{field}": array
            for name, transform in trained.items()
            for field, array in arrays(transform).items()
        }
        tensors["losses"] = np.array(self.losses, dtype=np.float64)
        rest = {
            **_FORMAT,
            "side": self.side,
            "maps": {name: transform.kind for name, transform in trained.items()},
            "evaluations": self.evaluations,
        }
        with atomic_folder(target) as temporary:
            library.save_file(tensors, temporary / _ARRAYS)
            rest["files"] = described_files(temporary)
            (temporary / _REST).write_text(json.dumps(rest, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Read what `save` wrote. Nothing in the folder is executed.

        Raises:
            FileNotFoundError: there is no adapter in the folder.
            ValueError: the files are damaged or do not go together.
        """
        place = path(folder, "folder")
        library: Any = need("safetensors.numpy", extra="train")
        failure: Any = need("safetensors", extra="train").SafetensorError
        for name in (_ARRAYS, _REST):
            if not (place / name).is_file():
                raise FileNotFoundError(
                    f"{place} is no adapter: it has no {name}. Name a folder that Adapter.save "
                    "wrote"
                )
        try:
            rest = read_json(place / _REST)
            if isinstance(rest, dict) and rest.get("version") == 1:  # which lists no files
                rest["files"] = described_files(place, (_REST,))
            check_kind(rest, _KIND)
            if problem := problem_with_files(place, rest["files"], (_REST,)):
                raise ValueError(problem)
            tensors = library.load_file(place / _ARRAYS)
            maps = {name: _map(tensors, name, kind) for name, kind in rest["maps"].items()}
            return cls(
                maps["documents" if rest["side"] == "documents" else "queries"],
                [float(loss) for loss in tensors["losses"]],
                side=rest["side"],
                documents=maps["documents"] if rest["side"] == "separate" else None,
                evaluations=[(int(epoch), float(score)) for epoch, score in rest["evaluations"]],
            )
        except (ValueError, TypeError, KeyError, OverflowError, failure) as error:
            raise ValueError(
                f"{place} holds a damaged adapter ({type(error).__name__}: {error}); save it again"
            ) from error

    def __repr__(self) -> str:
        """Side, kinds and shapes."""
        shapes = {
            name: f"{transform.kind} {transform.shape}"
            for name, transform in (("queries", self.queries), ("documents", self.documents))
            if transform is not None
        }
        return f"Adapter(side={self.side!r}, {', '.join(f'{n}: {k}' for n, k in shapes.items())})"

    @property
    def _dim(self) -> int:
        return self._shape("queries")[1]

    def _shape(self, side: str) -> tuple[int, int]:
        transform = self.queries if side == "queries" else self.documents
        if transform is not None:
            return transform.shape
        other = self.documents if side == "queries" else self.queries
        assert other is not None
        return other.shape[1], other.shape[1]


def _map(tensors: dict[str, Any], name: str, kind: str) -> Map:
    prefix = f"{name}."
    own = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    return KINDS[kind](**own)


def _attached(queries: Map | None, documents: Map | None, shared: bool, model: Any) -> Any:
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
    added = _modules(queries, models)
    if not shared:
        added = [router(added, _modules(documents, models))]
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
