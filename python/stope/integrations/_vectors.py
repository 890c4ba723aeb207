"""Vectors as other frameworks hand them over, and searched as their similarity scores them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._host import on_host
from stope.lists import Lists, offsets_of
from stope.ops._search import METRICS, Metric, pair_scores

Similarity = Callable[[Any, Any], Any]  # of two matrices
_SAMPLE = 16  # rows of each side that tell the metric
_TOLERANCE = 1e-3  # of the largest score; a euclidean distance by expansion is as inaccurate


def taken(vectors: Any) -> Any:
    """As stope takes them: without gradients, float64 (as lists of numbers are) as float32.

    >>> taken([[1.0, 2.0]])
    array([[1., 2.]], dtype=float32)
    """
    if hasattr(vectors, "detach"):
        vectors = vectors.detach()
        return vectors.float() if "float64" in str(vectors.dtype) else vectors
    rows = vectors if hasattr(vectors, "dtype") else np.asarray(vectors)
    return rows.astype(np.float32) if rows.dtype == np.float64 else rows


def listed_rows(
    lists: Mapping[str, Sequence[str]], names: Sequence[str], ids: Sequence[str]
) -> Lists:
    """The rows of a corpus of these ids that are listed for each name.

    >>> listed_rows({"q": ["b", "a"]}, ["q", "r"], ["a", "b"])
    Lists(offsets=array([0, 2, 2]), ids=array([1, 0]))

    Raises:
        ValueError: the corpus has not all of them.
    """
    row_of = {name: row for row, name in enumerate(ids)}
    of_names = [lists.get(name, ()) for name in names]
    strange = next((name for some in of_names for name in some if name not in row_of), None)
    if strange is not None:
        raise ValueError(f"top_ranked names {strange!r}, which the corpus does not have; leave it")
    return Lists.from_sequences([row_of[name] for name in some] for some in of_names)


def best_of_blocks(
    queries: Any, blocks: Iterable[Any], k: int, similarity: Similarity, listed: Lists | None = None
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Scores and rows of each query's best in a corpus that comes block by block.

    With `listed`, rows for each query, these alone are scored, and places in its list come back.
    The metric is the one that scores some rows as the similarity does.

    Raises:
        ValueError: no block; a similarity that is no metric of stope's; as `stope.topk_blocks`.
    """
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        raise ValueError("the corpus has no documents yet; add some before searching")
    metric, blocks = _metric(queries, first, similarity), itertools.chain([first], blocks)
    if listed is None:
        return list(zip(*stope.topk_blocks(queries, blocks, k, metric=metric), strict=True))
    scores, start, owners = np.empty(len(listed.ids), np.float32), 0, listed.owners
    for block in blocks:
        here = np.flatnonzero((listed.ids >= start) & (listed.ids < start + len(block)))
        counts = np.bincount(owners[here], minlength=listed.num_lists)
        pairs = Lists(offsets_of(counts), listed.ids[here] - start)
        scores[here] = pair_scores(queries, block, pairs, metric=metric)
        start += len(block)
    lists = np.split(scores, listed.offsets[1:-1])
    orders = [np.argsort(-each, kind="stable")[:k] for each in lists]
    return [(each[order], order) for each, order in zip(lists, orders, strict=True)]


def _metric(queries: Any, documents: Any, similarity: Similarity) -> Metric:
    """The metric that scores as the model's similarity does."""
    some = queries[:_SAMPLE], documents[:_SAMPLE]
    wanted = on_host(similarity(*some))
    errors = {
        metric: float(np.abs(on_host(stope.similarity(*some, metric=metric)) - wanted).max())
        for metric in METRICS
    }
    nearest = min(METRICS, key=lambda metric: errors[metric])
    if not errors[nearest] <= _TOLERANCE * float(np.abs(wanted).max()):
        raise ValueError(
            f"the model's similarity is none of {', '.join(METRICS)}; evaluate this model without "
            "stope's search"
        )
    return nearest
