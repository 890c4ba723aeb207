"""The functions that the classes were before they held the formulas; until the next release."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from stope.weighting import compose, protocol
from stope.weighting._samples import Samples, product
from stope.weighting.answer_ranking import AnswerRanking
from stope.weighting.constant import Constant
from stope.weighting.dynamic import Dynamic
from stope.weighting.focal import Focal
from stope.weighting.progressive import Progressive
from stope.weighting.rank_cutoff import RankCutoff
from stope.weighting.teacher import Teacher

_NONE = Constant()  # in the place of a weighting whose weights are there already


def function(name: str) -> Callable[..., Samples]:
    """The function of that name, with a warning that says what does the same.

    Raises:
        AttributeError: there was none.
    """
    if name not in _FUNCTIONS:
        raise AttributeError(f"module 'stope.weighting' has no attribute {name!r}")
    kind, call = _FUNCTIONS[name]
    warnings.warn(
        f"stope.weighting.{name} is stope.weighting.{kind.__name__}(...).weights now; the old name "
        "goes with the next release",
        DeprecationWarning,
        stacklevel=3,
    )
    return call


def _of_samples(make: Callable[..., protocol.Formula], *fields: str) -> Callable[..., Samples]:
    """(samples, progress, then these fields) -> weights; the other fields by name."""

    def call(
        samples: Samples, progress: float = 0.0, *values: Any, processes: Any = None, **others: Any
    ) -> Samples:
        named = dict(zip(fields, values, strict=False))
        return make(**named, **others).weights(samples, progress, processes=processes)

    return call


def _clip(weights: Samples, low: float = 0.0, high: float | None = None) -> Samples:
    return compose.Clipped(_NONE, low, high).weights(weights)


def _multiply(weights: Samples, *others: Samples) -> Samples:
    return product(
        {"weights": weights} | {f"others[{place}]": other for place, other in enumerate(others)}
    )


_FUNCTIONS: dict[str, tuple[type[protocol.Weighting], Callable[..., Samples]]] = {
    "answer_ranking_weights": (AnswerRanking, _of_samples(AnswerRanking)),
    "anti_weights": (compose.Anti, _of_samples(partial(compose.Anti, _NONE))),
    "clip_weights": (compose.Clipped, _clip),
    "constant_weights": (Constant, _of_samples(Constant)),
    "dynamic_weights": (Dynamic, _of_samples(Dynamic, "strategy")),
    "fade_out_weights": (compose.FadeOut, _of_samples(partial(compose.FadeOut, _NONE))),
    "focal_weights": (Focal, _of_samples(partial(Focal, "difficulty"))),
    "normalize_weights": (compose.Normalized, _of_samples(partial(compose.Normalized, _NONE))),
    "product_weights": (compose.Product, _multiply),
    "progressive_weights": (Progressive, _of_samples(Progressive)),
    "rank_cutoff_weights": (RankCutoff, _of_samples(RankCutoff)),
    "teacher_weights": (Teacher, _of_samples(Teacher)),
    "warm_up_weights": (compose.WarmUp, _of_samples(partial(compose.WarmUp, _NONE))),
}
