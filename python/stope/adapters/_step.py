"""One step of training: which documents, the weighted loss, what it says about the batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.adapters._inputs import Csr
from stope.adapters._trainable import Trainable
from stope.adapters.maps import Floats
from stope.weighting import Weighting, difficulty_signals, summarize_weights, weigh

Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """What is trained on.

    Attributes:
        queries: float32 [queries, d], rows of length one.
        corpus: float32 [documents, d], rows of length one.
        offsets: int64 [queries + 1], of each query's positives.
        ids: int64 [pairs], the positives.
        num_documents: how many documents a step scores at least.
        weights: float32 [pairs] or None.
        signals: float32 [pairs] by name.
    """

    queries: Floats
    corpus: Floats
    offsets: Ids
    ids: Ids
    num_documents: int
    weights: Floats | None
    signals: Mapping[str, Floats]


class Step:
    """Callable: the loss of a batch of pairs, and numbers about it.

    Args:
        problem: what is trained on.
        maps: of queries and documents, None where rows stay.
        weighting: or None.
        dims: how many coordinates count, one loss for each; all of them come first.
        temperature: divides the cosines.
        fixed: options of the loss.
        more: more of them.
    """

    def __init__(
        self,
        problem: Problem,
        maps: tuple[Trainable | None, Trainable | None],
        weighting: Weighting | None,
        dims: list[int],
        temperature: float,
        fixed: Mapping[str, Any],
        more: Mapping[str, Any] | None,
    ) -> None:
        torch: Any = need("torch", extra="train")
        from stope.torch._operators import encode
        from stope.torch.losses import check_options

        options = {**fixed, **(more or {})}
        check_options(options, "loss_options")
        self.problem, self.maps, self.weighting, self.dims = problem, maps, weighting, dims
        self.temperature, self._options = temperature, encode(options)
        self._pair_query = np.repeat(np.arange(len(problem.queries)), np.diff(problem.offsets))
        self._queries = torch.from_numpy(problem.queries)
        self._corpus = torch.from_numpy(problem.corpus)

    def __call__(
        self, chosen: Ids, negatives: Ids | None, progress: float, generator: np.random.Generator
    ) -> tuple[Any, dict[str, float]]:
        """The loss of the pairs, None where all weights are 0; and numbers for the log."""
        from stope.torch.functional import infonce_statistics
        from stope.torch.losses import check_weights

        torch: Any = need("torch", extra="train")
        problem = self.problem
        rows, own = self._pair_query[chosen], problem.ids[chosen]
        wanted = own if negatives is None else np.concatenate([own, negatives[rows].ravel()])
        documents = documents_of_step(wanted, len(problem.corpus), problem.num_documents, generator)
        of_queries, of_documents = self._current()
        queries = of_queries(self._queries[rows])
        # All documents in their order are the corpus itself: no copy of it in every step.
        whole = len(documents) == len(problem.corpus)
        found = of_documents(self._corpus if whole else self._corpus[documents])
        exclude = other_positives(rows, own, problem.offsets, problem.ids, documents)
        mean: Any = None
        share: Any = None
        facts: dict[str, float] = {}
        for dim in self.dims:
            losses, statistics = infonce_statistics(
                queries[:, :dim],
                found[:, :dim],
                torch.from_numpy(np.searchsorted(documents, own)),
                exclude=exclude,
                temperature=self.temperature,
                options=self._options,
            )
            if share is None:  # the difficulty over all coordinates weighs every prefix
                weights = self._weights(statistics, chosen, progress)
                weights = check_weights(losses, weights, none_is_fine=True)
                facts = _facts(statistics, weights, len(documents))
                if not bool(weights.any()):
                    return None, facts
                share = weights / weights.sum() / len(self.dims)
            loss = (share * losses).sum()
            mean = loss if mean is None else mean + loss
        return mean, facts

    def _current(self) -> tuple[Any, Any]:
        """The maps as they are now; both sides share one graph where they share the map."""
        first, second = self.maps
        of_queries = first.current() if first is not None else _same
        if second is first:
            return of_queries, of_queries
        return of_queries, second.current() if second is not None else _same

    def _weights(self, statistics: Any, chosen: Ids, progress: float) -> Any:
        torch: Any = need("torch", extra="train")
        own = self.problem.weights
        if self.weighting is None:
            return torch.ones(len(chosen)) if own is None else torch.from_numpy(own[chosen])
        signals = difficulty_signals(statistics)
        for name, values in self.problem.signals.items():
            signals[name] = torch.from_numpy(values[chosen])
        if own is not None:
            signals["weight"] = torch.from_numpy(own[chosen])
        return weigh(self.weighting, signals, progress)


def documents_of_step(
    wanted: Ids, count: int, num_documents: int, generator: np.random.Generator
) -> Ids:
    """Ascending rows: all documents, or the wanted ones filled up at random to num_documents."""
    if count <= num_documents:
        return np.arange(count)
    needed = np.unique(wanted)
    needed = needed[needed >= 0]
    more = generator.choice(count, size=max(0, num_documents - len(needed)), replace=False)
    return np.union1d(needed, more)


def other_positives(rows: Ids, own: Ids, offsets: Ids, ids: Ids, documents: Ids) -> Csr:
    """The columns of each line's positives other than its own, as (offsets, columns)."""
    counts = np.diff(offsets)[rows]
    line = np.repeat(np.arange(len(rows)), counts)
    # The positions of a line's positives in `ids`, one line after the other.
    within = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
    positive = ids[np.repeat(offsets[rows], counts) + within]
    column = np.searchsorted(documents, positive).clip(max=len(documents) - 1)
    keep = (positive != own[line]) & (documents[column] == positive)
    ends = np.cumsum(np.bincount(line[keep], minlength=len(rows)))
    return np.concatenate([[0], ends]).astype(np.int64), column[keep]


def _same(rows: Any) -> Any:
    return rows


def _facts(statistics: Any, weights: Any, documents: int) -> dict[str, float]:
    spread = summarize_weights(weights.detach())
    ranks = statistics.ranks
    return {
        "documents": float(documents),
        "rank_one": float((ranks == 1).float().mean()),
        "mean_rank": float(ranks.float().mean()),
        **{f"weight_{name}": float(value) for name, value in spread._asdict().items()},
    }
