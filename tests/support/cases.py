"""Inputs that are hard for an exact search, by name; each function gives float32 [n, dim] rows.

`make(name, num_queries, n, dim)` -> (queries, corpus), the same on every machine and in every run.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


def gaussian(rng, n, dim):
    return rng.standard_normal((n, dim))


def clustered(rng, n, dim):
    centres = rng.standard_normal((8, dim))
    return centres[rng.integers(0, 8, n)] + 1e-3 * rng.standard_normal((n, dim))


def duplicated(rng, n, dim):
    return rng.standard_normal((max(1, n // 8), dim))[rng.integers(0, max(1, n // 8), n)]


def many_ties(rng, n, dim):
    return rng.integers(-1, 2, (n, dim))


def near_ties(rng, n, dim):
    return np.ones((n, dim)) + 1e-7 * rng.standard_normal((n, dim))


def near_ties_of_unit_length(rng, n, dim):
    rows = rng.standard_normal((1, dim)) + 3e-7 * rng.standard_normal((n, dim))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def huge(rng, n, dim):
    return 1e17 * rng.standard_normal((n, dim))


def tiny(rng, n, dim):
    return 1e-21 * rng.standard_normal((n, dim))


def mixed_norms(rng, n, dim):
    return 10.0 ** rng.uniform(-15, 15, (n, 1)) * rng.standard_normal((n, dim))


def zero_rows(rng, n, dim):
    return rng.standard_normal((n, dim)) * (rng.random((n, 1)) < 0.5)


def all_zero(rng, n, dim):
    return np.zeros((n, dim))


def denormals(rng, n, dim):
    return 1e-41 * rng.standard_normal((n, dim))


def dominating_dimension(rng, n, dim):
    rows = rng.standard_normal((n, dim))
    rows[:, 0] = 1e4 * (1 + 1e-6 * rows[:, 0])
    return rows


def outlier_rows(rng, n, dim):
    rows = rng.standard_normal((n, dim))
    rows[np.arange(n), rng.integers(0, dim, n)] *= np.where(rng.random(n) < 0.3, 1e3, 1)
    return rows


def increasing(rng, n, dim):
    rows = np.ones((n, dim)) + 0.01 * rng.standard_normal((n, dim))
    return rows * np.linspace(0.5, 2, n)[:, None]


def identical(rng, n, dim):
    return np.repeat(rng.standard_normal((1, dim)), n, axis=0)


def cancelling(rng, n, dim):
    rows = rng.standard_normal((n, dim))
    rows[:, 1::2] = -rows[:, : dim // 2 * 2 : 2] * (1 + 1e-6 * rng.standard_normal((n, dim // 2)))
    return rows


def aligned_residuals(rng, n, dim):
    """Elements just beside one half of an int8 step: all of a row's rounding errors agree in sign.

    Against queries of equal elements, rows whose true scores are almost the same look far apart to
    an int8 scan, by as much as the Cauchy-Schwarz bound of its error allows.
    """
    rows = np.full((n, dim), 1.5) + 1e-4 * rng.choice([-1, 1], (n, 1))
    rows[:, 0] = 127 * (1 + 1e-4 * rng.standard_normal(n))
    return rows / rows.sum(axis=1, keepdims=True) * (1 + 1e-5 * rng.standard_normal((n, 1)))


def equal_elements(rng, n, dim):
    return np.ones((n, dim)) * rng.choice([-1, 1], (n, 1))


def aligned_query_residuals(rng, n, dim):
    """The same for what the queries lose: rows that feel all of it, and rows that feel none."""
    rows = np.ones((n, dim)) / (127 + 1.5 * (dim - 1))
    spike = rng.random(n) < 0.5
    rows[spike] = 0
    rows[spike, 0] = 1 / 127
    return rows * (1 + 1e-5 * rng.standard_normal((n, 1)))


def halves(rng, n, dim):
    rows = np.full((n, dim), 1.5) + 1e-4 * rng.choice([-1, 1], (n, 1))
    rows[:, 0] = 127
    return rows


def beside_bfloat16(rng, n, dim):
    """Elements just beside the middle of two bfloat16 numbers, and one that spoils int8."""
    rows = np.full((n, dim), 1 + 2.0**-8) + 1e-6 * rng.choice([-1, 1], (n, 1))
    rows[:, 0] = 84.5
    rows[:, 1] = 1e-3 * rng.standard_normal(n)
    return rows


def beside_bfloat16_queries(rng, n, dim):
    """Rows that feel all that such a query loses, and rows that feel none, with equal scores."""
    rows = np.ones((n, dim)) / (84.5 + (1 + 2.0**-8) * (dim - 2))
    rows[:, 1] = 0
    spike = rng.random(n) < 0.5
    rows[spike] = 0
    rows[spike, 0] = 1 / 84.5
    return rows * (1 + 1e-5 * rng.standard_normal((n, 1)))


CASES = {
    function.__name__: function
    for function in (
        gaussian, clustered, duplicated, many_ties, near_ties, near_ties_of_unit_length, huge, tiny,
        mixed_norms, zero_rows, all_zero, denormals, dominating_dimension, outlier_rows, increasing,
        identical, cancelling, aligned_residuals, aligned_query_residuals,
        beside_bfloat16, beside_bfloat16_queries,
    )
}  # fmt: skip
QUERIES = {
    "aligned_residuals": equal_elements,
    "aligned_query_residuals": halves,
    "beside_bfloat16": equal_elements,
    "beside_bfloat16_queries": beside_bfloat16,
}


def beyond_a_ceiling(rng, rows, dim):
    """(query [1, dim], corpus, the number of rows that come first, all near ties)."""
    query = rng.standard_normal((1, dim))
    near = query + 1e-5 * rng.standard_normal((3 * rows // 4, dim))
    far = 0.2 * query + rng.standard_normal((rows - len(near), dim))
    return query.astype(np.float32), np.concatenate([near, far]).astype(np.float32), len(near)


def make(name, num_queries, n, dim, seed=0):
    """(queries [num_queries, dim], corpus [n, dim]) float32; some queries are corpus rows."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), num_queries, n, dim])
    corpus = CASES[name](rng, n, dim).astype(np.float32)
    queries = QUERIES.get(name, CASES[name])(rng, num_queries, dim).astype(np.float32)
    if name == "cancelling":
        queries[:, 1::2] = np.abs(queries[:, 1::2])
        queries[:, : dim // 2 * 2 : 2] = queries[:, 1::2]
    copied = rng.random(num_queries) < (0 if name in QUERIES else 0.4)
    queries[copied] = corpus[rng.integers(0, n, num_queries)][copied]
    return queries, corpus


def real_texts(dataset, limit):
    """(queries, documents) of a shared collection, or None where they are not here."""
    folder = DATA / dataset
    if not folder.is_dir():
        return None
    texts = []
    for name in ("queries.jsonl.gz", "corpus.jsonl.gz"):
        with gzip.open(folder / name, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for _, line in zip(range(limit), lines, strict=False)]
        texts.append([f"{r.get('title', '')} {r['text']}".strip() for r in records])
    return texts[0], texts[1]


def hashed_bag_of_words(texts, dim):
    """Unit float32 rows: words hashed to 16,384 columns, then a fixed random projection."""
    projection = np.random.default_rng(7).standard_normal((1 << 14, dim)).astype(np.float32)
    rows = np.zeros((len(texts), dim), np.float32)
    for row, text in enumerate(texts):
        columns = [zlib.crc32(word.encode()) % (1 << 14) for word in text.lower().split()]
        rows[row] = projection[columns].sum(axis=0)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
