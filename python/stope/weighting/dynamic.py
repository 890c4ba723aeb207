"""dynamic_weights: weights from the losses of the current batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from stope.weighting._processes import Processes
from stope.weighting._values import Vector, choice, interval, like, number, ramp, read, share_done

STRATEGIES = ("lin_upper", "quadratic", "extremes", "upper", "uniform")


def dynamic_weights(
    losses: Any,
    progress: float,
    strategy: str = "lin_upper",
    *,
    temperature: float = 1.0,
    first_temperature: float | None = None,
    delta: float = 1.0,
    burn_in: float = 0.0,
    anneal_until: float = 1.0,
    anti: bool = False,
    processes: Any = None,
) -> Any:
    """Weights of mean 1 from where each loss lies between the least and the greatest.

        h_i = 2 delta (L_i - (L_max + L_min) / 2) / max(L_max - L_min, 1e-6)   in [-delta, delta]
        w_i = B softmax_i(f(h_i) / r)

        ``lin_upper``  f = min(h + delta, delta)    what is learned gets less, the rest is equal
        ``quadratic``  f = 1 - h^2 / delta^2        the middle
        ``extremes``   f = |h|                      the easiest and the hardest
        ``upper``      f = (h + delta) / 2          the hardest
        ``uniform``    f = 0                        none: every weight is exactly 1

    These weights maximise sum_i w_i f(h_i) less r times their divergence from uniform ones. A large
    r makes them uniform; with first_temperature, r falls geometrically from there to temperature
    between burn_in and anneal_until. That schedule is ours.

    Args:
        losses: L ``[B]``, finite; row losses, such as those of :func:`stope.torch.infonce`.
        progress: t, share of training that is done.
        strategy: f, see above.
        temperature: r.
        first_temperature: r at the end of burn_in; None: temperature from the start.
        delta: see above.
        burn_in: share of training with weights 1.
        anneal_until: share of training at which r reaches temperature.
        anti: softmax(-f / r), to compare with.
        processes: whose losses L_min, L_max and the softmax are over: None, this process's;
            ``"all"``; or a process group. The published method takes those of all processes; the
            mean of the local sums of w_i L_i / B_local is then the global weighted loss.

    Returns:
        ``[B]`` of the kind of losses, above 0, mean 1 (over the processes); their sum in the paper
        is 1. Equal losses have equal weights.

    Raises:
        ValueError: a loss that is not finite, no samples, a temperature or delta that is not
            positive, an unknown strategy, a share outside [0, 1].
        TypeError: neither NumPy array nor torch tensor, or no floats.

    Source: dynamic loss-based sample reweighting (arXiv 2502.06733), ``methods.md`` E2.

    >>> losses = np.array([1.0, 2.0, 3.0, 4.0])
    >>> for strategy in STRATEGIES[:3]:
    ...     print(strategy, (dynamic_weights(losses, 0.5, strategy) / 4).round(6).tolist())
    lin_upper [0.119271, 0.232307, 0.324211, 0.324211]
    quadratic [0.14567, 0.35433, 0.35433, 0.14567]
    extremes [0.330378, 0.169622, 0.169622, 0.330378]
    >>> (dynamic_weights(losses, 0.5, temperature=0.4) / 4).round(6).tolist()
    [0.032616, 0.172687, 0.397348, 0.397348]
    """
    choice(strategy, "strategy", STRATEGIES)
    spread = number(delta, "delta", low=0, above=True)
    width = _temperature(progress, temperature, first_temperature, burn_in, anneal_until)
    together = Processes(processes)
    values = together.read(lambda: read(losses, "losses"))
    together.count(values, "losses")
    least, most = together.extremes(values)
    if width is None:
        return like(np.ones_like(values), losses)
    centre, span = (most + least) / 2.0, max(most - least, 1e-6)
    preference = _preference(2.0 * spread * (values - centre) / span, strategy, spread)
    return like(together.softmax((-preference if anti else preference) / width, "losses"), losses)


def _preference(h: Vector, strategy: str, delta: float) -> Vector:
    if strategy == "lin_upper":
        return np.minimum(h + delta, delta)
    if strategy == "quadratic":
        return 1.0 - np.square(h / delta)
    if strategy == "extremes":
        return np.abs(h)
    return (h + delta) / 2.0 if strategy == "upper" else np.zeros_like(h)


def _temperature(
    progress: Any, temperature: Any, first_temperature: Any, burn_in: Any, anneal_until: Any
) -> float | None:
    """R at this progress; None while nothing is weighted."""
    last = number(temperature, "temperature", low=0, above=True)
    first = (
        last
        if first_temperature is None
        else number(first_temperature, "first_temperature", low=0, above=True)
    )
    start, end = interval(burn_in, anneal_until, ("burn_in", "anneal_until"))
    done = share_done(progress)
    if done < start:
        return None
    return float(first * (last / first) ** ramp(done, start, end))
