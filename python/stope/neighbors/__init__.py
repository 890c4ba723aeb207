"""Neighbours within a corpus: graphs, duplicates, and choosing data by similarity.

All decisions are those of exact scores. `neighbor_graph` makes sparse graphs (scipy, the extra
``neighbors``), `deduplicate`, `duplicate_groups` and `semdedup` find duplicates, and a selector
chooses rows: ``VoteK()(embeddings, budget)`` gives a `Selection`. `similarity_path` and `pack`
order documents. `KeptOperations` keeps answers in a folder, from which what was stopped goes on.
scikit-learn's transformer is `stope.neighbors.transformer`, torch gradients for
`GradientInfluence` are in `stope.neighbors.gradients`.
"""

from __future__ import annotations

from stope.neighbors.duplicates import (
    Deduplicated,
    DuplicateGroups,
    deduplicate,
    duplicate_groups,
)
from stope.neighbors.graph import (
    Components,
    connected_components,
    neighbor_graph,
    precomputed_knn,
)
from stope.neighbors.kept import KeptOperations
from stope.neighbors.ordering import Contexts, Path, pack, similarity_path, without_repeats
from stope.neighbors.prototypes import D4, Prototypes
from stope.neighbors.selection import (
    Coverage,
    FacilityLocation,
    KCenter,
    Quality,
    Selection,
    Selector,
    VoteK,
)
from stope.neighbors.semantic_duplicates import SemDeDup, semdedup
from stope.neighbors.targets import BenchmarkTargeted, CraftMix, Curate, GradientInfluence

__all__ = [
    "D4", "BenchmarkTargeted", "Components", "Contexts", "Coverage", "CraftMix", "Curate",
    "Deduplicated", "DuplicateGroups", "FacilityLocation", "GradientInfluence", "KCenter",
    "KeptOperations", "Path", "Prototypes", "Quality", "Selection", "Selector", "SemDeDup", "VoteK",
    "connected_components", "deduplicate", "duplicate_groups", "neighbor_graph", "pack",
    "precomputed_knn", "semdedup", "similarity_path", "without_repeats",
]  # fmt: skip
