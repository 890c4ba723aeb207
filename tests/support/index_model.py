"""What an index is, in plain Python: a dictionary of ids and rows, and all scores of all pairs."""

from __future__ import annotations

import numpy as np
import reference


class Model:
    """The contract of `stope.FlatIndex`: answers are a function of the pairs (id, row) alone."""

    def __init__(self, dim, metric="dot", dtype=np.float32):
        self.dim, self.metric, self.dtype = dim, metric, dtype
        self.rows = {}
        self.next = 0

    def put(self, rows, ids=None):
        if ids is None:
            ids = range(self.next, self.next + len(rows))
        for id_, row in zip(ids, rows, strict=True):
            self.rows[id_] = np.asarray(row).astype(self.dtype)
            if not isinstance(id_, str):
                self.next = max(self.next, id_ + 1)

    def remove(self, ids):
        for id_ in ids:
            del self.rows[id_]

    @property
    def ids(self):
        return sorted(self.rows)

    def matrix(self):
        empty = np.empty((0, self.dim), self.dtype)
        return np.stack([self.rows[id_] for id_ in self.ids]) if self.rows else empty

    def ranked(self, queries, may, floor=-np.inf, ceiling=np.inf):
        """For each query all (score, id) that it may find, in order; may is a set of ids each."""
        if not self.rows or not len(queries):
            return [[] for _ in queries]
        scores = reference.canonical(queries, self.matrix(), self.metric)
        return [
            sorted(
                (
                    (score, id_)
                    for score, id_ in zip(row, self.ids, strict=True)
                    if id_ in allowed and floor <= score <= ceiling
                ),
                key=lambda pair: (-pair[0], pair[1]),
            )
            for row, allowed in zip(scores, may, strict=True)
        ]


def padded(ranked, k, none=-1):
    """(scores, ids) of the k best, as `stope.TopK` has them."""
    scores = np.full((len(ranked), k), -np.inf, np.float32)
    ids = np.full((len(ranked), k), none, np.int64 if none == -1 else object)
    for row, pairs in enumerate(ranked):
        for column, (score, id_) in enumerate(pairs[:k]):
            scores[row, column], ids[row, column] = score, id_
    return scores, ids
