"""stope report: the page, pictures, what the terminal says, what is refused."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests

from __future__ import annotations

import json

import pytest

pytest.importorskip("typer", reason="needs the extra report")
pytest.importorskip("pyarrow", reason="needs the extra report")
pytest.importorskip("matplotlib", reason="needs the extra report")
pytest.importorskip("vl_convert", reason="needs the extra report")
from command import EMBEDDED, beir, call, folder, texts

from stope.data import read_jsonl, write_jsonl


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


# --- trainings and runs ------------------------------------------------------------------------


def a_run(path, last="Q0"):
    lines = (f"q{q} {last} d{(q + n) % 150} {n} {9 - n} tag\n" for q in range(9) for n in range(5))
    path.write_text("".join(lines))


def test_a_training_gets_its_page_from_its_folder_or_its_models(folder, call):
    pytest.importorskip("transformers", reason="needs the extra train")
    from stope.training.callbacks.log import TrainingLog

    (folder / "model").mkdir()
    with TrainingLog(folder / "model.run") as log:
        log.write("start", 0, max_steps=9)
        log.write("step", 1, loss=2.5)
    for name in ("model", "model.run"):
        done = call("report", name)
        assert "model.run/report.html: open it in a browser." in done.stdout
        assert "1 of 9: it runs, or was stopped" in done.stdout
    assert not list((folder / "model").iterdir())
    for more in (("pairs.tsv",), ("--near", "0.2"), ("--metric", "P@5")):
        assert (
            "holds a training, which is read alone" in call("report", "model", *more, code=2).stderr
        )


def test_runs_get_a_page_of_their_metrics(folder, beir, call):
    a_run(folder / "new.trec")
    rows = [{"query_id": f"q{q}", "document_id": f"d{q + 1}", "score": 1.0} for q in range(9)]
    write_jsonl(folder / "old.jsonl", rows)
    texts = ("corpus.jsonl", "--queries", "queries.jsonl")
    done = call("report", "new.trec", "qrels.tsv", *texts, "--baseline", "old.jsonl")
    told = " ".join(done.stdout.split())
    assert "wins, ties, losses in nDCG@10 │ 9, 31, 0" in told
    assert "MRR@10 of new.trec │ 0.2250 [" in told
    page = (folder / "new.html").read_text(encoding="utf-8")
    first = next(read_jsonl(folder / "corpus.jsonl"))["text"]
    assert first in page
    assert " ".join(first.split()[:4]) in page
    done = call("report", "old.jsonl", "beir", "-m", "P@1", "--split", "train", "-q")
    assert "queries with P@1 of 0 │ 30 of 30" in " ".join(done.stdout.split())
    assert first in (folder / "old.html").read_text(encoding="utf-8")


def test_a_page_of_a_run_has_titles_once(folder, call):
    a_run(folder / "new.trec")
    rows = read_jsonl(folder / "corpus.jsonl")
    write_jsonl(folder / "titled.jsonl", ({**row, "title": f"Title {row['_id']}"} for row in rows))
    call("report", "new.trec", "qrels.tsv", "titled.jsonl", "-q")
    page = (folder / "new.html").read_text(encoding="utf-8")
    assert "Title d0 " in page
    assert "Title d0 Title" not in page


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("new.trec",), 2, "new.trec is a run; give its judgements after it"),
        (("new.trec", "qrels.tsv", "--near", "0.2"), 2, "is a run, which has no use for it"),
        (("new.trec", "qrels.tsv", "--positive-ids"), 2, "is a run, which has no use for it"),
        (("new.trec", "qrels.tsv", "--split", "dev"), 2, "this is for BEIR folders"),
        (("new.trec", "qrels.tsv", "--metric", "P@5,ndgc"), 1, "--metric: 'ndgc', an unknown name"),
        (("new.trec", "qrels.tsv", "-m", "P@5,P@5"), 1, "--metric names P@5 twice"),
        (("new.trec", "empty.tsv"), 1, "empty.tsv holds no judgements"),
        (("new.trec", "other.tsv"), 1, "no document of new.trec is judged for any query"),
        (("new.trec", "qrels.tsv", "--baseline", "./new.trec"), 1, "new.trec, the run itself"),
        (
            ("new.trec", "qrels.tsv", "--figures", "other.tsv"),
            1,
            "cannot write other.tsv: it is a file",
        ),
        (("five.trec", "qrels.tsv"), 1, "five.trec:1: expected 6 columns"),
        (("new.trec", "queries.jsonl"), 1, "queries.jsonl:1"),
        (("other.txt", "qrels.tsv"), 1, "other.txt"),
        (("ids.jsonl", "--baseline", "new.trec"), 2, "it is about a run, and ids.jsonl is none"),
        (("new.trec", "qrels.tsv", "-o", "qrels.tsv"), 1, "its name must end in .html"),
    ],
    ids=str,
)
def test_what_is_no_run_or_says_nothing_of_one_is_refused(folder, call, arguments, code, words):
    a_run(folder / "new.trec")
    a_run(folder / "other.txt", last="x")
    (folder / "empty.tsv").write_text("")
    (folder / "other.tsv").write_text("q0 0 z 1\n")
    (folder / "five.trec").write_text("q0 d0 1 2.0 tag\n")
    said = " ".join(call("report", *arguments, code=code).stderr.replace("│", " ").split())
    assert words in said


def test_rows_go_by_their_numbers_as_in_the_search(folder, call):
    (folder / "c.txt").write_text("iron ore\ncopper wire\n")
    (folder / "q.txt").write_text("ore\nwire\n")
    (folder / "j.tsv").write_text("0\t0\t1\n1\t1\t1\n")
    call("search", "q.txt", "c.txt", "-o", "r.trec")
    call("report", "r.trec", "j.tsv", "c.txt", "--queries", "q.txt", "-o", "r.html")
    page = (folder / "r.html").read_text()
    assert "copper wire" in page
    assert "iron ore" in page
    (folder / "c.jsonl").write_text('{"key": "7", "text": "ore"}\n')
    call("report", "r.trec", "j.tsv", "c.jsonl", code=1)
    (folder / "q.jsonl").write_text('{"key": "7", "query": "ore"}\n')
    done = call("report", "r.trec", "j.tsv", "--queries", "q.jsonl", code=1)
    assert 'no id column among "key", "query"; name it with --query-id-column' in done.stderr
