"""Checks of what an adapter is given: embeddings, positives, negatives, numbers per pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.adapters.maps import Floats

Csr = tuple[NDArray[np.int64], NDArray[np.int64]]


def matrix_of_rows(embeddings: Any, name: str) -> Floats:
    """Float32 [n, d], C-contiguous and finite; n and d above 0."""
    array = np.asarray(embeddings, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; a filled matrix [n, d] is needed")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise ValueError(f"{name} has a NaN or an infinity in row {bad[0]}")
    return np.ascontiguousarray(array)


def csr_of_positives(positives: Any, num_queries: int, num_documents: int) -> Csr:
    """Positives as (offsets, rows), from this form or one row per query."""
    if isinstance(positives, tuple) and len(positives) == 2:
        offsets, ids = (np.asarray(part, dtype=np.int64) for part in positives)
        good = len(offsets) == num_queries + 1 and offsets[0] == 0 and offsets[-1] == len(ids)
        if not good or (np.diff(offsets) < 0).any():
            raise ValueError(
                f"positives are (offsets, rows) with {len(offsets)} offsets that must be"
                f" {num_queries + 1}, rise from 0 and end at {len(ids)}, the number of rows"
            )
    else:
        ids = np.asarray(positives, dtype=np.int64)
        if ids.shape != (num_queries,):
            raise ValueError(
                f"positives has shape {ids.shape} for {num_queries} queries; give one row each, or"
                " CSR (offsets, rows)"
            )
        offsets = np.arange(num_queries + 1, dtype=np.int64)
    if not len(ids):
        raise ValueError("positives is empty; there is nothing to train on")
    wrong = ids[(ids < 0) | (ids >= num_documents)]
    if len(wrong):
        raise ValueError(f"positives has the row {wrong[0]}; there are {num_documents} documents")
    return offsets, ids


def checked_negatives(
    negatives: Any, num_queries: int, num_documents: int
) -> NDArray[np.int64] | None:
    """Negatives int64 [queries, n], -1 for none."""
    if negatives is None:
        return None
    found = np.asarray(negatives, dtype=np.int64)
    if found.ndim != 2 or len(found) != num_queries:
        raise ValueError(
            f"negatives has shape {found.shape} for {num_queries} queries; it needs a row for each"
        )
    if (found < -1).any() or (found >= num_documents).any():
        raise ValueError(f"negatives has a row outside -1 and the {num_documents} documents")
    return found


def checked_sources(
    sources: Sequence[tuple[Any, Any]] | None, positives: Csr, num_queries: int, num_documents: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Queries and documents of each source, ascending; one source of all where None is given."""
    if sources is None:
        return [(np.arange(num_queries), np.arange(num_documents))]
    offsets, ids = positives
    found, seen = [], np.zeros(num_queries, dtype=np.int64)
    for place, (queries, documents) in enumerate(sources):
        asked = _rows(queries, f"sources[{place}][0]", num_queries)
        there = _rows(documents, f"sources[{place}][1]", num_documents)
        seen[asked] += 1
        for query in asked:
            own = ids[offsets[query] : offsets[query + 1]]
            foreign = own[~np.isin(own, there)]
            if len(foreign):
                raise ValueError(
                    f"sources[{place}] has query {query}, but not document {foreign[0]}, a positive"
                    " of it; add it to the documents of that source"
                )
        found.append((asked, there))
    wrong = np.flatnonzero((seen != 1) & (seen + np.diff(offsets) > 0))
    if len(wrong):
        raise ValueError(
            f"sources has query {wrong[0]} {seen[wrong[0]]} times; every query that has a positive"
            " is of one source"
        )
    return found


def _rows(given: Any, name: str, count: int) -> NDArray[np.int64]:
    rows = np.asarray(given)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iu"):
        raise ValueError(f"{name} has shape {rows.shape} and dtype {rows.dtype}; give row numbers")
    rows = rows.astype(np.int64)
    wrong = rows[(rows < 0) | (rows >= count)]
    if len(wrong):
        raise ValueError(f"{name} has the row {wrong[0]}; there are {count}")
    return np.unique(rows)


def numbers_per_pair(values: Any, name: str, pairs: int) -> Floats:
    """Float32 [pairs], without NaN."""
    found = np.asarray(values, dtype=np.float32)
    if found.shape != (pairs,):
        raise ValueError(
            f"{name} has shape {found.shape} for {pairs} pairs of a query and a positive; give one"
            " number each, in the order of the positives"
        )
    bad = np.flatnonzero(np.isnan(found))
    if len(bad):
        raise ValueError(f"{name}[{bad[0]}] is NaN; give a number")
    return found


def checked_weights(weights: Any, pairs: int) -> Floats | None:
    """Weights [pairs], finite, at least 0 and not all 0."""
    if weights is None:
        return None
    found = numbers_per_pair(weights, "weights", pairs)
    bad = np.flatnonzero(~(found >= 0) | np.isinf(found))
    if len(bad):
        raise ValueError(f"weights[{bad[0]}] is {found[bad[0]]}; weights are finite and >= 0")
    if not found.any():
        raise ValueError("weights are all 0; there is nothing to train on")
    return found


def at_least_one(**numbers: int | None) -> None:
    """Each is an integer of at least 1, or None."""
    for name, value in numbers.items():
        if value is None:
            continue
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}; give an integer")
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")


def positive(**rates: float) -> None:
    """Each is above 0."""
    for name, rate in rates.items():
        if not rate > 0:
            raise ValueError(f"{name} must be positive, but is {rate}")
