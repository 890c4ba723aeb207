"""Files of one's own and ways to call the stope command on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from stope.cli.app import app
from stope.data import Collection, write_beir

WORDS = [f"w{i}" for i in range(200)]
QUERIES, DOCUMENTS = 40, 150


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    documents = [" ".join(rng.choice(WORDS, 12, replace=False)) for _ in range(DOCUMENTS)]
    queries = [" ".join(text.split()[:4]) for text in documents[:QUERIES]]
    return queries, documents


@pytest.fixture
def folder(tmp_path, texts):
    """A folder with one's own files, where the command runs."""
    queries, documents = texts
    lines = ["query\tpositive", *(f"{q}\t{d}" for q, d in zip(queries, documents, strict=False))]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines) + "\n")
    rows = [{"_id": f"d{i}", "text": text} for i, text in enumerate(documents)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [{"_id": f"q{i}", "query": text} for i, text in enumerate(queries)]
    (tmp_path / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(QUERIES))]
    (tmp_path / "qrels.tsv").write_text("\n".join(lines) + "\n")
    rng = np.random.default_rng(1)
    np.save(tmp_path / "q.npy", rng.standard_normal((QUERIES, 16), dtype=np.float32))
    np.save(tmp_path / "c.npy", rng.standard_normal((DOCUMENTS, 16), dtype=np.float32))
    return tmp_path


@pytest.fixture
def beir(tmp_path, texts):
    queries, documents = texts
    collection = Collection(
        corpus_ids=[f"d{i}" for i in range(DOCUMENTS)],
        corpus_texts=documents,
        query_ids=[f"q{i}" for i in range(QUERIES)],
        query_texts=queries,
        qrels={
            "train": {f"q{i}": {f"d{i}": 1} for i in range(30)},
            "test": {f"q{i}": {f"d{i}": 1} for i in range(30, QUERIES)},
        },
    )
    write_beir(collection, tmp_path / "beir")
    return tmp_path / "beir"


@pytest.fixture
def call(folder, monkeypatch):
    """call("mine", ...) -> the result of the command, run in the folder, in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == code, done.output
        return done

    return run


@pytest.fixture
def process(folder):
    """process("mine", ...) -> a real process of the command, run in the folder."""

    def start(*arguments, module=True, **options):
        environment = {**os.environ, "COLUMNS": "200", **options.pop("env", {})}
        start = [sys.executable, "-m", "stope"] if module else []
        return subprocess.Popen(
            [*start, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )

    return start


def prose(count, length=20, seed=0):
    """Texts of made-up words of letters, which an encoder of words tells apart."""
    rng = np.random.default_rng(seed)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(rng.choice(syllables, 3)) for _ in range(400)]
    return [" ".join(rng.choice(words, length, replace=False)) for _ in range(count)]


EMBEDDED = ("--query-embeddings", "q.npy", "--corpus-embeddings", "c.npy")


def one_sentence(text):
    """The last line of stderr; there must be no traceback before it."""
    assert "Traceback" not in text
    last = text.strip().splitlines()[-1]
    assert last.startswith("stope: ")
    assert last.endswith(".")
    return last.removeprefix("stope: ")
