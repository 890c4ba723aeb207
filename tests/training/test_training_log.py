"""The log of a run: lines that are whole, cut for a resume, valid JSON, and TensorBoard."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from stope.training.callbacks.log import KINDS, TrainingLog, read_log


def lines(folder):
    """Every line of the file, each valid JSON by the letter."""
    text = (folder / "log.jsonl").read_text(encoding="utf-8")
    assert text == "" or text.endswith("\n")

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path):
    log = TrainingLog(tmp_path / "new" / "run")
    log.write("start", 0, version="1.0", seeds=[1, 2])
    log.write("step", 1, loss=0.5, learning_rate=np.float32(0.25), rows=np.int64(7), name="ä")
    first, second = lines(tmp_path / "new" / "run")  # the log is still open
    assert (first["kind"], first["step"], first["seeds"]) == ("start", 0, [1, 2])
    assert second | {"time": 0} == {
        "kind": "step", "step": 1, "time": 0, "loss": 0.5, "learning_rate": 0.25, "rows": 7,
        "name": "ä",
    }  # fmt: skip
    assert second["time"] >= first["time"] > 1.6e9
    log.close()
    with pytest.raises(ValueError, match=r"the log .*log\.jsonl is closed"):
        log.write("end", 1)


def test_numbers_of_any_kind_give_valid_json(tmp_path):
    torch = pytest.importorskip("torch")
    with TrainingLog(tmp_path) as log:
        for kind in KINDS:
            log.write(
                kind, np.int64(3), nan=float("nan"), more=np.float64("inf"), less=-np.inf,
                tensor=torch.tensor(2.5), none=None, yes=True,
                nested={"recall@10": torch.tensor(float("nan")), "list": [1.0, float("inf")]},
            )  # fmt: skip
    found = lines(tmp_path)
    assert [line["kind"] for line in found] == list(KINDS)
    assert {k: found[0][k] for k in ("nan", "more", "less", "tensor", "none", "yes", "nested")} == {
        "nan": "NaN", "more": "Infinity", "less": "-Infinity", "tensor": 2.5, "none": None,
        "yes": True, "nested": {"recall@10": "NaN", "list": [1.0, "Infinity"]},
    }  # fmt: skip


def test_refused(tmp_path):
    with TrainingLog(tmp_path) as log:
        with pytest.raises(ValueError, match="kind is 'loss'; give one of 'start', 'step'"):
            log.write("loss", 1)
        with pytest.raises(TypeError, match="weights is a ndarray; a line of the log holds"):
            log.write("step", 1, weights=np.zeros(3))
        with pytest.raises(TypeError, match=r"found\.best is a set"):
            log.write("step", 1, found={"best": {1}})
    assert lines(tmp_path) == []


@pytest.mark.parametrize("torn", ['{"kind": "step", "st', '{"kind": "step"}\n', "\0\0\0\n", "7\n"])
def test_a_half_written_line_is_dropped(tmp_path, torn):
    with TrainingLog(tmp_path) as log:
        log.write("step", 1, loss=1.0)
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(torn)
    assert [line["step"] for line in read_log(tmp_path)] == [1]
    with TrainingLog(tmp_path) as log:
        log.write("step", 2, loss=2.0)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_broken_line_in_the_middle_is_not_thrown_away(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "step", "step": 1}\nhello\n{"kind": "end"}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl, line 2, is no line of a training log: b'he"):
        TrainingLog(tmp_path)
    assert "hello" in (tmp_path / "log.jsonl").read_text()


def test_every_length_of_a_torn_log_can_be_gone_on_with(tmp_path):
    with TrainingLog(tmp_path) as log:
        for step in range(3):
            log.write("step", step, loss=1.0)
    whole = (tmp_path / "log.jsonl").read_bytes()
    for length in range(len(whole) + 1):
        (tmp_path / "log.jsonl").write_bytes(whole[:length])
        with TrainingLog(tmp_path) as log:
            log.write("end", 9)
        steps = [line["step"] for line in lines(tmp_path)]
        assert steps == [*range(whole[:length].count(b"\n")), 9]


def test_cut_leaves_what_the_checkpoint_knew(tmp_path):
    with TrainingLog(tmp_path) as log:
        log.write("start", 0)
        for step in range(1, 5):
            log.write("step", step)
            if step % 2 == 0:
                log.write("evaluation", step, ndcg=0.5)
                log.write("checkpoint", step)
                log.write("refresh", step)  # after the checkpoint: it is done once more
        log.cut(2)
        log.write("step", 3, again=True)
    found = [(line["kind"], line["step"]) for line in lines(tmp_path)]
    assert found == [
        ("start", 0), ("step", 1), ("step", 2), ("evaluation", 2), ("checkpoint", 2), ("step", 3),
    ]  # fmt: skip
    assert lines(tmp_path)[-1]["again"]
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_cut_where_the_checkpoint_was_not_logged_any_more(tmp_path):
    with TrainingLog(tmp_path) as log:
        for step in range(1, 5):
            log.write("step", step)
        log.cut(2)
        assert [line["step"] for line in lines(tmp_path)] == [1, 2]
        log.cut(0)
        assert lines(tmp_path) == []


def test_a_full_disk_is_a_sentence(tmp_path):
    log = TrainingLog(tmp_path)
    log.close()
    log._file = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(OSError, match=r"cannot write .*log\.jsonl: No space left on device"):
        log.write("step", 1)
    log._file.close()


def scalars(folder):
    """What TensorBoard shows: name to [(step, value)]."""
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return {
        name: [(event.step, event.value) for event in events.Scalars(name)]
        for name in events.Tags()["scalars"]
    }


def test_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    with TrainingLog(tmp_path, tensorboard=True) as log:
        for step in range(1, 5):
            log.write("step", step, loss=step / 2, note="a word", yes=True)
        log.write("evaluation", 4, first={"ndcg@10": 0.25})
    assert scalars(tmp_path) == {
        "step/loss": [(1, 0.5), (2, 1.0), (3, 1.5), (4, 2.0)],
        "evaluation/first/ndcg@10": [(4, 0.25)],
    }
    with TrainingLog(tmp_path, tensorboard=True) as log:
        log.cut(2)
        log.write("step", 3, loss=8.0)
    assert scalars(tmp_path)["step/loss"] == [(1, 0.5), (2, 1.0), (3, 8.0)]
    assert len(lines(tmp_path)) == 3


def test_without_tensorboard_there_is_a_command(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r'tensorboard is not inst.*pip install "stope\[log\]"'):
        TrainingLog(tmp_path / "run", tensorboard=True)
    TrainingLog(tmp_path / "run").close()
