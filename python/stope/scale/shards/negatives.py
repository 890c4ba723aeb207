"""Hard negatives in a corpus of several shards, in two rounds: positives' scores, then candidates.

Margins are measured from a query's lowest positive, which may lie in any shard. So each shard first
scores the positives that it has, the lowest score goes to all, and then each searches its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, integer, size
from stope._kinds import iterable, kinds
from stope.ops._merge import best, shifted
from stope.ops._search import METRICS, Besides, TopK, exclusions, pair_scores, search
from stope.ops.hard_negatives import (
    HardNegatives,
    chosen,
    hardest,
    positive_lists,
    score_limits,
    window_of,
)
from stope.progress import Progress
from stope.scale.shards.numbering import MOST, rows_of, within


class NegativesPart(NamedTuple):
    """What some shards say of a :class:`NegativeSearch`.

    Attributes:
        scores: float32 ``[q, width]``, of the best candidates.
        ids: int64 ``[q, width]``, their rows of the whole corpus; -1 at the end of short rows.
        above: int64 ``[q]``, rows that no list excludes and whose scores break the ceiling.
        positive_scores: float32 ``[q]``, from which limits were measured.
        spans: int64 ``[s, 2]``, the first row of each range that was searched, and that after its
            last.
    """

    scores: Any
    ids: Any
    above: Any
    positive_scores: Any
    spans: Any


class NegativeSearch:
    """`stope.mine_hard_negatives` over shards of a corpus, bit for bit: counts and reasons, too.

    Args:
        positives: ids that answer each query, of the whole corpus: one id per query, a list of
            lists of ids, or CSR as a tuple ``(offsets, ids)``. Every query needs at least one.
        corpus_rows: of all shards together.
        num_negatives, metric, absolute_margin, relative_margin, max_score, min_score, range_min,
            range_max, range_counts, sampling, seed: as for :func:`stope.mine_hard_negatives`.
        exclude: more ids never to return, per query, of the whole corpus.
        most_positives: by how many rows ``range_counts="window"`` looks farther; default the most
            positives of a query. Where queries come in blocks: the most of all blocks.

    Each shard runs `positive_scores`, `lowest` merges them; each shard runs `part`, `merge` merges
    them in any order and tree; `result` ends it. The object may be sent to other
    processes: 8 bytes per query and id.

    Raises:
        ValueError, TypeError: as :func:`stope.mine_hard_negatives`.

    Source: docs/methods.md, C1, C2 and H10.

    >>> import numpy as np
    >>> corpus = np.array([[1, 0], [0.99, 0.1], [0.8, 0.6], [0, 1]], dtype=np.float32)
    >>> query, shards = corpus[:1], [(corpus[:2], 0), (corpus[2:], 2)]
    >>> mining = NegativeSearch([0], 4, 2, relative_margin=0.05)
    >>> lowest = mining.lowest(mining.positive_scores(query, *shard) for shard in shards)
    >>> mined = mining.result(mining.merge(mining.part(query, *shard, lowest) for shard in shards))
    >>> mined.ids.tolist(), mined.rejected["relative_margin"].tolist()
    ([[2, 3]], [1])
    """

    def __init__(
        self,
        positives: Any,
        corpus_rows: int,
        num_negatives: int = 5,
        *,
        metric: str = "cosine",
        absolute_margin: float | None = None,
        relative_margin: float | None = None,
        max_score: float | None = None,
        min_score: float | None = None,
        range_min: int = 0,
        range_max: int | None = None,
        range_counts: str = "eligible",
        sampling: str = "top",
        seed: int = 0,
        exclude: Any = None,
        most_positives: int | None = None,
    ) -> None:
        self.metric = choice(metric, "metric", METRICS)
        self.corpus_rows = integer(corpus_rows, "corpus_rows", 1, MOST)
        self.window = window_of(num_negatives, range_min, range_max, range_counts, sampling, seed)
        self.range_counts = range_counts
        count = len(positives[0]) - 1 if isinstance(positives, tuple) else _length(positives)
        self.answers = positive_lists(positives, count, self.corpus_rows)
        extra = exclusions(exclude, count, self.corpus_rows)
        self.never = self.answers if extra is None else self.answers.union(extra)
        self.limits = (absolute_margin, relative_margin, max_score, min_score)
        score_limits(np.zeros(0, np.float32), *self.limits)
        most = int(self.answers.lengths.max(initial=0))
        self.most_positives = (
            most if most_positives is None else size(most_positives, "most_positives", most)
        )
        wide = self.most_positives if range_counts == "window" else 0
        self.width = min(self.window.end + wide, self.corpus_rows)

    def positive_scores(self, queries: Any, shard: Any, start: int) -> NDArray[np.float32]:
        """The lowest score of each query's positives in a shard, inf where it has none of them.

        Args:
            queries: ``[q, dim]``, all of them.
            shard: ``[rows, dim]``: rows start to start + rows of the corpus; perhaps none.
            start: number of the shard's first row.

        Returns:
            float32 ``[q]``.
        """
        lists = within(self.answers, *self._span(queries, shard, start))
        lowest = np.full(lists.num_lists, np.inf, np.float32)
        if lists.ids.size:
            scores = pair_scores(queries, shard, lists, metric=self.metric)
            np.minimum.at(lowest, lists.owners, scores)
        return lowest

    @staticmethod
    @kinds(parts=iterable)
    def lowest(parts: Iterable[Any]) -> NDArray[np.float32]:
        """The lowest score of each query's positives over the shards.

        Args:
            parts: of `positive_scores`, in any order.

        Raises:
            ValueError: no parts, or of different queries; a query with no positive in any of them:
                one is missing.
        """
        listed = [np.asarray(part) for part in parts]
        if not listed or len({part.shape for part in listed}) > 1:
            shapes = sorted({part.shape for part in listed})
            raise ValueError(f"parts have the shapes {shapes}; give one vector for every shard")
        merged: NDArray[np.float32] = np.minimum.reduce(listed)
        missing = np.flatnonzero(np.isinf(merged))
        if missing.size:
            raise ValueError(
                f"parts have no positive of query {missing[0]}; give the part of every shard"
            )
        return merged

    def part(
        self,
        queries: Any,
        shard: Any,
        start: int,
        positive_scores: Any,
        *,
        progress: Progress | None = None,
    ) -> NegativesPart:
        """What a shard has for the queries.

        Args:
            queries, shard, start: as for `positive_scores`.
            positive_scores: of `lowest`.
            progress: called now and then with ``(done, total)``.

        Memory: as :func:`stope.mine_hard_negatives`.
        """
        first, rows = self._span(queries, shard, start)
        lowest = np.asarray(positive_scores, np.float32)
        if lowest.shape != (self.answers.num_lists,) or not np.isfinite(lowest).all():
            raise ValueError(
                f"positive_scores has shape {lowest.shape}, or a score that is not finite; give "
                f"what `lowest` returned for the {self.answers.num_lists} queries"
            )
        rules = score_limits(lowest, *self.limits)
        above = np.zeros(self.answers.num_lists, np.int64)
        empty = (len(above), 0)
        answer = TopK(np.empty(empty, np.float32), np.empty(empty, np.int64))
        if rows:
            options: dict[str, Any] = {"besides": Besides(names=("queries", "shard"))}
            if self.range_counts == "eligible":
                options |= {
                    "exclude": within(self.never, first, rows),
                    "ceiling": rules.ceiling,
                    "floor": rules.floor,
                    "above_ceiling": above,
                }
            many = min(self.width, rows)
            candidates = search(
                queries, shard, many, metric=self.metric, progress=progress, **options
            )
            answer = shifted(candidates, first)
        spans = np.array([[first, first + rows]] if rows else np.empty((0, 2)), np.int64)
        return NegativesPart(*answer, above, lowest, spans)

    @kinds(parts=iterable)
    def merge(self, parts: Iterable[NegativesPart]) -> NegativesPart:
        """Several parts as one; commutative and associative, so in any order and tree.

        Raises:
            ValueError: no parts, a range of rows that comes twice (its counts would, too), parts
                that were measured from different scores of positives.
        """
        listed = list(parts)
        answer = best((TopK(part.scores, part.ids) for part in listed), self.width)
        spans = np.concatenate([part.spans for part in listed])
        spans = spans[np.argsort(spans[:, 0], kind="stable")]
        twice = np.flatnonzero(spans[1:, 0] < spans[:-1, 1])
        if twice.size:
            row = spans[twice[0] + 1, 0]
            raise ValueError(
                f"parts have row {row} of the corpus twice; give each shard's part once"
            )
        lowest = listed[0].positive_scores
        if any(not np.array_equal(lowest, part.positive_scores) for part in listed):
            raise ValueError(
                "parts were measured from different positive_scores; give every shard those of "
                "`lowest`"
            )
        joins = np.append(False, spans[1:, 0] == spans[:-1, 1])[: len(spans)]
        ends = np.append(~joins[1:], True)[: len(spans)]
        spans = np.stack([spans[~joins, 0], spans[ends, 1]], axis=1)
        above = np.sum([part.above for part in listed], axis=0)
        return NegativesPart(*answer, above, lowest, spans)

    def result(self, part: NegativesPart, first_query: int = 0) -> HardNegatives:
        """The negatives, once all shards are merged.

        Args:
            part: of `merge`.
            first_query: number of the first query, where they come in blocks: a choice with
                ``sampling="random"`` depends on it.

        Returns:
            :class:`stope.HardNegatives`, NumPy, that of :func:`stope.mine_hard_negatives`.

        Raises:
            ValueError: rows of the corpus that no part has.
        """
        spans = [tuple(span) for span in part.spans.tolist()]
        if spans != [(0, self.corpus_rows)]:
            said = ", ".join(f"{a} to {b - 1}" for a, b in spans) or "none"
            raise ValueError(
                f"part has rows {said} of the corpus, which has rows 0 to {self.corpus_rows - 1}; "
                "merge the parts of all shards"
            )

        def scan(k: int, *, above_ceiling: Any = None, **_: Any) -> TopK:
            if above_ceiling is not None:
                above_ceiling[:] = part.above
            return best([TopK(part.scores, part.ids)], k)

        pool = hardest(
            scan,
            self.answers,
            self.never,
            score_limits(part.positive_scores, *self.limits),
            (self.window.first, self.window.end),
            counts=self.range_counts,
            corpus_rows=self.corpus_rows,
            most_positives=self.most_positives,
        )
        ids, scores = chosen(pool, self.window, integer(first_query, "first_query", 0, MOST))
        counts = np.count_nonzero(ids >= 0, axis=1)
        return HardNegatives(ids, scores, part.positive_scores, counts, pool.rejected)

    def _span(self, queries: Any, shard: Any, start: int) -> tuple[int, int]:
        """The shard's first row and how many it has, after a look at all three."""
        count, rows = rows_of({"queries": queries, "shard": shard})
        if count != self.answers.num_lists:
            raise ValueError(
                f"queries has {count} rows, but positives are of {self.answers.num_lists}; give "
                "the same queries"
            )
        first = integer(start, "start", 0, MOST)
        if first + rows > self.corpus_rows:
            raise ValueError(
                f"shard ends with row {first + rows - 1}, but corpus_rows is {self.corpus_rows}; "
                "give the rows of all shards"
            )
        return first, rows


def _length(positives: Any) -> int:
    if not hasattr(positives, "__len__") or isinstance(positives, Mapping | Set | str | bytes):
        raise TypeError(
            f"positives is a {type(positives).__name__}; give one id per query, or lists of ids"
        )
    return len(positives)
