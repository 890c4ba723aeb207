"""infonce: every rule, objective, shape, type, instruction set and precision against the oracle."""

from __future__ import annotations

import infonce_cases as cases
import numpy as np
import pytest
import reference_infonce as oracle
from infonce_cases import PRECISIONS, drawn, precisions
from infonce_checks import ACCURACY, ACCURACY_AMX, check, is_accurate, same_bits

import stope

isas = pytest.mark.parametrize("isa", stope.isa.available())


@pytest.mark.parametrize("objective", oracle.OBJECTIVES)
@pytest.mark.parametrize("name", cases.NAMES)
def test_every_rule_and_objective(name, objective):
    if cases.goes_with(name, objective):
        *problem, expected = drawn(name, objective)
        check(*problem, expected=expected)


@isas
@pytest.mark.parametrize("name", cases.NAMES)
def test_every_rule_on_exact_scores(name, isa):
    """Cosines that no arithmetic rounds: masks, counts, ranks and ties must agree exactly."""
    problem = queries, documents, options, upstream, expected = drawn(
        name, rows=20, count=45, dim=64, embed="signs"
    )
    for precision in PRECISIONS:
        with stope.isa.only(isa):
            options = problem[2] | {"precision": precision}
            got, _ = check(queries, documents, options, upstream, precision, expected)
        for field in ("negatives", "ranks", "best_negatives"):
            np.testing.assert_array_equal(getattr(got, field), getattr(expected[0], field), field)
        best = expected[0].best_negative_scores.astype(np.float32)
        np.testing.assert_allclose(got.best_negative_scores, best, rtol=0, atol=1e-6)


SHAPES = [
    (rows, count, dim)
    for rows in (1, 7, 33, 300)
    for count in (1, 40, 300, 700)
    for dim in (1, 3, 16, 33, 100)
]


@isas
@precisions
def test_ragged_shapes(isa, precision):
    """Sizes on both sides of panels, tiles and blocks."""
    for note, problem in cases.ragged(SHAPES):
        queries, documents, options, upstream, expected = problem
        with stope.isa.only(isa):
            check(queries, documents, options | {"precision": precision}, upstream, note, expected)


@isas
@pytest.mark.parametrize("name", ["everything", "two ways with much", "guided directions"])
def test_many_blocks_with_many_rules(name, isa):
    *problem, expected = drawn(name, "out", 70, 300, 40)
    with stope.isa.only(isa):
        check(*problem, expected=expected)


@isas
@precisions
@pytest.mark.parametrize("objective", oracle.OBJECTIVES)
def test_objectives_on_every_instruction_set(objective, isa, precision):
    name = "plain" if objective in ("hardness", "pairwise") else "several weighted"
    queries, documents, options, upstream, expected = drawn(name, objective, 40, 90, 64)
    with stope.isa.only(isa):
        check(queries, documents, options | {"precision": precision}, upstream, isa, expected)


@isas
@precisions
@pytest.mark.parametrize(
    "name", ["plain", "several weighted", "everything", "two ways of several", "queue with ids"]
)
def test_threads_change_no_bit(name, isa, precision, threads):
    """The threads decide where slabs are cut."""
    dim = 300 if isa == "amx" else 33  # from 256 on both precisions go by tiles
    queries, documents, options, upstream = cases.undecided(name, "out", 1300, 700, dim)
    options = options | {"precision": precision}
    results = []
    with stope.isa.only(isa):
        for count in (1, 2, 3, 1):
            threads(count)
            forward = stope.infonce_forward(queries, documents, **options)
            gradients = stope.infonce_backward(queries, documents, forward, upstream, **options)
            results.append((forward, gradients))
    for forward, gradients in results[1:]:
        same_bits(forward, results[0][0])
        same_bits(gradients, results[0][1])


@isas
@precisions
@pytest.mark.parametrize(
    ("rows", "count", "dim"), [(600, 2500, 96), (1200, 700, 288), (90, 1100, 1000)]
)
def test_larger_batches(rows, count, dim, precision, isa):
    """Several tiles of weights, panels of an operand, pieces of the depth."""
    queries, documents, options, upstream, expected = drawn("plain", "out", rows, count, dim)
    with stope.isa.only(isa):
        check(queries, documents, options | {"precision": precision}, upstream, "", expected)


@isas
@precisions
@pytest.mark.parametrize("dim", [32, 384, 500, 1000])
def test_negatives_that_outweigh_positives(dim, precision, isa):
    """Gradients are those of tiles without a positive, of any depth."""
    _, queries, documents = cases.problem(0, 70, 1100, dim)
    documents = np.roll(documents, 700, axis=0)
    with stope.isa.only(isa):
        check(queries, documents, {"precision": precision}, note=f"dim {dim}")


@isas
@precisions
@pytest.mark.parametrize("order", ["rising", "falling"])
def test_logits_that_rise_or_fall_along_the_columns(order, precision, isa):
    """Sums start with a reference of the first columns; later ones may be e^150 times as large.

    Rows without a gradient share the first strip with others.
    """
    rng, _, documents = cases.problem(0, 70, 1664, 64)
    queries = rng.standard_normal((70, 64), np.float32)
    nearness = 3 * np.linspace(0, 1, 1664, dtype=np.float32)[:, None] ** 4
    documents += nearness[:: 1 if order == "rising" else -1] * queries[np.arange(1664) % 70]
    options = {"temperature": 0.004, "positives": rng.permutation(70)}
    upstream = rng.uniform(-1, 2, 70).astype(np.float32)
    upstream[:32:3] = 0
    with stope.isa.only(isa):
        check(queries, documents, options | {"precision": precision}, upstream, order)


@pytest.mark.parametrize("options", [{}, cases.TWO_WAYS, {"directions": cases.ALL}])
@pytest.mark.parametrize("shared", [False, True])
def test_ids_that_all_differ(shared, options):
    """They drop nothing, but queries that share a positive are no negatives of each other."""
    rng, queries, documents = cases.problem(0, 12, 20, 16)
    positives = rng.permutation(20)[:12]
    if shared:
        positives[5] = positives[2]
    options = {**options, "positives": positives, "document_ids": rng.permutation(50)[:20]}
    got, _ = check(queries, documents, options, note=str(options))
    without = {name: value for name, value in options.items() if name != "document_ids"}
    same = np.array_equal(got.losses, stope.infonce_forward(queries, documents, **without).losses)
    assert same == (not shared or options.get("directions") != cases.ALL)


@isas
@precisions
@pytest.mark.parametrize("temperature", [0.05, 0.01])
def test_accuracy(temperature, precision, isa):
    """Positives that are not near their queries: losses of tens, every row on its own."""
    accuracy = (ACCURACY_AMX if isa == "amx" else ACCURACY)[precision]
    for dim in (24, 64, 96, 300, 384):
        rng, queries, documents = cases.problem(0, 100, 400, dim)
        options = {"temperature": temperature, "positives": rng.permutation(400)[:100]}
        expected, by = oracle.evaluate(queries, documents, **options)
        options["precision"] = precision
        with stope.isa.only(isa):
            got = stope.infonce_forward(queries, documents, **options)
            back = stope.infonce_backward(queries, documents, got, **options)
        is_accurate(got, back, expected, by, temperature, accuracy, f"dim {dim}")
        np.testing.assert_allclose(back.temperature, by.temperature, rtol=accuracy[1])


# --- published numbers (docs/methods.md) ---------------------------------------------------------

TWO = np.array([[0.9, 0.1], [0.2, 0.8]], np.float32)
PAIRS = np.array([[1, 0], [0.6, 0.8]], np.float32), np.array([[0.8, 0.6], [0, 1]], np.float32)
AXES = np.eye(2, dtype=np.float32)
STAR = np.array([[2, 1, 1.5, 0], [0.5, 1.5, 0.5, 1]], np.float32)
TRIPLE = np.array([[0.8, 0.6, -0.2]], np.float32)
BOTH = {"directions": ("query_to_document", "document_to_query"), "partition": "per_direction"}
QWEN3 = {"directions": (oracle.QD, oracle.QQ, oracle.DD), "absolute_margin": -0.1}
MANY = {"positives": [[0, 1]], "temperature": 1.0}
HARDNESS = {"objective": "hardness", "temperature": 0.5}


@isas
@pytest.mark.parametrize(
    ("scores", "options", "losses"),
    [
        (TWO, {"temperature": 0.1}, [0.000335, 0.002476]),
        (TWO, {"temperature": 0.1, **BOTH}, None),
        (TWO, {"temperature": 0.1, "objective": "decoupled"}, [-8, -6]),
        (TWO, {"temperature": 0.1, "objective": "sigmoid", "bias": -10.0}, [1.313385, 2.127263]),
        (TWO, {"temperature": 0.05, "focal_margin": 0.3}, [2.0505e-07, 2.03993e-05]),
        (PAIRS, {"temperature": 0.1, **QWEN3}, [0.239809, 0.239545]),
        (PAIRS, {"temperature": 0.1, "directions": cases.ALL}, [1.977414, 1.977414]),
        (STAR, {"temperature": 1.0, "objective": "pairwise"}, [0.914267, 1.100601]),
        (np.array([[2, 1, 0]], np.float32), MANY, [0.907606]),
        (np.array([[2, 1, 0]], np.float32), {**MANY, "objective": "in"}, [0.094344]),
        (TRIPLE, {"beta": 1.0, "positive_prior": 0.1, **HARDNESS}, [0.726423]),
        (TRIPLE, HARDNESS, [0.590924]),
    ],
)
def test_numbers_of_the_methods_reference(scores, options, losses, isa):
    with stope.isa.only(isa):
        if isinstance(scores, tuple):
            got = stope.infonce_forward(*scores, **options).losses
        else:
            axes = np.eye(scores.shape[1], dtype=np.float32)
            got = stope.infonce_forward(scores, axes, metric="dot", **options).losses
    if losses is None:
        np.testing.assert_allclose(np.mean(got), 0.00115851, atol=1e-8)
    else:
        np.testing.assert_allclose(got, losses, atol=2e-6, rtol=1e-6)


def test_gradients_of_the_methods_reference():
    options = {"metric": "dot", "temperature": 0.1}
    forward = stope.infonce_forward(TWO, AXES, **options)
    got = stope.infonce_backward(TWO, AXES, forward, **options)
    expected = [[-0.001677, 0.001677], [0.012363, -0.012363]]
    np.testing.assert_allclose(got.queries, expected, atol=6e-7)
    np.testing.assert_allclose(got.temperature, 0.0875927, atol=1e-7)
    options |= {"objective": "sigmoid", "bias": -10.0}
    forward = stope.infonce_forward(TWO, AXES, **options)
    got = stope.infonce_backward(TWO, AXES, forward, **options)
    expected = [[-3.65529, 0.00062], [0.00168, -4.40399]]
    np.testing.assert_allclose(got.queries, expected, atol=6e-6)
    np.testing.assert_allclose((got.temperature, got.bias), (68.1255, -0.805698), atol=1e-4)


@isas
def test_sums_are_short(isa):
    """Scores and the gradients of rows err by less than half of what one float32 sum would.

    At 240 elements, which no instruction set splits into bfloat16 parts, and documents that all
    have the same weight; products and sums are of like sign, where errors grow fastest.
    """
    rng = np.random.default_rng(0)
    queries = 0.5 + rng.random((64, 240), dtype=np.float32)
    documents = 0.5 + rng.random((4096, 240), dtype=np.float32)
    options = {"metric": "dot", "temperature": 1e4}
    with stope.isa.only(isa):
        forward = stope.infonce_forward(queries, documents, **options)
        gradients = stope.infonce_backward(queries, documents, forward, **options)
    wide = queries.astype(np.float64), documents.astype(np.float64)
    scores = (wide[0] * wide[1][:64]).sum(1)
    chain = np.cumsum(queries * documents[:64], axis=1, dtype=np.float32)[:, -1]
    _, expected = oracle.evaluate(queries, documents, **options)
    weights = np.full(4096, 1 / 4096 / 64, np.float32)
    one_sum = np.cumsum(weights[:, None] * documents, axis=0, dtype=np.float32)[-1]
    exact = (weights.astype(np.float64)[:, None] * wide[1]).sum(0)
    off = np.linalg.norm(forward.positive_scores - scores), np.linalg.norm(chain - scores)
    assert off[0] < off[1] / 2
    size = np.linalg.norm(exact) * 64**0.5  # of the sum before the positives are taken off
    error = np.linalg.norm(gradients.queries - expected.queries) * 1e4 / size
    assert error < np.linalg.norm(one_sum - exact) / np.linalg.norm(exact) / 2
