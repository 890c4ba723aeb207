"""How far a training run is: what weightings and live negatives go by."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Clock:
    """The time of one training run, moved on at the beginning of every step by who runs it.

    Attributes:
        step: optimiser steps done.
        max_steps: optimiser steps in total.
        epoch: passes over the rows, fractions included.

    >>> Clock(step=30, max_steps=120).progress
    0.25
    """

    step: int = 0
    max_steps: int = 1
    epoch: float = 0.0

    @property
    def progress(self) -> float:
        """Share of training that is done: step / max_steps, never above 1."""
        return min(1.0, self.step / max(1, self.max_steps))
