"""RankCutoff: only samples whose positive ranks high enough, a consistency filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stope._checks import real
from stope._kinds import at_least, kinds
from stope.weighting._processes import Processes
from stope.weighting._samples import Vector
from stope.weighting.protocol import OfSignal, Range


@kinds(top=at_least(1))
@dataclass(frozen=True)
class RankCutoff(OfSignal, name="rank_cutoff", papers=("E5",)):
    """1 where the positive is among the top documents of its query, else 0.

    All weights may be 0, which stope's losses refuse. Source: docs/methods.md, D19; among which
    documents, and up to which rank, is for you to say.

    Attributes:
        top: the last rank that counts, at least 1.
        signal: the ranks, integers or floats: 1 + the number of documents that score above the
            positive; 0 (no positive) gets 0.

    >>> RankCutoff(top=2).weights(np.array([1, 3, 2])).tolist()
    [1.0, 0.0, 1.0]
    """

    reads = Range(low=0, integers=True)
    top: int
    signal: str = "rank"

    def __post_init__(self) -> None:
        super().__post_init__()
        real(self.top, "top", 1)

    def _formula(self, samples: Vector, progress: float, together: Processes) -> Vector:
        return ((samples > 0) & (samples <= self.top)).astype(np.float64)
