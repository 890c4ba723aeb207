"""What the training of an adapter is: one frozen `AdapterRecipe`, in sections as a file has them.

Options that training an encoder has too mean the same here: `LossPart` is the very same.
"""

from __future__ import annotations

from typing import ClassVar, Literal, TypeAlias, get_args

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
    num_documents: Count = Field(
        default=16_384,
        description="how many documents each step scores: all, if there are no more, else the "
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
    """How long and how fast: Adam, its rate falling linearly to 0."""

    SECTION = "schedule"

    batch_size: Count = Field(default=1024, description="pairs per step; may be all of them")
    epochs: Count = Field(default=10, description="passes over the pairs")
    learning_rate: Positive = Field(default=1e-3, description="of Adam, at the start")
    seed: Whole = Field(
        default=0,
        ge=0,
        description="of the order of pairs, the random documents and random factors",
    )


class AdapterEvaluation(Part):
    """When the evaluation is called; the best adapter is returned."""

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
    >>> recipe.with_options(symmetric=True)
    Traceback (most recent call last):
        ...
    ValueError: loss.symmetric is not for an adapter; leave it out
    """

    WORDS: ClassVar = {"evaluate_every": ("evaluation", "every")}

    adapter: AdapterPart = Field(default=AdapterPart(), description="the map and its documents")
    loss: LossPart = Field(default=LossPart(), description="the contrastive loss")
    weighting: WeightingOption = None
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
