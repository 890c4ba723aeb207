"""Runs that torchrun started: one folder, one voice, and the numbers of a single process."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import typer

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from gloo_processes import together

from stope import scale
from stope.cli.app import app
from stope.data import write_jsonl
from stope.runs import Config, run
from stope.runs.folder import RunFolder
from stope.training.callbacks.log import read_log

WORDS = [f"word{number}" for number in range(120)]
YAML = """
data: {folder}/pairs.jsonl
encoder: {{static: {{dim: 16}}}}
batches: shuffled
schedule: {{epochs: 8, batch_size: {batch_size}, threads: 1}}
negatives: {{every_epochs: 3, num_negatives: 1, pool: 5}}
evaluation: {{holdout: 0.2, every: 20}}
output: {{folder: {folder}/{name}, checkpoint_every: 10}}
"""
STEPS = 8 * 6  # 162 pairs are trained on, 27 in each step: 14 in one process, 13 in the other
ELSEWHERE = {
    "unreadable": ["data=nowhere.jsonl"],
    "student": ["encoder.static=null", "encoder.student=nowhere"],
    "adapter": ["encoder.static=null", "encoder.model=nowhere", "batches=null", "negatives=null",
                "evaluation.keep=best", "adapter.kind=linear"],
}  # fmt: skip


def written(folder, name, batch_size, count=203):
    """The path of a configuration over so many pairs."""
    drawn = random.Random(5)
    rows = []
    for _ in range(count):
        words = drawn.sample(WORDS, 5)
        positive = words[:3] + drawn.sample(WORDS, 4)
        rows.append({"query": " ".join(words), "positive": " ".join(positive)})
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "pairs.jsonl", rows)
    config = folder / f"{name}.yaml"
    config.write_text(YAML.format(folder=folder, batch_size=batch_size, name=name))
    return config


def commanded(*words):
    """Exit code, stdout and stderr of a training in this process."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        code = app(["train", *map(str, words)], standalone_mode=False)
    return [code or 0, out.getvalue(), said.getvalue()]


def wrong_usage(*words):
    """The exit code of a process that is not to say what is wrong, and what another says."""
    try:
        return app([*words], standalone_mode=False)
    except typer.BadParameter.__base__ as error:
        return error.format_message()


def noted(path, here):
    """What a folder's notes raise where the first cannot write, and where texts differ in one."""
    said = []
    opened = RunFolder(Config.from_dict({"data": "p.tsv", "output": str(path)}), resume=False)
    with pytest.MonkeyPatch.context() as patch:
        if here == 0:
            patch.setattr("stope.runs.folder._write", full)
        for _ in range(2):
            try:
                opened.begin("print", {"p.tsv": "texts"})
            except OSError as error:
                said.append(str(error))
            opened.state.clear()
    opened.begin("print", {"p.tsv": "texts"})
    try:
        opened.begin("print", {"p.tsv": "texts" if here == 0 else "others"})
    except ValueError as error:
        said.append(str(error))
    return said


def full(*_):
    raise OSError(28, "No space left on device", "run.json")


def worker(here, count, folder):
    """Commands in one of the processes, with a store to ask who spoke first, as torchrun has."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True) if here == 0 else None
    port = [store and store.port]
    torch.distributed.broadcast_object_list(port, 0)
    scale.processes._ASKING = timedelta(minutes=2)  # the machine may be busy
    names = {"RANK": here, "LOCAL_RANK": here, "WORLD_SIZE": count, "MASTER_PORT": port[0]}
    os.environ.update({name: str(value) for name, value in names.items()}, MASTER_ADDR="127.0.0.1")
    found = {"killed": commanded(folder / "killed.yaml", "--resume")}
    for name, words in {"whole": [], "finished": ["--resume", "--json"], "taken": []}.items():
        found[name] = commanded(folder / "two.yaml", *words)
    written(folder / str(here), "unlike", 14, count=203 + here)
    found["unlike"] = commanded(folder / str(here) / "unlike.yaml")
    for name, values in ELSEWHERE.items():
        changes = [f"--set={value}" for value in (f"output.folder={folder}/other", *values)]
        found[name] = commanded(folder / "two.yaml", *changes)
    found["usage"] = [wrong_usage("train", "--nope"), wrong_usage("--none"), wrong_usage("no-such")]
    found["notes"] = noted(folder / "notes", here)
    torch.distributed.barrier()  # the first has the store
    return found


def killed_in_the_middle(config, log):
    """Exit code and stderr of torchrun, after its second process was killed, and for how long."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    running = subprocess.Popen(
        [*command, "-m", "stope", "train", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    patience = time.monotonic() + 240
    try:
        while not log.exists() or log.read_bytes().count(b'"kind": "step"') < 12:
            assert running.poll() is None, running.communicate()[1]
            assert time.monotonic() < patience, "no step 12"
            time.sleep(0.02)
        os.kill(second_of(running.pid), signal.SIGKILL)
        began = time.monotonic()
        said = running.communicate(timeout=300)[1]
    finally:
        running.kill()
    return running.returncode, said, time.monotonic() - began


def second_of(launcher):
    """The number of the launcher's child that has the rank 1."""
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes():
            return int(child)
    raise AssertionError("torchrun has no second process")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def ended(folder):
    return killed_in_the_middle(written(folder, "killed", 14), folder / "killed" / "log.jsonl")


@pytest.fixture(scope="module")
def processes(folder, ended):
    written(folder, "two", 14)
    return together(__file__, folder, timeout=240)


def lines_of(folder, kind="step"):
    return [line for line in read_log(folder) if line["kind"] == kind]


def losses(folder):
    return [line["loss"] for line in lines_of(folder)]


def test_two_processes_have_the_numbers_of_one(processes, folder):
    """Of the same rows in each step; sums over them are in another order, in float32."""
    one = run(written(folder, "one", 28))
    np.testing.assert_allclose(losses(folder / "two"), one.training.losses, rtol=1e-5)
    two = json.loads((folder / "two" / "report.json").read_text())
    assert len(one.training.losses) == two["training"]["steps"] == STEPS
    assert two["before"] == one.before
    assert two["after"]["nDCG@10"] == pytest.approx(one.after["nDCG@10"], abs=0.01)
    assert len(one.training.refreshes) == len(two["training"]["refreshes"]) == 3
    assert (folder / "two" / "model" / "modules.json").exists()


def test_evaluations_on_the_way_have_intervals(processes, folder):
    lines = lines_of(folder / "two", "evaluation")
    assert [line["step"] for line in lines] == [20, 40, STEPS]
    for line in lines:
        low, high = line["intervals"]["nDCG@10"]
        assert low < line["nDCG@10"] < high


def test_the_first_process_alone_speaks(processes):
    first, second = processes
    assert [first[name][0] for name in ("killed", "whole", "finished")] == [0, 0, 0]
    assert [second[name] for name in ("killed", "whole", "finished")] == [[0, "", ""]] * 3
    assert f"{STEPS} steps in" in first["whole"][1]
    assert first["whole"][2].count("evaluating 41 queries before training") == 1
    assert "a finished run" in first["finished"][2]
    assert json.loads(first["finished"][1])["training"]["steps"] == STEPS


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("taken", "holds a finished run; go on with it by --resume"),
        ("unreadable", "nowhere.jsonl does not exist"),
        ("student", "encoder.student is given and 2 processes were started"),
        ("adapter", "adapter is given and 2 processes were started"),
        ("unlike", "The processes disagree on what is trained, on which rows or how"),
    ],
)
def test_what_is_refused_is_said_once(processes, folder, name, sentence):
    codes, outs, said = zip(*(process[name] for process in processes), strict=True)
    assert codes == (1, 1)
    assert outs == ("", "")
    assert sorted(text.count(sentence) for text in said) == [0, 1]
    assert not (folder / "other" / "run.json").exists()


def test_wrong_usage_is_said_once(processes):
    for said in zip(*(process["usage"] for process in processes), strict=True):
        assert sorted(map(str, said))[0] == "2"
        assert "o such" in sorted(map(str, said))[1]


def test_what_one_process_cannot_note_ends_all(processes):
    for process in processes:
        *full, changed = process["notes"]
        assert len(full) == 2
        assert all("No space left on device: 'run.json'" in said for said in full)
        assert 'was begun with other texts: "p.tsv" has changed since' in changed


def test_a_process_that_is_killed_ends_the_other_and_both_go_on(ended, processes, folder):
    code, said, seconds = ended
    assert code == 1
    assert seconds < 240  # it does not wait for ever
    lost = "Process 0 of 2 lost another one" in said
    assert lost or "interrupted; nothing is lost: the same command --resume goes on" in said
    assert "going on from the checkpoint step-000000" in processes[0]["killed"][2]
    assert [line["step"] for line in lines_of(folder / "killed")] == list(range(1, STEPS + 1))
    assert losses(folder / "killed") == losses(folder / "two")
