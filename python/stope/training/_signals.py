"""From what the loss found on its way to the rows' weights and to the numbers of the log.

The signals that a weighting can read, one number per row of the batch, none with a gradient:
    loss, log_sum_exp, rank   of the fused loss, over all documents of the batch;
    best_hardness             score of the best negative in the batch less the positive's;
    hardness                  mean score of the row's own hard negatives less the positive's
                              (methods.md, A1); best_hardness in rows that have none;
    weight                    the data's own, which always multiplies in;
    and every column of numbers that the data has, under its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch.nn.functional import normalize

import torch
from stope.torch.distributed import world_size
from stope.weighting import (
    Weighting,
    difficulty_signals,
    hard_negative_difficulty,
    summarize_weights,
    weigh,
)

# A batch as a loss might find it, to try a weighting on.
_EXAMPLE = {
    "loss": (0.25, 2.0),
    "log_sum_exp": (19.0, 21.0),
    "rank": (1.0, 3.0),
    "best_hardness": (-0.25, 0.125),
    "hardness": (-0.5, 0.0625),
}
_QUANTILES = {"min": 0.0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1.0}


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
    found = Weighting.from_dict(weighting)
    given = {name: np.asarray(values, np.float64) for name, values in (columns or {}).items()}
    rows = max([2, *map(len, given.values())])
    made = {name: np.resize(np.array(pair, np.float64), rows) for name, pair in _EXAMPLE.items()}
    for progress in (0.0, 0.5, 1.0):
        weigh(found, Signals({**made, **given}), progress)
    return found


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
        own_scores: Any = None,
        columns: Mapping[str, Any] | None = None,
        group: Any = None,
    ) -> None:
        self.weighting = weighting
        self.progress = progress
        self.own_scores = own_scores
        self.columns = dict(columns or {})
        self.weights: Any = self.columns.get("weight")
        self.nothing = False
        self._processes = (group or "all") if world_size(group) > 1 else None

    def of(self, statistics: Any) -> Any:
        """What the loss takes as weights of the rows that have these statistics; None for all 1."""
        if self.weighting is not None:
            signals = batch_signals(statistics, self.own_scores, self.columns)
            self.weights = weigh(self.weighting, signals, self.progress, processes=self._processes)
        if self.weights is not None:
            summary = summarize_weights(self.weights, processes=self._processes)
            self.nothing = summary.greatest == 0.0
        return self.usable

    @property
    def usable(self) -> Any:
        """The weights that the loss had, once it had them."""
        if self.weights is None:
            return None
        return torch.ones_like(self.weights) if self.nothing else self.weights


def batch_signals(statistics: Any, own_scores: Any, columns: Mapping[str, Any]) -> Signals:
    """All signals of a batch by name.

    Args:
        statistics: :class:`stope.torch.Statistics` with one positive per row.
        own_scores: float32 [rows, h], scores of the rows' own hard negatives, -inf where one is no
            negative of its row; or None.
        columns: what the data says of the rows.
    """
    found = Signals(difficulty_signals(statistics))
    best = found.pop("hardness")
    found["best_hardness"] = found["hardness"] = best
    if own_scores is not None and own_scores.shape[1]:
        own = hard_negative_difficulty(statistics.positive_scores, own_scores)
        found["hardness"] = torch.where(torch.isfinite(own), own, best)
    return Signals({**found, **columns})


def own_scores(queries: Any, hard_negatives: list[Any]) -> Any:
    """Cosines of row i with row i of each of the h columns; None without any.

    Returns:
        float32 [rows, h], on the CPU.
    """
    if not hard_negatives:
        return None
    with torch.no_grad():
        left = normalize(queries.float(), dim=1)
        found = [(left * normalize(rows.float(), dim=1)).sum(dim=1) for rows in hard_negatives]
        return torch.stack(found, dim=1).cpu()


def observations(statistics: Any, weights: RowWeights, possible: float) -> dict[str, float]:
    """Numbers of one batch for the log.

    Args:
        statistics: of its rows.
        weights: after the loss had them.
        possible: how many negatives a row would have without any mask.

    Returns:
        ``weight_min``, ``weight_p10``, ``weight_p50``, ``weight_p90``, ``weight_max``,
        ``weight_mean`` and ``weight_effective`` (:class:`stope.weighting.WeightSummary`) where rows
        are weighted; ``hardness_min`` and so on, over the rows that have negatives;
        ``false_negatives``, the share of pairs that are left out because they are known to be
        right; ``mean_rank`` of the positives and ``first_rank``, the share that ranks first.
    """
    found: dict[str, float] = {}
    if weights.weights is not None:
        found |= _spread("weight", weights.weights)
        summary = summarize_weights(weights.weights)
        found |= {"weight_mean": summary.mean, "weight_effective": summary.effective}
    signals = batch_signals(statistics, weights.own_scores, {})
    found |= _spread("hardness", signals["hardness"])
    if possible > 0:
        kept = float(statistics.negatives.double().mean())
        found["false_negatives"] = max(0.0, 1.0 - kept / possible)
    ranks = statistics.ranks.double()
    found["mean_rank"] = float(ranks.mean())
    found["first_rank"] = float((ranks == 1).double().mean())
    return found


def _spread(name: str, values: Any) -> dict[str, float]:
    rows = values.detach().double().numpy()
    rows = rows[np.isfinite(rows)]
    if not rows.size:
        return {}
    places = np.quantile(rows, list(_QUANTILES.values()))
    return {f"{name}_{key}": float(value) for key, value in zip(_QUANTILES, places, strict=True)}
