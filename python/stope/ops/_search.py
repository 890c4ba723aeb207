"""The search that topk, FlatIndex and mine_hard_negatives share: one call of the core."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import choice, integer, size
from stope._host import on_host
from stope.lists import Lists
from stope.progress import Progress, check_progress

Metric = Literal["dot", "cosine", "euclidean"]
"""What scores mean; see :func:`stope.similarity`."""

Precision = Literal["exact", "bfloat16", "int8"]
"""What a scan proves; see :func:`stope.topk`."""

METRICS: tuple[Metric, ...] = get_args(Metric)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
_MOST_QUERIES_FOR_HALVES, _MOST_K_FOR_HALVES = 1, 128
_LEAST_FOR_HALVES = 1 << 24  # bytes of panels; fewer stay in a cache


class TopK(NamedTuple):
    """Scores and corpus ids, ``[queries, k]`` each, best first; short rows end in -inf and -1."""

    scores: Any
    ids: Any


class Besides(NamedTuple):
    """What a search is told beside what :func:`stope.topk` is.

    By an index: panels of its corpus, and on the CPU perhaps which rows may be found (a bit for
    every row, lowest first; ``above_ceiling`` does not look at it). By operations whose arguments
    have other names: those, for messages about rows.
    """

    panels: Any = None
    allowed: NDArray[np.uint8] | None = None
    names: tuple[str, str] = ("queries", "corpus")
    halves: NDArray[np.uint8] | None = None  # read before the panels, on the CPU


_NOTHING = Besides()


def exclusions(exclude: Any, queries: int, corpus_rows: int) -> Lists | None:
    """The ids that each query may not find, as sorted CSR; -1, which fills up rows, is none."""
    if exclude is None:
        return None
    return _arrays.id_lists(exclude, "exclude", queries, corpus_rows, padded=True)


def results(out: Any, area: tuple[int, int], place: _arrays.Place) -> TopK:
    """The caller's scores and ids after a check, or new ones."""
    if out is not None and (not isinstance(out, tuple) or len(out) != 2):
        raise TypeError("out must be a tuple (scores, ids)")
    given_scores, given_ids = out or (None, None)
    return TopK(
        _arrays.output(given_scores, "out scores", area, np.float32, place),
        _arrays.output(given_ids, "out ids", area, np.int64, place),
    )


def search(
    queries: Any,
    corpus: Any,
    k: int,
    *,
    metric: str,
    exclude: Any = None,
    ceiling: Any = None,
    floor: Any = None,
    precision: Precision = "exact",
    out: tuple[Any, Any] | None = None,
    progress: Progress | None = None,
    besides: Besides = _NOTHING,
    above_ceiling: NDArray[np.int64] | None = None,
) -> TopK:
    """:func:`stope.topk`, and what an index, the miner and other operations need besides."""
    check_progress(progress)
    choice(metric, "metric", METRICS)
    choice(precision, "precision", PRECISIONS)
    q, c = _arrays.corpus_and_queries(queries, corpus, streams=True)
    k = integer(k, "k", 1)
    if k > c.rows:
        raise ValueError(
            f"k is {k}, but corpus has {c.rows} rows; use k={c.rows} or less, or pad=True"
        )
    lists = exclusions(exclude, q.rows, c.rows)
    place = _arrays.place_of(queries, q.device, "queries")
    scores, ids = results(out, (q.rows, k), place)
    above: Any = above_ceiling
    if above is not None and place is not _arrays.ON_CPU:
        above = place.empty((q.rows,), np.int64)
    _core.topk(
        queries=queries,
        corpus=corpus,
        k=k,
        metric=metric,
        precision=precision,
        packed=besides.panels if q.device == c.device else None,
        halves=besides.halves if _halves_pay(besides, q, k) else None,
        exclude_offsets=None if lists is None else lists.offsets,
        exclude_ids=None if lists is None else lists.ids,
        allowed=besides.allowed,
        ceilings=_arrays.limits(ceiling, "ceiling", q.rows, -np.inf),
        floors=_arrays.limits(floor, "floor", q.rows, np.inf),
        scores=scores,
        ids=ids,
        above_ceiling=above,
        queries_name=besides.names[0],
        corpus_name=besides.names[1],
        threads=_core.num_threads(),
        allocate=place.workspace,
        progress=progress,
        allocate_pinned=None if place is _arrays.ON_CPU else place.pinned,
        **place.options,
    )
    if above_ceiling is not None and above is not above_ceiling:
        above_ceiling[:] = on_host(above)
    return _as_queries(out, scores, ids, queries, place)


def _halves_pay(besides: Besides, queries: _arrays.MatrixShape, k: int) -> bool:
    """Whether a search waits for memory, and lets few rows pass by half of their bits."""
    on_cpu = queries.device == "cpu" and besides.halves is not None
    few = queries.rows <= _MOST_QUERIES_FOR_HALVES and k <= _MOST_K_FOR_HALVES
    return on_cpu and few and besides.panels.size >= _LEAST_FOR_HALVES


def padded_search(queries: Any, corpus: Any, k: int, *, out: Any = None, **options: Any) -> TopK:
    """As `search`, of whatever comes: no queries, no rows, and k above their number."""
    q, c = _arrays.corpus_and_queries(queries, corpus, streams=True, empty=True)
    k = size(k, "k")
    if q.rows and k <= c.rows:
        return search(queries, corpus, k, out=out, **options)
    place = _arrays.place_of(queries, q.device, "queries")
    scores, ids = results(out, (q.rows, k), place)
    scores[...], ids[...] = -np.inf, -1
    if q.rows and c.rows:
        scores[:, : c.rows], ids[:, : c.rows] = search(queries, corpus, c.rows, **options)
    else:
        _check_unused(q.rows, c.rows, **options)
    return _as_queries(out, scores, ids, queries, place)


def _check_unused(
    queries: int,
    rows: int,
    *,
    metric: str,
    exclude: Any = None,
    ceiling: Any = None,
    floor: Any = None,
    precision: str = "exact",
    progress: Progress | None = None,
    besides: Besides = _NOTHING,
) -> None:
    check_progress(progress)
    choice(metric, "metric", METRICS)
    choice(precision, "precision", PRECISIONS)
    exclusions(exclude, queries, rows)
    _arrays.limits(ceiling, "ceiling", queries, -np.inf)
    _arrays.limits(floor, "floor", queries, np.inf)


def _as_queries(out: Any, scores: Any, ids: Any, queries: Any, place: _arrays.Place) -> TopK:
    """The caller's own arrays, or the results as arrays of the kind of the queries."""
    if out is not None:
        return TopK(*out)
    return TopK(_arrays.like(scores, queries, place), _arrays.like(ids, queries, place))


def pair_scores(queries: Any, corpus: Any, pairs: Lists, *, metric: str) -> NDArray[np.float32]:
    """The canonical score of every query with each row of its list, in host memory.

    Queries on a device whose corpus is in host memory are scored there, bit for bit the same.
    """
    q, c = (_arrays.matrix_shape(x, name) for x, name in ((queries, "queries"), (corpus, "corpus")))
    if q.device != c.device:
        queries, place = _arrays.on_cpu(queries), _arrays.ON_CPU
    else:
        place = _arrays.place_of(queries, q.device, "queries")
    scores = place.empty((pairs.ids.size,), np.float32)
    _core.pair_scores(
        queries=queries,
        corpus=corpus,
        metric=metric,
        offsets=pairs.offsets,
        ids=pairs.ids,
        scores=scores,
        threads=_core.num_threads(),
        allocate=place.workspace,
        progress=None,
        **place.options,
    )
    return on_host(scores)
