"""stope.encoders.Lora: low-rank updates of a transformer, merged after training."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')
pytest.importorskip("peft", reason='needs pip install "stope[lora]"')

import small_transformers

from stope.encoders import Lora, load_encoder, save_encoder, static_encoder
from stope.training import train

QUERIES, DOCUMENTS = small_transformers.texts(0, 48), small_transformers.texts(1, 48)
ROWS = list(zip(QUERIES, DOCUMENTS, strict=True))


@pytest.fixture
def new(tmp_path):
    """Makes the same small transformer each time."""
    numbers = iter(range(99))
    return lambda: small_transformers.tiny(tmp_path / f"start-{next(numbers)}", dropout=0.1)


def trained(model, lora, **options):
    return train(model, ROWS, **{"batch_size": 8, "epochs": 2, "lora": lora, **options})


def copied(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_merged_model_is_an_ordinary_one(new, tmp_path):
    model = new()
    before, needed = copied(model), [one.requires_grad for one in model.parameters()]
    trained(model, Lora(rank=4, target_modules=["query", "value"]), learning_rate=1e-2)
    after = copied(model)
    assert list(after) == list(before)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(changed) == 2
    assert all("query.weight" in name or "value.weight" in name for name in changed)
    for name in changed:
        rank = np.linalg.matrix_rank((after[name] - before[name]).double().numpy(), tol=1e-5)
        assert 1 <= rank <= 4
    assert [one.requires_grad for one in model.parameters()] == needed
    expected = model.encode(QUERIES)
    save_encoder(model, tmp_path / "model")
    assert np.allclose(load_encoder(tmp_path / "model").encode(QUERIES), expected, atol=1e-6)
    assert not list((tmp_path / "model").rglob("adapter*"))


def test_all_linear_layers_are_the_default_and_loss_falls(new):
    model = new()
    before = copied(model)
    report = trained(model, Lora(rank=4), epochs=12, learning_rate=1e-2)
    assert np.mean(report.losses[-3:]) < np.mean(report.losses[:3])
    after = copied(model)
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) >= 6
    assert not any("embeddings" in name or "LayerNorm" in name for name in changed)


def test_adapter_can_be_left_in_the_model(new, tmp_path):
    model = new()
    trained(model, Lora(rank=2, merge=False), learning_rate=1e-2)
    assert any("lora_A" in name for name in model.state_dict())
    merged = new()
    trained(merged, Lora(rank=2), learning_rate=1e-2)
    assert np.allclose(model.encode(QUERIES), merged.encode(QUERIES), atol=1e-4)
    with pytest.raises(ValueError, match="has an adapter already"):
        trained(model, Lora())


def test_lora_goes_on(new, tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    lora = Lora(rank=4, dropout=0.1)
    try:
        plain = new()
        report = trained(plain, lora)

        def stop(step, total):
            if step == 9:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            trained(new(), lora, output=tmp_path / "run", checkpoint_every=4, progress=stop)
        for _ in range(2):  # the second time the run has come to its end
            model = new()
            again = trained(model, lora, output=tmp_path / "run", checkpoint_every=4, resume=True)
            assert again.losses == report.losses
            assert all(
                torch.equal(value, copied(plain)[name]) for name, value in copied(model).items()
            )
    finally:
        torch.set_num_threads(threads)
    with pytest.raises(ValueError, match=r"lora\.rank \(4, now 2\)"):
        trained(new(), Lora(rank=2, dropout=0.1), output=tmp_path / "run", resume=True)


def test_an_interrupted_model_is_as_it_was(new):
    """Layers are put back where an error ends training."""

    def stop(step, total):
        raise KeyboardInterrupt

    model = new()
    before = list(model.state_dict())
    with pytest.raises(KeyboardInterrupt):
        trained(model, Lora(), progress=stop)
    assert list(model.state_dict()) == before
    trained(model, Lora())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rank": 0}, "lora.rank is 0; it must be at least 1"),
        ({"alpha": 0}, "lora.alpha is 0; it must be finite and above 0"),
        ({"dropout": 1.0}, "lora.dropout is 1, which drops everything"),
        ({"target_modules": []}, "lora.target_modules is empty; give at least one"),
    ],
)
def test_lora_refuses(options, said):
    with pytest.raises(ValueError, match=said):
        Lora(**options)


def test_wrong_kinds_are_sentences():
    for wrong, said in (("query", "is one string"), (3, "is 3; give"), ([3], r"\[0\] is int")):
        with pytest.raises(TypeError, match=f"lora.target_modules.*{said}"):
            Lora(target_modules=wrong)
    with pytest.raises(TypeError, match="name_or_path is None; give a path"):
        load_encoder(None)


def test_models_without_layers_are_refused(new):
    with pytest.raises(ValueError, match="static encoder"):
        trained(static_encoder([*QUERIES, *DOCUMENTS], dim=8, vocab_size=64), Lora())
    with pytest.raises(ValueError, match=r"target_modules is \('nobody',\), which names no layer"):
        trained(new(), Lora(target_modules=["nobody"]))


def test_missing_peft_is_told(new, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r'pip install "stope\[lora\]"'):
        trained(new(), Lora())
