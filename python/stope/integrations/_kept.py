"""What frameworks call a vector store: objects by id, in memory, found by their embeddings."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import choice, one_each, shown, size
from stope.ops._search import METRICS, Metric

T = TypeVar("T")


class Kept(Generic[T]):
    """Objects under ids, and a :class:`stope.FlatIndex` of their embeddings, as float32.

    What is searched and got are copies, since frameworks write to what they are given (scores into
    metadata, other texts into nodes). Any number of threads may search, beside additions too: a row
    comes before its object, and goes before it.

    Attributes:
        metric: of the scores.
        objects: by id.
        index: of the embeddings; None until there is one.

    >>> kept = Kept("dot")
    >>> kept.put(["a", "b", "a"], ["old", "wood", "ore"], [[1, 0], [0, 1], [2, 0]])
    >>> kept.best([1, 0.5], 2), kept.best([1, 0.5], 2, among=["b"])
    ([('ore', 2.0), ('wood', 0.5)], [('wood', 0.5)])
    """

    def __init__(self, metric: Metric) -> None:
        self.metric: Metric = choice(metric, "metric", METRICS)
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

    def get(self, names: Iterable[str]) -> list[T]:
        """Copies of the objects of these ids that are there."""
        return [deepcopy(self.objects[name]) for name in names if name in self.objects]

    def passing(self, keep: Callable[[T], bool] | None) -> list[str]:
        """Ids of the objects for which a function says so; of all where there is none.

        Raises:
            TypeError: no function.
        """
        if keep is not None and not callable(keep):
            raise TypeError(f"filter is {shown(keep)}; give a function of a document")
        everything = list(self.objects.items())  # at once: others may add
        return [name for name, each in everything if keep is None or keep(each)]

    def rows(self, names: Sequence[str]) -> list[NDArray[np.float32]]:
        """The embeddings of ids that are there."""
        return [] if self.index is None else list(np.asarray(self.index.reconstruct(names)))

    def remove(self, names: Iterable[str]) -> None:
        """Remove those of these ids that are there.

        Raises:
            TypeError: one string in the place of several.
        """
        if isinstance(names, str):
            raise TypeError(f"ids is {shown(names)}; give a list of strings")
        there = dict.fromkeys(names)
        if self.index is not None:
            self.index.remove([name for name in there if name in self.index])
        for name in there:
            self.objects.pop(name, None)

    def best(
        self, embedding: Any, k: int, among: Iterable[str] | None = None
    ) -> list[tuple[T, float]]:
        """Copies and scores of the k best objects, of all or among these ids."""
        size(k, "k")
        if self.index is None:
            return []
        rows = np.asarray(embedding, dtype=np.float32).reshape(1, -1)
        best = self.index.search(rows, k, among=None if among is None else list(among))
        pairs = zip(best.ids[0].tolist(), best.scores[0].tolist(), strict=True)
        there = self.objects
        return [(deepcopy(there[name]), score) for name, score in pairs if name in there]


def names_for(ids: Sequence[str | None] | None, count: int) -> list[str]:
    """An id for each of so many texts: those given, and random ones in the place of None.

    Raises:
        ValueError, TypeError: another number of ids; one that is no string.
    """
    if ids is None:
        ids = [None] * count
    one_each(ids, "ids", count, "texts")
    wrong = next((name for name in ids if not isinstance(name, str | None)), None)
    if wrong is not None:
        raise TypeError(f"ids has {shown(wrong)}; give strings, or None for a random id")
    return [name or str(uuid.uuid4()) for name in ids]


def ranked(retriever: Any, query: str, objects: Sequence[T], k: int) -> list[tuple[T, float]]:
    """Copies of what one of `stope.retrieval`'s retrievers finds, of objects in corpus order."""
    ranking = retriever.search([query], k=min(k, len(objects)))
    pairs = zip(ranking.ids[0].tolist(), ranking.scores[0].tolist(), strict=True)
    return [(deepcopy(objects[row]), score) for row, score in pairs if row >= 0]
