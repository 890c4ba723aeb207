"""Valid calls of stope.scale, as valid_calls.py has them."""

from __future__ import annotations

import frameworks
import numpy as np
from valid_mining_calls import CORPUS, QUERIES, TEXTS

import stope
from encoders import HashEncoder
from stope.scale import shards
from stope.scale.plan import MACHINES, Search, predict
from stope.scale.simulation import Conditions

# What needs a cluster, or is of one; tests/scale/test_ray.py gives it wrong arguments.
_ON_RAY = "Answer Cluster Operations dedup encode kmeans knn_graph mine topk"
ON_RAY = {f"stope.scale.ray.{name}" for name in _ON_RAY.split() if frameworks.is_here("ray")}
WORK = Search(queries=10, corpus=1000, dim=8, k=2)


def calls(folder):
    """The calls by name."""
    answer, numbers = shards.topk_part(QUERIES, CORPUS, 2, 0), np.arange(3)
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
        "stope.scale.rates.measure": {"dim": 768, "folder": folder, "memory": 2**34},
        "stope.scale.rates.texts_per_second": {"encoder": HashEncoder(8), "sample": TEXTS},
        "stope.scale.simulation.Conditions": {},
        "stope.scale.simulation.simulate": {
            "tasks": 4,
            "workers": 2,
            "seconds": 5.0,
            "conditions": Conditions(),
        },
        "stope.scale.simulation.sweep": {
            "plan": predict(WORK, MACHINES["zen4-2"]),
            "conditions": Conditions(),
            "runs": 2,
        },
        "stope.scale.plan.predict": {"work": WORK, "machine": MACHINES["zen4-2"]},
        "stope.scale.shards.NegativeSearch": {
            "positives": numbers,
            "corpus_rows": len(CORPUS),
            "num_negatives": 2,
            "absolute_margin": 0.1,
            "relative_margin": 0.1,
            "max_score": 1.0,
            "min_score": -1.0,
            "range_max": 4,
            "most_positives": 1,
        },
        "stope.scale.shards.earlier_part": {
            "x": QUERIES,
            "x_start": 90,
            "earlier": CORPUS,
            "start": 0,
            "threshold": 0.5,
        },
        "stope.scale.shards.KMeansShard": {"x": CORPUS},
        "stope.scale.shards.kmeans": {
            "shards": [shards.KMeansShard(CORPUS)],
            "k": 2,
            "init": "random",
        },
        "stope.scale.shards.knn_part": {
            "rows": QUERIES,
            "shard": CORPUS,
            "k": 2,
            "row_start": 90,
            "start": 0,
        },
        "stope.scale.shards.merge_earlier": {
            "parts": [stope.TopK(answer.scores[:, 0], answer.ids[:, 0])]
        },
        "stope.scale.shards.merge_pairs": {
            "parts": [stope.PairsAbove(numbers, numbers + 1, np.ones(3, np.float32))],
            "max_pairs": 9,
        },
        "stope.scale.shards.merge_topk": {"parts": [answer], "k": 2},
        "stope.scale.shards.named": {"ids": numbers, "names": [["a"], ["b", "c"]]},
        "stope.scale.shards.pairs_part": {
            "x": QUERIES,
            "x_start": 90,
            "y": CORPUS,
            "y_start": 0,
            "threshold": 0.5,
            "max_pairs": 99,
        },
        "stope.scale.shards.topk_part": {
            "queries": QUERIES,
            "shard": CORPUS,
            "k": 2,
            "start": 0,
            "exclude": [[0], [], []],
        },
    }
