"""progressive_weights: the loss shifts from easy samples to hard ones while training proceeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from stope.weighting._processes import Processes
from stope.weighting._values import interval, like, number, ramp, read, share_done


def progressive_weights(
    difficulty: Any,
    progress: float,
    *,
    first: float = -1.0,
    last: float = 1.0,
    warm_up: float = 0.1,
    limit: float = 3.0,
    processes: Any = None,
) -> Any:
    """Weights of mean 1 that favour easy samples at first and hard ones later.

        w_i = B softmax_i(kappa(t) z_i),    z_i = (u_i - mean u) / (std u + 1e-6) within +-limit,
        kappa(t) = first + (last - first) · ramp(t)

    ramp rises from 0 at t = warm_up to 1 at t = 1. Where kappa is 0 every weight is exactly 1;
    kappa < 0 favours easy samples, kappa > 0 hard ones; last = first keeps one preference.

    This is stope's realisation of progressive learning, an interpretation: PEG (2023) reports that
    weights of samples, driven by the difficulty of their negatives, change during training, but its
    formula is not public.

    Args:
        difficulty: u ``[B]``, larger is harder, such as :func:`hard_negative_difficulty`, or
            ``log_sum_exp`` of the fused loss. -inf (no negatives) is as easy as the limit allows
            and left out of mean and std.
        progress: t, share of training that is done.
        first: kappa during the warm-up.
        last: kappa at the end.
        warm_up: share of training at kappa = first.
        limit: how many standard deviations count; 3.
        processes: whose samples the mean, std and softmax are over: None, this process's;
            ``"all"``; or a process group. B is then their number.

    Returns:
        ``[B]`` of the kind of difficulty, each at least 0, mean 1 (over the processes).

    Raises:
        ValueError: NaN or +inf, no samples, progress or warm_up outside [0, 1], a kappa that is not
            finite, a limit that is not positive.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    Memory: a few float64 per sample.

    Source: ``methods.md`` A1.

    >>> hardness = np.array([-2.0, 0.0, 2.0])
    >>> [progressive_weights(hardness, t).round(4).tolist() for t in (0.1, 0.55, 1.0)]
    [[2.1736, 0.6387, 0.1877], [1.0, 1.0, 1.0], [0.1877, 0.6387, 2.1736]]
    """
    start, _ = interval(warm_up, 1.0, ("warm_up", "the end"))
    low, high = number(first, "first"), number(last, "last")
    bound = number(limit, "limit", low=0, above=True)
    kappa = low + (high - low) * ramp(share_done(progress), start, 1.0)
    together = Processes(processes)
    values = together.read(lambda: read(difficulty, "difficulty", none=-np.inf))
    together.count(values, "difficulty")
    there = values[np.isfinite(values)]
    count, total = together.sums(float(there.size), float(there.sum()))
    mean = total / count if count else 0.0
    (squares,) = together.sums(float(np.square(there - mean).sum()))
    deviation = math.sqrt(squares / count) if count else 0.0
    standard = np.clip((values - mean) / (deviation + 1e-6), -bound, bound)
    return like(together.softmax(kappa * standard, "difficulty"), difficulty)
