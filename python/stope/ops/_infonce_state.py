"""How long ``InfoNCE.state`` is: sums per row, and room for the entries that ``drop`` keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stope import _core

_STATE: int = _core.INFONCE_STATE
_MOST = 1 << 25  # words of eight bytes, one an entry
_SHARE = 16  # one word for so many pairs of a query and a column; more would not pay


def state_size(rows: int, columns: int, queue: int, options: Mapping[str, Any]) -> int:
    """Numbers of ``InfoNCE.state`` for so many queries, documents and rows of the queue."""
    both = options.get("partition", "joint") == "per_direction" and (
        "document_to_query" in options.get("directions", ())
    )
    if both:
        return _STATE * (rows + columns)
    return _STATE * rows + memory_size(rows, columns, queue, options)


def memory_size(rows: int, columns: int, queue: int, options: Mapping[str, Any]) -> int:
    """Those for the entries; what does not fit, slab by slab, the backward pass finds again."""
    if not options.get("drop", 0.0) or options.get("partition", "joint") == "per_direction":
        return 0
    directions = options.get("directions", ())
    of_queries = ("query_to_query" in directions) + ("document_to_query" in directions)
    width = columns * (1 + ("document_to_document" in directions)) + queue + rows * of_queries
    return min(rows * width // _SHARE, _MOST)
