"""The fused loss as sentence-transformers' trainer calls it, and the batches that feed it.

The trainer hands what its collator calls "label" to the loss as it is. Here that is a dictionary of
what is known of the batch's rows. The trainer collates one batch ahead, so nothing that changes
while training runs is read there: the loss itself looks up, reads and encodes live negatives when
the step begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed as dist
from torch import nn

from stope.torch.distributed import gather_rows, own_rows, world_size
from stope.training._clock import Clock
from stope.training._library import part
from stope.training._rows import ROW, SOURCE, WEIGHT, Columns, RowTable, columns_of, text_numbers
from stope.training._signals import RowWeights, observations, own_scores
from stope.weighting import Weighting


@dataclass(frozen=True)
class Parts:
    """What the fused loss is made of beside the encoder and `stope.torch.InfoNCELoss`.

    Attributes:
        weighting: weights from difficulty, or None.
        negatives: `stope.training.LiveNegatives`, or None.
        prompts: with ``.document(source)``, for the texts of live negatives, or None.
        table: of the rows, or None.
        dims: Matryoshka dims, the whole one first; () for none.
        dim_weights: their weights in the sum.
    """

    weighting: Weighting | None = None
    negatives: Any = None
    prompts: Any = None
    table: RowTable | None = None
    dims: tuple[int, ...] = ()
    dim_weights: tuple[float, ...] = ()


@dataclass
class _Batch:
    """One batch's rows: what came with it, and which live negatives were chosen for it."""

    columns: dict[str, Any] = field(default_factory=dict)  # signals and weights
    numbers: NDArray[np.int64] | None = None  # of all documents, in their order
    rows: NDArray[np.int64] | None = None
    queries: NDArray[np.int64] | None = None
    chosen: NDArray[np.int64] | None = None  # [rows, n]


class _Contrast:
    """What both losses do: from the batch to its columns, and from embeddings to the loss.

    Attributes:
        infonce: `stope.torch.distributed.DistributedInfoNCELoss`; in one process
            `stope.torch.InfoNCELoss`.
        clock: progress and step, kept up to date by `train`.
        parts: the options.
        observed: numbers about the last batch, for the log.
    """

    infonce: Any
    clock: Clock
    parts: Parts
    observed: dict[str, float]

    def _assemble(self, model: Any, infonce: Any, parts: Parts, clock: Clock | None) -> None:
        self.infonce = infonce
        self.parts = parts
        self.clock = Clock() if clock is None else clock
        self.observed = {}
        # Wrappers for several processes hide the function, so it is kept from the model itself.
        self._read = model.preprocess if hasattr(model, "preprocess") else model.tokenize

    def _open(
        self, sentence_features: Iterable[dict[str, Any]], labels: Any
    ) -> tuple[list[dict[str, Any]], _Batch]:
        """The columns, with live negatives at their end, and what is known of the rows."""
        columns = [dict(column) for column in sentence_features]  # modules write into them
        given = dict(labels) if isinstance(labels, Mapping) else {}
        batch = _Batch({name: values.cpu() for name, values in given.get("signals", {}).items()})
        if "weights" in given:
            batch.columns[WEIGHT] = given["weights"].cpu().float()
        if "document_ids" in given:
            batch.numbers = given["document_ids"].cpu().numpy()
        if "rows" in given:
            batch.rows = given["rows"].cpu().numpy()
        if self.parts.negatives is not None:
            columns += self._live(batch, given.get("sources"), _device(columns[1]))
        return columns, batch

    def _live(self, batch: _Batch, sources: Any, device: Any) -> list[dict[str, Any]]:
        """Features of the negatives that the batch's queries have now."""
        table, negatives = self.parts.table, self.parts.negatives
        if batch.rows is None or table is None or table.query_of is None or batch.numbers is None:
            raise ValueError(
                "live negatives need to know the rows of a batch: give examples as Pairs, or "
                f'batches through the collator of this loss with a column "{ROW}".'
            )
        batch.queries = table.query_of[batch.rows]
        batch.chosen = np.asarray(negatives.choose(batch.queries, self.clock.step), np.int64)
        if batch.chosen.ndim != 2 or len(batch.chosen) != len(batch.rows):
            raise ValueError(
                f"negatives chose ids of shape {batch.chosen.shape} for {len(batch.rows)} rows; "
                "one row of ids is needed for each."
            )
        batch.numbers = np.concatenate([batch.numbers, batch.chosen.T.reshape(-1)])
        found = []
        for ids in batch.chosen.T:
            texts = list(negatives.texts(ids))
            if self.parts.prompts is not None:
                names = sources if sources is not None else [None] * len(texts)
                prompts = [self.parts.prompts.document(name) for name in names]
                texts = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
            features = self._read(texts)
            found.append({k: v.to(device) if hasattr(v, "to") else v for k, v in features.items()})
        return found

    def _loss(self, embeddings: Sequence[Any], batch: _Batch) -> Any:
        # The loss is computed on the CPU; to and from another device autograd finds its way.
        queries, *columns = (
            rows.to("cpu", torch.float32) if rows.dtype == torch.float64 else rows.cpu()
            for rows in embeddings
        )
        documents = torch.cat(columns)
        group = self.infonce.group = _cpu_group(self.infonce.group)
        tensors, masked = self._identity(batch, len(queries), len(documents), group)
        scores = own_scores(queries, columns[1:])
        weights = RowWeights(
            self.parts.weighting,
            self.clock.progress,
            own_scores=scores if masked is None else scores.masked_fill(masked, -torch.inf),
            columns=batch.columns,
            group=group,
        )
        value = self.infonce(queries, documents, weights=weights.for_loss, **tensors)
        statistics = self.infonce.statistics
        found: dict[str, float] = {}
        if self.parts.dims:
            value = self._with_shorter(value, queries, documents, weights, tensors, found)
        if weights.nothing:
            value = value * 0.0
        possible = self._possible(len(queries), len(documents), group)
        found |= observations(statistics, weights, possible)
        if batch.chosen is not None:
            own = scores[:, -batch.chosen.shape[1] :].numpy()
            self.parts.negatives.observe(batch.queries, batch.chosen, own)
            found["negatives_version"] = float(self.parts.negatives.version)
        self.observed = {"loss": float(value.detach()), **found}
        return value

    def _identity(
        self, batch: _Batch, rows: int, columns: int, group: Any
    ) -> tuple[dict[str, Any], Any]:
        """What makes documents no negatives of a row; and which of its own hard ones they are."""
        if batch.numbers is None:
            return {}, None
        if len(batch.numbers) != columns:
            raise ValueError(
                f"document_ids has {len(batch.numbers)} numbers for {columns} documents; give one "
                "for each, column by column."
            )
        tensors: dict[str, Any] = {"document_ids": torch.from_numpy(batch.numbers)}
        masked = None
        own = batch.numbers[rows:].reshape(-1, rows).T
        if own.size:
            masked = own == batch.numbers[:rows, None]
        table = self.parts.table
        if table is not None and table.pairs is not None and batch.rows is not None:
            everything = gather_rows(tensors["document_ids"], group).numpy()
            offsets, found = table.columns_of_positives(batch.rows, everything)
            # Columns count from this process's first; those of processes before it are negative.
            found = found - own_rows(columns, group=group).start
            tensors["exclude"] = (torch.from_numpy(offsets), torch.from_numpy(found))
            if masked is not None:
                row_of = np.repeat(np.arange(rows), np.diff(offsets))
                hit = (found >= rows) & (found < columns) & (found % rows == row_of)
                masked[row_of[hit], found[hit] // rows - 1] = True
        return tensors, None if masked is None else torch.from_numpy(masked)

    def _with_shorter(
        self,
        value: Any,
        queries: Any,
        documents: Any,
        weights: RowWeights,
        tensors: dict[str, Any],
        found: dict[str, float],
    ) -> Any:
        """The weighted sum of the loss and those of the embeddings' first elements."""
        whole, statistics = queries.shape[1], self.infonce.statistics
        if self.parts.dims[0] != whole:
            raise ValueError(
                f"matryoshka_dims starts with {self.parts.dims[0]}, but the model's embeddings "
                f"have {whole}; start with {whole}."
            )
        total = self.parts.dim_weights[0] * value
        found[f"loss_{whole}"] = float(value.detach())
        for dim, factor in zip(self.parts.dims[1:], self.parts.dim_weights[1:], strict=True):
            short = self.infonce(
                queries[:, :dim], documents[:, :dim], weights=weights.usable, **tensors
            )
            found[f"loss_{dim}"] = float(short.detach())
            total = total + factor * short
        self.infonce.statistics = statistics
        return total

    def _possible(self, rows: int, columns: int, group: Any) -> float:
        """Negatives per row without any mask."""
        total = gather_rows(torch.tensor([[float(rows), float(columns)]]), group).sum(dim=0)
        directions = self.infonce.options.get("directions") or ("query_to_document",)
        sizes = {"query_to_document": total[1], "document_to_query": total[0]}
        return sum(float(sizes[name]) - 1.0 for name in directions)


class FusedLoss(_Contrast, nn.Module):  # type: ignore[misc]
    """Embeds the columns of a batch, query first and positive second, and takes their loss.

    Attributes:
        model: the encoder that is trained.
    """

    def __init__(
        self, model: Any, infonce: Any, parts: Parts = Parts(), clock: Clock | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.model = model
        self._assemble(model, infonce, parts, clock)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Any:
        """The loss of one batch; labels is what `Batches` adds, or None."""
        columns, batch = self._open(sentence_features, labels)
        embeddings = [self.model(column)["sentence_embedding"] for column in columns]
        return self._loss(embeddings, batch)

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        return {"temperature": float(self.infonce.temperature), **self.infonce.options}


class CachedFusedLoss(_Contrast, part("losses").CachedMultipleNegativesRankingLoss):  # type: ignore[misc]
    """The same with the library's gradient cache: so many rows are encoded at a time."""

    def __init__(
        self,
        model: Any,
        infonce: Any,
        mini_batch_size: int,
        parts: Parts = Parts(),
        clock: Clock | None = None,
    ) -> None:
        super().__init__(model, mini_batch_size=mini_batch_size)
        self._assemble(model, infonce, parts, clock)
        self._batch = _Batch()

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Any = None) -> Any:
        """The loss of one batch; its backward pass encodes every mini-batch once more."""
        # Version 5 of the library does not hand the labels on.
        columns, self._batch = self._open(sentence_features, labels)
        return super().forward(columns, labels)

    def calculate_loss(self, reps: Any, labels: Any = None, *, with_backward: bool = False) -> Any:
        """The loss of all mini-batches' embeddings."""
        loss = self._loss([torch.cat(column) for column in reps], self._batch)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        options = {"mini_batch_size": self.mini_batch_size, **self.infonce.options}
        return {"temperature": float(self.infonce.temperature), **options}


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


def _device(features: Mapping[str, Any]) -> Any:
    return next(value.device for value in features.values() if isinstance(value, torch.Tensor))


def _cpu_group(group: Any) -> Any:
    """A process group that can exchange what lies in the CPU's memory, where the loss is."""
    if group is None and world_size() > 1 and dist.get_backend() == "nccl":
        return dist.new_group(backend="gloo")
    return group
