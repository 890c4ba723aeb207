"""The answers of an index: rows by their places, in the order (score descending, id ascending).

The core breaks ties by places. Where ids have another order, one row more than wanted shows whether
the last score is shared by rows that were left out; those that share it are then asked for, and
ordered by id.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays
from stope._host import on_host
from stope.indexes._filters import Filter
from stope.indexes._held import Held
from stope.indexes._ids import Places
from stope.lists import Lists, offsets_of
from stope.ops._search import Besides, Metric, Precision, padded_search, pair_scores
from stope.ops.pairs_above import pairs_beside
from stope.progress import Progress

# Rows that are at most one in so many are searched by themselves: copying and packing a row costs
# what scanning 30 of them costs for a single query, and 2 for many queries.
_FEW, _FEW_OF_ALL, _MANY_QUERIES = 8, 32, 16
_MOST_TIED = 1 << 22  # entries of one search for rows that share a score

Scores = NDArray[np.float32]


class InRange(NamedTuple):
    """The rows within a range: those of query i are ``offsets[i]`` to ``offsets[i + 1]``."""

    offsets: NDArray[np.int64]
    scores: NDArray[np.float32]
    ids: NDArray[Any]


class Question(NamedTuple):
    """What is asked of the rows held: by whom, by which scores, of which rows."""

    held: Held
    queries: Any
    metric: Metric
    filter: Filter
    ceiling: Any = None
    floor: Any = None
    precision: Precision = "exact"
    progress: Progress | None = None


def best(question: Question, k: int) -> tuple[Scores, Places]:
    """The k best rows of every query, on the host; -inf and -1 where there are fewer."""
    if question.filter.listed is not None:
        return _best_of_lists(question, question.filter.listed, k)
    part = _part(question)
    ids = question.held.ids
    ordered = part.places is not None or ids.sorted
    count = k if ordered or k >= ids.places else k + 1
    scores, places = _search(question, part, count)
    return (scores, places) if ordered else _by_id(question, part, scores, places, k)


def within(question: Question, threshold: float) -> InRange:
    """All rows whose score is at least the threshold, query by query, best first."""
    held, filter_ = question.held, question.filter
    shapes = _arrays.corpus_and_queries(question.queries, held.corpus, empty=True)
    count = shapes[0].rows
    least = _arrays.threshold(threshold, "threshold")
    chunks = [(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))]
    part = _part(question)
    if filter_.listed is not None:
        scores = _scores(question, filter_.listed)
        high = scores >= least
        chunks.append((filter_.listed.owners[high], filter_.listed.ids[high], scores[high]))
    elif count and _arrays.matrix_shape(part.corpus, "corpus").rows:

        def keep(*chunk: Any) -> None:
            owners, rows, scores = (on_host(array) for array in chunk)
            places = rows if part.places is None else part.places[rows]
            kept = np.ones(len(rows), dtype=bool)
            if filter_.mask is not None:
                kept = filter_.mask[places]
            if filter_.excluded is not None:
                kept = kept & ~filter_.excluded.contains(owners, places)
            chunks.append((owners[kept], places[kept], scores[kept]))

        on_cpu = shapes[0].device == held.shape.device == "cpu"
        pairs_beside(
            question.queries,
            part.corpus,
            part.besides.panels if on_cpu else None,
            threshold=threshold,
            metric=question.metric,
            sink=keep,
            progress=question.progress,
        )
    owners, places, scores = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    offsets = offsets_of(np.bincount(owners, minlength=count))
    if not held.ids.sorted or filter_.listed is not None:  # else as they came
        order = np.lexsort((held.ids.ranks(places), -scores, owners))
        scores, places = scores[order], places[order]
    return InRange(offsets, scores, held.ids.of(places))


class _Part(NamedTuple):
    """What is scanned: the whole corpus, or few rows of it in the order of their ids."""

    corpus: Any
    besides: Besides
    places: Places | None  # of its rows; None: all
    excluded: Lists | None  # in its numbers


def _part(question: Question) -> _Part:
    held, filter_ = question.held, question.filter
    if filter_.mask is None or filter_.listed is not None:
        return _Part(held.corpus, held.besides(), None, filter_.excluded)
    shape = _arrays.matrix_shape(question.queries, "queries")
    share = _FEW if shape.rows >= _MANY_QUERIES else _FEW_OF_ALL
    few = np.count_nonzero(filter_.mask) * share <= held.ids.places
    if not few and (shape.device, held.shape.device) == ("cpu", "cpu"):
        allowed = np.packbits(filter_.mask, bitorder="little")
        return _Part(held.corpus, held.besides(allowed), None, filter_.excluded)
    places = held.ids.in_order(filter_.mask)
    excluded = filter_.excluded
    if excluded is not None:
        rows = np.full(held.ids.places, -1, dtype=np.int64)
        rows[places] = np.arange(len(places))
        renamed = excluded._replace(ids=rows[excluded.ids])
        excluded = renamed.where(renamed.ids >= 0).distinct()
    return _Part(_arrays.take_rows(held.corpus, places), Besides(), places, excluded)


def _search(
    question: Question, part: _Part, k: int, rows: Places | None = None, score: Any = None
) -> tuple[Scores, Places]:
    """The k best places; with rows, of these queries alone, and of these scores."""
    queries, excluded = question.queries, part.excluded
    floor, ceiling = question.floor, question.ceiling
    if rows is not None:
        queries, floor, ceiling = _arrays.take_rows(queries, rows), score, score
        excluded = None if excluded is None else excluded.take(rows)
    found = padded_search(
        queries, part.corpus, k, metric=question.metric, exclude=excluded, ceiling=ceiling,
        floor=floor, precision=question.precision, progress=question.progress, besides=part.besides,
    )  # fmt: skip
    scores, places = on_host(found.scores), on_host(found.ids)
    if part.places is not None and len(part.places):
        places = np.where(places < 0, -1, part.places[places])
    return scores, places


def _by_id(
    question: Question, part: _Part, scores: Scores, places: Places, k: int
) -> tuple[Scores, Places]:
    """The k best of what was found by places, equal scores in the order of ids."""
    ids = question.held.ids
    tied = (scores[:, 1:] == scores[:, :-1]) & (places[:, 1:] >= 0)
    if places.shape[1] > k:
        cut = np.flatnonzero(tied[:, k - 1]) if question.precision == "exact" else tied[:0, 0]
        last = scores[cut, k - 1]
        scores, places = scores[:, :k].copy(), places[:, :k].copy()
        for row, equal, sharing in _sharing(question, part, cut, last):
            first = np.count_nonzero(scores[row] > scores[row, -1])
            order = np.argsort(ids.ranks(sharing))[: k - first]
            scores[row, first:], places[row, first:] = equal[order], sharing[order]
    else:
        scores, places = scores.copy(), places.copy()
    rows = np.flatnonzero(tied[:, : k - 1].any(axis=1))
    if rows.size:
        part_of = places[rows]
        ranks = ids.ranks(np.maximum(part_of, 0).reshape(-1)).reshape(part_of.shape)
        order = np.lexsort((ranks, -scores[rows]), axis=1)
        scores[rows] = np.take_along_axis(scores[rows], order, axis=1)
        places[rows] = np.take_along_axis(part_of, order, axis=1)
    return scores, places


def _sharing(
    question: Question, part: _Part, rows: Places, scores: Scores
) -> Iterator[tuple[int, Scores, Places]]:
    """For each of these queries (its row, scores, places) of all rows of this score."""
    k = 64
    while rows.size:
        unfinished = []
        step = max(_MOST_TIED // k, 1)
        for first in range(0, rows.size, step):
            some, score = rows[first : first + step], scores[first : first + step]
            sharing = zip(some.tolist(), *_search(question, part, k, some, score), strict=True)
            for row, equal, places in sharing:
                if places[-1] >= 0:
                    unfinished.append(row)
                else:
                    yield row, equal[places >= 0], places[places >= 0]
        left = np.isin(rows, unfinished)
        rows, scores, k = rows[left], scores[left], k * 4


def _scores(question: Question, lists: Lists) -> Scores:
    """The canonical score of each query with each place of its list."""
    _arrays.corpus_and_queries(question.queries, question.held.corpus, streams=True, empty=True)
    if not lists.ids.size:
        return np.empty(0, dtype=np.float32)
    return pair_scores(question.queries, question.held.corpus, lists, metric=question.metric)


def _best_of_lists(question: Question, lists: Lists, k: int) -> tuple[Scores, Places]:
    count = lists.num_lists
    scores = _scores(question, lists)
    owners, kept = lists.owners, np.ones(len(scores), dtype=bool)
    ceilings = _arrays.limits(question.ceiling, "ceiling", count, -np.inf)
    floors = _arrays.limits(question.floor, "floor", count, np.inf)
    if ceilings is not None:
        kept &= scores <= ceilings[owners]
    if floors is not None:
        kept &= scores >= floors[owners]
    owners, places, scores = owners[kept], lists.ids[kept], scores[kept]
    order = np.lexsort((question.held.ids.ranks(places), -scores, owners))
    owners, places, scores = owners[order], places[order], scores[order]
    columns = np.arange(len(owners)) - offsets_of(np.bincount(owners, minlength=count))[owners]
    top = columns < k
    best_scores = np.full((count, k), -np.inf, dtype=np.float32)
    best_places = np.full((count, k), -1, dtype=np.int64)
    best_scores[owners[top], columns[top]] = scores[top]
    best_places[owners[top], columns[top]] = places[top]
    return best_scores, best_places
