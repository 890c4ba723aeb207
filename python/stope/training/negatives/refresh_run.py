"""One `NegativeRefresh` at work in a training run: when it is due, what it does, how it goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stope._files.arrays import digest
from stope._files.manifest import checked, read_manifest
from stope.data import Pairs, open_atomic
from stope.encoders.prompts import TaskPrompts
from stope.mining.pair_scores import PairScores, ScoredPairs
from stope.mining.sampling import Uniform
from stope.progress import StageProgress
from stope.scale.processes import gathered, processes
from stope.training.negatives.encode_and_mine import (
    Encoding,
    Mining,
    Prompts,
    bm25_by_source,
    evaluating,
    mine_by_source,
)
from stope.training.negatives.live import LiveNegatives

if TYPE_CHECKING:
    from stope.training.negatives.query_side import QuerySideLoss
    from stope.training.negatives.refresh import NegativeRefresh

_NOTES = {
    "refresh": {str: object},
    "last_step": (int, -1),
    "epoch_ends": [int],
    "corpus": str,
    "prompts": [[(str, None)]],
}
OF_BEFORE = {"among": "corpus"}  # what saves without these keys were mined with
_STALE_EVERY = 100  # Conan-embedding's


@dataclass(frozen=True)
class RefreshReport:
    """What one refresh did and cost.

    Attributes:
        version: of the negatives after it.
        step: of training, before which they are in force.
        seconds_encode: texts to embeddings, or read from the folder.
        seconds_mine: embeddings to candidates, BM25 included.
        rows_per_second: documents encoded per second, by all processes.
        changed: share of the candidates (stale: of the negatives in use) that were not there.
        mean_score: of the candidates (stale: of the negatives exchanged); 0 without any.
        shortfalls: queries with fewer candidates than a step takes, which random documents fill;
            stale: negatives that became easy but stay, since there are no others.
    """

    version: int
    step: int
    seconds_encode: float = 0.0
    seconds_mine: float = 0.0
    rows_per_second: float = 0.0
    changed: float = 0.0
    mean_score: float = 0.0
    shortfalls: int = 0


class RefreshRun:
    """A `NegativeRefresh` in one training run. In several processes all make the same calls.

    Attributes:
        refresh: what was asked for.
        pairs: queries, corpus and positives.
        negatives: `LiveNegatives`, which the loss reads; None for query_side.
        corpus_embeddings: float32 ``[documents, dim]`` of the first model for query_side;
            else None.
        reports: of all refreshes of this process's life.
        taught: `ScoredPairs`, what the teacher says of positives and candidates; None without one.
    """

    def __init__(
        self,
        refresh: NegativeRefresh,
        pairs: Pairs,
        model: Any,
        folder: str | PathLike[str] | None = None,
        seed: int = 0,
        progress: StageProgress | None = None,
        sources: Sequence[str | int] | None = None,
        prompts: TaskPrompts | None = None,
        teacher: PairScores | None = None,
    ) -> None:
        if refresh.across_sources:
            pairs = replace(pairs, corpus_of=None)
        self.refresh, self.pairs = refresh, pairs
        self._sources = pairs.of_sources(sources, refresh.among)
        self._prompts = [_prompts_of(source.name, refresh, prompts) for source in self._sources]
        self.reports: list[RefreshReport] = []
        self.taught = None if teacher is None else ScoredPairs(teacher, pairs)
        self.negatives: LiveNegatives | None = None
        self.corpus_embeddings: NDArray[np.float32] | None = None
        self._last_step = -1
        self._epoch_ends: set[int] = set()
        self._corpus_digest = ""
        self._encoding = Encoding(
            None if folder is None else Path(folder), refresh.batch_size, progress
        )
        if refresh.mode == "query_side":
            if len(self._sources) > 1:
                raise ValueError(
                    f"mode is 'query_side', which searches one corpus for all, but there are "
                    f"{len(self._sources)} sources with documents of their own; leave corpus_of "
                    "out of the pairs, or choose another mode"
                )
            self._encode_corpus(model)
            return
        self.negatives = LiveNegatives(
            pairs,
            num_negatives=refresh.num_negatives,
            sampling=Uniform() if refresh.sampling is None else refresh.sampling,
            quotas=refresh.quotas,
            seed=seed,
            fixed=refresh.mode == "stale",
            sources=sources,
            among=refresh.among,
        )

    def due(self, step: int, epoch_ended: bool = False) -> bool:
        """Whether `run` is to be called now, after so many optimiser steps.

        Ask after every step, with epoch_ended after the last of an epoch; asking twice changes
        nothing. True as long as nothing was mined.
        """
        if epoch_ended:
            self._epoch_ends.add(step)
        if self.negatives is None:
            return False
        if self.negatives.version == 0:
            return True
        if self.refresh.mode == "static" or step <= self._last_step:
            return False
        if self.refresh.every_epochs is not None or (
            self.refresh.every is None and self.refresh.mode == "periodic"
        ):
            epochs = self.refresh.every_epochs or 1
            return epoch_ended and len(self._epoch_ends) % epochs == 0
        return step % (self.refresh.every or _STALE_EVERY) == 0

    def run(self, model: Any, step: int) -> RefreshReport:
        """Refresh the negatives with the model as it is; the next step reads the new ones.

        The model is in evaluation mode meanwhile and then as it was. What is stopped in here goes
        on with its next call if the folder is the same and so are the weights.

        Raises:
            ValueError: mode query_side, whose loss searches in every step.
            OSError: the disk is full; shards that were saved are used next time.
        """
        if self.negatives is None:
            raise ValueError("mode is 'query_side': its loss searches in every step; see loss()")
        if self.refresh.mode == "stale" and self.negatives.version:
            report = self._replace_stale(step)
        else:
            report = self._mine(model, step)
        self._last_step = step
        self.reports.append(report)
        return report

    def gather(self) -> None:
        """Give every process what all of them observed; before `save`, which one of them calls.

        Does nothing but for mode stale in several processes.
        """
        if self.refresh.mode != "stale" or self.negatives is None or processes()[1] == 1:
            return
        scores, times = self.negatives.observed()
        shape = (-1, *scores.shape)
        every, when = gathered(scores).reshape(shape), gathered(times).reshape(shape)
        last = np.where(np.isnan(every), -1, when).argmax(0)[None]
        scores[:] = np.take_along_axis(every, last, 0)[0]
        times[:] = np.take_along_axis(when, last, 0)[0]

    def loss(self, model: Any, **options: Any) -> QuerySideLoss:
        """The loss of mode query_side over this run's documents; options of `QuerySideLoss`.

        Raises:
            ValueError: another mode, whose negatives go to `contrastive_loss`.
        """
        from stope.training.negatives.query_side import QuerySideLoss

        if self.corpus_embeddings is None:
            raise ValueError(
                f"mode is {self.refresh.mode!r}, which has no loss of its own; give its negatives "
                "to contrastive_loss"
            )
        options = {"k": self.refresh.pool, **options}
        return QuerySideLoss(model, self.pairs, self.corpus_embeddings, **options)

    def save(self, folder: str | PathLike[str]) -> None:
        """Write the negatives and when they are due next; an older save is replaced at the end.

        Raises:
            OSError: the disk is full; what was saved before is still there.
        """
        notes = {
            "refresh": self.refresh.to_dict(),
            "last_step": self._last_step,
            "epoch_ends": sorted(self._epoch_ends),
            "corpus": self._corpus_digest,
            "prompts": [list(names) for names in self._prompts],
        }
        if self.negatives is not None:
            self.negatives.save(folder, notes=notes)
            return
        Path(folder).mkdir(parents=True, exist_ok=True)
        with open_atomic(Path(folder) / "refresh.json") as out:
            out.write(json.dumps(notes, indent=1) + "\n")

    def load(self, folder: str | PathLike[str]) -> None:
        """Go on from what `save` wrote.

        Raises:
            ValueError: files that are missing, altered, or of other data or options.
        """
        path = Path(folder) / "refresh.json"
        if self.negatives is not None:
            notes = self.negatives.load(folder)
        else:
            try:
                notes = read_manifest(path, {str: object}, "start without it")
            except FileNotFoundError:
                raise ValueError(f"{path} is missing; start without it") from None
        try:
            checked(notes, _NOTES)
        except ValueError as error:
            raise ValueError(f"{folder} holds damaged notes: {error}; start without it") from None
        known = {**OF_BEFORE, **notes["refresh"], "prompts": notes["prompts"]}
        options = self.refresh.to_dict()
        options["prompts"] = [list(names) for names in self._prompts]
        if other := [name for name, value in options.items() if known.get(name) != value]:
            raise ValueError(
                f"{folder} holds the refreshes of another run: {', '.join(other)} differ; "
                "use the same options, or another folder"
            )
        if notes["corpus"] != self._corpus_digest:
            raise ValueError(
                f"{folder} belongs to other document embeddings than the model that is given makes "
                "now; start from the same model and corpus"
            )
        self._know_scores()
        self._last_step, self._epoch_ends = notes["last_step"], set(notes["epoch_ends"])

    def _mine(self, model: Any, step: int) -> RefreshReport:
        assert self.negatives is not None
        live, dense = self.negatives, self.negatives.quotas.get("dense", 0)
        rows = len(self.pairs.query_ids)
        if dense:
            mined = mine_by_source(
                self._sources, self._prompts, model, self._encoding, **self.refresh.limits
            )
        else:
            none = np.empty((rows, 0), dtype=np.int64)
            unknown = np.full(rows, np.nan, dtype=np.float32)
            mined = Mining(none, none.astype(np.float32), unknown, 0.0, 0.0, 0.0)
        began, before = time.perf_counter(), live.candidates
        lexical = None
        if live.quotas.get("bm25") and not live.lexical.shape[1]:
            lexical = bm25_by_source(self._sources, self.refresh.pool, self._encoding.progress)
        ids = mined.ids
        if self.taught is not None and self.refresh.teacher_margin is not None:
            ids, lexical = self._judged(self.taught, ids, lexical)
        live.publish(ids, mined.scores, mined.positive_scores, lexical=lexical)
        self._know_scores()
        self._encoding.forget_others()
        there = ids >= 0
        return RefreshReport(
            live.version,
            step,
            mined.seconds_encode,
            mined.seconds_mine + time.perf_counter() - began,
            mined.rows_per_second,
            _new_share(before, ids),
            float(mined.scores[there].mean()) if there.any() else 0.0,
            int((there.sum(1) < dense).sum()),
        )

    def _judged(
        self, taught: ScoredPairs, ids: NDArray[np.int64], lexical: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64] | None]:
        """The candidates that the teacher takes for no answer, -1 in place of the others."""
        taught.score(ids, lexical, progress=self._encoding.progress)
        lowest = taught.lowest_positive_scores().astype(np.float64)
        ceiling = lowest - np.abs(lowest) * (self.refresh.teacher_margin or 0.0)

        def kept(table: NDArray[np.int64]) -> NDArray[np.int64]:
            scores = taught.scores(np.arange(len(table)), table).astype(np.float64)
            return np.where(scores <= ceiling[:, None], table, -1)

        return kept(ids), None if lexical is None else kept(lexical)

    def _know_scores(self) -> None:
        """Have the teacher's scores of what is published, and of nothing else: so a run goes on."""
        if self.taught is not None and self.negatives is not None:
            live = self.negatives
            self.taught.score(live.candidates, live.lexical, progress=self._encoding.progress)

    def _replace_stale(self, step: int) -> RefreshReport:
        assert self.negatives is not None
        began = time.perf_counter()
        self.gather()
        changed, score, missing = self.negatives.replace_stale()
        seconds = time.perf_counter() - began
        return RefreshReport(
            self.negatives.version,
            step,
            seconds_mine=seconds,
            changed=changed,
            mean_score=score,
            shortfalls=missing,
        )

    def _encode_corpus(self, model: Any) -> None:
        began = time.perf_counter()
        texts = self.pairs.corpus_texts
        with evaluating(model):
            self.corpus_embeddings = self._encoding.embeddings(
                model, texts, "corpus", self._prompts[0][1]
            )
        seconds = time.perf_counter() - began
        self._encoding.forget_others()
        self._corpus_digest = digest(self.corpus_embeddings)
        rate = len(texts) / max(seconds, 1e-9)
        self.reports.append(RefreshReport(1, 0, seconds, rows_per_second=rate))


def _prompts_of(
    source: str | int | None, refresh: NegativeRefresh, prompts: TaskPrompts | None
) -> Prompts:
    """What is put before the queries and documents of a source."""
    own = (refresh.query_prompt, refresh.corpus_prompt)
    if prompts is None or own != (None, None):
        return own
    if source is None:
        return own if prompts.default is None else prompts.default
    return prompts.query(source), prompts.document(source)


def _new_share(before: NDArray[np.int64], now: NDArray[np.int64]) -> float:
    """Share of the ids of now that their row of before does not have."""
    there = now >= 0
    if not there.any():
        return 0.0
    size = int(max(before.max(initial=0), now.max(initial=0))) + 1
    first = np.arange(len(now))[:, None] * size
    rows = [np.sort(table, axis=1) for table in (before, now)]
    old, new = ((row + first)[row >= 0] for row in rows)  # ascending
    # np.isin would hash them, which takes ten times as long.
    same = np.searchsorted(old, new, "right") > np.searchsorted(old, new, "left")
    return float((~same).mean())
