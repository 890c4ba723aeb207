"""stope.torch: the loss modules, their temperature and weights, and what they say to bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from torch_cases import close, leaf, normal, plain

from stope.torch import InfoNCELoss, SigmoidLoss, infonce

# --- modules -------------------------------------------------------------------------------------


def test_the_temperature_learns():
    loss = InfoNCELoss(0.1, learnable_temperature=True)
    assert [name for name, _ in loss.named_parameters()] == ["log_scale"]
    assert loss.log_scale.item() == pytest.approx(math.log(10), rel=1e-6)
    queries, documents = normal(6, 8), normal(6, 8, seed=1)
    loss(queries, documents).backward()
    log_scale = torch.tensor(math.log(10), dtype=torch.float64, requires_grad=True)
    plain(queries, documents, torch.exp(-log_scale)).mean().backward()
    assert loss.log_scale.grad.item() == pytest.approx(log_scale.grad.item(), rel=1e-5)


def test_a_clamped_temperature_has_no_gradient():
    loss = InfoNCELoss(0.01, learnable_temperature=True, max_scale=100)
    with torch.no_grad():
        loss.log_scale.add_(1.0)
    assert loss.temperature.item() == pytest.approx(0.01, rel=1e-6)
    loss(normal(4, 8), normal(4, 8, seed=1)).backward()
    assert loss.log_scale.grad.item() == 0.0


def test_a_fixed_temperature_is_no_parameter():
    loss = InfoNCELoss(0.1)
    assert list(loss.parameters()) == []
    assert loss.temperature == 0.1
    assert "temperature=0.1" in repr(loss)


def test_weights_are_normalised_and_learn():
    queries, documents = leaf(6, 8), leaf(6, 8, seed=1)
    weights = (torch.rand(6, generator=torch.Generator().manual_seed(3)) + 0.1).requires_grad_()
    loss = InfoNCELoss(0.2)
    value = loss(queries, documents, weights=weights)
    got = torch.autograd.grad(value, (queries, weights))
    rows = plain(queries, documents, 0.2)
    exact = (weights.double() * rows).sum() / weights.double().sum()
    close(value, exact)
    for ours, theirs in zip(got, torch.autograd.grad(exact, (queries, weights)), strict=True):
        close(ours, theirs, 2e-5)
    scaled = loss(queries, documents, weights=weights * 1024)
    assert scaled.item() == value.item()  # a power of two changes no bit
    doubled = loss(queries, documents, weights=torch.tensor([2, 1, 0, 1, 0, 0]))
    assert doubled.item() == pytest.approx((rows[0] * 2 + rows[1] + rows[3]).item() / 4, rel=1e-5)


@pytest.mark.parametrize("kind", [InfoNCELoss, SigmoidLoss])
def test_calls_of_several_threads_weigh_by_their_own_statistics(kind):
    """The attribute is of whichever call ended last; here always of another one."""

    class Shared(kind):
        statistics = property(lambda self: None, lambda self, value: None)

    queries, documents = normal(6, 16), normal(6, 16, seed=1)
    options = {"weights": lambda statistics: statistics.ranks.float()}
    expected = kind()(queries, documents, **options)
    assert Shared()(queries, documents, **options).item() == expected.item()


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ([1.0, -0.5, 1.0], "weights of query 1 is -0.5"),
        ([1.0, 1.0, math.nan], "weights of query 2 is nan"),
        ([math.inf, 1.0, 1.0], "weights of query 0 is inf"),
        ([0.0, 0.0, 0.0], "weights are all zero"),
        ([1.0, 1.0], r"weights has shape \(2,\)"),
    ],
)
def test_bad_weights(weights, sentence):
    with pytest.raises(ValueError, match=sentence):
        InfoNCELoss()(normal(3, 4), normal(3, 4, seed=1), weights=torch.tensor(weights))


def test_sigmoid_oracle():
    """docs/methods.md, H9."""
    queries, documents = torch.eye(2), torch.tensor([[0.9, 0.2], [0.1, 0.8]])
    loss = SigmoidLoss(metric="dot")
    value = loss(queries, documents)
    assert value.item() == pytest.approx(1.720324, abs=2e-6)
    value.backward()
    assert loss.log_scale.grad.item() == pytest.approx(-0.681255 * 10, rel=1e-5)
    assert loss.bias.grad.item() == pytest.approx(-0.805698, abs=2e-6)
    assert loss.statistics.negatives.tolist() == [1, 1]
    assert not any(p.requires_grad for p in SigmoidLoss(learnable=False).parameters())


# --- bad input -----------------------------------------------------------------------------------


def test_a_loss_inside_a_checkpoint():
    """Whose saved tensors may be unpacked once."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(n, 8, generator=generator, requires_grad=True) for n in (6, 18)]
    loss = InfoNCELoss(0.1, learnable_temperature=True)
    leaves = [*rows, *loss.parameters()]
    plain = torch.autograd.grad(loss(*rows), leaves)
    again = torch.utils.checkpoint.checkpoint(loss, *rows, use_reentrant=False)
    for a, b in zip(plain, torch.autograd.grad(again, leaves), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: InfoNCELoss(0.0), ValueError, "temperature is 0.0"),
        (lambda: InfoNCELoss(math.nan), ValueError, "temperature is nan"),
        (
            lambda: InfoNCELoss(torch.nn.Parameter(torch.ones(()))),
            TypeError,
            "temperature requires",
        ),
        (lambda: InfoNCELoss("warm"), TypeError, "temperature is 'warm'"),
        (
            lambda: InfoNCELoss(0.001, learnable_temperature=True),
            ValueError,
            "is 1000, above max_scale=100",
        ),
        (lambda: InfoNCELoss(margin=1), TypeError, "no option 'margin'"),
        (lambda: SigmoidLoss(objective="out"), TypeError, "fixes objective"),
        (lambda: SigmoidLoss(bias=math.inf), ValueError, "bias is inf"),
    ],
)
def test_bad_modules(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"queries": np.eye(4)}, TypeError, "queries is a ndarray; give a torch tensor"),
        ({"documents": torch.ones(4)}, ValueError, "documents has 1 dimensions"),
        ({"queries": torch.eye(4, dtype=torch.float64)}, TypeError, r"queries\.float\(\)"),
        ({"temperature": torch.ones(2)}, ValueError, "temperature has 2 elements"),
        ({"temperature": math.inf}, ValueError, "temperature"),
        ({"positives": [0, 1]}, ValueError, "positives has ids for 2 queries"),
        ({"positives": [[0], [1]]}, ValueError, "positives has 2 id lists for 4 queries"),
        ({"positives": [0.5, 1.0, 2.0, 3.0]}, TypeError, "ids are integers"),
        ({"positives": (torch.arange(5),)}, ValueError, "a tuple is CSR"),
        ({"hard_negatives": torch.zeros(4, 1, 1).long()}, ValueError, "3 dimensions"),
        ({"margin": 0.1}, TypeError, "infonce has no option 'margin'"),
    ],
)
def test_bad_arguments(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        infonce(**{"queries": torch.eye(4), "documents": torch.eye(4), **arguments})


def test_unknown_tensors_of_a_batch():
    with pytest.raises(TypeError, match="takes no 'objective' with a batch"):
        InfoNCELoss()(torch.eye(2), torch.eye(2), objective="in")


def test_devices():
    with pytest.raises(ValueError, match="queries is on cpu, but documents is on meta"):
        infonce(torch.eye(4), torch.eye(4, device="meta"))
    with pytest.raises(ValueError, match="queries is on cpu, but log_weights is on meta"):
        infonce(torch.eye(4), torch.eye(4), log_weights=torch.zeros(4, device="meta"))
    with pytest.raises((RuntimeError, ValueError), match="queries is on meta"):
        infonce(torch.eye(4, device="meta"), torch.eye(4, device="meta"))


# --- DCLW ----------------------------------------------------------------------------------------


def dclw(queries, documents, positives, weights, temperature, sigma):
    """docs/methods.md, E4, the plain way in float64; the factors are constants."""
    q, d = (torch.nn.functional.normalize(rows.double(), dim=1) for rows in (queries, documents))
    scores = q @ d.T
    near, pull, rest = [], [], []
    for row, (ids, share) in enumerate(zip(positives, weights, strict=True)):
        share = torch.tensor(share, dtype=torch.float64) / sum(share)
        near.append((share * scores[row, ids]).sum())
        others = [j for j in range(len(d)) if j not in ids]
        pull.append(near[-1] / temperature)
        rest.append((scores[row, others] / temperature).logsumexp(0))
    near = torch.stack(near).detach()
    factors = 2 - len(near) * (near / sigma).softmax(0)
    return torch.stack(rest) - factors * torch.stack(pull), factors


def test_dclw_is_its_formula():
    torch.manual_seed(0)
    queries, documents = (
        torch.randn(5, 6, requires_grad=True),
        torch.randn(9, 6, requires_grad=True),
    )
    positives = [[0], [3, 1], [2], [8], [4, 5, 6]]
    weights = [[1.0], [1.0, 3.0], [2.0], [1.0], [1.0, 1.0, 2.0]]
    loss = InfoNCELoss(0.3, objective="DCLW", learnable_temperature=True)
    assert (loss.options["objective"], loss.positive_sigma) == ("decoupled", 0.5)
    flat = torch.tensor([w for row in weights for w in row])
    rows, statistics = loss.row_losses(queries, documents, positives, positive_weights=flat)
    copies = [t.detach().double().requires_grad_() for t in (queries, documents)]
    temperature = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    expected, factors = dclw(*copies, positives, weights, temperature, 0.5)
    assert factors.mean().item() == pytest.approx(1.0)
    torch.testing.assert_close(rows.double(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(statistics.losses, rows.detach())
    rows.square().sum().backward()
    expected.square().sum().backward()
    for ours, copied in zip((queries, documents), copies, strict=True):
        torch.testing.assert_close(ours.grad.double(), copied.grad, rtol=1e-4, atol=1e-4)
    by_scale = -temperature.grad.item() * 0.3  # d / d log(1 / temperature)
    assert loss.log_scale.grad.item() == pytest.approx(by_scale, rel=1e-4)


def test_dclw_with_a_large_sigma_or_without_negatives_is_dcl():
    torch.manual_seed(1)
    queries, documents = torch.randn(4, 6), torch.randn(4, 6)
    plain = InfoNCELoss(objective="DCL").row_losses(queries, documents)[0]
    weak = InfoNCELoss(objective="DCLW", positive_sigma=1e7).row_losses(queries, documents)[0]
    torch.testing.assert_close(weak, plain, rtol=1e-5, atol=1e-4)
    loss = InfoNCELoss(objective="decoupled", positive_sigma=0.5)
    exclude = [[1, 2, 3], [], [], []]
    assert loss.row_losses(queries, documents, exclude=exclude)[0][0] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"positive_sigma": 0.5}, "only objective 'decoupled' has one"),
        ({"objective": "DCL", "positive_sigma": 0.5}, "which is DCLW's"),
        ({"objective": "DCLW", "positive_sigma": -1.0}, "positive_sigma is -1"),
        ({"objective": "dclw", "focal_margin": 0.3}, "focal_margin is 0.3"),
        (
            {
                "objective": "dclw",
                "partition": "per_direction",
                "directions": ["query_to_document", "document_to_query"],
            },
            "partition is 'per_direction'",
        ),
    ],
)
def test_a_sigma_that_does_not_fit_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        InfoNCELoss(**options)
