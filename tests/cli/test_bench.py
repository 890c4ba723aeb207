"""stope bench: sizes that fit the time, peers that are there, answers compared."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pytest
from typer.testing import CliRunner

from stope.cli import bench, contenders
from stope.cli.app import app


@pytest.fixture
def measure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*words, code=0):
        done = CliRunner().invoke(app, ["bench", "-q", "--dim", "16", "--seconds", "1", *words])
        assert done.exit_code == code, done.output
        return done

    return run


def test_numbers_are_one_json_object_on_stdout_and_in_the_file(measure, tmp_path):
    done = measure("--only", "topk", "--only", "kmeans", "--only", "topk", "--json", "-o", "b.json")
    facts = json.loads(done.stdout)
    assert facts == json.loads((tmp_path / "b.json").read_text())
    assert [each["operation"] for each in facts["operations"]] == ["topk", "kmeans"]
    assert facts["machine"]["processor"]
    assert facts["machine"]["isa"]
    for operation in facts["operations"]:
        ours, *others = operation["contenders"]
        assert (ours["name"], ours["wall_ratio"], ours["same_answer"]) == ("stope", 1.0, 1.0)
        for each in operation["contenders"]:
            assert each["wall_seconds"] > 0
            assert each["turns"] >= 3
            assert each["wall_ratio"] == pytest.approx(each["wall_seconds"] / ours["wall_seconds"])
        assert all(each["same_answer"] > 0.99 for each in others)


@pytest.mark.parametrize("name", list(contenders.OPERATIONS))
def test_all_contenders_of_an_operation_answer_alike(name):
    operation = contenders.OPERATIONS[name]
    given = contenders.inputs(300, min(operation.queries, 256), 16, 1)
    answers = {
        peer: make(given)()
        for peer, make in operation.contenders.items()
        if importlib.util.find_spec(peer) is not None
    }
    ours = answers["stope"]
    assert len(answers) > 1
    for answer in answers.values():
        assert operation.same(ours, answer) > 0.995
    other = ours[: len(ours) // 2] if name == "pairs-above" else ours + 1
    assert operation.same(ours, np.asarray(other)) < 0.9


def test_libraries_that_are_absent_wrong_or_broken_are_named(measure, monkeypatch):
    def broken(given):
        raise RuntimeError("no\nshaft")

    topk = contenders.OPERATIONS["topk"]
    peers = {"stope": topk.contenders["stope"], "faiss": broken, "usearch": broken}
    peers["numpy"] = lambda x: lambda: np.full((256, contenders.K), -1)
    monkeypatch.setitem(contenders.OPERATIONS, "topk", topk._replace(contenders=peers))
    known = importlib.util.find_spec
    there = {"usearch": None, "faiss": known("numpy")}
    monkeypatch.setattr(
        bench.importlib.util,
        "find_spec",
        lambda name: there.get(name, known(name) if name not in there else None),
    )
    done = measure("--only", "topk")
    assert "not installed, so not measured: usearch (pip install usearch)." in done.stderr
    assert "topk by faiss failed: RuntimeError: no shaft" in done.stderr
    assert " 0% " in next(
        line for line in done.stdout.splitlines() if " numpy " in line and "%" in line
    )


def test_torch_is_named_where_the_loss_cannot_be_measured(measure, monkeypatch):
    known = importlib.util.find_spec
    monkeypatch.setattr(
        bench.importlib.util, "find_spec", lambda name: None if name == "torch" else known(name)
    )
    done = measure("--only", "infonce", "--json")
    assert json.loads(done.stdout)["operations"] == []
    assert "torch (pip install torch)" in done.stderr


def test_a_file_that_could_not_be_written_is_refused_before_the_work(measure):
    assert "its name must end in .json" in measure("-o", "b.txt", code=1).stderr
