"""The middle of `train`: its arguments are checked; make the parts, take the steps, tidy up."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import SentenceTransformerTrainer
from transformers import PrinterCallback

from stope.encoders import EmbeddingCache, fingerprint_encoder
from stope.encoders.encode import encode_queries
from stope.encoders.lora import low_rank
from stope.scale.processes import computed_in_first
from stope.training._arguments import check_output, say_nothing
from stope.training._clock import Clock
from stope.training._collator import Batches
from stope.training._examples import fingerprint_rows
from stope.training._fused_loss import CachedFusedLoss, FusedLoss
from stope.training._options import Options
from stope.training._signals import check_weighting
from stope.training._surroundings import autocast_training, tokens_once
from stope.training.batches import Clustered, Distinct, batch_sampler
from stope.training.callbacks.between_steps import BetweenSteps
from stope.training.callbacks.checkpoint import Checkpoints
from stope.training.callbacks.log import TrainingLog
from stope.training.losses import contrastive_loss
from stope.training.negatives.query_side import QuerySideLoss
from stope.training.negatives.refresh import RefreshRun
from stope.training.report import TrainingReport
from stope.training.rows import SOURCE, WEIGHT, RowTable, check_columns


class Trainer(SentenceTransformerTrainer):  # type: ignore[misc]
    """The library's trainer, which skips the steps that are done but reads no pickles.

    What a checkpoint of `train` has is read by `BetweenSteps`, when all that it is for is there.
    """

    def _load_from_checkpoint(self, *given: Any, **named: Any) -> None:
        pass

    def _load_optimizer_and_scheduler(self, *given: Any, **named: Any) -> None:
        pass

    def _load_rng_state(self, *given: Any, **named: Any) -> None:
        pass


def run_steps(
    model: Any, dataset: Any, table: RowTable, arguments: Any, options: Options
) -> TrainingReport:
    """Train model on the rows of dataset, with the library's arguments and the options of `train`.

    Raises:
        ValueError, OSError, FloatingPointError: what `train` says of them.
    """
    first = arguments.process_index == 0
    say = (options.say if first else None) or say_nothing
    checkpoints, resumed, folder = None, None, None
    if options.output is not None:
        folder = check_output(options.output)
        deciding = _deciding(model, dataset, options, arguments.world_size)
        checkpoints = Checkpoints(folder / "checkpoints", deciding, options.keep_checkpoints)
        resumed = _newest(checkpoints, options.resume, say)
    if options.weighting is not None:
        found = check_columns(dataset)
        known = [*found.signals, *([WEIGHT] if found.weight else [])]
        check_weighting(options.weighting, {name: dataset[name] for name in known})
    sampler = _sampler(model, dataset, table, arguments, options, folder)
    steps = options.max_steps or options.epochs * (len(sampler) // arguments.world_size)
    arguments.batch_sampler = lambda *given, **named: sampler
    arguments.warmup_steps = round(options.warmup * steps)
    refresh = _refresh(model, table, options, folder, say)
    clock = Clock(max_steps=steps)
    with low_rank(model, options.lora, options.seed):
        loss = _loss(model, table, options, refresh, clock)
        watcher = BetweenSteps(
            report=TrainingReport(epochs=options.epochs),
            clock=clock,
            loss=loss,
            seed=options.seed,
            evaluation=options.evaluation,
            evaluate_every=options.evaluate_every,
            patience=options.patience,
            keep=options.keep,
            progress=options.progress if first else None,
            say=say,
            refresh=refresh,
            checkpoints=checkpoints,
            checkpoint_every=options.checkpoint_every,
            resumed=resumed,
            first=first,
        )
        if watcher.is_finished():
            say("it had come to its end; the model is taken from it")
            watcher.restore(model)
        else:
            with _log(folder if first else None, options.tensorboard) as watcher.log:
                trainer = Trainer(
                    model=model,
                    args=arguments,
                    train_dataset=dataset,
                    loss=loss,
                    callbacks=[watcher],
                )
                if isinstance(loss, FusedLoss | CachedFusedLoss | QuerySideLoss):
                    trainer.data_collator = Batches(trainer.data_collator, table, options.prompts)
                else:
                    _check_texts_only(dataset, loss)
                trainer.remove_callback(PrinterCallback)
                with tokens_once(model), autocast_training(model, options.autocast):
                    trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed))
        watcher.leave_best(model)
    watcher.report.seconds = watcher.seconds()
    return watcher.report


def _refresh(
    model: Any, table: RowTable, options: Options, folder: Path | None, say: Callable[[str], object]
) -> RefreshRun | None:
    """What mines negatives in this run, or None; it gets the model as training starts with it."""
    if options.refresh is None:
        return None
    assert table.pairs is not None  # refresh without pairs is refused before
    return options.refresh.start(
        table.pairs,
        model,
        folder=folder,
        seed=options.seed,
        progress=_stages(say),
        sources=table.query_sources(),
        prompts=options.prompts,
    )


def _loss(
    model: Any, table: RowTable, options: Options, refresh: RefreshRun | None, clock: Clock
) -> Any:
    if refresh is not None and refresh.negatives is None:
        chosen = {} if options.loss is None else {"loss": options.loss}
        return refresh.loss(model, temperature=options.temperature, **chosen)
    if isinstance(options.loss, FusedLoss | CachedFusedLoss):
        options.loss.clock = clock
    if options.loss is not None:
        return options.loss
    return contrastive_loss(
        model,
        temperature=options.temperature,
        precision=options.precision,
        mini_batch_size=options.mini_batch_size,
        symmetric=options.symmetric,
        weighting=options.weighting,
        clock=clock,
        negatives=None if refresh is None else refresh.negatives,
        prompts=options.prompts,
        table=table,
        matryoshka_dims=options.matryoshka_dims,
        matryoshka_weights=options.matryoshka_weights,
    )


def _stages(say: Callable[[str], object]) -> Callable[[str, int, int], None]:
    """What a refresh is doing, once in two seconds."""
    last = time.monotonic()

    def progress(stage: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= 2:
            last = time.monotonic()
            say(f"refreshing negatives: {stage}, {done:,} of {total:,}")

    return progress


def _log(folder: Path | None, tensorboard: bool) -> Any:
    return contextlib.nullcontext() if folder is None else TrainingLog(folder, tensorboard)


def _sampler(
    model: Any,
    dataset: Any,
    table: RowTable,
    arguments: Any,
    options: Options,
    folder: Path | None,
) -> Any:
    """The batches of every epoch, in all processes."""
    spec = Distinct() if options.batches is None else options.batches
    embeddings = None
    if isinstance(spec, Clustered):
        embeddings = _query_embeddings(model, dataset, table, options.prompts, folder)
    make = batch_sampler(spec, table=table, embeddings=embeddings, processes=arguments.world_size)
    return make(dataset, arguments.per_device_train_batch_size, False, seed=arguments.seed)


def _query_embeddings(
    model: Any, dataset: Any, table: RowTable, prompts: Any, folder: Path | None
) -> Any:
    """One row per query number, the same when training goes on, and in all processes."""
    rows = np.unique(table.query_numbers, return_index=True)[1].tolist()
    texts = dataset[check_columns(dataset).texts[0]]
    sources = dataset[SOURCE] if SOURCE in dataset.column_names else None
    asked = [
        (prompts.query(None if sources is None else sources[row]) if prompts else "") + texts[row]
        for row in rows
    ]

    def encode() -> Any:
        if folder is None:
            return encode_queries(model, asked)
        # Found again when training goes on: another machine might round to another cluster.
        return EmbeddingCache(folder / "batches").embeddings(model, asked, role="query")

    return computed_in_first(encode)


def _newest(checkpoints: Checkpoints, resume: bool, say: Any) -> Path | None:
    if not resume:
        if checkpoints:
            raise FileExistsError(
                f"{checkpoints.folder} has checkpoints of a run; give resume=True to go on with "
                "it, or name another output folder"
            )
        return None
    found = checkpoints.newest(say)
    if found is None:
        say("there is no checkpoint to go on from; starting at the beginning")
    else:
        say(f"going on from the checkpoint {found.name}")
    return found


def _deciding(model: Any, dataset: Any, options: Options, processes: int) -> dict[str, Any]:
    """Everything that decides the result: what a run must share with one that goes on."""
    return {
        **options.deciding(),
        "encoder": {"sha256": fingerprint_encoder(model)},
        "examples": {"rows": len(dataset), "sha256": fingerprint_rows(dataset)},
        "processes": processes,
    }


def _check_texts_only(dataset: Any, loss: Any) -> None:
    texts = check_columns(dataset).texts
    other = next((name for name in dataset.column_names if name not in texts), None)
    if other is not None:
        raise ValueError(
            f'examples has a column "{other}", which {type(loss).__name__} would read as text; '
            "leave loss out, or remove the column"
        )
