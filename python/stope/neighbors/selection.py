"""Choosing rows of a corpus: what a selector is and returns, and those that need no targets.

A selector is a frozen dataclass; called with embeddings and a budget it returns so many rows, best
first, with scores and reasons. Selectors for targets are in `stope.neighbors.targets`, those by
cluster in `stope.neighbors.prototypes`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import choice, integer, real, shown
from stope._host import on_host
from stope._kinds import offering
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
from stope.ops._search import METRICS, Metric
from stope.progress import StageProgress, check_progress, of_stage

_BLOCK = 256  # columns of a score tile
_VOTES = 64  # how often a voter's neighbours may be picked before further picks count the same


class Selection(NamedTuple):
    """Chosen rows, the first one chosen first.

    Attributes:
        ids: int64 ``[budget]``, no row twice; fewer where a selector has no more to choose.
        scores: float64, the score by which each was chosen; the selector says which.
        reasons: by name, one entry for each id: what else speaks for it.
    """

    ids: Ids
    scores: NDArray[np.float64]
    reasons: Mapping[str, NDArray[Any]]


@runtime_checkable
class Selector(Protocol):
    """Chooses rows: ``selector(embeddings, budget)`` gives a `Selection`.

    ``progress`` is called with (stage, done, total) while it works; Ctrl-C is heard as often.
    """

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose so many rows of embeddings ``[n, dim]``."""


@dataclass(frozen=True)
class Quality:
    """The rows of highest quality: by any scorer, whatever is asked later.

    Pruning a share p of n rows is a budget of n - floor(p n). Equal scores: the lower row. Scores
    of survivors in a search do not change, since quality knows no query.

    Attributes:
        scorer: float ``[n]``, or a function that makes them of the embeddings, such as
            ``lambda x: np.linalg.norm(x, axis=1)``.

    Memory: 24 bytes a row, and what the scorer takes.

    Source: Neural passage quality estimation for static pruning (Chang et al. 2024),
    docs/methods.md, F12.

    >>> Quality([0.1, 0.9, 0.5])(np.eye(3, dtype=np.float32), 2).ids.tolist()
    [1, 2]
    """

    scorer: Any

    def __post_init__(self) -> None:
        if not callable(self.scorer):
            numbers_of(self.scorer, "scorer", "fiu", "give one for each row, or a function")

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose the best. One step: there is nothing between that progress could tell.

        Raises:
            ValueError: not one finite score for each row.
        """
        rows, count = asked(embeddings, budget, progress)
        values = on_host(self.scorer(rows) if callable(self.scorer) else self.scorer)
        scores = values.astype(np.float64)
        if scores.shape != (len(rows),) or not np.isfinite(scores).all():
            raise ValueError(
                f"scorer gives scores of shape {scores.shape}; give a finite one for each of "
                f"{len(rows)} rows"
            )
        ids = best_first(scores, count)
        return Selection(ids, scores[ids], {})


@dataclass(frozen=True)
class VoteK:
    """Rows that many others have as a neighbour, spread out: what to annotate.

        score(u) = sum of rho^-c_v over rows v that are not chosen and have u among their k nearest,

    c_v being how many of v's nearest are chosen already. The highest is chosen, again and again;
    of equal ones that with more votes at the start, then the lower row.

    Attributes:
        k: neighbours of a row (150 in the paper), at most n - 1.
        rho: how much less a row counts for each of its neighbours that is chosen.
        metric: of the graph.
        operations: who makes it: this process, `KeptOperations`, or `stope.scale.ray.Operations`.

    The result's scores are those at the moment of the choice; the reason ``votes`` is how many rows
    have it among their nearest. Memory: 16·n·k bytes for the graph, 128 a row.

    Source: Su et al. 2023 (vote-k, its first phase), docs/methods.md, F5.

    >>> line = np.float32([[0], [1], [2], [10], [11]])
    >>> VoteK(k=2, metric="euclidean")(line, 2).ids.tolist()
    [2, 0]
    """

    k: int = 150
    rho: float = 10.0
    metric: Metric = "cosine"
    operations: Any = field(default=stope, repr=False)

    def __post_init__(self) -> None:
        integer(self.k, "k", 1)
        real(self.rho, "rho", 1, above=True)
        choice(self.metric, "metric", METRICS)
        offering("knn_graph")(self.operations, "operations")

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose by votes in the exact graph."""
        rows, count = asked(embeddings, budget, progress)
        width = min(self.k, len(rows) - 1)
        ids = np.zeros((1, 0), np.int64)
        if width:
            told = of_stage(progress, "neighbours")
            graph = self.operations.knn_graph(rows, width, metric=self.metric, progress=told)
            ids = graph.ids
        nearest = Lists(np.arange(len(rows) + 1) * width, ids.reshape(-1))
        return choose_by_votes(nearest, count, self.rho, progress)


def choose_by_votes(
    nearest: Lists, budget: int, rho: float = 10.0, progress: StageProgress | None = None
) -> Selection:
    """`VoteK` on a graph: list v holds the neighbours of v, for which v votes.

    >>> choose_by_votes(Lists.from_sequences([[1, 2], [0, 4], [0], [0, 2], [1, 3]]), 3).ids.tolist()
    [0, 1, 2]
    """
    rows = nearest.num_lists
    voters = Lists.from_owners(nearest.ids, nearest.owners, rows)
    votes = voters.lengths
    powers = rho ** -np.arange(_VOTES, dtype=np.float64)
    # counts[c, u]: voters of u of whose neighbours c are chosen. Sums of these have no history.
    counts = np.zeros((_VOTES, rows), dtype=np.int32)
    counts[0] = votes
    cells, single = counts.reshape(-1), np.int32(1)  # a vector's cells are counted much faster
    met = np.zeros(rows, dtype=np.int64)  # c_v
    left = np.ones(rows, dtype=bool)
    scores, touched = votes.astype(np.float64), np.zeros(rows, dtype=bool)
    chosen, values = np.empty(budget, dtype=np.int64), np.empty(budget)
    highest = 0  # of met
    for place in steps(range(budget), progress, "choices"):
        best = np.flatnonzero(scores == scores.max())
        row = best[np.argmax(votes[best])]
        chosen[place], values[place], left[row] = row, scores[row], False
        lost = nearest.row(row)  # these lose the vote of the chosen row
        np.subtract.at(cells, met[row] * rows + lost, single)
        movers = voters.row(row)
        movers = movers[left[movers] & (met[movers] < _VOTES - 1)]
        moved = nearest.take(movers)
        before = np.repeat(met[movers] * rows, moved.lengths) + moved.ids
        np.subtract.at(cells, before, single)
        np.add.at(cells, before + rows, single)
        met[movers] += 1
        highest = max(highest, int(met[movers].max(initial=0)))
        touched[lost] = touched[moved.ids] = True
        changed = np.flatnonzero(touched)
        touched[changed] = False
        # One c after another: equal counts give equal bits, whenever they are added.
        terms = (counts[c, changed] * powers[c] for c in range(highest + 1))
        scores[changed] = sum(terms, np.zeros(len(changed)))
        scores[~left] = -np.inf
    return Selection(chosen, values, {"votes": votes[chosen]})


@dataclass(frozen=True)
class KCenter:
    """Rows that leave no row far away: each is the farthest from those before (greedy k-centre).

    Twice the smallest possible radius at most. The scores are minus the distance, or the cosine or
    product, to the nearest of those chosen before; of equally far ones the lower row.

    Attributes:
        first: the row to begin with.
        metric: ``"euclidean"``, ``"cosine"`` or ``"dot"``.

    Memory: 8 bytes a row.

    Source: Gonzalez 1985; a baseline.

    >>> KCenter(metric="euclidean")(np.float32([[0], [1], [9], [4]]), 3).ids.tolist()
    [0, 2, 3]
    """

    first: int = 0
    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        integer(self.first, "first", 0)
        choice(self.metric, "metric", METRICS)

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose the farthest row again and again."""
        rows, count = asked(embeddings, budget, progress)
        if self.first >= len(rows):
            raise ValueError(f"first is {self.first}, but there are {len(rows)} rows; give less")
        nearest = np.full(len(rows), -np.inf, dtype=np.float32)
        chosen, scores = np.empty(count, dtype=np.int64), np.full(count, np.nan)
        row = self.first
        for place in steps(range(count), progress, "choices"):
            chosen[place] = row
            scores[place] = nearest[row] if place else np.nan
            score = stope.similarity(rows[row : row + 1], rows, metric=self.metric)[0]
            nearest = np.maximum(nearest, score)
            nearest[row] = np.inf
            row = int(nearest.argmin())
        return Selection(chosen, scores, {})


@dataclass(frozen=True)
class FacilityLocation:
    """Rows that together are near all rows: greedy, at least 63% of the best such value.

        maximise  sum_i max over chosen j of max(0, s_ij)

    Attributes:
        metric: ``"cosine"`` or ``"dot"``.

    The scores are what each choice added; of equal ones the lower row. A gain is computed again
    only where an older, greater one says that it could be the greatest. Time n² scores, for some
    ten thousands of rows; memory 1 KiB a row.

    Source: Nemhauser, Wolsey and Fisher 1978, evaluated lazily (Minoux 1978); a baseline.

    >>> x = np.float32([[1, 0], [0.9, 0.1], [0, 1]])
    >>> FacilityLocation()(x, 2).ids.tolist()
    [1, 2]
    """

    metric: Metric = "cosine"

    def __post_init__(self) -> None:
        choice(self.metric, "metric", ("cosine", "dot"))

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose what adds most, again and again."""
        rows, count = asked(embeddings, budget, progress)
        covered, parts = np.zeros(len(rows)), chunks(len(rows), _BLOCK)

        def gains(part: slice) -> NDArray[np.float64]:
            scores = stope.similarity(rows[part], rows, metric=self.metric)
            return np.asarray(np.maximum(scores - covered, 0).sum(axis=1))

        first = np.concatenate([gains(part) for part in steps(parts, progress, "gains")])
        heap = [(-gain, row, 0) for row, gain in enumerate(first.tolist())]
        heapq.heapify(heap)
        chosen, scores = np.empty(count, dtype=np.int64), np.empty(count)
        for place in steps(range(count), progress, "choices"):
            gain, row, known = heapq.heappop(heap)
            while known < place:  # of before some choices, which can only have lowered it
                heapq.heappush(heap, (-float(gains(slice(row, row + 1))[0]), row, place))
                gain, row, known = heapq.heappop(heap)
            chosen[place], scores[place] = row, -gain
            score = stope.similarity(rows[row : row + 1], rows, metric=self.metric)[0]
            covered = np.maximum(covered, score)
        return Selection(chosen, scores, {})


@dataclass(frozen=True)
class Coverage:
    """Examples whose tokens together cover those of a query (Set-BSR).

        recall_cl = max over tokens t of candidate c of cos(query token l, t)
        maximise  sum_l weight_l max over chosen c of recall_cl

    greedily; when no candidate adds anything, a new round of covering begins. The order is turned
    round at the end: the first choice stands last, next to the query in a prompt.

    Attributes:
        query_tokens: ``[l, dim]``, embeddings of the query's tokens.
        offsets: int64 ``[candidates + 1]``: candidate c has the rows offsets[c] to offsets[c + 1]
            of the embeddings, one at least.
        weights: ``[l]``, such as idf, divided by their sum; None for equal ones that sum to l.

    Called with the embeddings of all tokens ``[tokens, dim]`` and how many candidates to choose.
    The scores are the value that each choice led to; the reason ``round`` is its round. Memory:
    4·l bytes a token and candidate.

    Source: Gupta et al. 2023 (coverage-based example selection), docs/methods.md, F6.

    >>> tokens = np.float32([[1, 0], [0, 1], [0.8, 0.6]])
    >>> Coverage(np.eye(2, dtype=np.float32), [0, 1, 2, 3])(tokens, 2).ids.tolist()
    [1, 2]
    """

    query_tokens: Any
    offsets: Any
    weights: Any = field(default=None)

    def __post_init__(self) -> None:
        tokens = finite_rows(self.query_tokens, "query_tokens")
        offsets = numbers_of(self.offsets, "offsets", "iu", "give integers, candidates + 1")
        if len(offsets) < 2 or offsets[0] != 0 or (np.diff(offsets) < 1).any():
            raise ValueError(
                f"offsets is {shown(self.offsets)}; give where candidates begin, rising from 0"
            )
        if self.weights is not None:
            weights = numbers_of(self.weights, "weights", "fiu", "give one for each token")
            if len(weights) != len(tokens) or (weights < 0).any() or not weights.sum() > 0:
                raise ValueError(
                    f"weights is {shown(self.weights)}; give one for each of {len(tokens)} "
                    "query_tokens, 0 or more, not all 0"
                )

    def __call__(
        self, embeddings: Any, budget: int, /, *, progress: StageProgress | None = None
    ) -> Selection:
        """Choose candidates, the first choice last."""
        check_progress(progress)
        rows = rows_of(embeddings, "embeddings")
        starts = np.asarray(self.offsets)
        if starts[-1] != len(rows):
            raise ValueError(
                f"offsets end at {starts[-1]}, but there are {len(rows)} embeddings; give their end"
            )
        count = budget_of(budget, len(starts) - 1)
        cosines = stope.similarity(on_host(self.query_tokens), rows, metric="cosine")
        recalls = np.maximum.reduceat(cosines, starts[:-1], axis=1).T
        if self.weights is not None:
            weights = np.asarray(self.weights, dtype=np.float64)
            recalls = recalls * (weights / weights.sum())
        return choose_by_coverage(recalls, count, progress)


def choose_by_coverage(
    recalls: NDArray[Any], budget: int, progress: StageProgress | None = None
) -> Selection:
    """`Coverage` on recalls ``[candidates, tokens]``.

    >>> recalls = np.array([[0.9, 0.1, 0.1], [0.8, 0.2, 0.2], [0.1, 0.7, 0.6]])
    >>> choose_by_coverage(recalls, 2).ids.tolist()
    [0, 2]
    """
    values = recalls.astype(np.float64)
    left = np.ones(len(values), dtype=bool)
    chosen, scores = np.empty(budget, dtype=np.int64), np.empty(budget)
    rounds = np.zeros(budget, dtype=np.int64)
    covered = np.full(values.shape[1], -np.inf)
    reached, turn = -np.inf, 0
    for place in steps(range(budget), progress, "choices"):
        totals = np.maximum(values, covered).sum(axis=1)
        totals[~left] = -np.inf
        if not totals.max() > reached:  # nothing is added: begin anew
            covered, turn = np.full(values.shape[1], -np.inf), turn + 1
            totals = np.where(left, values.sum(axis=1), -np.inf)
        row = int(totals.argmax())
        chosen[place], scores[place], rounds[place], left[row] = row, totals[row], turn, False
        covered, reached = np.maximum(covered, values[row]), totals[row]
    return Selection(chosen[::-1], scores[::-1], {"round": rounds[::-1]})


Scorer = Callable[[NDArray[Any]], Any]
"""What `Quality` may be given: embeddings in, one score for each row out."""
