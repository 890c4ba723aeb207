"""What a training is: one frozen `Recipe`, whose parts are the sections of a configuration file.

Every option is defined, checked and explained here and nowhere else: `train` takes them by name,
`stope train` reads them from YAML, a checkpoint keeps those that decide the result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from stope._named import Named, names_of
from stope.encoders.lora import Lora
from stope.encoders.prompts import TaskPrompts
from stope.ops._infonce_options import Direction, Hardness, Metric, Partition, Precision
from stope.ops._objectives import Objective, objective_of, words_of
from stope.training.batches import BatchSpec
from stope.training.negatives.refresh import NegativeRefresh
from stope.training.options import (
    Count,
    FieldsOf,
    Flag,
    Part,
    Parts,
    Positive,
    Real,
    Whole,
    Word,
)
from stope.training.presets import PRESETS, Preset
from stope.training.teacher import DistillationOption, TeacherOption
from stope.weighting import Weighting

Scheduler = Literal["linear", "cosine", "constant"]


class LossPart(Part):
    """The contrastive loss: the options of `stope.infonce_forward` that hold for a whole training.

    `stope.training.contrastive_loss` makes the loss. Its formulas are in docs/methods.md, H1 to H8.
    """

    SECTION = "loss"

    temperature: Annotated[
        Positive,
        Field(description="divides the similarities; small values look at the hardest negatives"),
    ] = 0.05
    learnable_temperature: Annotated[
        Flag, Field(description="train log(1 / temperature) along with the encoder (CLIP)")
    ] = False
    max_scale: Annotated[
        Positive, Field(description="of a learnable temperature: 1 / temperature is at most this")
    ] = 100.0
    metric: Annotated[Metric, Field(description="the similarity of query and document")] = "cosine"
    objective: Annotated[
        Objective,
        BeforeValidator(objective_of),
        Field(
            description="by its word or its paper's name: out (InfoNCE, SupCon), in, excl, "
            "decoupled (DCL, DCLW), hardness (HCL), pairwise (STAR) or sigmoid (SigLIP)"
        ),
    ] = "out"
    bias: Annotated[
        Real | None, Field(description="of objective sigmoid: added to its logits; default -10")
    ] = None
    positive_sigma: Annotated[
        Positive | None,
        Field(
            description="of objective decoupled: near positives count less (DCLW, which says 0.5)"
        ),
    ] = None
    beta: Annotated[
        Real | None,
        Field(
            description="of objective hardness: how much harder negatives count, "
            "default 0 (all alike)"
        ),
    ] = None
    positive_prior: Annotated[
        Real | None, Field(description="of objective hardness: share of positives among negatives")
    ] = None
    detach_hardness: Annotated[
        Flag | None, Field(description="of objective hardness: no gradient through its weights")
    ] = None
    focal_margin: Annotated[
        Real | None, Field(description="logits squared, with this margin (Focal-InfoNCE)")
    ] = None
    directions: Annotated[
        tuple[Direction, ...] | None,
        Field(
            min_length=1,
            description="which similarities share the denominator; default query_to_document, and "
            "with a guide also query_to_query and document_to_document (GISTEmbed)",
        ),
    ] = None
    partition: Annotated[
        Partition,
        Field(description="one denominator for all directions, or the mean of one loss for each"),
    ] = "joint"
    symmetric: Annotated[
        Flag,
        Field(
            description="the mean of the loss and of that from the rows' positives to all queries"
        ),
    ] = False
    hardness: Annotated[
        Hardness | None, Field(description="whose logits get hardness_strength x similarity on top")
    ] = None
    hardness_strength: Annotated[Real, Field(description="see hardness")] = 0.0
    hard_negative_log_weight: Annotated[
        Real | None, Field(description="added to the logits of the rows' own hard negatives")
    ] = None
    foreign_hard_negatives: Annotated[
        Flag, Field(description="hard negatives of other rows are negatives too")
    ] = True
    documents_see_hard_negatives: Annotated[
        Flag, Field(description="hard negatives take part in document_to_document")
    ] = True
    absolute_margin: Annotated[
        Real | None,
        Field(description="no negative scores above p - this, p the positive's score"),
    ] = None
    relative_margin: Annotated[
        Real | None, Field(description="no negative scores above p - abs(p) x this")
    ] = None
    max_score: Annotated[Real | None, Field(description="highest score of a negative")] = None
    min_score: Annotated[Real | None, Field(description="lowest score of a negative")] = None
    guide: Annotated[
        Any,
        WithJsonSchema({"type": "string"}),
        Field(
            description="another encoder, or its name, whose scores the margins read (GISTEmbed)"
        ),
    ] = None
    queue: Annotated[
        Count | None, Field(description="so many documents of past batches are negatives too")
    ] = None
    momentum: Annotated[
        Real | None,
        Field(
            ge=0,
            le=1,
            description="with a queue: documents are encoded, without gradient, by a moving "
            "average of the encoder, this much of which stays in every step (MoCo: 0.999)",
        ),
    ] = None
    precision: Annotated[
        Precision,
        Field(description="of the products; bfloat16 is faster on AVX-512 with BF16, and with AMX"),
    ] = "float32"
    drop: Annotated[
        Real,
        Field(ge=0, lt=1, description="share of a row's negatives' mass that gets no gradient"),
    ] = 0.0
    mini_batch_size: Annotated[
        Count | None,
        Field(
            description="encode so many rows at a time, keeping no activations (GradCache), "
            "so that memory does not grow with the batch; not for a static encoder"
        ),
    ] = None
    matryoshka_dims: Annotated[
        tuple[Count, ...] | None,
        Field(min_length=1, description="also train these first dimensions of the embeddings"),
    ] = None
    matryoshka_weights: Annotated[
        tuple[Positive, ...] | None,
        Field(min_length=1, description="the weight of each of matryoshka_dims; default 1"),
    ] = None
    query_side: Annotated[
        Literal["lambda_mrr", "infonce"] | None,
        Field(description="the loss of negatives.mode query_side; default lambda_mrr"),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _in_our_words(cls, options: Any) -> Any:
        return words_of(options) if isinstance(options, Mapping) else options


class SchedulePart(Part):
    """How long and how fast; what is None is chosen to suit encoder and rows."""

    SECTION = "schedule"

    batch_size: Annotated[
        Whole | None,
        Field(
            ge=2,
            description="rows per step, of each process; default that of the preset, and less for "
            "fewer rows: an eighth of them (of several processes an eighth of each one's part), "
            "but 16 at least",
        ),
    ] = None
    epochs: Annotated[
        Count | None, Field(description="passes over the rows; default that of the preset")
    ] = None
    max_steps: Annotated[
        Count | None, Field(description="optimiser steps in total, in place of epochs")
    ] = None
    learning_rate: Annotated[
        Positive | None,
        Field(
            description="peak of the schedule; default that of the preset, ten times it with lora"
        ),
    ] = None
    warmup: Annotated[
        Real,
        Field(ge=0, lt=1, description="share of the steps in which the rate rises from 0"),
    ] = 0.1
    scheduler: Annotated[
        Scheduler,
        Field(description="how the rate goes on after that: linear and cosine fall to 0"),
    ] = "linear"
    seed: Annotated[
        Whole, Field(ge=0, le=2**32 - 1, description="of the order of rows and of dropout")
    ] = 0
    threads: Annotated[
        Count | None, Field(description="of the processor, while training; default as they are")
    ] = None
    autocast: Annotated[
        Literal["bfloat16"] | None,
        Field(
            description="encode in mixed precision while training; evaluation and refresh stay in "
            "float32"
        ),
    ] = None
    preset: Annotated[
        Preset | None,
        Field(
            description="whose batch_size, epochs and learning_rate hold where none are given, "
            "for a static encoder, one that retrieves already, one that never learned to (or has "
            "some hundred pairs to learn from), and an adapter: "
            + ", ".join(f"{name} {tuple(numbers.values())}" for name, numbers in PRESETS.items())
            + "; default by what is trained, transformer for a base encoder too"
        ),
    ] = None

    @model_validator(mode="after")
    def _one_length(self) -> SchedulePart:
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError(
                f"both epochs ({self.epochs}) and max_steps ({self.max_steps}) are given; keep one"
            )
        return self


class EvaluationPart(Part):
    """When the evaluation is called, and what follows from it."""

    SECTION = "evaluation"

    every: Annotated[
        Count | None,
        Field(description="steps between evaluations; default once an epoch, and at the end"),
    ] = None
    patience: Annotated[
        Count | None, Field(description="stop after so many evaluations in a row without a gain")
    ] = None
    keep: Annotated[
        Literal["last", "best"],
        Field(description="the weights of the last step, or those of the best evaluation"),
    ] = "last"


class GuardPart(Part):
    """Let negatives and weights enter in a second stage that stays only where it helps.

    The first stage is the training without them; if the second does not gain on the evaluation's
    queries by more than chance, the weights of the first are the result (`stope.training.guard`).
    """

    SECTION = "guard"

    stage: Annotated[
        Positive, Field(description="steps of the second stage, as a share of those of the first")
    ] = 0.5
    rate: Annotated[
        Positive, Field(description="its peak learning rate, as a share of the first's")
    ] = 0.5
    errors: Annotated[
        Real,
        Field(
            ge=0,
            description="its mean gain must exceed so many standard errors of the differences, "
            "query by query",
        ),
    ] = 1.0

    def steps(self, first: int) -> int:
        """Steps of the second stage after so many of the first."""
        return max(1, round(self.stage * first))


class OutputPart(Part):
    """Where a training is written, and how often."""

    SECTION = "output"

    folder: Annotated[
        Word | None,
        Field(description="for log.jsonl and checkpoints/; made if its parent exists"),
    ] = None
    checkpoint_every: Annotated[
        Count | None, Field(description="steps between checkpoints; default once an epoch")
    ] = None
    keep_checkpoints: Annotated[Count, Field(description="how many of the newest stay")] = 2
    tensorboard: Annotated[
        Flag, Field(description="write the log for TensorBoard too; needs the extra log")
    ] = False


def _read(build: Callable[[Any], Any]) -> BeforeValidator:
    """Let a field be given as what ``build`` makes its object of."""
    return BeforeValidator(lambda given: None if given is None else build(given))


def _named(family: type[Named]) -> WithJsonSchema:
    names = {"enum": list(names_of(family))}
    return WithJsonSchema({"anyOf": [names, {"type": "object", "properties": {"name": names}}]})


WeightingOption: TypeAlias = Annotated[
    Weighting | None,
    _read(Weighting.from_dict),
    _named(Weighting),
    Field(
        description="how rows weigh by difficulty and progress: a name, or name and fields, of "
        f"stope.weighting ({', '.join(names_of(Weighting))})"
    ),
]


NegativesOption: TypeAlias = Annotated[
    NegativeRefresh | None,
    _read(NegativeRefresh.from_dict),
    Field(
        description="hard negatives, mined with the encoder itself while it trains; auto: with all "
        "defaults and a guard"
    ),
]


def _guard(given: Any) -> Any:
    return {True: {}, False: None}[given] if isinstance(given, bool) else given


GuardOption: TypeAlias = Annotated[
    GuardPart | None,
    BeforeValidator(_guard),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, GuardPart.model_json_schema()]}),
    Field(
        description="negatives and weights enter after training without them, and stay only where "
        "the evaluation gains by more than chance; true, or its options"
    ),
]


def read_auto(sections: Any) -> Any:
    """Sections in which `negatives: auto` is written out: negatives, and a guard.

    >>> read_auto({"negatives": "auto"})
    {'negatives': {}, 'guard': {}}
    """
    if not isinstance(sections, Mapping) or not isinstance(sections.get("negatives"), str):
        return sections
    if sections["negatives"] != "auto":
        return sections
    if sections.get("guard") is False:
        raise ValueError("negatives is auto, which is with a guard, but guard is false; keep one")
    return {**sections, "negatives": {}, "guard": sections.get("guard") or {}}


BatchesOption: TypeAlias = Annotated[
    BatchSpec | None,
    _read(BatchSpec.from_dict),
    _named(BatchSpec),
    Field(
        description="which rows meet in a batch: a name, or name and fields, of "
        f"stope.training.batches ({', '.join(names_of(BatchSpec))}); default distinct"
    ),
]
LoraOption: TypeAlias = Annotated[
    Annotated[Lora, FieldsOf(Lora)] | None,
    Field(description="train low-rank updates of a transformer's weights instead of them"),
]


class Recipe(Parts):
    """All options of a training.

    >>> recipe = Recipe(loss={"temperature": 0.02}, weighting="progressive").with_options(epochs=3)
    >>> recipe.loss.temperature, recipe.weighting.name, recipe.schedule.epochs
    (0.02, 'progressive', 3)
    >>> recipe.with_options(epoch=3)
    Traceback (most recent call last):
        ...
    TypeError: there is no option "epoch" (did you mean "epochs"?)

    Of `with_options`: `evaluate_every` is ``evaluation.every``, `refresh` is ``negatives``, and
    `output` may be the folder alone.
    """

    WORDS: ClassVar = {
        "evaluate_every": ("evaluation", "every"),
        "refresh": ("negatives", ""),
        "output": ("output", "folder"),
    }

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, given: Any) -> Any:
        return read_auto(given)

    loss: Annotated[LossPart, Field(description="the contrastive loss")] = LossPart()
    weighting: WeightingOption = None
    schedule: Annotated[SchedulePart, Field(description="how long and how fast")] = SchedulePart()
    negatives: NegativesOption = None
    guard: GuardOption = None
    teacher: TeacherOption = None
    distillation: DistillationOption = None
    batches: BatchesOption = None
    prompts: Annotated[
        TaskPrompts | None,
        _read(TaskPrompts.from_dict),
        WithJsonSchema({"type": "object", "properties": {"default": {}, "tasks": {}}}),
        Field(description="put before queries and documents, by the source of a row"),
    ] = None
    lora: LoraOption = None
    evaluation: Annotated[
        EvaluationPart, Field(description="when to evaluate, and what follows")
    ] = EvaluationPart()
    output: Annotated[OutputPart, Field(description="where it is written")] = OutputPart()
