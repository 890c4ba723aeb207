"""What is known of one batch beside its texts, and the live negatives that it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import torch
from stope._checks import shown
from stope.encoders.versions import Features
from stope.integrations.sentence_transformers.columns import ROW, TEACHER, WEIGHT, check_labels
from stope.integrations.sentence_transformers.identity import Names
from stope.integrations.sentence_transformers.row_table import UNKNOWN
from stope.lists import Ids
from torch import Tensor

Told = dict[str, Any]  # what the collator says of the rows, by name


@dataclass
class Batch:
    """What the collator says of the rows, and which live negatives were chosen for them.

    Attributes:
        signals: of the rows by name, and their weights.
        numbers: int64 [documents], of the texts, column by column.
        ids: int64 [columns, rows], of queries and documents.
        log_weights: float32 [rows], of the positives.
        teacher_scores: float32 [rows, 1 + h], of the positive and each hard negative.
        rows: int64 [rows], in the table.
        sources: of the rows.
        queries: int64 [rows], of the pairs.
        chosen: int64 [rows, n], live negatives.
        guides: the guide's embeddings of each column.
        again: a loss around this one asks for the same batch once more.
    """

    signals: dict[str, Any] = field(default_factory=dict)
    numbers: Ids | None = None
    ids: Ids | None = None
    log_weights: Tensor | None = None
    teacher_scores: Tensor | None = None
    rows: Ids | None = None
    sources: Sequence[str | int] | None = None
    queries: Ids | None = None
    chosen: Ids | None = None
    guides: list[Tensor] | None = None
    again: bool = False

    @classmethod
    def of(cls, told: Told) -> Batch:
        """From what the collator says."""
        batch = cls({name: values.cpu() for name, values in told.get("signals", {}).items()})
        if "weights" in told:
            batch.signals[WEIGHT] = told["weights"].cpu().float()
        for name, key in (("numbers", "document_ids"), ("ids", "ids"), ("rows", "rows")):
            if key in told:
                setattr(batch, name, told[key].cpu().numpy())
        batch.log_weights, batch.sources = told.get("log_weights"), told.get("sources")
        batch.teacher_scores = told.get(TEACHER)
        return batch

    def names(self, rows: int, documents: int) -> Names | None:
        """By what the documents are known; None where nothing is.

        Raises:
            ValueError: not one number per document.
        """
        if self.numbers is None and self.ids is None:
            return None
        names = Names(*(np.full(documents, UNKNOWN) for _ in Names._fields))
        if self.numbers is not None:
            if len(self.numbers) != documents:
                raise ValueError(
                    f"document_ids has {len(self.numbers)} numbers for {documents} documents; "
                    "give one for each, column by column"
                )
            names.texts[:] = self.numbers
        if self.ids is not None:
            queries, *others = self.ids
            names.ids[: len(others) * rows] = np.concatenate(others)
            names.queries[:rows] = queries
        return names


def told_of(labels: Any) -> Told:
    """What the collator says of the rows; labels that are all 1 say nothing.

    Raises:
        ValueError: a label other than 1.
        TypeError: neither dictionary nor labels.
    """
    if labels is None:
        return {}
    if isinstance(labels, dict):
        return labels
    if not isinstance(labels, torch.Tensor | Sequence) or isinstance(labels, str):
        raise TypeError(
            f"labels is {shown(labels)}; give what InfoNCECollator makes of the rows, or None"
        )
    check_labels(torch.as_tensor(labels).reshape(-1).tolist(), "label")
    return {}


def live_columns(loss: Any, batch: Batch, told: Told, like: Features) -> list[Features]:
    """Features of the negatives that the batch's queries have now, one column for each.

    Args:
        loss: with its live negatives, rows of pairs, prompts and clock.
        batch: whose numbers, queries and chosen negatives are noted.
        told: the collator's dictionary. It keeps the columns while the batch lasts: a loss around
            this one (AdaptiveLayerLoss) asks again and needs what modules left in the features.
        like: features on the device where they go.

    Raises:
        ValueError: batches without rows; negatives of a wrong shape.
    """
    if batch.rows is None or batch.numbers is None:
        raise ValueError(
            "live negatives need to know the rows of a batch: give examples as Pairs, or batches "
            f'through the collator of this loss with a column "{ROW}"'
        )
    step = loss.clock.step
    batch.queries = loss.rows.query_of[batch.rows]
    kept = told.get("live_columns", {}).get((id(loss), step))
    columns: list[Features]
    if kept is not None:
        batch.chosen, columns = kept
        batch.again = True
    else:
        batch.chosen = np.asarray(loss.negatives.choose(batch.queries, step), np.int64)
        if batch.chosen.ndim != 2 or len(batch.chosen) != len(batch.rows):
            raise ValueError(
                f"negatives chose ids of shape {batch.chosen.shape} for {len(batch.rows)} rows; "
                "one row of ids is needed for each"
            )
        columns = [_features(loss, ids, batch.sources, like) for ids in batch.chosen.T]
        told["live_columns"] = {(id(loss), step): (batch.chosen, columns)}
    batch.numbers = np.concatenate([batch.numbers, batch.chosen.T.reshape(-1)])
    if loss.teacher is not None:
        ids = np.column_stack([loss.rows.positive_numbers[batch.rows], batch.chosen])
        batch.teacher_scores = torch.from_numpy(loss.teacher.scores(batch.queries, ids))
    return columns


def _features(loss: Any, ids: Ids, sources: Sequence[str | int] | None, like: Features) -> Features:
    texts = list(loss.negatives.texts(ids))
    if loss.prompts is not None:
        names = sources if sources is not None else [None] * len(texts)
        prompts = [loss.prompts.document(name) for name in names]
        texts = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
    device = next(value.device for value in like.values() if isinstance(value, torch.Tensor))
    features = loss.read(texts)
    return {k: v.to(device) if hasattr(v, "to") else v for k, v in features.items()}
