"""From what the loss found on its way to the rows' weights and to the numbers of the log.

A weighting can read, one number per row of the batch and none with a gradient, what
`stope.weighting.difficulty_signals` says, and every column of numbers that the data has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.nn.functional import normalize

import torch
from stope.torch import Statistics
from stope.weighting import (
    Formula,
    OfSignal,
    OfWeights,
    Product,
    Weighting,
    difficulty_signals,
    summarize_weights,
    weigh,
)
from torch import Tensor

# A batch as a loss might find it, to try a weighting on.
_EXAMPLE = {
    "loss": (0.25, 2.0),
    "log_sum_exp": (19.0, 21.0),
    "rank": (1.0, 3.0),
    "best_hardness": (-0.25, 0.125),
    "hardness": (-0.5, 0.0625),
}
_QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}
_QUARTERS = ("easiest", "easy", "hard", "hardest")


class Signals(dict[str, Any]):
    """Signals by name, with a sentence for a name that is not there."""

    def __missing__(self, name: str) -> Any:
        raise ValueError(
            f"a weighting reads the signal {name!r}, but signals has {', '.join(self)}; add a "
            "column of that name to the examples, or name another signal"
        )


def check_weighting(weighting: Any, columns: Mapping[str, Any] | None = None) -> Weighting:
    """The weighting, tried on the data's columns and made-up losses before any training.

    Args:
        weighting: a weighting, its name, or its dictionary.
        columns: the signals and weights of all rows by name, such as "easiness": [n] numbers.

    Raises:
        ValueError, TypeError: it names no weighting, reads a signal that there will not be, or
            refuses a value of a column.

    >>> check_weighting("progressive").name
    'progressive'
    >>> check_weighting("teacher", {"easiness": [0.5, 1.0]})
    Traceback (most recent call last):
        ...
    ValueError: weighting 'teacher' reads the signal 'teacher_confidence', but signals has loss,
    log_sum_exp, rank, best_hardness, hardness, easiness; add it or name another
    """
    checked = Weighting.from_dict(weighting)
    told = {name: np.asarray(values, np.float64) for name, values in (columns or {}).items()}
    rows = max([2, *map(len, told.values())])
    made = {name: np.resize(np.array(pair, np.float64), rows) for name, pair in _EXAMPLE.items()}
    for progress in (0.0, 0.5, 1.0):
        weigh(checked, Signals({**made, **told}), progress)
    return checked


def follows_progress(weighting: Weighting) -> bool:
    """Whether the weights of the same rows change while training goes on.

    >>> from stope.weighting import Focal
    >>> follows_progress(Weighting.from_dict("progressive")), follows_progress(Focal())
    (True, False)
    """
    signals = Signals({name: np.array(pair) for name, pair in _EXAMPLE.items()})
    try:
        first, last = (weigh(weighting, signals, progress) for progress in (0.0, 1.0))
    except ValueError:  # a signal of the data
        return False
    return not np.array_equal(first, last)


def may_read(weighting: Weighting, name: str) -> bool:
    """Whether its weights may follow the signal; one that is not made of formulas may read all.

    >>> may_read(Weighting.from_dict("progressive"), "rank")
    False
    >>> may_read(Weighting.from_dict({"name": "rank_cutoff", "top": 3}), "rank")
    True
    """
    if isinstance(weighting, OfSignal):
        return weighting.signal == name
    if isinstance(weighting, OfWeights):
        return may_read(weighting.of, name)
    if isinstance(weighting, Product):
        return any(may_read(part, name) for part in weighting.parts)
    return not isinstance(weighting, Formula)


class RowWeights:
    """Weights of one batch; where they follow difficulty, from the loss's own statistics.

    Attributes:
        weights: float32 [rows] as weighting and data gave them, or None where there are neither;
            known once `of` was called.
        nothing: whether all weights of all processes are 0: the batch teaches nothing. The loss
            gets ones then, since a mean of nothing does not exist, and its result counts as 0.
    """

    def __init__(
        self,
        weighting: Weighting | None,
        progress: float,
        *,
        own_scores: Tensor | None = None,
        columns: Mapping[str, Any] | None = None,
        processes: Any = None,
    ) -> None:
        self.weighting = weighting
        self.progress = progress
        self.own_scores = own_scores
        self.columns = dict(columns or {})
        self.weights: Tensor | None = self.columns.get("weight")
        self.nothing = False
        self._processes = processes

    def of(self, statistics: Statistics) -> Tensor | None:
        """What the loss takes as weights of the rows that have these statistics; None for all 1."""
        if self.weighting is not None:
            signals = batch_signals(statistics, self.own_scores, self.columns)
            self.weights = weigh(self.weighting, signals, self.progress, processes=self._processes)
        if self.weights is not None:
            summary = summarize_weights(self.weights, processes=self._processes)
            self.nothing = summary.greatest == 0.0
        return self.usable

    @property
    def usable(self) -> Tensor | None:
        """The weights that the loss had, once it had them."""
        if self.weights is None:
            return None
        return torch.ones_like(self.weights) if self.nothing else self.weights


def batch_signals(
    statistics: Statistics, own_scores: Tensor | None, columns: Mapping[str, Any]
) -> Signals:
    """All signals of a batch by name.

    Args:
        statistics: :class:`stope.torch.Statistics` with one positive per row.
        own_scores: float32 [rows, h], scores of the rows' own hard negatives, -inf where one is no
            negative of its row; or None.
        columns: what the data says of the rows.
    """
    return Signals({**difficulty_signals(statistics, own_scores=own_scores), **columns})


def own_scores(queries: Tensor, hard_negatives: list[Tensor], metric: str) -> Tensor | None:
    """Scores of row i with row i of each of the h columns; None without any.

    Returns:
        float32 [rows, h], on the CPU.
    """
    if not hard_negatives:
        return None
    with torch.no_grad():
        left, *columns = (
            normalize(rows.float(), dim=1) if metric == "cosine" else rows.float()
            for rows in (queries, *hard_negatives)
        )
        return torch.stack([(left * rows).sum(dim=1) for rows in columns], dim=1).cpu()


def observations(statistics: Statistics, weights: RowWeights, possible: float) -> dict[str, float]:
    """Numbers of one batch for the log.

    Args:
        statistics: of its rows.
        weights: after the loss had them.
        possible: how many negatives a row would have without any mask.

    Returns:
        ``weight_min``, ``weight_p10``, ``weight_p50``, ``weight_p90``, ``weight_max``,
        ``weight_mean`` and ``weight_effective`` (:class:`stope.weighting.WeightSummary`) where rows
        are weighted, and ``weight_easiest``, ``weight_easy``, ``weight_hard``, ``weight_hardest``,
        the mean weights of four quarters of the rows by hardness; ``hardness_min`` and so on, over
        the rows that have negatives;
        ``false_negatives``, the share of pairs that are left out because they are known to be
        right; ``mean_rank`` of the positives, in which a document that several rows bring counts
        once where it is scored once (`stope.integrations.sentence_transformers.distinct`: not where
        the weighting reads ranks), and
        ``first_rank``, the share that ranks first.
    """
    facts: dict[str, float] = {}
    if weights.weights is not None:
        facts |= _spread("weight", weights.weights.detach().double().numpy())
        summary = summarize_weights(weights.weights)
        facts |= {"weight_mean": summary.mean, "weight_effective": summary.effective}
    signals = batch_signals(statistics, weights.own_scores, {})
    hardness = signals["hardness"].detach().double().numpy()
    facts |= _spread("hardness", hardness)
    if weights.weights is not None:
        rows = np.flatnonzero(np.isfinite(hardness))
        rows = rows[np.argsort(hardness[rows], kind="stable")]
        parts = np.array_split(weights.weights.detach().double().numpy()[rows], len(_QUARTERS))
        facts |= {
            f"weight_{name}": float(part.mean())
            for name, part in zip(_QUARTERS, parts, strict=True)
            if len(part)
        }
    if possible > 0:
        kept = float(statistics.negatives.double().mean())
        facts["false_negatives"] = max(0.0, 1.0 - kept / possible)
    ranks = statistics.ranks.double()
    facts["mean_rank"] = float(ranks.mean())
    facts["first_rank"] = float((ranks == 1).double().mean())
    return facts


def _spread(name: str, values: NDArray[np.float64]) -> dict[str, float]:
    rows = values[np.isfinite(values)]
    if not rows.size:
        return {}
    places = np.quantile(rows, list(_QUANTILES.values()))
    return {f"{name}_{key}": float(value) for key, value in zip(_QUANTILES, places, strict=True)}
