"""A stope index over a column of a data set: ``get_nearest_examples_batch`` and its sisters."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np

import stope
from stope._checks import size
from stope._extras import need
from stope._kinds import a, at_least, kinds, maybe, string
from stope.data.arrow import from_arrow
from stope.indexes.flat import Storage
from stope.integrations._vectors import taken
from stope.ops._search import Metric
from stope.progress import Progress, check_progress

library = need("datasets.search", extra="train")

__all__ = ["StopeIndex", "add_stope_index", "index_column"]


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


@kinds(column=string, batch_size=at_least(1))
def index_column(
    dataset: Any,
    column: str,
    *,
    metric: Metric = "dot",
    storage: Storage | None = None,
    batch_size: int = 1000,
    progress: Progress | None = None,
) -> stope.FlatIndex:
    """Pack a column of vectors; the data set may stream, for it is read batch by batch as Arrow.

    Args:
        dataset: ``datasets.Dataset`` or ``IterableDataset``.
        column: lists of float32, float16 or int8, one length for all.
        metric, storage: as :class:`stope.FlatIndex`.
        batch_size: rows read at once.
        progress: called with (rows read, rows); a stream has as many as were read.

    Raises:
        ValueError, TypeError: no such column; other numbers, or none in a row (naming it); NaN or
            infinity.

    Memory: the index, and a batch.

    >>> import numpy as np
    >>> from datasets import Dataset
    >>> table = Dataset.from_dict({"v": np.eye(3, dtype=np.float32)})
    >>> index_column(table, "v").search(np.float32([[0, 2, 1]]), 2).ids.tolist()
    [[1, 2]]
    """
    check_progress(progress)
    if not hasattr(dataset, "with_format"):
        raise TypeError(f"dataset is a {type(dataset).__name__}; give a datasets.Dataset")
    known = dataset.column_names
    if known is not None and column not in known:
        raise ValueError(f'dataset has no column "{column}", but {", ".join(known)}; name one')
    index, done = None, 0
    for batch in dataset.with_format("arrow").iter(batch_size=batch_size):
        rows = from_arrow(batch[column], f'column "{column}" from row {done} on')
        if rows.dtype == np.int64:
            raise TypeError(f'column "{column}" holds int64; cast it to lists of float32 or int8')
        if index is None:
            index = stope.FlatIndex(
                rows.shape[1], metric, storage=rows.dtype.name if storage is None else storage
            )
        index.add(rows)
        done += len(rows)
        if progress is not None:
            progress(done, len(dataset) if hasattr(dataset, "__len__") else done)
    if index is None:
        raise ValueError("dataset is empty; give one row at least")
    return index


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
