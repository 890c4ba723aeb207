"""The same weight for every sample: what the others are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from stope._checks import real
from stope.weighting._processes import Processes
from stope.weighting._samples import Samples, Vector
from stope.weighting.protocol import Formula, Range, check_signals


@dataclass(frozen=True)
class Constant(Formula, name="constant"):
    """w_i = value, whichever signal there is: only its length and kind count.

    Attributes:
        value: above 0.

    >>> Constant(2.0).weights(np.float32([0.3, 0.1])).tolist()
    [2.0, 2.0]
    """

    reads = Range(none=-np.inf, integers=True)
    value: float = 1.0

    def __post_init__(self) -> None:
        real(self.value, "value", 0, above=True)

    def __call__(
        self, signals: Mapping[str, Samples], progress: float, *, processes: Any = None
    ) -> Samples:
        """Weights ``[B]``."""
        check_signals(signals)
        if not signals:
            raise ValueError("signals is empty; give at least one, for the number of samples")
        return self.weights(next(iter(signals.values())), progress, processes=processes)

    @property
    def _what(self) -> str:
        return "samples"

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        return np.full_like(samples, self.value)
