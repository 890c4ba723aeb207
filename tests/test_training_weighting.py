"""Weights by difficulty, live negatives and Matryoshka dims in training's loss, against torch.

The oracle is the full score matrix in float64 with its own formulas for the weights, and autograd.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from small_transformers import tiny  # noqa: E402
from stope import weighting as w  # noqa: E402
from stope.mining import Pairs  # noqa: E402
from stope.torch import InfoNCELoss, SigmoidLoss  # noqa: E402
from stope.torch.distributed import DistributedInfoNCELoss, average_gradients  # noqa: E402
from stope.training import contrastive_loss, static_encoder  # noqa: E402
from stope.training._clock import Clock  # noqa: E402
from stope.training._fused_loss import Batches  # noqa: E402
from stope.training._rows import RowTable, check_columns, columns_of, text_numbers  # noqa: E402
from stope.training._signals import check_weighting  # noqa: E402

HERE = Path(__file__).resolve().parent
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


@pytest.fixture
def encoder():
    return new_encoder()


def new_encoder():
    texts = [*QUERIES, *POSITIVES, *(text for row in NEGATIVES for text in row), "find text a: b"]
    return static_encoder(texts * 3, dim=24, vocab_size=250)


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    return tiny(
        tmp_path_factory.mktemp("tiny"), words=[*WORDS, "what", "is", "no", "was", "found", "a"]
    )


def read(model, texts):
    return (model.preprocess if hasattr(model, "preprocess") else model.tokenize)(list(texts))


def batch_of(model, rows, table=None, prompts=None):
    """(features, labels) as the trainer makes them of rows of a dataset."""

    def collate(kept):
        return {
            f"{name}_{key}": value
            for name in kept[0]
            for key, value in read(model, [row[name] for row in kept]).items()
        }

    collate.valid_label_columns = ["label"]
    batch = Batches(collate, table, prompts)(rows)
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


def oracle(
    model,
    columns,
    name="none",
    t=0.0,
    data=None,
    masks=None,
    symmetric=False,
    dims=None,
    backward=None,
):
    """(value, gradient, signals): every pair's score, float64. masks: pairs that are no negatives.

    columns: texts, query first. data: weights of the rows. backward: masks from documents to
    queries, where they are others.
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
            square = square.masked_fill(
                hidden[:, :rows] if backward is None else torch.as_tensor(backward), -math.inf
            )
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


# --- weights -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WEIGHTINGS)
@pytest.mark.parametrize("hard", [0, 2])
@pytest.mark.parametrize("weighted", [False, True])
def test_value_and_gradient_are_those_of_torch(encoder, name, hard, weighted):
    data = [float(1 + i % 4) for i in range(14)] if weighted else None
    rows = rows_of(hard, **({"weight": data} if weighted else {}))
    for step in (0, 55, 100):
        loss = contrastive_loss(
            encoder, temperature=T, weighting=WEIGHTINGS[name], clock=Clock(step, 100)
        )
        found = measured(encoder, loss, *batch_of(encoder, rows))
        same(found, oracle(encoder, texts_of(rows), name, step / 100, data))


def test_weights_change_with_progress(encoder):
    rows = rows_of(2)
    clock, by_loss = Clock(0, 10), {"name": "progressive", "signal": "loss"}
    loss = contrastive_loss(encoder, temperature=T, weighting=by_loss, clock=clock)
    batch = batch_of(encoder, rows)
    values = []
    for clock.step in (0, 10):
        values.append(float(loss(*batch).detach()))
    assert values[0] < values[1]  # easy rows first, hard ones later
    assert loss.clock is clock


@pytest.mark.parametrize("symmetric", [False, True])
def test_both_directions(encoder, symmetric):
    loss = contrastive_loss(encoder, temperature=T, weighting=w.Focal(), symmetric=symmetric)
    rows = rows_of(2)
    found = measured(encoder, loss, *batch_of(encoder, rows))
    same(found, oracle(encoder, texts_of(rows), "focal", symmetric=symmetric))


def test_kappa_zero_is_the_loss_without_weights(encoder):
    batch = batch_of(encoder, rows_of(2))
    plain = measured(encoder, contrastive_loss(encoder, temperature=T), *batch)
    flat = w.Progressive(first=0.0, last=0.0)
    found = measured(encoder, contrastive_loss(encoder, temperature=T, weighting=flat), *batch)
    assert found[0] == plain[0]
    assert np.array_equal(found[1], plain[1])


def test_the_signals_are_what_they_are_called(encoder):
    easiness = [i / 13 for i in range(14)]
    rows = rows_of(2, easiness=easiness, weight=[2.0] * 14)
    rows[3]["negative_1"] = rows[3]["negative_2"] = rows[3]["positive"]  # none of its own is left
    rows[4]["negative_2"] = rows[4]["positive"]  # one is left
    masks = np.zeros((14, 42), bool)
    masks[3, [3 + 14, 3 + 28]] = masks[4, 4 + 28] = True
    Spy.seen.clear()
    loss = contrastive_loss(encoder, temperature=T, weighting=Spy(), clock=Clock(1, 4))
    loss(*batch_of(encoder, rows))
    ((signals, progress),) = Spy.seen
    _, _, exact = oracle(encoder, texts_of(rows), masks=masks)
    assert progress == 0.25
    assert set(signals) == {
        "loss", "log_sum_exp", "rank", "best_hardness", "hardness", "easiness", "weight",
    }  # fmt: skip
    for name in ("loss", "hardness", "best_hardness"):
        np.testing.assert_allclose(signals[name].numpy(), exact[name], atol=2e-6)
    assert signals["hardness"][3] == signals["best_hardness"][3]
    assert (signals["hardness"] != signals["best_hardness"]).sum() == 13
    np.testing.assert_allclose(signals["easiness"], np.float32(easiness))


def test_a_batch_of_weights_zero_teaches_nothing(encoder):
    loss = contrastive_loss(encoder, temperature=T)
    value, gradient = measured(encoder, loss, *batch_of(encoder, rows_of(0, weight=[0.0] * 14)))
    assert value == 0
    assert not gradient.any()
    assert loss.observed["weight_max"] == 0
    loss = contrastive_loss(encoder, temperature=T, weighting=w.Product([Spy(), w.Focal()]))
    value, gradient = measured(encoder, loss, *batch_of(encoder, rows_of(0, weight=[0.0] * 14)))
    assert value == 0
    assert not gradient.any()


def test_what_is_observed(encoder):
    rows = rows_of(2)
    rows[4]["negative_2"] = rows[5]["positive"]
    masks = np.zeros((14, 42), bool)
    masks[5, 28 + 4] = True
    loss = contrastive_loss(encoder, temperature=T, weighting=w.Focal())
    value = loss(*batch_of(encoder, rows))
    expected, _, exact = oracle(encoder, texts_of(rows), "focal", masks=masks)
    seen = loss.observed
    json.dumps(seen, allow_nan=False)
    assert seen["loss"] == float(value.detach()) == pytest.approx(expected, rel=1e-5)
    weights, hardness = exact["weights"], exact["hardness"]
    for key, share in {"min": 0, "p10": 0.1, "p50": 0.5, "p90": 0.9, "max": 1}.items():
        assert seen[f"weight_{key}"] == pytest.approx(np.quantile(weights, share), rel=1e-4)
        assert seen[f"hardness_{key}"] == pytest.approx(np.quantile(hardness, share), abs=1e-5)
    assert seen["weight_mean"] == pytest.approx(weights.mean(), rel=1e-4)
    effective = weights.sum() ** 2 / (weights**2).sum() / 14
    assert seen["weight_effective"] == pytest.approx(effective, rel=1e-4)
    assert seen["false_negatives"] == pytest.approx(1 / (14 * 41))
    assert 1 <= seen["mean_rank"] <= 42
    assert 0 <= seen["first_rank"] <= 1
    plain = contrastive_loss(encoder, temperature=T, symmetric=True)
    plain(*batch_of(encoder, rows_of(2)))
    assert plain.observed["false_negatives"] == 0
    assert not [name for name in plain.observed if name.startswith("weight")]


# --- mini-batches and Matryoshka dims ----------------------------------------------------------


def test_matryoshka_is_the_sum_over_shorter_embeddings(encoder):
    rows = rows_of(2)
    loss = contrastive_loss(
        encoder, temperature=T, weighting=w.Focal(), matryoshka_dims=(24, 12, 5)
    )
    found = measured(encoder, loss, *batch_of(encoder, rows))
    same(found, oracle(encoder, texts_of(rows), "focal", dims=(24, 12, 5)))
    parts = [loss.observed[f"loss_{dim}"] for dim in (24, 12, 5)]
    assert sum(parts) == pytest.approx(found[0], rel=1e-6)
    assert loss.infonce.statistics.losses.mean() != pytest.approx(parts[2], rel=1e-3)
    weighted = contrastive_loss(
        encoder, temperature=T, weighting=w.Focal(), matryoshka_dims=(24, 12, 5),
        matryoshka_weights=(1, 0.5, 0.25),
    )  # fmt: skip
    value, _ = measured(encoder, weighted, *batch_of(encoder, rows))
    assert value == pytest.approx(parts[0] + parts[1] / 2 + parts[2] / 4, rel=1e-5)


@pytest.mark.parametrize("size", [1, 5, 32])
def test_mini_batches_change_nothing(transformer, size):
    options = {"temperature": T, "weighting": "progressive", "matryoshka_dims": (16, 8)}
    clock, rows = Clock(9, 10), pair_rows()
    found = []
    for extra in ({}, {"mini_batch_size": size}):
        live = Live()
        loss = contrastive_loss(
            transformer, clock=clock, negatives=live, table=TABLE, **options, **extra
        )
        batch = batch_of(transformer, [row | {"weight": 1.0 + row["row"]} for row in rows], TABLE)
        found.append((measured(transformer, loss, *batch), loss.observed, live))
    (whole, seen, live), (parts, also, other) = found
    same(parts, whole)
    assert also == pytest.approx(seen, rel=1e-4, abs=1e-5)
    np.testing.assert_allclose(other.told[0][2], live.told[0][2], atol=1e-5)
    assert live.asked == other.asked == [(TABLE.query_of[:14].tolist(), 9)]


# --- live negatives ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("live", [False, True])
def test_no_positive_of_the_query_is_a_negative(encoder, live, symmetric):
    rows = pair_rows(range(16))
    columns = texts_of(rows)
    negatives = Live() if live else None
    if live:
        chosen = negatives.table[TABLE.query_of[:16]]
        columns += [negatives.texts(ids) for ids in chosen.T]
    masks = pair_masks(columns, rows)
    assert masks.sum() > 16 + 4
    loss = contrastive_loss(
        encoder, temperature=T, weighting=w.Focal(), negatives=negatives, table=TABLE,
        symmetric=symmetric,
    )  # fmt: skip
    found = measured(encoder, loss, *batch_of(encoder, rows, TABLE))
    # From documents to queries only queries with the same positive are left out.
    backward = np.array([[a["positive"] == b["positive"] for a in rows] for b in rows])
    np.fill_diagonal(backward, False)
    same(
        found,
        oracle(encoder, columns, "focal", masks=masks, symmetric=symmetric, backward=backward),
    )


def test_live_negatives_are_negatives_like_any(encoder):
    rows, live = pair_rows(), Live()
    loss = contrastive_loss(
        encoder, temperature=T, weighting="progressive", clock=Clock(7, 10), negatives=live,
        table=TABLE,
    )  # fmt: skip
    found = measured(encoder, loss, *batch_of(encoder, rows, TABLE))
    queries = TABLE.query_of[:14]
    assert live.asked == [(queries.tolist(), 7)]
    columns = [live.texts(ids) for ids in live.table[queries].T]
    fixed = [
        {**row, "negative_1": a, "negative_2": b} for row, a, b in zip(rows, *columns, strict=True)
    ]
    given = contrastive_loss(
        encoder, temperature=T, weighting="progressive", clock=Clock(7, 10), table=TABLE
    )
    expected = measured(encoder, given, *batch_of(encoder, fixed, TABLE))
    assert found[0] == expected[0]
    np.testing.assert_array_equal(found[1], expected[1])
    ((told, ids, scores),) = live.told
    assert told.tolist() == queries.tolist()
    assert np.array_equal(ids, live.table[queries])
    assert scores.dtype == np.float32
    with torch.no_grad():
        left, *right = (encoder.encode(texts) for texts in (texts_of(rows)[0], *columns))
    exact = np.stack([(left * one).sum(1) for one in right], 1)
    np.testing.assert_allclose(scores, exact, atol=1e-5)
    assert loss.observed["negatives_version"] == 3


def test_prompts_come_before_texts(encoder):
    rows, live = [row | {"source": "a"} for row in pair_rows()], Live(1)
    seen = []
    real = encoder[0].preprocess if hasattr(encoder[0], "preprocess") else encoder[0].tokenize
    name = "preprocess" if hasattr(encoder[0], "preprocess") else "tokenize"

    def spy(inputs, *args, **options):
        seen.append(list(inputs))
        return real(inputs, *args, **options)

    encoder[0].__dict__[name] = spy
    loss = contrastive_loss(encoder, temperature=T, negatives=live, table=TABLE, prompts=Prompts())
    features, labels = batch_of(encoder, rows, TABLE, Prompts())
    value = float(loss(features, labels).detach())
    assert seen[0] == [f"find a: {text}" for text in texts_of(rows)[0]]
    assert seen[1] == [f"text a: {text}" for text in texts_of(rows)[1]]
    live_texts = live.texts(live.table[TABLE.query_of[:14]][:, 0])
    assert seen[2] == [f"text a: {text}" for text in live_texts]
    assert labels["document_ids"].tolist() == TABLE.positive_numbers[:14].tolist()
    assert labels["sources"] == ["a"] * 14
    plain = contrastive_loss(encoder, temperature=T, negatives=Live(1), table=TABLE)
    assert float(plain(features, labels).detach()) != value


# --- bad input ---------------------------------------------------------------------------------


def test_refused(encoder):
    with pytest.raises(ValueError, match="name is 'progresive'; there are the weightings"):
        contrastive_loss(encoder, weighting="progresive")
    with pytest.raises(ValueError, match="weighting 'teacher' reads the signal 'teacher_confid"):
        check_weighting(w.Teacher())
    with pytest.raises(ValueError, match=r"easiness\[1\] is 2; give numbers of"):
        check_weighting("answer_ranking", {"easiness": [0.5, 2.0]})
    assert check_weighting({"name": "rank_cutoff", "top": 3}) == w.RankCutoff(3)
    loss = contrastive_loss(encoder, weighting=w.Teacher())
    with pytest.raises(ValueError, match=r"'teacher_confidence', but signals has loss, log_sum"):
        loss(*batch_of(encoder, rows_of(0)))
    with pytest.raises(ValueError, match="negatives are given without a table of pairs"):
        contrastive_loss(encoder, negatives=Live())
    with pytest.raises(ValueError, match='of this loss with a column "row"'):
        contrastive_loss(encoder, negatives=Live(), table=TABLE)(*batch_of(encoder, rows_of(0)))
    for dims, said in {
        (): r"matryoshka_dims is \(\)", (24, 24): "that descend", (24, 0): "of at least 1",
        (48, 24): "starts with 48, but the model's embeddings have 24; start with 24",
        (12, 6): "starts with 12",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=said):
            contrastive_loss(encoder, matryoshka_dims=dims)
    with pytest.raises(ValueError, match="matryoshka_weights has 1 numbers for 2 dims"):
        contrastive_loss(encoder, matryoshka_dims=(24, 12), matryoshka_weights=[1])
    with pytest.raises(ValueError, match="give finite numbers above 0"):
        contrastive_loss(encoder, matryoshka_dims=(24, 12), matryoshka_weights=[1, 0])
    with pytest.raises(ValueError, match="without matryoshka_dims"):
        contrastive_loss(encoder, matryoshka_weights=[1])
    features, _ = batch_of(encoder, rows_of(0))
    with pytest.raises(ValueError, match="document_ids has 3 numbers for 14 documents"):
        contrastive_loss(encoder)(features, {"document_ids": torch.arange(3)})


# --- rows --------------------------------------------------------------------------------------


def test_columns_by_what_they_are():
    datasets = pytest.importorskip("datasets")
    columns = {
        "weight": [1.0, 2.0], "query": ["a", "b"], "positive": ["x", "y"], "easiness": [0.5, 1.0],
        "source": ["s", "t"], "row": [1, 0], "negative": ["y", "x"], "bm25": [3, 4],
    }  # fmt: skip
    found = check_columns(datasets.Dataset.from_dict(columns))
    assert found.texts == ("query", "positive", "negative")
    assert found.signals == ("easiness", "bm25")
    assert found.weight
    assert found.row
    assert found.source
    for name, values, said in [
        ("weight", [1.0, -1.0], 'has the weight -1.0 in row 1; the column "weight" holds'),
        ("easiness", [0.5, float("nan")], 'has nan in row 1 of the column "easiness", a signal'),
        ("easiness", [0.5, None], 'has None in row 1 of the column "easiness", a signal'),
        ("positive", ["x", None], 'has None in row 1 of the column "positive"; give a text'),
        ("source", [0.5, 1.5], "has the source 0.5 in row 0"),
    ]:
        with pytest.raises(ValueError, match=said):
            check_columns(datasets.Dataset.from_dict({**columns, name: values}))
    with pytest.raises(ValueError, match=r"only the text column \['query'\]"):
        check_columns(datasets.Dataset.from_dict({"query": ["a"], "easiness": [0.5]}))


def test_the_table_of_rows():
    assert TABLE.query_of.tolist() == np.repeat(np.arange(14), np.diff(PAIRS.positives[0])).tolist()
    named = RowTable.of_pairs(PAIRS, ["b", "a"] * 7)
    assert named.source_names == ("a", "b")
    assert named.sources.tolist() == [1 - q % 2 for q in TABLE.query_of.tolist()]
    with pytest.raises(ValueError, match="sources has 2 names for 14 queries"):
        RowTable.of_pairs(PAIRS, ["a", "b"])
    numbers = TABLE.document_numbers([POSITIVES[3], "never seen", POSITIVES[0], "never seen"])
    assert PAIRS.corpus_texts[numbers[0]] == POSITIVES[3]
    assert numbers[1] == numbers[3] > 2**62
    assert len(set(text_numbers([f"text {i}" for i in range(5000)]).tolist())) == 5000


def test_columns_of_positives_against_a_loop():
    random = np.random.default_rng(0)
    offsets, ids = PAIRS.positives
    for _ in range(20):
        rows = random.integers(0, 16, random.integers(0, 9))
        documents = random.integers(0, len(PAIRS.corpus_texts), random.integers(0, 40))
        ends, columns = TABLE.columns_of_positives(rows, documents)
        for i, row in enumerate(rows):
            query = TABLE.query_of[row]
            own = ids[offsets[query] : offsets[query + 1]]
            expected = np.flatnonzero(np.isin(documents, own)).tolist()
            assert sorted(columns[ends[i] : ends[i + 1]].tolist()) == expected
        assert len(ends) == len(rows) + 1


# --- weights as a function, in stope.torch -----------------------------------------------------


@pytest.mark.parametrize("make", [InfoNCELoss, DistributedInfoNCELoss, SigmoidLoss])
def test_weights_may_be_a_function_of_the_statistics(make):
    loss = make()
    queries, documents = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(0)).unbind()
    calls = []

    def weights(statistics):
        calls.append(statistics)
        return 1.0 / statistics.ranks.float()

    value = loss(queries, documents, weights=weights)
    assert calls[0] is loss.statistics
    assert len(calls) == 1
    assert value == loss(queries, documents, weights=1.0 / loss.statistics.ranks.float())
    assert value != loss(queries, documents)
    with pytest.raises(ValueError, match=r"weights has shape \(2,\); give one per query"):
        loss(queries, documents, weights=lambda _: torch.ones(2))


# --- two processes -----------------------------------------------------------------------------

PARTS = (range(9), range(9, 14))  # of different size


def two_cases():
    return {
        "progressive": {"weighting": "progressive"},
        "dynamic": {"weighting": w.Dynamic(temperature=0.4), "symmetric": True},
        "plain": {},
        "dims": {"weighting": w.Focal(), "matryoshka_dims": (24, 8)},
    }


def step(case, rows, live):
    encoder = new_encoder()
    negatives = Live() if live else None
    loss = contrastive_loss(
        encoder, temperature=T, clock=Clock(8, 10), negatives=negatives, table=TABLE,
        **two_cases()[case],
    )  # fmt: skip
    weighted = [row | {"weight": 1.0 + row["row"] % 3} for row in pair_rows(rows)]
    value = loss(*batch_of(encoder, weighted, TABLE))
    value.backward()
    average_gradients(encoder.parameters())
    gradient = torch.cat([p.grad.ravel() for p in encoder.parameters()])
    return {"loss": value.detach(), "gradient": gradient, "observed": loss.observed}


def worker(folder, here):
    """One of two processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=here, world_size=2
    )
    found = {
        f"{case} {live}": step(case, PARTS[here], live) for case in two_cases() for live in (0, 1)
    }
    try:  # without ids and rows, and with texts that are the same in both processes
        encoder = new_encoder()
        loss = contrastive_loss(encoder, temperature=T)
        rows = [rows_of(0)[i] for i in ((0, 1, 2), (3, 4, 0))[here]]
        found["copies"] = {"loss": loss(*batch_of(encoder, rows)).detach()}
        zero = [row | {"weight": 0.0} for row in rows]
        found["zero"] = {"loss": loss(*batch_of(encoder, zero)).detach()}
    finally:
        torch.save(found, f"{folder}/{here}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    folder = tmp_path_factory.mktemp("two")
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "STOPE_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "-c",
             f"import test_training_weighting as t; t.worker({str(folder)!r}, {here})"],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for here in range(2)
    ]  # fmt: skip
    try:
        for process in running:
            said, _ = process.communicate(timeout=240)
            assert process.returncode == 0, said
    finally:
        for process in running:
            process.kill()
    return [torch.load(folder / f"{r}.pt", weights_only=True) for r in range(2)]


@pytest.mark.parametrize("case", two_cases())
@pytest.mark.parametrize("live", [0, 1])
def test_two_processes_are_one_with_the_whole_batch(processes, case, live):
    whole = step(case, range(14), live)
    found = [process[f"{case} {live}"] for process in processes]
    mean = float(sum(one["loss"] for one in found)) / 2
    assert mean == pytest.approx(float(whole["loss"]), rel=1e-5)
    scale = float(whole["gradient"].abs().max())
    for one in found:
        np.testing.assert_allclose(one["gradient"], whole["gradient"], atol=2e-5 * scale)


def test_identity_across_processes(processes):
    encoder = new_encoder()
    rows = [rows_of(0)[i] for i in (0, 1, 2, 3, 4, 0)]
    exact = contrastive_loss(encoder, temperature=T)(*batch_of(encoder, rows))
    found = [process["copies"]["loss"] for process in processes]
    assert float(sum(found)) / 2 == pytest.approx(float(exact.detach()), rel=1e-5)
    assert [float(process["zero"]["loss"]) for process in processes] == [0.0, 0.0]
