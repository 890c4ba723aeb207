"""A column of vectors of a Hugging Face data set, which may stream, as an index."""

from __future__ import annotations

from typing import Any

import numpy as np

import stope
from stope._kinds import at_least, kinds, string
from stope.data.arrow import from_arrow
from stope.indexes.flat import Storage
from stope.ops._search import Metric
from stope.progress import Progress, check_progress


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
