"""What infonce's arguments mean: checked, and put the way the core takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays, _core
from stope._checks import number
from stope.ops._objectives import OBJECTIVES, objective_of

DIRECTIONS = (
    "query_to_document",
    "query_to_query",
    "document_to_query",
    "document_to_document",
)
HARDNESS = (None, "in_batch_negatives", "hard_negatives", "all_negatives")
PRECISIONS = ("float32", "bfloat16")
PARTITIONS = ("joint", "per_direction")

DEFAULTS: dict[str, Any] = {
    "positives": None,
    "positive_weights": None,
    "temperature": 0.05,
    "metric": "cosine",
    "objective": "out",
    "bias": 0.0,
    "beta": 0.0,
    "positive_prior": 0.0,
    "detach_hardness": False,
    "focal_margin": None,
    "directions": ("query_to_document",),
    "partition": "joint",
    "hard_negatives": None,
    "hard_negative_log_weight": 0.0,
    "foreign_hard_negatives": True,
    "documents_see_hard_negatives": True,
    "hardness": None,
    "hardness_strength": 0.0,
    "log_weights": None,
    "exclude": None,
    "document_ids": None,
    "absolute_margin": None,
    "relative_margin": None,
    "max_score": None,
    "min_score": None,
    "guide_queries": None,
    "guide_documents": None,
    "queue": None,
    "queue_ids": None,
    "guide_queue": None,
    "precision": "float32",
}


class Problem(NamedTuple):
    """One softmax for the core, with what Python still needs of it."""

    core: dict[str, Any]
    rows: int
    dim: int
    positives: _arrays.IdLists
    shares: NDArray[np.float64]  # of every positive in its row
    order: NDArray[np.int64]  # positives as given -> as the core has them, sorted by id


def problems(queries: Any, documents: Any, options: Mapping[str, Any]) -> list[Problem]:
    """The softmaxes that the arguments ask for: one, or one per direction."""
    given = {**DEFAULTS, **options}
    given["objective"] = objective_of(given["objective"])
    _check_choices(given)
    forward = _problem(queries, documents, given)
    if given["partition"] == "joint":
        return [forward]
    found = []
    for direction in given["directions"]:
        if direction == "query_to_document":
            found.append(forward._replace(core={**forward.core, **_others(())}))
        else:
            found.append(_swapped(queries, documents, given, forward))
    return found


def _others(directions: Sequence[str]) -> dict[str, bool]:
    """Which directions share the denominator of query-to-document, which is always there."""
    return {name: name in directions for name in DIRECTIONS[1:]}


def _check_choices(given: dict[str, Any]) -> None:
    for name, choices in (
        ("objective", OBJECTIVES),
        ("hardness", HARDNESS),
        ("precision", PRECISIONS),
        ("partition", PARTITIONS),
        ("metric", ("cosine", "dot")),
    ):
        if given[name] not in choices:
            words = ", ".join(repr(choice) for choice in choices)
            raise ValueError(f"{name} is {given[name]!r}; give one of {words}")
    directions = given["directions"]
    if isinstance(directions, str) or not isinstance(directions, Sequence):
        raise TypeError(f"directions is {directions!r}; give a sequence of names")
    for direction in directions:
        if direction not in DIRECTIONS:
            words = ", ".join(repr(choice) for choice in DIRECTIONS)
            raise ValueError(f"directions has {direction!r}; give some of {words}")
    if len(set(directions)) != len(directions):
        raise ValueError(f"directions is {tuple(directions)!r}; name each direction once")
    if "query_to_document" not in directions:
        raise ValueError("directions must hold 'query_to_document': no other has the positive pair")
    if given["partition"] == "per_direction" and not set(directions) <= {
        "query_to_document",
        "document_to_query",
    }:
        raise ValueError(
            "partition 'per_direction' is for 'query_to_document' and 'document_to_query'; the "
            "other directions never hold the positive pair, use partition 'joint'"
        )


def _temperature(value: Any) -> float:
    temperature = number(value, "temperature", "give a number above 0")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}; give a number above 0")
    return temperature


def _flat_positives(value: Any, queries: int, documents: int) -> tuple[Any, NDArray[np.int64]]:
    """The lists for the core, and the order that sorting gives to them."""
    if value is None:
        if documents < queries:
            raise ValueError(
                f"positives is None, so document i is the positive of query i, but there are "
                f"{queries} queries and {documents} documents; give positives"
            )
        value = np.arange(queries, dtype=np.int64)
    vector = _arrays.as_id_vector(value)
    if vector is not None and vector.size == queries:
        lists = _arrays.id_lists(
            (np.arange(queries + 1, dtype=np.int64), vector), "positives", queries, documents
        )
        return lists, np.arange(queries)
    lists = _arrays.id_lists(value, "positives", queries, documents)
    is_csr = isinstance(value, tuple) and len(value) == 2 and len(value[0]) == queries + 1
    flat = (
        np.asarray(_arrays.host(value[1]))
        if is_csr
        else np.concatenate([np.asarray(_arrays.host(item)).reshape(-1) for item in value])
        if len(value)
        else np.zeros(0)
    ).astype(np.int64)
    owner = np.repeat(np.arange(queries), np.diff(lists.offsets))
    return lists, np.lexsort((flat, owner))


def _positives(given: dict[str, Any], queries: int, documents: int) -> tuple[Any, Any, Any, Any]:
    lists, order = _flat_positives(given["positives"], queries, documents)
    if lists.ids.size == 0:
        raise ValueError(
            "positives is empty: no query has a positive, so there is nothing to learn"
        )
    counts = np.diff(lists.offsets)
    weights = None
    values = np.ones(lists.ids.size)
    if given["positive_weights"] is not None:
        values = _weights(given["positive_weights"], "positive_weights", lists.ids.size)[order]
        weights = values.astype(np.float32)
        if np.any(values <= 0):
            at = int(np.flatnonzero(values <= 0)[0])
            raise ValueError(f"positive_weights holds {values[at]}; give numbers above 0")
    sums = np.bincount(np.repeat(np.arange(queries), counts), values, minlength=queries)
    shares = values / np.repeat(sums, counts)
    return lists, order, weights, shares


def _weights(value: Any, name: str, size: int) -> NDArray[np.float64]:
    values = np.asarray(_arrays.host(value))
    if values.dtype.kind not in "fiu":
        raise TypeError(f"{name} has dtype {values.dtype}; give numbers")
    if values.shape != (size,):
        raise ValueError(f"{name} has shape {values.shape}; give {size} numbers, shape ({size},)")
    wide = values.astype(np.float64)
    if not np.all(np.isfinite(wide)):
        at = int(np.flatnonzero(~np.isfinite(wide))[0])
        raise ValueError(f"{name}[{at}] is {wide[at]}; give finite numbers")
    return wide


def _id_table(value: Any, name: str, queries: int, documents: int) -> _arrays.IdLists:
    """Lists of ids; a matrix may hold -1 where a row is short, as mined negatives do."""
    if not isinstance(value, tuple):
        matrix = np.asarray(_arrays.host(value)) if hasattr(value, "shape") else None
        if matrix is not None and matrix.ndim == 2 and matrix.dtype.kind in "iu":
            value = [row[row != -1] for row in matrix]
        elif matrix is not None and matrix.ndim == 1 and matrix.size == queries:
            value = [matrix[i : i + 1] for i in range(queries)]
    return _arrays.id_lists(value, name, queries, documents)


def _groups(
    given: dict[str, Any], documents: int, queue: int, lists: _arrays.IdLists
) -> tuple[Any, Any]:
    """Document ids as small integers; equal ids get equal integers.

    None where ids drop nothing: all differ, and no two queries share a positive if queries are
    columns of the same softmax, too. Tiles without rules are the fastest.
    """
    ids = given["document_ids"]
    if ids is None:
        if given["queue_ids"] is not None:
            raise ValueError("queue_ids is given without document_ids; give both or neither")
        return None, None
    values = np.asarray(_arrays.host(ids))
    if values.shape != (documents,):
        raise ValueError(
            f"document_ids has shape {values.shape}; give one id per document, ({documents},)"
        )
    if queue:
        if given["queue_ids"] is None:
            raise ValueError("document_ids is given but queue_ids is not; give both or neither")
        more = np.asarray(_arrays.host(given["queue_ids"]))
        if more.shape != (queue,):
            raise ValueError(
                f"queue_ids has shape {more.shape}; give one id per queue row, ({queue},)"
            )
        values = np.concatenate([values, more])
    if values.dtype.kind not in "iuUSO":
        raise TypeError(f"document_ids has dtype {values.dtype}; ids are integers or strings")
    known, groups = np.unique(values, return_inverse=True)
    alone = len(given["directions"]) == 1 or given["partition"] == "per_direction"
    if known.size == values.size and (alone or np.unique(lists.ids).size == lists.ids.size):
        return None, None
    groups = groups.reshape(-1).astype(np.int32)
    return np.ascontiguousarray(groups[:documents]), np.ascontiguousarray(groups[documents:])


def _matrix(array: Any, name: str, rows: int | None, dim: int | None, why: str) -> int:
    shape = _arrays.matrix_shape(array, name)
    if rows is not None and shape.rows != rows:
        raise ValueError(f"{name} has {shape.rows} rows; give {rows}, {why}")
    if dim is not None and shape.dim != dim:
        raise ValueError(f"{name} has dim {shape.dim} but queries have dim {dim}")
    if shape.dtype == "int8":
        raise TypeError(f"{name} is int8; the loss takes float32, float16 or bfloat16")
    return shape.dim if rows is not None else shape.rows


def _guides(given: dict[str, Any], queries: int, documents: int, queue: int) -> None:
    if (given["guide_queries"] is None) != (given["guide_documents"] is None):
        raise ValueError("give guide_queries and guide_documents together, or neither")
    if given["guide_queries"] is None:
        if given["guide_queue"] is not None:
            raise ValueError("guide_queue is given without guide_queries and guide_documents")
        return
    dim = _matrix(given["guide_queries"], "guide_queries", queries, None, "one per query")
    other = _matrix(
        given["guide_documents"], "guide_documents", documents, None, "one per document"
    )
    if other != dim:
        raise ValueError(f"guide_documents has dim {other} but guide_queries have dim {dim}")
    if queue:
        if given["guide_queue"] is None:
            raise ValueError("queue is given with a guide but guide_queue is not; give it too")
        last = _matrix(given["guide_queue"], "guide_queue", queue, None, "one per queue row")
        if last != dim:
            raise ValueError(f"guide_queue has dim {last} but guide_queries have dim {dim}")


def _margin(given: dict[str, Any], name: str) -> float | None:
    return None if given[name] is None else number(given[name], name)


def _check_single(lists: _arrays.IdLists, why: str) -> None:
    counts = np.diff(lists.offsets)
    wrong = np.flatnonzero(counts != 1)
    if wrong.size:
        raise ValueError(
            f"query {wrong[0]} has {counts[wrong[0]]} positives, but {why} needs exactly one "
            "positive for every query"
        )


def _check_lists(given: dict[str, Any], lists: _arrays.IdLists) -> None:
    joint_documents = given["partition"] == "joint" and any(
        direction.startswith("document") for direction in given["directions"]
    )
    if joint_documents:
        _check_single(lists, "a direction that starts from documents")
    elif given["document_ids"] is not None and len(given["directions"]) > 1:
        _check_single(lists, "document_ids beside other directions than 'query_to_document'")
    if given["objective"] in ("pairwise", "hardness"):
        counts = np.diff(lists.offsets)
        if np.any(counts > 1):
            at = int(np.flatnonzero(counts > 1)[0])
            raise ValueError(
                f"query {at} has {counts[at]} positives, but objective "
                f"{given['objective']!r} takes one at most"
            )


def _problem(queries: Any, documents: Any, given: dict[str, Any]) -> Problem:
    q = _arrays.matrix_shape(queries, "queries")
    d = _arrays.matrix_shape(documents, "documents")
    if (q.device, d.device) != ("cpu", "cpu") and not _core.build_info()["cuda"]:
        raise RuntimeError(
            "queries or documents is on a CUDA device, but this stope was built without CUDA; "
            "move them to the CPU with .cpu()"
        )
    for shape, name in ((q, "queries"), (d, "documents")):
        if shape.rows == 0:
            raise ValueError(f"{name} is empty (0 rows); give at least one row")
    _matrix(queries, "queries", None, None, "")
    _matrix(documents, "documents", None, q.dim, "")
    queue = 0 if given["queue"] is None else _matrix(given["queue"], "queue", None, q.dim, "")
    lists, order, weights, shares = _positives(given, q.rows, d.rows)
    _check_lists(given, lists)
    _guides(given, q.rows, d.rows, queue)
    hard = given["hard_negatives"]
    own = None if hard is None else _id_table(hard, "hard_negatives", q.rows, d.rows)
    excluded = given["exclude"]
    never = None if excluded is None else _id_table(excluded, "exclude", q.rows, d.rows)
    groups, queue_groups = _groups(given, d.rows, queue, lists)
    strength = number(given["hardness_strength"], "hardness_strength")
    if strength < 0:
        raise ValueError(f"hardness_strength is {strength}; give a number of 0 or more")
    mode = given["hardness"]
    log_weights = given["log_weights"]
    core = {
        "queries": queries,
        "documents": documents,
        "queue": given["queue"] if queue else None,
        "metric": given["metric"],
        "precision": PRECISIONS.index(given["precision"]),
        "objective": OBJECTIVES.index(given["objective"]),
        **_others(given["directions"]),
        "positives_offsets": lists.offsets,
        "positives_ids": lists.ids,
        "positive_weights": weights,
        "exclude_offsets": None if never is None else never.offsets,
        "exclude_ids": None if never is None else never.ids,
        "hard_negatives_offsets": None if own is None else own.offsets,
        "hard_negatives_ids": None if own is None else own.ids,
        "foreign_hard_negatives": bool(given["foreign_hard_negatives"]),
        "documents_see_hard_negatives": bool(given["documents_see_hard_negatives"]),
        "scale": 1.0 / _temperature(given["temperature"]),
        "bias": number(given["bias"], "bias"),
        "beta": number(given["beta"], "beta"),
        "positive_prior": number(given["positive_prior"], "positive_prior"),
        "detach_hardness": bool(given["detach_hardness"]),
        "focal_margin": _margin(given, "focal_margin"),
        "in_batch_hardness": strength if mode in ("in_batch_negatives", "all_negatives") else 0.0,
        "hard_hardness": strength if mode in ("hard_negatives", "all_negatives") else 0.0,
        "hard_log_weight": number(given["hard_negative_log_weight"], "hard_negative_log_weight"),
        "log_weights": None
        if log_weights is None
        else _weights(log_weights, "log_weights", d.rows).astype(np.float32),
        "document_groups": groups,
        "queue_groups": queue_groups if queue else None,
        "absolute_margin": _margin(given, "absolute_margin"),
        "relative_margin": _margin(given, "relative_margin"),
        "ceilings": _arrays.limits(given["max_score"], "max_score", q.rows, -math.inf),
        "floors": _arrays.limits(given["min_score"], "min_score", q.rows, math.inf),
        "guide_queries": given["guide_queries"],
        "guide_documents": given["guide_documents"],
        "guide_queue": given["guide_queue"] if queue else None,
        "threads": _core.num_threads(),
    }
    _check_numbers(core, given)
    return Problem(core, q.rows, q.dim, lists, shares, order)


def _check_numbers(core: dict[str, Any], given: dict[str, Any]) -> None:
    if core["beta"] < 0:
        raise ValueError(f"beta is {core['beta']}; give a number of 0 or more")
    if not 0 <= core["positive_prior"] < 1:
        raise ValueError(
            f"positive_prior is {core['positive_prior']}; give a probability of at least 0 and "
            "below 1"
        )
    if (core["beta"] or core["positive_prior"]) and given["objective"] != "hardness":
        raise ValueError("beta and positive_prior are for objective 'hardness' only")
    if core["bias"] and given["objective"] != "sigmoid":
        raise ValueError(f"bias is {core['bias']}, but only objective 'sigmoid' has one")
    if core["focal_margin"] is not None and (
        given["objective"] == "sigmoid"
        or core["in_batch_hardness"]
        or core["hard_hardness"]
        or core["hard_log_weight"]
    ):
        raise ValueError(
            "focal_margin changes the logits themselves; it goes with no hardness, no "
            "hard_negative_log_weight and not with objective 'sigmoid'"
        )
    needs_own = core["hard_log_weight"] or given["hardness"] == "hard_negatives"
    if needs_own and core["hard_negatives_offsets"] is None:
        raise ValueError(
            "hardness 'hard_negatives' and hard_negative_log_weight need hard_negatives, the ids "
            "of every query's own"
        )


def _swapped(queries: Any, documents: Any, given: dict[str, Any], forward: Problem) -> Problem:
    """The same loss with roles exchanged: documents that have positives against all queries."""
    lists = forward.positives
    owner = np.repeat(np.arange(forward.rows), np.diff(lists.offsets))
    anchors, place = np.unique(lists.ids, return_inverse=True)
    order = np.lexsort((owner, place))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=anchors.size))])
    core = {**forward.core, **_others(())}
    core["queries"], core["documents"] = _arrays.take_rows(documents, anchors), queries
    core["positives_offsets"] = offsets.astype(np.int64)
    core["positives_ids"] = np.ascontiguousarray(owner[order])
    if core["positive_weights"] is not None:
        core["positive_weights"] = np.ascontiguousarray(core["positive_weights"][order])
    if core["guide_queries"] is not None:
        core["guide_queries"], core["guide_documents"] = (
            _arrays.take_rows(given["guide_documents"], anchors),
            given["guide_queries"],
        )
        core["guide_queue"] = None
    if core["document_groups"] is not None:
        core["document_groups"] = core["document_groups"][lists.ids]
    core.update(
        queue=None,
        queue_groups=None,
        exclude_offsets=None,
        exclude_ids=None,
        hard_negatives_offsets=None,
        hard_negatives_ids=None,
        hard_hardness=0.0,
        in_batch_hardness=0.0,
        hard_log_weight=0.0,
        log_weights=None,
    )
    if forward.core["guide_queries"] is None:  # without a guide, limits are for queries only
        core.update(absolute_margin=None, relative_margin=None, ceilings=None, floors=None)
    for name, strictest in (("ceilings", np.minimum), ("floors", np.maximum)):
        if core[name] is not None:
            core[name] = strictest.reduceat(core[name][owner[order]], offsets[:-1])
    swapped = _arrays.IdLists(core["positives_offsets"], core["positives_ids"])
    # The share that query i's positive p has in L_i: the anchor's loss counts that much for i.
    return Problem(core, anchors.size, forward.dim, swapped, forward.shares[order], anchors)
