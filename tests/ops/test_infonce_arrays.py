"""infonce's border: types and memory that come in, forms of ids, defaults, what goes out."""

from __future__ import annotations

import infonce_cases as cases
import ml_dtypes
import numpy as np
import pytest
import reference_infonce as oracle
from infonce_cases import drawn, precisions
from infonce_checks import backward_is_close, check, same_bits

import stope


@precisions
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("name", ["plain", "everything", "dot"])
def test_half_precision_inputs(name, dtype, precision):
    """They are widened, not worked in: the oracle sees the same rounded values."""
    temperature = 16.0 if name == "dot" else 0.1

    def make(seed):
        rng, queries, documents = cases.problem(seed, 20, 50, 36)
        options = cases.options(name, rng, 20, 50, 36) | {"temperature": temperature}
        for key in ("queue", "guide_queries", "guide_documents", "guide_queue"):
            if key in options:
                options[key] = options[key].astype(dtype)
        queries, documents = queries.astype(dtype), documents.astype(dtype)
        return queries, documents, options, oracle.evaluate(queries, documents, **options)

    if name == "everything" and precision == "bfloat16":
        return  # limits on scores that this precision rounds
    queries, documents, options, expected = cases.judged_clearly(
        make, lambda made: made[3][0], 4e-6
    )
    check(queries, documents, options | {"precision": precision}, None, "", expected)


def test_types_mix():
    _, queries, documents = cases.problem(0, 9, 30, 20)
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = documents.astype(dtype)
        expected = stope.infonce_forward(queries, half.astype(np.float32))
        same_bits(stope.infonce_forward(queries, half), expected)


def test_memory_of_every_kind():
    queries, documents, options, upstream, _ = drawn("everything")
    options = dict(options)

    def answer(kind):
        given = {k: kind(v) if getattr(v, "ndim", 0) == 2 else v for k, v in options.items()}
        forward = stope.infonce_forward(kind(queries), kind(documents), **given)
        arguments = kind(queries), kind(documents), forward, upstream
        return forward, stope.infonce_backward(*arguments, **given)

    def read_only(rows):
        rows = rows.copy()
        rows.flags.writeable = False
        return rows

    def strided(rows):
        wide = np.full((2 * len(rows), rows.shape[1] + 5), np.nan, np.float32)
        wide[::2, 2:-3] = rows
        return wide[::2, 2:-3]

    def backward_in_memory(rows):
        return rows[::-1].copy()[::-1]

    expected = answer(np.ascontiguousarray)
    before = queries.copy(), documents.copy()
    for kind in (read_only, strided, backward_in_memory):
        got = answer(kind)
        same_bits(got[0], expected[0], kind.__name__)
        same_bits(got[1], expected[1], kind.__name__)
    np.testing.assert_array_equal(queries, before[0])
    np.testing.assert_array_equal(documents, before[1])


def test_torch_tensors_give_torch_tensors():
    torch = pytest.importorskip("torch")
    queries, documents, options, upstream, _ = drawn("several weighted")
    expected = stope.infonce_forward(queries, documents, **options)
    gradients = stope.infonce_backward(queries, documents, expected, upstream, **options)
    q, d = torch.from_numpy(queries), torch.from_numpy(documents)
    for a, b in ((q, d), (q.clone().requires_grad_(), d)):
        got = stope.infonce_forward(a.detach(), b, **options)
        assert all(isinstance(field, torch.Tensor) for field in got[:7])
        same_bits(got, expected)
        back = stope.infonce_backward(a.detach(), b, got, torch.from_numpy(upstream), **options)
        assert isinstance(back.queries, torch.Tensor)
        same_bits(back, gradients)
    half = q.bfloat16(), d.bfloat16()
    wide = half[0].float().numpy(), half[1].float().numpy()
    got = stope.infonce_forward(*half, **options)
    same_bits(got, stope.infonce_forward(*wide, **options))


def test_results_are_named_tuples():
    _, queries, documents = cases.problem(0, 6, 8, 5)
    forward = stope.infonce_forward(queries, documents)
    gradients = stope.infonce_backward(queries, documents, forward)
    assert isinstance(forward, stope.InfoNCE)
    assert isinstance(gradients, stope.InfoNCEGradients)
    assert forward._fields == (*oracle.InfoNCE._fields[:7], "kept", "left_out", "state")
    assert gradients._fields == ("queries", "documents", "temperature", "bias")


def test_defaults():
    """Document i answers query i, cosine, temperature 0.05, mean of the rows, no more rules."""
    _, queries, documents = cases.problem(0, 12, 30, 20)
    given = {"temperature": 0.05, "metric": "cosine", "objective": "out", "positives": range(12)}
    given |= {"directions": ("query_to_document",), "partition": "joint", "precision": "float32"}
    given["positives"] = np.arange(12)
    forward = stope.infonce_forward(queries, documents)
    same_bits(forward, stope.infonce_forward(queries, documents, **given))
    gradients = stope.infonce_backward(queries, documents, forward)
    mean = np.full(12, 1 / 12, np.float32)
    same_bits(stope.infonce_backward(queries, documents, forward, mean, **given), gradients)
    check(queries, documents, {})


def test_forms_of_ids():
    """Id vectors, lists and CSR say the same; the order within a row is the caller's."""
    rng, queries, documents = cases.problem(0, 6, 20, 8)
    lists = [[3, 1], [7], [0, 19, 4], [], [5], [2]]
    weights = rng.uniform(0.5, 2, 8).astype(np.float32)
    offsets = np.cumsum([0, *map(len, lists)])
    csr = offsets, np.concatenate([np.array(row, np.int64) for row in lists])
    arrays = [np.array(row, np.int64) for row in lists]
    hard = np.stack([np.arange(8, 14), np.arange(19, 13, -1)], axis=1)
    excluded = [[9]] * 6, (np.arange(7), [9] * 6), [np.array([9])] * 6
    forms = [
        {"positives": form, "positive_weights": weights, "exclude": columns}
        for form, columns in zip((lists, arrays, csr), excluded, strict=True)
    ]
    expected = oracle.evaluate(queries, documents, **forms[0])
    for form in forms:
        check(queries, documents, form, expected=expected)
    for form in (hard, hard.tolist(), (np.arange(0, 13, 2), hard.ravel())):
        options = {"hard_negatives": form, "hard_negative_log_weight": 1.0}
        check(queries, documents, options)


def test_row_gradients():
    """Rows of weight 0 give nothing; the gradient is linear in the weights, whatever their sign."""
    queries, documents, options, _, _ = drawn("several weighted", rows=40)
    forward = stope.infonce_forward(queries, documents, **options)
    rng = np.random.default_rng(0)
    for upstream in (np.zeros(40), rng.standard_normal(40), np.eye(40)[7], -3 * np.ones(40)):
        upstream = upstream.astype(np.float32)
        expected = oracle.backward(queries, documents, upstream, **options)
        got = stope.infonce_backward(queries, documents, forward, upstream, **options)
        backward_is_close(got, expected, (queries, documents), options, upstream)
        assert (got.queries[upstream == 0] == 0).all()


@pytest.mark.parametrize("name", ["several weighted", "four directions", "two ways of several"])
def test_documents_without_gradients(name):
    """Only the work is less: what is left is the same, bit by bit."""
    queries, documents, options, upstream, _ = drawn(name)
    forward = stope.infonce_forward(queries, documents, **options)
    every = stope.infonce_backward(queries, documents, forward, upstream, **options)
    got = stope.infonce_backward(
        queries, documents, forward, upstream, document_gradients=False, **options
    )
    assert got.documents is None
    same_bits(got._replace(documents=every.documents), every)


def test_the_queue_has_no_gradient_and_the_last_ids():
    rng, queries, documents = cases.problem(0, 4, 10, 8)
    queue = np.concatenate([cases.embeddings(rng, 5, 8), queries[2:3]])
    got, gradients = check(queries, documents, {"queue": queue, "temperature": 0.5})
    assert gradients.documents.shape == documents.shape
    assert got.best_negatives[2] == 15
    np.testing.assert_array_equal(got.negatives, 15)


def test_progress_is_reported():
    _, queries, documents = cases.problem(0, 300, 900, 32)
    for options in ({}, {"directions": cases.ALL}):
        first, second = [], []
        forward = stope.infonce_forward(
            queries, documents, **options, progress=lambda *step, to=first: to.append(step)
        )
        gradients = stope.infonce_backward(
            queries,
            documents,
            forward,
            **options,
            progress=lambda *step, to=second: to.append(step),
        )
        for steps in (first, second):
            assert steps[-1][0] == steps[-1][1]
            assert steps == sorted(steps)
        same_bits(forward, stope.infonce_forward(queries, documents, **options))
        same_bits(gradients, stope.infonce_backward(queries, documents, forward, **options))


def test_gradients_begin_with_a_cache_line():
    """A block of sums that straddled lines would take two loads and stores a row."""
    for rows, dim in ((1, 1), (7, 3), (300, 16)):
        _, queries, documents = cases.problem(0, rows, rows + 5, dim)
        forward = stope.infonce_forward(queries, documents)
        gradients = stope.infonce_backward(queries, documents, forward)
        for array in (gradients.queries, gradients.documents):
            assert array.ctypes.data % 64 == 0
            assert array.flags.c_contiguous
            assert array.flags.writeable
