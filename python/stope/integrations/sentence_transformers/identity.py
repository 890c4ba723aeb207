"""Which documents of a batch are one, and which pairs are known to be right.

A document is no negative of a row whose positive it is: by its text, by its id, because it answers
the same query, or because pairs say so.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import torch
from stope.integrations.sentence_transformers.row_table import UNKNOWN, RowTable
from stope.lists import Ids, Lists
from stope.torch.distributed import gather_rows, own_rows, world_size
from torch import Tensor


class Peers(NamedTuple):
    """The processes whose documents are negatives of each other.

    Attributes:
        together: whether there are others.
        device: where they exchange rows.
        group: their process group, None for all.
    """

    together: bool
    device: torch.device | str = "cpu"
    group: Any = None

    def gather(self, rows: Ids) -> Ids:
        """The rows of all of them, in the order of their ranks."""
        if not self.together:
            return rows
        there = torch.from_numpy(np.ascontiguousarray(rows)).to(self.device)
        return np.asarray(gather_rows(there, self.group).cpu().numpy())

    def first(self, rows: int) -> int:
        """Where this process's rows begin among those of all."""
        return own_rows(rows, self.device, self.group).start if self.together else 0

    @property
    def processes(self) -> Any:
        """What `stope.weighting` calls these processes."""
        return (self.group or "all") if self.together and world_size(self.group) > 1 else None


class Names(NamedTuple):
    """By what documents are known, one entry for each; UNKNOWN equals nothing.

    Attributes:
        texts: int64 [n], numbers of their texts.
        ids: int64 [n], their ids.
        queries: int64 [n], ids of the queries that they answer.
    """

    texts: Ids
    ids: Ids
    queries: Ids


class KnownPairs(NamedTuple):
    """What `stope.torch.InfoNCELoss` is told, in each direction.

    Attributes:
        of_queries: "document_ids", "exclude" and "queue_ids" of the rows' queries.
        of_documents: "document_ids" and "exclude" of the rows' own positives against all queries;
            read where the loss is symmetric.
        mistaken: bool [rows, h], whether a row's own hard negative is none; None without any.
        queued: bool [k], the documents of the queue that no query of the batch has as a positive.
    """

    of_queries: dict[str, Any]
    of_documents: dict[str, Any]
    mistaken: NDArray[np.bool_] | None
    queued: NDArray[np.bool_] | None = None


def united(*relations: Ids) -> Ids:
    """Labels of documents, equal for those that a chain of relations makes one.

    Args:
        *relations: int64 [n] each; documents with the same entry are one, UNKNOWN says nothing.

    >>> united(np.array([1, 2, 3]), np.array([7, UNKNOWN, 7])).tolist()
    [0, 1, 0]
    """
    labels = np.arange(len(relations[0]))
    groups = []
    for relation in relations:
        known = np.flatnonzero(relation != UNKNOWN)
        _, group = np.unique(relation[known], return_inverse=True)
        groups.append((known, group.reshape(-1)))
    while True:  # every document takes the smallest label in its groups
        before = labels.copy()
        for known, group in groups:
            smallest = np.full(len(known), len(labels))
            np.minimum.at(smallest, group, labels[known])
            labels[known] = smallest[group]
        if np.array_equal(labels, before):
            return np.asarray(labels, dtype=np.int64)


def known_pairs(
    names: Names,
    rows: int,
    peers: Peers,
    *,
    table: RowTable | None = None,
    of_table: Ids | None = None,
    queue: Names | None = None,
    symmetric: bool = False,
) -> KnownPairs:
    """Who is whose positive among the queries and documents of all processes.

    Args:
        names: of this process's documents, column by column, the rows' positives first.
        rows: of this process.
        peers: the processes.
        table: of the rows, or None.
        of_table: int64 [rows], the rows' numbers in the table, or None.
        queue: of the queue's documents, or None.
        symmetric: whether of_documents is wanted.

    Memory: some int64 per document of all processes and per positive of their queries.
    """
    count = len(names.texts)
    marks, queue_marks = _marks(names, peers, queue)
    paired = table is not None and table.pairs is not None and of_table is not None
    numbers = torch.from_numpy(marks)
    of_queries: dict[str, Any] = {}
    of_documents: dict[str, Any] = {}
    if peers.together or paired or queue is not None or len(np.unique(marks)) < count:
        of_queries["document_ids"] = numbers
        of_documents["document_ids"] = numbers[:rows]  # a query is as its positive
    if queue_marks is not None:
        of_queries["queue_ids"] = torch.from_numpy(queue_marks)
    hard = marks[rows:].reshape(-1, rows).T
    mistaken = hard == marks[:rows, None] if hard.size else None
    if not paired:
        return KnownPairs(of_queries, of_documents, mistaken)
    assert table is not None
    assert of_table is not None
    positives = table.columns_of_positives(of_table, peers.gather(names.texts))
    # They count from this process's first; those of processes before it are negative.
    columns = positives.ids - peers.first(count)
    of_queries["exclude"] = _tensors(positives._replace(ids=columns))
    if mistaken is not None:
        hit = (columns >= rows) & (columns < count) & (columns % rows == positives.owners)
        mistaken[positives.owners[hit], columns[hit] // rows - 1] = True
    queued = None
    everybody = peers.gather(of_table) if symmetric or queue is not None else of_table
    if queue is not None:  # excluded ids reach documents alone
        queued = np.ones(len(queue.texts), dtype=bool)
        queued[table.columns_of_positives(everybody, queue.texts).ids] = False
        of_queries["queue_ids"] = of_queries["queue_ids"][torch.from_numpy(queued)]
    if symmetric:
        answered = table.columns_of_positives(everybody, names.texts[:rows])
        asked = Lists.from_owners(answered.ids, answered.owners - peers.first(rows), rows)
        of_documents["exclude"] = _tensors(asked)
    return KnownPairs(of_queries, of_documents, mistaken, queued)


def _marks(names: Names, peers: Peers, queue: Names | None) -> tuple[Ids, Ids | None]:
    """One number per document of this process and of the queue: equal ones are one document."""
    told = (names,) if queue is None else (names, queue)
    by_text = all((known.texts != UNKNOWN).all() for known in told)
    if by_text and all(
        (known.ids == UNKNOWN).all() and (known.queries == UNKNOWN).all() for known in told
    ):
        return names.texts, None if queue is None else queue.texts
    everybody = [peers.gather(known) for known in names]
    total, count = len(everybody[0]), len(names.texts)
    if queue is not None:
        everybody = [np.concatenate(both) for both in zip(everybody, queue, strict=True)]
    marks = united(*everybody)
    start = peers.first(count)
    return marks[start : start + count], None if queue is None else marks[total:]


def _tensors(lists: Lists) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(lists.offsets), torch.from_numpy(np.ascontiguousarray(lists.ids))
