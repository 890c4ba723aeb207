"""Exchange of negatives that became easy: nothing is drawn, as in Conan-embedding.

With s0 a negative's cosine when it was mined and s now, it is replaced if ``1.15 s < s0`` and
``|s| < 0.8``. A query's i-th replacement takes from ranks ``(i-1) n + 10 ... i n + 9``.

Source: docs/methods.md, C4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stope.lists import Ids
from stope.mining.sampling import Scores

_GAIN, _HARD, _SKIPPED = 1.15, 0.8, 10


def is_stale(mined: Scores, now: Scores) -> NDArray[np.bool_]:
    """Whether negatives of these scores are no longer hard; False where now is NaN.

    >>> is_stale(np.float32([0.6, 0.6, 0.99]), np.float32([0.5, 0.53, 0.82])).tolist()
    [True, False, False]
    """
    with np.errstate(invalid="ignore"):
        return np.asarray((_GAIN * now < mined) & (np.abs(now) < _HARD))


def replace_stale(
    observed: Scores, candidates: Ids, scores: Scores, places: Ids, rounds: Ids
) -> tuple[Ids, Ids, int]:
    """Exchange the stale negatives of every query.

    Args:
        observed: float32 ``[queries, n]``, scores now; NaN where unknown.
        candidates: int64 ``[queries, pool]``, best first, -1 at the end.
        scores: float32 ``[queries, pool]``, when mined.
        places: int64 ``[queries, n]``, columns of candidates in use; -1 for none.
        rounds: int64 ``[queries]``, replacements so far.

    Returns:
        New places, new rounds, and how many stale ones stay since the ranks to take from end.

    Memory: O(queries n).
    """
    n, pool = places.shape[1], candidates.shape[1]
    if not n or not pool:
        return places, rounds, 0
    mined = np.take_along_axis(scores, places.clip(0), 1)
    stale = is_stale(mined, observed) & (places >= 0)
    rows = np.flatnonzero(stale.any(1))
    if not len(rows):
        return places, rounds, 0
    new_places, new_rounds = places.copy(), rounds.copy()
    new_rounds[rows] += 1
    window = (rounds[rows] * n + _SKIPPED)[:, None] + np.arange(n)
    inside = np.minimum(window, pool - 1)
    free = (window < pool) & (np.take_along_axis(candidates[rows], inside, 1) >= 0)
    free &= ~(window[:, :, None] == places[rows][:, None, :]).any(2)
    window = np.take_along_axis(window, np.argsort(~free, axis=1, kind="stable"), 1)
    turn = stale[rows].cumsum(1) - 1
    replaced = stale[rows] & (turn < free.sum(1, keepdims=True))
    fresh = np.take_along_axis(window, turn.clip(0), 1)
    new_places[rows] = np.where(replaced, fresh, places[rows])
    return new_places, new_rounds, int(stale.sum() - replaced.sum())
