"""A second stage that cannot hurt: negatives and weights stay only where held-out queries gain.

Stage one is the training without them, whole and to the bit. Stage two goes on from its weights
with them, shorter and slower. With d the differences of a metric, query by query, stage two is kept
if

    mean(d) > errors x std(d) / sqrt(queries)     (`exceeds_chance`)

and else the weights of stage one are put back. By the same rule an adapter is put back to an
earlier state (`stope.adapters.train_adapter`). Each stage is one `run_job` with checkpoints of its
own, so that what was killed goes on in the stage that it was in.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import counted, shown
from stope.evaluation import Evaluation, compare
from stope.progress import Progress
from stope.scale.processes import of_first, processes
from stope.training.recipe import GuardPart, Recipe
from stope.training.trainer import TrainingReport
from stope.training.while_training import evaluating

if TYPE_CHECKING:
    from stope.training.library_trainer import Job

_ENTERING = ("negatives", "weighting", "teacher", "distillation", "guard")
SECOND = "second"  # the folder of stage two, in that of the run


def differences(before: Evaluation, after: Evaluation) -> NDArray[np.float64]:
    """What each query gained in the first metric.

    Raises:
        ValueError: evaluations over other queries.
    """
    metric = next(iter(before.per_query))
    old, new = before.per_query[metric], after.per_query.get(metric, {})
    if old.keys() != new.keys():
        only = shown(sorted(old.keys() ^ new.keys())[0])
        raise ValueError(
            f"two evaluations are not over the same queries: only one has {only}; judge the same "
            "queries each time"
        )
    return np.array([new[query] - old[query] for query in old], dtype=np.float64)


def exceeds_chance(gains: NDArray[np.float64], errors: float = 1.0) -> bool:
    """Whether the mean of paired differences exceeds so many of its standard errors, and 0.

    Of one query nobody knows the error.

    >>> exceeds_chance(np.array([0.0, 0.0, 0.3, 0.3])), exceeds_chance(np.array([-0.1, 0.2]))
    (True, False)
    """
    if len(gains) < 2:
        return False
    return bool(gains.mean() > max(errors * gains.std(ddof=1) / math.sqrt(len(gains)), 0.0))


@dataclass(frozen=True)
class Verdict:
    """What a second stage brought on held-out queries, and whether it stays.

    Part of a gain may be that of training longer; the weights that are kept have both.

    Attributes:
        what: what entered with it: "negatives", "weights", "negatives and weights".
        metric: that decided.
        before, after: its means at the ends of both stages.
        gain: after - before; low and high, its 95% interval (paired bootstrap), None for one query.
        queries: how many there are.
        kept: whether the gain exceeds chance, so that the model is that of stage two.
    """

    what: str
    metric: str
    before: float
    after: float
    gain: float
    low: float | None
    high: float | None
    queries: int
    kept: bool

    @classmethod
    def of(cls, what: str, before: Evaluation, after: Evaluation, errors: float) -> Verdict:
        """Compare two evaluations over the same queries by their first metric.

        >>> flat, better = (
        ...     Evaluation({"RR": mean}, {"RR": {str(n): mean + n % 2 / 9 for n in range(50)}})
        ...     for mean in (0.5, 0.625)
        ... )
        >>> print(Verdict.of("negatives", flat, better, errors=1.0))
        going on with negatives brought +0.125 [+0.125, +0.125] RR on 50 held-out queries: kept
        >>> Verdict.of("negatives", better, better, errors=1.0).kept
        False
        """
        metric = next(iter(before.per_query))
        d = differences(before, after)
        low = high = math.nan
        if len(d) > 1:
            change = compare(before, after, metric)
            low, high = change.low, change.high
        numbers = {
            "before": before.mean[metric],
            "after": after.mean[metric],
            "gain": float(d.mean()),
            "low": low,
            "high": high,
            "kept": float(exceeds_chance(d, errors)),
        }
        told: dict[str, Any] = {
            name: None if math.isnan(v) else v for name, v in of_first(numbers).items()
        }
        return cls(what, metric, **{**told, "kept": bool(told["kept"])}, queries=len(d))

    @property
    def change(self) -> str:
        """The gain, with its interval, and what it was measured by."""
        span = "" if self.low is None else f" [{self.low:+.3f}, {self.high:+.3f}]"
        queries = counted(self.queries, "held-out queries")
        return f"{self.gain:+.3f}{span} {self.metric} on {queries}"

    def __str__(self) -> str:
        """In words, for the terminal and the log."""
        end = "kept" if self.kept else "not kept; the model is the one without"
        return f"going on with {self.what} brought {self.change}: {end}"


def entering(recipe: Recipe) -> str:
    """What enters in stage two, in words; "" for nothing.

    >>> entering(Recipe(negatives={}, weighting="progressive")), entering(Recipe())
    ('negatives and weights', '')
    """
    parts = {
        "negatives": recipe.negatives,
        "weights": recipe.weighting,
        "distillation": recipe.distillation,
    }
    return " and ".join(name for name, part in parts.items() if part is not None)


def run_guarded(job: Job) -> TrainingReport:
    """Train in two stages and leave the model that held-out queries prefer.

    Raises:
        TypeError: the evaluation does not say what each query got.
        ValueError, OSError, FloatingPointError: what `train` says of them.
    """
    from stope.training.callbacks.checkpoint import copy_tensors
    from stope.training.library_trainer import run_job

    recipe, guard = job.recipe, job.recipe.guard
    assert guard is not None
    if not hasattr(job.evaluation, "evaluate"):
        per_query(job.evaluation, job.model)  # refused before training
    plain = recipe.model_copy(update=dict.fromkeys(_ENTERING))
    report = run_job(dataclasses.replace(job, recipe=plain, progress=_with_second(job, guard)))
    if not report.steps:
        return report
    before, weights = per_query(job.evaluation, job.model), copy_tensors(job.model.state_dict())
    first = processes()[0] == 0
    if first:
        job.say(
            f"going on with {entering(recipe)} for {counted(guard.steps(report.steps), 'steps')}"
        )
    second = run_job(dataclasses.replace(job, **_second(job, guard, report.steps)))
    after = per_query(job.evaluation, job.model)
    verdict = Verdict.of(entering(recipe), before, after, guard.errors)
    if not verdict.kept:
        job.model.load_state_dict(weights)
    if first:
        job.say(str(verdict))
        _note(recipe, report.steps + second.steps, verdict)
    return _joined(report, second, verdict)


def per_query(evaluation: Any, model: Any) -> Evaluation:
    """What each query gets, from ``evaluation.evaluate(model)`` or else ``evaluation(model)``."""
    with evaluating(model):
        judged = getattr(evaluation, "evaluate", evaluation)(model)
    if not isinstance(judged, Evaluation):
        raise TypeError(
            f"evaluation returned {shown(judged)}, but guard compares query by query; give a "
            "RetrievalEvaluation, or something that returns a stope.evaluation.Evaluation"
        )
    return judged


def _second(job: Job, guard: GuardPart, steps: int) -> dict[str, Any]:
    """What stage two is told: its recipe and its progress."""
    recipe, progress = job.recipe, job.progress
    schedule, output = recipe.schedule, recipe.output
    assert schedule.learning_rate is not None
    rate = guard.rate * schedule.learning_rate
    schedule = schedule.model_copy(update={"max_steps": guard.steps(steps), "learning_rate": rate})
    if output.folder is not None:
        output = output.model_copy(update={"folder": str(Path(output.folder) / SECOND)})
    changes = {"guard": None, "schedule": schedule, "output": output}

    def told(done: int, total: int) -> None:
        assert progress is not None
        progress(steps + done, steps + total)

    return {
        "recipe": recipe.model_copy(update=changes),
        "progress": None if progress is None else told,
    }


def _with_second(job: Job, guard: GuardPart) -> Progress | None:
    """The progress of stage one, whose total has stage two in it."""
    progress = job.progress
    if progress is None:
        return None
    return lambda done, total: progress(done, total + guard.steps(total))


def _note(recipe: Recipe, step: int, verdict: Verdict) -> None:
    """A line of the log, once: a run that goes on after its end comes by again."""
    from stope.training.callbacks.log import TrainingLog, read_log

    folder = recipe.output.folder
    if folder is None or any(line["kind"] == "guard" for line in read_log(folder)):
        return
    with TrainingLog(folder, recipe.output.tensorboard) as log:
        log.write("guard", step, **asdict(verdict))


def _joined(first: TrainingReport, second: TrainingReport, verdict: Verdict) -> TrainingReport:
    """One report of both stages, whose steps count on."""
    begins = first.steps
    best: Mapping[str, Any] = {"best_step": first.best_step, "best_epoch": first.best_epoch}
    if verdict.kept and second.best_step is not None and second.best_epoch is not None:
        best = {
            "best_step": begins + second.best_step,
            "best_epoch": first.epochs + second.best_epoch,
        }
    return dataclasses.replace(
        first,
        steps=begins + second.steps,
        seconds=first.seconds + second.seconds,
        losses=first.losses + second.losses,
        evaluations=first.evaluations + second.evaluations,
        evaluation_steps=first.evaluation_steps + [begins + s for s in second.evaluation_steps],
        refreshes=first.refreshes + [{**r, "step": begins + r["step"]} for r in second.refreshes],
        stopped_early=first.stopped_early or second.stopped_early,
        finished=second.finished,
        guard=asdict(verdict),
        **best,
    )
