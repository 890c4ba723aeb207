"""stope.torch.distributed: W processes equal one with all rows (docs/methods.md, H7)."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from gloo_processes import together

from stope.torch import InfoNCELoss
from stope.torch.distributed import (
    DistributedInfoNCELoss,
    average_gradients,
    gather_rows,
    own_rows,
    rank,
    world_size,
)

ALL = ["query_to_document", "query_to_query", "document_to_query", "document_to_document"]
OWN = [[0, 1], [1], [2], [4], [5, 3]]  # several positives; the last queries keep the first rows'


# name: (forms, options of the loss, names of what comes with the batch)
CASES = {
    "plain": (("gather", "ring"), {}, ()),
    "dot": (("gather", "ring"), {"metric": "dot"}, ()),
    "weights": (("gather", "ring"), {}, ("weights",)),
    "uneven": (("gather", "ring"), {}, ("weights", "uneven")),
    "several": (("gather", "ring"), {"objective": "excl"}, ("several",)),
    "in": (("gather", "ring"), {"objective": "in"}, ("several",)),
    "decoupled": (("gather", "ring"), {"objective": "decoupled"}, ()),
    "DCLW": (("gather", "ring"), {"objective": "DCLW"}, ("several", "uneven", "weights")),
    "columns": (("gather", "ring"), {}, ("log_weights", "document_ids", "exclude")),
    "margins": (
        ("gather", "ring"),
        {"relative_margin": 0.05, "absolute_margin": 0.02, "min_score": -0.4},
        ("max_score",),
    ),
    "hard": (
        ("gather", "ring"),
        {"hardness": "all_negatives", "hardness_strength": 3.0, "hard_negative_log_weight": 0.5},
        ("hard_negatives",),
    ),
    "empty": (("gather", "ring"), {"max_score": -2.0}, ()),
    "directions": (("gather",), {"directions": ALL}, ("weights", "document_ids", "hard_negatives")),
    "uneven directions": (
        ("gather",),
        {"directions": ALL, "absolute_margin": 0.0},
        ("weights", "uneven", "guide", "exclude", "max_score"),
    ),
    "per direction": (
        ("gather",),
        {"directions": ["query_to_document", "document_to_query"], "partition": "per_direction"},
        ("weights", "uneven"),
    ),
    "queue": (("gather",), {}, ("queue",)),
}


def case_batch(name, count):
    """Inputs of every process, ids counting its own documents."""
    names = CASES[name][2]
    generator = torch.Generator().manual_seed(4)
    found = []
    for r in range(count):
        rows = 5 + (r if "uneven" in names else 0)
        columns = 9 + (2 * r if "uneven" in names else 0)

        def normal(*shape):
            return torch.randn(*shape, generator=generator)

        part = {"queries": normal(rows, 6), "documents": normal(columns, 6)}
        if "weights" in names:
            part["weights"] = torch.rand(rows, generator=generator) * (r + 1) + 0.1
        if "several" in names:
            lists = [OWN[i % len(OWN)] for i in range(rows)]
            part["positives"] = lists
            part["positive_weights"] = torch.rand(sum(map(len, lists)), generator=generator) + 0.5
        if "log_weights" in names:
            part["log_weights"] = normal(columns)
        if "document_ids" in names:
            part["document_ids"] = torch.randint(0, 12, (columns,), generator=generator)
        if "exclude" in names:
            part["exclude"] = [[(i + 3) % columns] if i % 2 else [] for i in range(rows)]
        if "hard_negatives" in names:
            part["hard_negatives"] = [[columns - 1 - i % 3] for i in range(rows)]
        if "max_score" in names:
            part["max_score"] = normal(rows) * 0.2 + 0.5
        if "guide" in names:
            part["guide_queries"], part["guide_documents"] = normal(rows, 4), normal(columns, 4)
        if "queue" in names:
            part["queue"] = torch.randn(7, 6, generator=torch.Generator().manual_seed(9))
        found.append(part)
    return found


def concatenated(parts):
    """The batch of one process that has everything."""
    whole, first = {}, 0
    for part in parts:
        for name, value in part.items():
            if name == "queue":
                whole[name] = value
            elif isinstance(value, list):
                whole.setdefault(name, []).extend([[i + first for i in ids] for ids in value])
            else:
                whole[name] = torch.cat([whole[name], value]) if name in whole else value
        first += len(part["documents"])
    if "positives" not in whole:
        starts = [0, *torch.tensor([len(p["documents"]) for p in parts]).cumsum(0).tolist()]
        whole["positives"] = [
            [start + i] for start, p in zip(starts, parts, strict=False)
            for i in range(len(p["queries"]))
        ]  # fmt: skip
    return whole


def encoder():
    torch.manual_seed(1)
    return torch.nn.Linear(6, 8).double().float()


def step(loss, module, batch):
    """Loss and the gradients of all parameters, of the inputs and of the weights."""
    inputs = dict(batch)
    queries = inputs.pop("queries").clone().requires_grad_()
    documents = inputs.pop("documents").clone().requires_grad_()
    weights = inputs.pop("weights", None)
    if weights is not None:
        weights = weights.clone().requires_grad_()
    if "queue" in inputs:
        with torch.no_grad():
            inputs["queue"] = module(inputs["queue"])
    value = loss(module(queries), module(documents), weights=weights, **inputs)
    value.backward()
    leaves = {"queries": queries, "documents": documents}
    if weights is not None:
        leaves["weights"] = weights
    return value.detach(), {name: leaf.grad for name, leaf in leaves.items()}


def sharded_step(form, batch, count):
    """Loss and whole gradients of an encoder whose parameters lie in parts in all processes."""
    from torch.distributed.fsdp import fully_shard

    module = torch.nn.Sequential(encoder(), torch.nn.Linear(8, 4))
    mesh = torch.distributed.init_device_mesh("cpu", (count,))
    for part in (*module, module):
        fully_shard(part, mesh=mesh)
    value, _ = step(DistributedInfoNCELoss(0.2, form=form), module, batch)
    return {"loss": value, "parameters": [p.grad.full_tensor() for p in module.parameters()]}


def flat_step(form, batch):
    """The same by FSDP 1, which keeps all parameters in one tensor, cut among the processes."""
    from torch.distributed.fsdp import FullyShardedDataParallel

    module = torch.nn.Sequential(encoder(), torch.nn.Linear(8, 4))
    module = FullyShardedDataParallel(module, device_id=torch.device("cpu"))
    value, _ = step(DistributedInfoNCELoss(0.2, form=form), module, batch)
    (flat,) = module.parameters()
    return {"loss": value, "parameters": [gather_rows(flat.grad)]}


def worker(here, count, folder):
    """Every case, in both forms, in one of the processes."""
    from torch.nn.parallel import DistributedDataParallel

    found = {}
    for name, (forms, options, _) in CASES.items():
        for form in forms:
            module = DistributedDataParallel(encoder())
            loss = DistributedInfoNCELoss(0.2, form=form, learnable_temperature=True, **options)
            value, gradients = step(loss, module, case_batch(name, count)[here])
            average_gradients(loss.parameters())
            found[name, form] = {
                "loss": value,
                "parameters": [p.grad for p in module.parameters()],
                "temperature": loss.log_scale.grad,
                "inputs": gradients,
                "statistics": loss.statistics._asdict(),
            }
    for form in ("gather", "ring"):
        found["FSDP", form] = sharded_step(form, case_batch("uneven", count)[here], count)
        found["FSDP 1", form] = flat_step(form, case_batch("uneven", count)[here])
    rows = torch.arange(float(2 + here))
    rows.requires_grad_()
    everything = gather_rows(rows[:, None])
    (everything[:, 0] * (here + 1)).sum().backward()
    mine = own_rows(len(rows))
    numbers = (mine.start, mine.stop, rank(), world_size())
    found["gather"] = (everything.detach(), rows.grad, numbers)
    try:
        loss = DistributedInfoNCELoss()
        loss(torch.eye(3), torch.eye(3), weights=torch.zeros(3))
    except ValueError as error:
        found["zero weights"] = str(error)
    half = DistributedInfoNCELoss(0.2)
    x = torch.eye(4, dtype=torch.bfloat16).requires_grad_()
    half(x, x).backward()
    found["half"] = x.grad
    return found


@pytest.fixture(scope="module", params=[2, 4])
def processes(request, tmp_path_factory):
    """What each of the processes found."""
    return together(__file__, tmp_path_factory.mktemp("ring"), request.param)


def close(a, b, tolerance=1e-6):
    scale = max(1e-2, float(b.abs().max()))
    assert a.shape == b.shape
    assert float((a - b).abs().max()) <= tolerance * scale, float((a - b).abs().max()) / scale


@pytest.mark.parametrize(
    ("name", "form"), [(name, form) for name, case in CASES.items() for form in case[0]]
)
def test_equals_one_process_with_the_concatenated_batch(processes, name, form):
    count = len(processes)
    parts = case_batch(name, count)
    module = encoder()
    loss = InfoNCELoss(0.2, learnable_temperature=True, **CASES[name][1])
    value, gradients = step(loss, module, concatenated(parts))
    found = [process[name, form] for process in processes]
    tolerance = 1e-6
    mean = torch.stack([f["loss"] for f in found]).mean()
    close(mean, value, tolerance)
    for process in found:
        for ours, exact in zip(process["parameters"], module.parameters(), strict=True):
            close(ours, exact.grad, tolerance)
        close(process["temperature"], loss.log_scale.grad, tolerance)
    for leaf, exact in gradients.items():
        # A process's gradient of its own inputs belongs to the sum of the processes' losses.
        close(torch.cat([f["inputs"][leaf] for f in found]) / count, exact, tolerance)
    for field in ("losses", "log_sum_exp", "positive_scores", "best_negative_scores"):
        ours = torch.cat([f["statistics"][field] for f in found])
        exact = getattr(loss.statistics, field)
        assert torch.equal(torch.isfinite(ours), torch.isfinite(exact)), field
        close(torch.nan_to_num(ours, neginf=0.0), torch.nan_to_num(exact, neginf=0.0), 5e-6)
    for field in ("negatives", "best_negatives", "ranks"):
        ours = [f["statistics"][field] for f in found]
        if field == "ranks" and form == "ring":
            assert ours == [None] * count
        else:
            assert torch.equal(torch.cat(ours), getattr(loss.statistics, field)), field


@pytest.mark.parametrize("form", ["gather", "ring"])
def test_parameters_in_parts_have_the_gradients_of_one_process(processes, form):
    """FSDP, with batches of different size."""
    module = torch.nn.Sequential(encoder(), torch.nn.Linear(8, 4))
    value, _ = step(InfoNCELoss(0.2), module, concatenated(case_batch("uneven", len(processes))))
    found = [process["FSDP", form] for process in processes]
    close(torch.stack([f["loss"] for f in found]).mean(), value)
    for process in found:
        for ours, exact in zip(process["parameters"], module.parameters(), strict=True):
            close(ours, exact.grad)


@pytest.mark.parametrize("form", ["gather", "ring"])
def test_parameters_in_one_flat_tensor(processes, form):
    """FSDP 1, likewise; what its tensor has at the end to come out even is no parameter."""
    module = torch.nn.Sequential(encoder(), torch.nn.Linear(8, 4))
    value, _ = step(InfoNCELoss(0.2), module, concatenated(case_batch("uneven", len(processes))))
    exact = torch.cat([parameter.grad.ravel() for parameter in module.parameters()])
    found = [process["FSDP 1", form] for process in processes]
    close(torch.stack([f["loss"] for f in found]).mean(), value)
    for process in found:
        close(process["parameters"][0][: len(exact)], exact)


def test_rows_of_all_processes(processes):
    count = len(processes)
    rows = [torch.arange(float(2 + r)) for r in range(count)]
    total = float(sum(range(1, count + 1)))
    for here, process in enumerate(processes):
        everything, gradient, (start, stop, r, size) = process["gather"]
        assert torch.equal(everything[:, 0], torch.cat(rows))
        assert torch.equal(gradient, torch.full((2 + here,), total))
        assert torch.equal(everything[start:stop, 0], rows[here])
        assert (r, size) == (here, count)


def test_zero_weights_everywhere(processes):
    assert all("weights are all zero" in process["zero weights"] for process in processes)


def test_half_precision(processes):
    for process in processes:
        assert process["half"].dtype == torch.bfloat16
        assert torch.isfinite(process["half"]).all()


# --- one process ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["gather", "ring"])
def test_without_a_process_group_it_is_the_plain_loss(form):
    (batch,) = case_batch("weights", 1)
    loss = DistributedInfoNCELoss(0.2, form=form)
    assert torch.equal(loss(**batch), InfoNCELoss(0.2)(**batch))
    assert (rank(), world_size(), own_rows(3)) == (0, 1, slice(0, 3))
    average_gradients([torch.nn.Parameter(torch.ones(2))])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"form": "star"}, "form is 'star'"),
        ({"form": "ring", "directions": ALL}, "the ring does not have directions"),
        ({"form": "ring", "objective": "pairwise"}, "the ring does not have objective 'pairwise'"),
        ({"form": "ring", "focal_margin": 0.3}, "the ring does not have focal_margin"),
        ({"form": "ring", "drop": 0.01}, "the ring does not have drop=0.01"),
        ({"form": "ring", "foreign_hard_negatives": False}, "foreign_hard_negatives=False"),
    ],
)
def test_bad_options(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        DistributedInfoNCELoss(**options)


def test_copies_of_data_parallel_are_refused():
    """Each would have a part of the batch, and of its negatives."""
    replica = InfoNCELoss()._replicate_for_data_parallel()
    with pytest.raises(TypeError, match=r"torch\.nn\.DataParallel.*torchrun"):
        replica(torch.eye(3), torch.eye(3))
