"""infonce where numbers run out: temperatures, empty masks, zeros, duplicates."""

from __future__ import annotations

import infonce_cases as cases
import numpy as np
import pytest
import reference_infonce as oracle
from infonce_cases import EXTRA, precisions
from infonce_checks import check

import stope

isas = pytest.mark.parametrize("isa", stope.isa.available())
objectives = pytest.mark.parametrize("objective", oracle.OBJECTIVES)
SOFTMAX = ("out", "in", "excl")


def finite(forward, gradients):
    assert np.isfinite(forward.losses).all()
    assert np.isfinite(gradients.queries).all()
    assert np.isfinite(gradients.documents).all()
    assert np.isfinite([gradients.temperature, gradients.bias]).all()


def both(queries, documents, **options):
    forward = stope.infonce_forward(queries, documents, **options)
    return forward, stope.infonce_backward(queries, documents, forward, **options)


@isas
@objectives
@pytest.mark.parametrize("temperature", [1e-3, 0.01, 0.07, 1.0, 100.0])
def test_temperatures(temperature, objective, isa):
    rng, queries, documents = cases.problem(0, 20, 60, 24)
    options = {"temperature": temperature, "objective": objective, **EXTRA.get(objective, {})}
    with stope.isa.only(isa):
        finite(*check(queries, documents, options))
        if objective in SOFTMAX:
            several = [rng.permutation(60)[:3] for _ in range(20)]
            finite(*check(queries, documents, options | {"positives": several}))


@objectives
@pytest.mark.parametrize("sign", [1, -1])
def test_positives_that_dominate_or_vanish(objective, sign):
    """Far from every negative, on either side: losses of 1e-40 and of 1,000."""
    documents = np.concatenate([np.eye(8), -np.eye(8)]).astype(np.float32)
    queries = sign * documents[:8]
    options = {"temperature": 0.01, "objective": objective, **EXTRA.get(objective, {})}
    finite(*check(queries, documents, options))
    finite(*check(queries, documents, options | {"temperature": 1e-3}))


@precisions
@objectives
def test_a_single_document(objective, precision):
    """No negative anywhere: nothing to learn, but for the sigmoid's own pair."""
    queries = np.array([[1, 2, 3]], np.float32)
    options = {"objective": objective, "precision": precision, **EXTRA.get(objective, {})}
    forward, gradients = check(queries, 2 * queries, options)
    assert forward.negatives == 0
    assert forward.best_negatives == -1
    assert forward.best_negative_scores == -np.inf
    assert forward.ranks == 1
    if objective != "sigmoid":
        assert forward.losses == 0
        assert (gradients.queries == 0).all()
        assert (gradients.documents == 0).all()
        assert gradients.temperature == 0


@isas
@precisions
@pytest.mark.parametrize("mask", ["exclude", "document_ids", "max_score", "min_score"])
@objectives
def test_all_negatives_masked(mask, objective, precision, isa):
    """Some rows keep theirs; the others cost nothing."""
    _, queries, documents = cases.problem(0, 20, 20, 16)
    masked = np.arange(20) % 3 > 0
    value = {
        "exclude": [np.arange(20) if dropped else [] for dropped in masked],
        "document_ids": np.full(20, 7),
        "max_score": np.where(masked, -1.5, 1.5),
        "min_score": np.where(masked, 1.5, -1.5),
    }[mask]
    options = {"objective": objective, "precision": precision, mask: value, "temperature": 0.2}
    options |= EXTRA.get(objective, {})
    with stope.isa.only(isa):
        forward, gradients = check(queries, documents, options)
    if mask == "document_ids":
        masked[:] = True
    assert (forward.negatives[masked] == 0).all()
    assert (forward.best_negatives[masked] == -1).all()
    if objective != "sigmoid":
        assert (forward.losses[masked] == 0).all()
        assert (gradients.queries[masked] == 0).all()


def test_masked_rows_with_several_positives_keep_the_loss_among_these():
    queries = np.array([[2, 1, 0]], np.float32)
    options = {"positives": [[0, 1]], "exclude": [[2]], "metric": "dot", "temperature": 1.0}
    forward, _ = check(queries, np.eye(3, dtype=np.float32), options)
    np.testing.assert_allclose(forward.losses, np.log(np.exp(2) + np.exp(1)) - 1.5, rtol=1e-6)
    for objective in ("in", "excl", "decoupled"):
        forward, gradients = check(
            queries, np.eye(3, dtype=np.float32), options | {"objective": objective}
        )
        assert forward.losses == 0
        assert (gradients.queries == 0).all()


@pytest.mark.parametrize("objective", [*SOFTMAX, "decoupled", "sigmoid"])
def test_rows_without_positives(objective):
    """They cost nothing and move nothing, but their queries' columns and statistics stay."""
    _, queries, documents = cases.problem(0, 9, 30, 12)
    lists = [[], [3, 1], [], [0], [], [4], [5, 9, 2], [], []]
    options = {"positives": lists, "objective": objective, **EXTRA.get(objective, {})}
    forward, gradients = check(queries, documents, options)
    empty = np.array([not row for row in lists])
    assert (forward.losses[empty] == 0).all()
    assert (gradients.queries[empty] == 0).all()
    assert (forward.negatives[empty] == 30).all()
    assert (forward.ranks[empty] == 0).all()
    two_ways = options | cases.TWO_WAYS
    forward, gradients = check(queries, documents, two_ways)
    assert (forward.losses[empty] == 0).all()
    assert (gradients.queries[empty] != 0).any(axis=1).all()  # negatives of the documents


@isas
@precisions
@pytest.mark.parametrize("directions", [(oracle.QD,), cases.ALL])
def test_zero_vectors_score_zero_and_get_no_gradient(directions, precision, isa):
    _, queries, documents = cases.problem(0, 12, 40, 20)
    queries[[0, 5]] = 0
    documents[[1, 5, 30]] = 0
    options = {"precision": precision, "directions": directions, "temperature": 0.2}
    with stope.isa.only(isa):
        forward, gradients = check(queries, documents, options)
        check(queries, documents, options | {"metric": "dot", "temperature": 20.0})
        nothing = both(np.zeros_like(queries), np.zeros_like(documents), **options)
    assert forward.positive_scores[0] == forward.positive_scores[1] == 0
    assert (gradients.queries[[0, 5]] == 0).all()
    assert (gradients.documents[[1, 5, 30]] == 0).all()
    finite(*nothing)
    assert (nothing[1].queries == 0).all()
    columns = 40 + sum({oracle.QQ: 11, oracle.DQ: 12, oracle.DD: 39}.get(d, 0) for d in directions)
    np.testing.assert_allclose(nothing[0].losses, np.log(columns), rtol=1e-6)


@isas
@objectives
def test_identical_vectors(objective, isa):
    rows = np.tile(np.float32([1, -2, 0.5, 3]), (40, 1))
    options = {"objective": objective, "temperature": 0.05, **EXTRA.get(objective, {})}
    with stope.isa.only(isa):
        forward, _ = check(rows[:20], rows, options)
    if objective in SOFTMAX:
        np.testing.assert_allclose(forward.losses, np.log(40), rtol=1e-6)
    # Every negative ties with the positive, bit by bit: none of them ranks before it.
    np.testing.assert_array_equal(forward.ranks, 1)
    np.testing.assert_array_equal(forward.best_negatives, np.arange(20) == 0)


def test_duplicates_of_the_positive():
    """A copy counts as a negative unless its id says what it is."""
    _, queries, documents = cases.problem(0, 10, 10, 8)
    doubled = np.concatenate([documents, documents])
    forward, _ = check(queries, doubled, {})
    assert (forward.losses >= np.float32(np.log(2))).all()
    ids = np.tile(np.arange(10), 2)
    got, gradients = check(queries, doubled, {"document_ids": ids})
    exclude = [[i + 10] for i in range(10)]
    excluded, back = check(queries, doubled, {"exclude": exclude})
    np.testing.assert_array_equal(got.losses, excluded.losses)
    np.testing.assert_array_equal(gradients.documents, back.documents)
    assert (got.negatives == 18).all()


@isas
@precisions
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("guided", [False, True])
def test_copies_of_the_positive_sit_on_a_margin_of_zero(guided, metric, precision, isa):
    """Equality is kept: the copy's score is the positive's bit by bit, wherever it lies."""
    for rows, count, dim in ((5, 17, 3), (40, 90, 33), (70, 300, 100), (20, 1100, 257)):
        queries, documents, options = cases.copies_of_positives(rows, count, dim, guided)
        options |= {"metric": metric, "precision": precision}
        for margin, kept in ((0.0, 1), (0.05, 0)):
            with stope.isa.only(isa):
                got = stope.infonce_forward(queries, documents, absolute_margin=margin, **options)
            np.testing.assert_array_equal(got.negatives, kept)
            np.testing.assert_array_equal(got.ranks, 1)


@isas
@precisions
def test_scores_on_a_limit_are_kept(precision, isa):
    for queries, documents, options, negatives in cases.on_limits():
        with stope.isa.only(isa):
            got = stope.infonce_forward(queries, documents, precision=precision, **options)
        np.testing.assert_array_equal(got.negatives, negatives)


@isas
@precisions
def test_one_dimension(isa, precision):
    _, queries, documents = cases.problem(0, 40, 90, 1)
    options = {"precision": precision, "temperature": 0.5}
    with stope.isa.only(isa):
        forward, gradients = check(queries, documents, options)
    np.testing.assert_allclose(np.abs(forward.positive_scores), 1, atol=1e-6)
    assert np.abs(queries * gradients.queries).max() < 1e-6  # lengths do not matter


@isas
@pytest.mark.parametrize("size", [1e-17, 1e-6, 1e6, 1e17])
def test_lengths_do_not_matter_to_the_cosine(size, isa):
    _, queries, documents = cases.problem(0, 12, 50, 20)
    with stope.isa.only(isa):
        plain = both(queries, documents)
        scaled = both((size * queries).astype(np.float32), documents)
    np.testing.assert_allclose(scaled[0].losses, plain[0].losses, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scaled[1].documents, plain[1].documents, rtol=1e-3, atol=1e-6)
    unscaled = scaled[1].queries.astype(np.float64) * size
    np.testing.assert_allclose(unscaled, plain[1].queries, rtol=1e-3, atol=1e-6)


@isas
def test_large_dot_products(isa):
    """Logits of 1e5: one term takes all, and nothing overflows."""
    _, queries, documents = cases.problem(0, 12, 50, 20)
    options = {"metric": "dot", "temperature": 0.001}
    with stope.isa.only(isa):
        finite(*both(100 * queries, documents, **options))
        for objective in ("decoupled", "pairwise", "sigmoid"):
            finite(*both(100 * queries, documents, objective=objective, **options))


def test_hardness_at_its_clamp():
    """A prior that explains all negatives away: log Ng is log N - s, and moves nothing but p."""
    _, queries, documents = cases.problem(0, 12, 30, 8)
    options = {"objective": "hardness", "positive_prior": 0.9, "temperature": 1.0}
    forward, gradients = check(documents[:12], documents, options)
    np.testing.assert_allclose(forward.losses, np.log1p(np.exp(np.log(29) - 2)), rtol=1e-5)
    assert (gradients.documents[12:] == 0).all()
    with_beta, _ = check(queries, documents, options | {"beta": 2.0, "positive_prior": 0.3})
    detached = options | {"beta": 2.0, "positive_prior": 0.3, "detach_hardness": True}
    np.testing.assert_array_equal(check(queries, documents, detached)[0].losses, with_beta.losses)
