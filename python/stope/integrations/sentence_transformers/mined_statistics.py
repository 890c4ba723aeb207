"""What sentence-transformers prints of mined negatives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stope.lists import Lists

Scores = NDArray[np.float32]


def statistics(
    answers: Lists, positive_scores: Scores, scores: Scores, *, whole: bool
) -> list[str]:
    """A table of how the scores of positives and of their negatives are spread.

    Args:
        answers: the positives of every query.
        positive_scores: float32 ``[pairs]``, of them.
        scores: float32 ``[queries, n]``, of the negatives, -inf where there is none.
        whole: whether only queries with all n count.
    """
    of_pairs = scores[answers.owners]
    kept = np.isfinite(of_pairs)
    if whole:
        kept &= kept.all(axis=1, keepdims=True)
    columns = positive_scores, of_pairs[kept], (positive_scores[:, None] - of_pairs)[kept]
    line = "{:<6} {:>14} {:>14} {:>14}".format
    counts = (f"{len(values):,}" for values in columns[:2])
    spread = [_spread(values) for values in columns]
    return [
        line("Metric", "Positive", "Negative", "Difference"),
        line("Count", *counts, ""),
        *(line(name, *(f"{values[name]:.4f}" for values in spread)) for name in spread[0]),
    ]


def _spread(values: Scores) -> dict[str, float]:
    """Of no values what the library has for them; the median is the lower one of two."""
    names = ("Mean", "Median", "Std", "Min", "25%", "50%", "75%", "Max")
    if not len(values):
        return dict(zip(names, [np.nan] * 3 + [np.inf] * 4 + [-np.inf], strict=True))
    ordered = np.sort(values.astype(np.float64))
    deviation = ordered.std(ddof=1) if len(ordered) > 1 else np.nan
    quantiles = np.quantile(ordered, [0.25, 0.5, 0.75])
    numbers = [ordered.mean(), ordered[(len(ordered) - 1) // 2], deviation, ordered[0]]
    return dict(zip(names, map(float, [*numbers, *quantiles, ordered[-1]]), strict=True))


def too_few(missing: int, possible: int, names: list[str]) -> str:
    """That negatives are missing, and which options may help."""
    *first, last = names
    listed = f"{', '.join(first)} and {last}" if first else last
    return (
        f"Could not find enough negatives for {missing} samples ({missing / possible:.2%}). "
        f"Consider adjusting the {listed} parameter{'s' if first else ''} if you'd like to find "
        "more valid negatives."
    )
