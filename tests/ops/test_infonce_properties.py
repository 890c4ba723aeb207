"""infonce: what must hold whatever the numbers are."""

from __future__ import annotations

import hypothesis.strategies as st
import infonce_cases as cases
import numpy as np
import reference_infonce as oracle
from hypothesis import given
from infonce_cases import EXTRA
from infonce_checks import backward_is_close, forward_is_close

import stope

SOFTMAX = ("out", "in", "excl")
SEEDS = st.integers(0, 10_000)
SIZES = st.tuples(st.integers(1, 20), st.integers(1, 70), st.integers(1, 40))


def small(seed, sizes, objective, **options):
    """(queries, documents, options, forward, gradients) under dot, two positives where allowed."""
    rows, count, dim = sizes
    rng, queries, documents = cases.problem(seed, rows, count, dim)
    own = rng.integers(0, count, (rows, 1))
    if objective in ("out", "in", "excl", "decoupled") and count > 1:
        own = np.concatenate([own, (own + rng.integers(1, count, own.shape)) % count], axis=1)
    given = {"positives": list(own), "metric": "dot", "objective": objective, **options}
    given = {"temperature": float(dim), **EXTRA.get(objective, {}), **given}
    forward = stope.infonce_forward(queries, documents, **given)
    gradients = stope.infonce_backward(queries, documents, forward, **given)
    return queries, documents, given, forward, gradients


def near(got, expected, note="", terms=0.05):
    """Equal up to float32 summation, measured against the largest of them.

    Numbers below `terms` are what is left of larger ones (of one dimension and one query, say).
    """
    got, expected = (np.asarray(x, np.float64) for x in (got, expected))
    largest = max(terms, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * largest, err_msg=note)


@given(SEEDS, SIZES, st.sampled_from(oracle.OBJECTIVES))
def test_any_small_problem(seed, sizes, objective):
    queries, documents, options, forward, gradients = small(seed, sizes, objective)
    expected = oracle.evaluate(queries, documents, **options)
    forward_is_close(forward, expected[0], options)
    backward_is_close(gradients, expected[1], (queries, documents), options)


@given(SEEDS, SIZES, st.sampled_from(SOFTMAX), st.sampled_from([0.5, 3.0]))
def test_a_constant_per_row_changes_nothing(seed, sizes, objective, constant):
    """A coordinate that all documents share adds to all of a row's scores alike.

    Scores of up to 7 more are rounded by up to 2.4e-7 more each, whatever cancels afterwards.
    """
    queries, documents, options, forward, gradients = small(seed, sizes, objective)
    ones, shifts = np.ones((len(documents), 1)), constant * np.arange(len(queries))[:, None] % 7
    shifted = [np.concatenate(pair, axis=1, dtype=np.float32) for pair in
               ((queries, shifts), (documents, ones))]  # fmt: skip
    again = stope.infonce_forward(*shifted, **options)
    near(again.losses, forward.losses, terms=0.5)
    back = stope.infonce_backward(*shifted, again, **options)
    near(back.queries[:, :-1], gradients.queries, terms=0.5)
    near(back.documents[:, :-1], gradients.documents, terms=0.5)
    near(back.queries[:, -1], np.zeros(len(queries)), terms=0.5)


@given(SEEDS, SIZES, st.sampled_from((*SOFTMAX, "hardness", "pairwise")))
def test_gradients_of_a_row_cancel(seed, sizes, objective):
    """sum_j G_ij = 0, seen as documents whose gradients sum to nothing."""
    if objective == "hardness":  # a prior breaks the symmetry of its clamp alone
        queries, documents, _, _, gradients = small(seed, sizes, objective, positive_prior=0.0)
    else:
        queries, documents, _, _, gradients = small(seed, sizes, objective)
    total = np.abs(gradients.documents.astype(np.float64)).sum(axis=0).max()
    left = np.abs(gradients.documents.astype(np.float64).sum(axis=0)).max()
    assert left <= 2e-5 * max(total, 1e-3 / len(queries))
    assert np.isfinite(gradients.queries).all()
    assert documents.shape == gradients.documents.shape


@given(SEEDS, SIZES, st.sampled_from(oracle.OBJECTIVES))
def test_the_order_of_columns_does_not_matter(seed, sizes, objective):
    queries, documents, options, forward, gradients = small(seed, sizes, objective)
    order = np.random.default_rng(seed).permutation(len(documents))
    places = np.argsort(order)
    options = options | {"positives": [places[own] for own in options["positives"]]}
    again = stope.infonce_forward(queries, documents[order], **options)
    near(again.losses, forward.losses)
    np.testing.assert_array_equal(again.negatives, forward.negatives)
    back = stope.infonce_backward(queries, documents[order], again, **options)
    near(back.queries, gradients.queries)
    near(back.documents, gradients.documents[order])


@given(SEEDS, st.tuples(st.integers(1, 12), st.integers(2, 30), st.integers(1, 30)))
def test_duplicates_are_weights(seed, sizes):
    """A negative that is there c times counts as log c; a query that is there twice weighs two."""
    rng = np.random.default_rng(seed)
    queries, documents, options, _, _ = small(seed, sizes, "excl")
    copies = rng.integers(1, 4, len(documents))
    options["positives"] = [own[:1] for own in options["positives"]]
    copies[np.concatenate(options["positives"])] = 1  # a positive's copy would be a negative
    again = np.repeat(np.arange(len(documents)), copies)
    first = np.cumsum(copies) - copies
    weighted = options | {"log_weights": np.log(copies).astype(np.float32)}
    repeated = options | {"positives": [first[own] for own in options["positives"]]}
    one = stope.infonce_forward(queries, documents, **weighted)
    many = stope.infonce_forward(queries, documents[again], **repeated)
    near(many.losses, one.losses)
    gradients = stope.infonce_backward(queries, documents, one, **weighted)
    back = stope.infonce_backward(queries, documents[again], many, **repeated)
    near(back.queries, gradients.queries)
    near(np.add.reduceat(back.documents, first), gradients.documents)
    twice = np.repeat(np.arange(len(queries)), 2)
    rows = options | {"positives": [options["positives"][i] for i in twice]}
    forward = stope.infonce_forward(queries[twice], documents, **rows)
    np.testing.assert_array_equal(forward.losses[::2], forward.losses[1::2])
    back = stope.infonce_backward(queries[twice], documents, forward, **rows)
    plain = stope.infonce_forward(queries, documents, **options)
    near(back.documents, stope.infonce_backward(queries, documents, plain, **options).documents)


@given(SEEDS, SIZES, st.sampled_from(oracle.OBJECTIVES))
def test_cosine_gradients_are_tangent(seed, sizes, objective):
    """Lengths do not matter: gradients are orthogonal to their rows and shrink as these grow."""
    options = {"metric": "cosine", "temperature": 0.3}
    queries, documents, options, forward, gradients = small(seed, sizes, objective, **options)
    for rows, gradient in ((queries, gradients.queries), (documents, gradients.documents)):
        sizes = np.linalg.norm(rows, axis=1) * np.linalg.norm(gradient, axis=1)
        # With one dimension, nothing but the rounding of a sum over the other side is left.
        rounding = 1e-5 + 1e-6 * (len(queries) + len(documents))
        assert (
            np.abs((rows.astype(np.float64) * gradient).sum(axis=1)) <= rounding + 1e-4 * sizes
        ).all()
    longer = stope.infonce_forward(4 * queries, documents / 2, **options)
    near(longer.losses, forward.losses)
    back = stope.infonce_backward(4 * queries, documents / 2, longer, **options)
    near(4 * back.queries, gradients.queries)
    near(back.documents / 2, gradients.documents)


@given(SEEDS, SIZES, st.sampled_from(oracle.OBJECTIVES))
def test_gradients_predict_the_loss(seed, sizes, objective):
    """A small step along a random direction changes the loss as the gradients say."""
    queries, documents, options, _, gradients = small(seed, sizes, objective)
    rng = np.random.default_rng(seed)
    step = 1e-6
    dq, dd = rng.standard_normal(queries.shape), rng.standard_normal(documents.shape)
    ends = [
        oracle.forward(queries + sign * step * dq, documents + sign * step * dd, **options).losses
        for sign in (1, -1)
    ]
    slope = (ends[0] - ends[1]).mean() / (2 * step)
    predicted = (dq * gradients.queries).sum() + (dd * gradients.documents).sum()
    sizes = np.abs(dq * gradients.queries).sum() + np.abs(dd * gradients.documents).sum()
    assert abs(slope - predicted) <= 1e-4 * sizes + 1e-6
