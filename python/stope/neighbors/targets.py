"""Selectors with something to aim at: benchmarks, classes, few shots, gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import choice, counted, integer, real, shown
from stope._host import on_host
from stope.lists import Ids, Lists
from stope.neighbors._embeddings import (
    asked,
    best_first,
    budget_of,
    chunks,
    finite_rows,
    numbers_of,
    rows_of,
    steps,
)
from stope.neighbors.selection import Selection
from stope.ops._search import METRICS, Metric
from stope.progress import StageProgress, check_progress, of_stage

Aggregate = Literal["best", "mean"]
Value = Literal["log2", "reciprocal"]
_RANKED = 16  # targets whose full rankings are held at once
_SCORED = 65_536  # rows whose influences are computed at once


@dataclass(frozen=True)
class BenchmarkTargeted:
    """Documents that rank high for the examples of benchmarks (BETR).

    Document j has rank r_ij for example i: 1 for the most similar one, equal scores by row.

        best: score_j = max_i v(r_ij)      mean: score_j = mean_i v(r_ij)
        v(r) = log2(1 / r), or 1 / r

    The rank is exact either way. ``"best"`` needs the top of each ranking only, as deep as the
    budget asks: searches deepen until so many documents are in some top. ``"mean"`` sorts all
    documents for every example. BETR goes on to train a classifier on what was chosen and to apply
    it to a larger pool; that is the reader's.

    Attributes:
        targets: ``[m, dim]``, embeddings of the benchmarks' training examples.
        aggregate: ``"best"`` or ``"mean"``.
        value: ``"log2"`` or ``"reciprocal"``.
        metric: of the ranking.

    Equal scores go to the lower row. Reasons: ``rank`` and ``target``, a document's best rank and
    the first example that has it there. Memory: 12·m·depth bytes (depth about budget / m at first,
    the budget at the worst); with ``"mean"`` 320 bytes a document.

    Source: BETR (Mizrahi et al. 2025), second hand, docs/methods.md, F4.

    >>> documents, targets = np.eye(3, dtype=np.float32), np.float32([[3, 2, 1], [1, 2, 4]])
    >>> chosen = BenchmarkTargeted(targets, metric="dot")(documents, 3)
    >>> chosen.ids.tolist(), chosen.reasons["rank"].tolist()
    ([0, 2, 1], [1, 1, 2])
    """

    targets: Any
    aggregate: Aggregate = "best"
    value: Value = "log2"
    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        finite_rows(self.targets, "targets")
        choice(self.aggregate, "aggregate", get_args(Aggregate))
        choice(self.value, "value", get_args(Value))
        choice(self.metric, "metric", METRICS)

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose the documents of the highest values."""
        rows, count = asked(embeddings, budget, progress)
        targets = on_host(self.targets)
        if self.aggregate == "mean":
            return self._by_mean(rows, targets, count, progress)
        depth = min(len(rows), 2 * -(-count // len(targets)))
        while True:
            told = of_stage(progress, f"best {counted(depth, 'documents')} of each example")
            nearest = stope.topk(targets, rows, depth, metric=self.metric, progress=told).ids
            # Column by column: the first time that a document is seen is its best rank.
            ids, first = np.unique(nearest.T.reshape(-1), return_index=True)
            if len(ids) >= count:
                break
            depth = min(len(rows), 4 * depth)
        ranks, examples = first // len(targets) + 1, first % len(targets)
        best = np.lexsort((ids, ranks))[:count]
        return Selection(
            ids[best],
            self._values(ranks[best]),
            {"rank": ranks[best], "target": examples[best]},
        )

    def _by_mean(
        self,
        rows: NDArray[Any],
        targets: NDArray[Any],
        count: int,
        progress: StageProgress | None,
    ) -> Selection:
        total = np.zeros(len(rows))
        ranks, examples = np.full(len(rows), len(rows) + 1), np.zeros(len(rows), dtype=np.int64)
        for part in steps(chunks(len(targets), _RANKED), progress, "examples"):
            scores = stope.similarity(targets[part], rows, metric=self.metric)
            for example, line in enumerate(scores, start=part.start):
                rank = np.empty(len(rows), dtype=np.int64)
                rank[best_first(line, len(rows))] = np.arange(1, len(rows) + 1)
                total += self._values(rank)
                examples[rank < ranks] = example
                ranks = np.minimum(ranks, rank)
        means = total / len(targets)
        ids = best_first(means, count)
        return Selection(ids, means[ids], {"rank": ranks[ids], "target": examples[ids]})

    def _values(self, ranks: Ids) -> NDArray[np.float64]:
        return -np.log2(ranks) if self.value == "log2" else 1 / ranks


@dataclass(frozen=True)
class Curate:
    """Rows that are near enough to some class, taken from a stream (CiT).

    Batch by batch, row j is kept when max_c cos(x_j, target_c) > threshold. Where a batch would
    keep a smaller share than min_ratio, the floor(min_ratio b) best of its b rows are kept instead.
    While training, call `kept` with each batch's embeddings by the encoder of the moment, and
    targets by the same one; called as a selector it goes through embeddings until the budget is
    reached, and may return fewer rows.

    Attributes:
        targets: ``[c, dim]``, embeddings of the classes' names.
        threshold: 0.55 in the source.
        min_ratio: 0.003 in the source.
        batch_size: rows of a batch, when called as a selector.

    The scores are the cosines, the reason ``target`` the nearest class (of equally near ones the
    first); among the best of a batch equal scores go to the lower row. Ids are in the order of the
    stream. Memory: 40 bytes a row of a batch, and 24 a row that is kept.

    Source: CiT (Xu et al. 2023), docs/methods.md, F8.

    >>> x = np.float32([[1, 0], [0, 1], [0.9, 0.1], [-1, 0]])
    >>> Curate(np.float32([[1, 0]]))(x, 4).ids.tolist()
    [0, 2]
    """

    targets: Any
    threshold: float = 0.55
    min_ratio: float = 0.003
    batch_size: int = 4096

    def __post_init__(self) -> None:
        finite_rows(self.targets, "targets")
        real(self.threshold, "threshold", -1, 1)
        real(self.min_ratio, "min_ratio", 0, 1)
        integer(self.batch_size, "batch_size", 1)

    def kept(self, embeddings: Any) -> Selection:
        """What is kept of one batch, in its order."""
        rows = rows_of(embeddings, "embeddings")
        nearest = stope.topk(rows, on_host(self.targets), 1, metric="cosine")
        scores, classes = nearest.scores[:, 0].astype(np.float64), nearest.ids[:, 0]
        ids = np.flatnonzero(scores > self.threshold)
        if len(ids) < self.min_ratio * len(rows):
            ids = np.sort(best_first(scores, int(self.min_ratio * len(rows))))
        return Selection(ids, scores[ids], {"target": classes[ids]})

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Go through the rows until the budget is reached, or they end."""
        rows, count = asked(embeddings, budget, progress)
        ids: list[Ids] = []
        scores, classes = [], []
        for part in steps(chunks(len(rows), self.batch_size), progress, "batches"):
            if sum(map(len, ids)) >= count:  # the rest is not looked at
                continue
            batch = self.kept(rows[part])
            ids.append(batch.ids + part.start)
            scores.append(batch.scores)
            classes.append(batch.reasons["target"])
        targets = np.concatenate(classes)[:count]
        return Selection(
            np.concatenate(ids)[:count], np.concatenate(scores)[:count], {"target": targets}
        )


@dataclass(frozen=True)
class CraftMix:
    """Documents for a task of which a few shots are known (CRAFT).

    Two rankings take turns until the budget is full, each giving its next document, and none is
    there twice: the nearest to single few-shots (the best of each, then the second best of each),
    and the nearest by mean cosine to all few-shots. So each few-shot brings its
    floor(budget / 2m) nearest documents at least. CRAFT takes 60% of the budget from each ranking
    and unites them; here the budget is met exactly.

    Attributes:
        few_shots: ``[m, dim]``, their embeddings.

    The scores are the cosines with the few-shot, or their mean; the reason ``few_shot`` is which,
    or -1 for the mean; of equal ones the lower row. Memory: 36 bytes a document of the budget.

    Source: CRAFT (Ziegler et al. 2024), docs/methods.md, F11.

    >>> x = np.float32([[1, 0], [0, 1], [1, 1], [-1, 0]])
    >>> CraftMix(np.float32([[1, 0], [0, 1]]))(x, 3).ids.tolist()
    [0, 2, 1]
    """

    few_shots: Any

    def __post_init__(self) -> None:
        finite_rows(self.few_shots, "few_shots")

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose by single few-shots and by all of them."""
        rows, count = asked(embeddings, budget, progress)
        shots = on_host(self.few_shots)
        told = of_stage(progress, "nearest to single examples")
        depth = -(-count // len(shots))
        single = stope.topk(shots, rows, depth, metric="cosine", progress=told)
        lengths = np.linalg.norm(shots.astype(np.float64), axis=1, keepdims=True)
        mean = (shots / np.where(lengths > 0, lengths, 1)).mean(axis=0, keepdims=True)
        told = of_stage(progress, "nearest to all examples")
        common = stope.topk(mean.astype(np.float32), rows, count, metric="cosine", progress=told)
        ids = np.concatenate([single.ids.T.reshape(-1), common.ids[0]])
        scores = np.concatenate(
            [
                single.scores.T.reshape(-1).astype(np.float64),
                common.scores[0] * np.linalg.norm(mean),
            ]
        )
        sources = np.tile(np.arange(len(shots)), single.ids.shape[1])
        sources = np.concatenate([sources, np.full(count, -1)])
        turns = np.argsort(
            np.concatenate([np.arange(single.ids.size), np.arange(count)]), kind="stable"
        )
        _, first = np.unique(ids[turns], return_index=True)
        places = turns[np.sort(first)[:count]]
        return Selection(ids[places], scores[places], {"few_shot": sources[places]})


@dataclass(frozen=True)
class GradientInfluence:
    """Examples whose gradients point where those of a target task do (LESS).

        score(z) = max over subtasks T of  sum_c rate_c mean over v in T of <g_c(z), h_c(v)>

    with g the features of training examples and h those of validation examples at checkpoint c,
    both of length one, and rates that sum to 1: scores are at most 1. A subtask's mean is taken
    before the product, which is the same number; so no matrix of examples and validation examples
    exists.

    Attributes:
        validation: ``[v, dim]`` features, or a list with one for each checkpoint
            (`stope.neighbors.gradients.gradient_features`).
        subtasks: int64 ``[v]``, from 0: the subtask of each; None for a single one.
        rates: the mean learning rate of each checkpoint; None for equal ones.

    Called with the features of the training examples, ``[n, dim]`` or a list with one for each
    checkpoint, memory maps as well. Equal scores go to the lower row; the reason ``subtask`` is the
    one of the maximum. Memory: 8 bytes a subtask for 65,536 rows at a time, and 16 a row.

    Source: LESS (Xia et al. 2024), docs/methods.md, F1.

    >>> train, target = np.eye(3, dtype=np.float32), np.float32([[0.6, 0.8, 0]])
    >>> GradientInfluence(target)(train, 2).ids.tolist()
    [1, 0]
    """

    validation: Any
    subtasks: Any = None
    rates: Any = None

    def __post_init__(self) -> None:
        parts = _checkpoints(self.validation, "validation")
        rows = [len(finite_rows(part, "validation")) for part in parts]
        if len(set(rows)) > 1:
            raise ValueError(f"validation has {rows} rows at its checkpoints; give the same")
        if self.subtasks is not None:
            remedy = f"give an integer for each of {rows[0]} rows of validation"
            subtasks = numbers_of(self.subtasks, "subtasks", "iu", remedy)
            if len(subtasks) != rows[0] or subtasks.min() < 0:
                raise ValueError(f"subtasks is {shown(self.subtasks)}; {remedy}, from 0")
            if (np.bincount(subtasks) == 0).any():
                raise ValueError("subtasks leave out a number; number them from 0 without gaps")
        if self.rates is not None:
            remedy = f"give a positive number for each of {len(rows)} checkpoints"
            rates = numbers_of(self.rates, "rates", "fiu", remedy)
            if len(rates) != len(rows) or not (rates > 0).all():
                raise ValueError(f"rates is {shown(self.rates)}; {remedy}")

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose the examples of the highest influence."""
        check_progress(progress)
        train = _checkpoints(embeddings, "embeddings")
        validation = _checkpoints(self.validation, "validation")
        if [part.shape[1] for part in train] != [part.shape[1] for part in validation]:
            raise ValueError(
                f"embeddings have {len(train)} checkpoints, validation has {len(validation)}; give "
                "as many, of the same dims"
            )
        count = budget_of(budget, min(map(len, train)))
        rates = np.ones(len(train)) if self.rates is None else np.asarray(self.rates, np.float64)
        subtasks = self.subtasks
        if subtasks is None:
            subtasks = np.zeros(len(validation[0]), np.int64)
        groups = Lists.from_owners(subtasks, np.arange(len(subtasks)), int(max(subtasks)) + 1)
        means = [
            np.stack([part[rows].astype(np.float64).mean(axis=0) for rows in groups.rows()])
            for part in validation
        ]
        scores, best = np.empty(len(train[0])), np.empty(len(train[0]), dtype=np.int64)
        for part in steps(chunks(len(scores), _SCORED), progress, "influence"):
            influence = sum(
                rate * stope.similarity(features[part], mean.astype(np.float32))
                for rate, features, mean in zip(rates / rates.sum(), train, means, strict=True)
            )
            best[part] = np.asarray(influence).argmax(axis=1)
            scores[part] = np.asarray(influence).max(axis=1)
        ids = best_first(scores, count)
        return Selection(ids, scores[ids], {"subtask": best[ids]})


def _checkpoints(features: Any, name: str) -> list[NDArray[Any]]:
    """The features at each checkpoint; a single matrix is one checkpoint's."""
    if isinstance(features, Sequence) and not isinstance(features, str | bytes):
        if not features:
            raise ValueError(f"{name} is empty; give features of one checkpoint at least")
        return [rows_of(part, f"{name}[{place}]") for place, part in enumerate(features)]
    return [rows_of(features, name)]
