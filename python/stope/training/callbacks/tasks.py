"""What is done between the steps of a training: its tasks, and what all of them share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stope.integrations.sentence_transformers import Clock
from stope.progress import silent
from stope.training.trainer import TrainingReport

if TYPE_CHECKING:
    from stope.training.callbacks.log import TrainingLog


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
