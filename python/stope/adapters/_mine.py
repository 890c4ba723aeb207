"""Hard negatives mined anew with the embeddings as the adapter now makes them."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

import stope
from stope.adapters._step import Ids, Problem
from stope.adapters.adapter import Adapter
from stope.training.rows import ranges


class Miner:
    """Callable: the negatives of every query under an adapter.

    Args:
        problem: queries, corpus and positives.
        num_negatives: how many each query gets at most.
        relative_margin: see `stope.mine_hard_negatives`.
        sources: ascending rows of the queries and of the documents of each source: a query's
            negatives are of its own.
    """

    def __init__(
        self,
        problem: Problem,
        num_negatives: int,
        relative_margin: float | None,
        sources: Sequence[tuple[Ids, Ids]],
    ) -> None:
        self.problem, self.num_negatives, self.sources = problem, num_negatives, sources
        self.relative_margin = relative_margin

    def __call__(self, adapter: Adapter, before: Ids | None) -> tuple[Ids, dict[str, float]]:
        """Negatives int64 [queries, n], -1 for none; and seconds and the share that is new."""
        started = time.perf_counter()
        problem = self.problem
        found = np.full((len(problem.queries), self.num_negatives), -1, dtype=np.int64)
        lengths = np.diff(problem.offsets)
        for queries, documents in self.sources:
            # The miner measures margins from a positive: queries without one have no pair either.
            asked = queries[lengths[queries] > 0]
            if not len(asked):
                continue
            own = problem.ids[ranges(problem.offsets[asked], lengths[asked])]
            mined = stope.mine_hard_negatives(
                adapter.apply(problem.queries[asked], "queries"),
                adapter.apply(problem.corpus[documents], "documents"),
                (np.cumsum([0, *lengths[asked]]), np.searchsorted(documents, own)),
                min(self.num_negatives, len(documents)),
                relative_margin=self.relative_margin,
            ).ids
            found[asked, : mined.shape[1]] = np.where(mined >= 0, documents[mined], -1)
        facts = {"seconds": time.perf_counter() - started, "found": float((found >= 0).mean())}
        if before is not None:
            known = (found[:, :, None] == before[:, None, :]).any(axis=2) & (found >= 0)
            facts["changed"] = 1.0 - float(known.sum() / max(1, (found >= 0).sum()))
        return found, facts
