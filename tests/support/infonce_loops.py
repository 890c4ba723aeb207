"""A second, independent route to the contrastive loss: scalars and loops in torch.

Slow, for a handful of rows; autograd gives the gradients.
"""

from __future__ import annotations

import numpy as np

import torch


def by_loops(queries, documents, scale, bias, o):
    """Row losses of the options `o` written down from their meaning, in torch scalars."""
    rows, columns = len(queries), documents
    if o.get("queue") is not None:
        columns = torch.cat([documents, torch.tensor(o["queue"], dtype=torch.float64)])
    count = len(documents)

    def score(a, b):
        if o.get("metric", "cosine") == "dot":
            return a @ b
        return (a / a.norm()) @ (b / b.norm())

    guided = "guide_queries" in o
    guide_q = torch.tensor(o["guide_queries"], dtype=torch.float64) if guided else None
    guide_d = torch.tensor(o["guide_documents"], dtype=torch.float64) if guided else None
    if guided and o.get("queue") is not None:
        guide_d = torch.cat([guide_d, torch.tensor(o["guide_queue"], dtype=torch.float64)])
    positives = [np.atleast_1d(own).tolist() for own in o.get("positives", range(rows))]
    flat = o.get("positive_weights", np.ones(sum(map(len, positives))))
    y, start = [], 0
    for own in positives:
        y.append([float(w) for w in flat[start : start + len(own)]])
        start += len(own)
    hard = [np.atleast_1d(own).tolist() for own in o.get("hard_negatives", [[]] * rows)]
    ids = o.get("document_ids")
    directions = o.get("directions", ("query_to_document",))
    objective = o.get("objective", "out")
    shift = bias if objective == "sigmoid" else 0.0
    margin = o.get("focal_margin")

    def positive_logit(s):
        return scale * s + shift if margin is None else scale * s * s + shift

    def negative_logit(s):
        return scale * s + shift if margin is None else scale * s * (s + margin) + shift

    def cosine(a, b):
        return float((a / a.norm()) @ (b / b.norm()))

    def judged(i, j, kind):
        if kind == "qd":
            return (
                cosine(guide_q[i], guide_d[j])
                if guided
                else float(score(queries[i], columns[j]).detach())
            )
        if kind == "qq":
            pair = (guide_q[i], guide_q[j]) if guided else (queries[i], queries[j])
            return cosine(*pair) if guided else float(score(*pair).detach())
        p = positives[i][0]
        return cosine(guide_d[p], guide_q[j] if kind == "dq" else guide_d[j])

    def passes(i, c):
        p = min(judged(i, q, "qd") for q in positives[i])
        if "absolute_margin" in o and c > p - o["absolute_margin"]:
            return False
        if "relative_margin" in o and c > p - abs(p) * o["relative_margin"]:
            return False
        if "max_score" in o and c > np.broadcast_to(o["max_score"], rows)[i]:
            return False
        return not ("min_score" in o and c < np.broadcast_to(o["min_score"], rows)[i])

    def document_allowed(i, j):
        if j in positives[i] or j in o.get("exclude", [[]] * rows)[i]:
            return False
        if j < count and ids is not None and ids[j] in [ids[p] for p in positives[i]]:
            return False
        known = j >= count and "queue_ids" in o
        if known and o["queue_ids"][j - count] in [ids[p] for p in positives[i]]:
            return False
        answers = any(j in own for own in positives)
        foreign = any(j in own for own in hard) and j not in hard[i] and not answers
        return o.get("foreign_hard_negatives", True) or not foreign

    def same_answer(i, j):
        return ids is not None and ids[positives[j][0]] == ids[positives[i][0]]

    def joint_negatives(i, blocks):
        logits = []
        if "query_to_document" in blocks:
            for j in range(len(columns)):
                if document_allowed(i, j) and passes(i, judged(i, j, "qd")):
                    s = score(queries[i], columns[j])
                    logit = negative_logit(s)
                    if j < count and "log_weights" in o:
                        logit = logit + float(o["log_weights"][j])
                    if j in hard[i]:
                        logit = logit + o.get("hard_negative_log_weight", 0.0)
                    mode = o.get("hardness")
                    if (
                        mode == "all_negatives"
                        or (mode == "hard_negatives" and j in hard[i])
                        or (mode == "in_batch_negatives" and j not in hard[i])
                    ):
                        logit = logit + o["hardness_strength"] * s.detach()
                    logits.append(logit)
        if "query_to_query" in blocks:
            for j in range(rows):
                if j != i and not same_answer(i, j) and passes(i, judged(i, j, "qq")):
                    logits.append(negative_logit(score(queries[i], queries[j])))
        if "document_to_query" in blocks:
            for j in range(rows):
                good = not same_answer(i, j) and (not guided or passes(i, judged(i, j, "dq")))
                if j == i or good:
                    logits.append(negative_logit(score(documents[positives[i][0]], queries[j])))
        if "document_to_document" in blocks:
            for j in range(count):
                hidden = any(j in own for own in hard) and not any(j in own for own in positives)
                if hidden and not o.get("documents_see_hard_negatives", True):
                    continue
                if j in hard[i] or not document_allowed(i, j):
                    continue
                if guided and not passes(i, judged(i, j, "dd")):
                    continue
                logit = negative_logit(score(documents[positives[i][0]], documents[j]))
                logits.append(logit + (float(o["log_weights"][j]) if "log_weights" in o else 0.0))
        return logits

    def loss_of(positive, weights, negative):
        share = [w / sum(weights) for w in weights]
        total = torch.stack(positive + negative).logsumexp(0)
        zero = 0.0 * positive[0]
        if objective == "out":
            return total - sum(w * p for w, p in zip(share, positive, strict=True))
        if objective == "in":
            return total - torch.stack(positive).logsumexp(0)
        if objective == "sigmoid":
            kept = sum(
                (
                    w * torch.nn.functional.softplus(-p)
                    for w, p in zip(weights, positive, strict=True)
                ),
                zero,
            )
            return kept + sum((torch.nn.functional.softplus(n) for n in negative), zero)
        if not negative:
            return zero
        if objective == "excl":
            rest = torch.stack(negative).exp().sum()
            return sum(
                w * torch.log(1 + rest / p.exp()) for w, p in zip(share, positive, strict=True)
            )
        if objective == "decoupled":
            rest = torch.stack(negative).logsumexp(0)
            return rest - sum(w * p for w, p in zip(share, positive, strict=True))
        if objective == "pairwise":
            return sum(torch.log(1 + (n - positive[0]).exp()) for n in negative)
        e, prior, size = torch.stack(negative).exp(), o.get("positive_prior", 0.0), len(negative)
        importance = e ** o.get("beta", 0.0)
        if o.get("detach_hardness"):
            importance = importance.detach()
        reweighted = (importance * e).sum() / importance.mean()
        ng = (reweighted - prior * size * positive[0].exp()) / (1 - prior)
        ng = torch.clamp(ng, min=size * float(torch.exp(-scale).detach()))
        return -torch.log(positive[0].exp() / (positive[0].exp() + ng))

    def own_logits(i):
        return [positive_logit(score(queries[i], documents[p])) for p in positives[i]]

    swapped = o.get("partition") == "per_direction" and "document_to_query" in directions
    blocks = directions if o.get("partition") != "per_direction" else ("query_to_document",)
    losses = []
    for i in range(rows):
        if not positives[i]:
            losses.append(0.0 * queries[i].sum())
            continue
        loss = loss_of(own_logits(i), y[i], joint_negatives(i, blocks))
        if swapped:
            back = 0.0
            for p, weight in zip(positives[i], y[i], strict=True):
                asking = [j for j in range(rows) if p in positives[j]]
                weights = [y[j][list(positives[j]).index(p)] for j in asking]
                own = [positive_logit(score(queries[j], documents[p])) for j in asking]
                others = [
                    negative_logit(score(queries[j], documents[p]))
                    for j in range(rows)
                    if j not in asking
                    and not same_answer(i, j)
                    and (not guided or passes(i, judged(i, j, "dq")))
                ]
                back = back + weight / sum(y[i]) * loss_of(own, weights, others)
            loss = (loss + back) / 2
        losses.append(loss)
    return torch.stack(losses)
