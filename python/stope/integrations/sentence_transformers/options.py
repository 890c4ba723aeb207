"""The loss's options: checked, and in the words of `stope.torch.InfoNCELoss`."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from stope._checks import choice, number, shown
from stope.encoders.versions import dimension
from stope.integrations.sentence_transformers.metrics import metric_of_function

_DIRECTIONS = {
    "query_to_doc": "query_to_document",
    "query_to_query": "query_to_query",
    "doc_to_query": "document_to_query",
    "doc_to_doc": "document_to_document",
}


def temperature_of(temperature: float | None, scale: float | None) -> float:
    """The temperature, also where its inverse is given."""
    if scale is None:
        return 0.05 if temperature is None else temperature
    if temperature is not None:
        raise ValueError(
            f"temperature is {temperature} and scale is {scale}, its inverse; give one of them"
        )
    if number(scale, "scale", "give a number above 0") <= 0:
        raise ValueError(f"scale is {scale}; give a number above 0")
    return 1.0 / scale


def metric_of(metric: str, similarity: Callable[..., Any] | None) -> str:
    """The metric, also where sentence-transformers' function for it is given."""
    if similarity is None:
        return metric
    named = metric_of_function(similarity, "similarity_fct", ("cosine", "dot"))
    if metric not in ("cosine", named):
        raise ValueError(f"metric is {metric!r} but similarity_fct says {named!r}; give one")
    return named


def torch_options(
    options: dict[str, Any],
    *,
    partition_mode: str,
    hardness_mode: str | None,
    margin_strategy: str,
    margin: float | None,
) -> dict[str, Any]:
    """The options of :class:`stope.torch.InfoNCELoss`, whose own words are accepted as well."""
    choice(margin_strategy, "margin_strategy", ("absolute", "relative"))
    made = {"partition": "joint", "hardness": None, **options}
    for name, ours, value in (
        ("partition", "partition_mode", None if partition_mode == "joint" else partition_mode),
        ("hardness", "hardness_mode", hardness_mode),
        (f"{margin_strategy}_margin", "margin", margin),
    ):
        if value is not None and options.get(name) is not None:
            raise ValueError(f"{ours} is {value!r} and {name} is {options[name]!r}; give one")
        if value is not None:
            made[name] = value
    return made


def directions_of(
    directions: Sequence[str] | None,
    options: dict[str, Any],
    *,
    symmetric: bool,
    guided: bool,
    contrast: tuple[bool, bool],
) -> tuple[str, ...]:
    """The directions in torch's words; those of GISTEmbed where a guide is and nothing is said."""
    if directions is None:
        directions = ["query_to_doc"]
        if guided and not symmetric:
            options.setdefault("documents_see_hard_negatives", False)
            directions += ["query_to_query"] if contrast[0] else []
            directions += ["doc_to_doc"] if contrast[1] else []
    if symmetric and len(directions) > 1:
        raise ValueError(
            f"symmetric adds a loss of its own from documents to queries, but directions is "
            f"{tuple(directions)}; leave one of the two out"
        )
    return tuple(_DIRECTIONS.get(name, name) for name in directions)


def library_words(options: dict[str, Any]) -> dict[str, Any]:
    """The options of :class:`stope.torch.InfoNCELoss` in sentence-transformers' words."""
    words = {word: name for name, word in _DIRECTIONS.items()}
    names = {"partition": "partition_mode", "hardness": "hardness_mode"}
    said = {names.get(name, name): value for name, value in options.items()}
    return {**said, "directions": tuple(words[word] for word in options["directions"])}


def matryoshka_of(
    model: Any, dims: Sequence[int] | None, weights: Sequence[float] | None
) -> tuple[tuple[int, float], ...]:
    """(dim, weight) of each loss of a prefix, the whole embedding first; () for none."""
    if dims is None:
        if weights is not None:
            raise ValueError(
                f"matryoshka_weights is {shown(weights)} without matryoshka_dims; give both"
            )
        return ()
    numbers = tuple(int(dim) for dim in dims)
    if not numbers or numbers[-1] < 1 or any(a <= b for a, b in itertools.pairwise(numbers)):
        raise ValueError(
            f"matryoshka_dims is {shown(numbers)}; give numbers of at least 1 that descend, such "
            "as (384, 128, 64)"
        )
    whole = dimension(model)
    if whole is not None and numbers[0] != whole:
        raise ValueError(
            f"matryoshka_dims starts with {numbers[0]}, but the model's embeddings have {whole}; "
            f"start with {whole}, and let smaller ones follow"
        )
    factors = tuple(float(w) for w in (weights if weights is not None else [1.0] * len(numbers)))
    if len(factors) != len(numbers):
        raise ValueError(
            f"matryoshka_weights has {len(factors)} numbers for {len(numbers)} dims; give one each"
        )
    if not all(0 < factor < math.inf for factor in factors):
        raise ValueError(f"matryoshka_weights is {shown(factors)}; give finite numbers above 0")
    return tuple(zip(numbers, factors, strict=True))
