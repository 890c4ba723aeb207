"""LESS's features against autograd by hand, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from stope.neighbors.gradients import gradient_features


def model_and_rows(count=9, dim=40):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(dim, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    model[0].bias.requires_grad_(False)
    rows = [torch.randn(dim) for _ in range(count)]
    return model, rows, lambda row: model(row).square().sum()


def gradients(model, rows, loss):
    parameters = [each for each in model.parameters() if each.requires_grad]
    return torch.stack([
        torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss(row), parameters)])
        for row in rows
    ])  # fmt: skip


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_cosines_survive_the_projection():
    """|error| stays below five standard deviations, each sqrt(1 / dim) at most."""
    model, rows, loss = model_and_rows()
    exact = unit(gradients(model, rows, loss).numpy())
    features = gradient_features(model, rows, loss, dim=4096)
    assert features.dtype == np.float32
    assert np.linalg.norm(features, axis=1) == pytest.approx(1, abs=1e-5)
    assert np.abs(features @ features.T - exact @ exact.T).max() < 5 / np.sqrt(4096)
    again = gradient_features(model, rows[3:], loss, dim=4096)
    assert again == pytest.approx(features[3:], abs=1e-5)
    other = gradient_features(model, rows, loss, dim=4096, seed=1)
    assert np.abs(other - features).max() > 0.01


def test_a_long_gradient_is_projected_in_blocks(monkeypatch):
    from stope.neighbors import gradients as module

    model, rows, loss = model_and_rows()
    monkeypatch.setattr(module, "_BLOCK", 64)
    exact = unit(gradients(model, rows, loss).numpy())
    features = gradient_features(model, rows, loss, dim=4096)
    assert np.abs(features @ features.T - exact @ exact.T).max() < 5 / np.sqrt(4096)


def test_adam_features_are_the_formula():
    model, rows, loss = model_and_rows()
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, betas=(0.8, 0.9), eps=1e-6)
    loss(rows[0]).backward()
    optimizer.step()
    m, v = (
        torch.cat([optimizer.state[p][name].reshape(-1) for p in parameters])
        for name in ("exp_avg", "exp_avg_sq")
    )
    g = gradients(model, rows, loss)
    steps = (0.8 * m + 0.2 * g) / (0.9 * v + 0.1 * g.square() + 1e-6).sqrt()
    features = gradient_features(model, rows, loss, dim=4096, optimizer=optimizer)
    exact = unit(steps.numpy())
    assert np.abs(features @ features.T - exact @ exact.T).max() < 5 / np.sqrt(4096)


def test_without_moments_an_adam_step_is_the_sign():
    """The oracle: beta1 = beta2 = 0 and eps -> 0."""
    from stope.neighbors.gradients import _Adam

    adam = _Adam(torch.zeros(3), torch.zeros(3), {"betas": (0, 0), "eps": 0})
    assert adam.step(torch.tensor([3.0, -0.1, 7])).tolist() == [1, -1, 1]


def test_a_store_on_disk(tmp_path):
    model, rows, loss = model_and_rows(70)
    kept = gradient_features(model, rows, loss, dim=64)
    stored = gradient_features(model, rows, loss, dim=64, path=tmp_path / "g.npy")
    assert np.array_equal(np.load(tmp_path / "g.npy"), kept)
    assert isinstance(stored, np.memmap)


def test_bad_input_gets_a_sentence():
    model, rows, loss = model_and_rows(2)
    with pytest.raises(TypeError, match="optimizer is a SGD; give"):
        gradient_features(model, rows, loss, optimizer=torch.optim.SGD(model.parameters(), 0.1))
    with pytest.raises(ValueError, match="optimizer has no moments"):
        gradient_features(model, rows, loss, optimizer=torch.optim.Adam(model.parameters()))
    with pytest.raises(ValueError, match=r"examples\[1\] has a gradient that is not finite"):
        gradient_features(model, [rows[0], rows[1] * np.nan], loss)
    with pytest.raises(ValueError, match="model has no parameter that requires a gradient"):
        gradient_features(model.requires_grad_(False), rows, loss)
