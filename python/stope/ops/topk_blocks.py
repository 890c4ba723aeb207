"""topk_blocks: the exact k best rows of a corpus that comes block by block."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from stope import _arrays
from stope._checks import size
from stope._kinds import iterable, kinds
from stope.ops._merge import best, shifted
from stope.ops._search import Metric, Precision, TopK, search


@kinds(blocks=iterable)
def topk_blocks(
    queries: Any,
    blocks: Iterable[Any],
    k: int,
    *,
    metric: Metric = "dot",
    precision: Precision = "exact",
) -> TopK:
    """Find the k rows with the highest score for every query, in a corpus larger than memory.

    The answer of :func:`stope.topk` for the blocks put together, bit for bit: ids count on from
    block to block, and what a block may add is decided by the k-th score so far, inclusive, as a
    floor. A block is let go before the next one is asked for.

    Args:
        queries: ``[q, dim]``, float32, float16, bfloat16 or int8; on a CUDA device each block may
            be in host memory.
        blocks: matrices ``[any, dim]`` of one dtype, such as chunks of a file or batches of an
            encoder; a block may have no rows.
        k: how many, 1 or more.
        metric, precision: as :func:`stope.topk`.

    Returns:
        ``TopK(scores, ids)``: float32 and int64 ``[q, k]`` in host memory. Where there are fewer
        than k rows, the rest is score -inf and id -1.

    Raises:
        ValueError, TypeError: as :func:`stope.topk`; the message names the block.

    Memory beyond a block: 36·k bytes a query, and what :func:`stope.topk` needs.

    Source: docs/methods.md, H10 (answers of parts are merged by the order of ties).

    >>> import numpy as np
    >>> halves = np.split(np.eye(4, dtype=np.float32), 2)
    >>> topk_blocks(np.float32([[0.1, 0.9, 0.3, 0.9]]), halves, 3).ids.tolist()
    [[1, 3, 2]]
    """
    rows, k = _arrays.matrix_shape(queries, "queries").rows, size(k, "k")
    answer = TopK(np.full((rows, k), -np.inf, np.float32), np.full((rows, k), -1))
    start = number = 0
    for block in blocks:
        try:
            count = _arrays.matrix_shape(block, "block").rows
            if count and rows:
                floor, many = answer.scores[:, -1], min(k, count)
                options = {"metric": metric, "precision": precision, "floor": floor}
                more = shifted(search(queries, block, many, **options), start)
                answer = best([answer, more], k)
        except (TypeError, ValueError) as error:
            said = f"blocks[{number}], which begins at id {start}: {error}"
            raise type(error)(said) from error
        start, number = start + count, number + 1
        del block  # before the next one is made
    return answer
