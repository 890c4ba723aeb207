"""Valid calls of stope.scale."""

from __future__ import annotations

from stope.scale.plan import MACHINES, Search

WORK = Search(queries=10, corpus=1000, dim=8, k=2)


def calls():
    """The calls by name."""
    return {
        "stope.scale.plan.Search": {"queries": 10, "corpus": 1000, "dim": 8, "k": 2},
        "stope.scale.plan.Machine": {
            "name": "mine",
            "products": 1e12,
            "pass_bytes": 1e10,
            "memory": 2**34,
            "texts": 10.0,
        },
        "stope.scale.plan.layout": {"work": WORK, "memory": 2**34},
        "stope.scale.plan.predict": {"work": WORK, "machine": MACHINES["zen4-2"]},
    }
