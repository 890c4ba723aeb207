"""Which of stope's metrics sentence-transformers' similarity functions are."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from stope._checks import shown
from stope.ops._search import METRICS, Metric

_OF_FUNCTIONS: dict[str, Metric] = {
    **dict.fromkeys(("cos_sim", "pytorch_cos_sim", "pairwise_cos_sim"), "cosine"),
    "dot_score": "dot",
    "euclidean_sim": "euclidean",
}


def metric_of_function(
    function: Callable[..., Any], name: str = "score_function", metrics: Sequence[str] = METRICS
) -> Metric:
    """The metric that a function of `sentence_transformers.util` computes.

    Args:
        function: also one that `functools.partial` wraps without arguments, or a model's own
            ``similarity``.
        name: of the argument.
        metrics: those that can be computed here.

    Raises:
        ValueError: it computes another.
    """
    if isinstance(function, functools.partial) and not (function.args or function.keywords):
        function = function.func
    library = getattr(function, "__module__", None) or ""
    word, model = getattr(function, "__name__", ""), getattr(function, "__self__", None)
    metric = _OF_FUNCTIONS.get(word)
    if word == "similarity" and hasattr(model, "similarity_fn_name"):
        metric = metric_of_model(model)
    if metric is None or metric not in metrics or not library.startswith("sentence_transformers."):
        known = [f"util.{word}" for word, metric in _OF_FUNCTIONS.items() if metric in metrics]
        raise ValueError(
            f"{name} is {shown(function)}, which stope does not compute; give one of "
            f"{', '.join(known)}"
        )
    return metric


def metric_of_model(model: Any) -> Metric:
    """The metric of a model's similarity; cosine where it does not say.

    Raises:
        ValueError: it is another.
    """
    told = getattr(model, "similarity_fn_name", None) or "cosine"
    name = str(getattr(told, "value", told))
    for metric in METRICS:
        if metric == name:
            return metric
    raise ValueError(
        f"the model's similarity_fn_name is {shown(name)}, which stope does not compute; set it to "
        f"one of {', '.join(METRICS)}"
    )
