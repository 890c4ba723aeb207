"""One step of training: the maps as torch parameters, the documents, the weighted loss."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import torch
from stope.adapters.maps import Floats, Linear, LowRank, Map, ResidualMLP, arrays
from stope.adapters.recipe import AdapterPart, AdapterRecipe, Problem
from stope.lists import Ids, Lists, offsets_of, ranges
from stope.torch import InfoNCELoss, Statistics
from stope.torch.functional import SCALAR_OPTIONS
from stope.torch.losses import both_ways, check_weights
from stope.training.losses import options_said
from stope.training.recipe import LossPart
from stope.weighting import difficulty_signals, summarize_weights, weigh

_SIDES: tuple[Literal["left", "right"], ...] = ("left", "right")
_OF_MODULE = ("temperature", "learnable_temperature", "max_scale", "bias", "positive_sigma")
OF_HARD_NEGATIVES = (
    "hard_negative_log_weight",
    "foreign_hard_negatives",
    "documents_see_hard_negatives",
    "hardness",
)


class Trainable:
    """One map while it is trained: `current` is it with gradients, `frozen` a copy in NumPy.

    Factors are scaled so that one learning rate suits all kinds: a step of Adam moves every entry
    by about the learning rate, and moves f(x) by about as much as it would with a full matrix.

    Args:
        part: kind, rank and hidden.
        start: float32 [out, d], where a linear map starts.
        generator: of V and W1.
    """

    def __init__(self, part: AdapterPart, start: Floats, generator: np.random.Generator) -> None:
        dim = start.shape[1]

        def normal(*shape: int) -> torch.Tensor:
            return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, requires_grad=True)

        self.kind = part.kind
        self._start = torch.from_numpy(start)
        self._scale = 1.0
        # Decay pulls the parameter that starts at zero back there: f back to where it began.
        self.decayed: torch.Tensor = zeros(*start.shape)
        self.free: torch.Tensor | None = None
        if part.kind == "low_rank":
            self.decayed = zeros(dim, part.rank)
            self.free = (normal(dim, part.rank) / part.rank**0.5).requires_grad_()
        elif part.kind == "mlp":
            # Rows have length one, so W1 x has entries of variance one.
            self._scale = part.hidden**-0.5
            self.decayed = zeros(dim, part.hidden)
            self.free = normal(part.hidden, dim).requires_grad_()

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser."""
        groups: list[dict[str, Any]] = [{"params": [self.decayed], "weight_decay": weight_decay}]
        if self.free is not None:
            groups.append({"params": [self.free], "weight_decay": 0.0})
        return groups

    def current(self) -> Map:
        """The map of torch tensors that gradients flow to."""
        if self.kind == "linear":
            return Linear(self._start + self.decayed)
        if self.kind == "low_rank":
            return LowRank(self.decayed, self.free)
        return ResidualMLP(self.free, self._scale * self.decayed)

    def frozen(self) -> Map:
        """A copy of the map as it is, in NumPy."""
        now = self.current()
        return type(now)(
            **{name: tensor.detach().numpy().copy() for name, tensor in arrays(now).items()}
        )


def start_matrix(dim: int, out: int, corpus: Floats) -> Floats:
    """The identity, or for out < dim the directions in which the corpus is longest.

    Those are the eigenvectors of sum x x' of the largest eigenvalues: of all projections to so many
    dimensions they keep most of the squared lengths. The largest entry of each is positive, so that
    the same corpus gives the same signs. Memory: 65,536 rows in float64.
    """
    if out == dim:
        return np.eye(dim, dtype=np.float32)
    moments = np.zeros((dim, dim))
    for first in range(0, len(corpus), 65_536):
        block = corpus[first : first + 65_536].astype(np.float64)
        moments += block.T @ block
    directions = np.linalg.eigh(moments)[1].T[::-1][:out]
    largest = np.take_along_axis(directions, abs(directions).argmax(axis=1)[:, None], axis=1)
    return np.ascontiguousarray(directions * np.sign(largest), dtype=np.float32)


class Step:
    """Callable: the loss of a batch of pairs, and numbers about it.

    Args:
        problem: what is trained on.
        maps: of queries and documents, None where rows stay.
        recipe: its loss, weighting and number of documents.
        out: the dimension that comes out of the maps.

    Attributes:
        loss: `stope.torch.InfoNCELoss`, whose parameters are trained, too.

    Raises:
        ValueError: matryoshka_dims beyond out, or another number of weights; symmetric with more
            directions.
    """

    def __init__(
        self,
        problem: Problem,
        maps: tuple[Trainable | None, Trainable | None],
        recipe: AdapterRecipe,
        out: int,
    ) -> None:
        self.problem, self.maps, self.recipe = problem, maps, recipe
        part = recipe.loss
        self.factors = _factors(part, out)
        if part.symmetric and len(part.directions or ()) > 1:
            raise ValueError(
                "symmetric adds a loss of its own from documents to queries, but directions is "
                f"{part.directions}; leave one of the two out"
            )
        fields = LossPart.model_fields
        self.loss = InfoNCELoss(
            **{
                name: value
                for name, value in options_said(dict(part)).items()
                if name in (*_OF_MODULE, *SCALAR_OPTIONS) and value != fields[name].default
            }
        )
        self._pair_query = problem.positives.owners
        self._no_negatives = problem.positives.union(problem.never)
        self._queries = torch.from_numpy(problem.queries)
        self._corpus = torch.from_numpy(problem.corpus)

    def __call__(
        self, chosen: Ids, negatives: Ids | None, progress: float, generator: np.random.Generator
    ) -> tuple[torch.Tensor | None, dict[str, float]]:
        """The loss of the pairs, None where all weights are 0; and numbers for the log."""
        problem = self.problem
        rows, positives = self._pair_query[chosen], problem.positives.ids[chosen]
        hard = None if negatives is None else negatives[rows]
        wanted = positives if hard is None else np.concatenate([positives, hard.ravel()])
        documents = documents_of_step(
            wanted, len(problem.corpus), self.recipe.adapter.num_documents, generator
        )
        of_queries, of_documents = self._current()
        queries = of_queries(self._queries[rows])
        # All documents in their order are the corpus itself: no copy of it in every step.
        whole = len(documents) == len(problem.corpus)
        corpus = of_documents(self._corpus if whole else self._corpus[documents])
        columns = None if hard is None else self._columns(hard, rows, documents)
        right = torch.from_numpy(np.searchsorted(documents, positives))
        there = {
            "positives": right,
            "exclude": other_positives(rows, positives, self._no_negatives, documents),
            "hard_negatives": self._hard_negatives(columns),
        }
        back = {"exclude": self._queries_that_have(rows, positives)} if self._symmetric else {}
        mean: torch.Tensor | None = None
        weights: torch.Tensor | None = None
        facts: dict[str, float] = {}
        for dim, factor in self.factors.items():
            short = queries[:, :dim], corpus[:, :dim]
            if self._symmetric:
                losses, statistics = both_ways(self.loss, *short, right, there, back)
            else:
                losses, statistics = self.loss.row_losses(*short, **there)
            if weights is None:  # the difficulty over all coordinates weighs every prefix
                own_scores = self._own_scores(queries, corpus, columns)
                weights = self._weights(statistics, own_scores, chosen, progress)
                weights = check_weights(losses, weights, none_is_fine=True)
                facts = _facts(statistics, weights, len(documents))
                if self.loss.log_scale is not None:
                    facts["temperature"] = float(self.loss.temperature.detach())
                if not bool(weights.any()):
                    return None, facts
            pairs = statistics.negatives / (2 if self._symmetric else 1)
            loss = factor * self.loss.mean(losses, weights, pairs)
            mean = loss if mean is None else mean + loss
        return mean, facts

    @property
    def _symmetric(self) -> bool:
        return self.recipe.loss.symmetric

    def _queries_that_have(self, rows: Ids, positives: Ids) -> Lists:
        """For each line those whose queries its positive is no negative of, itself among them."""
        known = self._no_negatives.take(rows)
        order = np.argsort(known.ids, kind="stable")
        first, last = (np.searchsorted(known.ids[order], positives, side) for side in _SIDES)
        return Lists(offsets_of(last - first), known.owners[order[ranges(first, last - first)]])

    def _current(self) -> tuple[Any, Any]:
        """The maps as they are now; both sides share one graph where they share the map."""
        first, second = self.maps
        of_queries = first.current() if first is not None else _same
        if second is first:
            return of_queries, of_queries
        return of_queries, second.current() if second is not None else _same

    def _columns(self, hard: Ids, rows: Ids, documents: Ids) -> Ids:
        """The columns [rows, n] of the queries' own negatives; -1 for none and for positives."""
        lines = np.repeat(rows, hard.shape[1])
        right = self.problem.positives.contains(lines, hard.ravel()).reshape(hard.shape)
        return np.where((hard >= 0) & ~right, np.searchsorted(documents, hard), -1)

    def _hard_negatives(self, columns: Ids | None) -> Lists | None:
        """Each line's own hard negatives once, where an option of the loss asks for them."""
        if columns is None or not _asked_of_hard_negatives(self.recipe.loss):
            return None
        return Lists.from_sequences([np.unique(line[line >= 0]) for line in columns])

    def _own_scores(
        self, queries: torch.Tensor, corpus: torch.Tensor, columns: Ids | None
    ) -> NDArray[np.float32] | None:
        """Cosines of each query and its own hard negatives [rows, n], -inf for none."""
        if columns is None or self.recipe.weighting is None:
            return None
        normalize = torch.nn.functional.normalize
        with torch.no_grad():
            left = normalize(queries)
            right = normalize(corpus[torch.from_numpy(columns.clip(min=0))], dim=2)
            scores = torch.einsum("bd,bnd->bn", left, right).numpy()
        return np.where(columns >= 0, scores, -np.inf).astype(np.float32)

    def _weights(
        self, statistics: Statistics, own_scores: Any, chosen: Ids, progress: float
    ) -> torch.Tensor:
        known = self.problem.weights
        if self.recipe.weighting is None:
            return torch.ones(len(chosen)) if known is None else torch.from_numpy(known[chosen])
        signals = difficulty_signals(statistics, own_scores=own_scores)
        for name, values in self.problem.signals.items():
            signals[name] = torch.from_numpy(values[chosen])
        if known is not None:
            signals["weight"] = torch.from_numpy(known[chosen])
        return weigh(self.recipe.weighting, signals, progress)


def needs_hard_negatives(loss: LossPart) -> bool:
    """Whether an option would have no effect without hard negatives of the queries' own."""
    asked = _asked_of_hard_negatives(loss)
    return bool(asked - {"hardness"}) or loss.hardness == "hard_negatives"


def _asked_of_hard_negatives(loss: LossPart) -> set[str]:
    fields = LossPart.model_fields
    return {name for name in OF_HARD_NEGATIVES if getattr(loss, name) != fields[name].default}


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


def other_positives(rows: Ids, own: Ids, positives: Lists, documents: Ids) -> Lists:
    """The columns of each line's documents in these lists, other than its own positive."""
    known = positives.take(rows)
    line = known.owners
    column = np.searchsorted(documents, known.ids).clip(max=len(documents) - 1)
    keep = (known.ids != own[line]) & (documents[column] == known.ids)
    return Lists.from_owners(line[keep], column[keep], len(rows))


def _factors(part: LossPart, out: int) -> dict[int, float]:
    """How many coordinates count, one loss for each, and its weight; all of them come first."""
    dims, weights = part.matryoshka_dims or (), part.matryoshka_weights
    if weights is not None and len(weights) != len(dims):
        raise ValueError(
            f"matryoshka_weights has {len(weights)} numbers for {len(dims)} matryoshka_dims; give "
            "one each"
        )
    factors = {out: 1.0, **dict(zip(dims, weights or [1.0] * len(dims), strict=True))}
    if max(factors) > out or len(set(dims)) < len(dims):
        raise ValueError(
            f"matryoshka_dims are {list(dims)}; each must be from 1 to {out}, the dimension that"
            " comes out, and named once"
        )
    return dict(sorted(factors.items(), reverse=True))


def _same(rows: torch.Tensor) -> torch.Tensor:
    return rows


def _facts(statistics: Statistics, weights: torch.Tensor, documents: int) -> dict[str, float]:
    spread = summarize_weights(weights.detach())
    ranks = statistics.ranks
    return {
        "documents": float(documents),
        "rank_one": float((ranks == 1).float().mean()),
        "mean_rank": float(ranks.float().mean()),
        **{f"weight_{name}": float(value) for name, value in spread._asdict().items()},
    }
