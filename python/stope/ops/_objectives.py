"""The objectives of the contrastive loss: their own words, and what papers call them."""

from __future__ import annotations

from typing import Any, Literal

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
