"""What the tests of training's loss share: rows, pairs, live negatives, and the oracle.

The oracle is the full score matrix in float64 with its own formulas for the weights, and autograd.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import torch
from stope import weighting as w
from stope.data import Pairs
from stope.encoders import static_encoder
from stope.integrations.sentence_transformers import InfoNCECollator
from stope.integrations.sentence_transformers.columns import columns_of
from stope.integrations.sentence_transformers.row_table import RowTable

WORDS = ["iron", "copper", "silver", "granite", "basalt", "quartz", "coal"]
WORDS += ["marble", "slate", "gold", "tin", "lead", "zinc", "clay"]
QUERIES = [f"what is {word}" for word in WORDS]
POSITIVES = [f"{word} lies in the mine" for word in WORDS]
NEGATIVES = [[f"no {word} was found", f"{word} is a word"] for word in WORDS]
T = 0.2

# Queries 0 and 1 have two positives each; a document of nobody is only a negative.
PAIRS = Pairs.from_texts(
    [*QUERIES, QUERIES[0], QUERIES[1]],
    [*POSITIVES, "iron is heavy metal", POSITIVES[0]],
    [*POSITIVES, "iron is heavy metal", *(text for row in NEGATIVES for text in row)],
)
TABLE = RowTable.of_pairs(PAIRS)


class Live:
    """Negatives as training sees them: the table of one version, and what was asked and told."""

    version = 3

    def __init__(self, count=2, seed=0):
        offsets, ids = PAIRS.positives
        random = np.random.default_rng(seed)
        allowed = [
            np.setdiff1d(np.arange(len(PAIRS.corpus_texts)), ids[offsets[q] : offsets[q + 1]])
            for q in range(len(QUERIES))
        ]
        self.table = np.array([random.choice(ids, count, replace=False) for ids in allowed])
        self.asked, self.told = [], []

    def choose(self, queries, step):
        self.asked.append((queries.tolist(), step))
        return self.table[queries]

    def texts(self, ids):
        return [PAIRS.corpus_texts[row] for row in np.ravel(ids)]

    def observe(self, queries, ids, scores):
        self.told.append((queries.copy(), ids.copy(), scores.copy()))


class Prompts:
    """What a task says before its texts."""

    def query(self, source):
        return f"find {source}: "

    def document(self, source):
        return f"text {source}: "


@dataclasses.dataclass(frozen=True)
class Spy(w.Weighting, name="test_spy"):
    """Ones, and a look at the signals."""

    seen = []  # noqa: RUF012

    def __call__(self, signals, progress, *, processes=None):
        self.seen.append((dict(signals), progress))
        return torch.ones_like(signals["loss"])


def new_encoder():
    texts = [*QUERIES, *POSITIVES, *(text for row in NEGATIVES for text in row), "find text a: b"]
    return static_encoder(texts * 3, dim=24, vocab_size=250)


def read(model, texts):
    return (model.preprocess if hasattr(model, "preprocess") else model.tokenize)(list(texts))


def batch_of(model, rows, table=None, prompts=None):
    """(features, labels) as the trainer makes them of rows of a dataset."""

    batch = InfoNCECollator(model, rows=table, prompts=prompts)(rows)
    features = []
    for name in columns_of(rows[0]).texts:
        own = [key for key in batch if key.startswith(f"{name}_")]
        features.append({key.removeprefix(f"{name}_"): batch[key] for key in own})
    return features, batch["label"]


def rows_of(hard=2, **columns):
    found = []
    for i in range(len(WORDS)):
        row = {"query": QUERIES[i], "positive": POSITIVES[i]}
        row |= {f"negative_{k + 1}": NEGATIVES[i][k] for k in range(hard)}
        found.append(row | {name: values[i] for name, values in columns.items()})
    return found


def pair_rows(rows=range(14)):
    offsets, ids = PAIRS.positives
    assert len(TABLE) == offsets[-1] == 16
    return [
        {
            "query": PAIRS.query_texts[TABLE.query_of[row]],
            "positive": PAIRS.corpus_texts[ids[row]],
            "row": row,
        }
        for row in rows
    ]


def measured(model, loss, features, labels):
    model.zero_grad()
    value = loss(features, labels)
    value.backward()
    gradients = [p.grad.ravel().clone() for p in model.parameters() if p.grad is not None]
    return float(value.detach()), torch.cat(gradients).numpy()


# --- the oracle --------------------------------------------------------------------------------


def softmax_weights(logits):
    shares = np.exp(logits - logits.max())
    return shares / shares.sum() * len(logits)


def oracle_weights(name, signals, t):
    if name == "progressive":
        u = signals["hardness"]
        z = np.clip((u - u.mean()) / (u.std() + 1e-6), -3, 3)
        ramp = min(1.0, max(0.0, (t - 0.1) / 0.9))
        return softmax_weights((-1 + 2 * ramp) * z)
    if name == "dynamic":
        losses = signals["loss"]
        high, low = losses.max(), losses.min()
        h = 2 * (losses - (high + low) / 2) / max(high - low, 1e-6)
        return softmax_weights(np.minimum(h + 1, 1) / 0.4)
    if name == "focal":
        return (1 - np.exp(-signals["loss"])) ** 2
    assert name == "none"
    return np.ones_like(signals["loss"])


WEIGHTINGS = {
    "progressive": w.Progressive(),
    "dynamic": w.Dynamic(temperature=0.4),
    "focal": w.Focal(),
    "none": None,
}


def difficulty(scores, hidden):
    """Hardness of every row, from the scores of all documents and which are no negatives."""
    rows, columns = scores.shape
    own = torch.eye(rows, columns, dtype=torch.bool)
    best = scores.masked_fill(hidden | own, -math.inf).max(dim=1).values - scores.diagonal()
    hard = best.clone()
    for i in range(rows):
        free = [scores[i, j] for j in range(i + rows, columns, rows) if not hidden[i, j]]
        if free:
            hard[i] = sum(free) / len(free) - scores[i, i]
    return {"hardness": hard.numpy(), "best_hardness": best.numpy()}


def oracle(model, columns, name="none", t=0.0, data=None, masks=None, symmetric=False, dims=None):
    """(value, gradient, signals): every pair's score, float64.

    columns: texts, query first. data: weights of the rows. masks: pairs that are no negatives of
    each other, in both directions.
    """
    model.zero_grad()
    embedded = [model(read(model, texts))["sentence_embedding"].double() for texts in columns]
    rows = len(columns[0])
    total, weights, signals = 0.0, None, {}
    for dim in dims or [embedded[0].shape[1]]:
        queries, *documents = (
            torch.nn.functional.normalize(rows[:, :dim], dim=1) for rows in embedded
        )
        scores = queries @ torch.cat(documents).T
        own = torch.eye(rows, scores.shape[1], dtype=torch.bool)
        hidden = torch.zeros_like(own) if masks is None else torch.as_tensor(masks) & ~own
        logits = (scores / T).masked_fill(hidden, -math.inf)
        losses = logits.logsumexp(dim=1) - logits.diagonal()
        if symmetric:
            square = (scores / T)[:, :rows]
            square = square.masked_fill(hidden[:, :rows], -math.inf)
            losses = (losses + square.logsumexp(dim=0) - square.diagonal()) / 2
        if weights is None:
            signals = {"loss": losses.detach().numpy(), **difficulty(scores.detach(), hidden)}
            weights = oracle_weights(name, signals, t) * (1.0 if data is None else np.array(data))
        given = torch.from_numpy(weights)
        total = total + (given * losses).sum() / given.sum()
    total.backward()
    gradients = [p.grad.ravel().clone() for p in model.parameters() if p.grad is not None]
    return float(total.detach()), torch.cat(gradients).numpy(), signals | {"weights": weights}


def same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=2e-5)
    scale = np.abs(expected[1]).max()
    assert scale > 1e-4
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4 * scale)


def texts_of(rows):
    return [[row[name] for row in rows] for name in columns_of(rows[0]).texts]


def pair_masks(columns, rows):
    """Which documents are a positive of the row's query."""
    offsets, ids = PAIRS.positives
    texts = [text for column in columns[1:] for text in column]
    found = np.zeros((len(rows), len(texts)), bool)
    for i, row in enumerate(rows):
        query = TABLE.query_of[row["row"]]
        own = {PAIRS.corpus_texts[d] for d in ids[offsets[query] : offsets[query + 1]]}
        found[i] = [text in own for text in texts]
    return found
