"""stope.torch: operators and autograd of the contrastive loss, against the NumPy face and against
cross-entropy in plain torch. The modules are in test_torch_losses.py.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from torch_cases import close, leaf, normal, plain

import stope
from stope.torch import InfoNCELoss, infonce
from stope.torch._operators import OPTIONAL_TENSORS, encode

# --- against plain torch -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 5, 8), (7, 19, 33), (1, 1, 1), (1, 4, 3), (64, 200, 16)])
def test_losses_and_gradients_are_those_of_cross_entropy(shape):
    rows, columns, dim = shape
    queries, documents = leaf(rows, dim), leaf(columns, dim, seed=1)
    temperature = torch.tensor(0.1, requires_grad=True)
    upstream = normal(rows, seed=2)
    inputs = (queries, documents, temperature)
    ours = infonce(queries, documents, temperature=temperature)
    theirs = plain(queries, documents, temperature)
    assert ours.dtype == torch.float32
    close(ours, theirs)
    wanted = torch.autograd.grad((theirs * upstream).sum(), inputs)
    for got, want in zip(torch.autograd.grad(ours @ upstream, inputs), wanted, strict=True):
        close(got, want, 2e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_come_in_the_dtype_of_their_tensor(dtype):
    queries, documents = leaf(6, 16, dtype=dtype), leaf(9, 16, seed=1, dtype=dtype)
    losses = infonce(queries, documents, temperature=0.2)
    assert losses.dtype == torch.float32
    losses.mean().backward()
    assert queries.grad.dtype == documents.grad.dtype == dtype
    exact_queries = queries.detach().float().requires_grad_()
    plain(exact_queries, documents.detach().float(), 0.2).mean().backward()
    close(queries.grad, exact_queries.grad, 2e-2)


def test_two_dtypes_meet_in_the_wider_one():
    queries, documents = leaf(4, 8, dtype=torch.bfloat16), leaf(4, 8, seed=1)
    infonce(queries, documents).sum().backward()
    assert queries.grad.dtype == torch.bfloat16
    assert documents.grad.dtype == torch.float32


def test_only_what_needs_a_gradient_gets_one():
    queries, documents = leaf(4, 8), normal(4, 8, seed=1)
    infonce(queries, documents).sum().backward()
    assert queries.grad is not None
    assert documents.grad is None
    assert not infonce(queries.detach(), documents).requires_grad


def test_any_strides():
    queries, documents = leaf(8, 5), leaf(8, 6, seed=1)  # transposed: the last axis is strided
    a = infonce(queries.mT, documents.mT)
    b = infonce(queries.mT.contiguous(), documents.mT.contiguous())
    assert torch.equal(a, b)
    upstream = torch.ones(()).expand(5)
    (got,) = torch.autograd.grad(a, queries, upstream)
    (want,) = torch.autograd.grad(b.sum(), queries)
    assert torch.equal(got, want)


def test_gradcheck():
    """torch's gradcheck wants float64, which the core refuses: float32 needs a step that stands
    above its rounding, and tolerances to match (fast_mode compares random projections).
    """
    queries, documents = leaf(5, 6), leaf(7, 6, seed=1)
    temperature = torch.tensor(0.5, requires_grad=True)

    def function(queries, documents, temperature):
        return infonce(queries, documents, [1, 0, 6, 3, 3], temperature=temperature)

    with pytest.warns(UserWarning, match="double precision"):
        assert torch.autograd.gradcheck(
            function, (queries, documents, temperature), eps=1e-2, atol=5e-3, rtol=2e-2,
            fast_mode=True,
        )  # fmt: skip
    with pytest.warns(UserWarning, match="double precision"):
        wrong = torch.autograd.gradcheck(
            lambda q: infonce(q, documents.detach()) + 0.2 * q.detach().sum(1),
            (queries,), eps=1e-2, atol=5e-3, rtol=2e-2, fast_mode=True, raise_exception=False,
        )  # fmt: skip
    assert not wrong  # the tolerances are tight enough to see a missing term


# --- against the NumPy face ----------------------------------------------------------------------

GUIDES = {"guide_queries": normal(6, 4, seed=7), "guide_documents": normal(12, 4, seed=8)}
ONE = torch.tensor([3, 1, 0, 7, 7, 2])
CASES = {
    "default": (None, {}, {}),
    "dot": (ONE, {}, {"metric": "dot"}),
    "several": (
        [[1, 2], [0], [5, 3, 4], [], [7], [11]],
        {"positive_weights": torch.tensor([1.0, 2, 1, 3, 1, 2, 1, 1])},
        {"objective": "excl"},
    ),
    "in": ((torch.tensor([0, 2, 3, 3, 4, 5, 6]), torch.arange(6)), {}, {"objective": "in"}),
    "decoupled": (ONE, {}, {"objective": "decoupled"}),
    "sigmoid": (ONE, {}, {"objective": "sigmoid"}),
    "ids": (ONE, {"document_ids": torch.tensor([0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3])}, {}),
    "exclude": (ONE, {"exclude": [[0], [5, 6], [], [1, 2, 3], [0], [11]]}, {}),
    "columns": (ONE, {"log_weights": normal(12, seed=5)}, {}),
    "margins": (ONE, {}, {"absolute_margin": -0.1, "relative_margin": 0.01}),
    "limits": (ONE, {"max_score": normal(6, seed=6) * 0.1 + 0.4}, {"min_score": -0.3}),
    "guide": (ONE, GUIDES, {"absolute_margin": 0.0}),
    "own negatives": (
        torch.arange(6),
        {"hard_negatives": torch.arange(6, 12)[:, None]},
        {
            "hardness": "hard_negatives",
            "hardness_strength": 5.0,
            "hard_negative_log_weight": 0.5,
            "foreign_hard_negatives": False,
        },
    ),
    "joint": (
        ONE,
        {},
        {
            "directions": (
                "query_to_document",
                "document_to_query",
                "query_to_query",
                "document_to_document",
            )
        },
    ),
    "each": (
        torch.arange(6),
        {},
        {"directions": ("query_to_document", "document_to_query"), "partition": "per_direction"},
    ),
}


def numpy(value):
    if isinstance(value, torch.Tensor):
        return value.numpy()
    return tuple(map(numpy, value)) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", CASES)
def test_every_option_reaches_the_core(name):
    positives, tensors, options = CASES[name]
    queries, documents = leaf(6, 10), leaf(12, 10, seed=1)
    upstream = normal(6, seed=3)
    bias = torch.tensor(-1.0 if name == "sigmoid" else 0.0, requires_grad=True)
    temperature = torch.tensor(0.25, requires_grad=True)  # exact in float32
    loss = InfoNCELoss(0.25, **options)
    losses = infonce(
        queries, documents, positives, temperature=temperature, bias=bias, **tensors, **options
    )
    inputs = (queries, documents, temperature, bias)
    got = torch.autograd.grad(losses @ upstream, inputs)

    arrays = {key: numpy(value) for key, value in tensors.items()}
    arguments = dict(
        positives=numpy(positives), temperature=0.25, bias=bias.item(), **arrays, **options
    )
    q, d = queries.detach().numpy(), documents.detach().numpy()
    forward = stope.infonce_forward(q, d, **arguments)
    backward = stope.infonce_backward(q, d, forward, upstream.numpy(), **arguments)
    assert np.array_equal(losses.detach().numpy(), forward.losses)
    assert np.array_equal(got[0].numpy(), backward.queries)
    assert np.array_equal(got[1].numpy(), backward.documents)
    assert got[2].item() == pytest.approx(backward.temperature, rel=1e-6, abs=1e-7)
    assert got[3].item() == pytest.approx(backward.bias, rel=1e-6, abs=1e-7)

    if name != "sigmoid":
        value = loss(queries, documents, positives, **tensors)
        assert value.item() == pytest.approx(float(forward.losses.mean()), rel=1e-6)
        for field in loss.statistics._fields:
            assert np.array_equal(
                getattr(loss.statistics, field).numpy(), getattr(forward, field), equal_nan=True
            ), field
            assert not getattr(loss.statistics, field).requires_grad


def test_options_matter():
    """The cases above differ from the default, so none of their options gets lost on the way."""
    queries, documents = normal(6, 10), normal(12, 10, seed=1)
    for name, (positives, tensors, options) in CASES.items():
        if name in ("default", "in"):
            continue
        a = infonce(queries, documents, positives, temperature=0.25, **tensors, **options)
        b = infonce(queries, documents, positives, temperature=0.25)
        assert not torch.equal(a, b), name


def test_forms_of_positives():
    queries, documents = normal(3, 4), normal(6, 4, seed=1)
    ids = torch.tensor([[0, 5], [1, 2], [4, 3]])
    expected = infonce(queries, documents, ids)
    csr = (torch.tensor([0, 2, 4, 6]), ids.reshape(-1))
    for form in (ids.numpy(), ids.tolist(), csr, [row.numpy() for row in ids], ids.int()):
        assert torch.equal(infonce(queries, documents, form), expected)
    single = infonce(queries, documents, [2, 1, 0])
    assert torch.equal(single, infonce(queries, documents, np.array([2, 1, 0], dtype=np.int32)))


def test_options_as_json():
    import json

    options = {"a": 0.1, "b": True, "c": None, "d": ("x", "y"), "e": -3, "f": "s", "g": 1e-9}
    assert json.loads(encode(options)) == {**options, "d": ["x", "y"]}


# --- torch's machinery ---------------------------------------------------------------------------


def operator_inputs(**tensors):
    optional = [tensors.get(name) for name in OPTIONAL_TENSORS]
    return (
        leaf(4, 6),
        leaf(8, 6, seed=1),
        torch.tensor(0.2, requires_grad=True),
        torch.tensor(0.0, requires_grad=True),
        torch.tensor([0, 1, 3, 3, 4]),
        torch.tensor([2, 0, 1, 7]),
        *optional,
    )


@pytest.mark.parametrize(
    ("tensors", "options"),
    [
        ({}, {}),
        (
            {
                "positive_weights": torch.tensor([1.0, 2.0, 1.0, 1.0]),
                "log_weights": torch.zeros(8),
                "document_ids": torch.arange(8),
                "exclude_offsets": torch.tensor([0, 0, 1, 1, 1]),
                "exclude_ids": torch.tensor([5]),
                "max_score": torch.full((4,), 0.9),
            },
            {"objective": "excl", "metric": "dot"},
        ),
    ],
)
def test_opcheck(tensors, options):
    inputs = (*operator_inputs(**tensors), encode(options))
    torch.library.opcheck(torch.ops.stope.infonce_forward, inputs)
    still = tuple(x.detach() if isinstance(x, torch.Tensor) else x for x in inputs)
    saved = list(torch.ops.stope.infonce_forward(*still))
    for wanted in (True, False):
        given = (torch.rand(4), wanted, saved, *still)
        torch.library.opcheck(torch.ops.stope.infonce_backward, given)
    torch.library.opcheck(torch.ops.stope.checked_weights, (torch.rand(4), False))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, when it loads its compiler
@pytest.mark.parametrize(("backend", "learns"), [("aot_eager", False), ("inductor", True)])
def test_compile_without_a_graph_break(backend, learns, monkeypatch, tmp_path):
    torch._dynamo.reset()
    # A graph that another build of stope left in the cache may expect statistics of another size.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    encoder = torch.nn.Linear(12, 8)
    twin = copy.deepcopy(encoder)
    options = {"objective": "excl", "relative_margin": 0.05, "directions": ("query_to_document",)}
    loss = InfoNCELoss(0.1, learnable_temperature=learns, **options)
    other = copy.deepcopy(loss)

    def step(encoder, loss, x, y, weights):
        return loss(encoder(x), encoder(y), weights=weights, document_ids=torch.arange(len(y)))

    compiled = torch.compile(step, fullgraph=True, backend=backend, dynamic=True)
    for rows in (5, 9):
        x, y, weights = normal(rows, 12), normal(rows, 12, seed=1), torch.rand(rows) + 0.1
        value = compiled(encoder, loss, x, y, weights)
        value.backward()
        expected = step(twin, other, x, y, weights)
        expected.backward()
        close(value, expected)
        close(encoder.weight.grad, twin.weight.grad)
        if learns:
            close(loss.log_scale.grad, other.log_scale.grad)
        assert torch.equal(loss.statistics.ranks, other.statistics.ranks)
    torch._dynamo.reset()


def test_compile_the_function_with_plain_arguments():
    torch._dynamo.reset()
    queries, documents = normal(4, 6), normal(4, 6, seed=1)

    def function(queries, documents):
        return infonce(queries, documents, temperature=0.1, metric="dot", max_score=2.0).sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    close(compiled(queries, documents), function(queries, documents))
    torch._dynamo.reset()


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_dropped_gets_no_gradient(compiled):
    """The loss is that without drop, the statistics tell, and far documents move nothing."""
    generator = torch.Generator().manual_seed(3)
    documents = torch.randn(1100, 24, generator=generator)
    queries = documents[:256] + 0.5 * torch.randn(256, 24, generator=generator)
    documents.requires_grad_()
    loss = InfoNCELoss(temperature=0.01, drop=1e-3)
    call = torch.compile(loss, backend="eager", fullgraph=True) if compiled else loss
    value = call(queries, documents)
    value.backward()
    whole = InfoNCELoss(temperature=0.01)(queries.detach(), documents.detach())
    assert abs(value.item() - whole.item()) < 1e-3
    statistics = loss.statistics
    assert (statistics.left_out <= 1e-3).all()
    assert statistics.kept.sum() < 0.1 * statistics.negatives.sum()
    assert (documents.grad[256:].abs().sum(1) == 0).any()


def test_autocast():
    encoder = torch.nn.Linear(12, 8)
    loss = InfoNCELoss(0.1, learnable_temperature=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        queries, documents = encoder(normal(6, 12)), encoder(normal(6, 12, seed=1))
        assert queries.dtype == torch.bfloat16
        value = loss(queries, documents)
        again = infonce(queries.detach(), documents.detach(), temperature=loss.temperature)
    assert value.dtype == again.dtype == torch.float32
    assert value.item() == pytest.approx(again.mean().item())
    value.backward()
    assert encoder.weight.grad.dtype == torch.float32
    assert torch.isfinite(encoder.weight.grad).all()
    assert loss.log_scale.grad.item() != 0


def test_second_derivatives_are_refused():
    queries = leaf(4, 6)
    (gradient,) = torch.autograd.grad(
        infonce(queries, normal(4, 6, seed=1)).mean(), queries, create_graph=True
    )
    with pytest.raises(RuntimeError, match="first derivatives of infonce only"):
        gradient.square().sum().backward()


@pytest.mark.parametrize("which", ["queries", "documents", "log_weights"])
def test_an_input_changed_in_place_is_noticed(which):
    tensors = {
        "queries": normal(4, 6),
        "documents": normal(4, 6, seed=1),
        "log_weights": torch.zeros(4),
    }
    scale = torch.ones(6, requires_grad=True)
    losses = infonce(
        tensors["queries"] * 1, tensors["documents"] * scale, log_weights=tensors["log_weights"]
    )
    losses.mean().backward()  # nothing changed: fine
    kept = {name: tensor.clone() for name, tensor in tensors.items()}
    losses = infonce(
        kept["queries"] if which == "queries" else kept["queries"] * scale,
        kept["documents"] if which != "queries" else kept["documents"] * scale,
        log_weights=kept["log_weights"],
    )
    kept[which].add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.mean().backward()
