"""What infonce's arguments mean: checked, and put the way the core takes them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._host import on_host
from stope.lists import Lists, offsets_of
from stope.ops._infonce_options import Arrays, Options, read

Vector = NDArray[np.float32] | None
Groups = NDArray[np.int32] | None


class Problem(NamedTuple):
    """One softmax for the core, with what Python still needs of it."""

    options: Options
    rows: int
    dim: int
    queries: Any
    documents: Any
    queue: Any
    positives: Lists
    positive_weights: Vector
    exclude: Lists | None
    hard_negatives: Lists | None
    log_weights: Vector
    document_groups: Groups
    queue_groups: Groups
    ceilings: Vector
    floors: Vector
    guide_queries: Any
    guide_documents: Any
    guide_queue: Any
    shares: NDArray[np.float64]  # of every positive in its row
    order: NDArray[np.int64]  # positives as given -> as the core has them, sorted by id

    def core(self, place: _arrays.Place) -> _core.InfonceProblem:
        """The problem as the core takes it, on the caller's stream."""
        arrays = {name: getattr(self, name) for name in _CORE_ARRAYS}
        return _core.InfonceProblem(
            self.options.core, arrays, threads=_core.num_threads(), **place.options
        )


_CORE_ARRAYS = set(Problem._fields) - {"options", "rows", "dim", "shares", "order"}


def problems(queries: Any, documents: Any, keywords: Mapping[str, Any]) -> list[Problem]:
    """The softmaxes that the arguments ask for: one, or one per direction."""
    options, arrays = read(keywords)
    joint = _problem(queries, documents, options, arrays)
    if options.partition == "joint":
        return [joint]
    alone = dataclasses.replace(options, directions=("query_to_document",))
    forward = joint._replace(options=alone)
    return [
        forward if direction == "query_to_document" else _swapped(forward)
        for direction in options.directions
    ]


def _flat_positives(value: Any, queries: int, documents: int) -> tuple[Lists, NDArray[np.int64]]:
    """The lists for the core, and the order that sorting gives to them."""
    if value is None:
        if documents < queries:
            raise ValueError(
                f"positives is None, so document i is the positive of query i, but there are "
                f"{queries} queries and {documents} documents; give positives"
            )
        value = np.arange(queries, dtype=np.int64)
    vector = _arrays.as_id_vector(value, "positives")
    if vector is not None and vector.size == queries:
        each = (np.arange(queries + 1, dtype=np.int64), vector)
        return _arrays.id_lists(each, "positives", queries, documents), np.arange(queries)
    lists = _arrays.id_lists(value, "positives", queries, documents)
    is_csr = isinstance(value, tuple) and len(value) == 2 and len(value[0]) == queries + 1
    flat = (
        np.asarray(on_host(value[1]))
        if is_csr
        else np.concatenate([np.asarray(on_host(item)).reshape(-1) for item in value])
        if len(value)
        else np.zeros(0)
    ).astype(np.int64)
    return lists, np.lexsort((flat, lists.owners))


def _positives(
    arrays: Arrays, queries: int, documents: int
) -> tuple[Lists, NDArray[np.int64], Vector, NDArray[np.float64]]:
    lists, order = _flat_positives(arrays.positives, queries, documents)
    if lists.ids.size == 0:
        raise ValueError(
            "positives is empty: no query has a positive, so there is nothing to learn"
        )
    weights = None
    values = np.ones(lists.ids.size)
    if arrays.positive_weights is not None:
        values = float32_vector(arrays.positive_weights, "positive_weights", lists.ids.size)[order]
        weights = values.astype(np.float32)
        if np.any(weights <= 0):
            at = int(np.flatnonzero(weights <= 0)[0])
            raise ValueError(f"positive_weights holds {values[at]}; give numbers above 0")
    sums = np.bincount(lists.owners, values, minlength=queries)
    return lists, order, weights, values / sums[lists.owners]


def float32_vector(value: Any, name: str, size: int) -> NDArray[np.float64]:
    """`size` numbers that are finite as float32, in float64."""
    values = np.asarray(on_host(value))
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {values.dtype}; give numbers")
    if values.shape != (size,):
        raise ValueError(f"{name} has shape {values.shape}; give {size} numbers, shape ({size},)")
    wide = values.astype(np.float64)
    beyond = np.flatnonzero(~(np.abs(wide) <= np.finfo(np.float32).max))
    if beyond.size:
        raise ValueError(f"{name}[{beyond[0]}] is {wide[beyond[0]]}; give finite float32 numbers")
    return wide


def _id_table(value: Any, name: str, queries: int, documents: int) -> Lists | None:
    """Lists of ids; a matrix may hold -1 where a row is short, as mined negatives do."""
    if value is None:
        return None
    if not isinstance(value, tuple):
        matrix = np.asarray(on_host(value)) if hasattr(value, "shape") else None
        if matrix is not None and matrix.ndim == 2 and matrix.dtype.kind in "iu":
            value = [row[row != -1] for row in matrix]
        elif matrix is not None and matrix.ndim == 1 and matrix.size == queries:
            value = [matrix[i : i + 1] for i in range(queries)]
    return _arrays.id_lists(value, name, queries, documents)


def _groups(
    options: Options, arrays: Arrays, documents: int, queue: int, lists: Lists
) -> tuple[Groups, Groups]:
    """Document ids as small integers; equal ids get equal integers.

    None where ids drop nothing: all differ, and no two queries share a positive if queries are
    columns of the same softmax, too. Tiles without rules are the fastest.
    """
    if arrays.document_ids is None:
        if arrays.queue_ids is not None:
            raise ValueError("queue_ids is given without document_ids; give both or neither")
        return None, None
    values = _one_id_each(arrays.document_ids, "document_ids", documents, "document")
    if queue:
        if arrays.queue_ids is None:
            raise ValueError("document_ids is given but queue_ids is not; give both or neither")
        more = _one_id_each(arrays.queue_ids, "queue_ids", queue, "queue row")
        values = np.concatenate([values, more])
    if values.dtype.kind not in "iuUSO":
        raise TypeError(f"document_ids has dtype {values.dtype}; ids are integers or strings")
    known, groups = np.unique(values, return_inverse=True)
    alone = len(options.directions) == 1 or options.partition == "per_direction"
    if known.size == values.size and (alone or np.unique(lists.ids).size == lists.ids.size):
        return None, None
    groups = groups.reshape(-1).astype(np.int32)
    return np.ascontiguousarray(groups[:documents]), np.ascontiguousarray(groups[documents:])


def _one_id_each(value: Any, name: str, count: int, what: str) -> NDArray[Any]:
    ids = np.asarray(on_host(value))
    if ids.shape != (count,):
        raise ValueError(f"{name} has shape {ids.shape}; give one id per {what}, ({count},)")
    return ids


def _matrix(array: Any, name: str, rows: int | None, dim: int | None, why: str = "") -> int:
    shape = _arrays.matrix_shape(array, name)
    if rows is not None and shape.rows != rows:
        raise ValueError(f"{name} has {shape.rows} rows; give {rows}, {why}")
    if dim is not None and shape.dim != dim:
        raise ValueError(f"{name} has dim {shape.dim} but queries have dim {dim}")
    if shape.dtype == "int8":
        raise TypeError(f"{name} is int8; the loss takes float32, float16 or bfloat16")
    return shape.dim if rows is not None else shape.rows


def _check_guides(arrays: Arrays, queries: int, documents: int, queue: int) -> None:
    if (arrays.guide_queries is None) != (arrays.guide_documents is None):
        raise ValueError("give guide_queries and guide_documents together, or neither")
    if arrays.guide_queries is None:
        if arrays.guide_queue is not None:
            raise ValueError("guide_queue is given without guide_queries and guide_documents")
        return
    dim = _matrix(arrays.guide_queries, "guide_queries", queries, None, "one per query")
    other = _matrix(arrays.guide_documents, "guide_documents", documents, None, "one per document")
    if other != dim:
        raise ValueError(f"guide_documents has dim {other} but guide_queries have dim {dim}")
    if queue:
        if arrays.guide_queue is None:
            raise ValueError("queue is given with a guide but guide_queue is not; give it too")
        last = _matrix(arrays.guide_queue, "guide_queue", queue, None, "one per queue row")
        if last != dim:
            raise ValueError(f"guide_queue has dim {last} but guide_queries have dim {dim}")


def _check_single(lists: Lists, why: str) -> None:
    wrong = np.flatnonzero(lists.lengths != 1)
    if wrong.size:
        raise ValueError(
            f"query {wrong[0]} has {lists.lengths[wrong[0]]} positives, but {why} needs exactly "
            "one positive for every query"
        )


def _check_lists(options: Options, arrays: Arrays, lists: Lists) -> None:
    if options.partition == "joint" and any(
        direction.startswith("document") for direction in options.directions
    ):
        _check_single(lists, "a direction that starts from documents")
    elif arrays.document_ids is not None and len(options.directions) > 1:
        _check_single(lists, "document_ids beside other directions than 'query_to_document'")
    if options.objective in ("pairwise", "hardness") and np.any(lists.lengths > 1):
        at = int(np.flatnonzero(lists.lengths > 1)[0])
        raise ValueError(
            f"query {at} has {lists.lengths[at]} positives, but objective "
            f"{options.objective!r} takes one at most"
        )
    needs_own = options.hard_negative_log_weight or options.hardness == "hard_negatives"
    if needs_own and arrays.hard_negatives is None:
        raise ValueError(
            "hardness 'hard_negatives' and hard_negative_log_weight need hard_negatives, the ids "
            "of every query's own"
        )


def _problem(queries: Any, documents: Any, options: Options, arrays: Arrays) -> Problem:
    q = _arrays.matrix_shape(queries, "queries")
    d = _arrays.matrix_shape(documents, "documents")
    if (q.device, d.device) != ("cpu", "cpu") and not _core.build_info()["cuda"]:
        raise RuntimeError(
            "queries or documents is on a CUDA device, but this stope was built without CUDA; "
            "move them to the CPU with .cpu()"
        )
    if options.drop and q.device != "cpu":
        raise ValueError(
            f"drop is {options.drop}, but queries are on {q.device}, where gradients leave nothing "
            "out; leave drop at 0, or move the matrices to the CPU with .cpu()"
        )
    for shape, name in ((q, "queries"), (d, "documents")):
        if shape.rows == 0:
            raise ValueError(f"{name} is empty (0 rows); give at least one row")
    _matrix(queries, "queries", None, None)
    _matrix(documents, "documents", None, q.dim)
    queue = 0 if arrays.queue is None else _matrix(arrays.queue, "queue", None, q.dim)
    lists, order, weights, shares = _positives(arrays, q.rows, d.rows)
    _check_lists(options, arrays, lists)
    _check_guides(arrays, q.rows, d.rows, queue)
    groups, queue_groups = _groups(options, arrays, d.rows, queue, lists)
    log_weights = None
    if arrays.log_weights is not None:
        log_weights = float32_vector(arrays.log_weights, "log_weights", d.rows).astype(np.float32)
    return Problem(
        options=options,
        rows=q.rows,
        dim=q.dim,
        queries=queries,
        documents=documents,
        queue=arrays.queue if queue else None,
        positives=lists,
        positive_weights=weights,
        exclude=_id_table(arrays.exclude, "exclude", q.rows, d.rows),
        hard_negatives=_id_table(arrays.hard_negatives, "hard_negatives", q.rows, d.rows),
        log_weights=log_weights,
        document_groups=groups,
        queue_groups=queue_groups if queue else None,
        ceilings=_arrays.limits(arrays.max_score, "max_score", q.rows, -math.inf),
        floors=_arrays.limits(arrays.min_score, "min_score", q.rows, math.inf),
        guide_queries=arrays.guide_queries,
        guide_documents=arrays.guide_documents,
        guide_queue=arrays.guide_queue if queue else None,
        shares=shares,
        order=order,
    )


def _swapped(forward: Problem) -> Problem:
    """The same loss with roles exchanged: documents that have positives against all queries."""
    lists, owners = forward.positives, forward.positives.owners
    anchors, place = np.unique(lists.ids, return_inverse=True)
    order = np.lexsort((owners, place))
    swapped = Lists(
        offsets_of(np.bincount(place, minlength=anchors.size)), np.ascontiguousarray(owners[order])
    )
    options = dataclasses.replace(forward.options, hardness=None, hard_negative_log_weight=0.0)
    ceilings, floors = forward.ceilings, forward.floors
    guide = forward.guide_queries is not None
    if not guide:  # limits are for queries only then
        options = dataclasses.replace(options, absolute_margin=None, relative_margin=None)
        ceilings = floors = None
    starts = swapped.offsets[:-1]
    weights, groups = forward.positive_weights, forward.document_groups
    return forward._replace(
        options=options,
        rows=anchors.size,
        queries=_arrays.take_rows(forward.documents, anchors),
        documents=forward.queries,
        queue=None,
        positives=swapped,
        positive_weights=None if weights is None else np.ascontiguousarray(weights[order]),
        exclude=None,
        hard_negatives=None,
        log_weights=None,
        document_groups=None if groups is None else groups[lists.ids],
        queue_groups=None,
        ceilings=None if ceilings is None else np.minimum.reduceat(ceilings[swapped.ids], starts),
        floors=None if floors is None else np.maximum.reduceat(floors[swapped.ids], starts),
        guide_queries=_arrays.take_rows(forward.guide_documents, anchors) if guide else None,
        guide_documents=forward.guide_queries,
        guide_queue=None,
        # The share of query i's positive p in L_i: the anchor's loss counts that much for i.
        shares=forward.shares[order],
        order=anchors,
    )
