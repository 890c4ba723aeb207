"""stope.torch.grad_cache: chunks equal the whole batch, with dropout (docs/methods.md, H8)."""

from __future__ import annotations

import contextlib
import copy

import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from stope.torch import InfoNCELoss
from stope.torch.grad_cache import cached_step

ROWS = 10


def encoder(dropout=0.1, seed=0):
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(12, 16), torch.nn.Tanh(), torch.nn.Dropout(dropout)]
    return torch.nn.Sequential(*layers, torch.nn.Linear(16, 8))


def batch(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, 12, generator=generator) for rows in (ROWS, ROWS + 3)]


def whole(encoders, inputs, loss, chunk_size):
    """The same chunks, drawn in the same order, in one graph that holds every activation."""
    parts = [
        torch.cat([module(x[i : i + chunk_size]) for i in range(0, len(x), chunk_size)])
        for module, x in zip(encoders, inputs, strict=True)
    ]
    value = loss(*parts)
    value.backward()
    return value.detach()


def rounding(module, terms):
    """Bounds of the rounding of the module's gradients from here on, one tensor per parameter.

    A gradient is a sum of chunks' gradients g, each a sum of `terms` products at most. In whatever
    order torch's kernels add, an element is wrong by at most (chunks + terms) 2^-24 sum |g|
    (Higham 2002, 4.2), twice that where two sums are compared; elements that cancel are wrong by
    much of their own size.
    """
    bounds = [torch.zeros_like(p) for p in module.parameters()]
    chunks = [0] * len(bounds)

    def note(place):
        def hook(gradient):
            chunks[place] += 1
            bounds[place] += gradient.abs()

        return hook

    for place, parameter in enumerate(module.parameters()):
        parameter.register_hook(note(place))
    return lambda: [
        2 * (count + terms) * 2.0**-24 * bound for count, bound in zip(chunks, bounds, strict=True)
    ]


def gradients(*modules):
    return [p.grad.clone() for module in modules for p in module.parameters()]


@pytest.mark.parametrize("chunk_size", [1, 3, ROWS, 100])
@pytest.mark.parametrize("shared", [True, False])
def test_equals_the_whole_batch_with_dropout(chunk_size, shared):
    query_encoder = encoder()
    document_encoder = query_encoder if shared else encoder(seed=5)
    loss = InfoNCELoss(0.1, learnable_temperature=True)
    modules = [query_encoder, loss] if shared else [query_encoder, document_encoder, loss]
    inputs = batch()

    torch.manual_seed(7)
    expected = whole([query_encoder, document_encoder], inputs, loss, chunk_size)
    wanted, state = gradients(*modules), torch.get_rng_state()
    for module in modules:
        module.zero_grad()
    torch.manual_seed(7)
    encoders = query_encoder if shared else (query_encoder, document_encoder)
    value = cached_step(encoders, inputs, loss, chunk_size=chunk_size)
    assert not value.requires_grad
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    for got, want in zip(gradients(*modules), wanted, strict=True):
        assert float((got - want).abs().max()) <= 1e-6 * max(1.0, float(want.abs().max()))
    assert torch.equal(torch.get_rng_state(), state)


def test_dropout_matters():
    """Without the saved random states the gradients would be others: the test above can fail."""
    module, inputs = encoder(0.5), batch()
    torch.manual_seed(7)
    cached_step(module, inputs, InfoNCELoss(), chunk_size=3)
    a = gradients(module)
    module.zero_grad()
    torch.manual_seed(8)
    cached_step(module, inputs, InfoNCELoss(), chunk_size=3)
    assert not torch.allclose(a[0], gradients(module)[0], rtol=1e-2)


def test_only_one_chunk_is_encoded_at_a_time():
    sizes, module = [], encoder()
    hook = module.register_forward_pre_hook(
        lambda _, x: sizes.append((len(x[0]), torch.is_grad_enabled()))
    )
    cached_step(module, batch(), InfoNCELoss(), chunk_size=4)
    hook.remove()
    once = [4, 4, 2, 4, 4, 4, 1]
    assert sizes == [(n, False) for n in once] + [(n, True) for n in once]


def test_gradients_accumulate():
    module, inputs = encoder(0.0), batch()
    bounds = rounding(module, terms=16)
    cached_step(module, inputs, InfoNCELoss(), chunk_size=4)
    once = gradients(module)
    cached_step(module, inputs, InfoNCELoss(), chunk_size=4)
    for a, b, bound in zip(gradients(module), once, bounds(), strict=True):
        assert ((a - 2 * b).abs() <= bound).all()
        assert float(bound.max()) < 1e-4 * float(b.abs().max())  # the bound says something


def test_inputs_of_any_shape():
    inner = encoder(0.0)

    class Encoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, features):
            assert features["task"] == "retrieval"
            x, (scale, constant) = features["x"], features["more"]
            return self.inner(x) * scale * constant

    def features(x):
        more = (torch.full((len(x), 1), 2.0), torch.tensor(3.0))
        return {"x": x, "more": more, "task": "retrieval"}

    inputs, module = [features(x) for x in batch()], Encoder()
    value = cached_step(module, inputs, InfoNCELoss(metric="dot", temperature=1.0), chunk_size=3)
    got = gradients(inner)
    inner.zero_grad()
    loss = InfoNCELoss(metric="dot", temperature=1.0)(*(module(x) for x in inputs))
    loss.backward()
    assert value.item() == pytest.approx(loss.item(), rel=1e-5)
    for a, b in zip(got, gradients(inner), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def test_autocast():
    module, inputs = encoder(0.0), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = cached_step(module, inputs, InfoNCELoss(0.5), chunk_size=4)
    got = gradients(module)  # None if autocast had reused the weights of the pass without a graph
    module.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = InfoNCELoss(0.5)(*(module(x) for x in inputs))
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-2)
    for a, b in zip(got, gradients(module), strict=True):
        assert float((a - b).norm() / b.norm()) < 0.05


def test_the_scaler_scales_gradients_but_not_the_loss():
    class Scaler:
        def scale(self, value):
            return value * 8

    module, inputs = encoder(0.0), batch()
    a = cached_step(module, inputs, InfoNCELoss(), chunk_size=4)
    plain = gradients(module)
    module.zero_grad()
    bounds = rounding(module, terms=16)
    b = cached_step(module, inputs, InfoNCELoss(), chunk_size=4, scaler=Scaler())
    assert a == b
    for x, y, bound in zip(gradients(module), plain, bounds(), strict=True):
        assert ((x - 8 * y).abs() <= bound).all()  # 8 is a power of two and rounds nothing


@pytest.mark.parametrize("given", [True, False])
def test_only_the_last_chunk_of_an_encoder_communicates(given):
    quiet = []

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.talks = encoder(0.0), True
            self.inner[0].weight.register_hook(lambda _: quiet.append(not self.talks))

        def forward(self, x):
            return self.inner(x)

        @contextlib.contextmanager
        def no_sync(self):
            self.talks = False
            yield
            self.talks = True

    module = Wrapped()
    other = {"no_sync": lambda encoder: encoder.no_sync()} if given else {}
    cached_step(module, batch(), InfoNCELoss(), chunk_size=5, **other)
    assert quiet == [True] * 4 + [False]


def test_a_frozen_encoder():
    module, frozen = encoder(), encoder(seed=3).requires_grad_(False)
    cached_step((module, frozen), batch(), InfoNCELoss(), chunk_size=4)
    assert all(p.grad is None for p in frozen.parameters())
    assert all(p.grad is not None for p in module.parameters())


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"chunk_size": 0}, ValueError, "chunk_size is 0"),
        ({"chunk_size": 2.5}, TypeError, "chunk_size is 2.5"),
        ({"inputs": []}, ValueError, "inputs is empty"),
        ({"encoders": [len]}, ValueError, "encoders has 1 entries for 2 inputs"),
        (
            {"inputs": [(torch.ones(2, 12), torch.ones(3, 12)), torch.ones(2, 12)]},
            ValueError,
            r"inputs\[0\] has tensors with \[2, 3\] rows",
        ),
        ({"inputs": [torch.ones(2, 12), torch.ones(0, 12)]}, ValueError, r"inputs\[1\] is empty"),
        ({"loss": lambda q, d: q.sum(1)}, ValueError, "the loss must be one number"),
        (
            {"loss": lambda q, d: q.sum()},
            RuntimeError,
            r"depend on the representations of inputs\[1",
        ),
    ],
)
def test_bad_input(change, error, sentence):
    arguments = {"encoders": encoder(), "inputs": batch(), "loss": InfoNCELoss(), "chunk_size": 2}
    with pytest.raises(error, match=sentence):
        cached_step(**copy.copy({**arguments, **change}))
