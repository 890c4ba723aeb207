"""txtai's vector search by stope: ``Embeddings(backend="stope.integrations.txtai.StopeANN")``."""

from __future__ import annotations

from typing import Any

import stope
from stope._checks import size
from stope._extras import need
from stope.integrations._vectors import taken

ann = need("txtai.ann.base", extra="txtai")

__all__ = ["StopeANN"]


class StopeANN(ann.ANN):  # type: ignore[misc,name-defined]
    """An exact index for txtai: its vectors are normalised, and scores are their dot products.

    Of equal scores the lower id comes first. Deleted vectors are gone, as with txtai's faiss, and
    ids are not given again. Quantized vectors (``quantize``), which are bits, are refused.

    Example: ``Embeddings(path=model, backend="stope.integrations.txtai.StopeANN")``
    """

    def load(self, path: str) -> None:
        """Map a saved index."""
        self.backend = stope.FlatIndex.load(path)

    def index(self, embeddings: Any) -> None:
        """Pack vectors under the ids 0, 1, ..."""
        if self.config.get("quantize"):
            raise ValueError("quantize is set, whose vectors are bits; leave it out for stope")
        self.backend = stope.FlatIndex(taken(embeddings), "dot")
        self.config["offset"] = len(embeddings)
        self.metadata({"stope": stope.__version__})

    def append(self, embeddings: Any) -> None:
        """Add vectors; their ids go on."""
        self.backend.add(taken(embeddings))
        self.config["offset"] += len(embeddings)
        self.metadata()

    def delete(self, ids: Any) -> None:
        """Remove the vectors of these ids, those that are there."""
        self.backend.remove([number for number in dict.fromkeys(ids) if number in self.backend])

    def search(self, queries: Any, limit: int) -> list[list[tuple[int, float]]]:
        """[(id, score)] for each query, best first."""
        best = self.backend.search(taken(queries), size(limit, "limit"))
        pairs = zip(best.ids.tolist(), best.scores.tolist(), strict=True)
        return [[(i, s) for i, s in zip(*row, strict=True) if i >= 0] for row in pairs]

    def count(self) -> int:
        """How many vectors there are."""
        return len(self.backend)

    def save(self, path: str) -> None:
        """Write the index to one file."""
        self.backend.save(path)
