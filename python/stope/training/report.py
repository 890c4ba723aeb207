"""What a training run did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


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
