"""One training on sentence-transformers' trainer: its parts are made, it runs, all is tidied up."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from transformers import PrinterCallback

import torch
from stope.encoders import EmbeddingCache, fingerprint_encoder
from stope.encoders.encode import encode_queries
from stope.encoders.lora import low_rank
from stope.encoders.tokens import tokens_once
from stope.encoders.versions import is_static
from stope.integrations.sentence_transformers import Clock, InfoNCECollator
from stope.integrations.sentence_transformers.columns import SOURCE, WEIGHT, check_columns
from stope.integrations.sentence_transformers.from_embeddings import CONFIDENCE
from stope.integrations.sentence_transformers.loss import infonce_in
from stope.integrations.sentence_transformers.row_table import RowTable
from stope.integrations.sentence_transformers.signals import check_weighting
from stope.mining.pair_scores import PairScores
from stope.progress import Progress, StageProgress, silent
from stope.scale.processes import computed_in_first, hearing, same_in_all
from stope.training.batches import Clustered, Distinct, Plan, Shuffled, batch_sampler
from stope.training.callbacks.checkpoint import (
    Checkpoints,
    Evaluate,
    WriteCheckpoints,
    is_finished,
)
from stope.training.callbacks.log import TrainingLog
from stope.training.callbacks.tasks import InOrder, LogSteps, RefreshNegatives, Session
from stope.training.dataset import fingerprint_rows
from stope.training.losses import contrastive_loss
from stope.training.negatives.query_side import QuerySideLoss
from stope.training.negatives.refresh import RefreshRun
from stope.training.recipe import OutputPart, Recipe
from stope.training.teacher import pair_scores, scored_rows
from stope.training.trainer import TrainingReport
from stope.training.while_training import autocast_training, quiet, threads

_SCHEDULERS = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
Say = Callable[[str], object]


@dataclass(frozen=True)
class Job:
    """What `train` was asked for: checked, with its defaults chosen.

    Attributes:
        model, dataset, table: what is trained, on which rows.
        recipe: with batch_size, epochs and learning_rate chosen.
        loss: a loss that was given, or None for that of the recipe.
        evaluation: what judges the model, or None.
        progress: called with (steps done, steps in total), or None.
        say: called with a line about what is being done.
        resume: go on from a checkpoint.
    """

    model: Any
    dataset: Any
    table: RowTable
    recipe: Recipe
    loss: Any
    evaluation: Callable[[Any], Mapping[str, float]] | None
    progress: Progress | None
    say: Say
    resume: bool


class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """The library's trainer, which skips the steps that are done but reads no pickles.

    What a checkpoint has is read by `WriteCheckpoints`, when all that it is for is there.
    """

    def _load_from_checkpoint(self, *given: Any, **named: Any) -> None:
        pass

    def _load_optimizer_and_scheduler(self, *given: Any, **named: Any) -> None:
        pass

    def _load_rng_state(self, *given: Any, **named: Any) -> None:
        pass


def run_job(job: Job) -> TrainingReport:
    """Train.

    Raises:
        ValueError, OSError, FloatingPointError: what `train` says of them.
    """
    was_training = job.model.training
    with (
        tempfile.TemporaryDirectory(prefix="stope-train-") as scratch,
        threads(job.recipe.schedule.threads),
        quiet(job.model),
        tokens_once(job.model),
    ):
        try:
            return _run(job, _arguments(job, scratch))
        finally:
            job.model.train(was_training)


def _arguments(job: Job, scratch: str) -> Any:
    schedule = job.recipe.schedule
    arguments = SentenceTransformerTrainingArguments(
        output_dir=scratch,
        use_cpu=job.model.device.type == "cpu",  # trained where it is
        per_device_train_batch_size=schedule.batch_size,
        num_train_epochs=schedule.epochs,
        max_steps=schedule.max_steps or -1,
        learning_rate=schedule.learning_rate,
        lr_scheduler_type=_SCHEDULERS[schedule.scheduler],
        # Rows of a static encoder that no batch touches have no gradient; a common norm would let
        # batch composition decide every token's step.
        max_grad_norm=0.0 if is_static(job.model) else 1.0,
        seed=schedule.seed,
        weight_decay=0.0,
        dataloader_pin_memory=False,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        # Looked for in every step, which a static encoder's one parameter needs not.
        ddp_find_unused_parameters=False if is_static(job.model) else None,
    )
    keep_device(arguments, job.model.device, job.say)
    return arguments


def keep_device(arguments: Any, device: torch.device, say: Say) -> None:
    """Let one process alone train on the GPU where the model is.

    The library would move it to cuda:0 and, where there are more GPUs, put it into a
    torch.nn.DataParallel, which multiplies the batch.
    """
    if arguments.world_size > 1 or device.type != "cuda":
        return
    if (count := torch.cuda.device_count()) > 1:
        say(f"training on {device} alone; torchrun --nproc-per-node {count} uses all GPUs")
    torch.cuda.set_device(device)
    arguments.__dict__["_setup_devices"] = device  # what `device` and `n_gpu` look at
    arguments.distributed_state.device = device
    arguments._n_gpu = 1


def _run(job: Job, arguments: Any) -> TrainingReport:
    first = arguments.process_index == 0
    if not first:
        job = dataclasses.replace(job, say=silent, progress=None)
    model, recipe = job.model, job.recipe
    scorer = pair_scores(recipe.teacher, recipe.output.folder, job.say)
    if recipe.distillation is not None and scorer is not None and scorer.cosines:
        asked = recipe.distillation.of_cosines(recipe.loss.temperature)
        recipe = recipe.model_copy(update={"distillation": asked})
        job = dataclasses.replace(job, recipe=recipe)
    checkpoints, resumed, folder = _checkpoints(job, arguments.world_size, scorer)
    job = scored_rows(job, scorer)
    if recipe.weighting is not None:
        columns = check_columns(job.dataset)
        known = [*columns.signals, *([WEIGHT] if columns.weight else [])]
        signals = {name: job.dataset[name] for name in known}
        if columns.teacher or scorer is not None:
            signals.setdefault(CONFIDENCE, [0.0, 1.0])
        check_weighting(recipe.weighting, signals)
    sampler = _sampler(job, arguments, folder)
    _say_short_batches(job, sampler.plan)
    schedule = recipe.schedule
    steps = schedule.max_steps or (schedule.epochs or 1) * (len(sampler) // arguments.world_size)
    arguments.batch_sampler = lambda *given, **named: sampler
    arguments.warmup_steps = round(schedule.warmup * steps)
    refresh = _refresh(job, folder, scorer)
    clock = Clock(max_steps=steps)
    with low_rank(model, recipe.lora, schedule.seed):
        loss = _loss(job, refresh, clock)
        session = Session(TrainingReport(epochs=schedule.epochs or 1), clock, loss, job.say, first)
        evaluate = Evaluate(job.evaluation, recipe.evaluation)
        tasks = [LogSteps(job.progress), evaluate, RefreshNegatives(refresh)]
        write = WriteCheckpoints(checkpoints, recipe.output.checkpoint_every, tasks)
        if resumed is not None and is_finished(resumed):
            job.say("it had come to its end; the model is taken from it")
            session.model = model
            write.restore(session, resumed)
        else:
            callback = InOrder(session, [*tasks, write], schedule.seed, resumed)
            with _log(folder if first else None, recipe.output) as session.log:
                trainer = Trainer(
                    model=model,
                    args=arguments,
                    train_dataset=job.dataset,
                    loss=loss,
                    callbacks=[callback],
                )
                _set_collator(trainer, job, loss)
                trainer.remove_callback(PrinterCallback)
                with hearing("while it trained"), autocast_training(model, schedule.autocast):
                    trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        evaluate.leave_best(model)
    session.report.seconds = session.seconds()
    return session.report


# --- what a training is made of -------------------------------------------------------------------


def _checkpoints(
    job: Job, processes: int, scorer: PairScores | None
) -> tuple[Checkpoints | None, Path | None, Path | None]:
    """The checkpoints of the output folder, the one to go on from, and the folder; or None."""
    output = job.recipe.output
    if output.folder is None:
        return None, None, None
    folder = _folder(Path(output.folder))
    deciding = _deciding(job, processes)
    if scorer is not None:
        deciding["teacher"] = {"sha256": scorer.fingerprint()}
    digest = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).digest()
    same_in_all(
        int.from_bytes(digest[:6], "big"),
        "what is trained, on which rows or how",
        "give all the same model, examples and options",
    )
    checkpoints = Checkpoints(folder / "checkpoints", deciding, output.keep_checkpoints)
    if not job.resume:
        if checkpoints:
            raise FileExistsError(
                f"{checkpoints.folder} has checkpoints of a run; give resume=True to go on with "
                "it, or name another output folder"
            )
        return checkpoints, None, folder
    newest = checkpoints.newest(job.say)
    if newest is None:
        job.say("there is no checkpoint to go on from; starting at the beginning")
    else:
        job.say(f"going on from the checkpoint {newest.name}")
    return checkpoints, newest, folder


def _folder(folder: Path) -> Path:
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"output is {folder}, which is a file; name a folder")
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"output is {folder}, but the folder {folder.absolute().parent} does not exist; "
            "create it first"
        )
    folder.mkdir(exist_ok=True)
    return folder


def _sampler(job: Job, arguments: Any, folder: Path | None) -> Any:
    """The batches of every epoch, in all processes."""
    spec = Distinct() if job.recipe.batches is None else job.recipe.batches
    embeddings = _query_embeddings(job, folder) if isinstance(spec, Clustered) else None
    processes = arguments.world_size
    make = batch_sampler(spec, table=job.table, embeddings=embeddings, processes=processes)
    return make(job.dataset, arguments.per_device_train_batch_size, False, seed=arguments.seed)


def _say_short_batches(job: Job, plan: Plan) -> None:
    """A line where rows that share a query or positive leave batches far below batch_size."""
    if job.recipe.batches not in (None, Distinct()):
        return
    asked, lengths = job.recipe.schedule.batch_size or 0, list(map(len, plan.batches(0)))
    rows = sum(lengths)
    if rows < 0.75 * asked * len(lengths):
        job.say(
            f"batches of {rows // len(lengths):,} rows, not {asked:,}, since no query and no "
            f"positive is twice in a batch; so an epoch has {rows:,} of {len(job.dataset):,} rows "
            "(batches: shuffled lifts both limits)"
        )


def _query_embeddings(job: Job, folder: Path | None) -> Any:
    """One row per query number, the same when training goes on, and in all processes."""
    dataset, prompts = job.dataset, job.recipe.prompts
    rows = np.unique(job.table.query_numbers, return_index=True)[1].tolist()
    texts = dataset[check_columns(dataset).texts[0]]
    sources = dataset[SOURCE] if SOURCE in dataset.column_names else None
    asked = [
        (prompts.query(None if sources is None else sources[row]) if prompts else "") + texts[row]
        for row in rows
    ]

    def encode() -> Any:
        if folder is None:
            return encode_queries(job.model, asked)
        # Found again when training goes on: another machine might round to another cluster.
        return EmbeddingCache(folder / "batches").embeddings(job.model, asked, role="query")

    return computed_in_first(encode)


def _refresh(job: Job, folder: Path | None, scorer: PairScores | None) -> RefreshRun | None:
    """What mines negatives in this run, or None; it gets the model as training starts with it."""
    negatives, table = job.recipe.negatives, job.table
    if negatives is None:
        return None
    assert table.pairs is not None  # refused before
    return negatives.start(
        table.pairs,
        job.model,
        folder=folder,
        seed=job.recipe.schedule.seed,
        progress=_stages(job.say),
        sources=table.query_sources(),
        prompts=job.recipe.prompts,
        teacher=scorer,
    )


def _stages(say: Say) -> StageProgress:
    """What a refresh is doing, once in two seconds."""
    last = time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 2:
            last = time.monotonic()
            say(f"refreshing negatives: {stage}, {done:,} of {total:,}")

    return progress


def _loss(job: Job, refresh: RefreshRun | None, clock: Clock) -> Any:
    part = job.recipe.loss
    if refresh is not None and refresh.negatives is None:
        chosen = {} if part.query_side is None else {"loss": part.query_side}
        return refresh.loss(job.model, temperature=part.temperature, **chosen)
    loss = contrastive_loss(job.model, part) if job.loss is None else job.loss
    ours = infonce_in(loss)
    if ours is not None:
        ours.attach(
            rows=job.table,
            clock=clock,
            negatives=None if refresh is None else refresh.negatives,
            prompts=job.recipe.prompts,
            weighting=job.recipe.weighting,
            distillation=job.recipe.distillation,
            teacher=None if refresh is None else refresh.taught,
        )
    return loss


def _set_collator(trainer: Trainer, job: Job, loss: Any) -> None:
    if infonce_in(loss) is not None or isinstance(loss, QuerySideLoss):
        trainer.data_collator = InfoNCECollator(
            job.model, rows=job.table, prompts=job.recipe.prompts
        )
        return
    texts = check_columns(job.dataset).texts
    other = next((name for name in job.dataset.column_names if name not in texts), None)
    if other is not None:
        raise ValueError(
            f'examples has a column "{other}", which {type(loss).__name__} would read as text; '
            "leave loss out, or remove the column"
        )


def _log(folder: Path | None, output: OutputPart) -> Any:
    return contextlib.nullcontext() if folder is None else TrainingLog(folder, output.tensorboard)


# --- what decides the result ----------------------------------------------------------------------


def _deciding(job: Job, processes: int) -> dict[str, Any]:
    """Everything that decides the result: what a run must share with one that goes on.

    An option that is newer than the format of checkpoints is named where it is not its default, so
    that checkpoints of before it can be gone on from.
    """
    recipe = job.recipe
    schedule, evaluation = recipe.schedule, recipe.evaluation
    values = {
        "loss": recipe.loss.query_side if job.loss is None else job.loss,
        **{name: getattr(recipe.loss, name) for name in _FIRST_OPTIONS},
        **{name: value for name, value in recipe.loss.changes().items() if name != "query_side"},
        **{name: value for name, value in schedule if name not in ("threads", "preset")},
        "weighting": recipe.weighting,
        "refresh": recipe.negatives,
        "batches": recipe.batches,
        "prompts": recipe.prompts,
        "lora": recipe.lora,
        **({} if recipe.distillation is None else {"distillation": recipe.distillation}),
        "evaluation": job.evaluation,
        "evaluate_every": evaluation.every,
        "patience": evaluation.patience,
        "keep": evaluation.keep,
    }
    described = {name: describe(value) for name, value in values.items()}
    if processes > 1 and isinstance(recipe.batches, Shuffled):
        described["batches"] |= {"rows of a step": "shared out"}  # once cut with those of others
    return described | {
        "encoder": {"sha256": fingerprint_encoder(job.model)},
        "examples": {"rows": len(job.dataset), "sha256": fingerprint_rows(job.dataset)},
        "processes": processes,
    }


_FIRST_OPTIONS = (
    "temperature",
    "precision",
    "mini_batch_size",
    "symmetric",
    "matryoshka_dims",
    "matryoshka_weights",
)


def describe(value: Any) -> Any:
    """A value of an option as JSON: objects as their name and numbers, never as code.

    Example:
        >>> from stope.weighting import Constant
        >>> describe({"weighting": Constant(), "dims": (8, 4)})
        {'weighting': {'name': 'constant', 'value': 1.0}, 'dims': [8, 4]}
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): describe(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if isinstance(value, torch.nn.Module) and callable(getattr(value, "encode", None)):
        return {"name": type(value).__name__, "sha256": fingerprint_encoder(value)}
    if callable(getattr(value, "fingerprint", None)):
        return {"name": type(value).__name__, "sha256": value.fingerprint()}
    if callable(getattr(value, "to_dict", None)):
        return describe(value.to_dict())
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"name": type(value).__name__, **describe(fields)}
    if callable(getattr(value, "get_config_dict", None)):
        return {"name": type(value).__name__, **describe(value.get_config_dict())}
    return type(value).__name__
