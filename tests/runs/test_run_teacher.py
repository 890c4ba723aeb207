"""A teacher in a run: which model or file a name means, and what the run does with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("sentence_transformers", reason="needs the extra train")
pytest.importorskip("yaml", reason="needs the extra train")

import small_transformers

from stope.cli.app import app
from stope.data import read_sources, write_jsonl
from stope.encoders import save_encoder, static_encoder
from stope.mining import load_teacher, mine, teacher_scores
from stope.mining.teachers import kind_of_model
from stope.runs import Config, run
from stope.training.callbacks.log import read_log

QUERIES, DOCUMENTS = small_transformers.texts(0, 40), small_transformers.texts(1, 40)
MINING = {"mode": "static", "num_negatives": 2, "pool": 5}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pairs, an encoder and a cross-encoder."""
    folder = tmp_path_factory.mktemp("teachers")
    rows = [{"query": q, "positive": d} for q, d in zip(QUERIES, DOCUMENTS, strict=True)]
    write_jsonl(folder / "pairs.jsonl", rows)
    save_encoder(static_encoder([*QUERIES, *DOCUMENTS], dim=16, vocab_size=64), folder / "encoder")
    model = small_transformers.cross_encoder(folder / "cross")
    model.save_pretrained(str(folder / "saved"))
    return folder


def sections(place, output, **more):
    return {
        "data": str(place / "pairs.jsonl"),
        "encoder": {"static": {"dim": 8, "vocab_size": 64}},
        "schedule": {"epochs": 1, "batch_size": 10, "threads": 1},
        "output": str(output),
        **more,
    }


# --- which teacher a name means -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind"),
    [("encoder", "SentenceTransformer"), ("cross", "CrossEncoder"), ("saved", "CrossEncoder")],
)
def test_a_folder_says_what_it_holds(place, name, kind):
    assert kind_of_model(str(place / name)) == kind
    assert type(load_teacher(place / name)).__name__ == kind


def test_a_cross_encoder_gives_logits(place):
    both = [(QUERIES[0], DOCUMENTS[0]), (QUERIES[1], DOCUMENTS[3])]
    logits = load_teacher(place / "cross").predict(both)
    squashed = small_transformers.sentence_transformers.CrossEncoder(str(place / "cross"))
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), squashed.predict(both), rtol=1e-4)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"config.json": {"architectures": ["BertModel"]}}, "a model of BertModel; give a folder"),
        ({"config.json": {}}, "a model of no named architecture"),
        ({}, "neither a file, nor a folder of a model"),
        (
            {"config_sentence_transformers.json": {"model_type": "SparseEncoder"}},
            "which holds a SparseEncoder; give an encoder",
        ),
    ],
)
def test_what_is_no_teacher(tmp_path, files, sentence):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        load_teacher(tmp_path)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (["q\td\tx"], "score"),
        (["q\td\t1", "q\td\t2"], 'document "d" is scored twice for query "q"; keep one'),
    ],
)
def test_damaged_files(tmp_path, lines, sentence):
    path = tmp_path / "scores.tsv"
    path.write_text("\n".join(["query_id\tdocument_id\tscore", *lines]) + "\n")
    with pytest.raises(ValueError, match=sentence):
        load_teacher(path)


# --- what a run does with it ---------------------------------------------------------------------


def test_a_run_distils_a_cross_encoder(place, tmp_path):
    said = []
    config = sections(
        place, tmp_path / "run", negatives={**MINING, "teacher_margin": 0.05}, weighting="teacher",
        teacher=str(place / "cross"), distillation={"objective": "stabilised", "weight": 0.5},
    )  # fmt: skip
    report = run(config, say=said.append)
    assert "the teacher is a CrossEncoder" in said
    steps = [line for line in read_log(tmp_path / "run") if line["kind"] == "step"]
    assert len(steps) == report.training.steps == 4
    for line in steps:
        both = line["contrastive"] + 0.5 * line["distillation"]
        assert line["loss"] == pytest.approx(both, rel=1e-5)
        assert line["weight_max"] <= 1
    assert list((tmp_path / "run" / "teacher").glob("teacher-*/scores.npy"))
    written = Config.from_yaml(tmp_path / "run" / "config.yaml")
    assert written.distillation.objective == "stabilised"
    assert written.teacher == str(place / "cross")


def mined_file(place, folder):
    """Negatives by id, and the scores of all their pairs by another program."""
    data = read_sources(Config.from_dict(sections(place, folder)).data)
    mined = mine(data.pairs, static_encoder(DOCUMENTS * 2, dim=8, vocab_size=64), num_negatives=3)
    write_jsonl(folder / "ids.jsonl", list(mined.rows()))
    scored = teacher_scores(mined, lambda both: [len(a) - len(b) for a, b in both])
    ids, scores = scored.lists()
    rows = [
        {"query_id": q, "document_id": data.pairs.corpus_ids[row], "score": float(score)}
        for q, listed, values in zip(data.pairs.query_ids, ids, scores, strict=True)
        for row, score in zip(listed.tolist(), values.tolist(), strict=True)
        if row >= 0
    ]
    write_jsonl(folder / "scores.jsonl", rows)
    return rows


def test_mined_and_scored_beforehand(place, tmp_path):
    rows = mined_file(place, tmp_path)
    config = sections(
        place, tmp_path / "run", negatives={"file": str(tmp_path / "ids.jsonl")},
        teacher=str(tmp_path / "scores.jsonl"), distillation={"contrastive": 0},
    )  # fmt: skip
    losses = run(config).training.losses
    assert np.isfinite(losses).all()
    doubled = [{**row, "score": row["score"] * 2} for row in rows]
    write_jsonl(tmp_path / "scores.jsonl", doubled)
    half = {"contrastive": 0, "teacher_temperature": 2}
    again = run({**config, "distillation": half, "output": str(tmp_path / "again")})
    assert again.training.losses == losses
    write_jsonl(tmp_path / "scores.jsonl", doubled[:-2])
    told = f"has no score for 2 of {len(rows)} pairs of a query with a positive or a mined document"
    with pytest.raises(ValueError, match=told):
        run({**config, "output": str(tmp_path / "short")})


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"encoder": {"student": "x"}, "teacher": "y"}, "encoder.student has one whose embeddings"),
        ({"distillation": {"objective": "kl"}}, "distillation.objective is 'kl'; give one of list"),
        (
            {"adapter": {}, "encoder": "x", "distillation": {}},
            "the section distillation is not for",
        ),
        ({"teacher": ""}, "teacher is ''"),
    ],
)
def test_wrong_sections(place, tmp_path, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        Config.from_dict(sections(place, tmp_path / "run", **more))


# --- the command ---------------------------------------------------------------------------------


def command(*arguments):
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


@pytest.mark.parametrize("teacher", ["cross", "encoder"])
def test_the_command_distils_over_mined_negatives(place, tmp_path, teacher):
    done = command(
        place / "pairs.jsonl", "-o", tmp_path / "model", "--encoder", place / "encoder",
        "--teacher", place / teacher, "-n", 2, "--no-guard", "--epochs", 1, "--batch-size", 10,
        "-q",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    log = [line for line in read_log(tmp_path / "model.run") if line["kind"] == "step"]
    assert log
    assert all("distillation" in line for line in log)


def test_the_command_says_what_a_teacher_needs(place, tmp_path):
    for more in (
        ["--teacher", place / "cross"],
        ["--teacher", place / "encoder", "--encoder", "x"],
    ):
        done = command(place / "pairs.jsonl", "-o", tmp_path / "model", *more)
        assert done.exit_code == 2
        assert "teaches by its scores of mined negatives" in " ".join(
            done.output.replace("│", " ").split()
        )
