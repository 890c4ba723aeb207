"""Adapters saved, loaded and attached to models; and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from adapter_cases import DIM, KINDS, SIDES, normal, random_adapter, random_map

from stope.adapters import Adapter, LowRank, ResidualMLP, train_adapter
from stope.encoders import load_encoder, save_encoder, static_encoder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", SIDES)
def test_saved_and_loaded(kind, side, tmp_path):
    adapter = random_adapter(kind, side)
    adapter.evaluations = [(0, 0.5), (2, 0.75)]
    adapter.save(tmp_path / "adapter")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
    ]
    again = Adapter.load(tmp_path / "adapter")
    rows = normal(6, DIM)
    for name in ("queries", "documents"):
        assert np.array_equal(again.apply(rows, name), adapter.apply(rows, name))
    assert (again.side, again.losses) == (side, [2.0, 1.5])
    assert again.evaluations == [(0, 0.5), (2, 0.75)]
    with pytest.raises(FileExistsError, match="not an empty folder"):
        adapter.save(tmp_path / "adapter")


def test_a_save_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        random_adapter("linear", "both").save(tmp_path / "adapter")
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError, match="does not exist; create it first"):
        random_adapter("linear", "both").save(tmp_path / "none" / "adapter")


@pytest.mark.parametrize(
    "change",
    [
        lambda rest: rest | {"version": 3},
        lambda rest: rest | {"version": True},
        lambda rest: rest | {"files": {}},
        lambda rest: rest | {"files": {"adapter.safetensors": {"size": "1", "sha256": ""}}},
        lambda rest: rest | {"evaluations": [[0, "0.5"]]},
        lambda rest: rest | {"evaluations": [[0, 0.5, 1]]},
        lambda rest: rest | {"evaluations": [[float("inf"), 0.5]]},
        lambda rest: rest | {"more": 1},
        lambda rest: rest | {"side": "left"},
        lambda rest: rest | {"maps": {"queries": "cubic"}},
        lambda rest: rest | {"maps": {}},
        lambda rest: rest | {"maps": {"queries": "mlp"}},
        lambda rest: rest | {"side": "separate"},
        lambda rest: [rest],
        None,
    ],
)
def test_damaged_files(tmp_path, change):
    folder = tmp_path / "adapter"
    random_adapter("linear", "both").save(folder)
    first = json.loads((folder / "adapter.json").read_text())
    del first["files"]
    if change is None:
        whole = (folder / "adapter.safetensors").read_bytes()
        (folder / "adapter.safetensors").write_bytes(whole[: len(whole) // 2])
    else:
        rest = json.loads((folder / "adapter.json").read_text())
        (folder / "adapter.json").write_text(json.dumps(change(rest)))
    with pytest.raises(ValueError, match="holds a damaged adapter"):
        Adapter.load(folder)
    if change is not None:  # as the version before wrote it
        (folder / "adapter.json").write_text(json.dumps(first | {"version": 1}))
        assert Adapter.load(folder).side == "both"
    (folder / "adapter.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"it has no adapter\.json"):
        Adapter.load(folder)


TEXTS = [f"the {stone} in the {place}" for stone in ("ore", "coal") for place in ("pit", "mine")]


@pytest.fixture
def encoder():
    return static_encoder(TEXTS, dim=DIM, vocab_size=60)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", SIDES)
def test_attached_saved_and_loaded(kind, side, encoder, tmp_path):
    # Without the Normalize of the encoder its rows are not of length one.
    encoder = type(encoder)(modules=[encoder[0]])
    adapter = random_adapter(kind, side)
    rows = encoder.encode(TEXTS)
    save_encoder(adapter.attach(encoder), tmp_path / "model")
    model = load_encoder(tmp_path / "model")
    for name, encode in (("queries", model.encode_query), ("documents", model.encode_document)):
        np.testing.assert_allclose(encode(TEXTS), adapter.apply(rows, name), atol=3e-6)
    expected = adapter.apply(rows, "documents")
    np.testing.assert_allclose(model.encode(TEXTS), expected, atol=3e-6)
    assert np.array_equal(encoder.encode(TEXTS), rows)  # the encoder itself is as it was
    saved = list((tmp_path / "model").rglob("*.safetensors"))
    assert len([path for path in saved if "StaticEmbedding" in str(path)]) <= 1  # shared, not twice
    assert "stope" not in (tmp_path / "model" / "modules.json").read_text()


def test_attach_keeps_prompts_and_projects(encoder):
    encoder.prompts = {"query": "ore ", "document": ""}
    adapter = Adapter(random_map("linear", out=5), side="separate", documents=normal(5, DIM))
    model = adapter.attach(encoder)
    expected = adapter.apply(encoder.encode_query(TEXTS), "queries")
    np.testing.assert_allclose(model.encode_query(TEXTS), expected, atol=3e-6)
    assert model.encode_document(TEXTS).shape == (4, 5)
    encoder.truncate_dim = 4
    with pytest.raises(ValueError, match="truncate_dim=4"):
        adapter.attach(encoder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "cubic"}, "kind is 'cubic'; give one of linear, low_rank, mlp"),
        ({"side": "left"}, "side is 'left'"),
        ({"kind": "low_rank", "rank": 3}, "rank is 3, but the embeddings have dim 2"),
        ({"rank": 0}, "rank is 0; give a whole number of at least 1"),
        ({"hidden": -1}, "hidden is -1; give a whole number of at least 1"),
        ({"dim": 3}, "none in a larger one"),
        ({"dim": 1, "side": "queries"}, "dim is 1 with kind 'linear', side 'queries'"),
        ({"dim": 1, "kind": "mlp"}, "only a linear adapter"),
        ({"weights": [1.0]}, r"weights has shape \(1,\) for 3 pairs"),
        ({"weights": [1.0, -1.0, 0.0]}, r"weights\[1\] is -1"),
        ({"weights": [0.0, 0.0, 0.0]}, "weights are all 0"),
        ({"weighting": "no_such"}, "there are the weightings"),
        ({"signals": {"a": [1, 2, 3]}}, "no weighting to read it"),
        ({"weighting": "constant", "signals": {"a": [1, 2]}}, r"signals\['a'\] has shape \(2,\)"),
        ({"refresh_every": 1, "among": "corpus"}, "each step scores all 4 documents"),
        ({"matryoshka_dims": [5]}, "each must be from 1 to 2"),
        ({"matryoshka_dims": [0]}, r"matryoshka_dims\[0\] is 0; give a whole number of at least 1"),
        ({"patience": 1}, "there is no evaluation"),
        ({"weight_decay": -1.0}, "weight_decay is -1; give a number of at least 0"),
        ({"hard_negative_log_weight": 1.0}, "there are none; give negatives or refresh_every"),
        ({"positives": [[0], [1]]}, "positives has 2 lists for 3 queries"),
        ({"queue": 8}, "loss.queue is not for an adapter; leave it out"),
        ({"loss_options": {"margin": 1}}, 'loss has no key "margin"'),
        ({"evaluate_every": 0}, "every is 0; give a whole number of at least 1"),
    ],
)
def test_training_refuses(change, said):
    given = {
        "query_embeddings": np.ones((3, 2), np.float32),
        "corpus_embeddings": np.ones((4, 2), np.float32),
        "positives": [0, 1, 2],
        "rank": 1,
    }
    with pytest.raises(ValueError, match=said):
        train_adapter(**(given | change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epoch": 1}, 'there is no option "epoch" \\(did you mean "epochs"'),
        ({"epochs": 1.5}, r"epochs is 1\.5; give a whole number"),
        ({"kind": 3}, "kind is 3; give one of linear"),
        ({"positives": [[0], "1", 2]}, r"positives\[1\] is '1'; give row numbers"),
        ({"positives": [[0, [1]], [1], [2]]}, r"positives\[0\] is \[0, \[1\]\]; give row numbers"),
        ({"positives": [0.5, 1, 2]}, "positives is .*; give row numbers"),
        ({"positives": ([0, 1, 2, 3], [0, 1, None])}, r"positives\[1\] is"),
        ({"negatives": [[1], [2, 3], [0]]}, "negatives is .*; give row numbers, -1 for none"),
        ({"weights": ["a", 1, 2]}, "weights is .*; give one number per pair"),
        ({"query_embeddings": "rows"}, "query_embeddings is 'rows'; give a float32 matrix"),
        ({"corpus_embeddings": [[1, 2], [3]]}, "corpus_embeddings is .*; give a float32 matrix"),
        ({"recipe": 3}, "recipe is 3; give a"),
    ],
)
def test_wrong_kinds_are_refused(change, said):
    rows = np.eye(3, dtype=np.float32)
    given = {"query_embeddings": rows, "corpus_embeddings": rows, "positives": [0, 1, 2]}
    with pytest.raises(TypeError, match=said):
        train_adapter(**(given | change))
    with pytest.raises(TypeError, match="transform is a str"):
        Adapter("linear")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Adapter(np.ones((2, 2)), side="left"), "side is 'left'"),
        (lambda: Adapter(np.ones((2, 2)), side="separate"), "documents is None"),
        (lambda: Adapter(np.ones((2, 2)), documents=np.ones((2, 2))), "documents is given"),
        (lambda: Adapter(np.ones((1, 2)), side="queries"), r"shape \(1, 2\) and documents of"),
        (lambda: Adapter(np.full((2, 2), np.nan)), "transform.weight has a NaN"),
        (lambda: Adapter(np.ones(2)), r"weight has shape \(2,\)"),
        (lambda: Adapter(LowRank(np.ones((2, 1)), np.ones((3, 1)))), "do not fit together"),
        (lambda: Adapter(ResidualMLP(np.ones((4, 2)), np.ones((2, 3)))), "do not fit together"),
        (lambda: random_adapter("mlp", "both").weight, "has no single matrix"),
        (lambda: random_adapter("linear", "separate").weight, "has no single matrix"),
        (lambda: random_adapter("linear", "queries").apply(normal(2, DIM)), "side is None"),
        (lambda: random_adapter("linear", "both").apply(normal(2, DIM), "query"), "'query'"),
        (lambda: random_adapter("linear", "both").apply(normal(2, 3)), "dim 3 but the adapter"),
    ],
)
def test_adapter_refuses(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("name", ["query_embeddings", "positives", "negatives", "weights"])
@pytest.mark.parametrize(
    "wrong", [object(), "rows", {"a": 1}, [10**400]], ids=lambda x: repr(x)[:9]
)
def test_what_is_of_another_kind_is_named(name, wrong):
    rows = np.eye(3, dtype=np.float32)
    given = {"query_embeddings": rows, "corpus_embeddings": rows, "positives": [0, 1, 2]}
    with pytest.raises(TypeError, match=f"^{name} is "):
        train_adapter(**(given | {name: wrong}))
