"""Documents that may not be negatives though they are no positives: somebody looked."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from stope.lists import Ids, Lists


class Exclusions(NamedTuple):
    """Documents that may not be negatives, as rows of the corpus.

    Attributes:
        queries: of each query; None for none.
        documents: of no query, ascending.
    """

    queries: Lists | None
    documents: Ids

    def among(self, documents: Ids) -> Exclusions:
        """The same as places among these ascending rows."""
        queries = None if self.queries is None else self.queries.among(documents)
        return Exclusions(queries, np.flatnonzero(np.isin(documents, self.documents)))

    def take(self, queries: ArrayLike) -> Exclusions:
        """The same of these queries, in this order."""
        return self._replace(queries=None if self.queries is None else self.queries.take(queries))

    def union(self, other: Exclusions | None) -> Exclusions:
        """Those of both."""
        if other is None:
            return self
        queries = self.queries if other.queries is None else other.queries
        if self.queries is not None and other.queries is not None:
            queries = self.queries.union(other.queries)
        return Exclusions(queries, np.union1d(self.documents, other.documents))

    def lists(self, num_queries: int) -> Lists:
        """All of them by query, as `stope.mining.mine` takes them.

        Memory: 8 bytes per query and document that is of no query.
        """
        offsets = np.arange(num_queries + 1) * len(self.documents)
        every = Lists(offsets, np.tile(self.documents, num_queries))
        return every if self.queries is None else every.union(self.queries)
