"""How near the contrastive loss must come to its oracle (docs/methods.md, H11), field by field."""

from __future__ import annotations

import numpy as np
import reference_infonce as oracle
from reference import bits

FLOAT32, BFLOAT16 = "float32", "bfloat16"
LOSS = {FLOAT32: 1e-6, BFLOAT16: 2e-3}  # times the logits' size
GRADIENT = {FLOAT32: 1e-5, BFLOAT16: 2e-2}  # of the gradient's norm
# AMX adds up products of bfloat16 parts: 2^-18 where float32 itself is within 2^-20.
SCORE = {FLOAT32: 2e-6, BFLOAT16: 1e-2}

# Largest |loss - oracle| in units of 1 / temperature, and largest relative error of a gradient.
# H11 asks 1e-6 and 1e-5 of float32: AMX, which adds up products of bfloat16 parts from dim 256 on,
# misses the first by a factor of up to 1.7 there.
ACCURACY = {FLOAT32: (1e-6, 1e-5), BFLOAT16: (4e-3, 2e-2)}
ACCURACY_AMX = {FLOAT32: (2e-6, 1e-5), BFLOAT16: (4e-3, 2e-2)}


def is_accurate(got, gradients, expected, by, temperature, accuracy, note=""):
    """Losses row by row and both matrices of gradients norm-wise, within `accuracy`."""
    loss, gradient = accuracy
    assert np.abs(got.losses - expected.losses).max() * temperature <= loss, note
    for mine, theirs in ((gradients.queries, by.queries), (gradients.documents, by.documents)):
        assert np.linalg.norm(mine - theirs) <= gradient * np.linalg.norm(theirs), note


def logit_size(expected, options):
    """How large a logit may be, which is what its rounding error grows with."""
    largest = max(1.0, np.abs(expected.scores).max())
    size = largest / options.get("temperature", 0.05) + options.get("hardness_strength", 0.0)
    if options.get("focal_margin") is not None:
        size *= 2 * largest + options["focal_margin"]
    return max(1.0, size) * (1 + 2 * options.get("beta", 0.0))


def forward_is_close(got, expected, options, note=""):
    """Every field of a stope.InfoNCE against the oracle's, statistics and all."""
    precision = options.get("precision", FLOAT32)
    rows = len(expected.losses)
    atol = LOSS[precision] * logit_size(expected, options)
    rtol = LOSS[precision] * max(10, logit_size(expected, options))
    asked = expected.ranks > 0  # rows with positives
    close = np.testing.assert_allclose
    for field in got[:2] + got[2:3] + got[5:6]:
        assert np.asarray(field).dtype == np.float32
    for field in (got.negatives, got.best_negatives, got.ranks):
        assert np.asarray(field).dtype == np.int64
    close(got.losses, expected.losses, rtol=rtol, atol=atol, err_msg=f"losses {note}")
    np.testing.assert_array_equal(np.asarray(got.losses)[~asked], 0, err_msg=f"losses {note}")
    z = np.asarray(got.log_sum_exp)[asked]
    close(z, expected.log_sum_exp[asked], rtol=rtol, atol=atol, err_msg=f"log_sum_exp {note}")
    score = SCORE[precision] * max(1.0, np.abs(expected.scores).max())
    close(
        got.positive_scores,
        expected.positive_scores,
        rtol=0,
        atol=score,
        err_msg=f"positive_scores {note}",
    )
    np.testing.assert_array_equal(got.negatives, expected.negatives, err_msg=f"negatives {note}")
    best, best_scores = np.asarray(got.best_negatives), np.asarray(got.best_negative_scores)
    nothing = expected.best_negatives < 0
    np.testing.assert_array_equal(best < 0, nothing, err_msg=f"best_negatives {note}")
    assert (best_scores[nothing] == -np.inf).all(), note
    close(
        best_scores[~nothing],
        expected.best_negative_scores[~nothing],
        rtol=0,
        atol=score,
        err_msg=f"best_negative_scores {note}",
    )
    for row in np.flatnonzero(~nothing):
        assert expected.kept[row, best[row]], f"row {row}: {best[row]} is no negative {note}"
        short = expected.best_negative_scores[row] - expected.scores[row, best[row]]
        assert short <= score, f"row {row}: {best[row]} is {short} below the best {note}"
    ranks_are_close(np.asarray(got.ranks), expected, options, score, note)
    assert np.asarray(got.state).dtype == np.float64
    assert got.losses.shape == (rows,)


def ranks_are_close(ranks, expected, options, score, note):
    """Negatives within rounding of the best positive may or may not rank before it."""
    owners = oracle.id_lists(options.get("positives", np.arange(len(ranks))), len(ranks))
    for row, own in enumerate(owners):
        if len(own) == 0:
            assert ranks[row] == 0, f"row {row} has no positive {note}"
            continue
        kept = expected.scores[row][expected.kept[row]]
        best = expected.scores[row, own].max()
        low, high = 1 + (kept > best + score).sum(), 1 + (kept > best - score).sum()
        assert low <= ranks[row] <= high, f"row {row}: rank {ranks[row]}, not {low}..{high} {note}"


def backward_is_close(got, expected, embeddings, options, upstream=None, note=""):
    """Every field of a stope.InfoNCEGradients against the oracle's; norm-wise."""
    queries, documents = (oracle.raw(rows) for rows in embeddings)
    scale = 1 / options.get("temperature", 0.05)
    precision = options.get("precision", FLOAT32)
    upstream = np.full(len(queries), 1 / len(queries)) if upstream is None else upstream
    weight = np.linalg.norm(oracle.raw(upstream))
    dot = options.get("metric", "cosine") == "dot"
    largest = max(1.0, np.abs(oracle.raw(queries) @ documents.T).max()) if dot else 1.0
    sums = len(documents) if options.get("objective") in ("pairwise", "sigmoid") else 1
    # A score's error moves e^(s S) by s times as much.
    rtol = GRADIENT[precision] * max(1.0, scale * largest / 15)
    for name, rows, others in (("queries", queries, documents), ("documents", documents, queries)):
        mine, theirs = np.asarray(getattr(got, name)), getattr(expected, name)
        assert mine.dtype == np.float32
        assert mine.shape == theirs.shape
        assert np.isfinite(mine).all(), f"{name} {note}"
        norms = np.linalg.norm(rows, axis=1)
        # The rounding of what cancels in a row: as large as its terms are.
        term = np.linalg.norm(others, axis=1).max() if dot else 1 / norms[norms > 0].min(initial=1)
        atol = 0.02 * rtol * scale * weight * term * sums
        error = np.linalg.norm(mine - theirs)
        bound = rtol * np.linalg.norm(theirs) + atol
        assert error <= bound, f"{name}: error {error:.3g}, allowed {bound:.3g} {note}"
    size = np.abs(oracle.raw(upstream)).sum()
    by_temperature = rtol * (abs(expected.temperature) + size * largest * scale**2)
    error = abs(got.temperature - expected.temperature)
    assert error <= by_temperature, f"temperature {got.temperature} {expected.temperature} {note}"
    error = abs(got.bias - expected.bias)
    assert error <= rtol * (abs(expected.bias) + size), f"bias {got.bias} {expected.bias} {note}"
    assert isinstance(got.temperature, float)
    assert isinstance(got.bias, float)


def check(queries, documents, options, upstream=None, note="", expected=None):
    """stope's forward and backward against the oracle's; returns stope's."""
    import stope

    if expected is None:
        expected = oracle.evaluate(queries, documents, upstream, **options)
    forward = stope.infonce_forward(queries, documents, **options)
    given = None if upstream is None else np.asarray(upstream, np.float32)
    gradients = stope.infonce_backward(queries, documents, forward, given, **options)
    forward_is_close(forward, expected[0], options, note)
    backward_is_close(gradients, expected[1], (queries, documents), options, upstream, note)
    return forward, gradients


def same_bits(got, expected, note=""):
    """Two results of the same call: every field, every bit."""
    for name, mine, theirs in zip(got._fields, got, expected, strict=True):
        mine, theirs = np.asarray(mine), np.asarray(theirs)
        assert mine.dtype == theirs.dtype
        if mine.dtype == np.float32:
            mine, theirs = bits(mine), bits(theirs)
        np.testing.assert_array_equal(mine, theirs, err_msg=f"{name} {note}")
