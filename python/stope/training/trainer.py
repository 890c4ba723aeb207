"""Train an encoder in place on (query, positive, hard negatives...) rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stope._checks import flag, shown
from stope._extras import need
from stope._kinds import callback, kinds, mapping, maybe
from stope.encoders.versions import is_static
from stope.integrations.sentence_transformers.columns import ROW
from stope.progress import Progress, silent
from stope.scale.processes import meet, processes
from stope.training.batches import Shuffled
from stope.training.dataset import as_rows
from stope.training.options import Part
from stope.training.presets import LORA_RATE, PRESETS, usual_batch_size
from stope.training.recipe import Recipe, SchedulePart
from stope.training.teacher import check_teacher

if TYPE_CHECKING:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer

    from stope.data import Pairs
    from stope.training.library_trainer import Job

_QUERY_SIDE = ("temperature", "query_side")  # the options of the loss that this mode has


@dataclass
class TrainingReport:
    """What a training run did, from its first step, interrupted or not.

    Attributes:
        steps: optimiser steps taken.
        epochs: passes over the rows.
        seconds: wall-clock time, evaluations included.
        losses: the loss of each step.
        evaluations: what `evaluation` returned, each time.
        evaluation_steps: after which step each of them was.
        best_epoch: the epoch (from 1) whose weights the model has now, if keep was "best".
        best_step: the step (from 1) whose weights these are.
        stopped_early: patience was at an end before the steps were.
        refreshes: step, times and share of changed negatives of each refresh.
        resumed_from: step of the checkpoint that the last call went on from.
        finished: training came to its end.
        guard: what the second stage brought and whether it was kept, the fields of
            `stope.training.guard.Verdict`; None without a guard.
    """

    steps: int = 0
    epochs: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    evaluation_steps: list[int] = field(default_factory=list)
    best_epoch: int | None = None
    best_step: int | None = None
    stopped_early: bool = False
    refreshes: list[dict[str, Any]] = field(default_factory=list)
    resumed_from: int | None = None
    finished: bool = False
    guard: dict[str, Any] | None = None


def _in_training(model: Any, name: str) -> None:
    if not callable(getattr(model, "encode", None)) or not hasattr(model, "training"):
        raise TypeError(
            f"{name} is {shown(model)}; give a SentenceTransformer, such as "
            "stope.encoders.load_encoder(path)"
        )


@kinds(
    model=_in_training,
    columns=maybe(mapping),
    resume=flag,
    **dict.fromkeys(("evaluation", "progress", "say"), maybe(callback)),
)
def train(
    model: SentenceTransformer,
    examples: Dataset | Pairs | Sequence[Sequence[str]],
    *,
    recipe: Recipe | Mapping[str, Any] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
    loss: Any = None,
    evaluation: Callable[[SentenceTransformer], Mapping[str, float]] | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], object] | None = None,
    **options: Any,
) -> TrainingReport:
    """Train model in place with in-batch negatives and any hard negatives the rows bring.

    Runs on sentence-transformers' trainer: AdamW, linear warm-up and decay, no query or positive
    twice in a batch. A batch less than half as long as the longest is left out. Without output
    nothing is written to disk, nor reported anywhere.

    With output, training killed at any moment goes on with ``resume=True`` and comes to the same
    weights (with one torch thread to the bit, as without an interruption): every step seeds its
    random numbers from (seed, step), batches are a function of (seed, epoch), and a checkpoint has
    the rest, what the loss has learned included. Checkpoints hold tensors and JSON, no pickles.

    In several processes (torchrun) each has its own rows of every step, and all evaluate, but the
    first one's numbers count, and it alone writes, reports progress and says what is being done.
    A process group is made unless there is one; it stays.

    Args:
        model: a SentenceTransformer.
        examples: `training_dataset` or `pairs_dataset`, or rows (query, positive, negatives...), or
            `stope.data.Pairs`, of which each (query, positive) is a row. In a dataset, a column
            "weight" weighs the rows of a batch in its mean loss, "source" names where a row is from
            (for batches and prompts), "teacher_scores" is a list, a teacher's scores of the row's
            positive and negatives (`stope.mining.TeacherScores.lists`), and any column of numbers
            is a signal for the weighting.
        recipe: `stope.training.Recipe`, or its sections as a mapping; default, all its defaults.
        columns: more such columns, one value per row; with pairs in the order of their positives.
        loss: a loss of stope or of sentence-transformers in place of the recipe's; or the recipe's
            section ``loss``, or the word that is its ``query_side``.
        evaluation: called with the model, such as `RetrievalEvaluation`; returns metrics by name,
            of which the first decides, or a `stope.evaluation.Evaluation`. A guard needs the
            latter, or an evaluation that has a method ``evaluate`` returning it.
        resume: go on from the newest checkpoint in output that is whole. Without one, start; with
            that of a run that came to its end, return its report and leave its weights in model.
            The model given is the one that training began with.
        progress: called with (steps done, steps in total).
        say: called with a line about what is being done: evaluating, refreshing, ...
        **options: options of the recipe by name, whichever section they are of, such as
            ``epochs=3, temperature=0.02, refresh={"mode": "static"}, output="run"``. They and their
            defaults are explained at the sections of `stope.training.Recipe` (``help(LossPart)``).
            Where refresh mines all sources as one, it encodes with the default prompts.
            ``negatives="auto"`` mines with all defaults and a guard, which keeps what negatives
            bring only where evaluation gains. ``teacher`` is what `stope.mining.teacher_scores`
            takes, or a name for `stope.mining.load_teacher`; its scores are kept in output.

    Returns:
        What was done, with the loss of each step. The same seed gives the same weights up to the
        last bits of torch's sums, which vary with threads and memory alignment.

    Raises:
        TypeError: an option that does not exist, or a value of the wrong kind.
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
    chosen = (Recipe() if recipe is None else Recipe.read(recipe)).with_options(**options)
    if isinstance(loss, str):
        chosen, loss = chosen.with_options(query_side=loss), None
    elif isinstance(loss, Mapping | Part):
        chosen, loss = chosen.with_options(loss=loss), None
    maybe(callback)(loss, "loss")
    dataset, table = as_rows(examples, columns)
    need("sentence_transformers", extra="train")
    meet(need("torch", extra="train"))
    from stope.integrations.sentence_transformers.loss import infonce_in
    from stope.training.guard import run_guarded
    from stope.training.library_trainer import Job, run_job

    if table.pairs is not None and loss is not None and infonce_in(loss) is None:
        dataset = dataset.remove_columns(ROW)  # for stope's losses; others would read it as text
    schedule = _schedule(chosen, len(dataset), static=is_static(model))
    chosen = chosen.model_copy(update={"schedule": schedule})
    job = Job(model, dataset, table, chosen, loss, evaluation, progress, say or silent, resume)
    _check(job)
    return run_job(job) if chosen.guard is None else run_guarded(job)


def _schedule(recipe: Recipe, rows: int, *, static: bool) -> SchedulePart:
    """The schedule with numbers where the recipe leaves them to be chosen."""
    part = recipe.schedule
    if part.preset not in (None, *(("static",) if static else ("transformer", "base"))):
        kind = "a static encoder" if static else "no static encoder"
        raise ValueError(
            f"preset is {part.preset}, whose learning rate is not for this model, {kind}; leave "
            "preset out, or name " + ("static" if static else "transformer or base")
        )
    usual = PRESETS[part.preset or ("static" if static else "transformer")]
    rate = usual["learning_rate"] * (1.0 if recipe.lora is None else LORA_RATE)
    of_process = rows // processes()[1]
    batch_size = part.batch_size or usual_batch_size(of_process, int(usual["batch_size"]))
    numbers = {
        "batch_size": min(batch_size, rows),
        "epochs": part.epochs or int(usual["epochs"]),
        "learning_rate": part.learning_rate or rate,
    }
    return part.model_copy(update=numbers)


def _check(job: Job) -> None:
    """Refuse options that need, or exclude, others."""
    recipe = job.recipe
    if job.evaluation is None:
        if recipe.evaluation.keep == "best":
            raise ValueError('keep="best" needs an evaluation to judge the weights by')
        for option, name in (("patience", "patience"), ("every", "evaluate_every")):
            value = getattr(recipe.evaluation, option)
            if value is not None:
                raise ValueError(f"{name} is {value} but there is no evaluation; give one")
    if recipe.output.folder is None:
        for name, value in {"resume": job.resume, **recipe.output.changes()}.items():
            if value:
                raise ValueError(f"{name} is {value} but there is no output; name a folder")
    if recipe.negatives is not None and job.table.pairs is None:
        raise ValueError(
            "refresh was given, which mines in a corpus; give examples as stope.data.Pairs"
        )
    _check_guard(job)
    check_teacher(job)
    _check_loss(job)
    _check_shuffled(job)
    if recipe.schedule.autocast is not None and is_static(job.model):
        raise ValueError(
            "autocast was given but the model is a static encoder, which looks vectors up and "
            "multiplies nothing; leave it out"
        )


def _check_guard(job: Job) -> None:
    recipe = job.recipe
    if recipe.guard is None:
        return
    if recipe.negatives is None and recipe.weighting is None and recipe.distillation is None:
        raise ValueError(
            "guard was given, but neither negatives nor a weighting nor distillation, whose gain "
            "it would judge; give one of them, or leave guard out"
        )
    if recipe.negatives is not None and recipe.negatives.mode == "query_side":
        raise ValueError(
            "guard was given, but negatives has the mode 'query_side', whose documents stay as "
            "they were encoded; leave guard out, or choose another mode"
        )
    if job.evaluation is None:
        raise ValueError(
            "guard was given (negatives='auto' has one), but there is no evaluation that could "
            "say what negatives bring; give one, such as stope.evaluation.RetrievalEvaluation"
        )


def _check_shuffled(job: Job) -> None:
    """With rows of one query or positive in a batch the loss must know which they are."""
    if not isinstance(job.recipe.batches, Shuffled):
        return
    from stope.integrations.sentence_transformers.loss import infonce_in

    numbers = job.table.query_numbers
    if job.loss is not None and infonce_in(job.loss) is None:
        raise ValueError(
            "batches is 'shuffled', by which a positive may be twice in a batch, where loss, a "
            f"{type(job.loss).__name__}, takes it for a negative; leave one of the two out"
        )
    if job.table.pairs is None and len(np.unique(numbers)) < len(numbers):
        raise ValueError(
            "batches is 'shuffled', by which rows of one query may be in a batch, where one's "
            "positive is a negative of the other; give examples as stope.data.Pairs (in a file, "
            "without negatives of its own), or leave batches out"
        )


def _check_loss(job: Job) -> None:
    recipe, changes = job.recipe, list(job.recipe.loss.changes())
    if recipe.negatives is not None and recipe.negatives.mode == "query_side":
        refused = [name for name in changes if name not in _QUERY_SIDE]
        refused += ["weighting"] if recipe.weighting is not None else []
        if refused:
            raise ValueError(
                f"{refused[0]} was given, but refresh has the mode 'query_side', whose loss does "
                "not take it; leave it out or choose another mode"
            )
        if job.loss is not None:
            raise ValueError(
                f"loss is a {type(job.loss).__name__}, but refresh has the mode 'query_side', "
                "which has a loss of its own; leave loss out or choose another mode"
            )
        return
    if "query_side" in changes:
        raise ValueError(
            f"loss is {recipe.loss.query_side!r}, a name, which is for refresh in the mode "
            "'query_side'; give a loss of sentence-transformers, or leave it out"
        )
    if job.loss is None:
        return
    from stope.integrations.sentence_transformers.loss import infonce_in

    if changes:
        raise ValueError(
            f"{changes[0]} was given, which is for the recipe's loss; leave it out, or give it to "
            f"the {type(job.loss).__name__} that is given"
        )
    ours = infonce_in(job.loss)
    if ours is not None:  # any loss of stope takes the rest
        if ours.model is not job.model:
            raise ValueError(
                f"loss is a {type(job.loss).__name__} of another model, so this one would not "
                "change; make the loss with the model that is trained"
            )
        return
    for option, name in (
        ("weighting", "weighting"),
        ("negatives", "refresh"),
        ("distillation", "distillation"),
        ("teacher", "teacher"),
        ("prompts", "prompts"),
    ):
        if getattr(recipe, option) is not None:
            raise ValueError(
                f"{name} was given, which is for stope's own losses; leave it or loss out"
            )
