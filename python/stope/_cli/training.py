"""What `stope train` and `stope mine` share: options that suit the number of pairs."""

from __future__ import annotations

from typing import Any

_LARGEST_STATIC_BATCH = 2048
_SMALLEST_STATIC_BATCH = 16
_USUAL_BATCH = 32


def batch_size_for(rows: int, *, static: bool) -> int:
    """Pairs per batch: large for in-batch negatives, but at least eight batches an epoch.

    On 916 pairs of SciFact a static encoder reached nDCG@10 0.80 with eight batches an epoch and
    0.60 with one.

    Example:
        >>> [batch_size_for(rows, static=True) for rows in (5, 100, 1000, 100_000)]
        [5, 16, 125, 2048]
    """
    if static:
        wanted = min(_LARGEST_STATIC_BATCH, max(_SMALLEST_STATIC_BATCH, rows // 8))
    else:
        wanted = _USUAL_BATCH
    return min(wanted, rows)


def train_encoder(model: Any, examples: Any, *, static: bool, **options: Any) -> Any:
    """Train the model in place, with a batch size that suits where none is given; report."""
    from stope.training import train

    options.setdefault("batch_size", batch_size_for(len(examples), static=static))
    report = train(model, examples, **options)
    if not report.steps:
        raise ValueError(
            f"no batch of {options['batch_size']} pairs without duplicates can be made from "
            f"{len(examples)} pairs; give more pairs or a smaller --batch-size"
        )
    return report
