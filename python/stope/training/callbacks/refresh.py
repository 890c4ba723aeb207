"""A `NegativeRefresh` between the steps of `train`, or of any trainer of transformers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from stope.progress import silent
from stope.training.callbacks.tasks import Moment, Session, Task
from stope.training.negatives.refresh_run import RefreshReport, RefreshRun


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
