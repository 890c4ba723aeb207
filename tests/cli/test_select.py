"""stope select: chosen documents, best first, with reasons; for a benchmark and without one."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import json

import numpy as np
import pytest
from command import QUERIES, beir, call, folder, one_sentence, prose, texts

from stope import neighbors
from stope.data import read_jsonl

FILES = ("corpus.jsonl", "--embeddings", "c.npy", "--ids", "ids.jsonl")


def chosen(folder):
    rows = list(read_jsonl(folder / "ids.jsonl"))
    assert [row["rank"] for row in rows] == list(range(1, len(rows) + 1))
    documents = {row["_id"]: row for row in read_jsonl(folder / "corpus.jsonl")}
    want = [documents[row["document_id"]] for row in rows]
    assert list(read_jsonl(folder / "chosen.jsonl")) == want  # whole rows, the first one first
    return rows


@pytest.mark.parametrize("method", ["betr", "betr-mean", "craft"])
def test_for_a_benchmark_it_is_the_selector(call, folder, method):
    q, c = np.load("q.npy"), np.load("c.npy")
    selector = {
        "betr": neighbors.BenchmarkTargeted(q),
        "betr-mean": neighbors.BenchmarkTargeted(q, aggregate="mean"),
        "craft": neighbors.CraftMix(q),
    }[method]
    call("select", *FILES, "--for", "q.npy", "-n", 60, "--method", method)
    rows, want = chosen(folder), selector(c, 60)
    assert [row["document_id"] for row in rows] == [f"d{row}" for row in want.ids]
    np.testing.assert_array_equal([row["score"] for row in rows], want.scores)
    if method == "craft":
        examples = [None if e < 0 else str(e) for e in want.reasons["few_shot"].tolist()]
        assert [row["example_id"] for row in rows] == examples
        assert None in examples
    else:
        assert [row["example_id"] for row in rows] == list(map(str, want.reasons["target"]))
        assert [row["example_rank"] for row in rows] == want.reasons["rank"].tolist()


@pytest.mark.parametrize("method", ["vote-k", "k-center", "facility", "prototypes", "d4"])
def test_without_a_benchmark_it_is_the_selector(call, folder, method):
    selector = {
        "vote-k": neighbors.VoteK(),
        "k-center": neighbors.KCenter(),
        "facility": neighbors.FacilityLocation(),
        "prototypes": neighbors.Prototypes(7, seed=3),
        "d4": neighbors.D4(7, seed=3),
    }[method]
    clustered = ["--clusters", 7, "--seed", 3] if method in ("prototypes", "d4") else []
    call("select", *FILES, "-n", 20, "--method", method, *clustered)
    rows, want = chosen(folder), selector(np.load("c.npy"), 20)
    assert [row["document_id"] for row in rows] == [f"d{row}" for row in want.ids]
    scores = [row.get("score", np.nan) for row in rows]
    np.testing.assert_array_equal(scores, want.scores)
    assert np.isfinite(scores[1:]).all()


def test_texts_and_beir_folders_are_encoded(call, folder, beir):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    documents = prose(150)
    rows = [{"_id": f"d{i}", "text": text} for i, text in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = [f"q{i}\t{' '.join(text.split()[:6])}" for i, text in enumerate(documents[:QUERIES])]
    (folder / "queries.tsv").write_text("\n".join(["qid\twanted", *asked]) + "\n")
    arguments = ("corpus.jsonl", "-n", QUERIES, "--ids", "ids.jsonl", "--summary", "s.json")
    done = call("select", *arguments, "--for", "queries.tsv", "--query-column", "wanted")
    first = [row for row in chosen(folder) if row["example_rank"] == 1]
    # A query is the first words of its document.
    best = [row["document_id"] == row["example_id"].replace("q", "d") for row in first]
    assert sum(best) > 0.9 * QUERIES
    counts = json.loads((folder / "s.json").read_text())
    assert (counts["examples"], counts["documents_chosen"]) == (QUERIES, QUERIES)
    assert "documents that are the text" not in done.stderr
    call("select", *arguments, "--for", "beir", "--split", "test")
    assert {row["example_id"] for row in chosen(folder)} <= {f"q{i}" for i in range(30, 40)}
    call("select", *arguments, "--for", "beir")
    assert {row["example_id"] for row in chosen(folder)} <= {f"q{i}" for i in range(30)}


def test_it_says_which_documents_the_benchmark_holds(call, folder, texts):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    (folder / "q.txt").write_text(f"{texts[1][4].upper()}\nw1 w2\n")
    done = call("select", "corpus.jsonl", "--for", "q.txt", "-n", 3)
    assert "chosen documents that are the text of an example: 1, such as d4" in done.stderr
    assert "of one chosen before" not in done.stderr


def test_it_says_which_documents_were_chosen_twice(call, folder):
    pytest.importorskip("sentence_transformers", reason="needs the extra train")
    (folder / "same.txt").write_text("red ore\nRed  ore\ndeep pit\nred ore\n")
    done = call("select", "same.txt", "-n", 4, "--method", "k-center")
    assert "the text of one chosen before: 2, such as " in done.stderr


def test_of_the_best_rank_the_table_shows_the_rank(call, folder):
    rows = call("select", *FILES, "--for", "q.npy", "-n", 3).stdout.split("Chosen first")[1]
    assert "rank for it" in rows
    assert "0.0000" not in rows  # log2 of a first rank
    means = call("select", *FILES, "--for", "q.npy", "-n", 3, "--method", "betr-mean").stdout
    assert "score" in means.split("Chosen first")[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--for", "q.npy", "-n", "151"], "-n is 151 but corpus.jsonl has 150 documents; lower it"),
        (["--for", "narrow.npy", "-n", "5"], "narrow.npy have 8 dims, the documents of corpus"),
        (["--for", "half.npy", "-n", "5"], "half.npy are float16, the documents of corpus.jsonl"),
        (["--for", "nan.npy", "-n", "5"], "--for nan.npy: row 0 (counted from 0) holds NaN or"),
        (["--for", "nope.txt", "-n", "5", "--encoder", "m"], "nope.txt does not exist"),
        (["--method", "d4", "-n", "5", "--clusters", "150"], "--clusters is 150 but corpus.jsonl"),
        (["--for", "q.npy", "-n", "5", "-o", "q.npy"], "its name must end in .jsonl"),
    ],
    ids=str,
)
def test_it_says_what_is_wrong(call, folder, arguments, message):
    q = np.load("q.npy")
    np.save("narrow.npy", q[:, :8])
    np.save("half.npy", q.astype(np.float16))
    np.save("nan.npy", q * np.float32("nan"))
    assert message in one_sentence(call("select", *FILES, *arguments, code=1).stderr)
    assert not (folder / "chosen.jsonl").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", "5"], "--method betr needs examples"),
        ([], "Missing option"),
        (["--for", "queries.jsonl", "-n", "5"], "name the encoder of both"),
        (["--for", "q.npy", "-n", "5", "--method", "vote-k"], "no effect with --method vote-k"),
        (["--for", "q.npy", "-n", "5", "--seed", "1"], "no effect with --method betr"),
        (["--for", "q.npy", "-n", "5", "--split", "dev"], "q.npy is no BEIR folder"),
        (["--for", "q.npy", "-n", "5", "--query-prompt", "q: "], "q.npy holds embeddings"),
    ],
    ids=str,
)
def test_wrong_usage(call, folder, arguments, said):
    assert said in " ".join(call("select", *FILES, *arguments, code=2).stderr.split())
