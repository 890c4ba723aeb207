"""Which of a query's mined candidates a training step takes.

A strategy is a frozen dataclass of numbers, written into a configuration as a dictionary with its
name. What it draws is a function of one 64-bit key per query and of that query's own candidates
alone: not of the other queries of a batch, nor of what was drawn before.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import integer, real
from stope._named import Named, names_of
from stope.lists import Ids

Scores = NDArray[np.float32]
Keys = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_CHUNK_ELEMENTS = 1 << 17  # of a chunk's keys, so that they stay in the second-level cache


class Sampling(Named, family="sampling", members="strategies"):
    """A way to take n of the candidates of each query.

    A strategy of your own is a frozen dataclass derived from this class, with the name that
    configurations give it: ``class Mine(Sampling, name="mine")``.

    >>> SimANS(a=30.0).to_dict()
    {'name': 'simans', 'a': 30.0, 'b': 0.0}
    >>> Sampling.from_dict({"name": "window", "first": 10, "last": 30})
    Window(first=10, last=30)

    Attributes:
        name: of the class, in configurations.
    """

    @abstractmethod
    def choose(self, ids: Ids, scores: Scores, positive_scores: Scores, n: int, keys: Keys) -> Ids:
        """Take up to n candidates of each query, distinct where its candidates are.

        Args:
            ids: int64 ``[Q, pool]``, best first; short rows end in -1.
            scores: float32 ``[Q, pool]``, theirs.
            positive_scores: float32 ``[Q]``, the lowest score among each query's positives.
            n: how many.
            keys: uint64 ``[Q]`` of `sampling_keys`.

        Returns:
            int64 ``[Q, n]``, in the order they were drawn; rows whose candidates end, end in -1.

        Memory: O(Q n), and a few chunks of 131,072 candidates.
        """


@dataclass(frozen=True)
class Top(Sampling, name="top"):
    """The n hardest, the same in every step.

    Example:
        >>> rows = np.array([[7, 3, -1]]), np.float32([[0.9, 0.5, -np.inf]]), np.float32([1])
        >>> Top().choose(*rows, 3, sampling_keys(0, 1, 0, [0]))
        array([[ 7,  3, -1]])
    """

    def choose(self, ids: Ids, scores: Scores, positive_scores: Scores, n: int, keys: Keys) -> Ids:
        """The first n columns."""
        _check(ids, scores, positive_scores, n, keys)
        found = np.full((len(ids), n), -1, dtype=np.int64)
        found[:, : ids.shape[1]] = ids[:, :n]
        return found


@dataclass(frozen=True)
class Window(Sampling, name="window"):
    """A uniform choice without replacement from the ranks first, ..., last - 1.

    Attributes:
        first: ranks to skip from the top.
        last: rank to stop before; None is the end of the pool.
    """

    first: int = 0
    last: int | None = None

    def __post_init__(self) -> None:
        integer(self.first, "first", 0)
        if self.last is not None and integer(self.last, "last", 1) <= self.first:
            raise ValueError(
                f"last is {self.last}; give a rank above first={self.first}, or None for all"
            )

    def choose(self, ids: Ids, scores: Scores, positive_scores: Scores, n: int, keys: Keys) -> Ids:
        """Each n-subset of the window is equally likely, in each order."""
        _check(ids, scores, positive_scores, n, keys)
        window = ids[:, self.first : self.last]
        places = distinct_numbers(keys, (window >= 0).sum(1), n)
        if not window.shape[1]:
            return places  # all -1
        found = np.take_along_axis(window, places.clip(0), axis=1)
        return np.where(places >= 0, found, -1)


@dataclass(frozen=True)
class Uniform(Window, name="uniform", papers=("ANCE", "STAR")):
    """A uniform choice without replacement from all of the pool, as in ANCE and STAR.

    Source: docs/methods.md, B1, B3.
    """

    first: int = dataclasses.field(default=0, init=False)
    last: int | None = dataclasses.field(default=None, init=False)


@dataclass(frozen=True)
class Spread(Sampling, name="spread", papers=("UDR",)):
    """Some of the best, one of the worst, the others from between, in the order of their ranks.

    Draws ``of_best`` from a query's first ``ends`` candidates, one from its last ``ends``, and what
    is left of n from those between, each without replacement and equally likely. Where the
    candidates are a language model's, best first, these are UDR's lists, of eight as a rule, for
    `stope.torch.ranking.lambda_mrr`. A query with few candidates gets fewer.

    Attributes:
        ends: how many candidates are the best, and how many the worst.
        of_best: how many of the best to draw, at most ends.

    Source: UDR (docs/methods.md, D1).

    Example:
        >>> rows = np.array([[9, 8, 7, 6]]), np.float32([[0.9, 0.5, 0.4, 0.1]]), np.float32([1])
        >>> Spread(ends=1).choose(*rows, 4, sampling_keys(0, 1, 0, [0]))
        array([[9, 8, 7, 6]])
    """

    ends: int = 5
    of_best: int = 1

    def __post_init__(self) -> None:
        integer(self.ends, "ends", 1)
        if integer(self.of_best, "of_best", 1) > self.ends:
            raise ValueError(f"of_best is {self.of_best}; give at most ends={self.ends}")

    def choose(self, ids: Ids, scores: Scores, positive_scores: Scores, n: int, keys: Keys) -> Ids:
        """Up to n of each query, best first."""
        _check(ids, scores, positive_scores, n, keys)
        count = (ids >= 0).sum(1)
        best = np.minimum(count, self.ends)
        worst = np.minimum(count - best, self.ends)
        of_best = min(self.of_best, n)
        wanted = (of_best, max(0, n - of_best - 1), min(1, n - of_best))
        places = [np.full((len(ids), 0), -1)]
        first = np.zeros_like(count)
        for part, (size, draws) in enumerate(
            zip((best, count - best - worst, worst), wanted, strict=True)
        ):
            drawn = distinct_numbers(_mixed(keys + np.uint64(part)), size, draws)
            places.append(np.where(drawn >= 0, drawn + first[:, None], ids.shape[1]))
            first = first + size
        columns = np.sort(np.concatenate(places, axis=1), axis=1)
        wide = np.column_stack([ids, np.full(len(ids), -1)])  # its last column is "none"
        return np.take_along_axis(wide, columns, axis=1)


class _Weighted(Sampling, name=None):
    """n draws without replacement, each in proportion to the weights of what is left.

    The n largest of ``log w_j + G_j`` with independent standard Gumbel G_j are such draws, in their
    order (Vieira 2014; Efraimidis and Spirakis 2006), and need no normaliser.
    """

    @abstractmethod
    def log_weights(self, ids: Ids, scores: Scores, positive_scores: Scores) -> Scores:
        """Logarithms of the weights, float32 ``[Q, pool]``, up to a number per query."""

    def probabilities(self, ids: Ids, scores: Scores, positive_scores: Scores) -> Any:
        """Probability of each candidate to be the first drawn, float64 ``[Q, pool]``.

        Rows sum to 1, or to 0 where a query has no candidates.
        """
        logs = self.log_weights(ids, scores, positive_scores).astype(np.float64)
        logs[ids < 0] = -np.inf
        most = logs.max(1, keepdims=True, initial=-np.inf)
        weights = np.exp(logs - np.where(np.isfinite(most), most, 0))
        total = weights.sum(1, keepdims=True)
        return weights / np.where(total > 0, total, 1)

    def choose(self, ids: Ids, scores: Scores, positive_scores: Scores, n: int, keys: Keys) -> Ids:
        """The n largest of log-weight plus Gumbel noise."""
        _check(ids, scores, positive_scores, n, keys)
        drawn = np.full((len(ids), n), -1, dtype=np.int64)
        rows = max(1, _CHUNK_ELEMENTS // max(1, ids.shape[1]))
        for start in range(0, len(ids) if ids.shape[1] else 0, rows):
            part = slice(start, start + rows)
            candidates = ids[part]
            noisy = self.log_weights(candidates, scores[part], positive_scores[part])
            noisy -= np.log(-np.log(_uniform(keys[part, None], candidates)))
            noisy[candidates < 0] = -np.inf
            row = np.arange(len(candidates))
            for draw in range(min(n, ids.shape[1])):
                best = noisy.argmax(1)
                left = noisy[row, best] > -np.inf
                drawn[start : start + rows, draw] = np.where(left, candidates[row, best], -1)
                noisy[row, best] = -np.inf
        return drawn


@dataclass(frozen=True)
class SimANS(_Weighted, name="simans", papers=("SimANS",)):
    """Ambiguous negatives, near the positive's score: ``p_j ~ exp(-a (s_j - s+ - b)^2)``.

    Attributes:
        a: sharpness, at least 0. It goes with the inverse square of the scores' scale: the paper's
            0.5 is for dot products; for cosines, which differ by a twentieth where those differ
            by one, it becomes 200.
        b: where the peak lies above the positive's score.

    Source: SimANS (docs/methods.md, C3).

    Example:
        >>> ids, gaps = np.array([[5, 6, 7, 8]]), np.float32([[-3, -1, 0, 1]])
        >>> SimANS(a=0.5).probabilities(ids, gaps, np.float32([0])).round(6).tolist()
        [[0.004995, 0.2727, 0.449606, 0.2727]]
    """

    a: float = 200.0
    b: float = 0.0

    def __post_init__(self) -> None:
        real(self.a, "a", least=0)
        real(self.b, "b")

    def log_weights(self, ids: Ids, scores: Scores, positive_scores: Scores) -> Scores:
        """``-a (s_j - s+ - b)^2``."""
        gap = np.where(ids >= 0, scores, 0) - positive_scores[:, None] - np.float32(self.b)
        return np.asarray(gap * gap * np.float32(-self.a), dtype=np.float32)


@dataclass(frozen=True)
class TeacherMargin(_Weighted, name="teacher_margin", papers=("TAS-B",)):
    """Easy and hard in equal parts: bins of the margin ``s+ - s_j`` are equally likely.

    A query's margins are put into bins of equal width between its least and its greatest; the first
    draw takes a bin that is not empty, each with the same probability, then one of its candidates.
    So it draws ``p_j = 1 / (bins that are not empty * candidates in j's bin)``. Scores should be a
    teacher's where there is one (TAS-B).

    Attributes:
        bins: how many.

    Source: TAS-B's pair balance (docs/methods.md, C5).

    Example:
        >>> ids, scores = np.array([[1, 2, 3]]), np.float32([[0.9, 0.8, 0.1]])
        >>> TeacherMargin(bins=2).probabilities(ids, scores, np.float32([1])).round(6).tolist()
        [[0.25, 0.25, 0.5]]
    """

    bins: int = 10

    def __post_init__(self) -> None:
        integer(self.bins, "bins", 1)

    def log_weights(self, ids: Ids, scores: Scores, positive_scores: Scores) -> Scores:
        """Minus the logarithm of the number of candidates in the same bin."""
        present = ids >= 0
        margins = positive_scores[:, None] - np.where(present, scores, 0)
        least = np.where(present, margins, np.inf).min(1, keepdims=True, initial=np.inf)
        width = np.where(present, margins, -np.inf).max(1, keepdims=True, initial=-np.inf) - least
        with np.errstate(invalid="ignore"):  # equal margins are one bin; a query may have none
            place = (margins - least) / np.where(width > 0, width, 1) * self.bins
        bins = np.where(present, place, 0).astype(np.int64).clip(0, self.bins - 1)
        bins += np.arange(len(ids))[:, None] * self.bins
        counts = np.bincount(bins[present], minlength=len(ids) * self.bins)
        return np.asarray(-np.log(counts[bins].clip(1).astype(np.float32)))


def sampling_names() -> tuple[str, ...]:
    """The names that `Sampling.from_dict` knows.

    >>> sampling_names()
    ('simans', 'spread', 'teacher_margin', 'top', 'uniform', 'window')
    """
    return names_of(Sampling)


def sampling_keys(seed: int, version: int, step: int, queries: Any) -> Keys:
    """One key per query, a function of the four numbers: the same in any batch and process.

    uint64 ``[Q]`` for queries ``[Q]``; version is that of the table of candidates, step that of
    the training.

    Raises:
        ValueError: a seed, version or step that is negative or above 2^64 - 1.

    Source: splitmix64's finaliser (Steele, Lea and Flood 2014), once per number.

    Example:
        >>> sampling_keys(0, 1, 2, [5, 6])[1] == sampling_keys(0, 1, 2, [6])[0]
        np.True_
    """
    key = np.zeros(1, dtype=np.uint64)
    for name, number in (("seed", seed), ("version", version), ("step", step)):
        if not 0 <= number < 2**64:
            raise ValueError(f"{name} is {number}; give an integer from 0 to 2^64 - 1")
        key = _mixed(key + np.uint64(number))
    return _mixed(key + np.asarray(queries, dtype=np.int64).astype(np.uint64))


def distinct_numbers(keys: Keys, counts: Any, n: int) -> Ids:
    """Draw n distinct numbers below counts for each key, each ordered choice equally likely.

    int64 ``[Q, n]``, -1 where fewer than n numbers exist; also in memory.

    Example:
        >>> np.sort(distinct_numbers(sampling_keys(0, 0, 0, [0, 1]), [3, 2], 3), axis=1)
        array([[ 0,  1,  2],
               [-1,  0,  1]])
    """
    counts = np.asarray(counts, dtype=np.int64)
    found = np.full((len(keys), n), -1, dtype=np.int64)
    for draw in range(n):
        with np.errstate(over="ignore"):
            share = _unit(_mixed(keys + np.uint64(draw + 1) * _STEP))
        left = counts - draw
        number = np.minimum((share * left).astype(np.int64), left - 1)
        # The number counts what is left: it moves up past each number that is gone, in their order.
        for gone in np.sort(found[:, :draw], axis=1).T:
            number += number >= gone
        found[:, draw] = np.where(left > 0, number, -1)
    return found


def _uniform(keys: Keys, ids: Ids) -> Scores:
    """Float32 in (0, 1), one per candidate: a function of the query's key and its id."""
    with np.errstate(over="ignore"):
        bits = _mixed(keys + ids.astype(np.uint64) * _STEP)
    share: Scores = (bits >> np.uint64(41)).astype(np.float32)  # 23 bits, and a half: never 0 or 1
    share += np.float32(0.5)
    share *= np.float32(2.0**-23)
    return share


def _unit(bits: Keys) -> NDArray[np.float64]:
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mixed(numbers: Keys) -> Keys:
    with np.errstate(over="ignore"):
        bits: Keys = numbers + _STEP
        bits ^= bits >> np.uint64(30)
        bits *= _FIRST
        bits ^= bits >> np.uint64(27)
        bits *= _SECOND
        bits ^= bits >> np.uint64(31)
    return bits


def _check(ids: Any, scores: Any, positive_scores: Any, n: int, keys: Any) -> None:
    if n < 0:
        raise ValueError(f"n is {n}; give the number of negatives per query, at least 0")
    if ids.shape != scores.shape or ids.ndim != 2:
        raise ValueError(f"ids has shape {ids.shape} and scores {scores.shape}; give both [Q, p]")
    for name, rows in (("positive_scores", positive_scores), ("keys", keys)):
        if rows.shape != ids.shape[:1]:
            raise ValueError(f"{name} has shape {rows.shape} for {len(ids)} queries; give [Q]")
