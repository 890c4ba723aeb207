"""Adapter: trained maps on the embeddings of a frozen encoder, for queries, documents or both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stope._checks import choice, path, shown
from stope._kinds import kinds, numbers, sequence
from stope.adapters import export
from stope.adapters.maps import (
    Floats,
    Linear,
    LowRank,
    Map,
    checked,
    matrix,
    matrix_of_rows,
    unit,
)
from stope.adapters.recipe import SIDES, Side

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_BLOCK = 16_384


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
        return export.attach(self.queries, self.documents, self.side == "both", model)

    def save(self, folder: str | Path) -> None:
        """Write adapter.safetensors and adapter.json; the folder appears when complete.

        Args:
            folder: new, or an empty folder.

        Raises:
            FileExistsError: folder exists and is not an empty folder.
            FileNotFoundError: the folder that should hold it does not exist.
        """
        export.save(
            path(folder, "folder"),
            self.side,
            self.queries,
            self.documents,
            self.losses,
            self.evaluations,
        )

    @classmethod
    def load(cls, folder: str | Path) -> Adapter:
        """Read what `save` wrote. Nothing in the folder is executed.

        Raises:
            FileNotFoundError: there is no adapter in the folder.
            ValueError: the files are damaged or do not go together.
        """
        stored = export.load(path(folder, "folder"))
        first = stored.documents if stored.queries is None else stored.queries
        try:
            return cls(
                first,  # type: ignore[arg-type]
                stored.losses,
                side=stored.side,
                documents=stored.documents if stored.side == "separate" else None,
                evaluations=stored.evaluations,
            )
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder} holds a damaged adapter: {error}") from error

    def __repr__(self) -> str:
        """Side, kinds and shapes."""
        kinds = {
            name: f"{transform.kind} {transform.shape}"
            for name, transform in (("queries", self.queries), ("documents", self.documents))
            if transform is not None
        }
        return f"Adapter(side={self.side!r}, {', '.join(f'{n}: {k}' for n, k in kinds.items())})"

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
