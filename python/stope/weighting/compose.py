"""What can be done with weights: multiply, limit, normalise, fade in and out, turn around."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stope.weighting._processes import Processes
from stope.weighting._values import (
    Vector,
    interval,
    like,
    not_empty,
    number,
    ramp,
    read,
    same_length,
    share_done,
)


def product_weights(weights: Any, *others: Any) -> Any:
    """w_i = product of the weights of sample i: every reason to count less holds.

    Args:
        weights: ``[B]``, at least 0.
        *others: more of them, such as the column ``weight`` of the data.

    Returns:
        ``[B]`` of the kind of weights.

    Raises:
        ValueError: a weight that is negative or not finite, no samples, different lengths.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    >>> product_weights(np.array([0.5, 2.0]), np.array([3.0, 0.25])).tolist()
    [1.5, 0.5]
    """
    result = _weights(weights, "weights")
    for position, other in enumerate(others):
        name = f"others[{position}]"
        factor = _weights(other, name)
        same_length("weights", result, name, factor)
        result = result * factor
    return like(result, weights)


def clip_weights(weights: Any, low: float = 0.0, high: float | None = None) -> Any:
    """w_i within [low, high]: no sample may vanish, none may rule the batch.

    Args:
        weights: ``[B]``, at least 0.
        low: least weight, at least 0.
        high: greatest weight, at least low and above 0; None: no limit.

    Returns:
        ``[B]`` of the kind of weights; their mean may change (:func:`normalize_weights`).

    Raises:
        ValueError: a weight that is negative or not finite, no samples, low above high.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    >>> clip_weights(np.array([0.0, 1.0, 9.0]), 0.5, 4.0).tolist()
    [0.5, 1.0, 4.0]
    """
    least, most = limits(low, high)
    return like(np.clip(_weights(weights, "weights"), least, most), weights)


def normalize_weights(weights: Any, *, processes: Any = None) -> Any:
    """w_i / mean w: mean 1, so that weighting does not change the learning rate.

    Args:
        weights: ``[B]``, at least 0, not all 0.
        processes: whose samples the mean is over: None, this process's; ``"all"``; or a process
            group.

    Returns:
        ``[B]`` of the kind of weights.

    Raises:
        ValueError: a weight that is negative or not finite, no samples, all weights 0.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    >>> normalize_weights(np.array([1.0, 3.0])).tolist()
    [0.5, 1.5]
    """
    together, values, count = _together(weights, processes)
    (total,) = together.sums(float(values.sum()))
    if total == 0:
        raise ValueError("weights are all 0, so that nothing would be learned; give one above 0")
    return like(values * (count / total), weights)


def anti_weights(weights: Any, *, processes: Any = None) -> Any:
    """The same weights turned around: who had the greatest gets the least. For ablations.

        a_i = (w_max + w_min - w_i) · mean w / (w_max + w_min - mean w)

    The mean stays, equal weights stay equal.

    Args:
        weights: ``[B]``, at least 0.
        processes: whose samples count: None, this process's; ``"all"``; or a process group.

    Returns, Raises: as :func:`product_weights`.

    >>> anti_weights(np.array([1.0, 2.0, 3.0])).tolist()
    [3.0, 2.0, 1.0]
    """
    together, values, count = _together(weights, processes)
    low, high = together.extremes(values)
    (total,) = together.sums(float(values.sum()))
    mean = total / count
    if low == high:
        return like(values, weights)
    return like((high + low - values) * (mean / (high + low - mean)), weights)


def warm_up_weights(weights: Any, progress: float, *, start: float = 0.0, end: float = 0.1) -> Any:
    """1 + (w_i - 1) · ramp: uniform until start, the weights themselves from end on.

    Args:
        weights: ``[B]``, at least 0; a mean of 1 stays 1.
        progress: share of training that is done.
        start: share of training with weights 1.
        end: share from which on the weights are those given; start = end switches at once.

    Returns:
        ``[B]`` of the kind of weights.

    Raises:
        ValueError: a weight that is negative or not finite, no samples, a share outside [0, 1],
            start after end.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    >>> warm_up_weights(np.array([0.0, 2.0]), 0.05).tolist()
    [0.5, 1.5]
    """
    first, last = interval(start, end, ("start", "end"))
    return _toward_uniform(weights, ramp(share_done(progress), first, last))


def fade_out_weights(weights: Any, progress: float, *, start: float = 0.0, end: float = 1.0) -> Any:
    """1 + (w_i - 1) · (1 - ramp): the weights themselves until start, uniform from end on.

    Args, Returns, Raises: as :func:`warm_up_weights`.

    >>> fade_out_weights(np.array([0.0, 2.0]), 0.25).tolist()
    [0.25, 1.75]
    """
    first, last = interval(start, end, ("start", "end"))
    return _toward_uniform(weights, 1.0 - ramp(share_done(progress), first, last))


class WeightSummary(NamedTuple):
    """How weights are spread, for the log of a run.

    Attributes:
        mean: their mean.
        least: the least.
        greatest: the greatest.
        zeros: share of samples with weight 0.
        effective: (sum w)^2 / sum w^2 divided by the number of samples: 1 for uniform weights, 1/B
            where one sample has all.
    """

    mean: float
    least: float
    greatest: float
    zeros: float
    effective: float


def summarize_weights(weights: Any, *, processes: Any = None) -> WeightSummary:
    """Mean, extremes, share of zeros and effective share of samples.

    Args:
        weights: ``[B]``, at least 0.
        processes: whose samples count: None, this process's; ``"all"``; or a process group.

    Raises:
        ValueError: a weight that is negative or not finite, no samples.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    >>> summarize_weights(np.array([0.0, 0.0, 2.0, 2.0]))
    WeightSummary(mean=1.0, least=0.0, greatest=2.0, zeros=0.5, effective=0.5)
    """
    together, values, count = _together(weights, processes)
    low, high = together.extremes(values)
    total, squares, zeros = together.sums(
        float(values.sum()), float(np.square(values).sum()), float(np.count_nonzero(values == 0))
    )
    effective = total * total / squares / count if squares else 0.0
    return WeightSummary(total / count, low, high, zeros / count, effective)


def limits(low: Any, high: Any) -> tuple[float, float]:
    """Checked limits of weights; no upper one is infinity."""
    least = number(low, "low", low=0)
    if high is None:
        return least, float("inf")
    most = number(high, "high", low=0, above=True)
    if least > most:
        raise ValueError(f"low is {least:g} but high is {most:g}; low comes first")
    return least, most


def _weights(weights: Any, name: str) -> Vector:
    return not_empty(read(weights, name, low=0), name)


def _together(weights: Any, processes: Any) -> tuple[Processes, Vector, float]:
    together = Processes(processes)
    values = together.read(lambda: read(weights, "weights", low=0))
    return together, values, together.count(values, "weights")


def _toward_uniform(weights: Any, strength: float) -> Any:
    values = _weights(weights, "weights")
    return like((1.0 - strength) + strength * values, weights)
