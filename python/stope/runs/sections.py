"""The sections of a configuration, one frozen dataclass each, and the short forms they may take."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from stope import data
from stope.data.raw_pairs.kinds import check_kind
from stope.runs import parts
from stope.runs.options import (
    Section,
    choice,
    flag,
    number,
    option,
    read_section,
    several,
    text,
    whole,
    word,
)


@dataclass(frozen=True)
class Prompts(Section):
    """What is put before every query and every document; None: what the model itself has."""

    query: str | None = option(text, None)
    document: str | None = option(text, None)


@dataclass(frozen=True)
class Source(Section):
    """Where (query, positive) pairs come from: a BEIR folder, a file of pairs, or raw text.

    The keys are the attributes of `stope.data.Source`, and

    Attributes:
        prompts: of this source; default, those of the section prompts.
    """

    KEY: ClassVar[str] = "data"

    path: str = option(word)
    name: str | None = option(word, None)
    corpus: str | None = option(word, None)
    split: str = option(word, "train")
    query_column: str | None = option(word, None)
    positive_column: str | None = option(word, None)
    text_column: str | None = option(word, None)
    id_column: str | None = option(word, None)
    query_id_column: str | None = option(word, None)
    label_column: str | None = option(word, None)
    qrels: str | None = option(word, None)
    positive_ids: bool = option(flag, False)
    min_relevance: float | None = option(number(0), None)
    ignore_labels: bool = option(flag, False)
    skip_empty: bool = option(flag, False)
    unknown_ids: str = option(choice("error", "drop"), "error")
    negatives: str = option(choice("read", "leave"), "read")
    weight: str | None = option(word, None)
    signals: tuple[str, ...] | None = option(several(word, "column names"), None)
    limit: int | None = option(whole(2), None)
    pairs_from: Any = option(check_kind, None)
    prompts: Prompts | None = option(lambda v, p: read_section(Prompts, v, p), None)

    def source(self) -> data.Source:
        """What is read."""
        names = [field.name for field in dataclasses.fields(data.Source)]
        return data.Source(**{name: getattr(self, name) for name in names})


@dataclass(frozen=True)
class Static(Section):
    """A static encoder from scratch; the options of `static_encoder`."""

    dim: int = option(whole(1), 512)
    vocab_size: int = option(whole(16), 8000)
    lower_case: bool = option(flag, True)
    code: bool = option(flag, False)
    smoothing: float = option(number(0), 0.5)
    max_tokens: int | None = option(whole(1), None)


@dataclass(frozen=True)
class Encoder(Section):
    """What is trained: `static` from scratch, or the sentence-transformers `model` named.

    Attributes:
        static: options of a static encoder.
        model: folder or name of a sentence-transformers model.
        max_tokens: cut texts after so many tokens (of a model; static has its own).
        lora: train low-rank matrices beside the model's weights (`stope.encoders.Lora`).
    """

    static: Static | None = option(lambda v, p: read_section(Static, v, p), None)
    model: str | None = option(word, None)
    max_tokens: int | None = option(whole(1), None)
    lora: dict[str, Any] | None = option(parts.check_lora, None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.static is not None and self.model is not None:
            raise ValueError("encoder has both static and model; keep one of them")
        if self.model is None:
            if self.lora is not None or self.max_tokens is not None:
                key = "lora" if self.lora is not None else "max_tokens"
                hint = "" if key == "lora" else "; a static encoder has encoder.static.max_tokens"
                raise ValueError(f"encoder.{key} needs encoder.model{hint}")
            if self.static is None:
                object.__setattr__(self, "static", Static())


@dataclass(frozen=True)
class Loss(Section):
    """Options of the contrastive loss, see `contrastive_loss`.

    Without matryoshka_weights the whole embedding counts beside matryoshka_dims, named or not.
    """

    temperature: float = option(number(0, above=True), 0.05)
    precision: str = option(choice("float32", "bfloat16"), "float32")
    symmetric: bool = option(flag, False)
    mini_batch_size: int | None = option(whole(1), None)
    matryoshka_dims: tuple[int, ...] | None = option(several(whole(1), "dimensions"), None)
    matryoshka_weights: tuple[float, ...] | None = option(
        several(number(0, above=True), "numbers, one per dimension"), None
    )


@dataclass(frozen=True)
class Training(Section):
    """How long and how fast; None where `train` chooses."""

    batch_size: int | None = option(whole(2), None)
    epochs: int | None = option(whole(1), None)
    max_steps: int | None = option(whole(1), None)
    learning_rate: float | None = option(number(0, above=True), None)
    warmup: float = option(number(0, 1, below=True), 0.1)
    scheduler: str = option(choice("linear", "cosine", "constant"), "linear")
    seed: int = option(whole(0), 0)
    threads: int | None = option(whole(1), None)
    autocast: str | None = option(choice("bfloat16"), None)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epochs is not None and self.max_steps is not None:
            raise ValueError("training has both epochs and max_steps; keep one of them")


@dataclass(frozen=True)
class Evaluation(Section):
    """What judges the encoder: retrieval of held-out queries over the whole corpus.

    Attributes:
        path: BEIR folder or pairs file; default, the data's own, where it is one BEIR folder.
        corpus: as in data.
        split: of the BEIR folder.
        test_split: another split, evaluated only before and after training.
        holdout: hold out so many of the training queries (below 1: such a share) instead of path.
        metrics: the first one decides about keep and patience.
        k: depth of retrieval.
        every: steps between evaluations; default, once an epoch.
        patience: stop after so many evaluations without gain.
        keep: "best" or "last" weights.
    """

    path: str | None = option(word, None)
    corpus: str | None = option(word, None)
    split: str = option(word, "dev")
    test_split: str | None = option(word, None)
    holdout: float | None = option(number(0, above=True), None)
    metrics: tuple[str, ...] = option(several(word, "metric names"), ("nDCG@10",))
    k: int = option(whole(1), 100)
    every: int | None = option(whole(1), None)
    patience: int | None = option(whole(1), None)
    keep: str = option(choice("best", "last"), "best")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.holdout is not None and (self.path or self.corpus or self.test_split):
            key = next(n for n in ("path", "corpus", "test_split") if getattr(self, n) is not None)
            raise ValueError(f"evaluation has both holdout and {key}; keep one of them")


@dataclass(frozen=True)
class Output(Section):
    """Where the run is written.

    Attributes:
        folder: config.yaml, log.jsonl, checkpoints/, report.json and model/.
        model: another place for the model.
        checkpoint_every: steps between checkpoints; default, once an epoch.
        keep_checkpoints: how many of them stay.
        tensorboard: also write TensorBoard's files (extra "log").
    """

    folder: str = option(word)
    model: str | None = option(word, None)
    checkpoint_every: int | None = option(whole(1), None)
    keep_checkpoints: int = option(whole(1), 2)
    tensorboard: bool = option(flag, False)


@dataclass(frozen=True)
class AdapterSection(Section):
    """An adapter on frozen embeddings instead of a whole encoder; see `train_adapter`.

    The embeddings are those of encoder.model, or are given as .npy files. `training`, `loss`,
    `weighting` and `evaluation` hold for it as well; negatives are mined by refresh_every.
    """

    KEY: ClassVar[str] = "adapter"

    kind: str = option(choice("linear", "low_rank", "mlp"), "linear")
    side: str = option(choice("both", "queries", "documents", "separate"), "both")
    query_embeddings: str | None = option(word, None)
    corpus_embeddings: str | None = option(word, None)
    num_documents: int = option(whole(1), 16_384)
    dim: int | None = option(whole(1), None)
    rank: int = option(whole(1), 32)
    hidden: int = option(whole(1), 512)
    weight_decay: float = option(number(0), 0.0)
    refresh_every: int | None = option(whole(1), None)
    num_negatives: int = option(whole(1), 5)
    relative_margin: float | None = option(number(0), 0.05)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.query_embeddings is None) != (self.corpus_embeddings is None):
            lacking = "query" if self.query_embeddings is None else "corpus"
            raise ValueError(
                f"adapter.{lacking}_embeddings is missing beside the other; give both or neither"
            )


def read_sources(given: Any, path: str) -> tuple[Source, ...]:
    """One source, given as a path or a mapping, or a list of them with names that differ."""
    if isinstance(given, (str, Mapping, Source)):
        return (_source(given, path),)
    if not isinstance(given, Sequence) or not given:
        raise ValueError(f"{path} is {given!r}; give one source or a list of them")
    found = tuple(_source(one, f"{path}[{place}]") for place, one in enumerate(given))
    names = [one.name or Path(one.path).name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f'{path} has two sources called "{twice}"; give each its own name')
    return found


def _source(given: Any, path: str) -> Source:
    return read_section(Source, {"path": given} if isinstance(given, str) else given, path)


def read_encoder(given: Any, path: str) -> Encoder:
    """The section, "static", or the name of a model."""
    if isinstance(given, str):
        given = {"static": {}} if given == "static" else {"model": given}
    return read_section(Encoder, given, path)


def read_output(given: Any, path: str) -> Output:
    """The section, or the folder alone."""
    return read_section(Output, {"folder": given} if isinstance(given, str) else given, path)
