"""Weights from one sample's own difficulty: focal, teacher confidence, rank, constant."""

from __future__ import annotations

from typing import Any

import numpy as np

from stope.weighting._values import interval, like, not_empty, number, ramp, read, share_done

_FLOOR = 1e-6  # the lowest base of a power: no sample is left out altogether


def focal_weights(
    difficulty: Any,
    progress: float,
    *,
    gamma: float = 2.0,
    first_gamma: float | None = None,
    warm_up: float = 0.0,
    anti: bool = False,
) -> Any:
    """w_i = u_i^gamma(t): what the model has already learned counts less.

        gamma(t) = first_gamma + (gamma - first_gamma) · ramp(t),

    ramp rising from 0 at t = warm_up to 1 at t = 1. gamma = 0 weighs all samples 1.

    Args:
        difficulty: u ``[B]`` in [0, 1], from :func:`focal_difficulty` or
            :func:`margin_difficulty`; less than 1e-6 counts as 1e-6.
        progress: t, share of training that is done.
        gamma: exponent at the end of training, at least 0.
        first_gamma: exponent during the warm-up; None: gamma from the start.
        warm_up: share of training at first_gamma.
        anti: 1 - u instead of u: what the model has learned counts most.

    Returns:
        ``[B]`` in ]0, 1], of the kind of difficulty.

    Raises:
        ValueError: a difficulty outside [0, 1] or NaN, no samples, a negative exponent, progress or
            warm_up outside [0, 1].
        TypeError: neither NumPy array nor torch tensor, or no floats.

    Source: the modulating factor of the focal loss (Lin et al. 2017), over samples.

    >>> focal_weights(np.array([0.0, 0.5, 1.0]), 0.0).round(6).tolist()
    [0.0, 0.25, 1.0]
    """
    last = number(gamma, "gamma", low=0)
    first = last if first_gamma is None else number(first_gamma, "first_gamma", low=0)
    start, _ = interval(warm_up, 1.0, ("warm_up", "the end"))
    power = first + (last - first) * ramp(share_done(progress), start, 1.0)
    values = not_empty(read(difficulty, "difficulty", low=0, high=1), "difficulty")
    base = np.maximum(1.0 - values if anti else values, _FLOOR)
    return like(base**power, difficulty)


def teacher_weights(
    confidence: Any, progress: float = 0.0, *, power: float = 1.0, anti: bool = False
) -> Any:
    """w_i = c_i^power: a label that the teacher doubts counts less, at any time of training.

    Args:
        confidence: c ``[B]`` in [0, 1], from :func:`teacher_confidence`; less than 1e-6 counts as
            1e-6.
        progress: share of training that is done; the weights do not change with it.
        power: at least 0; 0 weighs all samples 1.
        anti: 1 - c instead of c.

    Returns:
        ``[B]`` in ]0, 1], of the kind of confidence.

    Raises:
        ValueError: a confidence outside [0, 1] or NaN, no samples, a negative power.
        TypeError: neither NumPy array nor torch tensor, or no floats.

    >>> teacher_weights(np.array([0.25, 1.0]), power=0.5).tolist()
    [0.5, 1.0]
    """
    share_done(progress)
    exponent = number(power, "power", low=0)
    values = not_empty(read(confidence, "confidence", low=0, high=1), "confidence")
    base = np.maximum(1.0 - values if anti else values, _FLOOR)
    return like(base**exponent, confidence)


def rank_cutoff_weights(ranks: Any, progress: float = 0.0, *, top: int) -> Any:
    """1 where the positive is among the top documents of its query, else 0: a consistency filter.

    Args:
        ranks: ``[B]``, integers or floats, 1 + the number of documents that score above the
            positive, from :class:`stope.torch.Statistics`; 0 (no positive) gets 0.
        progress: share of training that is done; the weights do not change with it.
        top: the last rank that counts, at least 1.

    Returns:
        ``[B]`` of zeros and ones, of the kind of ranks; float64 for float64, else float32. They may
        all be 0, which stope's losses refuse.

    Raises:
        ValueError: a rank that is negative or not finite, no samples, top below 1.
        TypeError: neither NumPy array nor torch tensor.

    Source: ``methods.md`` D19; among which documents, and up to which rank, is for you to say.

    >>> rank_cutoff_weights(np.array([1, 3, 2]), top=2).tolist()
    [1.0, 0.0, 1.0]
    """
    share_done(progress)
    last = number(top, "top", low=1)
    values = not_empty(read(ranks, "ranks", low=0, integers=True), "ranks")
    return like(((values > 0) & (values <= last)).astype(np.float64), ranks)


def constant_weights(samples: Any, progress: float = 0.0, *, value: float = 1.0) -> Any:
    """The same weight for every sample: what the others are compared with.

    Args:
        samples: ``[B]``, anything about the samples; only its length and kind count.
        progress: share of training that is done; the weight does not change with it.
        value: the weight, above 0.

    Returns:
        ``[B]`` of value, of the kind of samples; float64 for float64, else float32.

    Raises:
        ValueError: a value that is not positive and finite, no samples.
        TypeError: neither NumPy array nor torch tensor.

    >>> constant_weights(np.float32([0.3, 0.1])).tolist()
    [1.0, 1.0]
    """
    share_done(progress)
    weight = number(value, "value", low=0, above=True)
    values = read(samples, "samples", none=-np.inf, integers=True)
    return like(np.full_like(not_empty(values, "samples"), weight), samples)
