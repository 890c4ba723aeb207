"""What a job mines for the queries of one shard: negatives, what was turned away, and counts.

All of a query is one record of a fixed size, so that a job's records are one array, kept shard by
shard (`stope._files.shards`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.data.pairs import Pairs
from stope.lists import Ids, Lists, offsets_of
from stope.mining.jobs.sources import NAMES, Candidates, Shard
from stope.mining.known_answers import near_positives
from stope.mining.pair_scores import PairScores
from stope.mining.pipeline import Limits, hardest
from stope.mining.quotas import merged_and_origins
from stope.mining.sampling import Sampling
from stope.ops._search import pair_scores, search
from stope.ops.hard_negatives import REASONS as LIMITS
from stope.ops.hard_negatives import ScoreLimits, score_limits

SOURCES = ("positive", "corpus", *NAMES)
KNOWN = ("query_text", "copy", "near_positive", "excluded")
REASONS = ("kept", "positive", *KNOWN, *LIMITS[2:], "teacher_margin")
SUSPECTS = 5  # documents per query that were turned away and are listed
_SCORE_LIMITS = LIMITS[2:]
_NEAR = ("copy", "near_positive")
SUSPECTED = (*_NEAR, *LIMITS[2:5], "teacher_margin")

ROW = np.dtype(
    [
        ("query", "<i8"),
        ("document", "<i8"),  # -1: there is none
        ("source", "<i4"),
        ("reason", "<i4"),
        ("score", "<f4"),
        ("teacher", "<f4"),  # NaN: it was not asked
    ]
)
Rows = NDArray[np.void]


@dataclass(frozen=True, eq=False)
class Miner:
    """All that decides what a job mines.

    Attributes:
        pairs: queries, documents, positives.
        queries, corpus: their embeddings.
        limits: on scores, and how "dense" takes its negatives.
        quotas: negatives by source, in order.
        candidates: of the other sources.
        known: rows of documents that are no negatives, by reason and query.
        never: documents that are nobody's.
        near: least cosine with a positive at which a document answers too; None for none.
        teacher, margin: what scores candidates, and how far below the positive they must be.
        spare: candidates that it scores per negative.
    """

    pairs: Pairs
    queries: Any
    corpus: Any
    limits: Limits
    quotas: Mapping[str, int]
    candidates: Candidates
    known: Mapping[str, Lists]
    never: Ids
    near: float | None
    teacher: PairScores | None
    margin: float | None
    spare: int

    @cached_property
    def total(self) -> int:
        """Negatives that a query gets at most."""
        return sum(self.quotas.values())

    @cached_property
    def counted(self) -> list[tuple[str, str]]:
        """(source, reason) of each count of a record."""
        limits = [name for name in _SCORE_LIMITS if getattr(self.limits, name) is not None]
        limits += ["teacher_margin"] if self.margin is not None else []
        by_source = [(name, reason) for name in self.quotas for reason in ("kept", *limits)]
        return [("corpus", reason) for reason in ("positive", *KNOWN)] + by_source

    @cached_property
    def record(self) -> np.dtype[Any]:
        """One query: negatives by rank, what was turned away by score, counts."""
        return np.dtype(
            [("rows", ROW, (self.total + SUSPECTS,)), ("counts", "<i8", (len(self.counted),))]
        )

    def records(self, start: int, stop: int) -> NDArray[np.float32]:
        """The records of these queries, as bits."""
        shard, known = self._shard(start, stop)
        counts = {("corpus", reason): lists.lengths for reason, lists in known.items()}
        ceilings = self._teacher_limits(shard)
        looked_at = [self._listed(shard, known[n].padded(), "corpus", n) for n in _NEAR]
        eligible: list[Ids] = []
        for source in self.quotas:
            rows, turned_away = self._of_source(shard, source)
            if ceilings is not None:
                self._ask_teacher(shard, rows)
                _turn_away(rows, ceilings, "teacher", ["teacher_margin"] * len(LIMITS))
                turned_away["teacher_margin"] = _count(rows, "teacher_margin", shard)
            counts |= {(source, reason): number for reason, number in turned_away.items()}
            alive = rows[rows["reason"] == 0]
            lists = Lists.from_owners(alive["query"], alive["document"], len(shard.every))
            eligible.append(lists.padded())
            looked_at.append(rows)
        negatives = self._merged(shard, eligible)
        for source in self.quotas:
            taken = negatives[negatives["source"] == SOURCES.index(source)]
            counts[source, "kept"] = _count(taken, "kept", shard)
        records = np.zeros(len(shard.every), self.record)
        records["rows"]["document"] = -1
        _put(records["rows"][:, : self.total], negatives)
        suspects = np.concatenate(looked_at)
        suspects = suspects[np.isin(suspects["reason"], [REASONS.index(n) for n in SUSPECTED])]
        first = np.unique(suspects[["query", "document"]], return_index=True)[1]
        _put(records["rows"][:, self.total :], suspects[np.sort(first)])
        records["rows"]["query"] = (start + shard.every)[:, None]
        for place, name in enumerate(self.counted):
            records["counts"][:, place] = counts[name]
        return records.view(np.float32).reshape(len(records), -1)

    def _shard(self, start: int, stop: int) -> tuple[Shard, dict[str, Lists]]:
        """The queries from start on, and their documents that are no negatives, by reason."""
        every = np.arange(start, stop)
        part = self.pairs.take(every)
        queries = np.ascontiguousarray(self.queries[start:stop])
        known = {"positive": part.positives}
        nobody = Lists(np.arange(len(every) + 1) * len(self.never), np.tile(self.never, len(every)))
        never = Lists.from_sequences([[]] * len(every))
        for reason in KNOWN:
            if reason in self.known:
                lists = self.known[reason].take(every)
            elif reason == "near_positive" and self.near is not None:
                lists = near_positives(part, self.corpus, self.near)
            else:
                lists = Lists.from_sequences([[]] * len(every))
            lists = lists.union(nobody) if reason == "excluded" else lists
            known[reason] = lists.without(part.positives).without(never)
            never = never.union(known[reason])
        metric = self.limits.metric
        answered = pair_scores(queries, self.corpus, part.positives, metric=metric)
        lowest = np.minimum.reduceat(answered, part.positives.offsets[:-1])
        rules = score_limits(lowest, **{n: getattr(self.limits, n) for n in _SCORE_LIMITS})
        return Shard(start, part, queries, self.corpus, metric, never, rules), known

    def _of_source(self, shard: Shard, source: str) -> tuple[Rows, dict[str, Ids]]:
        """The source's candidates, those that limits turn away among them, and counts of these."""
        wanted, more = self.quotas[source], self.margin is not None
        # Limits may turn documents away of which BM25, a run and chance know nothing.
        width = self.spare * wanted if more else self.total
        limits = [reason for name, reason in self.counted if name == source and reason in LIMITS]
        if source == "dense":
            return self._dense(shard, width, limits)
        ids, counts = self.candidates.of(
            source, shard, width if source == "siblings" else 10 * width
        )
        rows = self._listed(shard, ids, source, "kept")
        _turn_away(rows, shard.rules, "score", LIMITS)
        counts = {name: counts.get(name, 0) + _count(rows, name, shard) for name in limits}
        if more:
            rows = rows[(rows["reason"] != 0) | (_places(rows, rows["reason"] == 0) < width)]
        return rows, counts

    def _dense(self, shard: Shard, width: int, limits: list[str]) -> tuple[Rows, dict[str, Ids]]:
        drawn = isinstance(self.limits.sampling, Sampling)
        wanted = self.quotas["dense"]
        if self.limits.range_max is not None:
            width = max(wanted, min(width, self.limits.range_max - self.limits.range_min))
        changed = self.limits.with_changes(num_negatives=wanted if drawn else width)
        result = hardest(
            shard.pairs, shard.queries, shard.corpus, changed, shard.never, first_query=shard.first
        )[0]
        rows = [self._listed(shard, result.ids, "dense", "kept")]
        above = sum(
            (result.rejected[name] for name in limits if name != "min_score"), shard.every * 0
        )
        if (some := np.flatnonzero(above)).size and shard.rules.ceiling is not None:
            ids = search(
                np.ascontiguousarray(shard.queries[some]),
                shard.corpus,
                min(SUSPECTS, len(self.pairs.corpus_ids)),
                metric=shard.metric,
                exclude=shard.never.union(shard.pairs.positives).take(some),
                floor=np.nextafter(shard.rules.ceiling[some], np.inf),
            ).ids
            scattered = np.full((len(shard.every), ids.shape[1]), -1, dtype=np.int64)
            scattered[some] = ids
            rows.append(self._listed(shard, scattered, "dense", "kept"))
            _turn_away(rows[-1], shard.rules, "score", LIMITS)
        return np.concatenate(rows), {name: result.rejected[name] for name in limits}

    def _merged(self, shard: Shard, eligible: list[Ids]) -> Rows:
        """So many of each source; of the next where one has too few, after the last the first."""
        quotas = [*self.quotas.values(), *[0] * len(self.quotas)]
        kept, origins = merged_and_origins([*eligible, *eligible], quotas)
        rows = self._listed(shard, kept, "corpus", "kept")
        numbers = np.array([SOURCES.index(source) for source in self.quotas] * 2)
        rows["source"] = numbers[origins[kept >= 0]]
        self._ask_teacher(shard, rows)
        return rows

    def _listed(self, shard: Shard, ids: Ids, source: str, reason: str) -> Rows:
        """Documents of the queries, -1 for none, with their scores; query by query."""
        rows = np.zeros(int((ids >= 0).sum()), ROW)
        rows["query"], columns = np.nonzero(ids >= 0)
        rows["document"] = ids[rows["query"], columns]
        rows["source"], rows["reason"] = SOURCES.index(source), REASONS.index(reason)
        offsets = offsets_of((ids >= 0).sum(axis=1))
        documents = Lists(offsets, np.ascontiguousarray(rows["document"]))
        if len(rows):
            rows["score"] = pair_scores(shard.queries, shard.corpus, documents, metric=shard.metric)
        rows["teacher"] = np.nan
        return rows

    def _ask_teacher(self, shard: Shard, rows: Rows) -> None:
        alive = rows["reason"] == 0
        if self.teacher is not None and alive.any():
            queries, documents = shard.first + rows["query"][alive], rows["document"][alive]
            rows["teacher"][alive] = self.teacher.of(self.pairs, queries, documents)

    def _teacher_limits(self, shard: Shard) -> ScoreLimits | None:
        if self.teacher is None or self.margin is None:
            return None
        positives = shard.pairs.positives
        scores = self.teacher.of(self.pairs, shard.first + positives.owners, positives.ids)
        lowest = np.minimum.reduceat(scores, positives.offsets[:-1])
        return score_limits(lowest, relative_margin=self.margin)


def _turn_away(rows: Rows, rules: ScoreLimits, scores: str, names: Sequence[str]) -> None:
    """Give rows without a reason that of the limit that their scores break."""
    broken = rules.take(rows["query"]).broken(rows[scores][:, None])[:, 0]
    numbers = np.array([0, *(REASONS.index(name) if name in REASONS else 0 for name in names)])
    rows["reason"] = np.where(rows["reason"] == 0, numbers[broken + 1], rows["reason"])


def _count(rows: Rows, reason: str, shard: Shard) -> Ids:
    turned_away = rows["query"][rows["reason"] == REASONS.index(reason)]
    return np.bincount(turned_away, minlength=len(shard.every))


def _places(rows: Rows, counted: NDArray[np.bool_]) -> Ids:
    """For each row how many rows of its query that are counted stand before it; query by query."""
    before: Ids = np.cumsum(counted) - counted
    first = np.searchsorted(rows["query"], rows["query"])
    return np.asarray(before - before[first] if len(rows) else before)


def _put(table: Rows, rows: Rows) -> None:
    """Rows into a table ``[queries, n]``, each query's highest scores first."""
    rows = rows[np.lexsort((rows["document"], -rows["score"].astype(np.float64), rows["query"]))]
    places = _places(rows, np.ones(len(rows), dtype=bool))
    rows, places = rows[places < table.shape[1]], places[places < table.shape[1]]
    table[rows["query"], places] = rows
