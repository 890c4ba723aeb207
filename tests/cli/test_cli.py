"""The stope command as a person meets it: files in, files out, sentences and exit codes."""

# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
from __future__ import annotations

import gzip
import importlib
import json
import os
import re
import signal
import sys
import time
import types

import numpy as np
import pytest
from command import EMBEDDED, QUERIES, beir, call, folder, one_sentence, process, texts

import stope
from stope.data import read_jsonl

# --- mine --------------------------------------------------------------------------------------


def test_mine_writes_what_the_kernel_finds(call, folder):
    done = call(
        "mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "--relative-margin", "0.05",
        "-n", "3", "--ids", "ids.jsonl", "--summary", "counts.json",
    )  # fmt: skip
    q, c = np.load(folder / "q.npy"), np.load(folder / "c.npy")
    want = stope.mine_hard_negatives(q, c, np.arange(QUERIES), 3, relative_margin=0.05)
    rows = list(read_jsonl(folder / "ids.jsonl"))
    got = [(row["query_id"], row["document_id"], row["rank"]) for row in rows]
    expected = [
        (f"q{query}", f"d{row}", rank)
        for query, found in enumerate(want.ids.tolist())
        for rank, row in enumerate(found, start=1)
        if row >= 0
    ]
    assert got == expected
    triplets = list(read_jsonl(folder / "negatives.jsonl"))
    assert len(triplets) == len(expected)
    assert set(triplets[0]) == {"query", "positive", "negative"}
    counts = json.loads((folder / "counts.json").read_text())
    assert counts["num_negatives"] == len(expected)
    assert f"{len(expected)} rows in negatives.jsonl" in done.stdout
    assert "turned away: relative margin" in done.stdout
    assert "40 queries, 150 documents" in done.stderr


def test_mine_says_which_negatives_answer_nothing(call, folder):
    wanted = ["mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "-n", "3", "--ids", "ids.jsonl"]
    done = call(*wanted)
    rows = list(read_jsonl(folder / "ids.jsonl"))
    never = sum(int(row["document_id"][1:]) >= QUERIES for row in rows)  # d0 answers q0, and so on
    told = " ".join(done.stdout.split())
    share = f"{never} of {len(rows)} ({never / len(rows):.0%})"
    assert f"negatives that answer no query here: {share}" in told
    assert "--among positives leaves them out." in told
    scores = [row["positive_score"] - row["score"] for row in rows]
    above = sum(score <= 0 for score in scores)
    assert f"{above} of the {len(rows)} negatives ({above / len(rows):.0%}) score at least" in told
    assert f"positive less negative │ {min(scores):.4f}" in told
    assert told.endswith("--exclude: stope report ids.jsonl pairs.tsv corpus.jsonl")
    done = call(*wanted, "--among", "positives")
    rows = list(read_jsonl(folder / "ids.jsonl"))
    assert len(rows) == 3 * QUERIES
    assert all(int(row["document_id"][1:]) < QUERIES for row in rows)
    assert "answer no query" not in done.stdout


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        (
            ["--absolute-margin", "0.2", "--metric", "dot"],
            {"absolute_margin": 0.2, "metric": "dot"},
        ),
        (["--max-score", "0.3", "--min-score", "0.25"], {"max_score": 0.3, "min_score": 0.25}),
        (
            ["--range-min", "3", "--range-max", "40", "--sampling", "random", "--seed", "9"],
            {"range_min": 3, "range_max": 40, "sampling": "random", "seed": 9},
        ),
        (
            ["--range-counts", "raw", "--range-min", "2", "--range-max", "30"],
            {"range_counts": "raw", "range_min": 2, "range_max": 30},
        ),
        (["--metric", "euclidean"], {"metric": "euclidean"}),
    ],
    ids=str,
)
def test_every_option_of_mine_reaches_the_kernel(call, folder, options, limits):
    call("mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, *options, "--ids", "ids.jsonl", "-q")
    q, c = np.load(folder / "q.npy"), np.load(folder / "c.npy")
    want = stope.mine_hard_negatives(q, c, np.arange(QUERIES), 5, **{"metric": "cosine", **limits})
    got = [row["document_id"] for row in read_jsonl(folder / "ids.jsonl")]
    assert got == [f"d{row}" for row in want.ids.ravel().tolist() if row >= 0]


@pytest.mark.parametrize(
    ("format", "columns"),
    [
        ("triplet", {"query", "positive", "negative"}),
        ("n-tuple", {"query", "positive", "negative_1", "negative_2"}),
        ("labeled-pair", {"query", "document", "label"}),
        ("labeled-list", {"query", "documents", "labels"}),
        ("flagembedding", {"query", "pos", "neg"}),
        ("tevatron", {"query_id", "query", "positive_passages", "negative_passages"}),
    ],
)
def test_mine_writes_every_format(call, folder, format, columns):
    call(
        "mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "-n", 2, "--format", format, "-o", "x.jsonl"
    )
    assert columns <= set(next(iter(read_jsonl(folder / "x.jsonl"))))


def test_mine_reads_a_beir_folder_and_a_gzip(call, folder, beir):
    call("mine", "beir", *EMBEDDED, "--ids", "ids.jsonl.gz", "-o", "x.jsonl.gz")
    with gzip.open(folder / "ids.jsonl.gz", "rt") as file:
        queries = {json.loads(line)["query_id"] for line in file}
    assert queries == {f"q{i}" for i in range(30)}
    call("mine", "beir", *EMBEDDED, "--ids", "ids.jsonl", "--split", "test")
    queries = {row["query_id"] for row in read_jsonl(folder / "ids.jsonl")}
    assert queries == {f"q{i}" for i in range(30, 40)}


def test_mine_with_ids_as_positives(call, folder):
    lines = ["query,positive", *(f"what {i},d{i}" for i in range(QUERIES))]
    (folder / "ids.csv").write_text("\n".join(lines))
    common = ("corpus.jsonl", *EMBEDDED, "-q")
    call("mine", "ids.csv", *common, "--positive-ids", "-o", "by_id.jsonl")
    call("mine", "pairs.tsv", *common, "-o", "by_text.jsonl")
    by_id, by_text = (list(read_jsonl(folder / f"{name}.jsonl")) for name in ("by_id", "by_text"))
    assert [row["negative"] for row in by_id] == [row["negative"] for row in by_text]
    (folder / "ids.csv").write_text("query,positive\nwhat,d999\n")
    done = call("mine", "ids.csv", "corpus.jsonl", "--positive-ids", code=1)
    assert "names the positive 'd999', an id that the corpus lacks" in one_sentence(done.stderr)


def test_query_text_is_kept_only_when_asked(call, folder):
    (folder / "p.csv").write_text("query,positive\naa,bb\n")
    (folder / "c.csv").write_text("id,text\n1,aa\n2,bb\n3,cc\n")
    np.save(folder / "q1.npy", np.array([[1, 0]], np.float32))
    np.save(folder / "c3.npy", np.array([[1, 0], [0.5, 1], [0, 1]], np.float32))
    common = ("mine", "p.csv", "c.csv", "--query-embeddings", "q1.npy", "--corpus-embeddings")
    call(*common, "c3.npy", "--ids", "ids.jsonl")
    assert [row["negative"] for row in read_jsonl(folder / "negatives.jsonl")] == ["cc"]
    assert [row["document_id"] for row in read_jsonl(folder / "ids.jsonl")] == ["3"]
    call(*common, "c3.npy", "--keep-query-text")
    assert [row["negative"] for row in read_jsonl(folder / "negatives.jsonl")] == ["aa", "cc"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nope.tsv"], r"nope\.tsv does not exist"),
        (["pairs.tsv", "nope.jsonl"], r"nope\.jsonl does not exist"),
        (["bad.jsonl"], r"bad\.jsonl:2: "),
        (["pairs.xyz"], r"pairs\.xyz"),
        (["pairs.tsv", "--query-column", "left"], '--query-column is "left"'),
        (["pairs.tsv", "corpus.jsonl", "--text-column", "body"], '--text-column is "body"'),
        (["pairs.tsv", "corpus.jsonl", *EMBEDDED[:2]], "no encoder and no --corpus-embeddings"),
        (
            ["pairs.tsv", "corpus.jsonl", "--query-embeddings", "c.npy", *EMBEDDED[2:]],
            "--query-embeddings has 150 rows but 40 texts were given",
        ),
        (
            ["pairs.tsv", "corpus.jsonl", "--query-embeddings", "pairs.tsv", *EMBEDDED[2:]],
            r"pairs\.tsv is no \.npy file",
        ),
        (
            ["pairs.tsv", "corpus.jsonl", "--query-embeddings", "double.npy", *EMBEDDED[2:]],
            r"--query-embeddings double\.npy holds float64; save it as np\.save",
        ),
        (
            ["pairs.tsv", "corpus.jsonl", "--query-embeddings", "fortran.npy", *EMBEDDED[2:]],
            r"--query-embeddings fortran\.npy is in column order .*ascontiguousarray",
        ),
        (
            ["pairs.tsv", "corpus.jsonl", "--query-embeddings", "nan.npy", *EMBEDDED[2:]],
            "row 3",
        ),
        (
            ["pairs.tsv", "corpus.jsonl", *EMBEDDED, "--relative-margin", "-1"],
            "--relative-margin is",
        ),
        (["pairs.tsv", "corpus.jsonl", *EMBEDDED, "--range-max", "2"], "--range-max is 2"),
        (["pairs.tsv", "-o", "x.csv"], r"cannot write x\.csv: its name must end in \.jsonl"),
        (["pairs.tsv", "-o", "no/x.jsonl"], "the folder no does not exist"),
        (["pairs.tsv", "--positive-ids"], "--positive-ids needs corpus"),
        (["beir", "corpus.jsonl"], r"own corpus; leave corpus\.jsonl out"),
        (["pairs.tsv", "--encoder", "no/such/model"], "no/such/model: there is no such folder"),
        (["pairs.tsv", "--encoder", "./model"], r"\./model: there is no such folder"),
    ],
    ids=str,
)
def test_mine_says_what_is_wrong(call, folder, beir, arguments, message):
    (folder / "bad.jsonl").write_text('{"query": "a", "positive": "b"}\n{"query": \n')
    (folder / "pairs.xyz").write_text("query\tpositive\na\tb\n")
    q = np.load(folder / "q.npy")
    np.save(folder / "double.npy", q.astype(np.float64))
    np.save(folder / "fortran.npy", np.asfortranarray(q))
    q[3, 5] = np.nan
    np.save(folder / "nan.npy", q)
    before = sorted(entry.name for entry in folder.iterdir())
    done = call("mine", *arguments, code=1)
    assert re.search(message, one_sentence(done.stderr))
    assert sorted(entry.name for entry in folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ["mine"],
        ["mine", "pairs.tsv", "-n", "0"],
        ["mine", "pairs.tsv", "--metric", "jaccard"],
        ["mine", "pairs.tsv", "--no-such-option"],
        ["search", "queries.jsonl"],
        ["search", "queries.jsonl", "corpus.jsonl", "--method", "dense"],
        ["search", "queries.jsonl", "corpus.jsonl", "-k", "many"],
        ["dig"],
    ],
    ids=str,
)
def test_wrong_usage_exits_with_2(call, arguments):
    assert "Traceback" not in call(*arguments, code=2).stderr


def test_debug_shows_the_traceback(call):
    done = call("mine", "nope.tsv", "--debug", code=1)
    assert "Traceback" in done.stderr
    assert "FileNotFoundError" in done.stderr


def test_an_unexpected_error_is_named_and_points_to_debug(call, monkeypatch):
    def broken(*_, **__):
        raise KeyError("surprise")

    monkeypatch.setattr("stope.data.read_pairs", broken)
    monkeypatch.setattr("stope.data.read_source", broken)
    said = one_sentence(call("mine", "pairs.tsv", code=1).stderr)
    assert said == "KeyError: 'surprise' (--debug shows the traceback)."


# --- doctor and help ---------------------------------------------------------------------------


def test_doctor_tells_the_truth(call):
    report = json.loads(call("doctor", "--json").stdout)
    assert report["stope"]["version"] == stope.build_info()["version"]
    assert report["stope"]["isa"] == stope.isa.current()
    assert report["stope"]["isas"] == stope.isa.available()
    assert report["stope"]["threads"] == stope.get_num_threads()
    assert report["extras"]["retrieval"]["bm25s"][0].isdigit()
    text = call("doctor").stdout
    for row in ("compiler", "flags", "ISA chosen", "threads", "CUDA", "extra: train"):
        assert row in text


def test_doctor_names_what_brings_a_missing_package(monkeypatch):
    import importlib.metadata

    from stope.cli.installation import describe, plain_text

    real = importlib.metadata.version

    def version(name):
        if name == "hnswlib":
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    text = plain_text(describe())
    line = next(line for line in text.splitlines() if "hnswlib" in line)
    assert line.split(maxsplit=1)[1] == 'not installed; pip install "stope[retrieval]"'
    assert "bm25s" in text


@pytest.mark.parametrize("command", ["mine", "train", "search", "evaluate", "demo", "doctor"])
def test_every_command_has_help(call, command):
    text = call(command, "--help").stdout
    assert "Usage: stope" in text or f"{command} [OPTIONS]" in text
    assert "--debug" in text
    assert command in call("--help").stdout


def test_version(call):
    assert call("--version").stdout == f"stope {stope.build_info()['version']}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["doctor"]])
def test_light_commands_import_nothing_heavy(python, arguments):
    done = python(
        f"""
        import sys
        sys.argv = ["stope", *{arguments!r}]
        from stope.__main__ import main
        try:
            main()
        except SystemExit as end:
            assert not end.code, end.code
        heavy = {{"torch", "transformers", "datasets", "bm25s", "pandas", "pyarrow", "hnswlib"}}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        """
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_typer_or_rich_one_sentence(python, missing):
    code = f"""
        import importlib.util, sys
        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *a: None if name == {missing!r} else real(name, *a)
        sys.argv = ["stope", *{{arguments!r}}]
        from stope.__main__ import main
        main()
    """
    done = python(code.format(arguments=["mine", "x"]))
    assert done.returncode == 1
    assert one_sentence(done.stderr.strip() + ".") == (
        f'the command needs {missing}; install with: pip install "stope[cli]".'
    )
    done = python(code.format(arguments=["doctor"]))
    assert done.returncode == 0
    assert "ISA chosen" in done.stdout


def test_python_m_stope_and_the_script(process):
    script = os.path.join(os.path.dirname(sys.executable), "stope")
    for start in ({}, {"module": False}):
        arguments = ["--version"] if not start else [script, "--version"]
        running = process(*arguments, **start)
        assert running.communicate(timeout=240)[0].startswith("stope ")
        assert running.returncode == 0


# --- full disk and Ctrl-C ----------------------------------------------------------------------


def limited(size):
    import resource

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


@pytest.mark.parametrize(
    "arguments",
    [
        ["mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "-o", "out.jsonl"],
        ["mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "-o", "out.parquet"],
        ["search", "queries.jsonl", "corpus.jsonl", "-o", "out.trec"],
        ["search", "queries.jsonl", "corpus.jsonl", "-o", "out.jsonl"],
    ],
    ids=str,
)
def test_a_full_disk_is_told_and_leaves_nothing(process, folder, arguments):
    earlier = folder / arguments[-1]
    earlier.write_text("an earlier result")
    before = sorted(entry.name for entry in folder.iterdir())
    running = process(*arguments, preexec_fn=limited(1000))
    _, said = running.communicate(timeout=240)
    assert running.returncode == 1, said
    assert "File too large" in one_sentence(said)
    assert sorted(entry.name for entry in folder.iterdir()) == before
    assert earlier.read_text() == "an earlier result"


def test_ctrl_c_stops_with_130_and_leaves_nothing(process, folder):
    count, rows = 30_000, 3_000
    rng = np.random.default_rng(0)
    np.save(folder / "big_c.npy", rng.standard_normal((count, 64), dtype=np.float32))
    np.save(folder / "big_q.npy", rng.standard_normal((rows, 64), dtype=np.float32))
    (folder / "big.txt").write_text("".join(f"text {i}\n" for i in range(count)))
    pairs = "".join(f"query {i}\ttext {i}\n" for i in range(rows))
    (folder / "big.tsv").write_text("query\tpositive\n" + pairs)
    before = sorted(entry.name for entry in folder.iterdir())
    running = process(
        "mine", "big.tsv", "big.txt", "--threads", "1",
        "--query-embeddings", "big_q.npy", "--corpus-embeddings", "big_c.npy",
        env={"STOPE_ISA": "generic"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    assert "3,000 queries" in running.stderr.readline()
    time.sleep(0.2)  # into the search, which takes seconds on this instruction set
    stopped = time.monotonic()
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=240)
    assert running.returncode == 130, said
    assert time.monotonic() - stopped < 10
    assert one_sentence(said) == "interrupted; no half-written file was left."
    assert sorted(entry.name for entry in folder.iterdir()) == before


@pytest.mark.parametrize("said", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_threads_sleep_while_they_wait_unless_told_how_to(monkeypatch, said):
    command = importlib.import_module("stope.__main__")
    for told in ({}, {said: "active"}):
        environment = {"HOME": "/home", **told}
        monkeypatch.setattr(command, "os", types.SimpleNamespace(environ=environment))
        command._sleep_while_waiting()
        slept = {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
        assert environment == {"HOME": "/home", **(told or slept)}
