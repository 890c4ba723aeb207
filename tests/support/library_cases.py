"""A model of fixed embeddings, a cross-encoder of fixed scores and a dataset of pairs."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np

import torch
from stope.encoders.versions import library_version

LIBRARY = int(library_version().partition(".")[0])


def unit(text, dim=12):
    """A vector of a text: three words' worth of direction, so that texts are alike and differ."""
    words = text.split()
    rows = []
    for word in words:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")
        rows.append(np.random.default_rng(seed).standard_normal(dim))
    vector = np.sum(rows, axis=0)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class FixedModel:
    """What sentence-transformers' functions ask of a model; counts the texts that it encodes."""

    device = torch.device("cpu")
    model_card_data = SimpleNamespace(base_model="fixed")

    def __init__(self, similarity="cosine", mark="fixed"):
        from sentence_transformers.util import SimilarityFunction

        self.similarity_fn_name = similarity
        self.similarity = SimilarityFunction.to_similarity_fn(similarity)
        self.similarity_pairwise = SimilarityFunction.to_similarity_pairwise_fn(similarity)
        self.asked, self.mark = [], mark

    def fingerprint(self):
        return self.mark

    def encode(self, texts, **options):
        self.asked.append((list(texts), options))
        return np.stack([unit(text) for text in texts])

    encode_query = encode_document = encode

    def get_embedding_dimension(self):
        return 12


class FixedCrossEncoder:
    """Scores a pair by its texts; keeps the pairs of every call."""

    def __init__(self):
        self.calls = []

    def predict(self, pairs, **options):
        self.calls.append(list(pairs))
        texts = [" ".join(pair).encode() for pair in pairs]
        numbers = [int.from_bytes(hashlib.sha256(text).digest()[:4], "little") for text in texts]
        return torch.tensor([number / 2**32 for number in numbers], dtype=torch.float32)


def a_dataset(queries=30, seed=0, most_positives=3, names=("question", "answer")):
    """Pairs of which some queries have several positives, some documents several queries."""
    import datasets

    rng = np.random.default_rng(seed)
    words = [f"w{i}" for i in range(25)]

    def text(prefix, length):
        return " ".join([prefix, *rng.choice(words, length)])

    documents = [text(f"d{i}", 4) for i in range(2 * queries)]
    rows = []
    for i in range(queries):
        query = text(f"q{i}", 3)
        for row in rng.choice(len(documents), rng.integers(1, most_positives + 1), replace=False):
            rows.append((query, documents[row]))
    rng.shuffle(rows)
    asked, answered = zip(*rows, strict=True)
    return datasets.Dataset.from_dict({names[0]: list(asked), names[1]: list(answered)})


def a_corpus(count=80, seed=9):
    rng = np.random.default_rng(seed)
    return [" ".join([f"c{i}", *(f"w{j}" for j in rng.integers(0, 25, 4))]) for i in range(count)]
