"""Evaluate while training goes on, keep the best weights, and stop where nothing is gained."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stope.scale.processes import of_first
from stope.training.callbacks.checkpoint import copy_tensors, read_tensors, write_tensors
from stope.training.callbacks.tasks import Moment, Session, Task
from stope.training.recipe import EvaluationPart

Evaluation = Callable[[Any], Mapping[str, float]]
_WEIGHTS = "best.safetensors"


@dataclass
class Best:
    """The best evaluation so far, and its weights if they are to be kept."""

    value: float = -math.inf
    step: int | None = None
    misses: int = 0
    weights: dict[str, Any] | None = None


@dataclass
class Evaluate(Task):
    """Calls the evaluation with the model; its first metric decides.

    Attributes:
        evaluation: what to call, or None.
        part: when, and what follows.
        best: so far.
    """

    evaluation: Evaluation | None
    part: EvaluationPart
    best: Best = field(default_factory=Best)

    def after_step(self, session: Session, moment: Moment) -> None:
        """Evaluate when it is due, and after the last step."""
        if self.evaluation is None or not (moment.last or moment.due(self.part.every)):
            return
        self._evaluate(session, moment.step)
        patience = self.part.patience
        if not moment.last and patience is not None and self.best.misses >= patience:
            session.report.stopped_early = moment.last = True

    def leave_best(self, model: Any) -> None:
        """Give the model its best weights, where they were kept."""
        if self.best.weights is not None:
            model.load_state_dict(self.best.weights)

    def save(self, folder: Path) -> dict[str, Any]:
        """The best weights, and how good they were."""
        if self.best.weights is not None:
            write_tensors(folder / _WEIGHTS, self.best.weights)
        best = {"value": self.best.value, "step": self.best.step, "misses": self.best.misses}
        return {"best": best}

    def load(self, folder: Path, values: Mapping[str, Any]) -> None:
        """Go on with the best so far."""
        self.best = Best(**values["best"])
        if (folder / _WEIGHTS).exists():
            self.best.weights = read_tensors(folder / _WEIGHTS)

    def _evaluate(self, session: Session, step: int) -> None:
        assert self.evaluation is not None
        session.say(f"evaluating at step {step:,}")
        began, model = time.perf_counter(), session.model
        was_training = model.training
        model.eval()
        try:
            metrics = {name: float(value) for name, value in dict(self.evaluation(model)).items()}
        finally:
            model.train(was_training)
        if not metrics:
            raise ValueError("evaluation returned no metric; it must give at least one number")
        metrics = of_first(metrics)
        report = session.report
        report.evaluations.append(metrics)
        report.evaluation_steps.append(step)
        session.write("evaluation", step, **metrics, seconds=time.perf_counter() - began)
        value = next(iter(metrics.values()))
        if not value > self.best.value:
            self.best.misses += 1
            return
        self.best = Best(value, step)
        if self.part.keep == "best":
            report.best_step, report.best_epoch = step, math.ceil(step / session.steps_per_epoch)
            self.best.weights = copy_tensors(model.state_dict())
