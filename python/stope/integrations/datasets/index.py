"""The index that a Hugging Face data set searches by."""

from __future__ import annotations

from os import PathLike
from typing import Any

import stope
from stope._checks import size
from stope._extras import need
from stope._kinds import a, kinds, maybe, string
from stope.integrations._vectors import taken
from stope.integrations.datasets.columns import index_column

library = need("datasets.search", extra="train")


@kinds(index=a(stope.FlatIndex))
class StopeIndex(library.BaseIndex):  # type: ignore[misc,name-defined]
    """A :class:`stope.FlatIndex` as an index of a Hugging Face data set; ids are row numbers.

    :func:`add_stope_index` puts one into a data set. Searches are exact; scores are those of the
    index's metric, best first, also for ``"euclidean"`` (-distance). float64 queries are cast to
    float32, since plain lists of numbers are float64.
    """

    def __init__(self, index: stope.FlatIndex) -> None:
        self.index = index

    def search(self, query: Any, k: int = 10, **options: Any) -> Any:
        """The k best rows of a vector ``[dim]``; options as :meth:`stope.FlatIndex.search`."""
        rows = taken(query)
        if tuple(rows.shape) not in ((self.index.dim,), (1, self.index.dim)):
            raise ValueError(
                f"query has shape {tuple(rows.shape)}; give one vector of {self.index.dim} "
                "numbers, or more to search_batch"
            )
        scores, ids = self.search_batch(rows.reshape(1, -1), k, **options)
        return library.SearchResults(scores[0], ids[0])

    def search_batch(self, queries: Any, k: int = 10, **options: Any) -> Any:
        """The k best rows of every vector of ``[queries, dim]``; -1 where there are fewer."""
        best = self.index.search(taken(queries), size(k, "k"), **options)
        return library.BatchedSearchResults(best.scores.tolist(), best.ids.tolist())

    def save(self, file: str | PathLike[str]) -> None:
        """Write the index to one file, as :meth:`stope.FlatIndex.save`."""
        self.index.save(file)

    @classmethod
    def load(cls, file: str | PathLike[str]) -> StopeIndex:
        """Map a saved index, as :meth:`stope.FlatIndex.load`."""
        return cls(stope.FlatIndex.load(file))


@kinds(column=string, index_name=maybe(string))
def add_stope_index(
    dataset: Any, column: str, *, index_name: str | None = None, **options: Any
) -> Any:
    """Give a data set a stope index over a column of vectors, in the place of ``add_faiss_index``.

    ``dataset.get_nearest_examples_batch(index_name, queries, k)``, ``search``, ``search_batch``,
    ``get_index`` and ``drop_index`` then work as with faiss, exactly.

    Args:
        dataset: ``datasets.Dataset``, which is changed.
        column: the column of vectors.
        index_name: how the index is called; None calls it as the column.
        options: those of :func:`index_column`.

    Returns:
        The data set.

    Raises:
        ValueError, TypeError: as :func:`index_column`.

    >>> import numpy as np
    >>> from datasets import Dataset
    >>> table = Dataset.from_dict({"v": np.eye(3, dtype=np.float32), "text": ["a", "b", "c"]})
    >>> found = add_stope_index(table, "v").get_nearest_examples("v", np.float32([0, 2, 1]), k=2)
    >>> found.scores, found.examples["text"]
    ([2.0, 1.0], ['b', 'c'])
    """
    if not hasattr(dataset, "_indexes"):
        raise TypeError(
            f"dataset is a {type(dataset).__name__}; give a datasets.Dataset, or search the answer "
            "of index_column yourself"
        )
    dataset._indexes[index_name or column] = StopeIndex(index_column(dataset, column, **options))
    return dataset
