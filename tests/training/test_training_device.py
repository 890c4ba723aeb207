"""The loss of training stays on the device of the embeddings, tried where no device is.

`pretended_device` refuses what a CUDA device would; its arithmetic is the CPU's, so that results
are equal. On a real one: test_gpu_training.py.
"""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from pretended_device import Pretended, pretend, pretended_device
from small_transformers import tiny
from training_loss_cases import (
    TABLE,
    WORDS,
    Live,
    T,
    batch_of,
    measured,
    new_encoder,
    pair_rows,
    rows_of,
)

from stope import weighting as w
from stope.integrations.sentence_transformers import Clock, from_embeddings
from stope.torch import InfoNCELoss, functional
from stope.training import contrastive_loss

OPTIONS = {
    "plain": {},
    "symmetric": {"symmetric": True},
    "weighting": {"weighting": w.Progressive()},
    "everything": {
        "symmetric": True, "weighting": w.Focal(), "matryoshka_dims": (24, 8),
        "precision": "bfloat16",
    },
}  # fmt: skip


class Moved(torch.nn.Module):
    """An encoder whose embeddings lie on the device."""

    def __init__(self, model, dtype=torch.float32):
        super().__init__()
        self.module, self.dtype, self.device = model, dtype, torch.device("cpu")
        self.preprocess = model.preprocess if hasattr(model, "preprocess") else model.tokenize

    def __getitem__(self, place):
        return self.module[place]

    def forward(self, features):
        found = self.module(features)
        return {"sentence_embedding": pretend(found["sentence_embedding"].to(self.dtype))}


@pytest.fixture
def device(monkeypatch):
    """Whether the core computes there -> where it did."""

    def make(core):
        monkeypatch.setattr(functional, "_HAS_CUDA", core)
        real, seen = functional._check_devices, []

        def spy(inputs):
            seen.append({type(matrix) for matrix in inputs[:2]})
            return real(inputs)

        monkeypatch.setattr(functional, "_check_devices", spy)
        return seen

    return make


def on_device(labels):
    """What the trainer makes of the labels: all tensors are moved."""
    moved = {k: pretend(v) for k, v in labels.items() if isinstance(v, torch.Tensor)}
    signals = {k: pretend(v) for k, v in labels.get("signals", {}).items()}
    return labels | moved | ({"signals": signals} if signals else {})


def both(options, batch, device, core=True, **more):
    """(value, gradient, observed) on the CPU and on the device."""
    encoder, found = new_encoder(), []
    for model in (encoder, Moved(encoder)):
        pretended = isinstance(model, Moved)
        seen = device(core) if pretended else []
        given = {name: make() for name, make in more.items()}
        loss = contrastive_loss(
            encoder, temperature=T, clock=Clock(1, 4), table=TABLE, **options, **given
        )
        loss.model = model
        features, labels = batch(encoder)
        if pretended:
            with pretended_device():
                value = loss(features, on_device(labels))
                assert value.device.type == "cuda"
                found.append((*measured_of(encoder, value), loss.observed))
            assert {kind for kinds in seen for kind in kinds} == {
                Pretended if core else torch.Tensor
            }
        else:
            found.append((*measured(model, loss, features, labels), loss.observed))
    return found


def measured_of(model, value):
    model.zero_grad()
    value.backward()
    gradients = [p.grad.ravel().clone() for p in model.parameters() if p.grad is not None]
    return float(value.detach()), torch.cat(gradients).numpy()


def assert_same(found):
    (value, gradient, seen), (other, its_gradient, also) = found
    assert other == value
    assert np.array_equal(its_gradient, gradient)
    assert also == seen
    assert np.abs(gradient).max() > 1e-4


# --- where it is computed ----------------------------------------------------------------------


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("core", [True, False])
def test_texts_with_weights_and_signals(name, core, device):
    rows = rows_of(2, weight=[float(1 + i % 3) for i in range(14)], easiness=[0.5] * 14)
    rows[3]["negative_1"] = rows[4]["positive"]
    assert_same(both(OPTIONS[name], lambda model: batch_of(model, rows), device, core))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("core", [True, False])
def test_pairs_with_live_negatives(name, core, device):
    rows = pair_rows(range(16))
    found = both(
        OPTIONS[name], lambda model: batch_of(model, rows, TABLE), device, core, negatives=Live
    )
    assert_same(found)


def test_mini_batches(device, tmp_path):
    transformer = tiny(tmp_path, words=[*WORDS, "what", "is", "no", "was", "found", "a"])
    found = []
    for pretended in (False, True):
        loss = contrastive_loss(
            transformer, temperature=T, mini_batch_size=5, negatives=Live(), table=TABLE
        )
        features, labels = batch_of(transformer, pair_rows(), TABLE)
        if not pretended:
            found.append((*measured(transformer, loss, features, labels), loss.observed))
            continue
        device(True)
        real = loss.calculate_loss
        loss.calculate_loss = lambda reps, labels=None, real=real, **options: real(
            [[pretend(part) for part in column] for column in reps], labels, **options
        )
        with pretended_device():
            value = loss(features, on_device(labels))
        found.append((*measured_of(transformer, value), loss.observed))
    assert_same(found)


def test_embeddings_in_double_precision(device):
    encoder = new_encoder()
    loss = contrastive_loss(encoder, temperature=T)
    batch = batch_of(encoder, rows_of(1))
    expected = float(loss(*batch).detach())
    device(True)
    loss.model = Moved(encoder, torch.float64)
    with pretended_device():
        assert float(loss(*batch).detach()) == expected


def test_weights_may_lie_anywhere(device):
    queries, documents = torch.randn(5, 8), torch.randn(5, 8)
    weights = torch.arange(1.0, 6.0)
    expected = InfoNCELoss()(queries, documents, weights=weights)
    device(True)
    with pretended_device():
        for given in (weights, pretend(weights), lambda statistics: weights):
            found = InfoNCELoss()(pretend(queries), pretend(documents), weights=given)
            assert found.device.type == "cuda"
            assert float(found) == float(expected)


def test_without_a_core_there_the_loss_itself_says_so(device):
    device(False)
    with pretended_device(), pytest.raises(RuntimeError, match="computes on the CPU only"):
        InfoNCELoss()(pretend(torch.randn(5, 8)), pretend(torch.randn(5, 8)))


# --- several processes -------------------------------------------------------------------------


def test_a_group_for_the_cpu_is_made_once(monkeypatch):
    """With NCCL, and only where the loss is computed on the CPU."""
    made = []
    monkeypatch.setattr(from_embeddings, "world_size", lambda group=None: 2)
    monkeypatch.setattr(from_embeddings.dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(
        from_embeddings.dist, "new_group", lambda **given: made.append(given) or made
    )
    loss = contrastive_loss(new_encoder())
    assert loss._peers(torch.device("cuda")).group is None
    assert not made
    cpu = torch.device("cpu")
    assert loss._peers(cpu).group is loss._peers(cpu).group is made
    assert made == [{"backend": "gloo"}]


def test_what_pretends_refuses_what_a_device_would():
    with pretended_device():
        there = pretend(torch.ones(3))
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.ones(3)
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        with pytest.raises(TypeError, match="numpy"):
            np.asarray(there)
        assert isinstance(torch.zeros(2, device=there.device), Pretended)
        assert type(there.cpu()) is torch.Tensor
