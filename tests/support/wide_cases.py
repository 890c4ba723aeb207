"""Problems whose logits float32 cannot tell apart, with scores that no arithmetic rounds."""

from __future__ import annotations

import numpy as np

DIM = 8
# By name: options beside a metric of "dot" and a temperature of 1.
RULES = {
    "plain": {},
    "several positives": {"positives": [[i, i + 12] for i in range(12)]},
    "own hard negatives": {
        "hard_negatives": [[i + 12] for i in range(12)],
        "hard_negative_log_weight": 0.5,
        "hardness": "all_negatives",
        "hardness_strength": 0.25,
    },
    "log weights and limits": {"log_weights": np.linspace(-2, 2, 40), "relative_margin": 0.25},
    "all directions": {
        "directions": (
            "query_to_document",
            "query_to_query",
            "document_to_query",
            "document_to_document",
        )
    },
    "both ways": {
        "directions": ("query_to_document", "document_to_query"),
        "partition": "per_direction",
    },
    "focal": {"focal_margin": 0.5},
}
SINGLE = ("hardness", "pairwise")  # objectives of one positive


def goes_with(name, objective):
    several = name == "several positives" and objective in SINGLE
    return not several and not (name == "focal" and objective == "sigmoid")


def problem(size):
    """12 queries and 40 documents of small integers times `size`, a power of two, with copies."""
    rng = np.random.default_rng(7)
    queries = rng.integers(-4, 5, (12, DIM)).astype(np.float32) * np.float32(size)
    documents = rng.integers(-4, 5, (40, DIM)).astype(np.float32) * np.float32(size)
    documents[:12] = queries
    documents[20:26] = queries[:6]  # which score as their positives do
    return queries, documents
