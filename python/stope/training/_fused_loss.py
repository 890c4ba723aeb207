"""The fused loss as sentence-transformers' trainer calls it, and the batches that feed it.

The trainer hands what its collator calls "label" to the loss as it is. Here that is a dictionary of
arguments for `stope.torch.InfoNCELoss`: the rows' weights and the documents' ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from stope.training._batches import WEIGHT
from stope.training._library import part


class FusedLoss(nn.Module):  # type: ignore[misc]
    """Embeds the columns of a batch, query first and positive second, and takes their loss.

    Attributes:
        model: the encoder that is trained.
        infonce: `stope.torch.InfoNCELoss`.
    """

    def __init__(self, model: Any, infonce: Any) -> None:
        super().__init__()
        self.model = model
        self.infonce = infonce

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Any:
        """The loss of one batch; labels is what `Batches` adds, or None."""
        columns = [dict(column) for column in sentence_features]  # modules write into them
        embeddings = [self.model(column)["sentence_embedding"] for column in columns]
        return _loss(self.infonce, embeddings, labels)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        return {"temperature": float(self.infonce.temperature), **self.infonce.options}


class CachedFusedLoss(part("losses").CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
    """The same with the library's gradient cache: so many rows are encoded at a time."""

    def __init__(self, model: Any, infonce: Any, mini_batch_size: int) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size)
        self.infonce = infonce
        self._batch: Any = None

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Any:
        """The loss of one batch; its backward pass encodes every mini-batch once more."""
        self._batch = labels  # version 5 of the library does not hand them on
        return super().forward(sentence_features, labels)

    def calculate_loss(self, reps: Any, labels: Any = None, *, with_backward: bool = False) -> Any:
        """The loss of all mini-batches' embeddings."""
        loss = _loss(self.infonce, [torch.cat(column) for column in reps], self._batch)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        options = {"mini_batch_size": self.mini_batch_size, **self.infonce.options}
        return {"temperature": float(self.infonce.temperature), **options}


def _loss(infonce: Any, embeddings: Sequence[Any], labels: Any) -> Any:
    # The loss is computed on the CPU; to and from another device autograd finds its way.
    queries, *documents = (
        rows.to("cpu", torch.float32) if rows.dtype == torch.float64 else rows.cpu()
        for rows in embeddings
    )
    given = dict(labels) if isinstance(labels, Mapping) else {}
    return infonce(queries, torch.cat(documents), **{n: v.cpu() for n, v in given.items()})


class Batches:
    """The trainer's collator, with the rows' weights and the documents' identity beside the texts.

    Documents are one if their texts are equal, so that no copy of a row's positive, such as another
    row's hard negative, is a negative of the row. Ids are left out where all texts differ.
    """

    def __init__(self, collator: Any) -> None:
        self.collator = collator
        self.valid_label_columns = collator.valid_label_columns

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One batch of tensors from rows of the dataset."""
        kept = [{name: row[name] for name in row if name != WEIGHT} for row in rows]
        batch: dict[str, Any] = self.collator(kept)
        documents = [name for name in kept[0] if f"{name}_input_ids" in batch][1:]
        numbers: dict[str, int] = {}
        ids = [numbers.setdefault(row[name], len(numbers)) for name in documents for row in kept]
        labels = {}
        if len(numbers) < len(ids):
            labels["document_ids"] = torch.tensor(ids)
        if WEIGHT in rows[0]:
            labels["weights"] = torch.tensor([float(row[WEIGHT]) for row in rows])
        batch["label"] = labels
        return batch
