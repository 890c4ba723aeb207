"""Which pairs of a batch are known to be right, so that neither is a negative of the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import torch
from stope.torch.distributed import gather_rows, own_rows
from stope.training.rows import RowTable

Ids = NDArray[np.int64]


class KnownPairs(NamedTuple):
    """What `stope.torch.InfoNCELoss` is told, in each direction.

    Attributes:
        of_queries: "document_ids" and "exclude" of the rows' queries against all documents.
        of_documents: the same of the rows' own positives against all queries; read where the loss
            is symmetric.
        own: bool [rows, h], whether a row's own hard negative is none; None without any.
    """

    of_queries: dict[str, Any]
    of_documents: dict[str, Any]
    own: NDArray[np.bool_] | None


def known_pairs(
    numbers: Ids,
    table: RowTable | None,
    of_table: Ids | None,
    rows: int,
    *,
    symmetric: bool,
    device: Any,
    group: Any,
) -> KnownPairs:
    """Who is whose positive among the queries and documents of all processes.

    A document with the number of the row's positive is no negative of the row, nor is the row's
    query one of that document; with pairs no positive of the query is, in both directions.

    Args:
        numbers: int64 [columns * rows], of this process's documents, the rows' positives first.
        table: of the rows, or None.
        of_table: int64 [rows], the rows' numbers in the table, or None.
        rows: of this process.
        symmetric: whether of_documents is wanted.
        device: where the processes exchange rows.
        group: their process group.

    Memory: some int64 per document of all processes and per positive of their queries.
    """
    ids = torch.from_numpy(numbers).to(device)
    of_queries: dict[str, Any] = {"document_ids": ids}
    of_documents: dict[str, Any] = {"document_ids": ids[:rows]}  # a query is as its positive
    hard = numbers[rows:].reshape(-1, rows).T
    own = hard == numbers[:rows, None] if hard.size else None
    if table is None or table.pairs is None or of_table is None:
        return KnownPairs(of_queries, of_documents, own)
    offsets, columns = table.columns_of_positives(of_table, gather_rows(ids, group).cpu().numpy())
    # They count from this process's first; those of processes before it are negative.
    columns = columns - own_rows(len(numbers), device, group).start
    of_queries["exclude"] = (torch.from_numpy(offsets), torch.from_numpy(columns))
    if own is not None:
        row_of = np.repeat(np.arange(rows), np.diff(offsets))
        hit = (columns >= rows) & (columns < len(numbers)) & (columns % rows == row_of)
        own[row_of[hit], columns[hit] // rows - 1] = True
    if not symmetric:
        return KnownPairs(of_queries, of_documents, own)
    everybody = gather_rows(torch.from_numpy(of_table).to(device), group).cpu().numpy()
    offsets, answered = table.columns_of_positives(everybody, numbers[:rows])
    order = np.argsort(answered, kind="stable")
    ends = np.concatenate([[0], np.cumsum(np.bincount(answered, minlength=rows))])
    asked = np.repeat(np.arange(len(everybody)), np.diff(offsets))[order]
    asked = asked - own_rows(rows, device, group).start
    of_documents["exclude"] = (torch.from_numpy(ends), torch.from_numpy(asked))
    return KnownPairs(of_queries, of_documents, own)
