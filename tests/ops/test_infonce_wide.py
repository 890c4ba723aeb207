"""infonce with logits that float32 cannot tell apart: right, against float64, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import reference_infonce as oracle
import wide_cases as cases

import stope

isas = pytest.mark.parametrize("isa", stope.isa.available())
SOFTMAX = ("out", "in", "excl", "hardness")


def both(queries, documents, **options):
    forward = stope.infonce_forward(queries, documents, **options)
    return forward, stope.infonce_backward(queries, documents, forward, **options)


@isas
@pytest.mark.parametrize("size", [2.0**15, 2.0**30, 2.0**58])
def test_copies_of_a_huge_row_share_its_probability(size, isa):
    """Three columns of one score: log 3, whatever the score is."""
    queries = np.full((1, 8), size, np.float32)
    documents = np.tile(queries, (3, 1))
    for objective in SOFTMAX:
        options = {"metric": "dot", "temperature": 1.0, "objective": objective, "positives": [0]}
        if objective == "hardness":
            options["beta"] = 0.75
        with stope.isa.only(isa):
            forward, gradients = both(queries, documents, **options)
        np.testing.assert_allclose(forward.losses, np.log(3), rtol=1e-6)
        expected = size * np.array([-2 / 3, 1 / 3, 1 / 3])[:, None]
        np.testing.assert_allclose(gradients.documents, np.tile(expected, (1, 8)), rtol=1e-6)
        assert np.abs(gradients.queries).max() < 1e-6 * size
    options = {"metric": "dot", "temperature": 1.0, "positives": [0]}
    for objective, loss in (("decoupled", np.log(2)), ("pairwise", 2 * np.log(2))):
        with stope.isa.only(isa):
            forward, _ = both(queries, documents, objective=objective, **options)
        np.testing.assert_allclose(forward.losses, loss, rtol=1e-6)


@pytest.mark.parametrize("size", [2.0**8, 2.0**14, 2.0**16])
@pytest.mark.parametrize("objective", oracle.OBJECTIVES)
@pytest.mark.parametrize("name", cases.RULES)
def test_float64_finds_the_same(name, objective, size):
    if not cases.goes_with(name, objective):
        return
    # Squares of scores must leave float64, the oracle's, the digits of a logarithm.
    size = 2.0**5 if name == "focal" else size
    queries, documents = cases.problem(size)
    options = {"metric": "dot", "temperature": 1.0, "objective": objective, **cases.RULES[name]}
    if objective == "hardness":
        options |= {"beta": 0.5}
    expected, by = oracle.evaluate(queries, documents, None, **options)
    forward, gradients = both(queries, documents, **options)
    np.testing.assert_allclose(forward.losses, expected.losses, rtol=1e-6, atol=5e-5)
    np.testing.assert_array_equal(forward.ranks, expected.ranks)
    for mine, theirs in ((gradients.queries, by.queries), (gradients.documents, by.documents)):
        assert np.linalg.norm(mine - theirs) <= 1e-4 * np.linalg.norm(theirs)
    largest = np.abs(expected.scores).max()
    by_temperature = 1e-5 * (abs(by.temperature) + largest)
    assert abs(gradients.temperature - by.temperature) <= by_temperature


@isas
def test_a_small_temperature_is_a_large_logit(isa):
    queries, documents = np.eye(3, 8, dtype=np.float32), np.eye(5, 8, dtype=np.float32)
    documents[3] = documents[0]
    with stope.isa.only(isa):
        forward, gradients = both(queries, documents, temperature=1e-12)
    np.testing.assert_allclose(forward.losses, [np.log(2), 0, 0], atol=1e-6)
    assert np.isfinite(gradients.queries).all()


def test_wide_rows_do_not_depend_on_the_threads():
    queries, documents = cases.problem(2.0**20)
    options = {"metric": "dot", "temperature": 0.5, **cases.RULES["all directions"]}
    before = stope.build_info()["threads"]
    results = []
    try:
        for threads in (1, 3):
            stope.set_num_threads(threads)
            results.append(both(np.tile(queries, (20, 1)), np.tile(documents, (6, 1)), **options))
    finally:
        stope.set_num_threads(before)
    for one, other in zip(results[0], results[1], strict=True):
        for mine, theirs in zip(one, other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_results_beyond_float32_are_refused():
    huge = np.full((1, 2), 2.0**61, np.float32)
    documents = np.concatenate([-huge, huge])
    options = {"metric": "dot", "temperature": 1e-3, "positives": [0]}
    with pytest.raises(ValueError, match=r"losses\[0\] is beyond float32; raise temperature"):
        stope.infonce_forward(huge, documents, **options)
    options = {"metric": "dot", "temperature": 1e-24, "positives": [0]}
    queries = np.full((1, 2), 2.0**-80, np.float32)
    forward = stope.infonce_forward(queries, documents, **options)
    with pytest.raises(ValueError, match=r"the gradient of queries\[0\] is beyond float32"):
        stope.infonce_backward(queries, documents, forward, **options)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log_weights", [1e300, 0]),
        ("positive_weights", [1e-60, 1]),
        ("positive_weights", [1e39, 1]),
    ],
)
def test_vectors_beyond_float32_are_refused(name, value):
    rows = np.eye(2, 4, dtype=np.float32)
    with pytest.raises(ValueError, match=f"{name}.* is|{name} holds"):
        stope.infonce_forward(rows, rows, **{name: value})


@pytest.mark.parametrize("name", ["hardness_strength", "hard_negative_log_weight", "focal_margin"])
def test_numbers_beyond_float32_are_refused(name):
    rows = np.eye(2, 4, dtype=np.float32)
    with pytest.raises(ValueError, match=f"{name} is 1e\\+300; give a number from -1e"):
        stope.infonce_forward(rows, rows, hard_negatives=[[1], [0]], **{name: 1e300})
    with pytest.raises(ValueError, match="temperature is 1e-300; give 1e-37 or more"):
        stope.infonce_forward(rows, rows, temperature=1e-300)
