"""The functions that the classes were before they held the formulas; until the next release."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

from stope.weighting.answer_ranking import AnswerRanking
from stope.weighting.compose import Anti, Clipped, FadeOut, Normalized, Product, WarmUp
from stope.weighting.constant import Constant
from stope.weighting.dynamic import Dynamic
from stope.weighting.focal import Focal
from stope.weighting.progressive import Progressive
from stope.weighting.protocol import Formula, Weighting
from stope.weighting.rank_cutoff import RankCutoff
from stope.weighting.teacher import Teacher

_NONE = Constant()  # in the place of a weighting whose weights are there already
_OF_SAMPLES = (AnswerRanking, Constant, Dynamic, Focal, Progressive, RankCutoff, Teacher)
_OF_WEIGHTS: dict[str, type[Formula]] = {
    "anti": Anti,
    "fade_out": FadeOut,
    "normalize": Normalized,
    "warm_up": WarmUp,
}


def function(name: str) -> Callable[..., Any]:
    """The function of that name, with a warning that says what does the same.

    Raises AttributeError: there was none.
    """
    kinds: dict[str, type[Weighting]] = {"clip": Clipped, "product": Product, **_OF_WEIGHTS}
    kinds |= {kind.name: kind for kind in _OF_SAMPLES}
    word = name.removesuffix("_weights")
    if word not in kinds or word == name:
        raise AttributeError(f"module 'stope.weighting' has no attribute {name!r}")
    warnings.warn(
        f"stope.weighting.{name} is stope.weighting.{kinds[word].__name__}(...).weights now; the "
        "old name goes with the next release",
        DeprecationWarning,
        stacklevel=3,
    )
    if word == "product":
        return lambda weights, *others: Product((_NONE,)).weights(weights, *others)
    if word == "clip":
        return lambda weights, low=0.0, high=None: Clipped(_NONE, low, high).weights(weights)
    if word == "dynamic":
        return lambda losses, progress, strategy="lin_upper", **more: _weights(
            partial(Dynamic, strategy=strategy), losses, progress, **more
        )
    make: Callable[..., Any] = partial(kinds[word], *([_NONE] if word in _OF_WEIGHTS else []))
    return partial(_weights, partial(make, signal="difficulty") if word == "focal" else make)


def _weights(
    make: Callable[..., Formula],
    samples: Any,
    progress: float = 0.0,
    *,
    processes: Any = None,
    **fields: Any,
) -> Any:
    return make(**fields).weights(samples, progress, processes=processes)
