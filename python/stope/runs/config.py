"""The configuration of a training run: what `stope train config.yaml` reads and `run` follows.

Every section is a frozen dataclass; `Config.from_yaml` and `Config.from_dict` answer a wrong key or
value with a sentence that names its path. Nothing but plain YAML is read: no tags, no code, no key
twice. Numbers such as 2e-5 are numbers (YAML 1.1 would read a text).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

from stope._extras import need
from stope.runs import parts
from stope.runs.options import Section, mapping, option, plain, read_section
from stope.runs.reading import change, parse_yaml
from stope.runs.sections import (
    AdapterSection,
    Encoder,
    Evaluation,
    Loss,
    Output,
    Prompts,
    Source,
    Training,
    read_encoder,
    read_output,
    read_sources,
)


@dataclass(frozen=True)
class Config(Section):
    """A training run: where the data is, what is trained and how, and where it is written.

    Attributes:
        data: the sources; given as one, or as a list.
        encoder: what is trained; default, a static encoder from scratch.
        loss: of the contrastive loss.
        weighting: a `stope.weighting` by name and fields, or None.
        negatives: fields of `NegativeRefresh`; None: in-batch negatives only.
        batches: how batches are made, by name and fields.
        prompts: before every query and document.
        training: epochs, rates, seed.
        evaluation: what judges the encoder, or None.
        output: where the run is written.
        adapter: train an adapter on frozen embeddings instead.

    Example:
        >>> config = Config.from_dict({"data": "pairs.tsv", "output": "run"})
        >>> config.encoder.static.dim, config.training.warmup
        (512, 0.1)
        >>> Config.from_dict({"data": "pairs.tsv", "output": "run", "training": {"epoch": 3}})
        Traceback (most recent call last):
            ...
        ValueError: training has no key "epoch" (did you mean "epochs"?); its keys are batch_size,
        epochs, max_steps, learning_rate, warmup, scheduler, seed, threads, autocast
    """

    KEY: ClassVar[str] = "the configuration"

    data: tuple[Source, ...] = option(read_sources)
    output: Output = option(read_output)
    encoder: Encoder = option(read_encoder, Encoder())
    loss: Loss = option(lambda v, p: read_section(Loss, v, p), Loss())
    weighting: dict[str, Any] | None = option(parts.check_weighting, None)
    negatives: dict[str, Any] | None = option(parts.check_refresh, None)
    batches: dict[str, Any] | None = option(parts.check_batches, None)
    prompts: Prompts | None = option(lambda v, p: read_section(Prompts, v, p), None)
    training: Training = option(lambda v, p: read_section(Training, v, p), Training())
    evaluation: Evaluation | None = option(lambda v, p: read_section(Evaluation, v, p), None)
    adapter: AdapterSection | None = option(lambda v, p: read_section(AdapterSection, v, p), None)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any] | Config) -> Config:
        """Read a mapping of sections.

        Raises:
            ValueError: an unknown or missing key, a value of a wrong kind or out of range; the
                sentence names its path.
        """
        if isinstance(given, Config):
            return given
        names = [field.name for field in dataclasses.fields(cls)]
        sections = mapping(given, "the configuration", names)
        values = {}
        for field in dataclasses.fields(cls):
            value = sections.get(field.name)
            if value is not None:
                values[field.name] = field.metadata["check"](value, field.name)
            elif field.default is dataclasses.MISSING:
                raise ValueError(f"the configuration has no section {field.name}; give it")
        return cls(**values)

    @classmethod
    def from_yaml(cls, path: str | PathLike[str], changes: Sequence[str] = ()) -> Config:
        """Read a YAML file; changes such as "training.epochs=3" replace what it says.

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
        given = parse_yaml(written, str(file))
        if not isinstance(given, Mapping):
            raise ValueError(f"{file} holds no configuration; it needs data: and output:")
        sections = dict(given)
        for wanted in changes:
            change(sections, wanted)
        try:
            return cls.from_dict(sections)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """What `from_dict` takes, defaults included, None left out."""
        return dict(plain(self))

    def to_yaml(self) -> str:
        """What `from_yaml` reads."""
        yaml = need("yaml", extra="train")
        return str(yaml.safe_dump(self.to_dict(), sort_keys=False, allow_unicode=True))

    def fingerprint(self) -> str:
        """SHA-256 of all that decides about the result: not of output and threads."""
        kept = json.dumps(self.decisive(), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(kept.encode("utf-8", "surrogatepass")).hexdigest()

    def decisive(self) -> dict[str, Any]:
        """The configuration without what does not decide about the result."""
        found = self.to_dict()
        del found["output"]
        found["training"].pop("threads", None)
        return found

    def absolute(self) -> Config:
        """The same with absolute paths, so that it can be followed from any folder."""
        return dataclasses.replace(
            self,
            data=tuple(_absolute(one, "path", "corpus", "qrels") for one in self.data),
            encoder=_absolute_model(self.encoder),
            evaluation=self.evaluation and _absolute(self.evaluation, "path", "corpus"),
            output=_absolute(self.output, "folder", "model"),
            adapter=self.adapter
            and _absolute(self.adapter, "query_embeddings", "corpus_embeddings"),
        )


def _absolute(section: Any, *names: str) -> Any:
    paths = {name: getattr(section, name) for name in names}
    return dataclasses.replace(
        section,
        **{name: str(Path(path).expanduser().absolute()) for name, path in paths.items() if path},
    )


def _absolute_model(encoder: Encoder) -> Encoder:
    """A model that is a folder here by its path; another is a name of the hub."""
    if encoder.model is None or not Path(encoder.model).expanduser().is_dir():
        return encoder
    return _absolute(encoder, "model")  # type: ignore[no-any-return]
