"""stope report: the page, pictures, what the terminal says, what is refused."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests

from __future__ import annotations

import json

import pytest

pytest.importorskip("typer", reason="needs the extra report")
pytest.importorskip("pyarrow", reason="needs the extra report")
pytest.importorskip("matplotlib", reason="needs the extra report")
pytest.importorskip("vl_convert", reason="needs the extra report")
from command import EMBEDDED, call, folder, texts


@pytest.fixture
def mined(folder, call):
    options = ("--job", "job", "--max-score", "0.5", "-o", "rows.jsonl", "--ids", "ids.jsonl", "-q")
    call("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, *options)
    return folder


def test_a_job_gets_its_page_and_pictures(mined, call):
    done = call("report", "job", "pairs.tsv", "corpus.jsonl", "--figures", "pictures")
    text = (mined / "job/report.html").read_text(encoding="utf-8")
    assert "job/report.html: open it in a browser." in done.stdout
    for line in ("queries", "suspected of being answers", "turned away: max score"):
        assert line in done.stdout
        assert line in text
    names = {path.name for path in (mined / "pictures").iterdir()}
    assert {"scores.png", "scores.svg", "margins.png", "turned-away.svg", "hubs.png"} <= names
    assert f"{len(names)} pictures in pictures" in done.stdout


def test_json_is_all_that_is_printed(mined, call):
    done = call(
        "report", "ids.jsonl", "--json", "--near", "0.2", "--most-rows", "3", "-o", "x.html"
    )
    facts = json.loads(done.stdout)
    assert facts["page"] == "x.html"
    assert facts["figures"] == []
    assert facts["facts"]["negatives"] == "200"
    assert "negatives up to 20% below it" in facts["facts"]
    assert "Listed are 3 of 200 rows" in (mined / "x.html").read_text(encoding="utf-8")


def test_rows_of_texts_get_ids_of_the_pairs(mined, call):
    call("report", "rows.jsonl", "pairs.tsv", "corpus.jsonl", "-q")
    page = (mined / "rows.html").read_text(encoding="utf-8")
    assert '"export":{"query_id":"query id","document_id":"document id"}' in page
    assert "no scores" in page


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing.parquet",), 1, "nothing.parquet does not exist"),
        (("pairs.tsv",), 1, "has no negative"),
        (("ids.jsonl", "-o", "x.htm"), 1, "its name must end in .html"),
        (("ids.jsonl", "-o", "no/x.html"), 1, "the folder no does not exist"),
        (("ids.jsonl", "--positive-ids"), 2, "it is about PAIRS, and there is none"),
        (("ids.jsonl", "--near", "2"), 2, "Invalid value for '--near'"),
        (("ids.jsonl", "queries.jsonl"), 1, "positive"),
    ],
)
def test_faults_are_sentences_and_leave_no_page(mined, call, arguments, code, words):
    before = {path.name for path in mined.rglob("*.html")}
    done = call("report", *arguments, code=code)
    assert words in " ".join(done.output.replace("│", " ").split())
    assert {path.name for path in mined.rglob("*.html")} == before
