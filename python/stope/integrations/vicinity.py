"""vicinity's backend by stope, exact; so SemHash, which searches by vicinity, runs on it, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import size
from stope._extras import need
from stope.integrations._vectors import taken

base = need("vicinity.backends.base", extra="vicinity")
basic = need("vicinity.backends.basic", extra="vicinity")
datatypes = need("vicinity.datatypes", extra="vicinity")
Metric = need("vicinity", extra="vicinity").Metric

__all__ = ["StopeBackend"]

_METRICS: dict[Any, Any] = {Metric.COSINE: "cosine", Metric.EUCLIDEAN: "euclidean"}
_OFFSETS = {"cosine": 1, "euclidean": 0}  # distance = offset - score


class StopeBackend(base.AbstractBackend):  # type: ignore[misc,name-defined]
    """A backend for ``vicinity.Vicinity(items, backend)``: exact, also by threshold.

    Distances are 1 - cosine or euclidean; places in order of distance, equal ones as they were
    inserted. A threshold finds all rows within it, whatever max_k says, as
    vicinity's own exact backend does. float64 vectors are cast to float32. It is saved as
    vicinity's basic backend, which is what loads it: exact as well.

    SemHash on stope: ``semhash.index.backend = StopeBackend.from_vectors(semhash.index.vectors)``.

    >>> import numpy as np
    >>> backend = StopeBackend.from_vectors(np.eye(3, dtype=np.float32))
    >>> ids, distances = backend.query(np.float32([[0, 3, 4]]), 2)[0]
    >>> ids.tolist(), [f"{distance:.1f}" for distance in distances]
    ([2, 1], ['0.2', '0.4'])
    """

    argument_class = basic.BasicArgs

    def __init__(self, vectors: Any, arguments: Any) -> None:
        super().__init__(arguments)
        if arguments.metric not in _METRICS:
            raise ValueError(f"metric is {arguments.metric.value!r}; give one of " + _named())
        self._index = stope.FlatIndex(taken(vectors), _METRICS[arguments.metric])

    @classmethod
    def from_vectors(cls, vectors: Any, metric: Any = "cosine", **options: Any) -> StopeBackend:
        """A backend of these vectors."""
        return cls(vectors, cls.argument_class(metric=Metric.from_string(metric)))

    def __len__(self) -> int:
        """Return how many vectors there are."""
        return len(self._index)

    @property
    def backend_type(self) -> Any:
        """What vicinity loads it by."""
        return datatypes.Backend.BASIC

    @property
    def dim(self) -> int:
        """Elements of a vector."""
        return self._index.dim

    def insert(self, vectors: Any) -> None:
        """Append vectors."""
        self._index.add(taken(vectors))

    def delete(self, indices: list[int]) -> None:
        """Remove the vectors at these places; those behind move up."""
        left = np.delete(np.asarray(self._index.reconstruct()), indices, axis=0)
        self._index = stope.FlatIndex(left, self._index.metric)

    def query(self, vectors: Any, k: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Places and distances of the k nearest of each vector."""
        best = self._index.search(taken(vectors), min(size(k, "k"), max(len(self), 1)))
        pairs = zip(best.ids[:, : len(self)], self._distances(best.scores), strict=True)
        return [(ids, distances[: len(ids)]) for ids, distances in pairs]

    def threshold(
        self, vectors: Any, threshold: float, max_k: int
    ) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Places and distances of all vectors within the threshold."""
        within = self._index.range_search(taken(vectors), _OFFSETS[self._index.metric] - threshold)
        ends = within.offsets[1:-1]
        distances = self._distances(within.scores)
        return list(zip(np.split(within.ids, ends), np.split(distances, ends), strict=True))

    def save(self, path: Path) -> None:
        """Write vectors and arguments as vicinity's basic backend does."""
        basic.BasicVectorStore(vectors=np.asarray(self._index.reconstruct())).save(path)
        self.arguments.dump(path / "arguments.json")

    @classmethod
    def load(cls, path: Path) -> StopeBackend:
        """Read what `save` or vicinity's basic backend wrote."""
        vectors = basic.BasicVectorStore.load(path).vectors
        return cls(vectors, cls.argument_class.load(path / "arguments.json"))

    def _distances(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(_OFFSETS[self._index.metric] - scores, np.float32)


def _named() -> str:
    return ", ".join(repr(metric.value) for metric in _METRICS)
