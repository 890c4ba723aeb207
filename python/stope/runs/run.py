"""Follow a configuration: read, build, train, judge, save."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from stope._checks import counted, flag
from stope._extras import need
from stope._kinds import a, callback, kinds, maybe
from stope.data import SourceData, read_sources
from stope.encoders.models import load_encoder, save_encoder, static_encoder_and_ids
from stope.encoders.tokens import TokenIds, tokens_once
from stope.encoders.versions import dimension
from stope.evaluation import Evaluation, RetrievalEvaluation, compare
from stope.progress import Progress, silent
from stope.runs import adapting, teaching
from stope.runs.config import Config, check_shared
from stope.runs.examples import examples_of
from stope.runs.folder import RunFolder, as_begun
from stope.runs.judging import Judges, judges, usual_evaluation
from stope.scale.processes import by_first, meet, of_first, processes, together
from stope.training.negatives.refresh import NegativeRefresh
from stope.training.options import AnyPart
from stope.training.presets import STUDENT_RATE
from stope.training.recipe import EvaluationPart, LossPart, OutputPart, Recipe
from stope.training.trainer import TrainingReport, train
from stope.training.while_training import threads

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunReport:
    """What a run did and where it is.

    Attributes:
        folder: of the run.
        model: folder of the trained encoder; `load_encoder` reads it.
        training: steps, losses, evaluations and refreshes while what was saved was trained.
        before: metrics of the held-out queries before training; empty without an evaluation. With
            encoder.student those of the student as it was fitted, whatever was saved.
        after: the same of the encoder that was saved.
        test_before: metrics of evaluation.test_split before training.
        test_after: the same of the encoder that was saved.
        num_queries: how many held-out queries there are.
        num_test_queries: how many queries evaluation.test_split has.
        gains: by metric the 95% interval of what training changed on the held-out queries (paired
            bootstrap, `stope.evaluation.compare`); empty where there are fewer than two.
        test_gains: the same on evaluation.test_split.
        teacher: metrics of the held-out queries by the teacher of encoder.student.
        own_negatives: whether the data brought negatives along, which were trained on.
        adapter: whether an adapter on embeddings was trained, no encoder.
        remarks: sentences about the student: its size and speed, what the pairs brought it, and
            whether it or a static encoder trained on the pairs alone was saved.
        resumed: whether an earlier run was gone on with.
    """

    folder: Path
    model: Path
    training: TrainingReport
    before: dict[str, float] = field(default_factory=dict)
    after: dict[str, float] = field(default_factory=dict)
    test_before: dict[str, float] = field(default_factory=dict)
    test_after: dict[str, float] = field(default_factory=dict)
    num_queries: int = 0
    num_test_queries: int = 0
    gains: dict[str, list[float]] = field(default_factory=dict)
    test_gains: dict[str, list[float]] = field(default_factory=dict)
    teacher: dict[str, float] = field(default_factory=dict)
    own_negatives: bool = False
    adapter: bool = False
    remarks: list[str] = field(default_factory=list)
    resumed: bool = False

    def to_dict(self) -> dict[str, Any]:
        """What report.json holds: all but the places."""
        kept = asdict(self)
        return {name: kept[name] for name in kept if name not in ("folder", "model", "resumed")}

    @classmethod
    def from_dict(cls, folder: Path, model: Path, given: Mapping[str, Any]) -> RunReport:
        """The report of a finished run."""
        training = TrainingReport(**given["training"])
        return cls(folder, model, **{**given, "training": training}, resumed=True)


@kinds(
    config=a(Config, Mapping, str, PathLike),
    resume=flag,
    progress=maybe(callback),
    say=maybe(callback),
)
def run(
    config: Config | Mapping[str, Any] | str | PathLike[str],
    *,
    resume: bool = False,
    progress: Progress | None = None,
    say: Say | None = None,
) -> RunReport:
    """Train as a configuration says, and write everything into its output folder.

    Started by ``torchrun --nproc-per-node 2``, all processes train one model: each has its own rows
    of every step, schedule.batch_size of them, and the documents of all as negatives; refreshes are
    shared out. The first alone writes and reports; all read the files and return.

    Args:
        config: a `Config`, a mapping of its sections, or the path of a YAML file.
        resume: go on with the run in the output folder, if there is one: a finished one is
            reported, another goes on from its last checkpoint and ends as if it had never stopped.
        progress: called with (steps done, steps in total); before that, where a teacher embeds the
            texts, with (texts done, texts).
        say: called with a sentence about what is done next.

    Returns:
        What was done. The output folder has config.yaml, run.json, log.jsonl, report.json and the
        trained encoder in model/.

    Raises:
        ValueError: a wrong configuration or wrong data, in a sentence that names key or file; an
            output folder that is taken; texts that changed since the run began; several processes
            for an adapter or a student, which one process fits.
        RuntimeError: another process ended.
        OSError: a file cannot be read or written; what was written before stays usable.
        FloatingPointError: the loss became NaN or infinite.

    Example:
        >>> import pathlib, tempfile
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> rows = [{"query": f"no {n}", "positive": f"one more than {n - 1}"} for n in range(9)]
        >>> from stope.data import write_jsonl
        >>> _ = write_jsonl(folder / "pairs.jsonl", rows)
        >>> report = run({"data": str(folder / "pairs.jsonl"), "output": str(folder / "run"),
        ...               "encoder": {"static": {"dim": 16}}, "schedule": {"epochs": 2}})
        >>> (report.model / "modules.json").exists()
        True
    """
    if isinstance(config, (str, PathLike)):
        config = Config.from_yaml(config)
    config = Config.from_dict(config)
    if config.guard is not None and config.evaluation is None:
        config = config.changed(evaluation=usual_evaluation(config))
    config = (as_begun(config) if resume else config).absolute()
    tell = say or silent
    meet(need("torch", extra="train"))
    here, count = processes()
    if count > 1:
        check_shared(config, count)
    if here:
        tell, progress = silent, None
    folder = RunFolder(config, resume=resume)
    done = folder.finished()
    if done is not None:
        tell(f"{folder.path} is a finished run; nothing is left to do")
        return RunReport.from_dict(folder.path, folder.model, done)
    with threads(config.schedule.threads):
        return _follow(config, folder, progress, tell)


def _follow(config: Config, folder: RunFolder, progress: Progress | None, tell: Say) -> RunReport:
    section = config.adapter
    embedded = section is not None and section.query_embeddings is not None
    with together():
        whole = read_sources(config.data, seed=config.schedule.seed, say=tell)
        judged, data = judges(config, whole)
        model, ids = (None, None) if embedded else _encoder(config, data, tell)
    # All that it needs is there: what fails before leaves the folder to another configuration.
    folder.begin(config.fingerprint(), whole.fingerprints)
    if judged.said:
        tell(judged.said)
    if section is not None:
        return _adapt(config, folder, whole, data, judged, model, progress, tell)
    taught = None
    if config.encoder.student is not None:
        taught = _taught(config, folder, data, judged, model, progress, tell)
        model = taught.student
    with tokens_once(model, ids):
        first = _first(folder, judged, model, tell)
        done, last, after = _trained(config, folder, data, judged, model, progress, tell)
    if taught is not None:
        if not taught.keep_better(first[0], last[0]):
            last, after = first, {}
        if last[0] is not None:
            tell("training a static encoder on the pairs alone, to compare the student with")
            plain_config = taught.without_teacher(config)
            plain, ids = _encoder(plain_config, data, tell)
            with tokens_once(plain, ids):
                of_plain = _trained(plain_config, folder, data, judged, plain, progress, tell)
            assert of_plain[1][0] is not None
            if taught.is_worse(last[0], of_plain[1][0]):
                model, (done, last, after) = plain, of_plain
    by_first(lambda: _save(model, folder))
    brought = data.negatives is not None
    return _reported(folder, done, first, last, after, taught, own_negatives=brought)


def _trained(
    config: Config,
    folder: RunFolder,
    data: SourceData,
    judged: Judges,
    model: Any,
    progress: Progress | None,
    tell: Say,
) -> tuple[TrainingReport, Sequence[Evaluation | None], dict[str, float]]:
    """Train; how it went, the evaluations of both judges, and `_after`."""
    count = int(data.pairs.positives[0][-1])
    tell(f"training on {counted(count, 'pairs')}")
    done = _train(config, folder, data, judged.held_out, model, progress, tell)
    if not done.steps:
        raise ValueError(
            f"no batch without duplicates can be made from {counted(count, 'pairs')}; give more "
            "pairs or a smaller schedule.batch_size"
        )
    return done, _judge(judged, model, "after training", tell), _after(done, config)


def _reported(
    folder: RunFolder,
    done: TrainingReport,
    first: Sequence[Evaluation | None],
    last: Sequence[Evaluation | None],
    after: dict[str, float] | None = None,
    taught: teaching.Taught | None = None,
    *,
    own_negatives: bool = False,
    adapter: bool = False,
) -> RunReport:
    """Write and return the report, with what changed between two evaluations of both judges."""
    means = [[{} if judged is None else judged.mean for judged in both] for both in (first, last)]
    counts = [0 if judged is None else judged.num_queries for judged in last]
    gains = [_gains(*both) for both in zip(first, last, strict=True)]
    report = RunReport(
        folder.path,
        folder.model,
        done,
        before=means[0][0],
        after=after or means[1][0],
        test_before=means[0][1],
        test_after=means[1][1],
        num_queries=counts[0],
        num_test_queries=counts[1],
        gains=gains[0],
        test_gains=gains[1],
        teacher=folder.state.get("teacher", {}),
        own_negatives=own_negatives,
        adapter=adapter,
        remarks=[] if taught is None else taught.remarks,
        resumed=folder.resumed,
    )
    folder.finish(report.to_dict())
    return report


def _gains(before: Evaluation | None, after: Evaluation | None) -> dict[str, list[float]]:
    if before is None or after is None or after.num_queries < 2 or not before.per_query:
        return {}
    changes = {name: compare(before, after, name) for name in after.mean}
    return {name: [change.low, change.high] for name, change in changes.items()}


def _adapt(
    config: Config,
    folder: RunFolder,
    whole: SourceData,
    data: SourceData,
    judged: Judges,
    model: Any,
    progress: Progress | None,
    tell: Say,
) -> RunReport:
    tell("embedding the texts" if model is not None else "reading the embeddings")
    frozen = adapting.Frozen(config, folder.path, whole, model)
    held_out, test = (
        None if evaluation is None else adapting.Judge(evaluation, frozen)
        for evaluation in (judged.held_out, judged.test)
    )
    first = [None if judge is None else judge.evaluate(None) for judge in (held_out, test)]
    tell(f"training an adapter on {counted(int(data.pairs.positives[0][-1]), 'pairs')}")
    adapter, done = adapting.fit(config, folder.path, data, frozen, held_out, progress)
    last = [None if judge is None else judge.evaluate(adapter) for judge in (held_out, test)]
    if not (folder.model.is_dir() and any(folder.model.iterdir())):
        adapting.keep(adapter, model, folder.model, save_encoder)
    return _reported(folder, done, first, last, adapter=True)


def _after(done: TrainingReport, config: Config) -> dict[str, float]:
    """The metrics of the weights that training left: its best or its last evaluation."""
    if config.evaluation is None or not done.evaluations or done.guard is not None:
        return {}  # after a guard the encoder was judged anew
    metric = next(iter(done.evaluations[0]))
    if config.evaluation.keep == "last":
        return done.evaluations[-1]
    return max(done.evaluations, key=lambda found: found[metric])


def _taught(
    config: Config,
    folder: RunFolder,
    data: SourceData,
    judged: Judges,
    teacher: Any,
    progress: Progress | None,
    tell: Say,
) -> teaching.Taught:
    """The student of encoder.student; its teacher's metrics go into the folder's notes."""
    assert config.encoder.student is not None
    taught = teaching.teach(
        config.encoder.student,
        teacher,
        data.pairs.corpus_texts,
        data.pairs.query_texts,
        folder.path / "teacher",
        progress=progress,
        say=tell,
    )
    if judged.held_out is not None and "teacher" not in folder.state:
        tell(f"evaluating {counted(len(judged.held_out.query_ids), 'queries')} with the teacher")
        folder.note(teacher=taught.judge_teacher(judged.held_out))
    return taught


def _encoder(config: Config, data: SourceData, tell: Say) -> tuple[Any, TokenIds | None]:
    """What is trained; of a student, its teacher. And token ids, where they are known already."""
    section, ids = config.encoder, None
    if section.static is not None:
        tell("building a static encoder from the texts")
        options = {**dict(section.static), "seed": config.schedule.seed}
        model, ids = static_encoder_and_ids(data.texts(), **options)
    elif section.student is not None:
        tell(f"loading {section.student.teacher}")
        model = load_encoder(section.student.teacher)
    else:
        tell(f"loading {section.model}")
        model = load_encoder(str(section.model))
        longest = model.max_seq_length
        if section.max_tokens is not None:
            if longest is not None and section.max_tokens > longest:
                raise ValueError(
                    f"encoder.max_tokens is {section.max_tokens}, but {section.model} reads at "
                    f"most {longest}; give no more"
                )
            model.max_seq_length = section.max_tokens
    model.prompts = {**model.prompts, **config.default_prompts()}
    return model, ids


def _train(
    config: Config,
    folder: RunFolder,
    data: SourceData,
    held_out: RetrievalEvaluation | None,
    model: Any,
    progress: Progress | None,
    tell: Say,
) -> TrainingReport:
    schedule = config.schedule
    if config.encoder.student is not None and schedule.learning_rate is None:
        schedule = schedule.changed(learning_rate=STUDENT_RATE)
    examples, columns, teacher = examples_of(config, folder.path, data, tell)
    recipe = Recipe(
        loss=_loss(config.loss, model),
        weighting=config.weighting,
        schedule=schedule,
        negatives=config.negatives if isinstance(config.negatives, NegativeRefresh) else None,
        guard=config.guard,
        teacher=teacher,
        distillation=config.distillation,
        batches=config.batches,
        prompts=config.task_prompts(model.prompts),
        lora=config.encoder.lora,
        evaluation=EvaluationPart()
        if held_out is None
        else _part(EvaluationPart, config.evaluation),
        output=_part(OutputPart, config.output),
    )
    return train(
        model,
        examples,
        recipe=recipe,
        columns={**data.columns, **columns} or None,
        evaluation=held_out,
        resume=folder.resumed,
        progress=progress,
        say=tell,
    )


def _part(kind: type[AnyPart], section: Any) -> AnyPart:
    """The part of a recipe that a section has among its own options; its default without one."""
    names = () if section is None else kind.model_fields
    return kind(**{name: getattr(section, name) for name in names})


def _loss(part: LossPart, model: Any) -> LossPart:
    """With the whole embedding before its first dimensions, where no weights say otherwise."""
    dims, whole = part.matryoshka_dims, dimension(model)
    if dims is None or part.matryoshka_weights is not None or whole is None or dims[0] >= whole:
        return part
    return part.changed(matryoshka_dims=(whole, *dims))


def _first(folder: RunFolder, judged: Judges, model: Any, tell: Say) -> Sequence[Evaluation | None]:
    """The evaluations before training; of a run that goes on, those it noted when it began."""
    if "before" not in folder.state:
        first = _judge(judged, model, "before training", tell)
        held_out, test = ({} if one is None else one.mean for one in first)
        queries = [{} if one is None else one.per_query for one in first]
        folder.note(before=held_out, test_before=test, queries_before=queries)
    state = folder.state
    queries = state.get("queries_before", [{}, {}])  # which runs of before did not note
    means = (state["before"], state["test_before"])
    return [
        Evaluation(mean, values) if mean else None
        for mean, values in zip(means, queries, strict=True)
    ]


def _judge(judged: Judges, model: Any, when: str, tell: Say) -> list[Evaluation | None]:
    evaluations: list[Evaluation | None] = []
    for judge in (judged.held_out, judged.test):
        if judge is not None:
            tell(f"evaluating {counted(len(judge.query_ids), 'queries')} {when}")
        evaluations.append(None if judge is None else judge.evaluate(model))
    told = of_first([None if each is None else (each.mean, each.per_query) for each in evaluations])
    return [None if each is None else Evaluation(*each) for each in told]


def _save(model: Any, folder: RunFolder) -> None:
    if folder.model.is_dir() and any(folder.model.iterdir()):
        return  # a whole one, of this run: it was stopped between the model and the report
    try:
        save_encoder(model, folder.model)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the model to {folder.model} ({error}); the run in {folder.path} is kept:"
            " make room and resume it",
        ) from error
