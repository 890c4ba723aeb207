"""Train an encoder in place on (query, positive, hard negatives...) rows."""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stope._extras import need
from stope.training._batches import WEIGHT, distinct_batches
from stope.training._library import is_static
from stope.training.dataset import training_dataset
from stope.training.losses import Precision, contrastive_loss

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

Progress = Callable[[int, int], None]
_STATIC = {"batch_size": 2048, "epochs": 10, "learning_rate": 0.1}
_OTHER = {"batch_size": 64, "epochs": 1, "learning_rate": 2e-5}


@dataclass
class TrainingReport:
    """What a training run did.

    Attributes:
        steps: optimiser steps taken.
        epochs: passes over the rows.
        seconds: wall-clock time, evaluations included.
        losses: the loss of each step.
        evaluations: what `evaluation` returned after each epoch.
        best_epoch: the epoch (from 1) whose weights the model has now, if keep was "best".
    """

    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int | None = None


def train(
    model: SentenceTransformer,
    examples: Dataset | Sequence[Sequence[str]],
    *,
    loss: Any | None = None,
    batch_size: int | None = None,
    epochs: int | None = None,
    learning_rate: float | None = None,
    temperature: float = 0.05,
    precision: Precision = "float32",
    mini_batch_size: int | None = None,
    symmetric: bool = False,
    warmup: float = 0.1,
    seed: int = 0,
    evaluation: Callable[[SentenceTransformer], dict[str, float]] | None = None,
    keep: Literal["last", "best"] = "last",
    progress: Progress | None = None,
) -> TrainingReport:
    """Train model in place with in-batch negatives and any hard negatives the rows bring.

    Runs on sentence-transformers' trainer: AdamW, linear warm-up and decay, no query or positive
    twice in a batch. A batch less than half as long as the longest is left out. Nothing
    is written to disk, nor reported anywhere.

    Args:
        model: a SentenceTransformer.
        examples: `training_dataset` or `pairs_dataset`, or rows (query, positive, negatives...). A
            column "weight" of a dataset weighs the rows of a batch in its mean loss.
        loss: a sentence-transformers loss; default `contrastive_loss` with the options below.
        batch_size: rows per step; default 2048 for a static encoder, 64 for others, and less for
            fewer rows: an eighth of them, but 16 at least.
        epochs: passes over the rows; default 10 for a static encoder, 1 for others.
        learning_rate: peak of the schedule; default 0.1 for a static encoder, 2e-5 for others.
        temperature: of the default loss.
        precision: of the default loss, "float32" or "bfloat16".
        mini_batch_size: of the default loss; rows encoded at a time.
        symmetric: of the default loss.
        warmup: share of the steps in which the learning rate rises from 0.
        seed: of the order of rows and of dropout. The same seed gives the same weights up to the
            last bits of torch's sums, which vary with threads and memory alignment.
        evaluation: called with the model after every epoch, such as `RetrievalEvaluation`.
        keep: "best" leaves the model with the weights of the epoch whose evaluation was best (its
            first metric), "last" with those of the last step.
        progress: called with (steps done, steps in total).

    Returns:
        What was done, with the loss of each step.

    Raises:
        ValueError: no rows, fewer than two columns, a number out of range, weights that another
            loss would not read, or keep="best" without an evaluation.
        FloatingPointError: the loss became NaN or infinite; the model is then of no use.

    Memory: model, gradient and two moments of AdamW; batch x columns embeddings in float32, three
    times, and no score matrix; for a static encoder the token ids of all texts, 4 bytes each.

    Example:
        >>> from stope.training import static_encoder
        >>> rows = [("red ore", "iron in rock"), ("deep pit", "a hole in the ground")]
        >>> encoder = static_encoder([text for row in rows for text in row] * 9, dim=8)
        >>> len(train(encoder, rows, epochs=3).losses)
        3
    """
    library: Any = need("sentence_transformers", extra="train")
    usual = _STATIC if is_static(model) else _OTHER
    dataset = _as_dataset(examples)
    if batch_size is None:  # small files still get several steps per epoch
        batch_size = min(int(usual["batch_size"]), max(16, len(dataset) // 8))
    passes = int(epochs if epochs is not None else usual["epochs"])
    rate = float(learning_rate if learning_rate is not None else usual["learning_rate"])
    _check(batch_size, passes, rate, warmup, keep, evaluation)
    rows = min(batch_size, len(dataset))
    if loss is None:
        loss = contrastive_loss(
            model,
            temperature=temperature,
            precision=precision,
            mini_batch_size=mini_batch_size,
            symmetric=symmetric,
        )
    from stope.training._fused_loss import Batches, CachedFusedLoss, FusedLoss

    fused = isinstance(loss, FusedLoss | CachedFusedLoss)
    if WEIGHT in dataset.column_names and not fused:
        raise ValueError(
            f'examples has a column "{WEIGHT}", which {type(loss).__name__} would read as text; '
            "leave loss out, or remove the column."
        )
    report = TrainingReport(epochs=passes)
    watcher = _watcher(report, evaluation, keep, progress)
    began = time.perf_counter()
    was_training = model.training
    with tempfile.TemporaryDirectory(prefix="stope-train-") as scratch, _quiet(model):
        arguments = library.SentenceTransformerTrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=rows,
            num_train_epochs=passes,
            learning_rate=rate,
            warmup_steps=round(warmup * passes * (len(dataset) // rows)),
            # Rows of a static encoder that no batch touches have no gradient; a common norm would
            # let batch composition decide every token's step.
            max_grad_norm=0.0 if usual is _STATIC else 1.0,
            weight_decay=0.0,
            seed=seed,
            batch_sampler=distinct_batches,
            dataloader_pin_memory=False,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = library.SentenceTransformerTrainer(
            model=model, args=arguments, train_dataset=dataset, loss=loss, callbacks=[watcher]
        )
        if fused:
            trainer.data_collator = Batches(trainer.data_collator)
        trainer.remove_callback(need("transformers", extra="train").PrinterCallback)
        with _tokens_once(model):
            trainer.train()
    watcher.restore(model)
    model.train(was_training)
    report.seconds = time.perf_counter() - began
    return report


def _check(
    batch_size: int, epochs: int, learning_rate: float, warmup: float, keep: str, evaluation: Any
) -> None:
    if batch_size < 2:
        raise ValueError(f"batch_size must be at least 2 (one negative each), not {batch_size}.")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, not {epochs}.")
    if not learning_rate > 0:
        raise ValueError(f"learning_rate must be positive, but is {learning_rate}.")
    if not 0 <= warmup < 1:
        raise ValueError(f"warmup must be at least 0 and below 1, but is {warmup}.")
    if keep not in ("last", "best"):
        raise ValueError(f'keep must be "last" or "best", not {keep!r}.')
    if keep == "best" and evaluation is None:
        raise ValueError('keep="best" needs an evaluation to judge the epochs by.')


def _as_dataset(examples: Any) -> Any:
    dataset = examples
    if not hasattr(examples, "column_names"):
        rows = [tuple(row) for row in examples]
        if not rows:
            raise ValueError("examples is empty; there is nothing to train on.")
        if min(map(len, rows)) < 2:
            raise ValueError("examples has a row without a positive; rows are (query, positive).")
        negatives = [row[2:] for row in rows] if max(map(len, rows)) > 2 else None
        dataset = training_dataset([row[0] for row in rows], [row[1] for row in rows], negatives)
    if len(dataset) < 2:
        raise ValueError(f"examples has {len(dataset)} rows; in-batch negatives need two or more.")
    texts = [name for name in dataset.column_names if name != WEIGHT]
    if len(texts) < 2:
        raise ValueError(f"examples has only the text column {texts}; two are needed.")
    if WEIGHT in dataset.column_names:
        for row, weight in enumerate(dataset[WEIGHT]):
            if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(
                    f'examples has the weight {weight!r} in row {row}; the column "{WEIGHT}" holds '
                    "numbers of at least 0."
                )
    return dataset


def _watcher(report: TrainingReport, evaluation: Any, keep: str, progress: Any) -> Any:
    """Make the trainer's callback that notes losses, evaluates, and reports progress."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        best: float = -math.inf
        weights: dict[str, Any] | None = None

        def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            value = (given.get("logs") or {}).get("loss")
            if value is None:
                return
            if not math.isfinite(value):
                raise FloatingPointError(
                    f"The loss is {value} at step {state.global_step}; lower learning_rate"
                    f" (it is {args.learning_rate:g}) or raise temperature."
                )
            report.losses.append(float(value))

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            report.steps = state.global_step
            if progress is not None:
                progress(state.global_step, state.max_steps)

        def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if evaluation is None:
                return
            model = given["model"]
            model.eval()
            found = dict(evaluation(model))
            model.train()
            report.evaluations.append(found)
            value = next(iter(found.values()))
            if keep == "best" and value > self.best:
                self.best = value
                report.best_epoch = len(report.evaluations)
                self.weights = {name: one.clone() for name, one in model.state_dict().items()}

        def restore(self, model: Any) -> None:
            if self.weights is not None:
                model.load_state_dict(self.weights)

    return Watcher()


@contextlib.contextmanager
def _tokens_once(model: Any) -> Iterator[None]:
    """Let a static encoder meanwhile tokenize each text once: that is most of its training time."""
    if not is_static(model):
        yield
        return
    import torch

    module = model[0]
    known: dict[str, Any] = {}

    def preprocess(inputs: Any, prompt: str | None = None, **options: Any) -> dict[str, Any]:
        texts = [prompt + text for text in inputs] if prompt else list(inputs)
        new = list(dict.fromkeys(text for text in texts if text not in known))
        encodings = module.tokenizer.encode_batch(new, add_special_tokens=False)
        for text, encoding in zip(new, encodings, strict=True):
            known[text] = np.array(encoding.ids, dtype=np.int32)
        rows = [known[text] for text in texts]
        ends = np.cumsum([0, *map(len, rows)])
        ids = np.concatenate([*rows, np.empty(0, np.int32)]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "offsets": torch.from_numpy(ends[:-1])}

    name = "preprocess" if hasattr(module, "preprocess") else "tokenize"
    module.__dict__[name] = preprocess
    try:
        yield
    finally:
        del module.__dict__[name]


@contextlib.contextmanager
def _quiet(model: Any) -> Iterator[None]:
    """Keep the libraries' notices (not their errors) and the card's bar off the terminal."""
    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    levels = [logger.level for logger in loggers]
    card = model.model_card_data
    examples = card.widget
    try:
        card.widget = examples or [{}]  # an empty one would be filled, with a bar, from the rows
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        card.widget = examples
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
