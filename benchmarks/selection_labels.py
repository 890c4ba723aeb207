"""NNOSE's interpolation on titles of jobs: a label is an occupation, a title's neighbours vote.

p = lambda p_kNN + (1 - lambda) p_model (docs/methods.md, F9), on MiniLM's embeddings in place of
the hidden states of a tagger. The classifier is linear. dev chooses its rate, and lambda and the
temperature; test is read once. A title of several occupations is right with any of them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

import stope
import torch
from stope.data import Collection
from trained import against, averaged, evaluation_of

K = 32
WEIGHTS = tuple(round(0.1 * tenth, 1) for tenth in range(11))
TEMPERATURES = (0.03, 0.1, 0.3, 1.0)
RATES = (0.01, 0.03)
RARE = 5  # training titles of an occupation at most
STEPS, BATCH = 200, 512


class Titles(NamedTuple):
    """Embedded titles with the occupations that are right for each, the first one to train on."""

    names: list[str]
    rows: np.ndarray
    right: list[list[int]]

    @property
    def labels(self) -> np.ndarray:
        """The occupation to train on."""
        return np.array([some[0] for some in self.right])

    def take(self, rows: np.ndarray) -> Titles:
        """Some of them."""
        picked = [self.names[row] for row in rows], self.rows[rows], [self.right[r] for r in rows]
        return Titles(*picked)


def drawn(collection: Collection, split: str, limit: int) -> tuple[list[str], list[str], list[Any]]:
    """Ids, texts and occupations (rows of the corpus) of at most so many titles of a split."""
    place = {name: row for row, name in enumerate(collection.corpus_ids)}
    whole = collection.split(split)
    rows = np.sort(np.random.default_rng(0).permutation(len(whole))[:limit])
    right = whole.positives()
    return (
        [whole.query_ids[row] for row in rows],
        [whole.query_texts[row] for row in rows],
        [[place[name] for name in right[row]] for row in rows],
    )


def classifier(train: Titles, classes: int, rate: float, seed: int) -> Any:
    """A linear softmax; returns a function from embeddings to probabilities."""
    torch.manual_seed(seed)
    model = torch.nn.Linear(train.rows.shape[1], classes)
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    rows, labels = torch.tensor(train.rows), torch.tensor(train.labels)
    for _ in range(round(STEPS * BATCH / len(rows))):
        for part in torch.randperm(len(rows)).split(BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(rows[part]), labels[part]).backward()
            optimizer.step()

    def probabilities(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor(x)).softmax(dim=1).numpy().astype(np.float64)

    return probabilities


def whitened(store: np.ndarray) -> Any:
    """(x - mean) U / sqrt(s), of length one: a function of rows, from those of the datastore."""
    u, s, _ = np.linalg.svd(np.cov(store, rowvar=False))
    mean, turn = store.mean(axis=0), u / np.sqrt(s + 1e-6)

    def of(x: np.ndarray) -> np.ndarray:
        made = (x - mean) @ turn
        return np.float32(made / np.linalg.norm(made, axis=1, keepdims=True))

    return of


def votes(nearest: Any, labels: np.ndarray, classes: int, temperature: float) -> np.ndarray:
    """p_kNN ``[queries, classes]``: a softmax over minus the squared distances, by label."""
    squared = nearest.scores.astype(np.float64) ** 2
    shares = np.exp(-(squared - squared.min(axis=1, keepdims=True)) / temperature)
    shares /= shares.sum(axis=1, keepdims=True)
    made = np.zeros((len(squared), classes))
    np.add.at(made, (np.arange(len(squared))[:, None], labels[nearest.ids]), shares)
    return made


def right(probabilities: np.ndarray, titles: Titles) -> dict[str, float]:
    """1 for each title whose likeliest occupation is right, else 0."""
    best = probabilities.argmax(axis=1)
    pairs = zip(titles.names, best, titles.right, strict=True)
    return {name: float(label in known) for name, label, known in pairs}


def accuracy(probabilities: np.ndarray, titles: Titles) -> float:
    """The share of titles that are labelled right."""
    return float(np.mean(list(right(probabilities, titles).values())))


def measure(
    train: Titles, dev: Titles, test: Titles, classes: int, shares: list[float], seeds: int
) -> list[dict[str, Any]]:
    """The classifier alone, neighbours alone and both; the store holds all of the training titles.

    `shares` says how much of them the classifier is trained on.
    """
    white = whitened(train.rows)
    stored = white(train.rows)
    nearest = {
        name: stope.topk(white(titles.rows), stored, K, metric="euclidean")
        for name, titles in (("dev", dev), ("test", test))
    }
    frequent = np.bincount(train.labels, minlength=classes) > RARE
    rare = [name for name, some in zip(test.names, test.right, strict=True)
            if not frequent[some].any()]  # fmt: skip
    rows = []
    for share in shares:
        reached: dict[str, list[dict[str, float]]] = {}
        chosen = []
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(len(train.names))
            few = train.take(order[: round(share * len(order))])
            models = [classifier(few, classes, rate, seed) for rate in RATES]
            model = max(models, key=lambda one: accuracy(one(dev.rows), dev))
            alone = {"dev": model(dev.rows), "test": model(test.rows)}
            tried = {}
            for temperature in TEMPERATURES:
                voted = votes(nearest["dev"], train.labels, classes, temperature)
                for weight in WEIGHTS:
                    mixed = weight * voted + (1 - weight) * alone["dev"]
                    tried[weight, temperature] = accuracy(mixed, dev)
            weight, temperature = max(tried, key=tried.__getitem__)
            neighbours = max(TEMPERATURES, key=lambda one: tried[1.0, one])
            chosen.append([weight, temperature])
            for name, mixed in {
                "classifier": alone["test"],
                "neighbours": votes(nearest["test"], train.labels, classes, neighbours),
                "both": weight * votes(nearest["test"], train.labels, classes, temperature)
                + (1 - weight) * alone["test"],
            }.items():
                reached.setdefault(name, []).append(right(mixed, test))
        for group, names in {"all": test.names, "rare": rare}.items():
            if len(names) < 2:
                continue
            each = {
                name: [evaluation_of({one: some[one] for one in names}) for some in values]
                for name, values in reached.items()
            }
            baseline = averaged(each["classifier"])
            rows += [
                {
                    "share": share,
                    "titles": group,
                    "count": len(names),
                    "method": name,
                    "chosen": chosen if name == "both" else None,
                    **against(baseline, values, []),
                }
                for name, values in each.items()
            ]
    return rows
