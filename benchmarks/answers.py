"""Whether two contenders gave the same answer, rounding aside.

Libraries add the products of a dot product in different orders, so equal scores come out in another
order and near ties swap. A difference is accepted only where the float64 scores of both ids are
within `rounding(dim)` of each other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from inputs import Inputs

CHUNK = 4_096


class Verdict(NamedTuple):
    """Whether the contenders of a row agree, in words for the table, with figures for the JSON."""

    right: bool
    words: str
    details: dict[str, object]


def rounding(dim: int) -> float:
    """Largest difference of two float32 scores of unit vectors that is put down to rounding.

    Errors of `dim` roundings add up like a random walk, sqrt(dim) * 2**-24; four times that is
    beyond what happens and far below the distance of neighbours in a ranking.
    """
    return 4 * dim**0.5 * 2.0**-24


def exact_scores(given: Inputs, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Float64 score of query rows[i] with corpus row ids[i]."""
    scores = np.empty(len(rows))
    for start in range(0, len(rows), CHUNK):
        some = slice(start, start + CHUNK)
        queries = given.queries[rows[some]].astype(np.float64)
        scores[some] = (queries * given.corpus[ids[some]].astype(np.float64)).sum(1)
    return scores


def differing_positions(given: Inputs, ids: np.ndarray, others: np.ndarray) -> tuple[int, int]:
    """Positions of two rankings with different ids: those within rounding, those beyond it."""
    rows, columns = np.nonzero(ids != others)
    left = exact_scores(given, rows, ids[rows, columns])
    right = exact_scores(given, rows, others[rows, columns])
    wrong = int((np.abs(left - right) > rounding(given.queries.shape[1])).sum())
    return len(rows) - wrong, wrong


def wrong_scores(given: Inputs, scores: np.ndarray, ids: np.ndarray) -> int:
    """Positions whose score is not that of the id, by more than rounding; padding is skipped."""
    rows, columns = np.nonzero(ids >= 0)
    exact = exact_scores(given, rows, ids[rows, columns])
    error = np.abs(scores[rows, columns].astype(np.float64) - exact)
    return int((error > rounding(given.queries.shape[1])).sum())
