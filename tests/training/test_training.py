"""stope.training: encoders from scratch, the trainer, and adapters on frozen embeddings."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from stope.adapters import Adapter, train_adapter
from stope.data import Pairs
from stope.encoders import load_encoder, save_encoder, static_encoder
from stope.evaluation import RetrievalEvaluation
from stope.mining import mine
from stope.training import (
    contrastive_loss,
    pairs_dataset,
    train,
    training_dataset,
)

SUBJECTS = [
    "iron",
    "copper",
    "silver",
    "granite",
    "basalt",
    "quartz",
    "coal",
    "marble",
    "slate",
    "gold",
]
ACTIONS = ["melts", "breaks", "shines", "burns", "floats", "rusts"]
# Query and document share no word but the subject is told in another tongue, so it must be learned.
FOREIGN = [
    "ferro",
    "rame",
    "argento",
    "granito",
    "lava",
    "vetro",
    "carbone",
    "marmo",
    "ardesia",
    "oro",
]
DOING = ["fonde", "rompe", "brilla", "brucia", "galleggia", "arrugginisce"]
ROWS = [
    (f"what {action} like {subject}", f"il {foreign} {doing} sempre")
    for subject, foreign in zip(SUBJECTS, FOREIGN, strict=True)
    for action, doing in zip(ACTIONS, DOING, strict=True)
]


def texts():
    return [text for row in ROWS for text in row]


@pytest.fixture
def encoder():
    return static_encoder(texts(), dim=32, vocab_size=200)


def evaluation(rows=ROWS):
    queries, documents = [row[0] for row in rows], [row[1] for row in ROWS]
    names = [f"d{row}" for row in range(len(documents))]
    right = {f"q{row}": {f"d{documents.index(d)}": 1} for row, (_, d) in enumerate(rows)}
    return RetrievalEvaluation(list(right), queries, names, documents, right, k=10)


def weights(model):
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


# --- the static encoder ------------------------------------------------------------------------


def test_static_encoder_starts_as_tfidf():
    documents = [f"the {subject} in the mine" for subject in SUBJECTS]
    vectors = static_encoder(documents * 3, dim=256, smoothing=0).encode(documents)
    queries = static_encoder(documents * 3, dim=256, smoothing=0).encode(SUBJECTS)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    right = (queries @ vectors.T).argmax(axis=1) == np.arange(len(SUBJECTS))
    assert right.sum() >= 6  # at random 1; so few texts leave words in pieces that others share


def test_static_encoder_splits_identifiers():
    sources = ["def readFile(path_name): pass", "read file path name"] * 20

    def words(text, code):
        tokenizer = static_encoder(sources, dim=8, code=code, vocab_size=60)[0].tokenizer
        plain = tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain)]

    assert words("readFile(path_name)", code=True) == ["read", "file", "path", "name"]
    assert words("HTTPServer", code=True) == ["http", "server"]
    assert words("readFile(path)", code=False) == ["readfile", "path"]


def test_static_encoder_is_reproducible_and_seeded():
    first, again, other = (weights(static_encoder(texts(), dim=8, seed=s)) for s in (0, 0, 1))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_text_without_a_known_token_does_not_break(encoder):
    assert np.isfinite(encoder.encode(["", "...", "ßßß"])).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dim": 0}, "dim is 0; it must be at least 1"),
        ({"vocab_size": 3}, "vocab_size is 3; it must be at least 16"),
        ({"smoothing": -1}, "smoothing is -1; it must be finite and at least 0"),
        ({"max_tokens": 0}, "max_tokens is 0; it must be at least 1"),
    ],
)
def test_static_encoder_refuses(options, said):
    with pytest.raises(ValueError, match=said):
        static_encoder(texts(), **options)


def test_static_encoder_refuses_texts_without_words():
    with pytest.raises(ValueError, match="no letter or digit"):
        static_encoder(["...", ""])


# --- training ----------------------------------------------------------------------------------


def test_training_learns_what_words_alone_cannot_tell(encoder):
    judge = evaluation()
    before = judge(encoder)["nDCG@10"]
    report = train(encoder, ROWS, batch_size=32, epochs=15)
    assert before < 0.3
    assert judge(encoder)["nDCG@10"] > 0.8
    assert np.mean(report.losses[-3:]) < 0.5 * np.mean(report.losses[:3])
    assert report.steps == len(report.losses)


def test_same_seed_same_weights():
    def trained(seed):
        model = static_encoder(texts(), dim=16)
        train(model, ROWS, batch_size=16, epochs=2, seed=seed)
        return weights(model)

    first, again, other = trained(3), trained(3), trained(4)
    # torch's matrix products differ in the last bits with memory alignment; orders would in all.
    assert all(np.allclose(first[name], again[name], atol=1e-4) for name in first)
    assert any(not np.allclose(first[name], other[name], atol=1e-2) for name in first)


def test_hard_negatives_are_trained_with(encoder):
    pairs = Pairs.from_texts([row[0] for row in ROWS], [row[1] for row in ROWS])
    train(encoder, pairs_dataset(pairs), batch_size=32, epochs=3)
    mined = mine(pairs, encoder, num_negatives=3)
    before = weights(encoder)
    report = train(encoder, pairs_dataset(pairs, mined.result.ids), batch_size=32, epochs=2)
    assert report.steps >= 2
    assert any(not np.array_equal(value, weights(encoder)[name]) for name, value in before.items())


def test_default_batch_makes_steps_of_few_rows(encoder):
    report = train(encoder, ROWS[:20], epochs=2)
    assert report.steps == 2
    assert report.epochs == 2


def test_no_query_or_positive_twice_in_a_batch():
    from stope.training.batches import batch_sampler

    rows = [(f"q{i % 7}", f"d{i % 5}") for i in range(35)]
    dataset = training_dataset([row[0] for row in rows], [row[1] for row in rows])
    sampler = batch_sampler()(dataset, 4, False, seed=1)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        orders.append(batches)
        assert len(batches) <= len(sampler)
        used = [row for batch in batches for row in batch]
        assert len(used) == len(set(used)) > 25
        for batch in batches:
            assert len({rows[i][0] for i in batch}) == len({rows[i][1] for i in batch})
            assert len({rows[i][0] for i in batch}) == len(batch)
    assert orders[0] != orders[1]


def test_best_epoch_is_kept(encoder):
    values = iter([0.2, 0.9, 0.4])
    seen = []

    def judge(model):
        seen.append(weights(model))
        return {"made up": next(values)}

    report = train(encoder, ROWS, batch_size=16, epochs=3, evaluation=judge, keep="best")
    assert report.best_epoch == 2
    assert [row["made up"] for row in report.evaluations] == [0.2, 0.9, 0.4]
    now = weights(encoder)
    assert all(np.array_equal(value, now[name]) for name, value in seen[1].items())
    assert any(not np.array_equal(value, now[name]) for name, value in seen[2].items())


def test_training_leaves_no_file_and_no_line(encoder, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    calls = []
    train(encoder, ROWS, batch_size=16, epochs=1, progress=lambda *done: calls.append(done))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
    assert calls[-1][0] == calls[-1][1] == len(calls)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 1}, "batch_size is 1; give a whole number of at least 2"),
        ({"epochs": 0}, "epochs is 0; give a whole number of at least 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0; give a number above 0"),
        ({"temperature": -1.0}, "temperature is -1; give a number above 0"),
        ({"warmup": 1.0}, "warmup is 1; give a number of at least 0 and below 1"),
        ({"seed": -1}, "seed is -1; give a whole number of at least 0 and at most 4294967295"),
        ({"keep": "best"}, 'keep="best" needs an evaluation'),
        ({"mini_batch_size": 0}, "mini_batch_size is 0; give a whole number of at least 1"),
    ],
)
def test_train_refuses(encoder, options, said):
    with pytest.raises(ValueError, match=said):
        train(encoder, ROWS, **options)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "nothing to train on"),
        ([("a", "b")], "in-batch negatives need two"),
        ([("a",), ("b", "c")], "a row without a positive"),
        ([("a", "b"), ("c", "d", "e")], r"negatives\[1\] has 1 texts but negatives\[0\] has 0"),
        ([("a", "b"), ("a", "c")], "no two of them with different queries"),
    ],
)
def test_train_refuses_rows(encoder, rows, said):
    with pytest.raises(ValueError, match=said):
        train(encoder, rows)


def test_a_loss_that_explodes_is_an_error(encoder):
    encoder.eval()
    with pytest.raises(FloatingPointError, match="lower learning_rate"):
        train(encoder, ROWS, loss=_Broken(encoder), batch_size=16, epochs=1)
    assert not encoder.training


class _Broken(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, features, labels=None):
        return self.model(next(iter(features)))["sentence_embedding"].sum() * float("nan")


def test_loss_is_infonce_of_cosines(encoder):
    features = [encoder[0].preprocess([row[side] for row in ROWS[:8]]) for side in (0, 1)]
    value = contrastive_loss(encoder, temperature=0.1)(features, None)
    queries = encoder.encode([row[0] for row in ROWS[:8]]).astype(np.float64)
    documents = encoder.encode([row[1] for row in ROWS[:8]]).astype(np.float64)
    scores = queries @ documents.T / 0.1
    expected = np.mean(np.log(np.exp(scores).sum(axis=1)) - np.diag(scores))
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)


# --- rows --------------------------------------------------------------------------------------


def test_missing_negatives_are_filled_with_no_positive():
    pairs = Pairs.from_texts(["a", "a", "b"], ["x", "y", "z"], ["x", "y", "z", "w"])
    for seed in range(8):
        rows = pairs_dataset(pairs, np.full((2, 4), -1), seed=seed)
        for row in rows:
            drawn = {row[f"negative_{place}"] for place in range(1, 5)}
            assert drawn <= ({"z", "w"} if row["query"] == "a" else {"x", "y", "w"})


def test_filled_negatives_are_not_the_querys_text_and_none_twice():
    pairs = Pairs.from_texts(["A", "b"], ["x", "y"], ["a", "v", "w", "x", "y", "z"])
    for seed in range(8):
        first = pairs_dataset(pairs, np.array([[2, -1, -1], [0, 1, 2]]), seed=seed)[0]
        drawn = [first[f"negative_{place}"] for place in range(1, 4)]
        assert drawn[0] == "w"
        assert sorted(drawn[1:]) in (["v", "y"], ["v", "z"], ["y", "z"])


def test_no_negative_exists():
    pairs = Pairs.from_texts(["a"], [["x", "y"]])
    with pytest.raises(
        ValueError, match="lacks 1 negatives, and there is no other document to fill up"
    ):
        pairs_dataset(pairs, np.full((1, 1), -1))
    with pytest.raises(ValueError, match="needs one row for each"):
        pairs_dataset(pairs, np.zeros((3, 1), np.int64))


# --- folders -----------------------------------------------------------------------------------


def test_saved_encoder_is_the_same(encoder, tmp_path):
    save_encoder(encoder, tmp_path / "model")
    again = load_encoder(tmp_path / "model")
    assert np.array_equal(encoder.encode(texts()), again.encode(texts()))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_folders_refused(encoder, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not an empty folder"):
        save_encoder(encoder, tmp_path)
    with pytest.raises(FileNotFoundError, match="does not exist; create it"):
        save_encoder(encoder, tmp_path / "no" / "where")
    with pytest.raises(ValueError, match=r"has no modules\.json"):
        load_encoder(tmp_path)


# --- adapters ----------------------------------------------------------------------------------


def rotated(count=300, dim=16, seed=0):
    generator = np.random.default_rng(seed)
    corpus = generator.standard_normal((count, dim)).astype(np.float32)
    noise = generator.standard_normal((dim, dim)).astype(np.float32) / np.sqrt(dim)
    queries = corpus + 1.5 * generator.standard_normal((count, 4)).astype(np.float32) @ noise[:4]
    return queries.astype(np.float32), corpus


def hits(queries, corpus):
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (queries, corpus)]
    return float(((unit[0] @ unit[1].T).argmax(axis=1) == np.arange(len(queries))).mean())


def test_adapter_learns_and_carries_over():
    queries, corpus = rotated()
    held = slice(200, 300)
    adapter = train_adapter(queries[:200], corpus, np.arange(200), epochs=60, learning_rate=1e-2)
    assert adapter.losses[-1] < 0.7 * adapter.losses[0]
    found = adapter.apply(queries[held])
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    before = hits(queries[held], corpus[held])
    assert hits(found, adapter.apply(corpus[held])) > before + 0.05


def test_adapter_is_reproducible_with_sampled_documents_and_negatives():
    queries, corpus = rotated()
    negatives = np.full((300, 2), -1)
    negatives[:, 0] = (np.arange(300) + 1) % 300
    options = {"negatives": negatives, "num_documents": 64, "batch_size": 50, "epochs": 2}
    first = train_adapter(queries, corpus, np.arange(300), **options)
    again = train_adapter(queries, corpus, np.arange(300), **options)
    other = train_adapter(queries, corpus, np.arange(300), seed=1, **options)
    assert np.array_equal(first.weight, again.weight)
    assert not np.array_equal(first.weight, other.weight)


def test_adapter_leaves_out_other_positives():
    """Both positives of a query are right: neither may push the other away."""
    rows = np.eye(3, dtype=np.float32)
    positives = (np.array([0, 2]), np.array([0, 1]))
    adapter = train_adapter(rows[:1], rows, positives, epochs=1, among="corpus")
    # Pair (q, 0) is scored against {0, 2} and pair (q, 1) against {1, 2}: cosines 1, 0 and 0, 0.
    expected = (np.log1p(np.exp(-20.0)) + np.log(2)) / 2
    assert adapter.losses[0] == pytest.approx(expected, rel=1e-4)


def test_adapter_attached_and_saved(encoder, tmp_path):
    generator = np.random.default_rng(0)
    adapter = Adapter(generator.standard_normal((32, 32)).astype(np.float32))
    model = adapter.attach(encoder)
    save_encoder(model, tmp_path / "model")
    expected = adapter.apply(encoder.encode(texts()))
    assert np.allclose(load_encoder(tmp_path / "model").encode(texts()), expected, atol=1e-5)
    with pytest.raises(ValueError, match="dim 32 but the adapter has 4"):
        Adapter(np.eye(4, dtype=np.float32)).attach(encoder)
    with pytest.raises(ValueError, match="dim 5 but the adapter has dim 32"):
        adapter.apply(np.ones((2, 5), np.float32))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"positives": [0, 9, 1]}, "row 9; there are 4 documents"),
        ({"positives": [0]}, r"shape \(1,\) for 3 queries"),
        ({"positives": ([0, 1], [2])}, "2 offsets that must be 4"),
        ({"corpus_embeddings": np.ones((4, 3), np.float32)}, "dim 3 but query_embeddings has 2"),
        ({"query_embeddings": np.full((3, 2), np.nan, np.float32)}, "NaN or an infinity in row 0"),
        ({"negatives": np.full((3, 1), 4)}, "outside -1 and the 4 documents"),
        ({"epochs": 0}, "epochs is 0; give a whole number of at least 1"),
        ({"temperature": 0.0}, "temperature is 0; give a number above 0"),
    ],
)
def test_adapter_refuses(change, said):
    given = {
        "query_embeddings": np.ones((3, 2), np.float32),
        "corpus_embeddings": np.ones((4, 2), np.float32),
        "positives": [0, 1, 2],
    }
    with pytest.raises(ValueError, match=said):
        train_adapter(**(given | change))
