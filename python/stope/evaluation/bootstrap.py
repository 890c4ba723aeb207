"""Bootstrap over queries: a confidence interval of a mean, and of the difference of two runs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stope._checks import integer, real, shown, size
from stope.evaluation.metrics import Evaluation

_BLOCK_ELEMENTS = 1 << 20
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """What `compare` found of a metric over num_queries queries.

    Attributes:
        mean_difference: mean over queries of candidate - baseline.
        low, high: its confidence interval.
        p_value: two-sided; the chance of a difference at least as large if there were none.

    Example:
        >>> Comparison("RR@10", 0.1, 0.05, 0.15, 0.001, 300, 0.95).significant
        True
    """

    metric: str
    mean_difference: float
    low: float
    high: float
    p_value: float
    num_queries: int
    confidence: float

    @property
    def significant(self) -> bool:
        """Whether p_value is below 1 - confidence."""
        return self.p_value < 1 - self.confidence


def compare(
    baseline: Evaluation,
    candidate: Evaluation,
    metric: str,
    *,
    num_samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two evaluations query by query with the paired bootstrap.

    With d_q = candidate_q - baseline_q and n queries, `num_samples` samples of n queries are drawn
    with replacement. The interval is the percentile interval of the sample means of d. The p-value
    is that of the bootstrap test of Sakai (SIGIR 2006): the share of samples of the centred
    differences d - mean(d) whose mean is at least |mean(d)| away from 0, counting the observed
    one, (1 + count) / (1 + num_samples). With few queries (below about 30) both are too optimistic.

    Args:
        baseline, candidate: evaluations over the same queries.
        metric: one that both have.
        seed: seed of the samples; the same seed, the same result.
        confidence: of the interval, between 0 and 1.

    Raises:
        ValueError: a metric that one has not, other queries in one than in the other, fewer than
            two queries, num_samples below 1, a confidence outside (0, 1).

    Memory: 16 MiB or 16 bytes a query, whichever is more, and 8 bytes a sample.

    Example:
        >>> names = [f"q{number}" for number in range(50)]
        >>> flat = Evaluation({"RR@10": 0.5}, {"RR@10": {name: 0.5 for name in names}})
        >>> better = Evaluation({"RR@10": 0.75}, {"RR@10": {name: 0.75 for name in names}})
        >>> found = compare(flat, better, "RR@10")
        >>> found.mean_difference, found.low, found.high, found.num_queries
        (0.25, 0.25, 0.25, 50)
    """
    _check(num_samples, seed, confidence)
    first, second = _values(baseline, metric, "baseline"), _values(candidate, metric, "candidate")
    if first.keys() != second.keys():
        only = sorted(first.keys() ^ second.keys())[0]
        raise ValueError(
            f"baseline and candidate are not over the same queries: only one has {shown(only)}; "
            "score both with the same judgements"
        )
    difference = np.array([second[query] - first[query] for query in first], dtype=np.float64)
    mean = math.fsum(difference) / len(difference)
    means = _sample_means(difference - mean, num_samples, seed)
    low, high = _percentiles(means, confidence)
    # Rounding in a mean of n terms of size at most 1 must not decide whether it reaches |mean|.
    slack = 1e-12 * float(np.abs(difference).max())
    extreme = int(np.count_nonzero(np.abs(means) >= abs(mean) - slack))
    p_value = (1 + extreme) / (1 + num_samples)
    return Comparison(metric, mean, mean + low, mean + high, p_value, len(difference), confidence)


def confidence_interval(
    evaluation: Evaluation,
    metric: str,
    *,
    num_samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[float, float]:
    """Return (low, high), the bootstrap percentile interval of a mean over queries.

    Options, errors and memory are those of `compare`.

    Example:
        >>> values = {f"q{number}": number % 2 for number in range(100)}
        >>> low, high = confidence_interval(Evaluation({"P@1": 0.5}, {"P@1": values}), "P@1")
        >>> round(low, 1), round(high, 1)
        (0.4, 0.6)
    """
    _check(num_samples, seed, confidence)
    values = np.array(list(_values(evaluation, metric, "evaluation").values()), dtype=np.float64)
    return _percentiles(_sample_means(values, num_samples, seed), confidence)


def rough_intervals(evaluation: Evaluation) -> dict[str, list[float]]:
    """Low and high of the 95% interval of every metric, of 1,000 samples; {} below two queries.

    >>> rough_intervals(Evaluation({"P@1": 1.0}, {"P@1": {"q1": 1.0, "q2": 1.0}}))
    {'P@1': [1.0, 1.0]}
    """
    return {
        metric: list(confidence_interval(evaluation, metric, num_samples=1000))
        for metric, values in evaluation.per_query.items()
        if len(values) > 1
    }


def _sample_means(values: Values, num_samples: int, seed: int) -> Values:
    number = len(values)
    generator = np.random.default_rng(seed)
    means = np.empty(num_samples, dtype=np.float64)
    block = max(1, _BLOCK_ELEMENTS // number)
    for start in range(0, num_samples, block):
        size = min(block, num_samples - start)
        chosen = generator.integers(0, number, size=(size, number))
        means[start : start + size] = values[chosen].mean(axis=1)
    return means


def _percentiles(means: Values, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _values(evaluation: Evaluation, metric: str, name: str) -> dict[str, float]:
    if not isinstance(evaluation, Evaluation):
        raise TypeError(
            f"{name} is {shown(evaluation)}; give what stope.evaluation.evaluate returns"
        )
    if not isinstance(metric, str):
        raise TypeError(f"metric is {shown(metric)}; give a name, such as nDCG@10")
    if metric not in evaluation.per_query:
        known = ", ".join(f'"{each}"' for each in evaluation.per_query) or "none"
        raise ValueError(f"metric is {shown(metric)}; the metrics of {name} are {known}")
    values = evaluation.per_query[metric]
    if len(values) < 2:
        raise ValueError(
            f"{name} has {len(values)} queries; an interval is undefined below two, judge more"
        )
    return values


def _check(num_samples: int, seed: int, confidence: float) -> None:
    size(num_samples, "num_samples")
    integer(seed, "seed", 0)
    if not 0 < real(confidence, "confidence", 0, 1) < 1:
        raise ValueError(f"confidence is {confidence}; it must lie between 0 and 1, such as 0.95")
