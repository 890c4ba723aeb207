"""similarity: the whole score matrix, when it is small enough to be wanted."""

from __future__ import annotations

from typing import Any

import numpy as np

from stope import _arrays, _core
from stope._checks import choice
from stope.ops._search import METRICS, Metric
from stope.progress import Progress, check_progress


def similarity(
    queries: Any,
    corpus: Any,
    *,
    metric: Metric = "dot",
    out: Any = None,
    progress: Progress | None = None,
) -> Any:
    """Score every query against every corpus row.

    ``dot``: q·x. ``cosine``: q·x / (‖q‖ ‖x‖), 0 for a zero row. ``euclidean``: -‖q - x‖, so that
    more is better, as in sentence-transformers. Scores are *canonical*: float32 with a fixed order
    of summation, the same bits on every instruction set and for any number of threads. So squares
    below 1e-45 are 0: a euclidean distance below 1e-19 has fewer digits, and one below 2.6e-23
    comes out as 0, like equal rows. Scale such rows up (cosine does not mind).

    Args:
        queries: ``[q, dim]``, float32, float16, bfloat16 or int8 (NumPy, torch, DLPack).
        corpus: ``[n, dim]``, likewise; int8 goes with int8.
        metric: ``"dot"``, ``"cosine"`` or ``"euclidean"``.
        out: a float32 array ``[q, n]`` to write to, instead of a new one.
        progress: called now and then with ``(done, total)``.

    Returns:
        float32 ``[q, n]``, of the kind of ``queries`` (``out`` if given).

    Thread safety: as :func:`stope.topk`.

    Raises:
        ValueError: wrong shapes, an empty matrix, NaN or infinity (naming the row), a norm of 2^63
            or more under ``dot`` or ``euclidean``.
        TypeError: a dtype that is not supported, such as float64 (cast it).

    Memory: the result, and 2 · 64 rows of float32 per thread; on a CUDA device (torch, CuPy; on the
    caller's stream, as :func:`stope.topk`) the result and 8 bytes per row.

    Source: docs/methods.md, H; the order of summation is docs/concepts/exactness.md.

    >>> import numpy as np
    >>> q = np.array([[1.0, 0.0]], dtype=np.float32)
    >>> x = np.array([[2.0, 0.0], [3.0, 4.0]], dtype=np.float32)
    >>> similarity(q, x).tolist()
    [[2.0, 3.0]]
    >>> similarity(q, x, metric="euclidean").round(4).tolist()
    [[-1.0, -4.472099781036377]]
    """
    check_progress(progress)
    choice(metric, "metric", METRICS)
    q, c = _arrays.corpus_and_queries(queries, corpus)
    place = _arrays.place_of(queries, q.device, "queries")
    scores = _arrays.output(out, "out", (q.rows, c.rows), np.float32, place)
    _core.similarity(
        queries=queries,
        corpus=corpus,
        metric=metric,
        scores=scores,
        threads=_core.num_threads(),
        allocate=place.workspace,
        progress=progress,
        **place.options,
    )
    return out if out is not None else _arrays.like(scores, queries, place)
