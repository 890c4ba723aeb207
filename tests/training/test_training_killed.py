"""A run that was killed at any moment ends as one that was not; a run of two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')

from stope.training.callbacks.log import read_log
from stope.training.guard import SECOND

STAGE_ONE = 24  # steps without negatives, where there is a second stage
SUPPORT = Path(__file__).parents[1] / "support"
SCRIPT = SUPPORT / "killed_training.py"

STATIC_MOMENTS = {
    "plain": [],
    "between steps": ["step:1", "step:7", "step:12", "step:21"],
    "while tensors are written": ["tensors:1", "tensors:5"],
    "while numbers are written": ["json:4", "json:9"],
    "while files are flushed": ["sync:3", "sync:40"],
    "while it is renamed": ["rename:20", "rename:33"],
    "while old ones are removed": ["removal:3", "removal:9"],
    "in a refresh": ["mine:1", "shard:3", "mine:2", "shard:9"],
    "at random": [f"after:{seconds:.3f}" for seconds in np.random.default_rng(7).random(4) * 1.5],
}
TRANSFORMER_MOMENTS = {
    "plain": [],
    "between steps": ["step:3", "step:6", "step:13"],
    "in a checkpoint": ["tensors:4", "sync:25"],
}
TAUGHT_MOMENTS = {
    "plain": [],
    "while the teacher scores": ["teacher:3", "shard:5", "teacher:2"],
    "between steps and in a refresh": ["step:7", "mine:2", "step:13"],
}
GUARDED_MOMENTS = {
    "plain": [],
    "in both stages": ["step:2", "step:24", "step:26", "step:36"],
    "in the second's checkpoints": ["tensors:22", "json:3"],
    "in the second's refresh": ["mine:1", "mine:2"],
}


@pytest.mark.parametrize(
    ("kind", "moments"),
    [
        ("static", STATIC_MOMENTS),
        ("transformer", TRANSFORMER_MOMENTS),
        ("guarded", GUARDED_MOMENTS),
        ("taught", TAUGHT_MOMENTS),
    ],
)
def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path, kind, moments):
    """Refresh, weighting and best weights in the static encoder's runs; dropout in the other's."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path), kind],
        input=json.dumps(moments),
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert all(
        end == (0 if moment is None else "killed")
        for _, moment, end in ends
        if moment is None or not moment.startswith("after")
    ), (ends, done.stderr[-3000:])
    plain = np.load(tmp_path / "plain.npz")
    numbers = json.loads((tmp_path / "plain.json").read_text())
    lines = steps_of(tmp_path / "plain")
    assert [loss for _, loss in lines] == numbers["losses"]
    for name in moments:
        weights = np.load(tmp_path / f"{name}.npz")
        assert all(np.array_equal(plain[key], weights[key]) for key in plain.files), name
        assert json.loads((tmp_path / f"{name}.json").read_text()) == numbers, name
        assert steps_of(tmp_path / name) == lines, name
        for place in places(tmp_path / name):
            left = [path.name for path in (place / "checkpoints").iterdir()]
            assert all(path.startswith("step-") for path in left), left
            assert len(left) == 2
    if kind == "guarded":
        assert numbers["guard"]["queries"] == 20


def places(folder):
    """The folder, and that of a second stage where there is one."""
    return [place for place in (folder, folder / SECOND) if place.is_dir()]


def steps_of(folder):
    lines = [line for place in places(folder) for line in read_log(place) if line["kind"] == "step"]
    for number, line in enumerate(lines):
        assert line["step"] == number + 1 or line["step"] == number + 1 - STAGE_ONE
    return [(line["step"], line["loss"]) for line in lines]


# --- several processes -------------------------------------------------------------------------

TWO = """
import json, sys
import torch
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/../support"]
torch.set_num_threads(1)
import test_training_checkpoint as these
from stope.training import train
model = these.new_encoder()
told = []
report = train(model, these.PAIRS, batch_size=10, epochs=2, output=sys.argv[2], resume=True,
               refresh={"every": 4, "num_negatives": 1, "pool": 5}, keep="best",
               evaluation=these.judge([.1, .2]), say=told.append)
rank = torch.distributed.get_rank()
total = float(model.state_dict()["0.embedding.weight"].double().abs().sum())
with open(sys.argv[2] + f".{rank}.json", "w") as file:
    json.dump({"sum": total, "losses": report.losses, "steps": report.steps, "told": told}, file)
torch.distributed.destroy_process_group()
"""


def test_two_processes_end_with_the_same_weights(tmp_path):
    (tmp_path / "script.py").write_text(TWO)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    given = [str(tmp_path / "script.py"), str(Path(__file__).parent), str(tmp_path / "run")]
    for _ in range(2):  # the second time it has come to its end
        done = subprocess.run([*command, *given], capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        first, second = (
            json.loads((tmp_path / f"run.{rank}.json").read_text()) for rank in range(2)
        )
        assert first["sum"] == second["sum"]
        assert first["losses"] == second["losses"]
        assert first["steps"] == 6  # of both epochs: 60 rows, two processes, 10 rows each
        assert first["told"]
        assert not second["told"]
    steps = [line["step"] for line in read_log(tmp_path / "run") if line["kind"] == "step"]
    assert steps == list(range(1, 7))
