"""Runs whose encoder is the student of a teacher, with pairs and without."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from stope.cli.app import app
from stope.data import write_jsonl
from stope.encoders import load_encoder, save_encoder, static_encoder
from stope.runs import Config, run

SIDES = ["iron", "coal", "lamp", "shaft", "wagon", "drift", "seam", "adit", "winze", "copper"]


def texts(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(SIDES, 6)) + f" {row}" for row in range(count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A teacher's folder, and pairs of a document's first words with the document."""
    folder = tmp_path_factory.mktemp("teaching")
    documents = texts(60)
    teacher = static_encoder([*documents, *documents], dim=24)
    save_encoder(teacher, folder / "teacher")
    rows = [{"query": " ".join(t.split()[2:]), "positive": t} for t in documents]
    write_jsonl(folder / "pairs.jsonl", rows)
    (folder / "corpus.txt").write_text("\n".join(documents) + "\n", encoding="utf-8")
    return folder


def sections(place, output, **schedule):
    return {
        "data": str(place / "pairs.jsonl"),
        "encoder": {"student": str(place / "teacher")},
        "schedule": {"epochs": 2, "batch_size": 16, **schedule},
        "evaluation": {"holdout": 20},
        "output": str(output),
    }


def test_pairs_that_do_harm_are_taken_back(place, tmp_path):
    report = run(sections(place, tmp_path / "run", learning_rate=100.0))
    assert report.after == report.before
    assert report.gains["nDCG@10"] == [0.0, 0.0]
    assert report.remarks[1].startswith("going on with the pairs brought -")
    assert report.remarks[1].endswith("not kept; the model is the one without")
    weak = report.teacher["nDCG@10"] < report.before["nDCG@10"]
    assert [r for r in report.remarks if "knows these texts badly" in r] == report.remarks[2:]
    assert len(report.remarks) == 2 + weak
    assert report.teacher["nDCG@10"] > 0.5
    student, corpus = load_encoder(report.model), (place / "corpus.txt").read_text().splitlines()
    teacher = load_encoder(place / "teacher")
    both = [np.asarray(encoder.encode(corpus)) for encoder in (student, teacher)]
    assert (both[0] * both[1]).sum(axis=1).mean() > 0.8
    again = run(sections(place, tmp_path / "run", learning_rate=100.0), resume=True)
    assert again.remarks == report.remarks
    assert again.teacher == report.teacher


def test_what_pairs_bring_is_kept(place, tmp_path):
    """Of queries in words that no document has, which a static teacher knows nothing of."""
    documents = texts(60)
    rows = [{"query": " ".join(t.split()[1:-1])[::-1], "positive": t} for t in documents]
    write_jsonl(tmp_path / "pairs.jsonl", rows)
    wanted = sections(place, tmp_path / "run", learning_rate=0.5, epochs=20)
    report = run({**wanted, "data": str(tmp_path / "pairs.jsonl")})
    assert report.after["nDCG@10"] > report.before["nDCG@10"] + 0.1
    assert report.remarks[1].endswith("held-out queries: kept")


def test_without_held_out_queries_it_says_so(place, tmp_path):
    wanted = {**sections(place, tmp_path / "run"), "evaluation": None}
    report = run({name: value for name, value in wanted.items() if value is not None})
    assert report.remarks[-1] == "no queries were held out: what the pairs brought is not known"
    assert report.teacher == {}


def test_the_section(tmp_path):
    base = {"data": "pairs.tsv", "output": "run"}
    config = Config.from_dict({**base, "encoder": {"student": "some/teacher"}})
    assert config.encoder.student.teacher == "some/teacher"
    assert config.encoder.static is None
    assert Config.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="encoder has both student and model; keep one of them"):
        Config.from_dict({**base, "encoder": {"student": "a", "model": "b"}})
    with pytest.raises(ValueError, match=r"encoder.student has no key .dim"):
        Config.from_dict({**base, "encoder": {"student": {"teacher": "a", "dim": 3}}})


def command(*arguments):
    *arguments, folder = map(str, arguments)
    options = ["-o", f"{folder}/model"]
    return CliRunner().invoke(app, ["train", *arguments, *options], env={"COLUMNS": "200"})


def test_the_command_needs_no_pairs(place, tmp_path):
    result = command(place / "corpus.txt", "--teacher", place / "teacher", tmp_path)
    assert result.exit_code == 0, result.output
    assert "times as fast as its teacher" in result.output
    assert load_encoder(tmp_path / "model").encode(["iron"]).shape == (1, 24)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["corpus.txt", "-n", "3"], "--num-negatives"),
        (["pairs.jsonl", "--encoder", "x"], "a student of --teacher does without it"),
        (["corpus.txt", "--teacher", "./nowhere"], "--teacher ./nowhere: there is no such folder"),
    ],
)
def test_the_command_refuses(place, tmp_path, options, said):
    file, *rest = options
    teacher = [] if "--teacher" in rest else ["--teacher", place / "teacher"]
    result = command(place / file, *teacher, *rest, tmp_path)
    assert result.exit_code != 0
    assert said in " ".join(result.output.replace("│", " ").split())
