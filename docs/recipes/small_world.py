"""A collection in two vocabularies: whoever trains on it learns which word answers which."""

import numpy as np

from stope.data import Pairs
from stope.evaluation import RetrievalEvaluation


def small_world(documents=200, concepts=30, seed=0):
    """Pairs to train on, and a judge with queries that were held out.

    A document names four concepts in its own words (word07 word21 ...), its query three of them in
    others (ask07 ask21 ...). Three quarters of the queries are for training.
    """
    random = np.random.default_rng(seed)
    chosen = [random.choice(concepts, 4, replace=False) for _ in range(documents)]
    texts = [" ".join(f"word{concept:02d}" for concept in some) for some in chosen]
    queries = [" ".join(f"ask{concept:02d}" for concept in some[:3]) for some in chosen]
    pairs = Pairs.from_texts(queries, texts)
    rows = np.arange(len(pairs.query_ids))
    asked = len(rows) * 3 // 4
    return pairs.take(rows[:asked]), RetrievalEvaluation.from_pairs(pairs, rows[asked:])
