"""The sections of a configuration that a recipe does not have as they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, field_validator, model_validator

from stope.adapters.recipe import AdapterPart
from stope.data import Source
from stope.data.raw_pairs.kinds import check_kind
from stope.data.readers.negative_ids import file_names
from stope.evaluation.names import parse_metric
from stope.training.options import Count, Flag, Part, Positive, Real, Text, Whole, Word
from stope.training.recipe import EvaluationPart, LoraOption, OutputPart

HoldoutBy: TypeAlias = Literal["both", "positive", "query"]


class Prompts(Part):
    """What is put before texts; None: what the model itself has."""

    SECTION = "prompts"

    query: Annotated[Text | None, Field(description="before every query")] = None
    document: Annotated[Text | None, Field(description="before every document")] = None


@dataclass(frozen=True)
class SourceSection(Source):
    """A source with the prompts of its texts.

    Attributes:
        pairs_from: make the pairs from raw text: crops, inverse_cloze, recurring_spans or title; or
            a mapping of kind and options.
        prompts: of this source; default, those of the section prompts.
    """

    pairs_from: Any = None
    prompts: Prompts | None = None

    def __post_init__(self) -> None:
        if self.pairs_from is not None:
            object.__setattr__(self, "pairs_from", check_kind(self.pairs_from, "pairs_from"))
        if self.exclude is not None:
            object.__setattr__(self, "exclude", file_names(self.exclude, "exclude"))
        if self.limit is not None and self.limit < 2:
            raise ValueError(f"limit is {self.limit}; give at least 2 queries")
        if self.signals is not None:
            object.__setattr__(self, "signals", tuple(self.signals))


class Static(Part):
    """A static encoder from scratch (`stope.encoders.static_encoder`)."""

    SECTION = "encoder.static"

    dim: Annotated[Count, Field(description="of the embeddings")] = 512
    vocab_size: Annotated[Whole, Field(ge=16, description="tokens at most")] = 8000
    lower_case: Annotated[Flag, Field(description="take upper and lower case as one")] = True
    code: Annotated[Flag, Field(description="split identifiers such as readFile")] = False
    smoothing: Annotated[Real, Field(ge=0, description="how alike the first vectors are")] = 0.5
    max_tokens: Annotated[Count | None, Field(description="cut texts after so many")] = None


class Student(Part):
    """A static encoder fitted to a teacher's embeddings (`stope.encoders.static_student`)."""

    SECTION = "encoder.student"

    teacher: Annotated[
        Word, Field(description="folder or name of a sentence-transformers model to learn from")
    ]
    vocab_size: Annotated[Whole, Field(ge=16, description="pieces of words at most")] = 8000
    max_words: Annotated[Whole, Field(ge=0, description="whole words at most")] = 50_000
    lower_case: Annotated[Flag, Field(description="take upper and lower case as one")] = True
    code: Annotated[Flag, Field(description="split identifiers such as readFile")] = False
    ridge: Annotated[Real, Field(gt=0, description="how little the fit trusts rare tokens")] = 0.1

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        return {"teacher": given} if isinstance(given, str) else given


class Encoder(Part):
    """What is trained: `static` from scratch, a `student`, or the sentence-transformers `model`."""

    SECTION = "encoder"

    static: Annotated[Static | None, Field(description="a static encoder from scratch")] = None
    student: Annotated[
        Student | None,
        Field(
            description="a static encoder fitted to a teacher's embeddings of all texts; what the "
            "pairs add to it stays if held-out queries confirm it, and one trained on the pairs "
            "alone takes its place if they prefer that"
        ),
    ] = None
    model: Annotated[
        Word | None, Field(description="folder or name of a sentence-transformers model")
    ] = None
    max_tokens: Annotated[
        Count | None, Field(description="cut texts after so many tokens (of a model)")
    ] = None
    lora: LoraOption = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        if isinstance(given, str):
            given = {"static": {}} if given == "static" else {"model": given}
        others = ("model", "student")
        if isinstance(given, Mapping) and all(given.get(name) is None for name in others):
            return {**given, "static": given.get("static") or {}}
        return given

    @model_validator(mode="after")
    def _one_kind(self) -> Encoder:
        kinds = [name for name in ("static", "student", "model") if getattr(self, name) is not None]
        if len(kinds) > 1:
            raise ValueError(f"encoder has both {kinds[0]} and {kinds[1]}; keep one of them")
        if self.model is None and self.lora is not None:
            raise ValueError("encoder.lora needs encoder.model")
        if self.model is None and self.max_tokens is not None:
            raise ValueError(
                "encoder.max_tokens needs encoder.model; a static encoder has "
                "encoder.static.max_tokens"
            )
        return self


class MinedFile(Part):
    """Negatives that were mined before."""

    SECTION = "negatives"

    file: Annotated[Word, Field(description="what `stope mine --ids` wrote")]


class EvaluationSection(EvaluationPart):
    """What judges the encoder: retrieval of held-out queries over the whole corpus."""

    path: Annotated[
        Word | None,
        Field(description="BEIR folder or file of pairs; default the data's own BEIR folder"),
    ] = None
    corpus: Annotated[Word | None, Field(description="documents beside a file of pairs")] = None
    split: Annotated[Word, Field(description="of the BEIR folder")] = "dev"
    test_split: Annotated[
        Word | None, Field(description="another split, judged before and after training only")
    ] = None
    holdout: Annotated[
        Positive | None,
        Field(
            description="hold out so many of the training queries (below 1: such a share) instead"
        ),
    ] = None
    holdout_by: Annotated[
        HoldoutBy,
        Field(
            description="query: at random; positive: queries that share a positive together, so "
            "that what answers them was never a positive in training; both: half so, half at "
            "random, as queries to come ask for documents of both kinds"
        ),
    ] = "both"
    metrics: Annotated[
        tuple[Word, ...],
        Field(min_length=1, description="the first one decides about keep and patience"),
    ] = ("nDCG@10",)
    k: Annotated[Count, Field(description="depth of retrieval")] = 100
    ignore_identical_ids: Annotated[
        Flag,
        Field(
            description="leave out the document that has the query's own id, as BEIR does (of a "
            "BEIR folder, whose texts have ids)"
        ),
    ] = False
    keep: Annotated[
        Literal["best", "last"],
        Field(
            description="the weights of the best evaluation, or those of the last step; an adapter "
            "keeps its last unless others are clearly better"
        ),
    ] = "best"

    @field_validator("metrics")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            parse_metric(name)
        return names

    @model_validator(mode="after")
    def _one_set(self) -> EvaluationSection:
        others = {"path": self.path, "corpus": self.corpus, "test_split": self.test_split}
        beside = next((name for name, value in others.items() if value is not None), None)
        if self.ignore_identical_ids and (self.holdout is not None or self.corpus is not None):
            raise ValueError(
                "evaluation.ignore_identical_ids is for a split of a BEIR folder, whose queries "
                "and documents have ids of their own; leave it out"
            )
        if self.holdout is not None and beside is not None:
            raise ValueError(f"evaluation has both holdout and {beside}; keep one of them")
        return self


class OutputSection(OutputPart):
    """Where the run is written."""

    folder: Annotated[
        Word, Field(description="gets config.yaml, log.jsonl, checkpoints/, report.json and model/")
    ]
    model: Annotated[Word | None, Field(description="another place for the model")] = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, given: Any) -> Any:
        return {"folder": given} if isinstance(given, str) else given


class AdapterSection(AdapterPart):
    """An adapter on frozen embeddings instead of a whole encoder (`stope.adapters`).

    The embeddings are those of encoder.model, or are given as .npy files. `schedule`, `loss`,
    `weighting` and `evaluation` hold for it as well; negatives are mined by refresh_every.
    """

    query_embeddings: Annotated[
        Word | None, Field(description=".npy file with a row for every query of the data")
    ] = None
    corpus_embeddings: Annotated[
        Word | None, Field(description=".npy file with a row for every document of the corpus")
    ] = None

    @model_validator(mode="after")
    def _both_files(self) -> AdapterSection:
        if (self.query_embeddings is None) != (self.corpus_embeddings is None):
            lacking = "query" if self.query_embeddings is None else "corpus"
            raise ValueError(
                f"adapter.{lacking}_embeddings is missing beside the other; give both or neither"
            )
        return self
