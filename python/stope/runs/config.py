"""The configuration of a training run: what `stope train config.yaml` reads and `run` follows.

Its sections are the parts of a `Recipe`, and beside them the data, the encoder and an adapter. A
wrong key or value is answered with a sentence that names its path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BeforeValidator, Field, model_validator

from stope._checks import shown
from stope.adapters.recipe import AdapterPart, AdapterRecipe, AdapterSchedule
from stope.data import Source
from stope.encoders.prompts import TaskPrompts
from stope.runs.sections import (
    AdapterSection,
    Encoder,
    EvaluationSection,
    MinedFile,
    OutputSection,
    Prompts,
    SourceSection,
)
from stope.runs.yaml_text import change, parse_yaml, yaml_of
from stope.training.negatives.refresh import NegativeRefresh
from stope.training.options import FieldsOf, Part, Word
from stope.training.recipe import (
    BatchesOption,
    GuardOption,
    LossPart,
    SchedulePart,
    WeightingOption,
    read_auto,
)
from stope.training.teacher import TEACHER_TEXT, DistillationOption

AnyPart = TypeVar("AnyPart", bound=Part)


def _negatives(given: Any) -> MinedFile | NegativeRefresh | None:
    if isinstance(given, MinedFile) or (isinstance(given, Mapping) and "file" in given):
        return MinedFile.read(given)
    return None if given is None else NegativeRefresh.from_dict(given)


def _read_none(sections: Any) -> Any:
    """`evaluation: none`: hold nothing out, also where a guard would."""
    if not isinstance(sections, Mapping) or not isinstance(sections.get("evaluation"), str):
        return sections
    if sections["evaluation"] != "none":
        return sections
    if sections.get("guard") not in (None, False):
        raise ValueError(
            "evaluation is none, but negatives: auto (guard: true) keeps what held-out queries "
            "prefer; leave evaluation out, or set guard: false and name what is mined"
        )
    return {name: value for name, value in sections.items() if name != "evaluation"}


_DOCUMENT_NAMES = ("document", "passage", "corpus")  # where encode_document looks, in this order


def _sources(given: Any) -> Any:
    """One source, given as a path or a mapping, or a list of them."""
    if isinstance(given, str | Mapping | Source):
        given = [given]
    if not isinstance(given, list | tuple) or not given:
        raise ValueError(f"data is {shown(given)}; give one source or a list of them")
    return [{"path": source} if isinstance(source, str) else source for source in given]


class Config(Part):
    """A training run: where the data is, what is trained and how, and where it is written.

    Example:
        >>> config = Config.from_dict({"data": "pairs.tsv", "output": "run"})
        >>> config.encoder.static.dim, config.schedule.warmup
        (512, 0.1)
        >>> Config.from_dict({"data": "pairs.tsv", "output": "run", "schedule": {"epoch": 3}})
        Traceback (most recent call last):
            ...
        ValueError: schedule has no key "epoch" (did you mean "epochs"?); its keys are batch_size,
        epochs, max_steps, learning_rate, warmup, scheduler, seed, threads, autocast, preset
    """

    WHOLE: ClassVar[str] = "the configuration"

    @model_validator(mode="before")
    @classmethod
    def _auto(cls, given: Any) -> Any:
        return _read_none(read_auto(given))

    data: Annotated[
        tuple[Annotated[SourceSection, FieldsOf(SourceSection)], ...],
        BeforeValidator(_sources),
        Field(min_length=1, description="one source of pairs, or a list of them"),
    ]
    encoder: Annotated[Encoder, Field(description="what is trained")] = Encoder()
    loss: Annotated[LossPart, Field(description="the contrastive loss")] = LossPart()
    weighting: WeightingOption = None
    negatives: Annotated[
        MinedFile | NegativeRefresh | None,
        BeforeValidator(_negatives),
        Field(
            description="hard negatives, mined with the encoder itself while it trains; auto: with "
            "all defaults and a guard"
        ),
    ] = None
    guard: GuardOption = None
    teacher: Annotated[Word | None, Field(description=TEACHER_TEXT)] = None
    distillation: DistillationOption = None
    batches: BatchesOption = None
    prompts: Annotated[Prompts | None, Field(description="put before texts")] = None
    schedule: Annotated[SchedulePart, Field(description="how long and how fast")] = SchedulePart()
    evaluation: Annotated[
        EvaluationSection | None, Field(description="what judges the encoder")
    ] = None
    output: Annotated[OutputSection, Field(description="where the run is written")]
    adapter: Annotated[
        AdapterSection | None, Field(description="train an adapter on embeddings instead")
    ] = None

    @model_validator(mode="after")
    def _together(self) -> Config:
        names = [source.title for source in self.data]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f'data has two sources called "{twice}"; give each its own name')
        if self.adapter is not None:
            _check_adapter(self, self.adapter)
        elif self.schedule.preset == "adapter":
            raise ValueError(
                "schedule.preset is adapter, but no adapter is trained; add the section adapter, "
                "or name static, transformer or base"
            )
        if self.encoder.student is not None and self.teacher is not None:
            raise ValueError(
                "teacher is given, and encoder.student has one whose embeddings it is fitted to; "
                "fit the student first, and give its folder as encoder.model to another run"
            )
        refresh = self.negatives
        if refresh is None or isinstance(refresh, MinedFile) or len(self.data) == 1:
            return self
        if refresh.mode == "query_side" and not refresh.across_sources:
            raise ValueError(
                "negatives.mode is query_side, which searches the documents of all sources "
                "together, so that a row would get negatives of other sources; allow it with "
                "negatives.across_sources: true, or choose another mode"
            )
        return self

    @property
    def training(self) -> SchedulePart:
        """The section schedule, by the name that it had before."""
        warnings.warn(
            "Config.training is Config.schedule now; the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return self.schedule

    def default_prompts(self) -> dict[str, str]:
        """The prompts that are given for all sources, or for the only one, by role."""
        section = self.prompts
        if len(self.data) == 1 and self.data[0].prompts is not None:
            section = self.data[0].prompts
        return {} if section is None else section.to_dict()

    def task_prompts(self, known: Mapping[str, str | None]) -> TaskPrompts | None:
        """The prompts of every source, or None where there are none.

        A model that has prompts of its own is trained with them, since it is used with them, unless
        the configuration has others.

        Args:
            known: the model's prompts by name, those of the configuration put in.

        Raises:
            ValueError: sources have prompts of their own while negatives are mined across them.
        """
        default = (
            known.get("query") or "",
            next((text for name in _DOCUMENT_NAMES if (text := known.get(name)) is not None), ""),
        )
        tasks: dict[str | int, tuple[str, str]] = {}
        for source in self.data if len(self.data) > 1 else ():
            if source.prompts is not None:
                query, document = source.prompts.query, source.prompts.document
                tasks[source.title] = (
                    default[0] if query is None else query,
                    default[1] if document is None else document,
                )
        refresh = self.negatives
        across = isinstance(refresh, NegativeRefresh) and refresh.across_sources
        if across and set(tasks.values()) - {default}:
            raise ValueError(
                "negatives.across_sources mines with the same prompts for all sources, but "
                f"{', '.join(map(str, tasks))} has its own; give all sources the same prompts, or "
                "leave across_sources out"
            )
        return TaskPrompts(tasks, default=default) if tasks or any(default) else None

    def adapter_recipe(self) -> AdapterRecipe:
        """The recipe of the section adapter; what it leaves to be chosen has its default.

        Raises:
            ValueError: options that are not for an adapter.
        """
        assert self.adapter is not None
        schedule = {n: v for n, v in self.schedule if n in AdapterSchedule.model_fields}
        judged = ("every", "patience") if self.evaluation is not None else ()
        evaluation = {name: getattr(self.evaluation, name) for name in judged}
        sections = {
            "adapter": {name: getattr(self.adapter, name) for name in AdapterPart.model_fields},
            "loss": self.loss,
            "weighting": self.weighting,
            "guard": self.guard,
            "schedule": {name: value for name, value in schedule.items() if value is not None},
            "evaluation": {name: value for name, value in evaluation.items() if value is not None},
        }
        return AdapterRecipe.read(sections)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | Config) -> Config:
        """Read a mapping of sections. The section schedule may also be called training.

        Raises:
            ValueError: an unknown or missing key, a value of a wrong kind or out of range; the
                sentence names its path.
        """
        if isinstance(given, Config):
            return given
        sections = given
        if isinstance(given, Mapping):
            sections = {name: value for name, value in given.items() if value is not None}
        try:
            return cls.read(_renamed(sections), "")
        except (TypeError, ValueError) as error:
            raise ValueError(_as_written(str(error), sections)) from None

    @classmethod
    def from_yaml(cls, path: str | PathLike[str], changes: Sequence[str] = ()) -> Config:
        """Read a YAML file; changes such as "schedule.epochs=3" replace what it says.

        Raises:
            ValueError: as `from_dict`, or no YAML, with file and line.
            FileNotFoundError: no such file.
            ImportError: PyYAML is missing (extra "train").
        """
        file = Path(path)
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist")
        try:
            written = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{file} is not UTF-8 text ({error})") from error
        sections = parse_yaml(written, str(file))
        if not isinstance(sections, Mapping):
            raise ValueError(f"{file} holds no configuration; it needs data: and output:")
        sections = dict(sections)
        for wanted in changes:
            change(sections, _in_words_of(sections, wanted))
        try:
            return cls.from_dict(sections)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def to_yaml(self) -> str:
        """What `from_yaml` reads."""
        return yaml_of(self.to_dict())

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON schema of a configuration file, for editors that complete and check YAML."""
        schema = cls.model_json_schema()
        sections = schema["properties"]
        one_source = sections["data"]["items"]
        sections["data"]["anyOf"] = [
            {"type": "string"},
            one_source,
            {"type": "array", "items": {"anyOf": [{"type": "string"}, one_source]}},
        ]
        del sections["data"]["items"], sections["data"]["type"]
        sections["training"] = {**sections["schedule"], "deprecated": True}
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    def fingerprint(self) -> str:
        """SHA-256 of all that decides about the result: not of output and threads."""
        kept = json.dumps(self.decisive(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(kept.encode("utf-8", "surrogatepass")).hexdigest()

    def decisive(self) -> dict[str, Any]:
        """The configuration without what does not decide about the result."""
        sections = self.to_dict()
        del sections["output"]
        sections["schedule"].pop("threads", None)
        return sections

    def absolute(self) -> Config:
        """The same with absolute paths, so that it can be followed from any folder."""
        encoder = self.encoder
        if encoder.model is not None and Path(encoder.model).expanduser().is_dir():
            encoder = _absolute(encoder, "model")  # another is a name of the hub
        student = encoder.student
        if student is not None and Path(student.teacher).expanduser().is_dir():
            encoder = encoder.changed(student=_absolute(student, "teacher"))
        teacher = self.teacher
        if teacher is not None and Path(teacher).expanduser().exists():
            teacher = str(Path(teacher).expanduser().absolute())
        return self.changed(
            teacher=teacher,
            data=[
                dataclasses.replace(source, **paths)
                for source in self.data
                if (paths := _absolute_source(source))
            ],
            encoder=encoder,
            evaluation=self.evaluation and _absolute(self.evaluation, "path", "corpus"),
            output=_absolute(self.output, "folder", "model"),
            adapter=self.adapter
            and _absolute(self.adapter, "query_embeddings", "corpus_embeddings"),
        )


def check_shared(config: Config, count: int) -> None:
    """Refuse what one process does alone."""
    for name, section in (("adapter", config.adapter), ("encoder.student", config.encoder.student)):
        if section is not None:
            raise ValueError(
                f"{name} is given and {count} processes were started, but one process fits it; "
                "start it without torchrun"
            )


def _check_adapter(config: Config, section: AdapterSection) -> None:
    """Refuse sections and options that are not for an adapter."""
    if config.encoder.model is None and section.query_embeddings is None:
        raise ValueError(
            "adapter needs embeddings: give encoder.model, or adapter.query_embeddings and "
            "adapter.corpus_embeddings"
        )
    if config.encoder.lora is not None:
        raise ValueError("encoder.lora trains the model, adapter does not; keep one of them")
    for name in ("negatives", "batches", "teacher", "distillation"):
        if getattr(config, name) is not None:
            hint = "; adapter.refresh_every mines them, and guard: true keeps what helps"
            hint = hint if name == "negatives" else ""
            raise ValueError(f"the section {name} is not for an adapter; leave it out{hint}")
    for name in config.schedule.changes():
        if name not in (*AdapterSchedule.model_fields, "threads", "preset"):
            raise ValueError(f"schedule.{name} is not for an adapter; leave it out")
    if config.schedule.preset not in (None, "adapter"):
        raise ValueError(
            f"schedule.preset is {config.schedule.preset}, whose learning rate is not for an "
            "adapter; name adapter, or leave it out"
        )
    config.adapter_recipe()
    if len(config.data) > 1 and any(source.prompts is not None for source in config.data):
        raise ValueError(
            "data has prompts of single sources, but an adapter's embeddings of all sources are "
            "made with the same; give them in the section prompts"
        )
    if config.evaluation is not None and config.evaluation.keep == "last":
        raise ValueError(
            'evaluation.keep is "last", but an adapter keeps its last weights unless others are '
            "clearly better; leave keep or the section evaluation out"
        )


def _renamed(sections: Any) -> Any:
    """With the section schedule where a file calls it training."""
    if not isinstance(sections, Mapping) or "training" not in sections:
        return sections
    if "schedule" in sections:
        raise ValueError("schedule and training are the same section; keep schedule")
    names = {"training": "schedule"}
    return {names.get(name, name): value for name, value in sections.items()}


def _in_words_of(sections: Mapping[str, Any], wanted: str) -> str:
    """A change, its section called as the file does."""
    words = ("schedule.", "training.") if "training" in sections else ("training.", "schedule.")
    if words[1].rstrip(".") in sections and wanted.startswith(words[0]):
        return words[1] + wanted.removeprefix(words[0])
    return wanted


def _as_written(said: str, sections: Any) -> str:
    """A message with the words of the file."""
    if not isinstance(sections, Mapping):
        return said
    if "training" in sections and said.startswith("schedule"):
        said = "training" + said.removeprefix("schedule")
    if not isinstance(sections.get("data"), list | tuple):
        said = said.replace("data[0]", "data", 1)
    return said


def _absolute_paths(section: Any, *names: str) -> dict[str, str]:
    paths = {name: getattr(section, name) for name in names}
    return {name: str(Path(p).expanduser().absolute()) for name, p in paths.items() if p}


def _absolute_source(source: Source) -> dict[str, Any]:
    paths = _absolute_paths(source, "path", "corpus", "qrels")
    files = [str(Path(file).expanduser().absolute()) for file in source.exclude or ()]
    return {**paths, "exclude": files} if files else dict(paths)


def _absolute(section: AnyPart, *names: str) -> AnyPart:
    return section.changed(**_absolute_paths(section, *names))
