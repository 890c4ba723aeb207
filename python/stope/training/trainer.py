"""Train an encoder in place on (query, positive, hard negatives...) rows."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stope._extras import need
from stope.encoders.lora import Lora
from stope.encoders.prompts import TaskPrompts
from stope.encoders.versions import is_static
from stope.training._arguments import SCHEDULERS, check_numbers, check_together
from stope.training._examples import as_rows
from stope.training._options import Options
from stope.training._surroundings import quiet
from stope.training.batches import BatchSpec
from stope.training.losses import Precision
from stope.training.negatives.refresh import NegativeRefresh
from stope.training.report import TrainingReport
from stope.weighting import Weighting

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    from stope.data import Pairs

Progress = Callable[[int, int], object]
_STATIC = {"batch_size": 2048, "epochs": 10, "learning_rate": 0.1}
_OTHER = {"batch_size": 64, "epochs": 1, "learning_rate": 2e-5}
_LORA = {**_OTHER, "learning_rate": 2e-4}


def train(
    model: SentenceTransformer,
    examples: Dataset | Pairs | Sequence[Sequence[str]],
    *,
    columns: Mapping[str, Sequence[Any]] | None = None,
    loss: Any | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    learning_rate: float | None = None,
    scheduler: Literal["linear", "cosine", "constant"] = "linear",
    warmup: float = 0.1,
    temperature: float = 0.05,
    precision: Precision = "float32",
    mini_batch_size: int | None = None,
    symmetric: bool = False,
    matryoshka_dims: Sequence[int] | None = None,
    matryoshka_weights: Sequence[float] | None = None,
    weighting: Weighting | Mapping[str, Any] | str | None = None,
    refresh: NegativeRefresh | Mapping[str, Any] | None = None,
    batches: BatchSpec | Mapping[str, Any] | str | None = None,
    prompts: TaskPrompts | Mapping[str, Any] | None = None,
    lora: Lora | None = None,
    autocast: Literal["bfloat16"] | None = None,
    seed: int = 0,
    evaluation: Callable[[SentenceTransformer], Mapping[str, float]] | None = None,
    evaluate_every: int | None = None,
    patience: int | None = None,
    keep: Literal["last", "best"] = "last",
    output: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_checkpoints: int = 2,
    resume: bool = False,
    tensorboard: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
) -> TrainingReport:
    """Train model in place with in-batch negatives and any hard negatives the rows bring.

    Runs on sentence-transformers' trainer: AdamW, linear warm-up and decay, no query or positive
    twice in a batch. A batch less than half as long as the longest is left out. Without output
    nothing is written to disk, nor reported anywhere.

    With output, training killed at any moment goes on with ``resume=True`` and comes to the same
    weights (with one torch thread to the bit, as without an interruption): every step seeds its
    random numbers from (seed, step), batches are a function of (seed, epoch), and a checkpoint has
    the rest. Checkpoints hold tensors and JSON, no pickles.

    In several processes (torchrun) each has its own rows of every step, and all evaluate, but the
    first one's numbers count, and it alone writes, reports progress and says what is being done.

    Args:
        model: a SentenceTransformer.
        examples: `training_dataset` or `pairs_dataset`, or rows (query, positive, negatives...), or
            `stope.data.Pairs`, of which each (query, positive) is a row. In a dataset, a column
            "weight" weighs the rows of a batch in its mean loss, "source" names where a row is from
            (for batches and prompts), and any column of numbers is a signal for the weighting.
        columns: more such columns, one value per row; with pairs in the order of their positives.
        loss: a sentence-transformers loss; default `contrastive_loss` with the options below. With
            refresh in the mode "query_side" the name "lambda_mrr" (the default) or "infonce".
        batch_size: rows per step (of each process); default 2048 for a static encoder, 64 for
            others, and less for fewer rows: an eighth of them, but 16 at least.
        epochs: passes over the rows; default 10 for a static encoder, 1 for others.
        max_steps: optimiser steps in total, in place of epochs.
        learning_rate: peak of the schedule; default 0.1 for a static encoder, 2e-4 with lora, 2e-5
            for others.
        scheduler: how the learning rate goes on after the warm-up: "linear" and "cosine" fall to 0.
        warmup: share of the steps in which the learning rate rises from 0.
        temperature: of the default loss.
        precision: of the default loss, "float32" or "bfloat16".
        mini_batch_size: of the default loss; rows encoded at a time.
        symmetric: of the default loss.
        matryoshka_dims: of the default loss; also train these first dimensions of the embeddings.
        matryoshka_weights: of the default loss; the weight of each of them.
        weighting: of the default loss: how rows are weighed by difficulty and progress, such as
            `stope.weighting.Progressive`, its dictionary or its name.
        refresh: `NegativeRefresh`, or its dictionary: hard negatives mined with the model itself
            while it trains; examples are Pairs then, whose ``corpus_of`` with a column "source"
            makes it mine source by source. Its mode "query_side" has a loss of its own.
        batches: which rows meet in a batch, such as `stope.training.batches.Clustered`, its
            dictionary or its name; default `Distinct`.
        prompts: `TaskPrompts`, or their dictionary, put before queries and documents. What refresh
            encodes gets those of the source that it mines, or the default where it mines all as
            one, unless refresh has prompts of its own.
        lora: train low-rank updates of a transformer's weights instead of the weights.
        autocast: "bfloat16" encodes in mixed precision while training, which is faster where the
            processor has tiles for it (AMX) or on a GPU; evaluation and refresh stay in float32.
        seed: of the order of rows and of dropout. The same seed gives the same weights up to the
            last bits of torch's sums, which vary with threads and memory alignment.
        evaluation: called with the model, such as `RetrievalEvaluation`; its first metric decides.
        evaluate_every: steps between evaluations; default after every epoch. The last step is
            followed by one always.
        patience: stop after this many evaluations in a row without a gain.
        keep: "best" leaves the model with the weights of the best evaluation, "last" with those of
            the last step.
        output: folder for checkpoints and ``log.jsonl``, where each step has a line; made if
            its parent exists.
        checkpoint_every: steps between checkpoints; default after every epoch.
        keep_checkpoints: how many of the newest are kept.
        resume: go on from the newest checkpoint in output that is whole. Without one, start; with
            that of a run that came to its end, return its report and leave its weights in model.
            The model given is the one that training began with.
        tensorboard: write the log for TensorBoard too.
        progress: called with (steps done, steps in total).
        say: called with a line about what is being done: evaluating, refreshing, ...

    Returns:
        What was done, with the loss of each step.

    Raises:
        ValueError: no rows, fewer than two columns, a number out of range, weights that another
            loss would not read, options that do not go together, a checkpoint of another run.
        FileExistsError: output has checkpoints, and resume is False.
        FloatingPointError: the loss became NaN or infinite; the model is then of no use.
        OSError: a checkpoint cannot be written; the earlier ones are untouched.

    Memory: model, gradient and two moments of AdamW; batch x columns embeddings in float32, three
    times, and no score matrix; for a static encoder the token ids of all texts, 4 bytes each. With
    keep="best" the weights once more, and once more while a checkpoint is written.

    Example:
        >>> from stope.encoders import static_encoder
        >>> rows = [("red ore", "iron in rock"), ("deep pit", "a hole in the ground")]
        >>> encoder = static_encoder([text for row in rows for text in row] * 9, dim=8)
        >>> len(train(encoder, rows, epochs=3).losses)
        3
    """
    static = is_static(model)
    usual = _STATIC if static else _OTHER if lora is None else _LORA
    dataset, table = as_rows(examples, columns)
    if epochs is not None and max_steps is not None:
        raise ValueError(f"epochs is {epochs} and max_steps is {max_steps}; give one of them")
    if batch_size is None:  # small files still get several steps per epoch
        batch_size = min(int(usual["batch_size"]), max(16, len(dataset) // 8))
    epochs = int(epochs if epochs is not None else usual["epochs"])
    rate = float(learning_rate if learning_rate is not None else usual["learning_rate"])
    check_numbers(
        batch_size,
        epochs,
        rate,
        warmup,
        seed,
        max_steps=max_steps,
        evaluate_every=evaluate_every,
        patience=patience,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=keep_checkpoints,
    )
    options = Options(
        loss=loss,
        batch_size=min(batch_size, len(dataset)),
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=rate,
        scheduler=scheduler,
        warmup=warmup,
        temperature=temperature,
        precision=precision,
        mini_batch_size=mini_batch_size,
        symmetric=symmetric,
        matryoshka_dims=matryoshka_dims,
        matryoshka_weights=matryoshka_weights,
        weighting=None if weighting is None else Weighting.from_dict(weighting),
        refresh=None if refresh is None else NegativeRefresh.from_dict(refresh),
        batches=None if batches is None else BatchSpec.from_dict(batches),
        prompts=None if prompts is None else TaskPrompts.from_dict(prompts),
        lora=lora,
        autocast=autocast,
        seed=seed,
        evaluation=evaluation,
        evaluate_every=evaluate_every,
        patience=patience,
        keep=keep,
        output=output,
        checkpoint_every=checkpoint_every,
        keep_checkpoints=keep_checkpoints,
        resume=resume,
        tensorboard=tensorboard,
        progress=progress,
        say=say,
    )
    check_together(options, table, static=static)
    library: Any = need("sentence_transformers", extra="train")
    from stope.training._steps import run_steps

    was_training = model.training
    with tempfile.TemporaryDirectory(prefix="stope-train-") as scratch, quiet(model):
        arguments = library.SentenceTransformerTrainingArguments(
            output_dir=scratch,
            use_cpu=model.device.type == "cpu",  # trained where it is
            per_device_train_batch_size=options.batch_size,
            num_train_epochs=options.epochs,
            max_steps=-1 if max_steps is None else max_steps,
            learning_rate=options.learning_rate,
            lr_scheduler_type=SCHEDULERS[options.scheduler],
            # Rows of a static encoder that no batch touches have no gradient; a common norm would
            # let batch composition decide every token's step.
            max_grad_norm=0.0 if static else 1.0,
            seed=options.seed,
            weight_decay=0.0,
            dataloader_pin_memory=False,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        try:
            return run_steps(model, dataset, table, arguments, options)
        finally:
            model.train(was_training)
