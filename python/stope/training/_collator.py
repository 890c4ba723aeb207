"""The trainer's collator, with what the loss must know of the rows beside their texts.

The trainer hands what its collator calls "label" to the loss as it is: here a dictionary. It
collates one batch ahead, so nothing that changes while training runs is read here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from stope.torch.distributed import world_size
from stope.training.rows import ROW, SOURCE, WEIGHT, Columns, RowTable, columns_of, text_numbers


class Batches:
    """The trainer's collator, with what the loss must know of the rows beside the texts.

    Args:
        collator: the trainer's.
        table: of the rows; a dataset of pairs has their numbers in its column "row".
        prompts: with ``.query(source)`` and ``.document(source)``, which are put before the texts.

    The label of a batch is a dictionary of what there is: "rows", "weights", "signals" by name,
    "sources", and "document_ids", by which no copy of a row's positive, such as another row's hard
    negative, is a negative of the row: equal texts are one document. They are left out where all
    texts differ and nobody else has any.
    """

    def __init__(self, collator: Any, table: RowTable | None = None, prompts: Any = None) -> None:
        self.collator = collator
        self.valid_label_columns = collator.valid_label_columns
        self.table = table
        self.prompts = prompts

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One batch of tensors from rows of the dataset."""
        columns = columns_of(rows[0])
        batch: dict[str, Any] = self.collator(
            [
                {name: self._prompted(row, name, columns.texts) for name in columns.texts}
                for row in rows
            ]
        )
        paired = self.table is not None and self.table.pairs is not None
        numbers = self._numbers(rows, columns)
        labels: dict[str, Any] = {}
        if paired or world_size() > 1 or len(np.unique(numbers)) < len(numbers):
            labels["document_ids"] = torch.from_numpy(numbers)
        if columns.weight:
            labels["weights"] = torch.tensor([float(row[WEIGHT]) for row in rows])
        if columns.row:
            labels["rows"] = torch.tensor([int(row[ROW]) for row in rows])
        if columns.source:
            labels["sources"] = [row[SOURCE] for row in rows]
        if columns.signals:
            labels["signals"] = {
                name: torch.tensor([float(row[name]) for row in rows]) for name in columns.signals
            }
        batch["label"] = labels
        return batch

    def _numbers(self, rows: Sequence[dict[str, Any]], columns: Columns) -> NDArray[np.int64]:
        """One number per document, column by column."""
        first, *others = columns.texts[1:]
        if self.table is None or self.table.pairs is None:
            return text_numbers([row[name] for name in (first, *others) for row in rows])
        if columns.row:  # no need to look up the texts of positives
            known = self.table.positive_numbers[[int(row[ROW]) for row in rows]]
        else:
            known = self.table.document_numbers([row[first] for row in rows])
        if not others:
            return known
        texts = [row[name] for name in others for row in rows]
        return np.concatenate([known, self.table.document_numbers(texts)])

    def _prompted(self, row: Mapping[str, Any], name: str, texts: Sequence[str]) -> str:
        text: str = row[name]
        if self.prompts is None:
            return text
        ask = self.prompts.query if name == texts[0] else self.prompts.document
        return str(ask(row.get(SOURCE))) + text
