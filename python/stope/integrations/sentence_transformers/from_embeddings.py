"""From the embeddings of a batch to its loss: masks, weights, both directions, prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.nn.functional import normalize

import stope.torch
import torch
from stope.integrations.sentence_transformers.batch import Batch
from stope.integrations.sentence_transformers.clock import Clock
from stope.integrations.sentence_transformers.columns import TEACHER
from stope.integrations.sentence_transformers.distillation import (
    Distillation,
    OwnLists,
    own_lists,
)
from stope.integrations.sentence_transformers.distinct import (
    COLUMNS,
    NEGATIVES,
    counts_copies,
    distinct_columns,
)
from stope.integrations.sentence_transformers.identity import KnownPairs, Names, Peers, known_pairs
from stope.integrations.sentence_transformers.queue import DocumentQueue
from stope.integrations.sentence_transformers.row_table import UNKNOWN, RowTable
from stope.integrations.sentence_transformers.signals import (
    RowWeights,
    may_read,
    observations,
    own_scores,
)
from stope.torch import InfoNCELoss, Statistics
from stope.torch.distributed import gather_rows, sum_of_all, world_size
from stope.torch.functional import computes_on
from stope.torch.losses import both_ways
from stope.weighting import Weighting, teacher_confidence
from torch import Tensor, nn
from torch import distributed as dist

Tensors = dict[str, Any]  # CSR is two of them
CONFIDENCE = "teacher_confidence"  # what stope.weighting.Teacher reads


class LossOfEmbeddings(nn.Module):  # type: ignore[misc]
    """What :class:`InfoNCELoss` computes of embeddings; its attributes are explained there."""

    infonce: InfoNCELoss
    symmetric: bool
    gather_across_devices: bool
    matryoshka: tuple[tuple[int, float], ...]
    queue: DocumentQueue | None
    weighting: Weighting | None
    clock: Clock
    negatives: Any
    distillation: Distillation | None
    rows: RowTable | None
    observed: dict[str, float]

    def loss_of(self, embeddings: Sequence[Tensor], batch: Batch) -> Tensor:
        """The loss, on the device of the embeddings; and `observed`.

        Args:
            embeddings: of each column, query first.
            batch: what is known of the rows.
        """
        # Where this stope does not compute, the CPU does: autograd finds its way there and back.
        queries, *columns = (computable(rows) for rows in embeddings)
        documents = torch.cat(columns)
        rows, peers = len(queries), self._peers(queries.device)
        names = batch.names(rows, len(documents))
        known = self._known(names, batch, rows, len(documents), peers)
        there, back = self._tensors(batch, known, rows, documents)
        if self._counts_copies and not peers.together:
            told = distinct_columns(documents, rows, batch.numbers, there)
            there = there if told is None else told
        losses, statistics = self._row_losses(queries, documents, there, back)
        self.infonce.statistics = statistics
        seen = stope.torch.Statistics(*(values.cpu() for values in statistics))
        scores = own_scores(queries, columns[1:], str(self.infonce.options["metric"]))
        masked = None if known.mistaken is None else torch.from_numpy(known.mistaken)
        lists = self._lists(batch, known, queries, len(columns))
        weights = RowWeights(
            self.weighting,
            self.clock.progress,
            own_scores=scores
            if masked is None or scores is None
            else scores.masked_fill(masked, -torch.inf),
            columns=batch.signals,
            processes=peers.processes,
        )
        value = self._mean(losses, weights.of(seen), statistics)
        facts: dict[str, float] = {}
        if lists is not None:
            value = self._with_lists(value, queries, documents, lists, weights, facts)
        if self.matryoshka:
            tensors = there, back
            value = self._with_shorter(value, queries, documents, weights, tensors, facts, lists)
        if weights.nothing:
            value = value * 0.0
        facts |= observations(seen, weights, self._possible(rows, len(documents), peers))
        if self.queue is not None and torch.is_grad_enabled() and not batch.again:
            self.queue.push(documents, names, there.get("guide_documents"), peers)
        if batch.chosen is not None:
            assert scores is not None
            told = scores[:, -batch.chosen.shape[1] :].numpy()
            if not batch.again:
                self.negatives.observe(batch.queries, batch.chosen, told)
            facts["negatives_version"] = float(self.negatives.version)
        self.observed = {"loss": float(value.detach()), **facts}
        return value.to(embeddings[0].device)  # where the trainer adds it up

    @property
    def _counts_copies(self) -> bool:
        """Whether nothing but logged ranks tells equal columns from one that counts as often."""
        ranks = self.weighting is not None and may_read(self.weighting, "rank")
        alike = counts_copies(self.infonce.options, self.infonce.positive_sigma)
        return alike and not (self.symmetric or ranks)

    def _peers(self, device: torch.device) -> Peers:
        if not self.gather_across_devices:
            return Peers(False, device)
        group = self.infonce.group
        alone = device.type != "cpu" or group is not None or world_size() == 1
        if not alone and dist.get_backend() == "nccl":  # which moves nothing in the CPU's memory
            group = self.infonce.group = dist.new_group(backend="gloo")  # once: it stays there
        return Peers(world_size(group) > 1, device, group)

    def _known(
        self, names: Names | None, batch: Batch, rows: int, documents: int, peers: Peers
    ) -> KnownPairs:
        queued = None if self.queue is None else self.queue.known()
        if names is None and queued is None:
            return KnownPairs({}, {}, None)
        if names is None:
            names = Names(*(np.full(documents, UNKNOWN) for _ in Names._fields))
        return known_pairs(
            names,
            rows,
            peers,
            table=self.rows,
            of_table=batch.rows,
            queue=queued,
            symmetric=self.symmetric,
        )

    def _tensors(
        self, batch: Batch, known: KnownPairs, rows: int, documents: Tensor
    ) -> tuple[Tensors, Tensors]:
        """What `stope.torch.InfoNCELoss` is told beside the embeddings, in each direction."""
        hard = len(documents) // rows - 1
        offsets = torch.arange(rows + 1) * hard
        ids = torch.arange(rows, len(documents)).reshape(hard, rows).mT.reshape(-1)
        there = {**known.of_queries, "hard_negatives": (offsets, ids)}
        back = {**known.of_documents, "hard_negatives": (offsets * 0, ids[:0])}
        if batch.log_weights is not None:
            there["log_weights"] = documents.new_zeros(len(documents), dtype=torch.float32)
            there["log_weights"][:rows] = batch.log_weights.to(documents.device)
        if batch.guides is not None:
            first, *others = (computable(guides) for guides in batch.guides)
            there |= {"guide_queries": first, "guide_documents": torch.cat(others)}
            back |= {"guide_queries": others[0], "guide_documents": first}
        if self.queue is not None and len(self.queue):
            kept = slice(None) if known.queued is None else torch.from_numpy(known.queued)
            there["queue"] = self.queue.like(documents)[kept]
            if batch.guides is not None:
                there["guide_queue"] = self.queue.guides[kept].to(there["guide_documents"])
        return there, back

    def _row_losses(
        self, queries: Tensor, documents: Tensor, there: Tensors, back: Tensors
    ) -> tuple[Tensor, Statistics]:
        """Losses of the rows and their statistics, both directions together where both count."""
        if self.symmetric:
            rows = slice(len(queries))
            return both_ways(self.infonce, queries, documents, rows, there, back)
        if COLUMNS not in there:
            return self.infonce.row_losses(queries, documents, **there)
        columns = there[COLUMNS]
        told = {name: of for name, of in there.items() if name not in (COLUMNS, NEGATIVES)}
        distinct = documents.index_select(0, columns)
        losses, statistics = self.infonce.row_losses(queries, distinct, **told)
        best = statistics.best_negatives
        known = columns.to(best)[best.clamp(min=0)]
        counts = there[NEGATIVES].to(best)
        best = known.where(best >= 0, best)
        return losses, statistics._replace(best_negatives=best, negatives=counts, kept=counts)

    def _mean(self, losses: Tensor, weights: Tensor | None, statistics: Statistics) -> Tensor:
        pairs = statistics.negatives
        return self.infonce.mean(losses, weights, pairs / 2 if self.symmetric else pairs)

    def _lists(
        self, batch: Batch, known: KnownPairs, queries: Tensor, columns: int
    ) -> OwnLists | None:
        """The rows' lists, where the teacher's scores are wanted; they are a signal as well."""
        told, asked, rows = batch.teacher_scores, self.distillation, len(queries)
        if told is not None and tuple(told.shape) != (rows, columns):
            raise ValueError(
                f"{TEACHER} has shape {tuple(told.shape)} for {rows} rows of {columns} documents; "
                "give one score for the positive and one for each negative"
            )
        if told is not None and CONFIDENCE not in batch.signals:
            scores = told.double().cpu()
            width = (asked and asked.teacher_temperature) or 1.0
            batch.signals[CONFIDENCE] = teacher_confidence(
                scores[:, 0], scores[:, 1:], temperature=width
            )
        if asked is None or asked.weight == 0:
            return None
        if told is None:
            raise ValueError(
                "distillation is given, but the batch has no scores of a teacher; give the "
                f'examples a column "{TEACHER}", or train with a teacher'
            )
        there = known.of_queries
        mistaken = None if known.mistaken is None else torch.from_numpy(known.mistaken)
        ids, exclude = there.get("document_ids"), there.get("exclude")
        return own_lists(asked, told.to(queries.device), mistaken, ids, exclude)

    def _with_lists(
        self,
        contrastive: Tensor,
        queries: Tensor,
        documents: Tensor,
        lists: OwnLists,
        weights: RowWeights,
        facts: dict[str, float],
    ) -> Tensor:
        """The sum of both losses, as `Distillation` has it."""
        asked = self.distillation
        assert asked is not None
        if self.infonce.options["metric"] == "cosine":
            queries, documents = normalize(queries, dim=1), normalize(documents, dim=1)
        columns = documents.chunk(len(documents) // len(queries))
        temperature = float(torch.as_tensor(self.infonce.temperature).detach())
        losses = lists.row_losses(asked, queries, columns, temperature)
        counted = lists.counted.to(losses)
        shares = counted if weights.usable is None else counted * weights.usable.to(losses)
        total = shares.sum()
        if self.gather_across_devices:  # whose mean the trainer's processes then take
            group = self.infonce.group
            total = sum_of_all(total, group) / world_size(group)
        taught = (shares * losses).sum() / total.masked_fill(total == 0, 1)
        facts |= {
            "contrastive": float(contrastive.detach()),
            "distillation": float(taught.detach()),
            "lists": float(counted.mean()),
        }
        if asked.contrastive == 0:
            return asked.weight * taught
        return asked.contrastive * contrastive + asked.weight * taught

    def _with_shorter(
        self,
        value: Tensor,
        queries: Tensor,
        documents: Tensor,
        weights: RowWeights,
        tensors: tuple[Tensors, Tensors],
        facts: dict[str, float],
        lists: OwnLists | None,
    ) -> Tensor:
        """The weighted sum of the loss and those of the embeddings' first elements."""
        (whole, factor), *shorter = self.matryoshka
        if whole != queries.shape[1]:
            raise ValueError(
                f"matryoshka_dims starts with {whole}, but the model's embeddings have "
                f"{queries.shape[1]}; start with {queries.shape[1]}"
            )
        total = factor * value
        facts[f"loss_{whole}"] = float(value.detach())
        there, back = tensors
        for dim, factor in shorter:
            if "queue" in there:
                there = {**there, "queue": tensors[0]["queue"][:, :dim]}
            losses, statistics = self._row_losses(queries[:, :dim], documents[:, :dim], there, back)
            short = self._mean(losses, weights.usable, statistics)
            if lists is not None:
                prefixes = queries[:, :dim], documents[:, :dim]
                short = self._with_lists(short, *prefixes, lists, weights, {})
            facts[f"loss_{dim}"] = float(short.detach())
            total = total + factor * short
        return total

    def _possible(self, rows: int, columns: int, peers: Peers) -> float:
        """Negatives per row without any mask."""
        sizes = torch.tensor([[float(rows), float(columns)]], device=peers.device)
        if peers.together:
            sizes = gather_rows(sizes, peers.group)
        queries, documents = sizes.sum(dim=0).tolist()
        directions = self.infonce.options["directions"]
        count = documents - 1.0 + (0 if self.queue is None else len(self.queue))
        count += (queries - 1.0) * (self.symmetric + ("query_to_query" in directions))
        if "document_to_query" in directions:
            count += queries - 1.0 * (self.infonce.options["partition"] == "per_direction")
        return float(count + (documents - 1.0) * ("document_to_document" in directions))


def computable(rows: Tensor) -> Tensor:
    """Embeddings in a dtype that the core takes, on a device that it computes on."""
    if rows.dtype == torch.float64:
        rows = rows.float()
    return rows if computes_on(rows.device) else rows.cpu()
