"""What `train` does between the steps of the library's trainer.

Before a step the clock is set and every random generator is seeded from (seed, step, process), so
that a step draws the same numbers whether or not training was interrupted before it. After a step,
in this order: log, evaluate, refresh the negatives, write a checkpoint. A checkpoint therefore has
everything that happened up to its step, and nothing of the next one.
"""

from __future__ import annotations

import dataclasses
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

import torch
from stope.scale.processes import of_first, same_in_all, wait
from stope.training.callbacks import checkpoint as files
from stope.training.report import TrainingReport


@dataclass
class Best:
    """The best evaluation so far, and its weights if they are to be kept."""

    value: float = -math.inf
    step: int | None = None
    misses: int = 0
    weights: dict[str, Any] | None = None


@dataclass(eq=False)
class BetweenSteps(TrainerCallback):
    """The callback of `train`; its fields are what train was told and what it has made of it."""

    report: TrainingReport
    clock: Any
    loss: Any
    seed: int = 0
    evaluation: Callable[[Any], Mapping[str, float]] | None = None
    evaluate_every: int | None = None
    patience: int | None = None
    keep: str = "last"
    progress: Callable[[int, int], object] | None = None
    say: Callable[[str], object] = lambda text: None
    log: Any = None
    refresh: Any = None
    checkpoints: files.Checkpoints | None = None
    checkpoint_every: int | None = None
    resumed: Path | None = None
    best: Best = field(default_factory=Best)
    steps_per_epoch: int = 1
    first: bool = True
    _began: float = field(default_factory=time.perf_counter)
    _mark: float = 0.0

    # --- the trainer's moments ---------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Take up a checkpoint, now that optimiser and scheduler are there."""
        self.steps_per_epoch = max(1, len(given["train_dataloader"]))
        self.clock.max_steps = state.max_steps
        same_in_all(state.global_step, "the checkpoint to go on from")
        if self.log is not None:
            self.log.cut(state.global_step if self.resumed is not None else -1)
            self.log.write("start", state.global_step, max_steps=state.max_steps)
        if self.resumed is not None:
            self.restore(given["model"])
            files.read_optimizer(self.resumed, given["optimizer"])
            given["lr_scheduler"].load_state_dict(files.read_json(self.resumed / "scheduler.json"))
        elif self.refresh is not None:
            if self.refresh.due(0):
                self._refresh(given["model"], 0)
            else:
                self._note_refresh(self.refresh.reports[-1], 0)
        self._mark = time.perf_counter()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Tell the sampler its epoch."""
        # Some versions of the library forget the sampler of an epoch that is resumed in its middle.
        sampler = given["train_dataloader"].batch_sampler
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(state.global_step // self.steps_per_epoch)

    def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Set the clock and the seeds; begin with no gradient."""
        # transformers 4 empties the model's gradients alone, not those of the loss's own numbers.
        given["optimizer"].zero_grad()
        self.clock.step = state.global_step
        self.clock.epoch = state.global_step / self.steps_per_epoch
        seed_step(self.seed, state.global_step, args.process_index)

    def on_log(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """All that follows a step; the trainer has its loss by now."""
        logs = given.get("logs") or {}
        if "loss" not in logs:
            return
        state.log_history.clear()  # the report has what is needed of it
        step, loss = state.global_step, float(logs["loss"])
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"The loss is {loss} at step {step}; lower learning_rate"
                f" (it is {args.learning_rate:g}) or raise temperature"
            )
        self.report.losses.append(loss)
        self.report.steps = step
        self._log_step(step, loss, logs)
        if self.progress is not None:
            self.progress(step, state.max_steps)
        last = step >= state.max_steps
        ended = last or step % self.steps_per_epoch == 0
        if self.evaluation is not None and (last or self._due(step, ended, self.evaluate_every)):
            self._evaluate(given["model"], step)
            if not last and self.patience is not None and self.best.misses >= self.patience:
                self.report.stopped_early = control.should_training_stop = last = True
        if self.refresh is not None and not last and self.refresh.due(step, ended):
            self._refresh(given["model"], step)
        self.report.seconds = self.seconds()
        if self.checkpoints is not None and (last or self._due(step, ended, self.checkpoint_every)):
            self._checkpoint(given, state, finished=last)
        self._mark = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The last line of the log."""
        if self.log is not None:
            stopped = self.report.stopped_early
            self.log.write("end", state.global_step, seconds=self.seconds(), stopped_early=stopped)

    def seconds(self) -> float:
        """Time spent on the run so far, by all calls."""
        return time.perf_counter() - self._began

    # --- what is done then -------------------------------------------------------------------

    @staticmethod
    def _due(step: int, epoch_ended: bool, every: int | None) -> bool:
        return epoch_ended if every is None else step % every == 0

    def _log_step(self, step: int, loss: float, logs: Mapping[str, Any]) -> None:
        if self.log is None:
            return
        seen = dict(getattr(self.loss, "observed", None) or {})
        seen |= {name: float(logs[name]) for name in ("learning_rate", "grad_norm") if name in logs}
        seen |= {"loss": loss, "epoch": step / self.steps_per_epoch}
        self.log.write("step", step, **seen, seconds=time.perf_counter() - self._mark)

    def _evaluate(self, model: Any, step: int) -> None:
        assert self.evaluation is not None
        self.say(f"evaluating at step {step:,}")
        began = time.perf_counter()
        was_training = model.training
        model.eval()
        try:
            found = {name: float(value) for name, value in dict(self.evaluation(model)).items()}
        finally:
            model.train(was_training)
        if not found:
            raise ValueError("evaluation returned no metric; it must give at least one number")
        found = of_first(found)
        self.report.evaluations.append(found)
        self.report.evaluation_steps.append(step)
        if self.log is not None:
            self.log.write("evaluation", step, **found, seconds=time.perf_counter() - began)
        value = next(iter(found.values()))
        if value > self.best.value:
            self.best = Best(value, step)
            if self.keep == "best":
                self.report.best_step = step
                self.report.best_epoch = math.ceil(step / self.steps_per_epoch)
                self.best.weights = files.copy_tensors(model.state_dict())
        else:
            self.best.misses += 1

    def _refresh(self, model: Any, step: int) -> None:
        self.say(f"refreshing negatives at step {step:,}")
        self._note_refresh(self.refresh.run(model, step), step)

    def _note_refresh(self, report: Any, step: int) -> None:
        found = dataclasses.asdict(report) | {"step": step}
        self.report.refreshes.append(found)
        if self.log is not None:
            self.log.write("refresh", **found)

    def _checkpoint(self, given: Mapping[str, Any], state: Any, finished: bool) -> None:
        assert self.checkpoints is not None
        step = state.global_step
        self.say(f"writing the checkpoint of step {step:,}")
        began = time.perf_counter()
        self.report.finished = finished

        def write(folder: Path) -> None:
            model = given["model"]
            files.write_tensors(folder / "model.safetensors", model.state_dict())
            own = files.own_tensors(self.loss, model)
            if own:
                files.write_tensors(folder / "loss.safetensors", own)
            files.write_optimizer(folder, given["optimizer"])
            files.write_json(folder / "scheduler.json", given["lr_scheduler"].state_dict())
            state.save_to_json(str(folder / files.TRAINER_STATE))
            if self.best.weights is not None:
                files.write_tensors(folder / "best.safetensors", self.best.weights)
            best = {"value": self.best.value, "step": self.best.step}
            files.write_json(
                folder / "progress.json",
                {
                    "report": dataclasses.asdict(self.report),
                    "best": {**best, "misses": self.best.misses},
                },
            )
            if self.refresh is not None:
                self.refresh.save(folder / "negatives")

        if self.refresh is not None:
            self.refresh.gather()
        if self.first:
            self.checkpoints.save(step, write)
            if self.log is not None:
                self.log.write("checkpoint", step, seconds=time.perf_counter() - began)
        wait()

    # --- going on ----------------------------------------------------------------------------

    def is_finished(self) -> bool:
        """Whether the checkpoint to go on from is that of a run that came to its end."""
        if self.resumed is None:
            return False
        return bool(files.read_json(self.resumed / "progress.json")["report"]["finished"])

    def restore(self, model: Any) -> None:
        """Take model, loss, negatives, best weights and report from the checkpoint."""
        folder = self.resumed
        assert folder is not None
        model.load_state_dict(files.read_tensors(folder / "model.safetensors"))
        if (folder / "loss.safetensors").exists():
            self.loss.load_state_dict(files.read_tensors(folder / "loss.safetensors"), strict=False)
        known = files.read_json(folder / "progress.json")
        for name, value in known["report"].items():
            setattr(self.report, name, value)
        self.report.resumed_from = self.report.steps
        self._began -= self.report.seconds
        best = known["best"]
        self.best = Best(best["value"], best["step"], best["misses"])
        if (folder / "best.safetensors").exists():
            self.best.weights = files.read_tensors(folder / "best.safetensors")
        if self.refresh is not None:
            self.refresh.load(folder / "negatives")

    def leave_best(self, model: Any) -> None:
        """Give the model its best weights, where they were kept."""
        if self.best.weights is not None:
            model.load_state_dict(self.best.weights)


def seed_step(seed: int, step: int, process: int) -> None:
    """Seed torch, NumPy and Python from these three numbers, so that history does not matter."""
    drawn = np.random.SeedSequence([seed, step, process]).generate_state(3)
    torch.manual_seed(int(drawn[0]))
    np.random.seed(int(drawn[1]))  # noqa: NPY002 - other people's code may draw from it
    random.seed(int(drawn[2]))
