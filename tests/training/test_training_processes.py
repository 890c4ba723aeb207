"""Training in several processes: DDP through `train`, FSDP under a refresh, one GPU of several."""

from __future__ import annotations

import os

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from gloo_processes import together
from refresh_cases import some_pairs
from sentence_transformers import SentenceTransformerTrainingArguments

from stope.data import Pairs
from stope.encoders import static_encoder
from stope.training import Recipe, contrastive_loss, train, trainer
from stope.training.library_trainer import keep_device
from stope.training.negatives.encode_and_mine import Encoding, encode_and_mine

WORDS = [f"word{i}" for i in range(40)]
ROWS = [(f"{WORDS[i]} {WORDS[i * 7 % 40]}", f"{WORDS[(i + 1) % 40]} {WORDS[i]}") for i in range(37)]
PAIRS = Pairs.from_texts(*zip(*ROWS, strict=True))
LIMITS = {"num_negatives": 4, "relative_margin": 0.05}


def encoder():
    return static_encoder([text for row in ROWS for text in row] * 3, dim=8)


class Parts(torch.nn.Module):
    """An encoder of two layers over counts of letters, which FSDP may spread over processes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = torch.nn.Sequential(torch.nn.Linear(32, 16), torch.nn.Linear(16, 12))
        self.calls = 0

    def forward(self, rows):
        return self.layers(rows)

    def encode(self, texts, **options):
        self.calls += 1
        assert not self.training
        rows = np.zeros((len(texts), 32), np.float32)
        for row, text in enumerate(texts):
            np.add.at(rows[row], np.frombuffer(text.encode(), np.uint8) % 32, 1)
        with torch.no_grad():
            return self(torch.from_numpy(rows)).numpy()


def worker(here, count, folder):
    names = {"RANK": here, "WORLD_SIZE": count, "LOCAL_RANK": here, "MASTER_PORT": 29511}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    model, told = encoder(), []
    report = train(
        model, PAIRS, epochs=2, batch_size=5, threads=1, output=str(folder / "run"),
        refresh={"num_negatives": 1, "pool": 4, "every": 3}, say=told.append,
    )  # fmt: skip
    return {
        "weights": torch.cat([p.detach().ravel() for p in model.parameters()]),
        "losses": report.losses,
        "refreshes": len(report.refreshes),
        "told": len(told),
        "parts": of_parts(here, count),
    }


def of_parts(here, count):
    """Candidates of an encoder in parts; each process calls it as often as its texts need."""
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    flat = FullyShardedDataParallel(Parts(), device_id=torch.device("cpu"))
    try:
        encode_and_mine(some_pairs(), flat, Encoding(None, 9, None), **LIMITS)
    except ValueError as error:
        refused = str(error)
    model = Parts()
    mesh = torch.distributed.init_device_mesh("cpu", (count,))
    for part in (*model.layers, model):
        fully_shard(part, mesh=mesh)
    ids = encode_and_mine(some_pairs(), model, Encoding(None, 9 + 9 * here, None), **LIMITS).ids
    shares = [p.to_local().numel() for p in model.parameters()]
    model(torch.ones(3, 32)).sum().backward()  # it goes on
    gradients = [p.grad.full_tensor() for p in model.parameters()]
    return {
        "ids": ids.tolist(),
        "calls": model.calls,
        "shares": shares,
        "gradients": gradients,
        "refused": refused,
    }


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    return together(__file__, tmp_path_factory.mktemp("training"), timeout=240)


def test_train_in_two_processes_has_one_model(processes):
    """37 rows do not come out even; each step has both processes' rows, and one refresh."""
    first, second = processes
    assert torch.equal(first["weights"], second["weights"])
    before = torch.cat([p.detach().ravel() for p in encoder().parameters()])
    assert not torch.equal(first["weights"], before)
    assert first["losses"] == second["losses"]
    assert len(first["losses"]) == 2 * 3
    assert np.isfinite(first["losses"]).all()
    assert first["refreshes"] == second["refreshes"] == 2
    assert first["told"] > second["told"] == 0


def test_an_encoder_in_parts_is_whole_while_negatives_are_refreshed(processes):
    first, second = (process["parts"] for process in processes)
    whole = Parts()
    expected = encode_and_mine(some_pairs(), whole, Encoding(None, 9, None), **LIMITS)
    assert first["ids"] == second["ids"] == expected.ids.tolist()
    assert first["calls"] > second["calls"]
    whole(torch.ones(3, 32)).sum().backward()
    for process in (first, second):
        assert process["refused"].endswith("fully_shard to refresh its negatives")
        assert process["shares"] == [p.numel() // 2 for p in whole.parameters()]
        for ours, exact in zip(process["gradients"], whole.parameters(), strict=True):
            torch.testing.assert_close(ours, exact.grad)


def test_a_batch_size_that_nobody_gave_is_for_the_rows_of_each_process(monkeypatch):
    sizes = []
    for count in (1, 2):
        monkeypatch.setattr(trainer, "processes", lambda count=count: (0, count))
        sizes.append(trainer._schedule(Recipe(), 4000, static=True).batch_size)
    assert sizes == [500, 250]


# --- several GPUs, one process -------------------------------------------------------------------


def test_a_model_in_data_parallel_is_refused():
    model = encoder()
    loss = contrastive_loss(model)
    loss.model = torch.nn.DataParallel(model)
    with pytest.raises(TypeError, match=r"torch\.nn\.DataParallel.*torchrun"):
        loss([])


@pytest.mark.parametrize(("gpus", "lines"), [(1, 0), (2, 1)])
def test_one_process_trains_on_the_gpu_where_the_model_is(monkeypatch, request, gpus, lines):
    """Emulated: what the library's arguments say, which would be cuda:0 and all GPUs."""
    request.addfinalizer(lambda: AcceleratorState._reset_state(reset_partial_state=True))
    current, told = [], []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    arguments = SentenceTransformerTrainingArguments("nowhere", use_cpu=True, report_to="none")
    before = arguments.device, arguments.n_gpu
    keep_device(arguments, torch.device("cpu"), told.append)
    assert (arguments.device, arguments.n_gpu) == before
    there = torch.device("cuda:1")
    keep_device(arguments, there, told.append)
    assert (arguments.device, arguments.n_gpu) == (there, 1)
    assert arguments.distributed_state.device == Accelerator().device == there
    assert current == [there]
    assert len(told) == lines
    assert not told or told[0].startswith("training on cuda:1 alone; torchrun --nproc-per-node 2")
