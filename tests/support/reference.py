"""The specification, slow and clear: a float64 oracle, and the canonical float32 score bit by bit.

Oracle: dot = q.x, cosine = q.x / (|q| |x|) with zero rows scoring 0, euclidean = -|q - x|;
selection by (score descending, id ascending). Canonical score (docs/concepts/exactness.md): 16
lanes, lane l
accumulates elements l, l + 16, ... from +0.0 with fused multiply-add, missing elements are zeros,
then lanes are added pairwise l + (l + 8), l + (l + 4), l + (l + 2), l + (l + 1).
"""

from __future__ import annotations

import numpy as np

LANES = 16
REASONS = ("positive", "excluded", "absolute_margin", "relative_margin", "max_score", "min_score")


# --- the float64 oracle ------------------------------------------------------------------------


def similarity(queries, corpus, metric="dot"):
    """Scores [num_queries, num_rows] in float64."""
    q, x = np.asarray(queries).astype(np.float64), np.asarray(corpus).astype(np.float64)
    if metric == "dot":
        return q @ x.T
    if metric == "cosine":
        return unit(q) @ unit(x).T
    assert metric == "euclidean", metric
    return -np.stack([np.sqrt(((row - x) ** 2).sum(axis=1)) for row in q])


def unit(rows):
    """Rows divided by their norm; a zero row stays zero."""
    norm = np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)


def error_bound(queries, corpus, metric="dot"):
    """A generous bound on |canonical - oracle| [num_queries, num_rows]."""
    q, x = np.asarray(queries).astype(np.float64), np.asarray(corpus).astype(np.float64)
    steps = (q.shape[1] + LANES - 1) // LANES + 8
    eps, tiny = 2.0**-24, q.shape[1] * 2.0**-148
    if metric == "dot":
        return steps * eps * (np.abs(q) @ np.abs(x).T) + tiny
    if metric == "cosine":
        return 3 * steps * eps * (np.abs(unit(q)) @ np.abs(unit(x)).T) + 1e-30
    distance = -similarity(q, x, "euclidean")
    return steps * eps * distance + q.shape[1] * 2.0**-74


# --- selection, on any matrix of scores --------------------------------------------------------


def ranking(scores):
    """All ids of one row of scores, best first; equal scores in ascending id."""
    return np.lexsort((np.arange(len(scores)), -scores))


def select(scores, k, *, exclude=None, ceiling=None, floor=None):
    """(scores float32, ids int64), each [num_queries, k]; missing places are -inf and -1."""
    top_scores = np.full((len(scores), k), -np.inf, np.float32)
    top_ids = np.full((len(scores), k), -1, np.int64)
    for row, row_scores in enumerate(scores):
        allowed = np.ones(len(row_scores), bool)
        if exclude is not None:
            allowed[list(exclude[row])] = False
        if ceiling is not None:
            allowed &= row_scores <= ceiling[row]
        if floor is not None:
            allowed &= row_scores >= floor[row]
        best = [i for i in ranking(row_scores) if allowed[i]][:k]
        top_ids[row, : len(best)] = best
        top_scores[row, : len(best)] = row_scores[best]
    return top_scores, top_ids


def merge(parts, k):
    """The top k of several (scores, ids) over disjoint chunks of the corpus."""
    scores = np.concatenate([part[0] for part in parts], axis=1)
    ids = np.concatenate([part[1] for part in parts], axis=1)
    order = np.stack([np.lexsort((i, -s)) for s, i in zip(scores, ids, strict=True)])[:, :k]
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(ids, order, axis=1)


def pool(
    scores,
    positives,
    end,
    *,
    exclude=(),
    absolute_margin=None,
    relative_margin=None,
    max_score=None,
    min_score=None,
    range_min=0,
    range_counts="eligible",
    most_positives=0,
):
    """One query: (eligible ids of ranks range_min to end, positive score, rejected by reason).

    A candidate is kept when score <= p - absolute_margin, score <= p - |p| relative_margin,
    score <= max_score and score >= min_score (equality kept), with p the smallest score of a
    positive. Scores above the ceiling count for the rule that sets it. `rejected` covers the
    corpus, or what is looked at: the range where raw ranks count, the best end + most_positives
    rows for a window. The floor counts only where candidates run out.
    """
    p = np.float64(min(scores[i] for i in positives))
    ceilings = {"absolute_margin": np.inf, "relative_margin": np.inf, "max_score": np.inf}
    if absolute_margin is not None:
        ceilings["absolute_margin"] = p - absolute_margin
    if relative_margin is not None:
        ceilings["relative_margin"] = p - abs(p) * relative_margin
    if max_score is not None:
        ceilings["max_score"] = max_score
    tightest = min(ceilings, key=ceilings.get)  # the first of equal ones

    def reason(i):
        if i in positives:
            return "positive"
        if i in exclude:
            return "excluded"
        if np.float64(scores[i]) > ceilings[tightest]:
            return tightest
        if min_score is not None and np.float64(scores[i]) < min_score:
            return "min_score"
        return None

    reasons = [(i, reason(i)) for i in ranking(scores)]
    if range_counts == "raw":
        reasons = reasons[range_min:end]
        inside = [i for i, why in reasons if why is None]
        ran_out = True
    elif range_counts == "window":
        reasons = reasons[: end + most_positives]
        inside = [i for i, why in reasons if why is None][range_min:end]
        ran_out = True
    else:
        eligible = [i for i, why in reasons if why is None]
        inside = eligible[range_min:end]
        ran_out = len(eligible) < min(end, len(scores))
    rejected = {name: sum(why == name for _, why in reasons) for name in REASONS}
    if not ran_out:
        rejected["min_score"] = 0
    return inside, p, rejected


def mine(scores, positives, num_negatives, *, exclude=None, range_min=0, range_max=None, **options):
    """Top mining over a matrix of scores: (ids, scores, positive_scores, counts, rejected)."""
    num_queries = len(scores)
    end = range_min + num_negatives
    if range_max is not None and options.get("range_counts") in ("raw", "window"):
        end = range_max
    most = max(map(len, positives))
    ids = np.full((num_queries, num_negatives), -1, np.int64)
    values = np.full((num_queries, num_negatives), -np.inf, np.float32)
    positive_scores = np.empty(num_queries, np.float32)
    counts = np.empty(num_queries, np.int64)
    rejected = {reason: np.empty(num_queries, np.int64) for reason in REASONS}
    for row in range(num_queries):
        excluded = () if exclude is None else exclude[row]
        inside, p, why = pool(
            scores[row],
            positives[row],
            end,
            exclude=excluded,
            range_min=range_min,
            most_positives=most,
            **options,
        )
        chosen = inside[:num_negatives]
        ids[row, : len(chosen)], values[row, : len(chosen)] = chosen, scores[row][chosen]
        positive_scores[row], counts[row] = p, len(chosen)
        for reason in REASONS:
            rejected[reason][row] = why[reason]
    return ids, values, positive_scores, counts, rejected


# --- the canonical float32 score, bit by bit ---------------------------------------------------


def fma(a, b, c):
    """float32 a * b + c rounded once.

    The product is exact in float64; the sum is rounded to odd there, which makes the second
    rounding, to float32, the correct one (53 >= 24 + 2 bits).
    """
    product, addend = np.multiply(a, b, dtype=np.float64), np.asarray(c, np.float64)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    even = (total.view(np.int64) & 1) == 0
    odd = np.nextafter(total, np.where(error > 0, np.inf, -np.inf))
    return np.where((error != 0) & even, odd, total).astype(np.float32)


def add_lanes(lanes):
    """Pairwise sum of the last axis of 16 lanes, in float32."""
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def blocks(rows):
    """float32 rows [n, dim] as [n, blocks, 16], padded with zeros."""
    rows = np.asarray(rows).astype(np.float32)
    padded = np.zeros((len(rows), -(-rows.shape[1] // LANES) * LANES), np.float32)
    padded[:, : rows.shape[1]] = rows
    return padded.reshape(len(rows), -1, LANES)


def accumulate(a, b, difference=False):
    """Lanes [..., 16] accumulated over the block axis of broadcastable [..., blocks, 16]."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    lanes = np.zeros((*shape[:-2], LANES), np.float32)
    for block in range(shape[-2]):
        left, right = a[..., block, :], b[..., block, :]
        if difference:
            left = right = left - right
        lanes = fma(left, right, lanes)
    return lanes


def dot(a, b):
    """Canonical dot product of paired rows [n, dim] -> [n]."""
    with np.errstate(all="ignore"):
        return add_lanes(accumulate(blocks(a), blocks(b)))


def canonical_unit(rows):
    """Rows as the cosine sees them: scaled by a power of two when extreme, times 1/norm."""
    rows = np.asarray(rows).astype(np.float32)
    largest = np.abs(rows).max(axis=1)
    exponent = np.frexp(largest)[1] - 1
    extreme = (largest < 2.0**-40) | (largest > 2.0**40)
    shift = np.where(extreme, np.clip(-exponent, -126, 126), 0)
    with np.errstate(all="ignore"):
        scaled = rows * np.ldexp(np.float32(1), shift)[:, None].astype(np.float32)
        inverse = np.float32(1) / np.sqrt(dot(scaled, scaled))
        return np.where(largest[:, None] > 0, scaled * inverse[:, None], np.float32(0))


def canonical_pairs(queries, corpus, metric="dot"):
    """Canonical scores of paired rows: queries [n, dim], corpus [n, dim] -> float32 [n]."""
    queries, corpus = np.asarray(queries), np.asarray(corpus)
    if queries.dtype == np.int8 and metric == "dot":
        return (queries.astype(np.int64) * corpus).sum(axis=1).astype(np.float32)
    if metric == "cosine":
        queries, corpus = canonical_unit(queries), canonical_unit(corpus)
    with np.errstate(all="ignore"):
        lanes = accumulate(blocks(queries), blocks(corpus), difference=metric == "euclidean")
        total = add_lanes(lanes)
        return -np.sqrt(total) if metric == "euclidean" else total


def canonical(queries, corpus, metric="dot"):
    """Canonical scores of all pairs, float32 [num_queries, num_rows]."""
    queries, corpus = np.asarray(queries), np.asarray(corpus)
    if queries.dtype == np.int8 and metric == "dot":
        return (queries.astype(np.int64) @ corpus.astype(np.int64).T).astype(np.float32)
    if metric == "cosine":
        queries, corpus = canonical_unit(queries), canonical_unit(corpus)
    q, x = blocks(queries), blocks(corpus)
    with np.errstate(all="ignore"):
        difference = metric == "euclidean"
        total = np.stack([add_lanes(accumulate(row[None], x, difference)) for row in q])
        return -np.sqrt(total) if difference else total


# --- comparison --------------------------------------------------------------------------------


def bits(scores):
    """float32 as its bit pattern, so that equality means every bit."""
    return np.ascontiguousarray(np.asarray(scores), dtype=np.float32).view(np.uint32)


def assert_same(got, expected, note=""):
    """Two (scores, ids) are equal: ids exactly, scores bit by bit."""
    np.testing.assert_array_equal(np.asarray(got[1]), expected[1], err_msg=f"ids {note}")
    np.testing.assert_array_equal(bits(got[0]), bits(expected[0]), err_msg=f"score bits {note}")
