"""The k best of several answers, by the order of all answers: score descending, id ascending.

Where the parts' ids lie in ranges one behind another, as those of shards do, parts in the order of
their ranges need one stable sort by score. Else rows are sorted by id first, which also shows an id
that comes twice.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._host import on_host
from stope.ops._search import TopK

Columns = tuple[NDArray[np.float32], NDArray[np.int64]]


def shifted(part: TopK, start: int) -> TopK:
    """The part in host memory with `start` added to its ids; -1 stays."""
    ids = on_host(part.ids)
    return TopK(on_host(part.scores), np.where(ids < 0, ids, ids + start))


def best(parts: Iterable[TopK], k: int) -> TopK:
    """The k best of every row over all parts, which is `stope.scale.shards.merge_topk`."""
    columns = [_columns(part, place) for place, part in enumerate(parts)]
    if not columns:
        raise ValueError("parts is empty; give the answer of at least one shard")
    rows = [len(ids) for _, ids in columns]
    if len(set(rows)) > 1:
        raise ValueError(f"parts have {sorted(set(rows))} rows; give answers to the same queries")
    spans = [_span(ids) for _, ids in columns]
    order = sorted(range(len(columns)), key=spans.__getitem__)
    scores, ids = (np.concatenate([columns[p][side] for p in order], axis=1) for side in (0, 1))
    if any(spans[a][1] >= spans[b][0] for a, b in itertools.pairwise(order)):
        scores, ids = _by_id(scores, ids)
    kept = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    answer = TopK(np.full((rows[0], k), -np.inf, np.float32), np.full((rows[0], k), -1))
    for target, source in zip(answer, (scores, ids), strict=True):
        target[:, : kept.shape[1]] = np.take_along_axis(source, kept, axis=1)
    return answer


def _columns(part: Any, place: int) -> Columns:
    """The part's arrays, once they are what a search returns."""
    said = f"parts[{place}]"
    if not isinstance(part, tuple) or len(part) != 2:
        raise TypeError(f"{said} is a {type(part).__name__}; give TopK(scores, ids)")
    scores, ids = map(on_host, part)
    if scores.dtype != np.float32 or ids.dtype != np.int64:
        raise TypeError(
            f"{said} has {scores.dtype} scores and {ids.dtype} ids; give float32 and int64, as "
            "stope returns them"
        )
    if scores.ndim != 2 or scores.shape != ids.shape:
        raise ValueError(
            f"{said} has scores of shape {scores.shape} and ids of shape {ids.shape}; give both as "
            "[queries, k]"
        )
    left, right = scores[:, :-1], scores[:, 1:]
    falls = (left > right) | ((left == right) & ((ids[:, :-1] < ids[:, 1:]) | (ids[:, 1:] < 0)))
    wrong = ((ids < 0) != np.isneginf(scores)).any(axis=1) | np.isnan(scores).any(axis=1)
    wrong |= ~falls.all(axis=1)
    if wrong.any():
        raise ValueError(
            f"{said} is no answer of a search in row {int(wrong.argmax())}: scores fall, of equal "
            "ones ids rise, and -1 with -inf ends a short row; give parts as stope returned them"
        )
    return scores, ids


def _span(ids: NDArray[np.int64]) -> tuple[int, int]:
    """The lowest and the highest id; of none a range in front of all."""
    last = int(ids.max(initial=-1))
    return (int(ids.min(where=ids >= 0, initial=last)), last) if last >= 0 else (-2, -2)


def _by_id(scores: NDArray[np.float32], ids: NDArray[np.int64]) -> Columns:
    """Both by id, where an id that comes again with the same score becomes none."""
    order = np.argsort(ids, axis=1, kind="stable")
    scores = np.take_along_axis(scores, order, axis=1)
    ids = np.take_along_axis(ids, order, axis=1)
    again = np.zeros(ids.shape, bool)
    again[:, 1:] = (ids[:, 1:] == ids[:, :-1]) & (ids[:, 1:] >= 0)
    differs = again[:, 1:] & (scores[:, 1:] != scores[:, :-1])
    if differs.any():
        row, column = (int(place[0]) for place in np.nonzero(differs))
        raise ValueError(
            f"parts have id {ids[row, column]} for row {row} with scores {scores[row, column]} and "
            f"{scores[row, column + 1]}; give every shard the start of its own rows"
        )
    return np.where(again, np.float32(-np.inf), scores), np.where(again, -1, ids)
