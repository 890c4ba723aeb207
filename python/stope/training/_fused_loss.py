"""The fused loss as sentence-transformers' trainer calls it, on batches of `Batches`.

The trainer collates one batch ahead, so nothing that changes while training runs is read there: the
loss itself looks up, reads and encodes live negatives when the step begins. It is computed where
the embeddings are; weights, masks and numbers for the log are found on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from stope.encoders.versions import part
from stope.torch import Statistics
from stope.torch.distributed import gather_rows, world_size
from stope.torch.functional import computes_on
from stope.training._clock import Clock
from stope.training._known_pairs import KnownPairs, known_pairs
from stope.training._signals import RowWeights, observations, own_scores
from stope.training.rows import ROW, WEIGHT, RowTable
from stope.weighting import Weighting
from torch import distributed as dist
from torch import nn


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
        symmetric: the mean of the loss and that of the rows' positives against all queries.
    """

    weighting: Weighting | None = None
    negatives: Any = None
    prompts: Any = None
    table: RowTable | None = None
    dims: tuple[int, ...] = ()
    dim_weights: tuple[float, ...] = ()
    symmetric: bool = False


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
                "one row of ids is needed for each"
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
        # Where this stope does not compute, the CPU does: autograd finds its way there and back.
        queries, *columns = (_computable(rows) for rows in embeddings)
        documents = torch.cat(columns)
        rows, group = len(queries), self._group(queries.device)
        known = KnownPairs({}, {}, None)
        if batch.numbers is not None:
            if len(batch.numbers) != len(documents):
                raise ValueError(
                    f"document_ids has {len(batch.numbers)} numbers for {len(documents)} "
                    "documents; give one for each, column by column"
                )
            known = known_pairs(
                batch.numbers,
                self.parts.table,
                batch.rows,
                rows,
                symmetric=self.parts.symmetric,
                device=queries.device,
                group=group,
            )
        losses, self.infonce.statistics = self._row_losses(queries, documents, known)
        statistics = Statistics(*(values.cpu() for values in self.infonce.statistics))
        scores = own_scores(queries, columns[1:])
        masked = None if known.own is None else torch.from_numpy(known.own)
        weights = RowWeights(
            self.parts.weighting,
            self.clock.progress,
            own_scores=scores if masked is None else scores.masked_fill(masked, -torch.inf),
            columns=batch.columns,
            group=group,
        )
        value = self.infonce.mean(losses, weights.of(statistics))
        found: dict[str, float] = {}
        if self.parts.dims:
            value = self._with_shorter(value, queries, documents, weights, known, found)
        if weights.nothing:
            value = value * 0.0
        possible = self._possible(rows, len(documents), queries.device, group)
        found |= observations(statistics, weights, possible)
        if batch.chosen is not None:
            own = scores[:, -batch.chosen.shape[1] :].numpy()
            self.parts.negatives.observe(batch.queries, batch.chosen, own)
            found["negatives_version"] = float(self.parts.negatives.version)
        self.observed = {"loss": float(value.detach()), **found}
        return value.to(embeddings[0].device)  # where the trainer adds it up

    def _group(self, device: Any) -> Any:
        """The processes, as a group that can exchange what lies on this device."""
        alone = device.type != "cpu" or self.infonce.group is not None or world_size() == 1
        if not alone and dist.get_backend() == "nccl":  # which moves nothing in the CPU's memory
            self.infonce.group = dist.new_group(backend="gloo")  # once: it stays there
        return self.infonce.group

    def _row_losses(self, queries: Any, documents: Any, known: KnownPairs) -> tuple[Any, Any]:
        """Losses of the rows and their statistics, both directions together where both count."""
        losses, statistics = self.infonce.row_losses(queries, documents, **known.of_queries)
        if not self.parts.symmetric:
            return losses, statistics
        others, back = self.infonce.row_losses(
            documents[: len(queries)], queries, **known.of_documents
        )
        return (losses + others) / 2, statistics._replace(
            losses=(statistics.losses + back.losses) / 2,
            negatives=statistics.negatives + back.negatives,
        )

    def _with_shorter(
        self,
        value: Any,
        queries: Any,
        documents: Any,
        weights: RowWeights,
        known: KnownPairs,
        found: dict[str, float],
    ) -> Any:
        """The weighted sum of the loss and those of the embeddings' first elements."""
        whole = queries.shape[1]
        if self.parts.dims[0] != whole:
            raise ValueError(
                f"matryoshka_dims starts with {self.parts.dims[0]}, but the model's embeddings "
                f"have {whole}; start with {whole}"
            )
        total = self.parts.dim_weights[0] * value
        found[f"loss_{whole}"] = float(value.detach())
        for dim, factor in zip(self.parts.dims[1:], self.parts.dim_weights[1:], strict=True):
            losses, _ = self._row_losses(queries[:, :dim], documents[:, :dim], known)
            short = self.infonce.mean(losses, weights.usable)
            found[f"loss_{dim}"] = float(short.detach())
            total = total + factor * short
        return total

    def _possible(self, rows: int, columns: int, device: Any, group: Any) -> float:
        """Negatives per row without any mask."""
        sizes = torch.tensor([[float(rows), float(columns)]], device=device)
        queries, documents = gather_rows(sizes, group).sum(dim=0).tolist()
        back = queries - 1.0 if self.parts.symmetric else 0.0
        return float(documents - 1.0 + back)

    def _described(self) -> dict[str, Any]:
        """The options, for the model card."""
        both = {"symmetric": True} if self.parts.symmetric else {}
        return {"temperature": float(self.infonce.temperature), **self.infonce.options, **both}


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
        return self._described()


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
        return {**self._described(), "mini_batch_size": self.mini_batch_size}


def _device(features: Mapping[str, Any]) -> Any:
    return next(value.device for value in features.values() if isinstance(value, torch.Tensor))


def _computable(rows: Any) -> Any:
    """Embeddings in a dtype that the core takes, on a device that it computes on."""
    if rows.dtype == torch.float64:
        rows = rows.float()
    return rows if computes_on(rows.device) else rows.cpu()
