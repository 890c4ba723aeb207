"""stope mine --job: the folder, what survives, what is told, and what goes on into training."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("typer", reason="needs the extra cli")
pytest.importorskip("pyarrow", reason="tables are Parquet")
pytest.importorskip("bm25s", reason="needs the extra retrieval")

import pyarrow.parquet
from command import EMBEDDED, QUERIES, call, folder, one_sentence, process, texts

from stope.cli.mined import show_suspects
from stope.data import FORMATS, Source, read_jsonl, read_source, write_jsonl

JOB = ("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "--job", "job", "--relative-margin", "0.05")
SOURCES = ("--quotas", "dense=3,bm25=1,run=1,siblings=1,random=1", "--run", "run.jsonl")
MIXED = (*JOB, *SOURCES, "--groups", "groups.tsv", "--teacher", "scores.jsonl")


@pytest.fixture
def files(folder):
    lines = ["document_id\tgroup", *(f"d{n}\tg{n % 9}" for n in range(150)), "other\tg1"]
    (folder / "groups.tsv").write_text("\n".join(lines) + "\n")
    pairs = [(f"q{q}", f"d{(5 * q + n) % 150}", 9.0 - n) for q in range(QUERIES) for n in range(9)]
    every = [(f"q{q}", f"d{d}", (q * d) % 7) for q in range(QUERIES) for d in range(150)]
    for name, rows in (("run", pairs), ("scores", every)):
        names = ("query_id", "document_id", "score")
        write_jsonl(folder / f"{name}.jsonl", (dict(zip(names, r, strict=True)) for r in rows))
    return folder


def table(folder, name="job"):
    return pyarrow.parquet.read_table(folder / name / "negatives.parquet").to_pylist()


def kept(rows):
    return {(row["query_id"], row["document_id"]) for row in rows if row["reason"] == "kept"}


def test_a_job_of_all_sources_is_done_once_and_told(call, files):
    done = call(*MIXED)
    rows = table(files)
    assert {row["source"] for row in rows if row["reason"] == "kept"} > {"dense", "bm25", "random"}
    told = " ".join(done.stdout.split())
    assert "By source" in told
    assert "job/negatives.parquet has all of this by ids" in told
    said = f"{len(kept(rows))} rows in negatives.jsonl: "
    assert said in told
    assert "of the 40 pairs of a query and a positive x up to 7 negatives" in told
    assert "--groups: 1 document left out, which the data do not have" in done.stderr
    before = (files / "job" / "negatives.parquet").stat().st_mtime_ns
    again = call(*MIXED, "-o", "again.jsonl", "--json", "-q")
    counts = json.loads(again.stdout)
    assert counts["num_negatives"] == len(kept(rows)) == counts["rows"]
    assert counts["by_source"]["dense"]["kept"] == sum(
        row["source"] == "dense" and row["reason"] == "kept" for row in rows
    )
    assert (files / "job" / "negatives.parquet").stat().st_mtime_ns == before
    assert (files / "again.jsonl").read_text() == (files / "negatives.jsonl").read_text()
    refused = one_sentence(call(*MIXED, "--max-score", "0.5", code=1).stderr)
    assert "job holds a mining job that was begun otherwise: --max-score (not given" in refused
    assert "name another folder" in refused


def test_a_job_without_options_mines_what_mine_mines(call, files):
    common = ("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "--relative-margin", "0.1", "-n", "4")
    call(*common, "-o", "plain.jsonl", "--ids", "plain.ids.jsonl")
    call(*common, "-o", "job.jsonl", "--ids", "job.ids.jsonl", "--job", "job")
    for name in ("jsonl", "ids.jsonl"):
        assert (files / f"plain.{name}").read_text() == (files / f"job.{name}").read_text()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_every_format_of_a_job_is_read_back_whole(call, files, format, ending):
    call(*MIXED, "--format", format, "-o", f"rows.{ending}")
    data = read_source(Source(files / f"rows.{ending}"))
    texts = {f"d{n}": row["text"] for n, row in enumerate(read_jsonl(files / "corpus.jsonl"))}
    want = {}
    for query, document in kept(table(files)):
        want.setdefault(texts[query.replace("q", "d")], set()).add(texts[document])
    owners = data.pairs.positives.ids.tolist()
    pairs = zip(owners, data.negatives, strict=True)
    found = {data.pairs.corpus_texts[row]: set(negatives) for row, negatives in pairs}
    if format == "labeled-pair":  # which has the positives of every query
        found = {text: rows for text, rows in found.items() if rows}
    if format == "n-tuple":
        want = {text: rows for text, rows in want.items() if len(rows) == 7}
    assert found == want
    assert len(found) > 5


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"dense": {"max_score": 3}, "random": {"max_score": 0}}, True),
        ({"dense": {"teacher_margin": 1}}, True),
        ({"corpus": {"excluded": 4, "query_text": 1}, "dense": {"min_score": 2}}, False),
    ],
)
def test_suspects_of_any_source_are_told(capsys, counts, told):
    show_suspects(SimpleNamespace(folder=Path("job"), counts=counts))
    assert ("scored like answers" in " ".join(capsys.readouterr().out.split())) is told


def test_what_a_person_excludes_is_not_mined_again(call, files):
    call(*JOB)
    first = sorted(kept(table(files)))
    rows = [{"query_id": q, "doc_id": d} for q, d in first[:20]]
    write_jsonl(files / "no.jsonl", rows)
    write_jsonl(files / "nobodys.jsonl", [{"document_id": "d149"}])
    exclude = ("--exclude", "no.jsonl", "--exclude", "nobodys.jsonl")
    second = ("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "--job", "second")
    done = call(*second, *exclude)
    assert "as negatives: 20 documents of single queries, 1 document of all" in done.stderr
    assert not kept(table(files, "second")) & set(first[:20])
    assert all(row["document_id"] != "d149" for row in table(files, "second"))
    call("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, *exclude, "--ids", "i.jsonl")
    mined = {(row["query_id"], row["document_id"]) for row in read_jsonl(files / "i.jsonl")}
    assert mined == kept(table(files, "second"))
    (files / "no.txt").write_text("d1\nnope\n")
    said = one_sentence(call(*second, "--exclude", "no.txt", code=1).stderr)
    assert said.startswith("--exclude: no.txt:2: the data have no document of the id 'nope'")


def test_what_is_excluded_is_no_negative(call, folder):
    call(
        "mine", "pairs.tsv", "corpus.jsonl", "-o", "mined.jsonl", "--ids", "ids.jsonl",
        "--query-embeddings", "q.npy", "--corpus-embeddings", "c.npy", "-n", 4,
    )  # fmt: skip
    rows = list(read_jsonl(folder / "ids.jsonl"))
    write_jsonl(folder / "no.jsonl", [{"document_id": row["document_id"]} for row in rows[:2]])
    write_jsonl(folder / "nope.jsonl", [{"document_id": "nope"}])
    left = {row["document_id"] for row in rows[:2]}
    count = sum(row["document_id"] in left for row in rows)
    (folder / "run.yaml").write_text(
        "data: {path: pairs.tsv, corpus: corpus.jsonl, exclude: no.jsonl}\n"
        "negatives: {file: ids.jsonl}\nencoder: {static: {dim: 16}}\nschedule: {epochs: 1}\n"
        "output: out\n"
    )
    assert f"{count} negatives of the file are excluded" in call("train", "run.yaml").stderr
    fresh = ("train", "pairs.tsv", "corpus.jsonl", "-n", 2, "--holdout", 8, "--epochs", 1)
    said = one_sentence(call(*fresh, "--exclude", "nope.jsonl", code=1).stderr)
    assert said.startswith("--exclude: ")
    assert "nope.jsonl:1: the data have no document of the id 'nope'" in said
    done = call(*fresh, "--exclude", "no.jsonl")
    assert f"excluded as negatives: 0 documents of single queries, {len(left)} docu" in done.stderr
    mined = ("train", "mined.jsonl", "-o", "x", "--exclude", "no.jsonl")
    said = one_sentence(call(*mined, code=1).stderr)
    assert said.startswith("--exclude is for negatives that are mined, but ")
    (folder / "no.txt").write_text("d1\n")
    assert "a configuration says this" in call("train", "run.yaml", *mined[-2:], code=2).stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--quotas", "dense=3"), "it is of a job; name its folder with --job"),
        (("--near-positive", "0.9"), "it is of a job"),
        (("--job", "job", "--keep-query-text"), "a job never takes a query's own text"),
        (("--job", "job", "--quotas", "run=2"), "the source run of --quotas and --run go together"),
        (
            ("--job", "job", "--groups", "groups.tsv"),
            "the source siblings of --quotas and --groups",
        ),
        (("--job", "job", "--quotas", "dense"), "'dense' is no source and its number"),
        (("--job", "job", "--quotas", "dense=2", "-n", "3"), "--quotas says how many"),
    ],
)
def test_options_that_do_not_go_together(call, files, options, why):
    done = call("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, *options, code=2)
    assert why in " ".join(done.stderr.replace("│", " ").split())
    assert not (files / "job").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--quotas", "dense=2,web=1"), "--quotas names 'web'; the sources are dense, bm25"),
        (("--teacher-margin", "0.1"), "--teacher-margin is 0.1, but there is no teacher"),
        (("--near-positive", "2"), "--near-positive is 2"),
        (("--sampling", "random", "--seed", "1"), "--sampling is 'random', which a job does not"),
        (("-o", "corpus.jsonl"), "cannot write corpus.jsonl: it is read or written already"),
    ],
)
def test_wrong_values_name_the_option(call, files, options, why):
    common = ("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "--job", "job")
    assert why in one_sentence(call(*common, *options, code=1).stderr)


def test_a_model_trained_on_the_way_makes_no_job(call, files):
    done = call("mine", "pairs.tsv", "corpus.jsonl", "--job", "job", code=2)
    assert "a job needs an --encoder" in " ".join(done.stderr.replace("│", " ").split())


def test_a_killed_command_goes_on_to_the_same_bytes(process, files):
    wanted = None
    waits = {"whole": [60], "killed": [0.7, 1.2, 1.6, 60], "again": [1.0, 1.4, 1.8, 2.2, 60]}
    for name, seconds in waits.items():
        ends = []
        for wait in seconds:
            running = process(*MIXED[:8], name, *MIXED[9:], "-o", f"{name}.jsonl", "-q")
            with contextlib.suppress(subprocess.TimeoutExpired):
                running.wait(wait)
            running.kill()
            running.communicate()
            ends.append(running.returncode)
        assert ends[-1] == 0
        written = [(files / name / file).read_bytes() for file in ("negatives.parquet", "job.json")]
        written.append((files / f"{name}.jsonl").read_bytes())
        wanted = wanted or written
        assert written == wanted, name
