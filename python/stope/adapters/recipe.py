"""What the training of an adapter is given: its options, and the embeddings it is trained on.

Options are one frozen `AdapterRecipe`, in sections as a file has them; those that training an
encoder has too mean the same here: `LossPart` is the very same. A `Problem` is what
`train_adapter` is given beside them, once it is known to go together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from stope._checks import shown
from stope._host import on_host
from stope.adapters.maps import Floats, matrix_of_rows, unit
from stope.data.pairs import Among
from stope.lists import Ids, Lists, offsets_of
from stope.ops._search import exclusions
from stope.training.options import Count, Part, Parts, Positive, Real, Whole
from stope.training.presets import PRESETS
from stope.training.recipe import GuardOption, LossPart, WeightingOption

Kind: TypeAlias = Literal["linear", "low_rank", "mlp"]
Side: TypeAlias = Literal["both", "queries", "documents", "separate"]
SIDES: tuple[Side, ...] = get_args(Side)

_USUAL = PRESETS["adapter"]

# Options of the loss that embeddings, which nobody encodes again, have no use for.
_NOT_OF_ADAPTERS = ("guide", "queue", "momentum", "mini_batch_size", "query_side")


class AdapterPart(Part):
    """The map, and the documents that it is trained against."""

    SECTION = "adapter"

    kind: Kind = Field(
        default="linear",
        description="linear: W x, W at first the identity; low_rank: x + U V' x; mlp: "
        "x + W2 gelu(W1 x)",
    )
    side: Side = Field(
        default="both",
        description="both: one map for queries and documents; queries: for queries only, so that "
        "an index of documents stays as it is; documents: the reverse; separate: two maps",
    )
    dim: Count | None = Field(
        default=None,
        description="what comes out of linear, for the sides both and separate: fewer dimensions "
        "than go in are a projection that starts at the corpus's main directions",
    )
    rank: Count = Field(default=32, description="columns of U and V")
    hidden: Count = Field(default=512, description="rows of W1")
    among: Among = Field(
        default="positives",
        description="positives: only documents that are a positive of some query are mined and "
        "scored (negatives that are given are scored, too); corpus: any document",
    )
    num_documents: Count = Field(
        default=16_384,
        description="how many of them each step scores: all, if there are no more, else the "
        "positives and negatives of the batch and a random rest; 1: no random rest",
    )
    weight_decay: Real = Field(
        default=0.0, ge=0, description="pulls the maps to where they began, not to 0"
    )
    refresh_every: Count | None = Field(
        default=None,
        description="mine negatives anew with the adapted embeddings every so many epochs, the "
        "first time before training unless negatives are given",
    )
    num_negatives: Count = Field(
        default=5, description="how many are mined for each query, the hardest"
    )
    relative_margin: Real | None = Field(
        default=0.05,
        ge=0,
        description="how far they stay below the query's lowest positive, as in "
        "stope.mine_hard_negatives",
    )


class AdapterSchedule(Part):
    """How long and how fast: Adam, its rate falling linearly to 0. Defaults: preset adapter."""

    SECTION = "schedule"

    batch_size: Count | None = Field(
        default=None,
        description="pairs per step, may be all of them; default an eighth of them, at least 16 "
        f"and at most {_USUAL['batch_size']:,}",
    )
    epochs: Count = Field(default=_USUAL["epochs"], description="passes over the pairs")
    learning_rate: Positive = Field(
        default=_USUAL["learning_rate"], description="of Adam, at the start"
    )
    seed: Whole = Field(
        default=0,
        ge=0,
        description="of the order of pairs, the random documents and random factors",
    )


class AdapterEvaluation(Part):
    """When the evaluation is called (what is returned then: `stope.adapters.train_adapter`)."""

    SECTION = "evaluation"

    every: Count = Field(
        default=1, description="epochs between two evaluations; there is one at the end, too"
    )
    patience: Count | None = Field(
        default=None, description="stop after so many evaluations in a row without a gain"
    )


class AdapterRecipe(Parts):
    """All options of the training of an adapter.

    >>> recipe = AdapterRecipe().with_options(kind="low_rank", epochs=3, temperature=0.02)
    >>> recipe.adapter.kind, recipe.schedule.epochs, recipe.loss.temperature
    ('low_rank', 3, 0.02)
    >>> recipe.with_options(queue=100)
    Traceback (most recent call last):
        ...
    ValueError: loss.queue is not for an adapter; leave it out
    """

    WORDS: ClassVar = {"evaluate_every": ("evaluation", "every")}

    adapter: AdapterPart = Field(default=AdapterPart(), description="the map and its documents")
    loss: LossPart = Field(default=LossPart(), description="the contrastive loss")
    weighting: WeightingOption = None
    guard: GuardOption = None
    schedule: AdapterSchedule = Field(
        default=AdapterSchedule(), description="how long and how fast"
    )
    evaluation: AdapterEvaluation = Field(
        default=AdapterEvaluation(), description="when to evaluate"
    )

    @model_validator(mode="after")
    def _for_adapters(self) -> AdapterRecipe:
        for name in _NOT_OF_ADAPTERS:
            if getattr(self.loss, name) != LossPart.model_fields[name].default:
                raise ValueError(f"loss.{name} is not for an adapter; leave it out")
        return self


class Source(NamedTuple):
    """Queries and the documents that their negatives are mined among, ascending rows."""

    queries: Ids
    documents: Ids


@dataclass(frozen=True, eq=False)
class Problem:
    """What is trained on.

    Attributes:
        queries: float32 [queries, d], rows of length one.
        corpus: float32 [documents, d], rows of length one.
        positives: of each query; every one of them makes a pair.
        negatives: int64 [queries, n], -1 for none; or None.
        weights: float32 [pairs] or None.
        signals: float32 [pairs] by name.
        sources: every query with a positive is of one.
        never: of each query, documents beside its positives that are no negatives.
    """

    queries: Floats
    corpus: Floats
    positives: Lists
    negatives: Ids | None
    weights: Floats | None
    signals: Mapping[str, Floats]
    sources: tuple[Source, ...]
    never: Lists

    @classmethod
    def checked(
        cls,
        query_embeddings: Any,
        corpus_embeddings: Any,
        positives: Any,
        *,
        negatives: Any,
        weights: Any,
        signals: Mapping[str, Any],
        sources: Sequence[tuple[Any, Any]] | None,
        exclude: Any,
    ) -> Problem:
        """The problem, if what `train_adapter` was given goes together."""
        queries = matrix_of_rows(query_embeddings, "query_embeddings")
        corpus = matrix_of_rows(corpus_embeddings, "corpus_embeddings")
        if queries.shape[1] != corpus.shape[1]:
            raise ValueError(
                f"corpus_embeddings has dim {corpus.shape[1]} but query_embeddings has"
                f" {queries.shape[1]}; give embeddings of one encoder"
            )
        lists = _lists_of_positives(positives, len(queries), len(corpus))
        excluded = exclusions(exclude, len(queries), len(corpus))
        nothing = Lists(np.zeros(len(queries) + 1, np.int64), np.empty(0, np.int64))
        never = nothing if excluded is None else excluded.without(lists)
        rows = _negatives(negatives, len(queries), len(corpus))
        if rows is not None:
            owners = np.arange(len(rows)).repeat(rows.shape[1])
            rows = np.where(never.contains(owners, rows.ravel()).reshape(rows.shape), -1, rows)
        return cls(
            unit(queries),
            unit(corpus),
            lists,
            rows,
            _weights(weights, len(lists.ids)),
            {
                name: _numbers_per_pair(values, f"signals[{shown(name)}]", len(lists.ids))
                for name, values in signals.items()
            },
            _sources(sources, lists, len(corpus)),
            never,
        )

    def among_positives(self) -> Problem:
        """The same over documents that are positives of pairs with weight, or given negatives.

        Of its sources, the documents are such positives alone.
        """
        pairs = slice(None) if self.weights is None else self.weights > 0
        scored = answers = np.unique(self.positives.ids[pairs])
        if self.negatives is not None:
            scored = np.union1d(answers, self.negatives[self.negatives >= 0])

        def place(rows: Ids) -> Ids:
            return np.searchsorted(scored, rows)

        kept = np.isin(self.positives.ids, scored)  # all but pairs without weight
        owners, rows = self.positives.owners[kept], place(self.positives.ids[kept])
        return replace(
            self,
            corpus=self.corpus[scored],
            positives=Lists.from_owners(owners, rows, self.positives.num_lists),
            weights=None if self.weights is None else self.weights[kept],
            signals={name: values[kept] for name, values in self.signals.items()},
            negatives=None
            if self.negatives is None
            else np.where(self.negatives >= 0, place(self.negatives), -1),
            sources=tuple(
                Source(source.queries, place(np.intersect1d(source.documents, answers)))
                for source in self.sources
            ),
            never=self.never.among(scored),
        )


def _lists_of_positives(positives: Any, num_queries: int, num_documents: int) -> Lists:
    """Rows of positives in the order in which they are given."""
    if isinstance(positives, tuple) and len(positives) == 2 and hasattr(positives[0], "__len__"):
        offsets, ids = (
            _row_vector(part, f"positives[{place}]") for place, part in enumerate(positives)
        )
        good = len(offsets) == num_queries + 1 and offsets[0] == 0 and offsets[-1] == len(ids)
        if not good or (np.diff(offsets) < 0).any():
            raise ValueError(
                f"positives are (offsets, rows) with {len(offsets)} offsets that must be"
                f" {num_queries + 1}, rise from 0 and end at {len(ids)}, the number of rows"
            )
    elif isinstance(positives, list | tuple) and any(hasattr(r, "__len__") for r in positives):
        rows = [_row_vector(ids, f"positives[{query}]") for query, ids in enumerate(positives)]
        if len(rows) != num_queries:
            raise ValueError(f"positives has {len(rows)} lists for {num_queries} queries")
        offsets, ids = offsets_of([len(ids) for ids in rows]), np.concatenate(rows)
    else:
        ids = _row_vector(positives, "positives")
        if len(ids) != num_queries:
            raise ValueError(
                f"positives has shape {ids.shape} for {num_queries} queries; give one row each, a"
                " list of rows each, or CSR (offsets, rows)"
            )
        offsets = np.arange(num_queries + 1, dtype=np.int64)
    if not len(ids):
        raise ValueError("positives is empty; there is nothing to train on")
    _check_range(ids, "positives", num_documents, "documents")
    return Lists(offsets, ids)


def _negatives(negatives: Any, num_queries: int, num_documents: int) -> Ids | None:
    if negatives is None:
        return None
    rows = _integers(negatives)
    if rows is None:
        raise TypeError(f"negatives is {shown(negatives)}; give row numbers, -1 for none")
    if rows.ndim != 2 or len(rows) != num_queries:
        raise ValueError(
            f"negatives has shape {rows.shape} for {num_queries} queries; it needs a row for each"
        )
    if (rows < -1).any() or (rows >= num_documents).any():
        raise ValueError(f"negatives has a row outside -1 and the {num_documents} documents")
    return rows


def _sources(
    sources: Sequence[tuple[Any, Any]] | None, positives: Lists, num_documents: int
) -> tuple[Source, ...]:
    """One source of all where None is given."""
    num_queries = positives.num_lists
    if sources is None:
        return (Source(np.arange(num_queries), np.arange(num_documents)),)
    checked, times = [], np.zeros(num_queries, dtype=np.int64)
    for place, source in enumerate(sources):
        rows = [_row_vector(part, f"sources[{place}][{side}]") for side, part in enumerate(source)]
        if len(rows) != 2:
            raise ValueError(f"sources[{place}] has {len(rows)} parts; give queries and documents")
        _check_range(rows[0], f"sources[{place}][0]", num_queries, "queries")
        _check_range(rows[1], f"sources[{place}][1]", num_documents, "documents")
        queries, documents = (np.unique(part) for part in rows)
        times[queries] += 1
        known = positives.take(queries)
        foreign = np.flatnonzero(~np.isin(known.ids, documents))
        if len(foreign):
            raise ValueError(
                f"sources[{place}] has query {queries[known.owners[foreign[0]]]}, but not document"
                f" {known.ids[foreign[0]]}, a positive of it; add it to the documents of that"
                " source"
            )
        checked.append(Source(queries, documents))
    wrong = np.flatnonzero((times != 1) & (times + positives.lengths > 0))
    if len(wrong):
        raise ValueError(
            f"sources has query {wrong[0]} {times[wrong[0]]} times; every query that has a positive"
            " is of one source"
        )
    return tuple(checked)


def _numbers_per_pair(values: Any, name: str, pairs: int) -> Floats:
    """Float32 [pairs], without NaN."""
    try:
        numbers = np.asarray(on_host(values), dtype=np.float32)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} is {shown(values)}; give one number per pair") from None
    if numbers.shape != (pairs,):
        raise ValueError(
            f"{name} has shape {numbers.shape} for {pairs} pairs of a query and a positive; give"
            " one number each, in the order of the positives"
        )
    wrong = np.flatnonzero(np.isnan(numbers))
    if len(wrong):
        raise ValueError(f"{name}[{wrong[0]}] is NaN; give a number")
    return numbers


def _weights(weights: Any, pairs: int) -> Floats | None:
    """Weights [pairs], finite, at least 0 and not all 0."""
    if weights is None:
        return None
    numbers = _numbers_per_pair(weights, "weights", pairs)
    wrong = np.flatnonzero(~(numbers >= 0) | np.isinf(numbers))
    if len(wrong):
        raise ValueError(f"weights[{wrong[0]}] is {numbers[wrong[0]]}; weights are finite and >= 0")
    if not numbers.any():
        raise ValueError("weights are all 0; there is nothing to train on")
    return numbers


def _row_vector(values: Any, name: str) -> Ids:
    rows = _integers(values)
    if rows is None or rows.ndim != 1:
        raise TypeError(f"{name} is {shown(values)}; give row numbers, one list of integers")
    return rows


def _integers(values: Any) -> Ids | None:
    """An array of integers, or None."""
    try:
        array: NDArray[Any] = on_host(values)
    except ValueError:  # ragged
        return None
    return array.astype(np.int64) if array.dtype.kind in "iu" or not array.size else None


def _check_range(rows: Ids, name: str, count: int, what: str) -> None:
    wrong = rows[(rows < 0) | (rows >= count)]
    if len(wrong):
        raise ValueError(f"{name} has the row {wrong[0]}; there are {count} {what}")
