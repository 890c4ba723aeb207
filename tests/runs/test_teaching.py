"""Runs whose encoder is the student of a teacher, with pairs and without."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from stope.cli.app import app
from stope.data import write_jsonl
from stope.encoders import load_encoder, save_encoder, static_encoder
from stope.runs import Config, run
from stope.training import train

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


def test_the_encoder_without_a_teacher_has_its_dimensions(place, tmp_path):
    """So that all first dimensions that the loss names are there."""
    wide = static_encoder(texts(30) * 2, dim=600)
    save_encoder(wide, tmp_path / "wide")
    config = sections(place, tmp_path / "run")
    config["encoder"] = {"student": str(tmp_path / "wide")}
    config["loss"] = {"matryoshka_dims": [600, 64]}
    report = run(config)
    assert "a static encoder trained on the pairs alone reaches" in report.remarks[2]


def test_pairs_that_do_harm_are_taken_back(place, tmp_path):
    report = run(sections(place, tmp_path / "run", learning_rate=100.0))
    assert report.after == report.before
    assert report.gains["nDCG@10"] == [0.0, 0.0]
    assert report.remarks[1].startswith("going on with the pairs brought -")
    assert report.remarks[1].endswith("not kept; the model is the one without")
    assert report.remarks[2].startswith("a static encoder trained on the pairs alone reaches 0.")
    assert report.remarks[2].endswith(" on 20 held-out queries: the student is kept")
    assert len(report.remarks) == 3
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


def foreign_pairs(count, seed):
    """Documents of five words, asked for by three of these in a language that spells backwards."""
    rng = np.random.default_rng(seed)
    words = [f"{side}{end}" for side in SIDES for end in ("on", "pper", "mp", "ft", "gon")]
    documents = [rng.choice(words, 5) for _ in range(count)]
    return [(" ".join(w[::-1] for w in text[:3]), " ".join(text)) for text in documents]


@pytest.fixture(scope="module")
def two_teachers(tmp_path_factory):
    """200 pairs; a teacher that learned both languages from many, and one of two dimensions."""
    folder = tmp_path_factory.mktemp("teachers")
    pairs, many = foreign_pairs(200, 0), foreign_pairs(1500, 1)
    write_jsonl(folder / "pairs.jsonl", [{"query": q, "positive": p} for q, p in pairs])
    good = static_encoder([text for pair in many for text in pair], dim=64)
    train(good, many, epochs=10, batch_size=64)
    save_encoder(good, folder / "good")
    save_encoder(static_encoder([text for pair in pairs for text in pair], dim=2), folder / "weak")
    return folder


def with_teacher(place, name, output):
    return {
        "data": str(place / "pairs.jsonl"),
        "encoder": {"student": str(place / name)} if name else "static",
        "schedule": {"epochs": 5, "batch_size": 32},
        "evaluation": {"holdout": 60},
        "output": str(output),
    }


def test_a_weak_teacher_does_no_harm(two_teachers, tmp_path):
    """What is saved is what the run without a teacher comes to, to the bit."""
    plain = run(with_teacher(two_teachers, None, tmp_path / "plain"))
    report = run(with_teacher(two_teachers, "weak", tmp_path / "run"))
    assert report.teacher["nDCG@10"] < 0.2
    assert report.after == plain.after
    assert report.after["nDCG@10"] > report.before["nDCG@10"] + 0.3
    assert report.training.losses == plain.training.losses
    weights, expected = (load_encoder(r.model)[0].embedding.weight for r in (report, plain))
    assert (weights == expected).all()
    assert f"reaches {plain.after['nDCG@10']:.4f}, the student 0." in report.remarks[-1]
    assert "it is kept instead of the student" in report.remarks[-1]


def test_a_good_teacher_is_worth_it(two_teachers, tmp_path):
    plain = run(with_teacher(two_teachers, None, tmp_path / "plain"))
    report = run(with_teacher(two_teachers, "good", tmp_path / "run"))
    assert report.after["nDCG@10"] > plain.after["nDCG@10"] + 0.05
    assert load_encoder(report.model)[0].embedding.weight.shape[1] == 64
    assert f"reaches {plain.after['nDCG@10']:.4f}, the student 0." in report.remarks[-1]
    assert report.remarks[-1].endswith("held-out queries: the student is kept")


def test_a_run_stopped_while_it_compares_goes_on(two_teachers, tmp_path):
    whole = run(with_teacher(two_teachers, "weak", tmp_path / "whole"))
    wanted = with_teacher(two_teachers, "weak", tmp_path / "run")

    def stop(done, total):
        if (tmp_path / "run" / "plain" / "checkpoints").exists() and done == total - 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(wanted, progress=stop)
    said = []
    report = run(wanted, resume=True, say=said.append)
    assert sum("going on from the checkpoint" in line for line in said) == 2  # in both trainings
    assert report.remarks[1:] == whole.remarks[1:]  # the first has a time in it
    assert (report.after, report.training.losses) == (whole.after, whole.training.losses)
    weights, expected = (load_encoder(r.model)[0].embedding.weight for r in (report, whole))
    assert (weights == expected).all()


def test_without_held_out_queries_it_says_so(place, tmp_path):
    wanted = {**sections(place, tmp_path / "run"), "evaluation": None}
    report = run({name: value for name, value in wanted.items() if value is not None})
    assert report.remarks[1].startswith("no queries were held out: what the pairs brought is not ")
    assert len(report.remarks) == 2
    assert report.teacher == {}
    assert not (tmp_path / "run" / "plain").exists()


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
    assert result.output.count("Documents alone cannot judge it") == 1
    assert f"try it: stope search QUERIES {place}/corpus.txt --method dense " in result.output
    assert load_encoder(tmp_path / "model").encode(["iron"]).shape == (1, 24)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["corpus.txt", "-n", "3"], "--num-negatives"),
        (
            ["pairs.jsonl", "--encoder", "x"],
            "mined negatives; give --num-negatives",
        ),
        (["pairs.jsonl", "--max-tokens", "9"], "a student of --teacher does without it"),
        (["corpus.txt", "--teacher", "./nowhere"], "--teacher ./nowhere: there is no such folder"),
    ],
)
def test_the_command_refuses(place, tmp_path, options, said):
    file, *rest = options
    teacher = [] if "--teacher" in rest else ["--teacher", place / "teacher"]
    result = command(place / file, *teacher, *rest, tmp_path)
    assert result.exit_code != 0
    assert said in " ".join(result.output.replace("│", " ").split())
