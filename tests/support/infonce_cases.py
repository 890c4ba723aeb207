"""Inputs and options of the contrastive loss, by name: each rule of it alone, and many at once."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import reference_infonce as oracle
from reference_infonce import DD, DQ, QD, QQ

ALL = (QD, QQ, DQ, DD)
TWO_WAYS = {"directions": (QD, DQ), "partition": "per_direction"}


def embeddings(rng, n, dim):
    """Random float32 rows with a common direction, so that scores are not all alike."""
    rows = rng.standard_normal((n, dim))
    rows += 0.5 * rng.standard_normal((1, dim)) if dim > 1 else 0
    return rows.astype(np.float32)


def signs(rng, n, dim):
    """Rows of -1 and 1; with dim 4, 16, 64 every cosine is exact in every arithmetic."""
    return rng.choice(np.array([-1, 1], np.float32), (n, dim))


def problem(seed, rows=5, count=9, dim=4, embed=embeddings):
    """(rng, queries [rows, dim], documents [count, dim]); queries lie near their documents."""
    rng = np.random.default_rng([seed, rows, count, dim])
    queries, documents = embed(rng, rows, dim), embed(rng, count, dim)
    near = np.arange(rows) % count
    if embed is signs:
        queries = np.where(rng.random(queries.shape) < 0.4, queries, documents[near])
    else:
        queries += documents[near]
    return rng, queries, documents


def options(name, rng, rows, count, dim=4, embed=embeddings):
    """The options called `name` for a problem of that size."""
    return MAKERS[name](Draw(rng, rows, count, dim, embed))


class Draw:
    """Random pieces of options for one size of problem."""

    def __init__(self, rng, rows, count, dim, embed):
        self.rng, self.rows, self.count, self.dim, self.embed = rng, rows, count, dim, embed
        own = np.arange(rows) % count
        self.one = {"positives": own}
        self.own = own
        self.ids = {"document_ids": rng.integers(0, max(2, count // 2), count)}
        self.log_weights = {"log_weights": rng.uniform(-2, 1, count).astype(np.float32)}

    def several(self, empty=True):
        """One to four positives per query, some queries without any, and their weights."""
        top = min(5, self.count + 1)
        sizes = self.rng.integers(1, top, self.rows)
        if empty and self.rows > 1:
            sizes[self.rng.integers(0, self.rows, max(1, self.rows // 6))] = 0
        sizes[0] = top - 1
        lists = [np.sort(self.rng.permutation(self.count)[:size]) for size in sizes]
        weights = self.rng.uniform(0.25, 2, sizes.sum()).astype(np.float32)
        return {"positives": lists, "positive_weights": weights}

    def hard(self):
        """Up to two hard negatives per query, never its positive."""
        lists = []
        for own in self.own:
            drawn = self.rng.permutation(self.count)[: self.rng.integers(0, 3)]
            lists.append(np.sort(drawn[drawn != own]))
        return {"hard_negatives": lists}

    def exclude(self):
        """Up to five columns per query; the query's positive may be among them, and stays."""
        width = min(5, self.count)
        sizes = self.rng.integers(0, width + 1, self.rows)
        return {"exclude": [np.sort(self.rng.permutation(self.count)[:size]) for size in sizes]}

    def queue(self, ids=True):
        """Columns without gradient; with `ids`, document ids of both kinds of columns."""
        size = self.count // 2 + 3
        found = {"queue": self.embed(self.rng, size, self.dim)}
        if ids:
            found |= self.ids | {"queue_ids": self.rng.integers(0, max(2, self.count // 2), size)}
        return found

    def guide(self, queue=0):
        """Embeddings of another model, and of the queue's `queue` rows."""
        dim = 16  # exact cosines of signs
        found = {
            "guide_queries": self.embed(self.rng, self.rows, dim),
            "guide_documents": self.embed(self.rng, self.count, dim),
        }
        if queue:
            found["guide_queue"] = self.embed(self.rng, queue, dim)
        return found

    def row_limits(self, low, high):
        """One number per query."""
        return self.rng.uniform(low, high, self.rows).astype(np.float32)


def everything(x):
    """Many rules at once; one positive per query."""
    queue = x.queue()
    rules = {"directions": ALL, "hard_negative_log_weight": 0.5, "absolute_margin": -0.2}
    rules |= {"hardness": "all_negatives", "hardness_strength": 2.0, "min_score": -0.9}
    return {
        **rules, **x.one, **x.hard(), **x.exclude(), **x.log_weights, **queue,
        **x.guide(len(queue["queue"])),
    }  # fmt: skip


MAKERS = {
    "plain": lambda x: x.one,
    "dot": lambda x: {"metric": "dot", **x.one},
    "several": lambda x: {k: v for k, v in x.several().items() if k == "positives"},
    "several weighted": lambda x: x.several(),
    "log weights": lambda x: {**x.log_weights, **x.one},
    "own hard": lambda x: {**x.hard(), "hard_negative_log_weight": 0.7, **x.one},
    "no foreign hard": lambda x: {**x.hard(), "foreign_hard_negatives": False, **x.one},
    "bonus of hard": lambda x: {
        **x.hard(), "hardness": "hard_negatives", "hardness_strength": 5.0, **x.one
    },
    "bonus in batch": lambda x: {
        **x.hard(), "hardness": "in_batch_negatives", "hardness_strength": 9.0, **x.one
    },
    "bonus of all": lambda x: {
        **x.hard(), "hardness": "all_negatives", "hardness_strength": 3.0, **x.one
    },
    "exclude": lambda x: {**x.exclude(), **x.one},
    "ids": lambda x: {**x.ids, **x.one},
    "ids of several": lambda x: {**x.ids, **x.several()},
    "absolute margin": lambda x: {"absolute_margin": 0.1, **x.one},
    "qwen3 margin": lambda x: {"absolute_margin": -0.1, **x.one},
    "relative margin": lambda x: {"relative_margin": 0.27, **x.several(empty=False)},
    "limits": lambda x: {"max_score": 0.6, "min_score": -0.3, **x.one},
    "limits of rows": lambda x: {
        "max_score": x.row_limits(0.2, 0.8), "min_score": x.row_limits(-0.6, -0.1), **x.one
    },
    "guide": lambda x: {"absolute_margin": 0.05, **x.guide(), **x.one},
    "queue": lambda x: {**x.queue(ids=False), **x.one},
    "queue with ids": lambda x: {**x.queue(), **x.one},
    "focal": lambda x: {"focal_margin": 0.3, **x.one},
    "query to query": lambda x: {"directions": (QD, QQ), **x.one},
    "document to document": lambda x: {"directions": (QD, DD), **x.hard(), **x.one},
    "positives to positives": lambda x: {
        "directions": (QD, DD), "documents_see_hard_negatives": False, **x.hard(), **x.one
    },
    "document to query": lambda x: {"directions": (QD, DQ), **x.one},
    "four directions": lambda x: {"directions": ALL, **x.hard(), **x.one},
    "qwen3": lambda x: {"directions": (QD, QQ, DD), "absolute_margin": -0.1, **x.ids, **x.one},
    "guided directions": lambda x: {
        "directions": ALL, "relative_margin": 0.07, **x.guide(), **x.ids, **x.one
    },
    "two ways": lambda x: {**TWO_WAYS, **x.one},
    "two ways of several": lambda x: {**TWO_WAYS, **x.several()},
    "two ways with much": lambda x: {
        **TWO_WAYS, **x.hard(), "hard_negative_log_weight": 0.3, **x.log_weights, **x.ids,
        "absolute_margin": 0.05, **x.one,
    },
    "everything": everything,
}  # fmt: skip
SEVERAL = tuple(name for name in MAKERS if "several" in name or name == "relative margin")
NAMES = tuple(MAKERS)


def goes_with(name, objective):
    """Whether the objective goes with the rule."""
    if objective == "sigmoid" and name == "focal":
        return False
    return objective not in ("hardness", "pairwise") or name not in SEVERAL


def judged_clearly(make, judge, gap):
    """The first of make(0), make(1), ... whose scores all keep `gap` away from their limits."""
    for seed in range(200):
        made = make(seed)
        if judge(made).gap > gap:
            return made
    raise AssertionError(f"no draw keeps {gap} away from its limits")


def ragged(shapes):
    """(note, drawn problem) for every (rows, count, dim), a few rules in turn."""
    names = ("plain", "several weighted", "two ways", "query to query", "log weights", "dot")
    for number, (rows, count, dim) in enumerate(shapes):
        name = names[number % len(names)]
        # bfloat16 rounds a few large elements badly; a milder temperature bounds what that does.
        temperature = (0.1 if name != "dot" else float(dim)) if dim >= 16 else 2.0
        problem = drawn(name, "out", rows, count, dim, temperature=temperature)
        yield f"{name} {rows} x {count} x {dim}", problem


def copies_of_positives(rows, count, dim, guided=False):
    """(queries, documents, options): all a query keeps is a copy of its positive, on any margin."""
    _, queries, documents = problem(0, rows, count, dim)
    doubled = np.concatenate([documents, documents[::-1]])
    own = np.arange(rows) % count
    others = [np.delete(np.arange(2 * count), [i, 2 * count - 1 - i]) for i in own]
    given = {"positives": own, "exclude": others, "temperature": float(dim)}
    if guided:
        given |= {"guide_queries": queries, "guide_documents": doubled}
    return queries, doubled, given


def on_limits(rows=9, count=40, dim=64):
    """[(queries, documents, options, negatives)]: exact cosines, some of which are rows' limits.

    Equality is kept, and a margin that ends between two float32 numbers drops the upper one.
    """
    _, queries, documents = problem(0, rows, count, dim, signs)
    scores = queries.astype(np.float64) @ documents.T / dim
    own = np.arange(rows)
    negatives = scores.copy()
    negatives[own, own] = np.nan
    low, high = (np.nanquantile(negatives, q, axis=1, method="nearest") for q in (0.2, 0.8))

    def kept(lower, upper):
        return ((negatives >= lower[:, None]) & (negatives <= upper[:, None])).sum(1)

    margin = scores[0, 0] - high[0]
    upper, none = scores[own, own] - margin, np.full(rows, -2.0)
    return [
        (queries, documents, {"max_score": high, "min_score": low}, kept(low, high)),
        (queries, documents, {"absolute_margin": margin}, kept(none, upper)),
        (queries, documents, {"absolute_margin": margin + 1e-12}, kept(none, upper - 1e-12)),
    ]


PRECISIONS = ("float32", "bfloat16")
precisions = pytest.mark.parametrize("precision", PRECISIONS)
# What an objective needs to differ from the plain softmax.
EXTRA = {"hardness": {"beta": 0.8, "positive_prior": 0.01}, "sigmoid": {"bias": -4.0}}


@lru_cache(maxsize=400)
def drawn(name, objective="out", rows=33, count=70, dim=33, embed="embeddings", temperature=0.1):
    """(queries, documents, options, upstream, oracle's answer), with no score near a limit."""

    def make(seed):
        made = undecided(name, objective, rows, count, dim, embed, temperature, seed)
        return *made, oracle.evaluate(*made[:2], made[3], **made[2])

    return judged_clearly(make, lambda made: made[4][0], 4e-6)


def undecided(name, objective, rows, count, dim, embed="embeddings", temperature=0.1, seed=0):
    """(queries, documents, options, upstream): any draw, for what needs no oracle."""
    embeds = {"embeddings": embeddings, "signs": signs}[embed]
    rng, queries, documents = problem(seed, rows, count, dim, embeds)
    given = options(name, rng, rows, count, dim, embeds)
    given |= {"objective": objective, "temperature": temperature, **EXTRA.get(objective, {})}
    return queries, documents, given, rng.uniform(-0.5, 1, rows).astype(np.float32)
