"""The contrastive loss, slow and clear: every score materialised in float64, one row at a time.

Row i has the logits l = s S of its positives P_i (weights y, Y = y / sum y) and of its negatives,
from up to four blocks of scores: query to document (and queue), query to query, document to query,
document to document. `row_loss` turns them into the loss and its derivatives; `evaluate` collects
them and chains them to the embeddings. Formulas: docs/methods.md, H, C6 to C8, D18, E3
to E5, B1.

Where the field leaves a choice, this file makes it:
- "in" ignores positive weights; "sigmoid" multiplies by y itself, the others by Y; "pairwise" and
  "sigmoid" are sums over the negatives, not means.
- log_sum_exp: the whole partition for out, in, excl (positives and negatives), negatives alone for
  "decoupled", log(positive + Ng) for "hardness"; of query to document alone under "per_direction".
- A row's own pair in the document to query block is one more negative that nothing drops; it
  counts as one.
- The queue is scored by query to document alone; log_weights of its columns are 0.
- foreign_hard_negatives=False drops columns of query to document and of document to document,
  documents_see_hard_negatives=False of the latter alone; what answers any query stays.
- Focal logits are taken in every block; log-weights are part of the logit that beta multiplies.
- Without a margin or limit a guide drops nothing.
- Where "hardness" is clamped, log Ng is a constant, in the temperature too.
- Rows without positives: loss, log_sum_exp and rank 0; margins drop nothing there.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from reference import unit

QD, QQ = "query_to_document", "query_to_query"
DQ, DD = "document_to_query", "document_to_document"
OBJECTIVES = ("out", "in", "excl", "decoupled", "hardness", "pairwise", "sigmoid")


class InfoNCE(NamedTuple):
    """As stope.InfoNCE, in float64; `scores` and `kept` [M, N + K]: query to document.

    `gap`: how near a score came to the limit that would drop it.
    """

    losses: np.ndarray
    log_sum_exp: np.ndarray
    positive_scores: np.ndarray
    negatives: np.ndarray
    best_negatives: np.ndarray
    best_negative_scores: np.ndarray
    ranks: np.ndarray
    scores: np.ndarray
    kept: np.ndarray
    gap: float


class Gradients(NamedTuple):
    """As stope.InfoNCEGradients; `scores` is the gradient of the query to document block's S."""

    queries: np.ndarray
    documents: np.ndarray
    temperature: float
    bias: float
    scores: np.ndarray


# --- one row -----------------------------------------------------------------------------------


def log_sum_exp(logits):
    """log sum exp, -inf for no logits."""
    if len(logits) == 0:
        return -np.inf
    largest = logits.max()
    return largest + np.log(np.exp(logits - largest).sum())


def softplus(x):
    """log(1 + e^x)."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x):
    """1 / (1 + e^-x)."""
    return np.exp(-softplus(-np.asarray(x, np.float64)))


def row_loss(objective, positive, weights, negative, scale=1.0, beta=0.0, prior=0.0, detach=False):
    """(loss, log_sum_exp, dL/d positive logits, dL/d negative logits) of one row."""
    share = weights / weights.sum()
    whole = log_sum_exp(np.concatenate([positive, negative]))
    rest = log_sum_exp(negative)
    if objective == "in" or (objective == "out" and len(positive) == 1):  # without cancellation
        own = log_sum_exp(positive)
        gradient = -sigmoid(rest - own) * np.exp(positive - own)
        return softplus(rest - own), whole, gradient, np.exp(negative - whole)
    if objective == "out":
        gradient = np.exp(positive - whole) - share
        return whole - share @ positive, whole, gradient, np.exp(negative - whole)
    if objective == "excl":
        missed = sigmoid(rest - positive)
        loss = share @ softplus(rest - positive)
        return loss, whole, -share * missed, (share @ missed) * np.exp(negative - rest)
    if objective == "decoupled":
        if len(negative) == 0:
            return 0.0, -np.inf, np.zeros_like(positive), negative
        return rest - share @ positive, rest, -share, np.exp(negative - rest)
    if objective == "pairwise":
        pairs = sigmoid(negative - positive)
        total = softplus(negative - positive).sum()
        return total, total, np.array([-pairs.sum()]), pairs
    if objective == "sigmoid":
        total = softplus(negative).sum()
        loss = weights @ softplus(-positive) + total
        return loss, total, -weights * sigmoid(-positive), sigmoid(negative)
    assert objective == "hardness", objective
    return hardness_loss(positive, negative, scale, beta, prior, detach)


def hardness_loss(positive, negative, scale, beta, prior, detach):
    """E3: negatives weighted by e^(beta l), the positive's share taken off, clamped from below."""
    count = len(negative)
    if count == 0:
        return 0.0, positive[0], np.zeros(1), negative
    harder, weighting = log_sum_exp((1 + beta) * negative), log_sum_exp(beta * negative)
    log_reweighted = harder - weighting + np.log(count)
    d_negative = (1 + beta) * np.exp((1 + beta) * negative - harder)
    d_negative -= beta * np.exp(beta * negative - weighting)
    if detach:
        d_negative = np.exp((1 + beta) * negative - harder)
    # Ng = (R - prior N e^p) / (1 - prior); `taken` is the part of R that the positives explain.
    log_taken = -np.inf if prior == 0 else np.log(prior * count) + positive[0] - log_reweighted
    log_ng, d_positive, floor = -np.inf, 0.0, np.log(count) - scale
    if log_taken < 0:
        taken = np.exp(log_taken)
        log_ng = log_reweighted + np.log1p(-taken) - np.log1p(-prior)
        d_negative, d_positive = d_negative / (1 - taken), -taken / (1 - taken)
    if log_ng < floor:
        log_ng, d_negative, d_positive = floor, np.zeros(count), 0.0
    missed = sigmoid(log_ng - positive[0])
    loss = softplus(log_ng - positive[0])
    return loss, positive[0] + loss, np.array([missed * (d_positive - 1)]), missed * d_negative


# --- what the options mean ---------------------------------------------------------------------


def id_lists(value, rows):
    """Ids per row of one id per row, [rows, n], a sequence of ids, or CSR (offsets, ids)."""
    if value is None:
        return [np.zeros(0, np.int64) for _ in range(rows)]
    if isinstance(value, tuple) and len(value) == 2 and np.ndim(value[0]) == 1:
        offsets, ids = (np.asarray(part, np.int64) for part in value)
        return [ids[a:b] for a, b in pairwise(offsets)]
    return [np.atleast_1d(np.asarray(row, np.int64)) for row in value]


def raw(rows):
    """Any float array as float64 [n, dim]."""
    return np.asarray(rows).astype(np.float64)


class Blocks:
    """The scores of every block, and which columns of every row are kept as negatives."""

    def __init__(self, queries, documents, positives, metric, queue=None):
        prepare = unit if metric == "cosine" else np.asarray
        self.queries, self.documents = prepare(raw(queries)), prepare(raw(documents))
        self.columns = self.documents
        if queue is not None:
            self.columns = np.concatenate([self.documents, prepare(raw(queue))])
        self.anchors = np.array([row[0] if len(row) else 0 for row in positives], np.int64)
        anchors = self.documents[self.anchors]
        self.scores = {
            QD: self.queries @ self.columns.T,
            QQ: self.queries @ self.queries.T,
            DQ: anchors @ self.queries.T,
            DD: anchors @ self.documents.T,
        }

    def chain(self, gradients):
        """Gradients of the prepared queries and documents from those of every block's scores."""
        to_queries = gradients[QD] @ self.columns
        to_documents = (gradients[QD].T @ self.queries)[: len(self.documents)]
        anchors = self.documents[self.anchors]
        to_queries += (gradients[QQ] + gradients[QQ].T) @ self.queries + gradients[DQ].T @ anchors
        np.add.at(to_documents, self.anchors, gradients[DQ] @ self.queries)
        np.add.at(to_documents, self.anchors, gradients[DD] @ self.documents)
        return to_queries, to_documents + gradients[DD].T @ anchors


def through_unit(rows, gradient):
    """The gradient of rows from that of rows / |rows|; 0 for zero rows."""
    rows = raw(rows)
    norm, direction = np.linalg.norm(rows, axis=1, keepdims=True), unit(rows)
    gradient = gradient - direction * (direction * gradient).sum(axis=1, keepdims=True)
    return np.divide(gradient, norm, out=np.zeros_like(rows), where=norm > 0)


def keep_masks(judged, names, limits, positives, hard, exclude, seen, document_ids, queue_ids):
    """bool per block: the negatives of every row; the blocks `names` are judged by their scores."""
    rows = len(positives)
    kept = {name: np.ones(block.shape, bool) for name, block in judged.items()}
    own = np.arange(rows)
    if document_ids is not None:
        ids = np.asarray(document_ids)
        of_columns = np.concatenate([ids, queue_ids]) if queue_ids is not None else ids
        for i in range(rows):
            mine = ids[positives[i]]
            theirs = np.array([np.isin(ids[row], mine).any() for row in positives])
            kept[QD][i, : len(of_columns)] &= ~np.isin(of_columns, mine)
            kept[DD][i] &= ~np.isin(ids, mine)
            kept[QQ][i] &= ~theirs
            kept[DQ][i] &= ~theirs
    for name in names:
        kept[name] &= (judged[name] <= limits[0]) & (judged[name] >= limits[1])
    only_hard = np.setdiff1d(np.concatenate(hard), np.concatenate(positives))
    for i in range(rows):
        for name, foreign in zip((QD, DD), seen, strict=True):
            kept[name][i, exclude[i][exclude[i] < kept[name].shape[1]]] = False
            if not foreign:
                kept[name][i, np.setdiff1d(only_hard, hard[i])] = False
            kept[name][i, positives[i]] = False
        kept[DD][i, hard[i]] = False
    kept[QQ][own, own] = False
    kept[DQ][own, own] = True
    return kept


def limits_of_rows(scores, positives, absolute_margin, relative_margin, max_score, min_score):
    """(highest, lowest) score of a negative per row, from the query to document block."""
    ceiling = np.full(len(positives), np.inf if max_score is None else max_score, np.float64)
    floor = np.full(len(positives), -np.inf if min_score is None else min_score, np.float64)
    for i, own in enumerate(positives):
        if len(own):
            p = scores[i, own].min()
            if absolute_margin is not None:
                ceiling[i] = min(ceiling[i], p - absolute_margin)
            if relative_margin is not None:
                ceiling[i] = min(ceiling[i], p - abs(p) * relative_margin)
    return ceiling[:, None], floor[:, None]


def smallest_gap(judged, names, limits, positives):
    """The least distance of a score to a limit of its row, beside pairs that are never judged."""
    free = {name: np.ones(judged[name].shape, bool) for name in names}
    for i, own in enumerate(positives):
        for name in names:
            free[name][i, own if name in (QD, DD) else i] = False
    gaps = [
        np.abs(judged[n] - limit)[free[n]].min(initial=np.inf) for n in names for limit in limits
    ]
    return min(gaps)


# --- the loss and its gradients ----------------------------------------------------------------


def evaluate(
    queries,
    documents,
    row_gradients=None,
    *,
    positives=None,
    positive_weights=None,
    temperature=0.05,
    metric="cosine",
    objective="out",
    bias=0.0,
    beta=0.0,
    positive_prior=0.0,
    detach_hardness=False,
    focal_margin=None,
    directions=(QD,),
    partition="joint",
    hard_negatives=None,
    hard_negative_log_weight=0.0,
    foreign_hard_negatives=True,
    documents_see_hard_negatives=True,
    hardness=None,
    hardness_strength=0.0,
    log_weights=None,
    exclude=None,
    document_ids=None,
    absolute_margin=None,
    relative_margin=None,
    max_score=None,
    min_score=None,
    guide_queries=None,
    guide_documents=None,
    queue=None,
    queue_ids=None,
    guide_queue=None,
    precision="float32",
    drop=0.0,
    progress=None,
):
    """(InfoNCE, Gradients); row_gradients dL/dL_i, default 1/M.

    precision, drop and progress have no meaning here.
    """
    rows, num_documents = len(queries), len(documents)
    scale = 1 / temperature
    positives = id_lists(np.arange(rows) if positives is None else positives, rows)
    hard, excluded = id_lists(hard_negatives, rows), id_lists(exclude, rows)
    ends = np.cumsum([len(row) for row in positives])
    weights = np.ones(ends[-1]) if positive_weights is None else raw(positive_weights)
    weights = np.split(weights, ends[:-1])
    upstream = np.full(rows, 1 / rows) if row_gradients is None else raw(row_gradients)

    blocks = Blocks(queries, documents, positives, metric, queue)
    scores, judged, names = blocks.scores, blocks.scores, (QD, QQ)
    if guide_queries is not None:
        guide = Blocks(guide_queries, guide_documents, positives, "cosine", guide_queue)
        judged, names = guide.scores, (QD, QQ, DQ, DD)
    margins = absolute_margin, relative_margin, max_score, min_score
    limits = limits_of_rows(judged[QD], positives, *margins)
    seen = foreign_hard_negatives, foreign_hard_negatives and documents_see_hard_negatives
    masks = positives, hard, excluded, seen, document_ids, queue_ids
    kept = keep_masks(judged, names, limits, *masks)
    gap = smallest_gap(judged, names, limits, positives)
    added = {name: np.zeros(block.shape) for name, block in scores.items()}
    if log_weights is not None:
        added[QD][:, :num_documents] += raw(log_weights)
        added[DD] += raw(log_weights)
    for i in range(rows):
        added[QD][i, hard[i]] += hard_negative_log_weight
        if hardness is not None:
            is_hard = np.isin(np.arange(added[QD].shape[1]), hard[i])
            chosen = {"hard_negatives": is_hard, "in_batch_negatives": ~is_hard}
            bonus = hardness_strength * scores[QD][i]
            added[QD][i] += np.where(chosen.get(hardness, True), bonus, 0)

    gradients = {name: np.zeros(block.shape) for name, block in scores.items()}
    d_scale = d_bias = 0.0
    options = scale, beta, positive_prior, detach_hardness
    focal = None if focal_margin is None else focal_margin

    def logits(s, margin):
        """(l, dl/dS, dl/ds) of scores S; margin None: no focal transform."""
        if margin is None:
            return scale * s, np.full_like(s, scale), s
        return scale * s * (s + margin), scale * (2 * s + margin), s * (s + margin)

    def row(own, own_weights, terms, factor, swapped=False):
        """Loss, log_sum_exp and count of one softmax; gradients are added, times `factor`."""
        nonlocal d_scale, d_bias
        p, p_by_s, p_by_scale = logits(scores[QD][own], None if focal is None else 0.0)
        s = np.concatenate([scores[name][index] for name, index in terms])
        n, n_by_s, n_by_scale = logits(s, focal)
        if not swapped:
            n = n + np.concatenate([added[name][index] for name, index in terms])
        shift = bias if objective == "sigmoid" else 0.0
        loss, z, gp, gn = row_loss(objective, p + shift, own_weights, n + shift, *options)
        gp, gn = gp * factor, gn * factor
        gradients[QD][own] += gp * p_by_s
        starts = np.cumsum([0] + [len(index[1]) for _, index in terms])
        for (name, index), start, end in zip(terms, starts[:-1], starts[1:], strict=True):
            gradients[name][index] += (gn * n_by_s)[start:end]
        d_scale += gp @ p_by_scale + gn @ n_by_scale
        d_bias += gp.sum() + gn.sum() if objective == "sigmoid" else 0.0
        return loss, z, len(n)

    def at(i, columns):
        return np.full(len(columns), i), columns

    joint = directions if partition == "joint" else (QD,)
    both = partition == "per_direction" and DQ in directions
    share = 0.5 if both else 1.0
    losses, z, negatives = np.zeros(rows), np.zeros(rows), np.zeros(rows, np.int64)
    for i, own in enumerate(positives):
        terms = [(name, at(i, np.flatnonzero(kept[name][i]))) for name in joint]
        negatives[i] = sum(len(index[1]) for _, index in terms)
        if len(own):
            loss, z[i], _ = row(at(i, own), weights[i], terms, share * upstream[i])
            losses[i] = share * loss
    if both:  # roles swapped: documents that have positives against all queries
        pairs = [(p, i, y) for i, r in enumerate(positives) for p, y in zip(r, weights[i])]  # noqa: B905
        y_hat = {(i, p): y / weights[i].sum() for p, i, y in pairs}
        for p in sorted({p for p, _, _ in pairs}):
            asking = np.array([i for q, i, _ in pairs if q == p])
            y = np.array([y for q, _, y in pairs if q == p])
            others = np.array([j for j in range(rows) if j not in asking], np.int64)
            others = others[kept[DQ][asking[0], others]]  # masks need one positive per query
            back = share * np.array([y_hat[i, p] for i in asking])
            pair, column = (asking, np.full(len(asking), p)), (others, np.full(len(others), p))
            loss, _, count = row(pair, y, [(QD, column)], back @ upstream[asking], swapped=True)
            losses[asking] += back * loss
            negatives[asking] += count
    statistics = best_and_rank(scores[QD], kept[QD], positives)
    own_scores = np.concatenate([scores[QD][i, own] for i, own in enumerate(positives)])
    forward = InfoNCE(losses, z, own_scores, negatives, *statistics, scores[QD], kept[QD], gap)
    to_queries, to_documents = blocks.chain(gradients)
    if metric == "cosine":
        to_queries = through_unit(queries, to_queries)
        to_documents = through_unit(documents, to_documents)
    d_temperature = -d_scale / temperature**2
    return forward, Gradients(to_queries, to_documents, d_temperature, d_bias, gradients[QD])


def best_and_rank(scores, kept, positives):
    """Best kept negative (id, score; smallest id of equal ones) and rank of the best positive."""
    masked = np.where(kept, scores, -np.inf)
    best, best_scores = masked.argmax(axis=1), masked.max(axis=1)
    best[~kept.any(axis=1)] = -1
    ranks = [1 + (m > s[p].max()).sum() if len(p) else 0
             for m, s, p in zip(masked, scores, positives, strict=True)]  # fmt: skip
    return best, best_scores, np.array(ranks, np.int64)


def forward(queries, documents, **options):
    """InfoNCE of the options of stope.infonce_forward."""
    return evaluate(queries, documents, **options)[0]


def backward(queries, documents, row_gradients=None, **options):
    """Gradients of the options of stope.infonce_backward."""
    return evaluate(queries, documents, row_gradients, **options)[1]
