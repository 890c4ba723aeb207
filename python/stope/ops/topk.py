"""topk: the exact k best corpus rows of every query."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core


class TopK(NamedTuple):
    """Scores and corpus ids, ``[queries, k]`` each, best first; short rows end in -inf and -1."""

    scores: Any
    ids: Any


def topk(
    queries: Any,
    corpus: Any,
    k: int,
    *,
    metric: str = "dot",
    exclude: Any = None,
    ceiling: Any = None,
    floor: Any = None,
    precision: str = "exact",
    out: tuple[Any, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> TopK:
    """Find the k corpus rows with the highest score for every query, exactly.

    The corpus is scanned in int8 with a proven error bound; whatever the bound cannot rule out is
    scored again in canonical float32 (see :func:`stope.similarity`). Rows are ordered by (score
    descending, id ascending), so ids and score bits are the same for every instruction set, number
    of threads, batch of queries and partition of the corpus.

    Args:
        queries: ``[q, dim]``, float32, float16, bfloat16 or int8 (NumPy, torch, DLPack).
        corpus: ``[n, dim]``, likewise; int8 goes with int8. May be a memory map: it is read once
            per group of queries, front to back.
        k: how many, 1 to n.
        metric: ``"dot"``, ``"cosine"`` (zero rows score 0) or ``"euclidean"`` (-distance).
        exclude: ids never to return, per query: CSR ``(offsets, ids)`` or a sequence of id arrays.
        ceiling: highest score to return, inclusive: one per query, or one for all.
        floor: lowest score to return, inclusive, likewise.
        precision: ``"exact"``; or ``"int8"``, which skips the proof and the rescoring: ids can
            differ near the k-th place, and scores carry the quantisation error (about 1% of
            ‖q‖ ‖x‖); or ``"bfloat16"``, the same with bfloat16's error (about 0.3%).
        out: ``(scores, ids)`` to write to, float32 and int64 ``[q, k]``.
        progress: called now and then with ``(done, total)``; Ctrl-C is heard as often.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[q, k]``, of the kind of ``queries``. Rows with
        fewer than k eligible candidates end in score -inf and id -1.

    Raises:
        ValueError: k outside 1..n, empty or mismatched matrices, ids out of range or repeated, NaN
            or infinity (naming the row), a norm of 2^63 or more under ``dot`` or ``euclidean``.
        TypeError: a dtype that is not supported, such as float64 (cast it).

    Memory beyond inputs and outputs, any n: about 32 MiB of candidates (48·k + 7,680 bytes a
    query; queries go in groups that fit), 8 MiB of packed corpus (2 MiB a thread beyond four), and
    5·dim bytes a query of the group.

    Source: ``methods.md`` H10 (order of ties), house 3.1 (the certificate).

    >>> import numpy as np
    >>> corpus = np.eye(4, dtype=np.float32)
    >>> found = topk(np.array([[0.1, 0.9, 0.3, 0.9]], dtype=np.float32), corpus, 3)
    >>> found.ids.tolist()
    [[1, 3, 2]]
    >>> topk(np.ones((1, 4), dtype=np.float32), corpus, 2, exclude=[[0, 2]]).ids.tolist()
    [[1, 3]]
    """
    return search(
        queries,
        corpus,
        k,
        metric=metric,
        exclude=exclude,
        ceiling=ceiling,
        floor=floor,
        precision=precision,
        out=out,
        progress=progress,
    )


def as_integer(value: Any, name: str) -> int:
    """The value as an int, or a sentence."""
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; give an integer") from None


def search(
    queries: Any,
    corpus: Any,
    k: int,
    *,
    metric: str,
    exclude: Any = None,
    ceiling: Any = None,
    floor: Any = None,
    precision: str = "exact",
    out: tuple[Any, Any] | None = None,
    progress: Callable[[int, int], object] | None = None,
    packed: NDArray[np.uint8] | None = None,
    above_ceiling: NDArray[np.int64] | None = None,
) -> TopK:
    """:func:`topk`, and what an index and the miner need besides."""
    q, c = _arrays.corpus_and_queries(queries, corpus)
    k = as_integer(k, "k")
    if k < 1:
        raise ValueError(f"k is {k}; ask for at least 1")
    if k > c.rows:
        raise ValueError(f"k is {k}, but corpus has {c.rows} rows; use k={c.rows} or less")
    lists = exclude
    if lists is not None and not isinstance(lists, _arrays.IdLists):
        lists = _arrays.id_lists(exclude, "exclude", q.rows, c.rows)
    if out is not None and (not isinstance(out, tuple) or len(out) != 2):
        raise TypeError("out must be a tuple (scores, ids)")
    scores = _arrays.output(out and out[0], "out scores", (q.rows, k), np.float32)
    ids = _arrays.output(out and out[1], "out ids", (q.rows, k), np.int64)
    _core.topk(
        queries=queries,
        corpus=corpus,
        k=k,
        metric=metric,
        precision=precision,
        packed=packed,
        exclude_offsets=None if lists is None else lists.offsets,
        exclude_ids=None if lists is None else lists.ids,
        ceilings=_arrays.limits(ceiling, "ceiling", q.rows, -np.inf),
        floors=_arrays.limits(floor, "floor", q.rows, np.inf),
        scores=scores,
        ids=ids,
        above_ceiling=above_ceiling,
        threads=_core.num_threads(),
        allocate=_arrays.workspace,
        progress=progress,
    )
    if out is not None:
        return TopK(*out)
    return TopK(_arrays.like(scores, queries), _arrays.like(ids, queries))
