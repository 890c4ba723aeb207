"""topk: the exact k best corpus rows of every query."""

from __future__ import annotations

from typing import Any

from stope._checks import flag
from stope.ops._search import Metric, Precision, TopK, padded_search, search
from stope.progress import Progress


def topk(
    queries: Any,
    corpus: Any,
    k: int,
    *,
    metric: Metric = "dot",
    exclude: Any = None,
    ceiling: Any = None,
    floor: Any = None,
    precision: Precision = "exact",
    out: tuple[Any, Any] | None = None,
    pad: bool = False,
    progress: Progress | None = None,
) -> TopK:
    """Find the k corpus rows with the highest score for every query, exactly.

    The corpus is scanned in int8 with a proven error bound (in bfloat16 where int8 would lose too
    much of the rows); whatever the bound cannot rule out is scored again in canonical float32 (see
    :func:`stope.similarity`). Rows are ordered by (score descending, id ascending), so ids and
    score bits are the same for every instruction set, number of threads, batch of queries and
    partition of the corpus.

    Args:
        queries: ``[q, dim]``, float32, float16, bfloat16 or int8 (NumPy, torch, DLPack).
        corpus: ``[n, dim]``, likewise; int8 goes with int8. May be a memory map: it is read once
            per group of queries, front to back. The file must not be shortened meanwhile: reading
            a page that it no longer has ends the process with SIGBUS.
        k: how many, 1 to n; with ``pad`` at least 1.
        metric: ``"dot"``, ``"cosine"`` (zero rows score 0) or ``"euclidean"`` (-distance).
        exclude: ids never to return, per query: CSR ``(offsets, ids)`` or a sequence of id arrays;
            -1 is none, so that rows which stope returned can be given.
        ceiling: highest score to return, inclusive: one per query, or one for all.
        floor: lowest score to return, inclusive, likewise.
        precision: ``"exact"``; or ``"int8"``, which skips the proof and the rescoring: ids can
            differ near the k-th place, and scores carry the quantisation error (about 1% of
            ‖q‖ ‖x‖); or ``"bfloat16"``, the same with bfloat16's error (about 0.3%).
        out: ``(scores, ids)`` to write to, float32 and int64 ``[q, k]``.
        pad: answer whatever comes: there may be no queries, no corpus rows, and k above n; places
            that no row can fill have score -inf and id -1.
        progress: called now and then with ``(done, total)``; Ctrl-C is heard as often.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[q, k]``, of the kind of ``queries``. Rows with
        fewer than k eligible candidates end in score -inf and id -1.

    Thread safety: any number of threads may call at once; see :func:`stope.set_num_threads`.

    Raises:
        ValueError: k outside 1..n or an empty matrix (unless ``pad``), mismatched matrices, ids out
            of range or repeated, NaN or infinity (naming the row), a norm of 2^63 or more under
            ``dot`` or ``euclidean``.
        TypeError: a dtype that is not supported, such as float64 (cast it).

    On a CUDA device (torch, CuPy) everything is queued on the caller's stream, and the answer has
    the CPU's bits. The scan is in bfloat16 on tensor cores; ``"int8"`` and ``"bfloat16"`` both name
    it without the proof. The call waits once, at its end, to hear whether a row was refused; while
    a CUDA graph is captured it does not wait and rows go unchecked; limits and exclusions are those
    of the recording.

    Queries on a CUDA device may search a corpus in host memory, a memory map included: its rows
    stream through the device in blocks of at most 64 MiB, one on its way while another one is
    scanned, once for as many queries as fit. Rows in pinned memory (``tensor.pin_memory()``) are
    copied from where they are; others are gathered in two pinned buffers first, by one thread of
    the CPU, which is then what limits the speed. The answer is the same, bit for bit. Such a search
    is not captured in a graph: it raises ``ValueError``.

    Memory beyond inputs and outputs, any n: about 32 MiB of candidates, 64 MiB for large k
    (36·k + 7,680 bytes a query; queries go in groups that fit), 2 MiB of packed corpus (half a MiB
    a thread beyond four), and 5·dim bytes a query of the group. On a CUDA device, for k up to
    2,048: at most 768 MiB (candidates, codes of the queries and of a part of the corpus), and a
    copy of limits and exclusions; 128 MiB more for a corpus in host memory, and as much pinned.

    Source: docs/methods.md, H10 (order of ties), docs/concepts/exactness.md (the certificate).

    >>> import numpy as np
    >>> corpus = np.eye(4, dtype=np.float32)
    >>> found = topk(np.array([[0.1, 0.9, 0.3, 0.9]], dtype=np.float32), corpus, 3)
    >>> found.ids.tolist()
    [[1, 3, 2]]
    >>> topk(np.ones((1, 4), dtype=np.float32), corpus, 2, exclude=[[0, 2]]).ids.tolist()
    [[1, 3]]
    >>> topk(np.ones((1, 4), dtype=np.float32), corpus[:1], 2, pad=True).ids.tolist()
    [[0, -1]]
    """
    answer = padded_search if flag(pad, "pad") else search
    return answer(
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
