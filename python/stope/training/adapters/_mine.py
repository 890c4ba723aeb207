"""Hard negatives mined anew with the embeddings as the adapter now makes them."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

import stope
from stope.training.adapters._step import Problem
from stope.training.adapters.adapter import Adapter


class Miner:
    """Callable: the negatives of every query under an adapter.

    Args:
        problem: queries, corpus and positives.
        num_negatives: how many each query gets at most.
        relative_margin: see `stope.mine_hard_negatives`.
    """

    def __init__(self, problem: Problem, num_negatives: int, relative_margin: float | None) -> None:
        self.problem, self.num_negatives = problem, num_negatives
        self.relative_margin = relative_margin

    def __call__(
        self, adapter: Adapter, before: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int64], dict[str, float]]:
        """Negatives int64 [queries, n], -1 for none; and seconds and the share that is new."""
        started = time.perf_counter()
        problem = self.problem
        # The miner measures margins from a positive: queries without one have no pair either.
        asked = np.flatnonzero(np.diff(problem.offsets))
        offsets = np.concatenate([problem.offsets[asked], problem.offsets[-1:]])
        mined = stope.mine_hard_negatives(
            adapter.apply(problem.queries[asked], "queries"),
            adapter.apply(problem.corpus, "documents"),
            (offsets, problem.ids),
            self.num_negatives,
            relative_margin=self.relative_margin,
        )
        found = np.full((len(problem.queries), self.num_negatives), -1, dtype=np.int64)
        found[asked] = mined.ids
        facts = {"seconds": time.perf_counter() - started, "found": float((found >= 0).mean())}
        if before is not None:
            known = (found[:, :, None] == before[:, None, :]).any(axis=2) & (found >= 0)
            facts["changed"] = 1.0 - float(known.sum() / max(1, (found >= 0).sum()))
        return found, facts
