"""Embeddings and adapters for the tests of adapters."""

from __future__ import annotations

import numpy as np

from stope.adapters import Adapter, Linear, LowRank, ResidualMLP
from stope.adapters.recipe import Problem
from stope.lists import Lists

DIM = 12
KINDS = ("linear", "low_rank", "mlp")
SIDES = ("both", "queries", "documents", "separate")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_map(kind, seed=0, dim=DIM, out=None):
    if kind == "linear":
        return Linear(normal(out or dim, dim, seed=seed))
    if kind == "low_rank":
        return LowRank(normal(dim, 3, seed=seed), normal(dim, 3, seed=seed + 50))
    return ResidualMLP(normal(7, dim, seed=seed), normal(dim, 7, seed=seed + 50))


def random_adapter(kind, side, dim=DIM):
    more = random_map(kind, 9, dim) if side == "separate" else None
    return Adapter(random_map(kind, 0, dim), [2.0, 1.5], side=side, documents=more)


def pairs(count=240, seed=0):
    """Queries are documents seen through a rotation of half the coordinates, and noise."""
    corpus = normal(count, DIM, seed=seed)
    turned, _ = np.linalg.qr(normal(DIM, DIM, seed=seed + 1))
    queries = np.hstack([corpus[:, :6], corpus @ turned[:, 6:]])
    return (queries + 0.3 * normal(count, DIM, seed=seed + 2)).astype(np.float32), corpus


def recall(adapter, queries, corpus, rows):
    found = adapter.apply(queries[rows], "queries") @ adapter.apply(corpus, "documents").T
    return float((found.argmax(axis=1) == rows).mean())


def problem(count=30, **more):
    queries, corpus = pairs(count)
    given = {
        "queries": unit(queries),
        "corpus": unit(corpus),
        "positives": Lists(np.arange(count + 1), np.arange(count)),
        "negatives": None,
        "weights": None,
        "signals": {},
        "sources": (),
    } | more
    nothing = np.zeros(given["positives"].num_lists + 1, np.int64), np.empty(0, np.int64)
    return Problem(**{"never": Lists(*nothing), **given})
