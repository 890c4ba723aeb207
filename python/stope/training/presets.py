"""What a training leaves open, by the kind of model: the option `preset`.

static and transformer are the schedules that these models had before presets had names; base, an
encoder that never learned to retrieve, has more to learn (the one of benchmarks/training_kinds.py).
Mined negatives have the same defaults for all kinds: docs/concepts/refresh.md says what was seen.
An adapter's numbers are the defaults of `stope.adapters.AdapterRecipe`.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

Preset: TypeAlias = Literal["static", "transformer", "base"]
PRESETS: dict[Preset, dict[str, Any]] = {
    "static": {"batch_size": 2048, "epochs": 10, "learning_rate": 0.1},
    "transformer": {"batch_size": 64, "epochs": 1, "learning_rate": 2e-5},
    "base": {"batch_size": 64, "epochs": 4, "learning_rate": 1e-4},
}
LORA_RATE = 10.0  # low-rank updates begin at zero and take ten times the rate
