"""One valid call of every public function and class of `stope.neighbors`."""

from __future__ import annotations

import tempfile

import numpy as np

from stope import neighbors

ROWS = np.random.default_rng(0).standard_normal((6, 8), dtype=np.float32)


def calls():
    graph = neighbors.neighbor_graph(ROWS, 2)
    return {
        "stope.neighbors.BenchmarkTargeted": {"targets": ROWS[:2]},
        "stope.neighbors.Coverage": {
            "query_tokens": ROWS[:3],
            "offsets": [0, 2, 5, 6],
            "weights": [1.0, 2.0, 0.5],
        },
        "stope.neighbors.CraftMix": {"few_shots": ROWS[:2]},
        "stope.neighbors.Curate": {"targets": ROWS[:2]},
        "stope.neighbors.D4": {"clusters": 2},
        "stope.neighbors.FacilityLocation": {},
        "stope.neighbors.GradientInfluence": {
            "validation": ROWS[:2],
            "subtasks": [0, 1],
            "rates": [1.0],
        },
        "stope.neighbors.KCenter": {},
        "stope.neighbors.KeptOperations": {"folder": tempfile.mkdtemp(), "block": 100},
        "stope.neighbors.Prototypes": {"clusters": 2},
        "stope.neighbors.Quality": {"scorer": [0.5, 0.25]},
        "stope.neighbors.VoteK": {},
        "stope.neighbors.connected_components": {"graph": graph},
        "stope.neighbors.deduplicate": {"x": ROWS, "threshold": 0.5, "order": [5, 4, 3, 2, 1, 0]},
        "stope.neighbors.duplicate_groups": {"x": ROWS, "threshold": 0.5},
        "stope.neighbors.neighbor_graph": {"x": ROWS, "k": 2},
        "stope.neighbors.pack": {"order": [1, 0], "lengths": [3, 4], "context_length": 5},
        "stope.neighbors.precomputed_knn": {"x": ROWS, "n_neighbors": 3},
        "stope.neighbors.semdedup": {"x": ROWS, "epsilon": 0.5, "mode": "greedy"},
        "stope.neighbors.similarity_path": {"x": ROWS},
        "stope.neighbors.without_repeats": {"order": [0, 1], "documents": ["ore", "rock"]},
    }
