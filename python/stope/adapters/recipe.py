"""What the training of an adapter is: one frozen `AdapterRecipe`, in sections as a file has them.

Options that training an encoder has too mean the same here: `LossPart` is the very same.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias, get_args

from pydantic import Field, model_validator

from stope.training.options import Count, Part, Parts, Positive, Real, Whole
from stope.training.recipe import LossPart, WeightingOption

Kind: TypeAlias = Literal["linear", "low_rank", "mlp"]
Side: TypeAlias = Literal["both", "queries", "documents", "separate"]
SIDES: tuple[Side, ...] = get_args(Side)

# Options of the loss that embeddings, which nobody encodes again, have no use for.
_NOT_OF_ADAPTERS = (
    "learnable_temperature",
    "symmetric",
    "guide",
    "queue",
    "mini_batch_size",
    "matryoshka_weights",
    "query_side",
)


class AdapterPart(Part):
    """The map, and the documents that it is trained against."""

    SECTION = "adapter"

    kind: Annotated[
        Kind,
        Field(
            description="linear: W x, W at first the identity; low_rank: x + U V' x; mlp: "
            "x + W2 gelu(W1 x)"
        ),
    ] = "linear"
    side: Annotated[
        Side,
        Field(
            description="both: one map for queries and documents; queries: for queries only, so "
            "that an index of documents stays as it is; documents: the reverse; separate: two maps"
        ),
    ] = "both"
    dim: Annotated[
        Count | None,
        Field(
            description="what comes out of linear, for the sides both and separate: fewer "
            "dimensions than go in are a projection that starts at the corpus's main directions"
        ),
    ] = None
    rank: Annotated[Count, Field(description="columns of U and V")] = 32
    hidden: Annotated[Count, Field(description="rows of W1")] = 512
    num_documents: Annotated[
        Count,
        Field(
            description="how many documents each step scores: all, if there are no more, else the "
            "positives and negatives of the batch and a random rest; 1: no random rest"
        ),
    ] = 16_384
    weight_decay: Annotated[
        Real, Field(ge=0, description="pulls the maps to where they began, not to 0")
    ] = 0.0
    refresh_every: Annotated[
        Count | None,
        Field(
            description="mine negatives anew with the adapted embeddings every so many epochs, the "
            "first time before training unless negatives are given"
        ),
    ] = None
    num_negatives: Annotated[
        Count, Field(description="how many are mined for each query, the hardest")
    ] = 5
    relative_margin: Annotated[
        Annotated[Real, Field(ge=0)] | None,
        Field(
            description="how far they stay below the query's lowest positive, as in "
            "stope.mine_hard_negatives"
        ),
    ] = 0.05


class AdapterSchedule(Part):
    """How long and how fast: Adam, its rate falling linearly to 0."""

    SECTION = "schedule"

    batch_size: Annotated[Count, Field(description="pairs per step; may be all of them")] = 1024
    epochs: Annotated[Count, Field(description="passes over the pairs")] = 10
    learning_rate: Annotated[Positive, Field(description="of Adam, at the start")] = 1e-3
    seed: Annotated[
        Whole,
        Field(ge=0, description="of the order of pairs, the random documents and random factors"),
    ] = 0


class AdapterEvaluation(Part):
    """When the evaluation is called; the best adapter is returned."""

    SECTION = "evaluation"

    every: Annotated[
        Count, Field(description="epochs between two evaluations; there is one at the end, too")
    ] = 1
    patience: Annotated[
        Count | None, Field(description="stop after so many evaluations in a row without a gain")
    ] = None


class AdapterRecipe(Parts):
    """All options of the training of an adapter.

    >>> recipe = AdapterRecipe().with_options(kind="low_rank", epochs=3, temperature=0.02)
    >>> recipe.adapter.kind, recipe.schedule.epochs, recipe.loss.temperature
    ('low_rank', 3, 0.02)
    >>> recipe.with_options(symmetric=True)
    Traceback (most recent call last):
        ...
    ValueError: loss.symmetric is not for an adapter; leave it out
    """

    WORDS: ClassVar = {"evaluate_every": ("evaluation", "every")}

    adapter: Annotated[AdapterPart, Field(description="the map and its documents")] = AdapterPart()
    loss: Annotated[LossPart, Field(description="the contrastive loss")] = LossPart()
    weighting: WeightingOption = None
    schedule: Annotated[AdapterSchedule, Field(description="how long and how fast")] = (
        AdapterSchedule()
    )
    evaluation: Annotated[AdapterEvaluation, Field(description="when to evaluate")] = (
        AdapterEvaluation()
    )

    @model_validator(mode="after")
    def _for_adapters(self) -> AdapterRecipe:
        for name in _NOT_OF_ADAPTERS:
            if getattr(self.loss, name) != LossPart.model_fields[name].default:
                raise ValueError(f"loss.{name} is not for an adapter; leave it out")
        return self
