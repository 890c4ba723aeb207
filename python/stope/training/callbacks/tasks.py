"""What happens between the steps of the library's trainer: tasks in a fixed order.

Before a step the clock is set and every random generator is seeded from (seed, step, process), so
that a step draws the same numbers whether or not training was interrupted before it. After a step
the tasks follow in the order they are given in: log, evaluate, refresh the negatives, write a
checkpoint. A checkpoint therefore has everything up to its step, and nothing of the next one.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

import torch
from stope._kinds import a, callback, kinds
from stope.integrations.sentence_transformers import Clock
from stope.progress import Progress, silent
from stope.scale.processes import same_in_all
from stope.training.callbacks.log import TrainingLog
from stope.training.negatives.refresh_run import RefreshReport, RefreshRun
from stope.training.trainer import TrainingReport


@dataclass(eq=False)
class Session:
    """One training while it runs: what all its tasks share.

    Attributes:
        report: what it has done.
        clock: where it is.
        loss: a module, or what sentence-transformers calls.
        say: called with a line about what is being done.
        first: whether this process is the first, which alone writes.
        log: where every step has a line, or None.
        steps_per_epoch: of this process.
        step_began: when the tasks before the step had been done.
        model, optimizer, scheduler, state: the trainer's, from the first step on.
    """

    report: TrainingReport
    clock: Clock
    loss: Any
    say: Callable[[str], object] = silent
    first: bool = True
    log: TrainingLog | None = None
    steps_per_epoch: int = 1
    step_began: float = 0.0
    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    state: Any = None
    _began: float = field(default_factory=time.perf_counter)

    def seconds(self) -> float:
        """Time spent on the training so far, by all calls."""
        return time.perf_counter() - self._began

    def count_from(self, seconds: float) -> None:
        """Count these seconds, which earlier calls have spent."""
        self._began -= seconds

    def write(self, kind: str, step: int, **numbers: Any) -> None:
        """A line of the log, if there is one."""
        if self.log is not None:
            self.log.write(kind, step, **numbers)


@dataclass
class Moment:
    """A step that has just been taken.

    Attributes:
        step: steps done.
        numbers: what the trainer logs of it.
        epoch_ended: it was the last of its epoch.
        last: no step follows. A task that sets it ends the training.
    """

    step: int
    numbers: Mapping[str, Any]
    epoch_ended: bool
    last: bool

    def due(self, every: int | None) -> bool:
        """Whether something is to be done that is done every so many steps, or every epoch."""
        return self.epoch_ended if every is None else self.step % every == 0


class Task:
    """Something that is done after steps, with a state that goes into checkpoints."""

    def begin(self, session: Session, step: int, resumed: Path | None) -> None:
        """Training starts at this step, at the beginning or from a checkpoint."""

    def after_step(self, session: Session, moment: Moment) -> None:
        """A step was taken."""

    def gather(self) -> None:
        """Called in all processes before the first of them calls `save`."""

    def save(self, folder: Path) -> dict[str, Any]:
        """Write what `load` needs to go on; small values are returned, as JSON."""
        return {}

    def load(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Go on from what `save` wrote and returned."""


class InOrder(TrainerCallback):
    """The callback that does the tasks.

    Args:
        session: of the training.
        tasks: in their order; the last one writes checkpoints.
        seed: of the training.
        resumed: the checkpoint to go on from, or None.
    """

    def __init__(
        self, session: Session, tasks: Sequence[Task], seed: int, resumed: Path | None = None
    ) -> None:
        self.session, self.tasks, self.seed, self.resumed = session, tasks, seed, resumed

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take up a checkpoint, now that optimiser and scheduler are there."""
        session = self.session
        session.model, session.state = given["model"], state
        session.optimizer, session.scheduler = given["optimizer"], given["lr_scheduler"]
        session.steps_per_epoch = max(1, len(given["train_dataloader"]))
        session.clock.max_steps = state.max_steps
        same_in_all(
            state.global_step,
            "the checkpoint to go on from",
            "give all the same output folder",
        )
        for task in self.tasks:
            task.begin(session, state.global_step, self.resumed)
        session.step_began = time.perf_counter()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Tell the sampler its epoch."""
        # Some versions of the library forget the sampler of an epoch that is resumed in its middle.
        sampler = given["train_dataloader"].batch_sampler
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(state.global_step // self.session.steps_per_epoch)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Set the clock and the seeds; begin with no gradient."""
        # transformers 4 empties the model's gradients alone, not those of the loss's own numbers.
        given["optimizer"].zero_grad()
        clock = self.session.clock
        clock.step = state.global_step
        clock.epoch = state.global_step / self.session.steps_per_epoch
        seed_step(self.seed, state.global_step, args.process_index)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """All that follows a step; the trainer has its loss by now."""
        numbers = given.get("logs") or {}
        if "loss" not in numbers:
            return
        state.log_history.clear()  # the report has what is needed of it
        session, step, loss = self.session, state.global_step, float(numbers["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {step}; lower learning_rate"
                f" (it is {args.learning_rate:g}) or raise temperature"
            )
        session.report.losses.append(loss)
        session.report.steps = step
        ended = step >= state.max_steps
        moment = Moment(step, numbers, ended or step % session.steps_per_epoch == 0, ended)
        for task in self.tasks:
            task.after_step(session, moment)
        session.step_began = time.perf_counter()
        if moment.last:
            control.should_training_stop = True

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The last line of the log."""
        session = self.session
        stopped = session.report.stopped_early
        session.write("end", state.global_step, seconds=session.seconds(), stopped_early=stopped)


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed torch, NumPy and Python from these three numbers, so that history does not matter."""
    drawn = np.random.SeedSequence([seed, step, process]).generate_state(3)
    torch.manual_seed(int(drawn[0]))
    np.random.seed(int(drawn[1]))  # noqa: NPY002 - other people's code may draw from it
    random.seed(int(drawn[2]))


class LogSteps(Task):
    """A line for the start, for every step and for the end.

    Args:
        progress: called with (steps done, steps in total).
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self._progress = progress

    def begin(self, session: Session, step: int, resumed: Path | None) -> None:
        """Forget what came after the checkpoint, or all of an earlier training."""
        if session.log is not None:
            session.log.cut(-1 if resumed is None else step)
        session.write("start", step, max_steps=session.clock.max_steps)

    def after_step(self, session: Session, moment: Moment) -> None:
        """What the loss observed, and what the trainer tells."""
        seconds = time.perf_counter() - session.step_began
        numbers = dict(getattr(session.loss, "observed", None) or {})
        for name in ("learning_rate", "grad_norm", "loss"):
            if name in moment.numbers:
                numbers[name] = float(moment.numbers[name])
        numbers["epoch"] = moment.step / session.steps_per_epoch
        session.write("step", moment.step, **numbers, seconds=seconds)
        if self._progress is not None:
            self._progress(moment.step, session.clock.max_steps)


class RefreshNegatives(Task):
    """Mines before the first step and whenever it is due."""

    def __init__(self, run: RefreshRun | None) -> None:
        self.run = run

    def begin(self, session: Session, step: int, resumed: Path | None) -> None:
        """Mine, unless a checkpoint brought the negatives."""
        if self.run is None or resumed is not None:
            return
        if self.run.negatives is None:  # its documents were encoded when it was made
            self._note(session, self.run.reports[-1], 0)
        else:
            self._refresh(session, Moment(0, {}, epoch_ended=False, last=False))

    def after_step(self, session: Session, moment: Moment) -> None:
        """Refresh when it is due."""
        if self.run is not None:
            self._refresh(session, moment)

    def gather(self) -> None:
        """What all processes observed, in each of them."""
        if self.run is not None:
            self.run.gather()

    def save(self, folder: Path) -> dict[str, Any]:
        """The negatives."""
        if self.run is not None:
            self.run.save(folder / "negatives")
        return {}

    def load(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Go on with the negatives there."""
        if self.run is not None:
            self.run.load(folder / "negatives")

    def _refresh(self, session: Session, moment: Moment) -> None:
        assert self.run is not None
        if self.run.due(moment.step, moment.epoch_ended) and not moment.last:
            session.say(f"refreshing negatives at step {moment.step:,}")
            self._note(session, self.run.run(session.model, moment.step), moment.step)

    def _note(self, session: Session, report: RefreshReport, step: int) -> None:
        numbers = dataclasses.asdict(report) | {"step": step}
        session.report.refreshes.append(numbers)
        session.write("refresh", **numbers)


@kinds(run=a(RefreshRun), report=callback)
class NegativeRefreshCallback(TrainerCallback):
    """Refreshes negatives between the steps of a trainer of your own.

    They are mined before the first step and whenever they are due, never after the last step. Give
    the run's ``negatives`` to the loss, such as `contrastive_loss`. `train` does it all itself.

    Args:
        run: what `NegativeRefresh.start` returned.
        report: called with each `RefreshReport`.

    Example:
        >>> from stope.data import Pairs
        >>> from stope.training import NegativeRefresh
        >>> pairs = Pairs.from_texts(["ore", "pit"], ["rock", "hole"], ["rock", "hole", "sea"])
        >>> run = NegativeRefresh(num_negatives=1).start(pairs, model=None)
        >>> callback = NegativeRefreshCallback(run)  # callbacks=[callback] of the trainer
    """

    def __init__(
        self, run: RefreshRun, *, report: Callable[[RefreshReport], object] = silent
    ) -> None:
        self.run = run
        self._report = report

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Mine before the first step, unless the run was loaded."""
        self._refresh(state, given["model"], last=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Refresh after a step, where it is due by steps."""
        self._refresh(state, given["model"], last=state.global_step >= state.max_steps)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Refresh after an epoch, where it is due by epochs."""
        last = state.global_step >= state.max_steps
        self._refresh(state, given["model"], last=last, epoch_ended=True)

    def _refresh(self, state: Any, model: Any, *, last: bool, epoch_ended: bool = False) -> None:
        if self.run.due(state.global_step, epoch_ended) and not last:
            self._report(self.run.run(model, state.global_step))
