"""What happens between the steps of the library's trainer, in a fixed order.

Before a step the clock is set and every random generator is seeded from (seed, step, process), so
that a step draws the same numbers whether or not training was interrupted before it. After a step
the tasks follow in the order they are given in: log, evaluate, refresh the negatives, write a
checkpoint. A checkpoint therefore has everything up to its step, and nothing of the next one.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

import torch
from stope.scale.processes import same_in_all
from stope.training.callbacks.tasks import Moment, Session, Task


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
        same_in_all(state.global_step, "the checkpoint to go on from")
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
