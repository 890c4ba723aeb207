"""Sums and extremes over the samples of one process, or of all processes that train together.

Only single numbers travel, so that processes may have different numbers of samples. An array that
one process finds wrong is an error in all of them: nobody waits for a process that has stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import numpy as np

from stope._checks import shown
from stope.scale.processes import alone, distributed, reduced
from stope.weighting._samples import Vector

T = TypeVar("T")


class Processes:
    """Who trains together.

    None: the samples of this process only. ``"all"``: those of every process of torch.distributed's
    default group (of this one, where there is no group). A process group: those of its processes.

    >>> Processes(None).sums(3.0, 4.0), Processes("all").extremes(np.array([2.0, 1.0]))
    ((3.0, 4.0), (1.0, 2.0))
    """

    def __init__(self, processes: Any) -> None:
        every = isinstance(processes, str) and processes == "all"
        if isinstance(processes, bool | int | float | str) and not every:
            raise _bad(processes)
        self._group = None if every else processes
        if processes is not None and not every and distributed() is None:
            raise _bad(processes)
        self._alone = processes is None or alone(self._group)

    def read(self, reader: Callable[[], T]) -> T:
        """What reader returns, once every process could read its own; else the error, in all."""
        try:
            result, problem = reader(), None
        except (TypeError, ValueError) as error:
            if self._alone:
                raise
            result, problem = None, error
        if not self._alone and self._reduce([float(problem is not None)], "MAX")[0]:
            raise problem or ValueError(
                "another process was given samples that cannot be weighted; its own message says "
                "what is wrong with them"
            )
        return result  # type: ignore[return-value]

    def sums(self, *values: float) -> tuple[float, ...]:
        """The sums over the processes."""
        return tuple(self._reduce(list(values), "SUM"))

    def extremes(self, values: Vector) -> tuple[float, float]:
        """The least and the greatest entry of all processes; (inf, -inf) where there is none."""
        least = float(values.min()) if values.size else math.inf
        most = float(values.max()) if values.size else -math.inf
        low, high = self._reduce([-least, most], "MAX")
        return -low, high

    def count(self, values: Vector, name: str) -> float:
        """How many samples there are; at least one process must have some."""
        (total,) = self.sums(float(values.shape[0]))
        if total == 0:
            raise ValueError(f"{name} is empty (shape {values.shape}); give at least one sample")
        return total

    def softmax(self, logits: Vector, name: str) -> Vector:
        """Softmax over all samples, times their number: mean 1, and exactly 1 for equal logits."""
        count = self.count(logits, name)
        _, most = self.extremes(logits)
        shares = np.exp(logits - most)
        (total,) = self.sums(float(shares.sum()))
        return shares * (count / total)

    def _reduce(self, values: list[float], operation: Literal["SUM", "MAX"]) -> list[float]:
        return values if self._alone else reduced(values, operation, self._group)


def _bad(processes: Any) -> ValueError:
    return ValueError(
        f"processes is {shown(processes)}; give None for this process's samples, 'all' for those "
        "of all processes, or a process group of an initialised torch.distributed"
    )
