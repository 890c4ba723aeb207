"""A document that several rows of a batch bring, scored once and counted as often as it is there.

c equal columns are c equal terms of the denominator, c exp(l) = exp(l + log c): one of them with
the log-weight log c (docs/methods.md, H1) stands for all, with loss and gradients as before up to
rounding. Five negatives of each of 20,000 rows are 120,000 columns and far fewer documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

import torch
from stope.integrations.sentence_transformers.row_table import UNKNOWN
from stope.lists import Ids, Lists
from torch import Tensor

COLUMNS = "columns"  # which columns stand for all, and how many negatives a row has of all:
NEGATIVES = "negatives"  # beside what `stope.torch.InfoNCELoss` is told
_SUMS = ("out", "in", "excl", "decoupled")  # these read the sum of the negatives' exponentials
_TOLD = {"document_ids", "exclude", "hard_negatives"}
_USUAL = {
    "directions": ("query_to_document",),
    "hard_negative_log_weight": 0.0,
    "foreign_hard_negatives": True,
    "hardness": None,
    "focal_margin": None,
    "drop": 0.0,
    # With limits of scores nobody but the core knows how many copies are negatives.
    **dict.fromkeys(("absolute_margin", "relative_margin", "max_score", "min_score")),
}


def counts_copies(options: Mapping[str, Any], positive_sigma: float | None) -> bool:
    """Whether with these options equal columns count alike, whichever row brings them.

    >>> counts_copies({}, None), counts_copies({"hard_negative_log_weight": -1.0}, None)
    (True, False)
    """
    alike = all(options.get(name) in (None, usual) for name, usual in _USUAL.items())
    return alike and positive_sigma is None and options.get("objective", "out") in _SUMS


def distinct_columns(
    documents: Tensor, rows: int, numbers: Ids | None, there: Mapping[str, Any]
) -> dict[str, Any] | None:
    """What the loss is told if each document is scored once; None where that is not the same.

    Args:
        documents: ``[n, d]``, column by column, the rows' positives first.
        rows: how many there are.
        numbers: int64 ``[n]``, of their texts, or None.
        there: what the loss would be told: nothing but ids, exclusions and hard negatives, whose
            list no option reads (`counts_copies`).

    Returns:
        The same of the columns that `COLUMNS` names, with positives and log-weights; `NEGATIVES`
        is int64 ``[rows]``, over all columns. None: no
        document is there twice, copies have unequal embeddings (Dropout), or the copies of a
        positive are not known to be no negatives of its row.

    Memory: the documents once more.
    """
    if numbers is None or "document_ids" not in there or not there.keys() <= _TOLD:
        return None
    _, first, place, counts = np.unique(
        numbers, return_index=True, return_inverse=True, return_counts=True
    )
    if len(first) == len(numbers) or (numbers == UNKNOWN).any():
        return None
    columns = torch.from_numpy(first).to(documents.device)
    with torch.no_grad():
        stand_ins = documents.index_select(0, torch.from_numpy(first[place]).to(documents.device))
        if not torch.equal(stand_ins, documents):
            return None
    marks = there["document_ids"].cpu().numpy()
    _, same, copies = np.unique(marks, return_inverse=True, return_counts=True)
    negatives = len(marks) - copies[same[:rows]]
    told = {
        COLUMNS: columns,
        "positives": torch.from_numpy(place[:rows]),
        "document_ids": there["document_ids"][torch.from_numpy(first)],
        "log_weights": torch.from_numpy(np.log(counts)).to(documents.device, torch.float32),
    }
    if "exclude" in there:
        excluded = Lists(*(part.cpu().numpy() for part in there["exclude"]))
        others = marks[excluded.ids] != marks[excluded.owners]  # row i's positive is column i
        negatives -= np.bincount(excluded.owners[others], minlength=rows)
        pairs = np.unique(excluded.owners * len(first) + place[excluded.ids])
        owners, ids = np.divmod(pairs, len(first))
        lists = Lists.from_owners(owners, ids, rows)
        told["exclude"] = (torch.from_numpy(lists.offsets), torch.from_numpy(lists.ids))
    return {**told, NEGATIVES: torch.from_numpy(negatives)}
