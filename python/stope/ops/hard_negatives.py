"""mine_hard_negatives: the hardest documents that are not answers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import choice, integer, real, size
from stope._host import on_host
from stope.lists import Lists
from stope.ops._search import METRICS, TopK, exclusions, pair_scores, search
from stope.progress import check_progress

RANGE_COUNTS = ("eligible", "window", "raw")
REASONS = ("positive", "excluded", "absolute_margin", "relative_margin", "max_score", "min_score")


class HardNegatives(NamedTuple):
    """What :func:`mine_hard_negatives` found.

    Attributes:
        ids: int64 ``[q, m]`` corpus ids, hardest first; short rows end in -1.
        scores: float32 ``[q, m]`` canonical scores; short rows end in -inf.
        positive_scores: float32 ``[q]``, the lowest score among the query's positives.
        counts: int64 ``[q]``, how many negatives the row holds.
        rejected: int64 ``[q]`` per reason: candidates skipped on the way down the ranking.
    """

    ids: Any
    scores: Any
    positive_scores: Any
    counts: Any
    rejected: dict[str, Any]


class ScoreLimits(NamedTuple):
    """What margins and limits come to for each query.

    Attributes:
        ceiling: float64 ``[q]``, the highest score of a negative; None where there is none.
        binding: int64 ``[q]``, the limit that sets it, as an index into REASONS; -1 without.
        floor: the least score; None where there is none.
    """

    ceiling: NDArray[np.float64] | None
    binding: NDArray[np.int64]
    floor: float | None

    def take(self, queries: NDArray[np.int64]) -> ScoreLimits:
        """Those of these queries."""
        ceiling = None if self.ceiling is None else self.ceiling[queries]
        return ScoreLimits(ceiling, self.binding[queries], self.floor)

    def broken(self, scores: NDArray[np.float32]) -> NDArray[np.int64]:
        """The limit that each score breaks, as an index into REASONS, -1 for none.

        Scores are ``[q, any]``, and a NaN breaks none.
        """
        wide = scores.astype(np.float64)
        reasons = np.full(scores.shape, -1, dtype=np.int64)
        if self.floor is not None:
            reasons[wide < self.floor] = REASONS.index("min_score")
        if self.ceiling is not None:
            reasons = np.where(wide > self.ceiling[:, None], self.binding[:, None], reasons)
        return reasons


def mine_hard_negatives(
    queries: Any,
    corpus: Any,
    positives: Any,
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
    progress: Callable[[int, int], object] | None = None,
) -> HardNegatives:
    """Find hard negatives for every query, exactly.

    With p the lowest canonical score among a query's positives, a candidate with score s is
    *eligible* when it is neither positive nor excluded and

    - s <= p - absolute_margin,
    - s <= p - |p| · relative_margin (0.05 keeps at most 95% of a positive p; safe for p < 0),
    - s <= max_score and s >= min_score,

    for each limit that is given; equality is kept. Eligibility is decided *inside* the search, so a
    query gets all the negatives that exist, however many candidates the limits refuse. Candidates
    are ordered by (score descending, id ascending).

    Args:
        queries: ``[q, dim]``, as for :func:`stope.topk`.
        corpus: ``[n, dim]``, likewise.
        positives: ids that answer each query: one id per query ``[q]``, a sequence of id arrays, or
            CSR ``(offsets, ids)``. Every query needs at least one.
        num_negatives: how many negatives a query gets at most (m).
        metric: ``"cosine"``, ``"dot"`` or ``"euclidean"``.
        absolute_margin: see above; not negative.
        relative_margin: see above; not negative.
        max_score: highest score of a negative.
        min_score: lowest score of a negative.
        range_min: ranks to skip.
        range_max: rank to stop before. Default: ``range_min + num_negatives`` for ``"top"``,
            ``range_min + 10 * num_negatives`` for ``"random"``.
        range_counts: ``"eligible"``: ranks count eligible candidates. ``"window"``: they do, but
            only the best range_max + P corpus rows are looked at, P the most positives that a query
            has (sentence-transformers; a query whose limits refuse these gets fewer). ``"raw"``:
            ranks count all corpus rows, positives included (FlagEmbedding); only the rows of that
            range are looked at.
        sampling: ``"top"``: the hardest of the window. ``"random"``: a uniform choice without
            replacement from it.
        seed: of the random choice, 0 to 2^64 - 1. The choice depends on the seed, the query's row
            number and the candidates' ids alone: not on threads, chunks or instruction set.
        exclude: more ids never to return, per query, such as known duplicates of the positives.
        progress: called now and then with ``(done, total)``.

    Returns:
        :class:`HardNegatives`, arrays of the kind of ``queries``. ``rejected`` has one entry per
        reason: ``positive``, ``excluded`` (the query's own lists), ``absolute_margin``,
        ``relative_margin``, ``max_score`` (scores above the ceiling, counted under the rule that
        sets the query's ceiling) and ``min_score`` (only rows that ran out reach the floor; 0 for
        full rows). With ``"window"`` and ``"raw"`` they count inside what is looked at.

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError: a query without positives, ids out of range or repeated, a negative margin, an
            empty window, and what :func:`stope.topk` raises.
        TypeError: a margin or limit that is no number, and what :func:`stope.topk` raises.

    Memory beyond inputs and outputs: as :func:`stope.topk` with k = the window's end, and
    12 · q · k bytes for the window. On a CUDA device the search runs there, on the caller's stream;
    the window then comes to the CPU, where it is counted and sampled. A corpus in host memory
    streams through the device, as in :func:`stope.topk`; positives are then scored on the CPU, to
    which the queries are copied.

    Source: margins of sentence-transformers' ``mine_hard_negatives`` and NV-Retriever's
    TopK-PercPos (docs/methods.md, C1, C2).

    >>> import numpy as np
    >>> corpus = np.array([[1, 0], [0.99, 0.1], [0.8, 0.6], [0, 1]], dtype=np.float32)
    >>> query = np.array([[1, 0]], dtype=np.float32)
    >>> mined = mine_hard_negatives(query, corpus, [0], 2, relative_margin=0.05)
    >>> mined.ids.tolist(), mined.rejected["relative_margin"].tolist()
    ([[2, 3]], [1])
    """
    check_progress(progress)
    choice(metric, "metric", METRICS)
    q, c = _arrays.corpus_and_queries(queries, corpus, streams=True)
    window = window_of(num_negatives, range_min, range_max, range_counts, sampling, seed)
    answers = positive_lists(positives, q.rows, c.rows)
    extra = exclusions(exclude, q.rows, c.rows)
    place = _arrays.place_of(queries, q.device, "queries")
    answered = pair_scores(queries, corpus, answers, metric=metric)
    positive_scores = np.minimum.reduceat(answered, answers.offsets[:-1])
    rules = score_limits(positive_scores, absolute_margin, relative_margin, max_score, min_score)
    never = answers if extra is None else answers.union(extra)
    pool = hardest(
        functools.partial(search, queries, corpus, metric=metric, progress=progress),
        answers,
        never,
        rules,
        (window.first, window.end),
        counts=range_counts,
        corpus_rows=c.rows,
        most_positives=int(answers.lengths.max(initial=0)),
    )
    ids, scores = chosen(pool, window)

    def like(result: NDArray[Any]) -> Any:
        return _arrays.like(result, queries, place)

    return HardNegatives(
        ids=like(ids),
        scores=like(scores),
        positive_scores=like(positive_scores),
        counts=like(np.count_nonzero(ids >= 0, axis=1)),
        rejected={reason: like(pool.rejected[reason]) for reason in REASONS},
    )


class Window(NamedTuple):
    """Which ranks are considered and how many of them are taken, and how."""

    first: int
    end: int
    wanted: int
    sampling: str
    seed: int


class Pool(NamedTuple):
    """The candidates of the window, best first, padded with -1 and -inf at the end."""

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    rejected: dict[str, NDArray[np.int64]]


def window_of(
    num_negatives: Any, range_min: Any, range_max: Any, counts: str, sampling: str, seed: Any
) -> Window:
    """The ranks that these options of :func:`mine_hard_negatives` ask for."""
    wanted = size(num_negatives, "num_negatives")
    first = integer(range_min, "range_min", 0)
    choice(sampling, "sampling", ("top", "random"))
    choice(counts, "range_counts", RANGE_COUNTS)
    if range_max is None:
        end = first + wanted * (10 if sampling == "random" else 1)
    else:
        end = integer(range_max, "range_max", 0)
        if end < first + wanted:
            raise ValueError(
                f"range_max is {end}, which leaves {end - first} ranks after range_min={first}; "
                f"num_negatives={wanted} needs range_max={first + wanted} or more"
            )
    if sampling == "top" and counts == "eligible":
        end = first + wanted  # the hardest come first: later ranks are never reached
    return Window(first, end, wanted, sampling, integer(seed, "seed", 0))


def positive_lists(positives: Any, rows: int, corpus_rows: int) -> Lists:
    """The ids that answer each query, one at least."""
    single = _arrays.as_id_vector(positives, "positives")
    if single is not None:
        if single.size != rows:
            raise ValueError(
                f"positives has {single.size} ids for {rows} queries; give one each, "
                "or lists of ids"
            )
        positives = (np.arange(rows + 1), single)
    lists = _arrays.id_lists(positives, "positives", rows, corpus_rows)
    empty = np.flatnonzero(lists.lengths == 0)
    if empty.size:
        raise ValueError(
            f"query {empty[0]} has no positives; margins are measured from a positive score, "
            "so drop the query or give it one"
        )
    return lists


def score_limits(
    positive_scores: NDArray[np.float32],
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
) -> ScoreLimits:
    """The limits of :func:`mine_hard_negatives` for queries of these lowest positive scores."""
    for name, margin in (
        ("absolute_margin", absolute_margin),
        ("relative_margin", relative_margin),
    ):
        if margin is not None:  # how far below the positive a negative must stay
            real(margin, name, 0)
    return signed_limits(positive_scores, absolute_margin, relative_margin, max_score, min_score)


def signed_limits(
    positive_scores: NDArray[np.float32],
    absolute_margin: float | None,
    relative_margin: float | None,
    max_score: float | None,
    min_score: float | None,
) -> ScoreLimits:
    """The same, also of margins below 0: negatives may score so far above the positive."""
    for name, score in (("max_score", max_score), ("min_score", min_score)):
        if score is not None and not (isinstance(score, float) and math.isinf(score)):
            real(score, name)
    if max_score is not None and min_score is not None and min_score > max_score:
        raise ValueError(f"min_score is {min_score}, above max_score={max_score}; lower it")
    p = positive_scores.astype(np.float64)
    limits: list[tuple[str, NDArray[np.float64]]] = []
    if absolute_margin is not None:
        limits.append(("absolute_margin", p - absolute_margin))
    if relative_margin is not None:
        limits.append(("relative_margin", p - np.abs(p) * relative_margin))
    if max_score is not None:
        limits.append(("max_score", np.full(p.shape, float(max_score))))
    ceiling = np.full(p.shape, np.inf)
    binding = np.full(p.shape, -1, dtype=np.int64)
    for reason, limit in limits:
        tighter = limit < ceiling
        ceiling = np.where(tighter, limit, ceiling)
        binding[tighter] = REASONS.index(reason)
    return ScoreLimits(ceiling if limits else None, binding, min_score)


def hardest(
    scan: Callable[..., TopK],
    answers: Lists,
    never: Lists,
    rules: ScoreLimits,
    ranks: tuple[int, int],
    *,
    counts: str,
    corpus_rows: int,
    most_positives: int,
) -> Pool:
    """The candidates of some ranks, best first.

    Args:
        scan: `search` but for its k and limits.
        answers: the positives, every query at least one.
        never: what is not to be found, as a rule with the positives.
        rules: the limits.
        ranks: from which rank on, and which rank to stop before.
        counts: what ranks count.
        corpus_rows: of the corpus.
        most_positives: by how many rows a "window" is wider.
    """
    first, end = ranks
    if counts == "eligible":
        return _eligible_pool(scan, answers, never, rules, ranks, corpus_rows)
    wide = end + most_positives if counts == "window" else end
    ranked = scan(min(wide, corpus_rows))
    ids, scores = on_host(ranked.ids), on_host(ranked.scores)
    if counts == "raw":
        return among(ids[:, first:], scores[:, first:], answers, never, rules)
    pool = among(ids, scores, answers, never, rules)
    return pool._replace(ids=pool.ids[:, first:end], scores=pool.scores[:, first:end])


def _eligible_pool(
    scan: Callable[..., TopK],
    answers: Lists,
    never: Lists,
    rules: ScoreLimits,
    ranks: tuple[int, int],
    corpus_rows: int,
) -> Pool:
    first, end = ranks
    above = np.zeros(answers.num_lists, dtype=np.int64)
    ranked = scan(
        min(end, corpus_rows),
        exclude=never,
        ceiling=rules.ceiling,
        floor=rules.floor,
        above_ceiling=above,
    )
    ids, scores = on_host(ranked.ids), on_host(ranked.scores)
    never_counts = never.lengths
    rejected = {reason: np.zeros_like(above) for reason in REASONS}
    excluded_answers = never.contains(answers.owners, answers.ids)
    rejected["positive"] = np.bincount(answers.owners[excluded_answers], minlength=len(above))
    rejected["excluded"] = never_counts - rejected["positive"]
    for reason in ("absolute_margin", "relative_margin", "max_score"):
        rejected[reason] = np.where(rules.binding == REASONS.index(reason), above, 0)
    counts = np.count_nonzero(ids >= 0, axis=1)
    below = corpus_rows - never_counts - above - counts
    rejected["min_score"] = np.where(counts < ids.shape[1], below, 0)
    return Pool(ids[:, first:], scores[:, first:], rejected)


def among(
    ids: NDArray[np.int64],
    scores: NDArray[np.float32],
    answers: Lists,
    never: Lists,
    rules: ScoreLimits,
) -> Pool:
    """Of given candidates those that are eligible, in their order; -1 is none."""
    owners = np.repeat(np.arange(len(ids)), ids.shape[1])
    excluded = never.contains(owners, ids.reshape(-1)).reshape(ids.shape)
    positive = answers.contains(owners, ids.reshape(-1)).reshape(ids.shape) & excluded
    excluded &= ~positive
    left = (ids >= 0) & ~(positive | excluded)
    broken = np.where(left, rules.broken(scores), -1)
    rejected = {"positive": positive, "excluded": excluded}
    for reason in REASONS[2:]:
        rejected[reason] = broken == REASONS.index(reason)
    kept = left & (broken < 0)
    order = np.argsort(~kept, axis=1, kind="stable")
    kept_first = np.take_along_axis(kept, order, axis=1)
    return Pool(
        np.where(kept_first, np.take_along_axis(ids, order, axis=1), -1),
        np.where(kept_first, np.take_along_axis(scores, order, axis=1), np.float32(-np.inf)),
        {reason: np.count_nonzero(mask, axis=1) for reason, mask in rejected.items()},
    )


def chosen(
    pool: Pool, window: Window, first_query: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The negatives of every row, in the order of the pool, padded to the wanted number."""
    rows, width = pool.ids.shape
    taken = min(width, window.wanted)
    if window.sampling == "random" and width > taken:
        keys = np.empty((rows, width), dtype=np.uint64)
        pool_ids = np.ascontiguousarray(pool.ids)
        _core.sampling_keys(
            seed=window.seed,
            first_query=first_query,
            ids=pool_ids,
            rows=rows,
            columns=width,
            keys=keys,
        )
        places = np.sort(np.argsort(keys, axis=1, kind="stable")[:, :taken], axis=1)
    else:
        places = np.broadcast_to(np.arange(taken), (rows, taken))
    ids = np.full((rows, window.wanted), -1, dtype=np.int64)
    scores = np.full((rows, window.wanted), -np.inf, dtype=np.float32)
    ids[:, :taken] = np.take_along_axis(pool.ids, places, axis=1)
    scores[:, :taken] = np.take_along_axis(pool.scores, places, axis=1)
    return ids, scores
