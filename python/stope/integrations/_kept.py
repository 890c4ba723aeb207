"""What frameworks call a vector store: objects by id, in memory, found by their embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

import stope
from stope._checks import one_each
from stope.ops._search import Metric

T = TypeVar("T")


class Kept(Generic[T]):
    """Objects under ids, and a :class:`stope.FlatIndex` of their embeddings, as float32.

    Any number of threads may search, beside additions too: a row comes before its object, and goes
    before it.

    Attributes:
        metric: of the scores.
        objects: by id.
        index: of the embeddings; None until there is one.

    >>> kept = Kept("dot")
    >>> kept.put(["a", "b", "a"], ["old", "wood", "ore"], [[1, 0], [0, 1], [2, 0]])
    >>> kept.best([1, 0.5], 2), kept.best([1, 0.5], 2, among=["b"])
    ([('a', 'ore', 2.0), ('b', 'wood', 0.5)], [('b', 'wood', 0.5)])
    """

    def __init__(self, metric: Metric) -> None:
        self.metric: Metric = metric
        self.objects: dict[str, T] = {}
        self.index: stope.FlatIndex | None = None

    def put(self, names: Sequence[str], objects: Iterable[T], rows: Any) -> None:
        """Keep objects, in the place of those of the same ids; of one id the last stays.

        Raises:
            ValueError: another number of rows than of ids, and what :meth:`stope.FlatIndex.add`
                refuses. Nothing has changed then.
        """
        last = {name: place for place, name in enumerate(names)}
        if not last:
            return
        one_each(rows, "embeddings", len(names), "ids")
        matrix = np.asarray(rows, dtype=np.float32).reshape(len(names), -1)
        index = self.index
        if index is None:
            index = stope.FlatIndex(matrix.shape[1], self.metric)
        index.add(matrix[list(last.values())], list(last), replace=True)
        self.index = index
        self.objects.update(zip(names, objects, strict=True))

    def remove(self, names: Iterable[str]) -> None:
        """Remove those of these ids that are there."""
        there = [name for name in dict.fromkeys(names) if name in self.objects]
        if self.index is not None:
            self.index.remove([name for name in there if name in self.index])
        for name in there:
            del self.objects[name]

    def best(
        self, embedding: Any, k: int, among: Iterable[str] | None = None
    ) -> list[tuple[str, T, float]]:
        """Ids, objects and scores of the k best, of all or among these ids."""
        if self.index is None:
            return []
        rows = np.asarray(embedding, dtype=np.float32).reshape(1, -1)
        best = self.index.search(rows, k, among=None if among is None else list(among))
        pairs = zip(best.ids[0].tolist(), best.scores[0].tolist(), strict=True)
        there = self.objects
        return [(name, there[name], score) for name, score in pairs if name in there]


def ranked(retriever: Any, query: str, objects: Sequence[T], k: int) -> list[tuple[T, float]]:
    """What one of `stope.retrieval`'s retrievers gives of objects in the order of its corpus."""
    ranking = retriever.search([query], k=min(k, len(objects)))
    pairs = zip(ranking.ids[0].tolist(), ranking.scores[0].tolist(), strict=True)
    return [(objects[row], score) for row, score in pairs if row >= 0]
