"""infonce's refusals: a sentence that names the argument, what is wrong with it, and the remedy."""

from __future__ import annotations

import infonce_cases as cases
import ml_dtypes
import numpy as np
import pytest
from infonce_cases import ALL

import stope

ROWS, COUNT, DIM = 6, 20, 8
GUIDE = {
    "guide_queries": np.ones((ROWS, 3), np.float32),
    "guide_documents": np.ones((COUNT, 3), np.float32),
}
QUEUE = {"queue": np.ones((5, DIM), np.float32)}


@pytest.fixture
def arrays():
    return cases.problem(0, ROWS, COUNT, DIM)[1:]


def both_refuse(kind, match, queries, documents, **options):
    """Forward and backward say the same; nothing is computed."""
    with pytest.raises(kind, match=match):
        stope.infonce_forward(queries, documents, **options)
    good = stope.infonce_forward(*cases.problem(0, ROWS, COUNT, DIM)[1:])
    with pytest.raises(kind, match=match):
        stope.infonce_backward(queries, documents, good, **options)


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 0.0, -1, -0.05, np.nan, np.inf, -np.inf])
def test_temperature(value, arrays):
    both_refuse(ValueError, rf"temperature is {value}.*above 0", *arrays, temperature=value)


@pytest.mark.parametrize("value", [None, "warm", [0.1]])
def test_temperature_that_is_no_number(value, arrays):
    both_refuse((TypeError, ValueError), "temperature", *arrays, temperature=value)


@pytest.mark.parametrize(
    ("name", "objective", "bad"),
    [
        ("bias", "sigmoid", np.nan),
        ("bias", "sigmoid", np.inf),
        ("beta", "hardness", -1.0),
        ("beta", "hardness", np.nan),
        ("positive_prior", "hardness", -0.1),
        ("positive_prior", "hardness", 1.0),
        ("positive_prior", "hardness", np.nan),
        ("focal_margin", "out", np.nan),
        ("hardness_strength", "out", -1.0),
        ("hardness_strength", "out", np.nan),
        ("hard_negative_log_weight", "out", np.nan),
        ("absolute_margin", "out", np.nan),
        ("relative_margin", "out", np.nan),
        ("max_score", "out", np.nan),
        ("min_score", "out", np.nan),
    ],
)
def test_numbers_out_of_range(name, objective, bad, arrays):
    options = {"objective": objective, name: bad}
    if name == "hardness_strength":
        options["hardness"] = "all_negatives"
    if name == "hard_negative_log_weight":
        options["hard_negatives"] = np.arange(ROWS, 2 * ROWS)
    value = str(bad).removesuffix(".0") if not np.isnan(bad) else "(?i:nan)"
    both_refuse(ValueError, rf"{name}.*{value}", *arrays, **options)


@pytest.mark.parametrize(
    "option",
    [
        {"metric": "euclidean"},
        {"objective": "triplet"},
        {"partition": "row"},
        {"hardness": "soft"},
        {"precision": "float16"},
    ],
)
def test_unknown_words(option, arrays):
    ((name, value),) = option.items()
    both_refuse(ValueError, rf"{name} is '{value}'; give one of", *arrays, **option)


def test_unknown_options(arrays):
    both_refuse(TypeError, "temprature", *arrays, temprature=0.1)


def test_directions(arrays):
    both_refuse(ValueError, "query_to_doc'", *arrays, directions=("query_to_doc",))
    both_refuse(ValueError, r"directions.*query_to_document", *arrays, directions=())
    both_refuse(ValueError, r"directions.*query_to_document", *arrays, directions=ALL[1:])
    both_refuse(TypeError, "directions", *arrays, directions="query_to_document")
    both_refuse(ValueError, "directions.*once", *arrays, directions=ALL[:1] * 2)
    for other in (ALL[1], ALL[3]):
        options = {"directions": (ALL[0], other), "partition": "per_direction"}
        both_refuse(ValueError, r"per_direction.*joint", *arrays, **options)


# --- positives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [COUNT, -1, 10**12])
def test_positives_out_of_range(bad, arrays):
    ids = np.arange(ROWS)
    ids[2] = bad
    both_refuse(ValueError, rf"positives of query 2.*{bad}\b", *arrays, positives=ids)
    lists = [[0]] * 2 + [[3, bad]] + [[1]] * 3
    both_refuse(ValueError, rf"positives of query 2.*{bad}\b", *arrays, positives=lists)


@pytest.mark.parametrize("empty", [[[]] * ROWS, (np.zeros(ROWS + 1, np.int64), np.zeros(0, int))])
def test_no_positive_at_all(empty, arrays):
    both_refuse(ValueError, "positives is empty", *arrays, positives=empty)


def test_positives_of_the_wrong_number_or_kind(arrays):
    both_refuse(ValueError, rf"positives has 5.* {ROWS} ", *arrays, positives=np.arange(5))
    both_refuse(ValueError, rf"positives has 5.* {ROWS} ", *arrays, positives=[[0]] * 5)
    both_refuse(ValueError, "positives.*more than once", *arrays, positives=[[1, 1]] * ROWS)
    both_refuse(TypeError, "positives", *arrays, positives=np.arange(ROWS) * 1.0)
    both_refuse(TypeError, "positives", *arrays, positives=[[0.5]] * ROWS)
    both_refuse(TypeError, "positives", *arrays, positives=3)
    broken = np.array([0, 2, 1, 3, 4, 5, 6]), np.arange(6)
    both_refuse(ValueError, "positives offsets", *arrays, positives=broken)


def test_fewer_documents_than_queries_need_positives(arrays):
    queries, documents = arrays
    with pytest.raises(ValueError, match=rf"positives.*{ROWS} queries and 4 documents"):
        stope.infonce_forward(queries, documents[:4])


@pytest.mark.parametrize("objective", ["hardness", "pairwise"])
def test_objectives_of_a_single_positive(objective, arrays):
    lists = [[0]] * 3 + [[1, 2]] + [[0]] * 2
    match = rf"query 3 has 2 positives.*{objective}"
    both_refuse(ValueError, match, *arrays, objective=objective, positives=lists)


@pytest.mark.parametrize("lists", [[[0]] * 5 + [[]], [[0]] * 5 + [[1, 2]]])
def test_directions_from_documents_need_one_positive(lists, arrays):
    for other in ALL[2:]:
        options = {"positives": lists, "directions": (ALL[0], other)}
        both_refuse(ValueError, r"query 5 has [02] positives", *arrays, **options)


@pytest.mark.parametrize("bad", [-1.0, 0.0, np.nan, np.inf])
def test_positive_weights_out_of_range(bad, arrays):
    weights = np.ones(ROWS, np.float32)
    weights[3] = bad
    value = "(?i:nan)" if np.isnan(bad) else str(bad)
    both_refuse(ValueError, rf"positive_weights.*{value}", *arrays, positive_weights=weights)


def test_positive_weights_of_the_wrong_number_or_kind(arrays):
    short = np.ones(5, np.float32)
    match = rf"positive_weights has shape \(5,\).*{ROWS}"
    both_refuse(ValueError, match, *arrays, positive_weights=short)
    both_refuse(TypeError, "positive_weights", *arrays, positive_weights=["a"] * ROWS)
    zero = np.zeros(ROWS, np.float32)
    both_refuse(ValueError, "positive_weights", *arrays, positive_weights=zero)


# --- ids and weights of columns ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["exclude", "hard_negatives"])
def test_lists_of_ids(name, arrays):
    lists = [[1]] * 4 + [[COUNT]] + [[2]]
    both_refuse(ValueError, rf"{name} of query 4.*{COUNT}\b", *arrays, **{name: lists})
    both_refuse(ValueError, rf"{name} has 3 ", *arrays, **{name: [[1]] * 3})
    both_refuse(TypeError, name, *arrays, **{name: [[0.5]] * ROWS})


def test_document_ids(arrays):
    match = rf"document_ids has shape \({ROWS},\).*{COUNT}"
    both_refuse(ValueError, match, *arrays, document_ids=np.arange(ROWS))
    both_refuse(TypeError, r"document_ids.*float", *arrays, document_ids=np.ones(COUNT))
    both_refuse(ValueError, "queue_ids.*document_ids", *arrays, queue_ids=np.arange(5), **QUEUE)
    options = {"document_ids": np.arange(COUNT), **QUEUE}
    both_refuse(
        ValueError, r"queue_ids has shape \(4,\).*5", *arrays, queue_ids=np.arange(4), **options
    )


def test_log_weights(arrays):
    weights = np.zeros(COUNT, np.float32)
    both_refuse(ValueError, rf"log_weights has shape.*{COUNT}", *arrays, log_weights=weights[:7])
    weights[9] = np.nan
    both_refuse(ValueError, r"log_weights.*\b9\b", *arrays, log_weights=weights)


@pytest.mark.parametrize("name", ["max_score", "min_score"])
def test_limits_per_query(name, arrays):
    both_refuse(ValueError, rf"{name}.*\({ROWS},\)", *arrays, **{name: np.zeros(5, np.float32)})
    values = np.zeros(ROWS, np.float32)
    values[4] = np.nan
    both_refuse(ValueError, rf"{name}.*\b4\b", *arrays, **{name: values})
    both_refuse(TypeError, name, *arrays, **{name: np.array(["a"] * ROWS)})


# --- matrices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nan_and_infinity_name_argument_and_row(value, dtype, precision, arrays):
    for name, row in (("queries", 4), ("documents", 0), ("documents", COUNT - 1)):
        given = {"queries": arrays[0].astype(dtype), "documents": arrays[1].astype(dtype)}
        given[name][row, DIM - 1] = value
        match = rf"{name}.*row {row}\b"
        both_refuse(ValueError, match, *given.values(), precision=precision)


@pytest.mark.parametrize(
    ("name", "rows"), [("queue", 5), ("guide_queries", ROWS), ("guide_documents", COUNT)]
)
def test_nan_in_the_other_matrices(name, rows, arrays):
    options = {**QUEUE, **GUIDE, "guide_queue": np.ones((5, 3), np.float32), "absolute_margin": 0.0}
    options[name] = options[name].copy()
    options[name][rows - 2, 1] = np.nan
    both_refuse(ValueError, rf"{name}.*row {rows - 2}\b", *arrays, **options)


def test_dtypes(arrays):
    queries, documents = arrays
    match = r"{}.*float64.*astype\(.*float32"
    both_refuse(TypeError, match.format("queries"), queries.astype(np.float64), documents)
    both_refuse(TypeError, match.format("documents"), queries, documents.astype(np.float64))
    queue = np.ones((5, DIM))
    both_refuse(TypeError, match.format("queue"), queries, documents, queue=queue)
    guide = GUIDE | {"guide_queries": np.ones((ROWS, 3))}
    both_refuse(TypeError, match.format("guide_queries"), queries, documents, **guide)
    both_refuse(TypeError, "queries.*int8", queries.astype(np.int8), documents.astype(np.int8))
    for bad in (None, 3, "text", [[1.0, 2.0]]):
        both_refuse(TypeError, "documents", queries, bad)


def test_shapes(arrays):
    queries, documents = arrays
    match = rf"documents has dim {DIM} but queries have dim {DIM - 1}"
    both_refuse(ValueError, match, queries[:, :-1].copy(), documents)
    both_refuse(
        ValueError, r"queue has dim 3", queries, documents, queue=np.ones((5, 3), np.float32)
    )
    both_refuse(ValueError, "documents.*empty", queries, documents[:0])
    both_refuse(ValueError, "documents.*empty", queries, np.ones((0, DIM), np.float32))
    both_refuse(ValueError, "queries.*empty", queries[:0], documents)
    both_refuse(ValueError, r"documents.*\b1\b", queries, documents[0])
    match = "documents.*ascontiguousarray"
    both_refuse(ValueError, match, queries, np.asfortranarray(documents))


def test_mismatched_guides(arrays):
    for name in GUIDE:
        options = GUIDE | {name: None}
        both_refuse(ValueError, "guide_queries and guide_documents", *arrays, **options)
    short = GUIDE | {"guide_queries": np.ones((ROWS - 1, 3), np.float32)}
    both_refuse(ValueError, rf"guide_queries has {ROWS - 1} rows.*{ROWS}", *arrays, **short)
    short = GUIDE | {"guide_documents": np.ones((COUNT + 1, 3), np.float32)}
    both_refuse(ValueError, rf"guide_documents has {COUNT + 1} rows.*{COUNT}", *arrays, **short)
    narrow = GUIDE | {"guide_documents": np.ones((COUNT, 2), np.float32)}
    both_refuse(ValueError, "guide_documents has dim 2.*3", *arrays, **narrow)
    both_refuse(ValueError, "guide_queue", *arrays, **GUIDE, **QUEUE)
    queue = np.ones((5, 3), np.float32)
    both_refuse(ValueError, "guide_queue", *arrays, **QUEUE, guide_queue=queue)
    both_refuse(
        ValueError, "guide_queue has 4 rows.*5", *arrays, **GUIDE, **QUEUE, guide_queue=queue[:4]
    )


def test_dot_products_that_could_overflow(arrays):
    """From a norm of 2^63 on, a product may be infinite, or NaN where both signs meet."""
    queries, documents = arrays[0].copy(), arrays[1].copy()
    documents[7] = 3e30
    with pytest.raises(ValueError, match=r"documents.*row 7\b"):
        stope.infonce_forward(queries, documents, metric="dot")
    assert np.isfinite(stope.infonce_forward(queries, documents).losses).all()  # cosine


# --- the backward pass's own -------------------------------------------------------------------


def test_row_gradients(arrays):
    forward = stope.infonce_forward(*arrays)
    for bad in (np.ones(5, np.float32), np.ones((ROWS, 1), np.float32)):
        with pytest.raises(ValueError, match=rf"row_gradients.*\({ROWS},\)"):
            stope.infonce_backward(*arrays, forward, bad)
    weights = np.ones(ROWS, np.float32)
    weights[2] = np.nan
    with pytest.raises(ValueError, match=r"row_gradients.*\b2\b.*(?i:nan)"):
        stope.infonce_backward(*arrays, forward, weights)


def test_forward_of_another_problem(arrays):
    queries, documents = arrays
    for other in (
        stope.infonce_forward(queries[:4], documents),
        stope.infonce_forward(queries, documents, **cases.TWO_WAYS),
    ):
        with pytest.raises(ValueError, match=r"forward"):
            stope.infonce_backward(queries, documents, other)
    forward = stope.infonce_forward(queries, documents)
    with pytest.raises(ValueError, match="forward"):
        stope.infonce_backward(queries, documents, forward, **cases.TWO_WAYS)


def test_progress(arrays):
    both_refuse(TypeError, "progress.*function", *arrays, progress=3)


def test_an_exception_in_progress_comes_through(arrays):
    class StopHereError(Exception):
        pass

    def stop(done, total):
        raise StopHereError

    with pytest.raises(StopHereError):
        stope.infonce_forward(*arrays, progress=stop)
    forward = stope.infonce_forward(*arrays)
    with pytest.raises(StopHereError):
        stope.infonce_backward(*arrays, forward, progress=stop)
