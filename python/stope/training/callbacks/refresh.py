"""A `NegativeRefresh` in any trainer of the transformers library, as its callback."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

if TYPE_CHECKING:
    from stope.training.negatives.refresh import RefreshReport, RefreshRun


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
        self, run: RefreshRun, *, report: Callable[[RefreshReport], object] | None = None
    ) -> None:
        self.run = run
        self._report = report

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Mine before the first step, unless the run was loaded."""
        if self.run.due(state.global_step):
            self._refresh(state, given["model"])

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Refresh after a step, where it is due by steps."""
        if state.global_step < state.max_steps and self.run.due(state.global_step):
            self._refresh(state, given["model"])

    def on_epoch_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Refresh after an epoch, where it is due by epochs."""
        last = state.global_step >= state.max_steps
        if self.run.due(state.global_step, epoch_ended=True) and not last:
            self._refresh(state, given["model"])

    def _refresh(self, state: Any, model: Any) -> None:
        found = self.run.run(model, state.global_step)
        if self._report is not None:
            self._report(found)
