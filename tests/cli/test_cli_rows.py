"""What stands in files reaches the commands: labels, ids, empty rows, samplings."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests

from __future__ import annotations

import json

import pytest

from stope.data import read_jsonl, write_jsonl

pytest.importorskip("typer", reason="needs the extra cli")

from command import call, folder, one_sentence, texts

DOCUMENTS = [{"docno": f"D{n}", "title": "T", "text": f"text {n} word{n % 7}"} for n in range(40)]
ROWS = [
    {"qid": f"Q{n}", "query": f"word{n % 7} {n}", "document": f"TEXT {n}  word{n % 7}", "label": 1}
    for n in range(12)
]
WRONG = [
    {**row, "document": f"text {n + 20} word{n % 7}", "label": 0} for n, row in enumerate(ROWS)
]


@pytest.fixture
def files(folder):
    write_jsonl(folder / "c.jsonl", DOCUMENTS)
    write_jsonl(folder / "rows.jsonl", [*ROWS, *WRONG])
    return folder


def test_labels_and_ids_reach_mine(call, files):
    done = call("mine", "rows.jsonl", "c.jsonl", "--ids", "ids.jsonl", "-n", "3")
    assert "12 queries, 40 documents, 12 pairs; left out: 12 negatives of the file" in done.stderr
    mined = list(read_jsonl(files / "ids.jsonl"))
    assert {row["query_id"] for row in mined} == {f"Q{n}" for n in range(12)}
    for row in mined:  # no positive, however it is written
        assert row["document_id"] != f"D{row['query_id'][1:]}"
    done = call("mine", "rows.jsonl", "c.jsonl", "--ignore-labels", "-n", "3")
    assert "24 pairs" in done.stderr


def test_samplings_of_mine(call, files):
    common = ("mine", "rows.jsonl", "c.jsonl", "-n", "3", "-q", "--ids", "ids.jsonl")
    mined = {}
    for sampling in ("simans", "teacher_margin", "uniform"):
        call(*common, "--sampling", sampling, "--pool", "20", "--seed", "1")
        mined[sampling] = list(read_jsonl(files / "ids.jsonl"))
        assert len(mined[sampling]) == 36
    assert mined["simans"] != mined["uniform"]
    done = call(*common, "--pool", "20", code=2)
    assert "it has no effect with --sampling top" in done.stderr


@pytest.mark.parametrize(("name", "no"), [("gold", "0"), ("answers", False), ("good", "No")])
def test_a_column_of_yes_and_no_is_not_overlooked(call, files, name, no):
    rows = [{**row, name: no if row["label"] == 0 else 1} for row in [*ROWS, *WRONG]]
    for row in rows:
        del row["label"]
    write_jsonl(files / "rows.jsonl", rows)
    said = one_sentence(call("mine", "rows.jsonl", "c.jsonl", code=1).stderr)
    assert (
        f'rows.jsonl:13: the column "{name}", which says yes in some rows and no in others' in said
    )
    assert (
        "name it with --label-column, or read every row as a positive with --ignore-labels" in said
    )
    done = call("mine", "rows.jsonl", "c.jsonl", "--ignore-labels", "-n", "3")
    assert "24 pairs" in done.stderr
    if no == "0":
        done = call("mine", "rows.jsonl", "c.jsonl", "--label-column", name, "-n", "3")
        assert "12 pairs" in done.stderr


def test_columns_that_say_something_else_are_left_alone(call, files):
    rows = [{**row, "label": 1, "page": n, "part": 0} for n, row in enumerate(ROWS)]
    write_jsonl(files / "rows.jsonl", [{**row, "id": n % 2} for n, row in enumerate(rows)])
    assert "12 pairs" in call("mine", "rows.jsonl", "c.jsonl", "-n", "3").stderr
    for row in rows:
        del row["label"]
    write_jsonl(files / "rows.jsonl", [{**row, "id": n % 2} for n, row in enumerate(rows)])
    assert "12 pairs" in call("mine", "rows.jsonl", "c.jsonl", "-n", "3").stderr


def test_ids_of_positives_need_the_option(call, files):
    rows = [{"query": row["query"], "positive_id": f"D{n}"} for n, row in enumerate(ROWS)]
    write_jsonl(files / "rows.jsonl", rows)
    said = one_sentence(call("mine", "rows.jsonl", "c.jsonl", code=1).stderr)
    assert 'no positive column among "positive_id"; name it with --positive-column, or' in said
    assert 'give --positive-ids and a corpus where "positive_id" holds ids' in said
    assert "12 pairs" in call("mine", "rows.jsonl", "c.jsonl", "--positive-ids", "-n", "3").stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--max-score", "-9"), "no query has a negative, so no rows were written"),
        (("-n", "40", "--format", "n-tuple"), "no query has the 40 negatives that a row of n-tup"),
    ],
)
def test_mine_that_finds_nothing_fails(call, files, options, why):
    done = call("mine", "rows.jsonl", "c.jsonl", *options, "--summary", "s.json", code=1)
    assert why in one_sentence(done.stderr)
    assert "lower --num-negatives, or give a larger CORPUS" in done.stderr
    assert "queries with none" in done.stdout
    assert not (files / "negatives.jsonl").exists()
    found = json.loads((files / "s.json").read_text())["num_negatives"]  # what was counted is kept
    kept = files / "negatives.ids.jsonl"
    assert (len(list(read_jsonl(kept))) if kept.exists() else 0) == found
    assert (f"What was found is in {kept.name}" in done.stderr) is bool(found)


def test_rows_without_text(call, files):
    write_jsonl(files / "rows.jsonl", [*ROWS, {**ROWS[0], "query": " "}])
    done = call("mine", "rows.jsonl", "c.jsonl", code=1)
    assert 'rows.jsonl:13: field "query" is empty' in one_sentence(done.stderr)
    done = call("mine", "rows.jsonl", "c.jsonl", "--skip-empty")
    assert "left out: 1 row without text" in done.stderr


def test_train_reads_labels_as_mine_does(call, files):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    scored = [
        {"query": row["query"], "document": row["document"], "score": n % 2 or 0.2}
        for n, row in enumerate(ROWS)
    ]
    write_jsonl(files / "rows.jsonl", [*scored, {**scored[0], "query": " "}])
    done = call("train", "rows.jsonl", code=1)
    assert "answer with --min-relevance, or read every row as a positive with --ignore-labels" in (
        one_sentence(done.stderr)
    )
    options = ("--skip-empty", "--min-relevance", "0.5", "--epochs", "1", "--batch-size", "4")
    done = call("train", "rows.jsonl", *options, "-o", "model", "-q")
    assert "6 queries" in done.stderr
    assert "1 row without text" in done.stderr  # with -q, too


def test_search_makes_no_ids_up(call, files):
    write_jsonl(files / "q.jsonl", [{"key": "K1", "query": "word1"}])
    done = call("search", "q.jsonl", "c.jsonl", code=1)
    sentence = one_sentence(done.stderr)
    assert (
        'q.jsonl:1: no id column among "key", "query"; name it with --query-id-column' in sentence
    )
    call("search", "q.jsonl", "c.jsonl", "--query-id-column", "key", "-o", "run.trec")
    assert (files / "run.trec").read_text().startswith("K1 Q0 D")
