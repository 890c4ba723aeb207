"""stope search, evaluate and train: runs, intervals, and models that serve every command."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import json
import re

import pytest
from command import EMBEDDED, QUERIES, beir, call, folder, one_sentence, texts
from typer.testing import CliRunner

from stope.cli.app import app
from stope.cli.trained import show_model
from stope.data import Source, read_jsonl, read_run, write_jsonl

# --- search ------------------------------------------------------------------------------------


def test_search_finds_with_bm25(call, folder):
    done = call("search", "queries.jsonl", "corpus.jsonl", "-k", 10)
    run = read_run(folder / "run.trec")
    assert list(run) == [f"q{i}" for i in range(QUERIES)]
    assert all(max(found, key=found.get) == query.replace("q", "d") for query, found in run.items())
    assert all(len(found) <= 10 for found in run.values())
    assert "40 queries" in done.stdout
    first = (folder / "run.trec").read_text().split("\n")[0].split()
    assert first[:4] == ["q0", "Q0", "d0", "1"]
    assert first[5] == "stope"


def test_search_writes_json_lines_and_a_tag(call, folder):
    call("search", "queries.jsonl", "corpus.jsonl", "-k", 3, "-o", "run.jsonl")
    call("search", "queries.jsonl", "corpus.jsonl", "-k", 3, "--tag", "mine")
    rows = list(read_jsonl(folder / "run.jsonl"))
    run = read_run(folder / "run.trec")
    assert {r["document_id"]: r["score"] for r in rows if r["query_id"] == "q7"} == run["q7"]
    assert [row["rank"] for row in rows[:2]] == [1, 2]
    assert (folder / "run.trec").read_text().split("\n")[0].endswith(" mine")


def test_search_reads_texts_without_columns_and_beir(call, folder, beir, texts):
    (folder / "q.txt").write_text("\n".join(texts[0]) + "\n")
    (folder / "c.txt").write_text("\n".join(texts[1]) + "\n")
    call("search", "q.txt", "c.txt", "-k", 1)
    assert read_run(folder / "run.trec")["5"].keys() == {"5"}
    call("search", "beir", "-k", 1)
    assert set(read_run(folder / "run.trec")) == {f"q{i}" for i in range(30, 40)}


def test_search_serves_at_most_the_corpus(call, folder):
    (folder / "c.csv").write_text("id,text\n1,w1 w2\n2,w3\n")
    call("search", "queries.jsonl", "c.csv")
    done = call("search", "queries.jsonl", "c.csv", "-k", 3, code=1)
    assert one_sentence(done.stderr) == "-k is 3 but the corpus has 2 documents; lower it."


def test_search_splits_code(call, folder):
    (folder / "q.csv").write_text("id,query\n1,socket\n")
    (folder / "c.csv").write_text("id,text\na,openSocket\nb,read_file\n")
    said = one_sentence(call("search", "q.csv", "c.csv", "-k", 1, code=1).stderr)
    assert said.startswith("no query found a document, so nothing was written")
    assert not (folder / "run.trec").exists()
    call("search", "q.csv", "c.csv", "-k", 1, "--code")
    assert read_run(folder / "run.trec")["1"].keys() == {"a"}


def test_search_stems(call, folder):
    (folder / "q.csv").write_text("id,query\n1,mining\n")
    (folder / "c.csv").write_text("id,text\na,old mines\nb,the sea\n")
    call("search", "q.csv", "c.csv", "-k", 1, "--stemmer", "english")
    assert read_run(folder / "run.trec")["1"].keys() == {"a"}
    call("search", "q.csv", "c.csv", "-k", 1, code=1)


def test_search_leaves_out_the_query_itself(call, folder):
    (folder / "q.csv").write_text("id,query\na,old mines\n")
    (folder / "c.csv").write_text("id,text\na,old mines\nb,old sea\n")
    call("search", "q.csv", "c.csv", "-k", 1)
    assert read_run(folder / "run.trec")["a"].keys() == {"a"}
    call("search", "q.csv", "c.csv", "-k", 1, "--exclude-self")
    assert read_run(folder / "run.trec")["a"].keys() == {"b"}


# --- evaluate ----------------------------------------------------------------------------------


def test_search_says_that_rows_are_numbered_where_they_have_no_ids(call, folder):
    texts = [row["text"] for row in read_jsonl(folder / "corpus.jsonl")]
    write_jsonl(folder / "none.jsonl", ({"text": text} for text in texts))
    write_jsonl(folder / "ids.jsonl", ({"id": n, "text": text} for n, text in enumerate(texts)))
    said = "the documents go by their row"
    for name, numbered in (("none.jsonl", True), ("ids.jsonl", False)):
        done = call("search", "queries.jsonl", name, "-k", 3, "-o", "r.jsonl")
        assert (said in done.stderr) == numbered


@pytest.fixture
def runs(folder):
    """Two runs with known metrics: the answer first for every query, and for half of them."""
    good = "".join(f"q{i} Q0 d{i} 1 2.0 a\nq{i} Q0 x 2 1.0 a\n" for i in range(QUERIES))
    half = "".join(
        f"q{i} Q0 d{i} 1 {2.0 if i % 2 else 0.5} a\nq{i} Q0 x 2 1.0 a\n" for i in range(QUERIES)
    )
    (folder / "good.trec").write_text(good)
    (folder / "half.trec").write_text(half)


def test_evaluate_prints_means_with_intervals(call, runs):
    text = call("evaluate", "half.trec", "qrels.tsv", "-m", "MRR@10", "-m", "R@5").stdout
    line = next(line for line in text.splitlines() if "MRR@10" in line)
    mean, low, high = (float(number) for number in re.findall(r"\d\.\d{4}", line))
    assert mean == 0.75
    assert 0.6 < low < 0.75 < high < 0.9
    assert "1.0000 to 1.0000" in next(line for line in text.splitlines() if "R@5" in line)
    assert "40 queries" in text


def test_evaluate_compares_with_a_baseline(call, folder, runs):
    arguments = ("evaluate", "good.trec", "qrels.tsv", "--baseline", "half.trec", "-m", "MRR@10")
    text = call(*arguments, "-o", "out.json", "--per-query", "each.jsonl").stdout
    assert "+0.2500" in text
    row = json.loads((folder / "out.json").read_text())["metrics"][0]
    assert (row["mean"], row["baseline"], row["difference"]["mean"]) == (1.0, 0.75, 0.25)
    assert 0 < row["difference"]["low"] < 0.25 < row["difference"]["high"]
    assert row["difference"]["p_value"] < 0.01
    each = list(read_jsonl(folder / "each.jsonl"))
    assert len(each) == QUERIES
    assert each[3] == {"query_id": "q3", "MRR@10": 1.0}
    backwards = call(
        "evaluate", "half.trec", "qrels.tsv", "--baseline", "good.trec", "-m", "MRR@10"
    )
    assert "-0.2500" in backwards.stdout


@pytest.mark.parametrize("command", ["evaluate", "report"])
def test_a_baseline_of_other_documents_is_refused(call, folder, runs, command):
    (folder / "alien.trec").write_text("q0 Q0 alien 1 2.0 a\nq1 Q0 other 1 2.0 a\n")
    failed = call(command, "good.trec", "qrels.tsv", "--baseline", "alien.trec", code=1)
    message = one_sentence(failed.stderr)
    assert "no document of alien.trec is judged for any query, so all numbers would be 0" in message


def test_the_interval_follows_samples_seed_and_confidence(call, folder, runs):
    common = ("evaluate", "half.trec", "qrels.tsv", "-m", "MRR@10", "-o", "out.json")

    def interval(*options):
        call(*common, *options)
        row = json.loads((folder / "out.json").read_text())["metrics"][0]
        return row["low"], row["high"]

    few = ("--num-samples", 50)
    assert interval(*few) == interval(*few, "--seed", 0) != interval(*few, "--seed", 1)
    assert interval() != interval(*few)
    (low, high), (wide_low, wide_high) = interval(), interval("--confidence", 0.999)
    assert wide_low < low < high < wide_high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.trec", "qrels.tsv"], "nope.trec does not exist"),
        (["good.trec", "nope.tsv"], "nope.tsv does not exist"),
        (["qrels.tsv", "qrels.tsv"], "qrels.tsv:1"),
        (["good.trec", "qrels.tsv", "-m", "quality"], "quality"),
        (["good.trec", "qrels.tsv", "--confidence", "95"], "--confidence is 95"),
        (["good.trec", "qrels.tsv", "-o", "x.csv"], "must end in .json"),
    ],
    ids=str,
)
def test_evaluate_says_what_is_wrong(call, runs, arguments, message):
    assert message in one_sentence(call("evaluate", *arguments, code=1).stderr)


# --- encoders: with the extra train ------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory, texts):
    """A model folder made by `stope train` on the pairs."""
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    folder = tmp_path_factory.mktemp("train")
    queries, documents = texts
    lines = ["query\tpositive", *(f"{q}\t{d}" for q, d in zip(queries, documents, strict=False))]
    (folder / "pairs.tsv").write_text("\n".join(lines) + "\n")
    done = CliRunner().invoke(
        app,
        ["train", str(folder / "pairs.tsv"), "-o", str(folder / "model"), "--epochs", "3"],
        env={"COLUMNS": "200"},
    )
    assert done.exit_code == 0, done.output
    assert "steps in" in done.stdout
    return folder / "model"


def test_a_trained_model_serves_every_command(call, folder, model):
    for method in ("dense", "hybrid", "hnsw"):
        call(
            "search", "queries.jsonl", "corpus.jsonl", "--encoder", model, "--method", method,
            "-k", 5, "-o", f"{method}.trec",
        )  # fmt: skip
        run = read_run(folder / f"{method}.trec")
        hits = sum(query.replace("q", "d") in found for query, found in run.items())
        assert hits > 30, method
    call(
        "mine", "pairs.tsv", "corpus.jsonl", "--encoder", model, "--cache", "cache", "-o", "1.jsonl"
    )
    saved = {path: path.stat().st_mtime_ns for path in folder.glob("cache/*/embeddings.npy")}
    assert len(saved) == 2
    call(
        "mine", "pairs.tsv", "corpus.jsonl", "--encoder", model, "--cache", "cache", "-o", "2.jsonl"
    )
    assert (folder / "1.jsonl").read_text() == (folder / "2.jsonl").read_text()
    assert saved == {
        path: path.stat().st_mtime_ns for path in folder.glob("cache/*/embeddings.npy")
    }


def test_mine_trains_its_own_encoder_on_two_files(call, folder, monkeypatch):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    import stope.training

    real, losses = stope.training.train, []

    def spy(*arguments, **options):
        report = real(*arguments, **options)
        losses.extend(report.losses)
        return report

    monkeypatch.setattr(stope.training, "train", spy)
    call("mine", "pairs.tsv", "corpus.jsonl", "-n", 2, "--ids", "ids.jsonl", "-q")
    rows = list(read_jsonl(folder / "ids.jsonl"))
    assert len(rows) == 2 * QUERIES
    assert all(row["query_id"].replace("q", "d") != row["document_id"] for row in rows)
    assert losses[-1] < losses[0] / 2
    better = [row["positive_score"] > row["score"] for row in rows if row["rank"] == 1]
    assert sum(better) > QUERIES / 2  # by chance one in 150


def test_train_takes_what_mine_wrote(call, folder):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    call(
        "mine",
        "pairs.tsv",
        "corpus.jsonl",
        *EMBEDDED,
        "-n",
        2,
        "--format",
        "n-tuple",
        "-o",
        "t.jsonl",
    )
    done = call("train", "t.jsonl", "-o", "model", "--epochs", 1)
    assert "40 pairs with 2 negatives each" in done.stderr
    assert (folder / "model" / "modules.json").exists()
    done = call("train", "t.jsonl", "-o", "model", code=1)
    assert "cannot write model: it exists" in one_sentence(done.stderr)
    call("train", "t.jsonl", "corpus.jsonl", "-o", "other", code=2)


def test_train_mines_and_trains_on(call, folder):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    shared = ("train", "pairs.tsv", "corpus.jsonl", "--epochs", 1, "--holdout", 8)
    once = call(*shared, "-o", "once").stdout
    twice = call(*shared, "-o", "twice", "--num-negatives", 2).stdout
    steps = [int(text.split(" steps")[0].replace(",", "")) for text in (once, twice)]
    assert steps[1] == steps[0] + steps[0] // 2  # a second stage, half as long
    logs = [folder / "twice.run" / part / "log.jsonl" for part in ("", "second")]
    kinds = [{row["kind"] for row in read_jsonl(log)} for log in logs]
    assert "guard" in kinds[0]
    assert "refresh" not in kinds[0]
    assert "refresh" in kinds[1]
    assert (folder / "twice" / "modules.json").exists()


def test_what_to_try_is_found_from_a_shell_which_leaves_quoted_paths_alone(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "modules.json").touch()
    show_model(tmp_path, [Source("~/q.tsv", corpus="~/c.txt", qrels="~/j.tsv")])
    assert f"stope search {tmp_path}/q.tsv {tmp_path}/c.txt --method" in capsys.readouterr().out
    (tmp_path / "beir").mkdir()
    show_model(tmp_path, [Source("~/beir")])
    assert f"stope search {tmp_path}/beir --split train --method" in capsys.readouterr().out
