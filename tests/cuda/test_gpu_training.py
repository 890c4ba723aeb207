"""Training on a GPU: `pytest -m gpu`. The fused loss stays there and is that of the CPU."""

from __future__ import annotations

import copy

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason="the tests' CUDA arrays are torch's")

from small_transformers import tiny
from training_loss_cases import PAIRS, POSITIVES, QUERIES, WORDS, new_encoder, read, rows_of

from stope import weighting as w
from stope.integrations.sentence_transformers import InfoNCELoss
from stope.torch import functional
from stope.torch.grad_cache import cached_step
from stope.training import NegativeRefresh, train

pytestmark = pytest.mark.gpu

OPTIONS = {
    "plain": {},
    "symmetric": {"symmetric": True},
    "weighting": {"weighting": w.Progressive()},
    "matryoshka": {"matryoshka_dims": (24, 8), "weighting": w.Focal()},
}


@pytest.fixture(autouse=True)
def gpu():
    assert torch.cuda.is_available(), "torch sees no GPU: install its CUDA build"


@pytest.fixture
def devices(monkeypatch):
    """The kinds of device on which the core computed."""
    real, seen = functional._check_devices, set()

    def spy(inputs):
        seen.update(matrix.device.type for matrix in inputs[:2])
        return real(inputs)

    monkeypatch.setattr(functional, "_check_devices", spy)
    return seen


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    words = [*WORDS, "what", "is", "no", "was", "found", "a", "lies", "in", "the", "mine"]
    return tiny(tmp_path_factory.mktemp("tiny"), words=words)


def examples():
    return [tuple(row.values()) for row in rows_of(2)]


def reports(model, rows, **options):
    """What training the same model reports on the CPU and on the GPU."""
    found = []
    for device in ("cpu", "cuda"):
        trained = copy.deepcopy(model).to(device)
        trained.eval()
        found.append(train(trained, rows, learning_rate=1e-3, **options))
        assert trained.device.type == device
    return found


@pytest.mark.parametrize("name", OPTIONS)
def test_training_has_the_losses_of_the_cpu(name, devices):
    cpu, gpu = reports(new_encoder(), examples(), batch_size=14, epochs=3, **OPTIONS[name])
    np.testing.assert_allclose(gpu.losses, cpu.losses, atol=1e-5)
    assert devices == {"cpu", "cuda"}


def test_pairs_with_negatives_that_follow_the_model(devices):
    options = {"batch_size": 14, "epochs": 2, "symmetric": True}
    refresh = NegativeRefresh(num_negatives=2, pool=5)
    cpu, gpu = reports(new_encoder(), PAIRS, refresh=refresh, **options)
    np.testing.assert_allclose(gpu.losses, cpu.losses, atol=1e-5)
    assert devices == {"cpu", "cuda"}


def test_without_a_core_there_the_cpu_computes(devices, monkeypatch):
    monkeypatch.setattr(functional, "_HAS_CUDA", False)
    cpu, gpu = reports(new_encoder(), examples(), batch_size=14, epochs=2)
    np.testing.assert_allclose(gpu.losses, cpu.losses, atol=1e-5)
    assert devices == {"cpu"}


def test_mini_batches_of_a_transformer(transformer):
    # Dropout draws other numbers on a GPU, so that there is none.
    model = copy.deepcopy(transformer)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    cpu, gpu = reports(model, examples(), batch_size=14, epochs=1, mini_batch_size=4)
    np.testing.assert_allclose(gpu.losses, cpu.losses, rtol=1e-4)


def test_a_checkpoint_is_gone_on_from(tmp_path):
    options = {"batch_size": 14, "learning_rate": 1e-3, "checkpoint_every": 2}
    whole = train(new_encoder().to("cuda"), examples(), max_steps=4, **options,
                  output=tmp_path / "whole")  # fmt: skip

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    options["output"] = tmp_path / "stopped"
    with pytest.raises(KeyboardInterrupt):
        train(new_encoder().to("cuda"), examples(), max_steps=4, progress=stop, **options)
    again = train(new_encoder().to("cuda"), examples(), max_steps=4, resume=True, **options)
    assert again.resumed_from == 2
    np.testing.assert_allclose(again.losses, whole.losses, atol=1e-6)


def test_the_loss_for_the_trainer_of_sentence_transformers():
    model, found = new_encoder(), []
    for device in ("cpu", "cuda"):
        model = model.to(device)
        columns = [read(model, texts) for texts in (QUERIES, POSITIVES)]
        columns[0]["stope_weight"] = torch.arange(1.0, 15.0)
        columns[1]["stope_id"] = torch.arange(14) // 2
        moved = [{k: v.to(device) for k, v in column.items()} for column in columns]
        value = InfoNCELoss(model, directions=["query_to_doc", "doc_to_doc"])(moved)
        assert value.device.type == device
        found.append(float(value.detach()))
    assert found[1] == pytest.approx(found[0], abs=1e-5)


def test_grad_cache():
    encoder, found = torch.nn.Linear(12, 8), []
    queries, documents = torch.randn(2, 20, 12)
    for device in ("cpu", "cuda"):
        encoder = encoder.to(device)
        encoder.zero_grad()
        loss = functional.infonce
        value = cached_step(
            encoder,
            (queries.to(device), documents.to(device)),
            lambda q, d, loss=loss: loss(q, d).mean(),
            chunk_size=6,
        )
        found.append((float(value), encoder.weight.grad.cpu()))
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-5)
    torch.testing.assert_close(found[1][1], found[0][1], atol=1e-5, rtol=1e-4)
