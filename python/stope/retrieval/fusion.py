"""Several rankings into one: reciprocal rank fusion and weighted min-max."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, integer, real, shown, size
from stope._kinds import kinds, maybe, numbers
from stope.progress import Progress
from stope.retrieval.pipeline import Retriever
from stope.retrieval.ranking import Ranking, check_k

Method = Literal["rrf", "minmax"]


@kinds(weights=maybe(numbers))
def fuse(
    rankings: Sequence[Ranking],
    *,
    method: Method = "rrf",
    weights: Sequence[float] | None = None,
    k: int | None = None,
    rrf_k: float = 60.0,
) -> Ranking:
    """Merge rankings of the same queries over the same corpus.

    "rrf": ``score(d) = sum_r w_r / (rrf_k + rank_r(d))``, ranks from 1, nothing where absent.
    "minmax": ``score(d) = sum_r w_r (s_r(d) - min_r) / (max_r - min_r)`` with the minimum and
    maximum of the query's own list; a document absent from a list gets 0 from it, like the worst
    one present; in a list of equal scores every document gets 1.

    The sum runs over sorted terms in float64 and is rounded to float32, so the order of the
    rankings changes nothing. Equal scores are ordered by the lower corpus row.

    Args:
        rankings: at least one, with the same number of queries.
        method: "rrf" or "minmax".
        weights: one finite number of at least 0 per ranking, not all 0; default 1 each for "rrf",
            and equal shares that add up to 1 for "minmax".
        k: documents kept per query; default the widest ranking's.
        rrf_k: constant of "rrf", at least 0.

    Raises:
        ValueError: no rankings, different numbers of queries, a wrong method, weight, k or rrf_k.

    Memory: O(queries x k), and the union of one query's lists.

    Source: Cormack, Clarke and Buettcher 2009 (rrf); docs/methods.md, G3, G4.

    Example:
        >>> import numpy as np
        >>> one = Ranking(np.array([[4, 7, 2]]), np.array([[9.0, 5.0, 1.0]]))
        >>> two = Ranking(np.array([[2, 9]]), np.array([[0.8, 0.1]]))
        >>> fuse([one, two]).ids
        array([[2, 4, 7]])
        >>> fuse([one, two], method="minmax", k=4).scores
        array([[0.5 , 0.5 , 0.25, 0.  ]], dtype=float32)
    """
    choice(method, "method", get_args(Method))
    if isinstance(rankings, Ranking) or not isinstance(rankings, Sequence):
        raise TypeError(f"rankings is {type(rankings).__name__}; give a list of Ranking")
    if not rankings:
        raise ValueError("rankings is empty; give at least one")
    for place, ranking in enumerate(rankings):
        if not isinstance(ranking, Ranking):
            raise TypeError(f"rankings[{place}] is {shown(ranking)}; give a Ranking")
    real(rrf_k, "rrf_k", 0)
    sizes = {len(ranking) for ranking in rankings}
    if len(sizes) > 1:
        raise ValueError(f"rankings have {sorted(sizes)} queries; they must have the same")
    shares = _weights(weights, len(rankings), method)
    widest = max(ranking.ids.shape[1] for ranking in rankings)
    width = size(widest if k is None else k, "k")
    terms = [
        _reciprocal(ranking, rrf_k) if method == "rrf" else _normalised(ranking)
        for ranking in rankings
    ]
    num_queries = sizes.pop()
    ids = np.full((num_queries, width), -1, dtype=np.int64)
    scores = np.full((num_queries, width), -np.inf, dtype=np.float32)
    for query in range(num_queries):
        lists = [ranking.ids[query] for ranking in rankings]
        union = np.unique(np.concatenate(lists))
        union = union[union >= 0]
        table = np.zeros((len(rankings), len(union)))
        for place, ids_found in enumerate(lists):
            present = ids_found >= 0
            columns = np.searchsorted(union, ids_found[present])
            table[place, columns] = shares[place] * terms[place][query, present]
        fused = np.sort(table, axis=0).sum(axis=0).astype(np.float32)
        best = np.lexsort((union, -fused))[:width]
        ids[query, : len(best)] = union[best]
        scores[query, : len(best)] = fused[best]
    return Ranking(ids, scores)


@kinds(weights=maybe(numbers))
class HybridRetriever:
    """Search with several retrievers over the same corpus and fuse what they find.

    Args:
        retrievers: at least one, each over the same documents in the same order.
        depth: documents taken from each retriever, cut to the corpus size, and at least k.
        method, weights, rrf_k: see `fuse`.

    Thread safety: searches may overlap where those of its retrievers may.

    Raises:
        ValueError: no retrievers, or corpora of different sizes.
    """

    def __init__(
        self,
        retrievers: Sequence[Retriever],
        *,
        method: Method = "rrf",
        weights: Sequence[float] | None = None,
        depth: int = 1000,
        rrf_k: float = 60.0,
    ) -> None:
        choice(method, "method", get_args(Method))
        listed = isinstance(retrievers, Sequence)
        if not listed or not all(hasattr(each, "search") for each in retrievers):
            raise TypeError(f"retrievers is {shown(retrievers)}; give a list of retrievers")
        self.retrievers = list(retrievers)
        sizes = sorted({len(retriever) for retriever in self.retrievers})
        if len(sizes) != 1:
            raise ValueError(
                f"retrievers search corpora of {sizes or 'no'} documents; give some of one corpus"
            )
        integer(depth, "depth", 1)
        real(rrf_k, "rrf_k", 0)
        _weights(weights, len(self.retrievers), method)
        self._size = sizes[0]
        self.method, self.weights, self.depth, self.rrf_k = method, weights, depth, rrf_k

    def __len__(self) -> int:
        """Count the documents."""
        return self._size

    def search(
        self, queries: Sequence[str], k: int = 100, *, progress: Progress | None = None
    ) -> Ranking:
        """Find the k best documents of each query after fusion; progress counts the retrievers."""
        k = check_k(k, self._size)
        depth = min(max(self.depth, k), self._size)
        rankings = []
        for place, retriever in enumerate(self.retrievers):
            rankings.append(retriever.search(queries, depth))
            if progress is not None:
                progress(place + 1, len(self.retrievers))
        return fuse(rankings, method=self.method, weights=self.weights, k=k, rrf_k=self.rrf_k)


def _weights(shares: Sequence[float] | None, count: int, method: str) -> NDArray[np.float64]:
    if shares is None:
        return np.full(count, 1.0 if method == "rrf" else 1.0 / count)
    numbers = np.asarray(shares if isinstance(shares, Sequence | np.ndarray) else None)
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "fiu"):
        raise TypeError(f"weights is {shown(shares)}; give one number per ranking")
    weights = numbers.astype(np.float64)
    if len(weights) != count:
        raise ValueError(f"weights has {len(weights)} numbers for {count} rankings; give one each")
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError(
            f"weights is {shown(weights.tolist())}; they must be finite, at least 0, and not all 0"
        )
    return weights


def _reciprocal(ranking: Ranking, rrf_k: float) -> NDArray[np.float64]:
    terms = 1.0 / (rrf_k + np.arange(1, ranking.ids.shape[1] + 1, dtype=np.float64))
    return np.broadcast_to(terms, ranking.ids.shape)


def _normalised(ranking: Ranking) -> NDArray[np.float64]:
    present = ranking.ids >= 0
    scores = ranking.scores.astype(np.float64)
    low = np.min(scores, axis=1, where=present, initial=np.inf, keepdims=True)
    high = np.max(scores, axis=1, where=present, initial=-np.inf, keepdims=True)
    flat = ~(high > low)
    with np.errstate(invalid="ignore"):
        terms = (scores - low) / np.where(flat, 1.0, high - low)
    return np.where(flat, 1.0, np.where(present, terms, 0.0))
