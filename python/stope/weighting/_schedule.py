"""How far training is, and what grows with it."""

from __future__ import annotations

import numbers
from typing import Any

from stope._checks import as_float, real, shown


def share_done(progress: Any) -> float:
    """Progress of training as a float from 0 (before the first step) to 1 (after the last)."""
    if isinstance(progress, bool) or not isinstance(progress, numbers.Real):
        raise TypeError(f"progress is {shown(progress)}; give a number")
    share = as_float(progress)
    if not 0 <= share <= 1:  # NaN neither
        raise ValueError(
            f"progress is {shown(progress)}; give the share of training that is done, from 0 to 1, "
            "such as step / total_steps"
        )
    return share


def ramp(progress: float, start: float, end: float) -> float:
    """0 up to start, 1 from end on, a line between; a step at start where both are equal.

    >>> ramp(0.25, 0.0, 0.5), ramp(0.1, 0.1, 0.1)
    (0.5, 1.0)
    """
    if progress >= end:
        return 1.0
    return 0.0 if progress <= start else (progress - start) / (end - start)


def check_interval(start: Any, end: Any, names: tuple[str, str]) -> None:
    """Refuse what are no two shares of training, the first not after the second."""
    first, last = (real(value, name, 0, 1) for value, name in zip((start, end), names, strict=True))
    if first > last:
        raise ValueError(
            f"{names[0]} is {first:g} but {names[1]} is {last:g}; {names[0]} comes first"
        )
