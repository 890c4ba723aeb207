"""stope.scale.processes: who trains together; a process that ends is told of, not waited for."""

from __future__ import annotations

import os
import re
import time
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from gloo_processes import together

from stope.scale import processes
from stope.torch.distributed import DistributedInfoNCELoss, average_gradients


def loss_of(form, group):
    x = torch.eye(4)[:3].requires_grad_()
    DistributedInfoNCELoss(0.1, form=form, group=group)(x, x).backward()
    return x


def said(call):
    began = time.monotonic()
    try:
        call()
    except RuntimeError as error:
        assert time.monotonic() - began < 60
        return str(error)
    return "nothing"


def end(folder, here, found):
    """Leave what was found, and end at once, as a process that is killed."""
    torch.save(found, folder / f"{here}.pt")
    os._exit(0)


def worker(here, count, folder):
    """Process 3 is late once; then processes 1 and 3 end, while 0 and 2 count on them."""
    gather, ring = (torch.distributed.new_group(ranks) for ranks in ([0, 1], [2, 3]))
    found = {"sum": processes.reduced([1.0 + here, 2.0], "SUM")}
    if here == 3:
        time.sleep(6)
    found["late"] = said(lambda: processes.wait(2.0))
    if here < 2:
        loss_of("gather", gather)
        if here == 1:
            end(folder, here, found)
        found["gather"] = said(lambda: loss_of("gather", gather))
        found["average"] = said(lambda: average_gradients([loss_of("gather", None)], gather))
    else:
        loss_of("ring", ring)
        if here == 3:
            end(folder, here, found)
        found["ring"] = said(lambda: loss_of("ring", ring))
    found["rows"] = said(lambda: processes.gathered(np.ones((2, 2))))
    found["first"] = said(lambda: processes.of_first({"a": 1.0}))
    return end(folder, here, found)


def test_a_process_that_ends_ends_the_others_with_a_sentence(tmp_path):
    found = together(__file__, tmp_path, 4, timeout=120)
    assert all(one["sum"] == [10.0, 8.0] for one in found)
    assert found[0]["late"].startswith("Process 0 of 4 lost process 3 while all waited")
    done = {"gather": "rows were gathered", "rows": "rows were gathered"}
    for name in ("gather", "average", "rows"):
        assert found[0][name].startswith("Process 0 of 4 lost another one while "), found[0][name]
        assert done.get(name, "") in found[0][name]
    for name in ("ring", "rows"):
        assert found[2][name].startswith("Process 2 of 4 lost another one while "), found[2][name]
    assert not any(
        text.endswith(".")
        for text in (*found[0].values(), *found[2].values())
        if isinstance(text, str)
    )


class Odd(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


def test_an_error_travels_to_the_other_processes():
    for error in (ValueError("seven"), TypeError(), OSError(28, "No space left", "model")):
        there = processes._error(*processes._described(error))
        assert (type(there), str(there)) == (type(error), str(error))
    there = processes._error(*processes._described(Odd(1, 2)))
    assert (type(there), str(there)) == (RuntimeError, "Odd: 1 and 2")
    undecoded = UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    there = processes._error(*processes._described(undecoded))
    assert (type(there), str(there)) == (RuntimeError, f"UnicodeDecodeError: {undecoded}")
    with pytest.raises(Odd, match="1 and 2"), processes.together():
        raise Odd(1, 2)


@pytest.mark.parametrize(("gpus", "backend"), [(0, "gloo"), (3, "cpu:gloo,cuda:nccl")])
def test_processes_meet_each_on_its_gpu(monkeypatch, gpus, backend):
    """Emulated: what torch is asked for by the second process of a machine."""
    names = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "MASTER_PORT": "1"}
    for name, value in {**names, "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    chosen, made = [], []
    cuda = SimpleNamespace(
        is_available=lambda: gpus > 0, device_count=lambda: gpus, set_device=chosen.append
    )
    group = SimpleNamespace(init_process_group=lambda name, timeout: made.append(name))
    processes.meet(SimpleNamespace(cuda=cuda, distributed=group))
    assert (made, chosen) == ([backend], [1] if gpus else [])
    if gpus:
        monkeypatch.setenv("LOCAL_RANK", "3")
        with pytest.raises(ValueError, match="process 3 of this machine has no GPU, of which"):
            processes.meet(SimpleNamespace(cuda=cuda, distributed=group))
    monkeypatch.delenv("MASTER_ADDR")
    processes.meet(None)  # nobody started it: nothing is asked for


def test_errors_about_something_else_stay(monkeypatch):
    with pytest.raises(RuntimeError, match=r"^shapes differ$"), processes.hearing("now"):
        raise RuntimeError("shapes differ")
    with (
        pytest.raises(RuntimeError, match=r"^Connection closed by peer$"),
        processes.hearing("now"),
    ):
        raise RuntimeError("Connection closed by peer")  # there is no process group
    group = SimpleNamespace(get_rank=lambda group: 1, get_world_size=lambda group: 2)
    monkeypatch.setattr(processes, "distributed", lambda: group)
    with (
        pytest.raises(RuntimeError, match="Process 1 of 2 lost another one now"),
        processes.hearing("now"),
    ):
        raise RuntimeError("Connection closed by peer [127.0.0.1]:5")


@pytest.mark.parametrize(
    ("said", "lost"),
    [
        ("Timed out waiting 1800000ms for recv operation to complete", True),
        ("Application timeout caused pair closure", True),
        ("NCCL error: remote process exited or there was a network error", True),
        ("Watchdog caught collective operation timeout: WorkNCCL(SeqNum=3)", True),
        ("NCCL error: Duplicate GPU detected", False),
        ("CUDA error: the launch timed out and was terminated", False),
    ],
)
def test_which_errors_are_of_another_process(monkeypatch, said, lost):
    group = SimpleNamespace(get_rank=lambda group: 0, get_world_size=lambda group: 2)
    monkeypatch.setattr(processes, "distributed", lambda: group)
    expected = "Process 0 of 2 lost another one" if lost else re.escape(said)
    with pytest.raises(RuntimeError, match=expected), processes.hearing("now"):
        raise RuntimeError(said)


@pytest.mark.parametrize(
    ("backend", "on_device", "bound", "moved"),
    [
        ("gloo", False, None, []),
        ("nccl", False, None, [None]),  # to the current device
        ("nccl", False, "cuda:1", ["cuda:1"]),
        ("nccl", True, "cuda:1", []),  # where it is
        ("nccl", True, None, []),
    ],
)
def test_tensors_keep_their_device(monkeypatch, backend, on_device, bound, moved):
    """Emulated: nobody needs two GPUs to see that cuda:1 stays cuda:1."""
    world = SimpleNamespace(bound_device_id=bound)
    module = SimpleNamespace(get_backend=lambda group: backend, group=SimpleNamespace(WORLD=world))
    monkeypatch.setattr(processes, "distributed", lambda: module)
    asked = []
    tensor = SimpleNamespace(is_cuda=on_device, cuda=lambda device: asked.append(device) or "there")
    assert processes.placed(tensor) == ("there" if moved else tensor)
    assert asked == moved
