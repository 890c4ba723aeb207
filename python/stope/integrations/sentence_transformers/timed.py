"""How a loss learns how far training is: a trainer's callback, or who sets its progress."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from stope.integrations.sentence_transformers.clock import Clock
from stope.integrations.sentence_transformers.signals import follows_progress
from stope.weighting import Weighting


class Timed:
    """What a loss with a weighting has to do with time."""

    clock: Clock
    weighting: Weighting | None = None
    _is_told, _untold = False, 0

    def progress_callback(self) -> Any:
        """A callback for sentence-transformers' trainer that keeps the loss's clock right."""
        from transformers import TrainerCallback

        loss = self
        loss._is_told = True

        class KeepTime(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
                clock = loss.clock
                clock.step, clock.max_steps = state.global_step, max(1, state.max_steps)
                clock.epoch = float(state.epoch or 0.0)

        return KeepTime()

    @property
    def progress(self) -> float:
        """The share of training that is done; set it where no callback does."""
        return self.clock.progress

    @progress.setter
    def progress(self, share: float) -> None:
        self.clock.step, self.clock.max_steps = float(share).as_integer_ratio()
        self._is_told = True

    def ask_for_progress(self) -> None:
        """Say once that nobody tells how far training is, where the weighting goes by it."""
        if self._is_told or self.weighting is None or not torch.is_grad_enabled():
            return
        self._untold += 1
        if self._untold == 2 and follows_progress(self.weighting):
            warnings.warn(
                f"the weighting {self.weighting.name!r} follows the progress of training, which "
                "nobody tells the loss; give the trainer callbacks=[loss.progress_callback()], or "
                "set loss.progress",
                stacklevel=5,
            )
