"""The contrastive loss by CUDA kernels: on the emulated machine, and with `-m gpu` on a real one.

Against the float64 oracle within the tolerances of the CPU's tests, and against the CPU itself. The
emulated machine needs a build with STOPE_CUDA=EMULATED; memory is poisoned, and blocks, warps and
lanes run in several orders, which may not change a bit.
"""

from __future__ import annotations

import infonce_cases as cases
import numpy as np
import pytest
import reference_infonce as oracle
import wide_cases as wide
from devices import DEVICES, device_called
from infonce_cases import PRECISIONS, drawn, precisions
from infonce_checks import ACCURACY, backward_is_close, forward_is_close, is_accurate, same_bits
from infonce_on_device import check, moved, run

import stope


@pytest.fixture(params=DEVICES)
def device(request, monkeypatch):
    return device_called(request.param, monkeypatch)


@pytest.mark.parametrize("objective", oracle.OBJECTIVES)
@pytest.mark.parametrize("name", cases.NAMES)
def test_every_rule_and_objective(name, objective, device):
    if cases.goes_with(name, objective):
        *problem, expected = drawn(name, objective)
        check(device, *problem, expected)


@pytest.mark.parametrize("name", cases.NAMES)
def test_every_rule_on_exact_scores(name, device):
    """Cosines that no arithmetic rounds: masks, counts, ranks and ties are the oracle's."""
    queries, documents, options, upstream, expected = drawn(
        name, rows=20, count=45, dim=64, embed="signs"
    )
    for precision in PRECISIONS:
        given = options | {"precision": precision}
        got, _ = check(device, queries, documents, given, upstream, expected, precision)
        cpu = stope.infonce_forward(queries, documents, **given)
        for field in ("negatives", "ranks", "best_negatives", "positive_scores"):
            np.testing.assert_array_equal(getattr(got, field), getattr(cpu, field), field)
            if field != "positive_scores":
                truth = getattr(expected[0], field)
                np.testing.assert_array_equal(getattr(got, field), truth, field)
        # The state is the CPU's: what one computed forward the other takes backward.
        np.testing.assert_allclose(got.state, cpu.state, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("objective", oracle.OBJECTIVES)
@pytest.mark.parametrize("name", wide.RULES)
def test_logits_that_float32_cannot_tell_apart(name, objective, device):
    """The CPU's results, which are those of float64."""
    if not wide.goes_with(name, objective):
        return
    for size in (2.0**5, 2.0**12, 2.0 ** (14 if name == "focal" else 30)):
        queries, documents = wide.problem(size)
        options = {"metric": "dot", "temperature": 1.0, "objective": objective}
        options |= wide.RULES[name] | ({"beta": 0.5} if objective == "hardness" else {})
        got, back = run(device, queries, documents, options)
        expected = stope.infonce_forward(queries, documents, **options)
        by = stope.infonce_backward(queries, documents, expected, **options)
        np.testing.assert_allclose(got.losses, expected.losses, rtol=1e-6, atol=1e-5)
        np.testing.assert_array_equal(got.negatives, expected.negatives)
        for mine, theirs in ((back.queries, by.queries), (back.documents, by.documents)):
            assert np.linalg.norm(mine - theirs) <= 1e-5 * np.linalg.norm(theirs) + 1e-5 * size


def test_results_beyond_float32_are_refused(device):
    huge = np.full((1, 2), 2.0**61, np.float32)
    options = {"metric": "dot", "temperature": 1e-3, "positives": [0]}
    with pytest.raises(ValueError, match=r"losses\[0\] is beyond float32; raise temperature"):
        run(device, huge, np.concatenate([-huge, huge]), options)


SHAPES = [
    (rows, count, dim) for rows in (1, 7, 65) for count in (1, 40, 130) for dim in (1, 3, 33, 100)
]


@precisions
def test_small_ragged_shapes(precision, device):
    """Sizes on both sides of tiles and slabs."""
    for note, problem in cases.ragged(SHAPES):
        queries, documents, options, upstream, expected = problem
        given = options | {"precision": precision}
        check(device, queries, documents, given, upstream, expected, note)


@pytest.mark.parametrize(
    ("name", "rows", "count", "precision"),
    [
        ("everything", 10, 4110, "float32"),
        ("four directions", 2060, 12, "float32"),
        ("several weighted", 10, 4110, "bfloat16"),
    ],
)
def test_more_than_one_part(name, rows, count, precision, device):
    """More rows than 2,048, more columns than 4,096: sums go from part to part."""
    queries, documents, options, upstream = cases.undecided(name, "out", rows, count, 6)
    options = options | {"precision": precision}
    got, back = run(device, queries, documents, options, upstream)
    expected = stope.infonce_forward(queries, documents, **options)
    by = stope.infonce_backward(queries, documents, expected, upstream, **options)
    is_accurate(got, back, expected, by, options["temperature"], ACCURACY[precision])
    np.testing.assert_array_equal(got.negatives, expected.negatives)
    gradient = ACCURACY[precision][1]
    np.testing.assert_allclose(back.temperature, by.temperature, rtol=2 * gradient)


@precisions
@pytest.mark.parametrize("objective", oracle.OBJECTIVES)
def test_small_objectives_in_both_precisions(objective, precision, device):
    name = "plain" if objective in ("hardness", "pairwise") else "several weighted"
    queries, documents, options, upstream, expected = drawn(name, objective, 40, 90, 64)
    check(device, queries, documents, options | {"precision": precision}, upstream, expected)


@precisions
@pytest.mark.parametrize(
    "name", ["plain", "several weighted", "everything", "two ways of several", "queue with ids"]
)
def test_no_order_of_threads_changes_a_bit(name, precision, device, monkeypatch):
    """On a GPU the order is its own; four runs then."""
    queries, documents, options, upstream = cases.undecided(name, "out", 70, 130, 33)
    options = options | {"precision": precision}
    results = []
    for order in range(4):
        monkeypatch.setenv("STOPE_EMULATED_ORDER", str(order))
        results.append(run(device, queries, documents, options, upstream))
    for forward, gradients in results[1:]:
        same_bits(forward, results[0][0])
        same_bits(gradients, results[0][1])


@precisions
@pytest.mark.parametrize("temperature", [0.05, 0.01])
def test_accuracy(temperature, precision, device):
    """Positives that are not near their queries: losses of tens, every row on its own."""
    for dim in (24, 96, 384):
        rng, queries, documents = cases.problem(0, 30, 130, dim)
        options = {"temperature": temperature, "positives": rng.permutation(130)[:30]}
        expected, by = oracle.evaluate(queries, documents, **options)
        options["precision"] = precision
        got, back = run(device, queries, documents, options)
        is_accurate(got, back, expected, by, temperature, ACCURACY[precision], f"dim {dim}")
        np.testing.assert_allclose(back.temperature, by.temperature, rtol=ACCURACY[precision][1])


def test_the_cpu_goes_on_from_the_state_of_the_device(device):
    queries, documents, options, upstream, _ = drawn("everything", "hardness")
    there, _ = run(device, queries, documents, options, upstream)
    here = stope.infonce_forward(queries, documents, **options)
    got = stope.infonce_backward(queries, documents, there, upstream, **options)
    expected = stope.infonce_backward(queries, documents, here, upstream, **options)
    np.testing.assert_allclose(got.queries, expected.queries, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.documents, expected.documents, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_half_precision_rows_with_strides(metric, device):
    queries, documents, options, upstream, _ = drawn("plain")
    wide = np.zeros((2 * len(documents), documents.shape[1] + 7), np.float16)
    wide[::2, 3:-4] = documents
    narrow = queries.astype(np.float16)
    options = options | {"metric": metric, "temperature": 0.1 if metric == "cosine" else 33.0}
    expected = oracle.evaluate(narrow, wide[::2, 3:-4], upstream, **options)
    there = device.to(narrow), device.to(wide)[::2, 3:-4]
    forward = stope.infonce_forward(*there, **options)
    weights = device.to(upstream)
    back = stope.infonce_backward(*there, forward, weights, **options)
    forward = stope.InfoNCE(*(device.back(part) for part in forward))
    forward_is_close(forward, expected[0], options)
    back = back._replace(queries=device.back(back.queries), documents=device.back(back.documents))
    embeddings = narrow, wide[::2, 3:-4]
    backward_is_close(back, expected[1], embeddings, options, upstream)


def test_document_gradients_may_be_left_out(device):
    queries, documents, options, upstream, _ = drawn("four directions")
    whole = run(device, queries, documents, options, upstream)[1]
    half = run(device, queries, documents, options, upstream, document_gradients=False)[1]
    assert half.documents is None
    np.testing.assert_array_equal(half.queries, whole.queries)
    assert half.temperature == whole.temperature


def test_zero_rows_and_rows_of_extreme_length(device):
    """A zero row scores 0 and gets no gradient; a tiny or huge one is normalised as any other."""
    _, queries, documents = cases.problem(3, 9, 20, 16)
    queries[0] = documents[5] = 0
    plain = run(device, queries, documents, {"temperature": 0.1}, np.ones(9))
    assert np.all(plain[1].queries[0] == 0)
    assert np.all(plain[1].documents[5] == 0)
    queries[1] *= np.float32(2.0**-60)
    documents[6] *= np.float32(2.0**60)
    scaled = run(device, queries, documents, {"temperature": 0.1}, np.ones(9))
    np.testing.assert_array_equal(scaled[0].losses, plain[0].losses)
    np.testing.assert_allclose(
        scaled[1].documents[6] * np.float32(2.0**60), plain[1].documents[6], rtol=1e-5
    )


@pytest.mark.parametrize("name", ["queries", "documents", "queue", "guide_documents"])
def test_rows_that_are_not_finite_are_named(name, device):
    queries, documents, options, _, _ = drawn("everything")
    arrays = {"queries": queries.copy(), "documents": documents.copy(), **options}
    arrays[name] = arrays[name].copy()
    arrays[name][3, 1] = np.nan
    queries, documents = arrays.pop("queries"), arrays.pop("documents")
    with pytest.raises(ValueError, match=f"{name} has a NaN or an infinity in row 3"):
        run(device, queries, documents, arrays)
    run(device, *drawn("plain")[:3])  # and the next call is a fresh one


def test_bad_input_is_refused(device):
    queries, documents, options, upstream, _ = drawn("plain")
    upstream = upstream.copy()
    upstream[4] = np.inf
    with pytest.raises(ValueError, match=r"row_gradients\[4\] is"):
        run(device, queries, documents, options, upstream)
    with pytest.raises(ValueError, match=r"row_gradients has shape \(3,\)"):
        run(device, queries, documents, options, upstream[:3])
    with pytest.raises(ValueError, match="norm of 2\\^63"):
        run(device, queries, documents * np.float32(1e30), options | {"metric": "dot"})
    there = device.to(queries)
    with pytest.raises(ValueError, match="queries are on cuda:0 but documents is on cpu"):
        stope.infonce_forward(there, documents, **options)
    with pytest.raises(ValueError, match="queries are on cuda:0 but queue is on cpu"):
        stope.infonce_forward(there, device.to(documents), queue=documents, **options)


def test_progress_and_a_stop(device):
    queries, documents, options, _, _ = drawn("four directions")
    seen = []
    stope.infonce_forward(
        device.to(queries),
        device.to(documents),
        **moved(device, options),
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("objective", ["out", "sigmoid"])
@pytest.mark.parametrize("temperature", [0.001, 100.0])
def test_extreme_temperatures(temperature, objective, device):
    queries, documents, options, upstream, expected = drawn(
        "several weighted", objective, temperature=temperature
    )
    check(device, queries, documents, options, upstream, expected)


@precisions
@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("guided", [False, True])
def test_copies_of_the_positive_sit_on_a_margin_of_zero(guided, metric, precision, device):
    """The copy's score is the positive's bit by bit, though it comes from the tiles."""
    for rows, count, dim in ((5, 17, 3), (40, 90, 33)):
        queries, documents, options = cases.copies_of_positives(rows, count, dim, guided)
        options |= {"metric": metric, "precision": precision}
        for margin, kept in ((0.0, 1), (0.05, 0)):
            got, _ = run(device, queries, documents, options | {"absolute_margin": margin})
            np.testing.assert_array_equal(got.negatives, kept)
            np.testing.assert_array_equal(got.ranks, 1)


@precisions
def test_scores_on_a_limit_are_kept(precision, device):
    for queries, documents, options, negatives in cases.on_limits():
        got, _ = run(device, queries, documents, options | {"precision": precision})
        np.testing.assert_array_equal(got.negatives, negatives)


def test_all_negatives_masked(device):
    queries, documents, options, upstream, _ = drawn("plain")
    options = options | {"max_score": -1.0}
    got = run(device, queries, documents, options, upstream)
    assert np.all(got[0].losses == 0)
    assert np.all(got[0].negatives == 0)
    assert np.all(got[0].best_negatives == -1)
    assert np.all(got[1].queries == 0)
    assert np.all(got[1].documents == 0)


# --- stope.torch, which needs tensors on a real device -------------------------------------------


@pytest.mark.gpu
@precisions
def test_small_torch_losses(precision):
    torch = pytest.importorskip("torch", reason="the tests' CUDA arrays are torch's")
    from stope.torch import infonce

    found = []
    for device in ("cpu", "cuda"):
        _, queries, documents = cases.problem(0, 20, 40, 24)
        q, d = (
            torch.tensor(rows, device=device, requires_grad=True) for rows in (queries, documents)
        )
        temperature = torch.tensor(0.1, device=device, requires_grad=True)
        stream = torch.cuda.Stream() if device == "cuda" else None
        if stream is not None:
            stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            losses = infonce(q, d, temperature=temperature, precision=precision)
            losses.mean().backward()
        if stream is not None:
            stream.synchronize()
        parts = (losses.detach(), q.grad, d.grad, temperature.grad)
        assert all(part.device.type == device for part in parts)
        found.append([part.cpu().double() for part in parts])
    tolerance = 1e-5 if precision == "float32" else 2e-2
    for mine, other in zip(*found, strict=True):
        assert torch.linalg.vector_norm(mine - other) <= tolerance * torch.linalg.vector_norm(other)
