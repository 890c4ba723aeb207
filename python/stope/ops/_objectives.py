"""The objectives of the contrastive loss: their own words, and what papers call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from stope._checks import shown

Objective = Literal["out", "in", "excl", "decoupled", "hardness", "pairwise", "sigmoid"]
_OF_PAPERS: dict[str, Objective] = {
    "infonce": "out",
    "supcon": "out",
    "dcl": "decoupled",
    "hcl": "hardness",
    "star": "pairwise",
    "siglip": "sigmoid",
}


def objective_of(name: Any) -> Any:
    """The objective's own word, also where its paper's name is given; others stay.

    >>> objective_of("STAR"), objective_of("out"), objective_of("stars")
    ('pairwise', 'out', 'stars')
    """
    return _OF_PAPERS.get(name.lower(), name) if isinstance(name, str) else name


def words_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a loss in stope's words: a paper's name may stand for two of them.

    >>> words_of({"objective": "DCLW", "positive_sigma": None})
    {'objective': 'decoupled', 'positive_sigma': 0.5}
    """
    named, sigma = dict(options), options.get("positive_sigma")
    name = named["objective"].lower() if isinstance(named.get("objective"), str) else None
    if name == "dcl" and sigma is not None:
        raise ValueError(
            f"objective is 'DCL' and positive_sigma is {shown(sigma)}, which is DCLW's; name that "
            "objective, or leave positive_sigma out"
        )
    if name == "dclw":
        named |= {"objective": "decoupled", "positive_sigma": 0.5 if sigma is None else sigma}
    return named
