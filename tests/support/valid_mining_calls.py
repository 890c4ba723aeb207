"""Valid calls of `stope.mining`, and the data that those of other rooms use as well."""

from __future__ import annotations

import numpy as np

from stope import data, mining

rng = np.random.default_rng(0)
QUERIES = rng.standard_normal((3, 8), dtype=np.float32)
CORPUS = rng.standard_normal((6, 8), dtype=np.float32)
TEXTS = ["iron ore", "copper ore", "a silver mine", "old rock", "deep shaft", "the sea"]


def pairs():
    return data.Pairs.from_texts(TEXTS[:3], TEXTS[3:], TEXTS)


def mined():
    return mining.mine(pairs(), query_embeddings=QUERIES, corpus_embeddings=CORPUS, num_negatives=2)


def teacher(rows):
    return [float(len(document)) for _, document in rows]


def calls(folder, trec):
    """Keyword arguments by name; folder is new, trec is a run of one document."""
    run = {"q1": {"d1": 0.5}}
    return {
        "stope.mining.Limits": {
            "absolute_margin": 0.1,
            "relative_margin": 0.1,
            "max_score": 1.0,
            "min_score": -1.0,
            "range_max": 4,
        },
        "stope.mining.MiningJob": {
            "folder": folder / "job",
            "pairs": pairs(),
            "query_embeddings": QUERIES,
            "corpus_embeddings": CORPUS,
            "teacher": teacher,
            "teacher_margin": 0.1,
            "near_positive": 0.9,
        },
        "stope.mining.SimANS": {},
        "stope.mining.Sources": {"quotas": {"dense": 1, "run": 1}, "run": run},
        "stope.mining.TeacherMargin": {},
        "stope.mining.Top": {},
        "stope.mining.Uniform": {},
        "stope.mining.Window": {"last": 3},
        "stope.mining.consistency_filter": {
            "pairs": pairs(),
            "query_embeddings": QUERIES,
            "corpus_embeddings": CORPUS,
            "num_documents": 3,
        },
        "stope.mining.copies_of_positives": {"pairs": pairs()},
        "stope.mining.near_positives": {
            "pairs": pairs(),
            "corpus_embeddings": CORPUS,
            "threshold": 0.9,
        },
        "stope.mining.lexical_candidates": {"pairs": pairs(), "pool": 2, "queries": [0, 1, 2]},
        "stope.mining.merge_sources": {
            "lists": [np.array([[0, 1]]), np.array([[2, 3]])],
            "quotas": [1, 1],
        },
        "stope.mining.mine": {
            "pairs": pairs(),
            "query_embeddings": QUERIES,
            "corpus_embeddings": CORPUS,
            "num_negatives": 2,
            "absolute_margin": 0.1,
            "relative_margin": 0.1,
            "max_score": 1.0,
            "min_score": -1.0,
        },
        "stope.mining.mixed_negatives": {"mined": mined(), "quotas": {"dense": 1, "random": 1}},
        "stope.mining.Spread": {},
        "stope.mining.load_teacher": {"name_or_path": trec},
        "stope.mining.sampling_names": {},
        "stope.mining.teacher_filter": {
            "scored": mining.teacher_scores(mined(), teacher),
            "relative_margin": 0.1,
            "absolute_margin": 0.1,
            "max_score": 9.0,
            "min_score": -9.0,
        },
        "stope.mining.teacher_scores": {"mined": mined(), "teacher": teacher},
    }
