"""What a training leaves open, by the kind of model: the option `preset`.

static and transformer are the schedules that these models had before presets had names; base, an
encoder that never learned to retrieve, has more to learn (passes and rate as benchmarks/
training_kinds.py has them; docs/concepts/negatives.md, "Transformers", has what they brought, also
to one that retrieves already and has some hundred pairs, for which transformer is too short).
adapter has the defaults of `stope.adapters.AdapterRecipe` (the same page, "An adapter's numbers").
Mined negatives have the same defaults for all kinds: docs/concepts/refresh.md.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

Preset: TypeAlias = Literal["static", "transformer", "base", "adapter"]
PRESETS: dict[Preset, dict[str, Any]] = {
    "static": {"batch_size": 2048, "epochs": 10, "learning_rate": 0.1},
    "transformer": {"batch_size": 64, "epochs": 1, "learning_rate": 2e-5},
    "base": {"batch_size": 64, "epochs": 4, "learning_rate": 1e-4},
    "adapter": {"batch_size": 1024, "epochs": 10, "learning_rate": 1e-3},
}
STUDENT_RATE = 0.03  # of a student's pairs; an encoder that starts from nothing takes 0.1
LORA_RATE = 10.0  # low-rank updates begin at zero and take ten times the rate


def usual_batch_size(rows: int, largest: int) -> int:
    """An eighth of the rows, at least 16, at most the largest: small files get several steps.

    On 916 pairs of SciFact a static encoder reached nDCG@10 0.80 with eight batches a pass and 0.60
    with one; adapters: docs/concepts/negatives.md.

    >>> [usual_batch_size(rows, 2048) for rows in (5, 100, 1000, 100_000)]
    [16, 16, 125, 2048]
    """
    return min(largest, max(16, rows // 8))
