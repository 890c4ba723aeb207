"""infonce with `drop`: what is left out is what it may be, and the rest is as without."""

from __future__ import annotations

from functools import lru_cache

import infonce_cases as cases
import numpy as np
import pytest
import reference_infonce as oracle
from infonce_checks import FLOAT32, LOSS, forward_is_close, logit_size, same_bits

import stope
from stope.ops import _infonce_state

isas = pytest.mark.parametrize("isa", stope.isa.available())
ROWS, COUNT, DIM, TEMPERATURE = 260, 1100, 32, 0.02
STATE = stope._core.INFONCE_STATE
LEAST = 4  # the lowest logit that was kept, in a row's state
SIFTED = tuple(name for name in cases.NAMES if name != "focal")
OBJECTIVES = ("out", "in", "excl", "decoupled")


def sifted(queries, documents, options, upstream, drop):
    """(forward, gradients) with `drop`; some of every problem's gradients is left out."""
    options = options | {"drop": drop}
    forward = stope.infonce_forward(queries, documents, **options)
    gradients = stope.infonce_backward(queries, documents, forward, upstream, **options)
    assert (forward.kept < forward.negatives).any()
    assert (forward.left_out <= np.float32(drop)).all()
    return forward, gradients


# Rules that drop the nearest negatives leave flatter rows.
_FLAT = ("absolute margin", "relative margin", "limits", "limits of rows")


@lru_cache(maxsize=64)
def of_problem(name, objective="out", rows=ROWS, count=COUNT, temperature=TEMPERATURE):
    """(queries, documents, options, upstream, oracle's answer); scores keep off the limits."""
    temperature /= 5 if name in _FLAT else 1
    temperature *= DIM if name == "dot" else 1

    def make(seed):
        made = cases.undecided(name, objective, rows, count, DIM, "embeddings", temperature, seed)
        return *made, oracle.evaluate(*made[:2], made[3], **made[2])

    return cases.judged_clearly(make, lambda made: made[4][0], 3e-7)


def bounds_hold(problem, forward, gradients, drop):
    """Errors of the loss and of each gradient row are what was left out, and rounding."""
    queries, documents, options, upstream, (expected, by) = problem
    scale, dot = 1 / options["temperature"], options.get("metric") == "dot"
    size = logit_size(expected, options) * 1e-5
    left = forward.left_out.astype(np.float64)
    # By its scan, what is left out counts at most twice: the loss is off by less than its mass.
    loss = np.abs(forward.losses - expected.losses)
    assert (loss <= left + size + LOSS[FLOAT32] * np.abs(expected.losses)).all()
    several = options.get("partition") == "per_direction"
    gradient = np.abs(upstream) * scale * 2
    lengths = np.linalg.norm(queries, axis=1), np.linalg.norm(documents, axis=1)
    others = (lengths[1].max(), lengths[0].max()) if dot else (1.0, 1.0)
    inverse = (1.0, 1.0) if dot else (1 / lengths[0], 1 / lengths[1])
    error = [
        np.linalg.norm(mine - theirs, axis=1)
        for mine, theirs in ((gradients.queries, by.queries), (gradients.documents, by.documents))
    ]
    everyone = "directions" in options
    by_row = (gradient * (left + size)).sum() if everyone else gradient * (left + size)
    assert (error[0] <= by_row * others[0] * inverse[0] * (2 if several else 1)).all()
    total = (gradient * (left + size)).sum() * (2 if everyone else 1)
    assert (error[1] <= total * others[1] * inverse[1]).all()
    assert np.linalg.norm(gradients.queries - by.queries) <= 4 * drop * np.linalg.norm(by.queries)


@pytest.mark.parametrize(
    ("name", "objective"),
    [(name, "out") for name in SIFTED] + [("several weighted", name) for name in OBJECTIVES[1:]],
)
def test_every_rule(name, objective):
    problem = of_problem(name, objective)
    forward, gradients = sifted(*problem[:4], drop=1e-3)
    expected, options = problem[4][0], problem[2]
    np.testing.assert_array_equal(forward.negatives, expected.negatives)
    np.testing.assert_array_equal(forward.best_negatives, expected.best_negatives)
    bounds_hold(problem, forward, gradients, 1e-3)
    loose = forward._replace(losses=expected.losses.astype(np.float32))
    loose = loose._replace(log_sum_exp=expected.log_sum_exp.astype(np.float32))
    forward_is_close(loose, expected, options, name)


@isas
@pytest.mark.parametrize("precision", cases.PRECISIONS)
@pytest.mark.parametrize("drop", [1e-2, 1e-4])
def test_the_kept_are_those_above_a_level(isa, precision, drop):
    """Which, how many, their weights, and that the positives bear what the others do not."""
    queries, documents, options, upstream, (expected, _) = of_problem("several weighted")
    with stope.isa.only(isa):
        options = options | {"precision": precision}
        forward, gradients = sifted(queries, documents, options, upstream, drop)
    logits = expected.scores / options["temperature"]
    least = forward.state[: ROWS * STATE].reshape(ROWS, STATE)[:, LEAST]
    kept = expected.kept & (logits >= least[:, None])
    near = expected.kept & (np.abs(logits - least[:, None]) < 1e-3)
    assert (np.abs(kept.sum(1) - forward.kept) <= near.sum(1)).all()
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    mass = (shifted * expected.kept).sum(1)
    out = (shifted * (expected.kept & ~kept)).sum(1) / mass
    assert (out <= forward.left_out * (1 + 1e-4) + 1e-9).all()
    assert (forward.left_out <= drop).all()
    assert (out >= 0.2 * drop)[forward.kept > 50].mean() > 0.5  # and as much as may be, nearly
    # The gradient of the scores, from those that were kept alone.
    own = oracle.id_lists(options["positives"], ROWS)
    weights = np.split(options["positive_weights"], np.cumsum([len(row) for row in own])[:-1])
    scores = np.zeros_like(logits)
    for row in range(ROWS):
        if not len(own[row]):
            continue
        p = np.exp(logits[row] - expected.log_sum_exp[row])
        scores[row] = p * kept[row]
        share = oracle.raw(weights[row]) / oracle.raw(weights[row]).sum()
        scores[row, own[row]] = p[own[row]] - share + out[row] * share * p[expected.kept[row]].sum()
        assert abs(scores[row].sum()) < 1e-9
    scores *= upstream[:, None] / options["temperature"]
    blocks = oracle.Blocks(queries, documents, own, "cosine")
    to_queries = oracle.through_unit(queries, scores @ blocks.documents)
    to_documents = oracle.through_unit(documents, scores.T @ blocks.queries)
    for mine, theirs in ((gradients.queries, to_queries), (gradients.documents, to_documents)):
        assert np.linalg.norm(mine - theirs) <= (5e-5 + 0.02 * drop) * np.linalg.norm(theirs)


@pytest.mark.parametrize("name", ["plain", "everything", "several weighted", "guide", "qwen3"])
def test_same_bits_on_every_isa_and_any_threads(name):
    problem = of_problem(name)[:4]
    found = []
    for isa in stope.isa.available():
        for threads in (1, 3):
            before = stope.get_num_threads()
            stope.set_num_threads(threads)
            try:
                with stope.isa.only(isa):
                    found.append(sifted(*problem, drop=1e-3))
            finally:
                stope.set_num_threads(before)
    rules = problem[2]
    sizes = stope.InfoNCE._fields.index("state")
    for forward, gradients in found[1:]:
        if "guide_queries" in rules:  # whose scores are those of the instruction set
            np.testing.assert_allclose(gradients.queries, found[0][1].queries, rtol=0, atol=1e-3)
            continue
        for mine, theirs in zip(forward[:sizes], found[0][0][:sizes], strict=True):
            np.testing.assert_array_equal(mine, theirs)
        same_bits(gradients, found[0][1])


@pytest.mark.parametrize("name", ["plain", "everything", "log weights", "own hard", "queue"])
def test_remembered_or_found_again(name, monkeypatch):
    queries, documents, options, upstream, _ = of_problem(name)
    remembered, gradients = sifted(queries, documents, options, upstream, 1e-3)
    assert remembered.state.size > STATE * ROWS
    monkeypatch.setattr(_infonce_state, "_MOST", 0)
    again, other = sifted(queries, documents, options, upstream, 1e-3)
    assert again.state.size == STATE * ROWS
    np.testing.assert_array_equal(again.state, remembered.state[: STATE * ROWS])
    same_bits(other, gradients)


def test_too_little_memory_is_found_again_slab_by_slab(monkeypatch):
    queries, documents, options, upstream, _ = of_problem("plain")
    _, gradients = sifted(queries, documents, options, upstream, 1e-3)
    monkeypatch.setattr(_infonce_state, "_SHARE", 60)
    _, other = sifted(queries, documents, options, upstream, 1e-3)
    same_bits(other, gradients)


@pytest.mark.parametrize("drop", [1e-3, 0.5, 0.99])
def test_columns_in_the_worst_order(drop):
    """The mass comes last, or evenly from a thousand columns that are all alike."""
    rng = np.random.default_rng(5)
    queries = cases.embeddings(rng, 256, DIM)
    far, near = cases.embeddings(rng, 3000, DIM), queries[rng.integers(256, size=2000)]
    near = near + 0.7 * cases.embeddings(rng, 2000, DIM)
    alike = np.repeat(cases.embeddings(rng, 1, DIM), 1500, 0)
    documents = np.concatenate([queries, far, alike, near])
    options = {"temperature": 0.02, "drop": drop}
    forward = stope.infonce_forward(queries, documents, **options)
    expected = oracle.forward(queries, documents, temperature=0.02)
    logits = expected.scores / 0.02
    least = forward.state[: 256 * STATE].reshape(256, STATE)[:, LEAST]
    shifted = np.exp(logits - logits.max(1, keepdims=True)) * expected.kept
    out = (shifted * (logits < least[:, None] - 1e-4)).sum(1) / shifted.sum(1)
    assert (out <= forward.left_out + 1e-9).all()
    assert (forward.left_out <= np.float32(drop)).all()
    np.testing.assert_array_equal(forward.best_negatives, expected.best_negatives)
    assert (np.abs(forward.losses - expected.losses) <= forward.left_out + 1e-4).all()


def test_a_level_that_was_too_high_is_mended():
    """Columns just below the first level use up what may go, and as many follow."""
    rng = np.random.default_rng(9)
    drop, count, crowd, temperature = 1e-2, 20_000, 2_460, 0.02
    level = 0.9 + temperature * np.log(16 * drop / count)
    cosines = np.full(count, 0.1) + rng.uniform(-0.1, 0.1, count)
    cosines[256] = 0.9
    near = rng.uniform(0.4, 0.6, crowd)
    cosines[rng.permutation(np.arange(600, count))[:crowd]] = level - near * temperature
    across = rng.standard_normal((count, DIM - 1))
    across *= np.sqrt(1 - cosines**2)[:, None] / np.linalg.norm(across, axis=1, keepdims=True)
    documents = np.concatenate([cosines[:, None], across], axis=1).astype(np.float32)
    queries = np.zeros((256, DIM), np.float32)
    queries[:128, 1] = queries[128:, 0] = 1  # the sample, which decides, takes the first
    documents[257] = 0.9 * queries[0] + 0.4 * queries[-1]
    options = {"temperature": temperature, "drop": drop}
    forward = stope.infonce_forward(queries, documents, **options)
    logits = (queries[-1:].astype(np.float64) @ oracle.unit(oracle.raw(documents)).T)[
        0
    ] / temperature
    least = forward.state[: 256 * STATE].reshape(256, STATE)[:, LEAST]
    assert (forward.kept < 0.2 * count).all()
    for row in range(128, 256, 17):
        masses = np.exp(logits - logits.max())
        masses[row] = 0
        out = masses[logits < least[row] - 1e-4].sum() / masses.sum()
        assert 0.3 * drop < out <= forward.left_out[row] <= np.float32(drop)


@pytest.mark.parametrize("name", ["log weights", "own hard"])
def test_the_best_score_with_a_low_logit(name):
    """Weights of logits that turn the order of scores round."""
    queries, documents, options, upstream, _ = of_problem(name, temperature=0.005)
    rng = np.random.default_rng(1)
    if name == "log weights":
        options = options | {"log_weights": rng.uniform(-120, 0, COUNT).astype(np.float32)}
    else:
        nearest = stope.topk(queries, documents, 3, metric="cosine").ids
        near = [row[row != own] for row, own in zip(nearest, options["positives"], strict=True)]
        options = options | {"hard_negatives": near, "hard_negative_log_weight": -120.0}
    forward, _ = sifted(queries, documents, options, upstream, 1e-3)
    plain = stope.infonce_forward(queries, documents, **options)
    for field in ("negatives", "best_negatives", "ranks"):
        np.testing.assert_array_equal(getattr(forward, field), getattr(plain, field), field)


@pytest.mark.parametrize("drop", [1e-3, 0.5, 0.99])
def test_flat_rows_beside_steep_ones(drop):
    """A query of zeros scores 0 everywhere: its level must not pass over its best."""
    queries, documents, options, upstream, _ = of_problem("plain")
    queries = queries.copy()
    queries[::100] = 0
    forward, _ = sifted(queries, documents, options, upstream, drop)
    plain = stope.infonce_forward(queries, documents, **options)
    for field in ("negatives", "best_negatives", "ranks"):
        np.testing.assert_array_equal(getattr(forward, field), getattr(plain, field), field)
    assert (np.abs(forward.losses - plain.losses) <= forward.left_out + 1e-4).all()


def test_ties_at_the_level_are_kept_or_left_out_together():
    rng = np.random.default_rng(2)
    queries, base = cases.embeddings(rng, 256, DIM), cases.embeddings(rng, 400, DIM)
    documents = np.concatenate([queries, base, base, base])
    options = {"temperature": 0.02, "drop": 1e-2}
    forward = stope.infonce_forward(queries, documents, **options)
    gradients = stope.infonce_backward(queries, documents, forward, **options).documents
    copies = gradients[256:].reshape(3, 400, DIM)
    np.testing.assert_array_equal(copies[0], copies[1])
    np.testing.assert_array_equal(copies[0], copies[2])


def test_gradients_of_a_row_sum_to_zero():
    """All documents share their last number: its gradient is the sum of a query's weights."""
    queries, documents, options, _, _ = of_problem("plain")
    documents = np.concatenate([documents, np.ones((COUNT, 1), np.float32)], axis=1)
    queries = np.concatenate([queries, np.zeros((ROWS, 1), np.float32)], axis=1)
    options = options | {"metric": "dot", "temperature": 1.0}
    for objective in OBJECTIVES:
        _, gradients = sifted(queries, documents, options | {"objective": objective}, None, 1e-2)
        largest = np.abs(gradients.queries).max()
        assert np.abs(gradients.queries[:, -1]).max() < 1e-5 * largest


@pytest.mark.parametrize(
    ("rows", "count", "temperature"), [(300, 1200, 1.0), (255, 1200, 0.02), (300, 900, 0.02)]
)
def test_nothing_is_left_out_where_it_does_not_pay(rows, count, temperature):
    queries, documents, options, upstream = cases.undecided(
        "plain", "out", rows, count, DIM, temperature=temperature
    )
    plain = stope.infonce_forward(queries, documents, **options)
    same = stope.infonce_forward(queries, documents, **options, drop=1e-3)
    same_bits(same._replace(state=plain.state), plain)
    np.testing.assert_array_equal(same.kept, same.negatives)
    assert not same.left_out.any()
    gradients = stope.infonce_backward(queries, documents, same, upstream, **options, drop=1e-3)
    same_bits(gradients, stope.infonce_backward(queries, documents, plain, upstream, **options))


@pytest.mark.parametrize("memory", [True, False])
def test_rows_without_gradient_beside_large_logits(memory, monkeypatch):
    """e^logit is beyond float32: what has no weight must not become NaN."""
    queries, documents, options, upstream, _ = of_problem("several", temperature=0.005)
    if not memory:
        monkeypatch.setattr(_infonce_state, "_MOST", 0)
    upstream = upstream.copy()
    upstream[::3] = 0
    _, gradients = sifted(queries, documents, options, upstream, 1e-3)
    assert not gradients.queries[::3].any()
    assert np.isfinite(gradients.queries).all()
    assert np.isfinite(gradients.documents).all()
    by = oracle.backward(queries, documents, upstream, **options)
    assert np.linalg.norm(gradients.documents - by.documents) < 4e-3 * np.linalg.norm(by.documents)


def test_two_ways_sum_what_they_keep():
    queries, documents, options, upstream, _ = of_problem("two ways of several")
    forward, _ = sifted(queries, documents, options, upstream, 1e-3)
    plain = stope.infonce_forward(queries, documents, **options)
    np.testing.assert_array_equal(plain.kept, plain.negatives)
    assert forward.kept.sum() < plain.kept.sum() / 2
    assert forward.left_out.max() > 0


def test_memory_mapped_half_precision_and_strides(tmp_path):
    queries, documents, options, upstream, _ = of_problem("plain")
    halves = documents.astype(np.float16)
    np.save(tmp_path / "d.npy", halves)
    mapped = np.load(tmp_path / "d.npy", mmap_mode="r")
    wide = np.repeat(halves.astype(np.float32), 2, axis=0)[::2]
    first = sifted(queries, mapped, options, upstream, 1e-3)
    second = sifted(queries, wide, options, upstream, 1e-3)
    same_bits(first[1], second[1])


def test_progress_and_interruption():
    queries, documents, options, _, _ = of_problem("plain")
    seen = []
    stope.infonce_forward(
        queries, documents, **options, drop=1e-3, progress=lambda *at: seen.append(at)
    )
    assert seen[-1][0] == seen[-1][1]

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stope.infonce_forward(queries, documents, **options, drop=1e-3, progress=stop)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"objective": "sigmoid"}, "drop is 0.01, a share of a softmax over plain logits"),
        ({"objective": "hardness", "beta": 0.5}, "objective 'hardness' has none"),
        ({"objective": "pairwise"}, "objective 'pairwise' has none"),
        ({"focal_margin": 0.2}, "focal_margin has none"),
    ],
)
def test_what_has_no_plain_softmax_is_refused(options, said):
    queries = cases.embeddings(np.random.default_rng(0), 8, 4)
    with pytest.raises(ValueError, match=said):
        stope.infonce_forward(queries, queries, drop=0.01, **options)


@pytest.mark.parametrize("drop", [-0.1, 1.0, 2, float("nan")])
def test_a_share_is_at_least_0_and_below_1(drop):
    queries = cases.embeddings(np.random.default_rng(0), 8, 4)
    with pytest.raises(ValueError, match="drop"):
        stope.infonce_forward(queries, queries, drop=drop)


def test_a_row_that_is_not_finite_is_named():
    queries, documents, options, _, _ = of_problem("plain")
    documents = documents.copy()
    documents[7, 3] = np.nan
    with pytest.raises(ValueError, match="documents has a NaN or an infinity in row 7"):
        stope.infonce_forward(queries, documents, **options, drop=1e-3)


@isas
@pytest.mark.parametrize("drop", [0.0, 1e-3])
def test_products_below_normal_numbers_are_zeros(isa, drop):
    """Encoders have dimensions of 1e-33; on some processors each such sum takes 100 cycles."""
    rng = np.random.default_rng(3)
    queries, documents = (rng.standard_normal((n, 48)).astype(np.float32) for n in (300, 1200))
    documents[:300] = queries + np.float32(0.5) * documents[:300]
    tiny = slice(None, None, 7)
    for matrix in (queries, documents):
        matrix[:, tiny] *= np.float32(1e-33)
    options = {"metric": "dot", "temperature": 1.0, "drop": drop}
    with stope.isa.only(isa):
        forward = stope.infonce_forward(queries, documents, **options)
        gradients = stope.infonce_backward(queries, documents, forward, **options)
    assert (forward.kept < forward.negatives).any() == (drop > 0)
    negatives = np.abs(gradients.documents[300:, tiny])
    normal = negatives >= np.finfo(np.float32).tiny
    assert (normal | (negatives == 0)).all()
    assert normal.any()
    assert np.float32(1e-38) * np.float32(0.5) > 0  # in this thread, which the call has used
    expected = oracle.evaluate(queries, documents, metric="dot", temperature=1.0)[1].documents
    np.testing.assert_allclose(
        gradients.documents[300:, tiny], expected[300:, tiny], rtol=0, atol=1e-3 * 1e-33
    )
