"""Ids of queries and documents as numbers, the same in every process."""

from __future__ import annotations

import hashlib
import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def id_number(value: Any) -> int:
    """An id as int64: integers as they are, strings by a hash that does not change between runs."""
    if isinstance(value, str):
        return _hashed(f"id {value}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(
            f"an id is {value!r}; ids are integers or strings, so leave out a column that does not "
            "know all of its ids"
        ) from None


def unknown_number(process: int, column: int, row: int) -> int:
    """The id of a document whose own nobody knows: no other document has it."""
    return _hashed(f"unknown {process} {column} {row}")


def shared_numbers(
    queries: NDArray[np.int64] | None, documents: list[NDArray[np.int64]]
) -> list[NDArray[np.int64]]:
    """Document ids in which documents that must not be negatives of each other are equal.

    Documents are one if their ids agree or if they answer one query: row i of the first column
    answers query i. Both relations together are closed: with two queries that share a document,
    all documents of both become one.

    Args:
        queries: ids of the rows' queries, or None.
        documents: ids of the rows' positives, then of each column of negatives.

    >>> import numpy as np
    >>> queries, positives = np.array([7, 8, 7]), np.array([1, 2, 3])
    >>> shared_numbers(queries, [positives, np.array([2, 3, 9])])
    [array([0, 1, 0]), array([1, 0, 3])]
    """
    lengths = np.cumsum([column.size for column in documents])[:-1]
    _, place = np.unique(np.concatenate(documents), return_inverse=True)
    place = place.reshape(-1)
    if queries is not None:
        _, query = np.unique(queries, return_inverse=True)
        query, answer = query.reshape(-1), place[: queries.size]
        label = np.arange(place.max() + 1)
        while True:  # every document takes the smallest label that one of its queries has seen
            smallest = np.full(query.max() + 1, label.size)
            np.minimum.at(smallest, query, label[answer])
            new = label.copy()
            np.minimum.at(new, answer, smallest[query])
            if np.array_equal(new, label):
                break
            label = new
        place = label[place]
    return [np.ascontiguousarray(part) for part in np.split(place.astype(np.int64), lengths)]


def _hashed(text: str) -> int:
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
