# ruff: noqa: F401, F811 - fixtures are imported here and named as arguments of the tests
"""Where nobody reads what a command prints any more it ends: quietly, with 141, as `cat` does."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from command import EMBEDDED, folder, texts

UNREAD = 141
COMMANDS = {
    "help": ["--help"],
    "help of a command": ["mine", "--help"],
    "plain": ["--version"],
    "long": ["train", "--schema"],
    "table": ["evaluate", "run.trec", "qrels.tsv"],
    "json": ["evaluate", "run.trec", "qrels.tsv", "--json"],
}


@pytest.fixture
def unread():
    """A pipe that nobody will read."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def ended(words, folder, **more):
    (folder / "run.trec").write_text("".join(f"q{n} Q0 d{n} 1 1.0 x\n" for n in range(40)))
    command = [sys.executable, "-m", "stope", *words]
    return subprocess.run(command, cwd=folder, check=False, **more)


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_an_unread_stdout_ends_it_quietly(folder, unread, words):
    done = ended(words, folder, stdout=unread, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (UNREAD, b"")


@pytest.mark.parametrize("buffered", ["", "1"])
def test_an_unread_stderr_as_well(folder, unread, buffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": buffered}
    words = ["evaluate", "nowhere.trec", "qrels.tsv"]
    done = ended(words, folder, stdout=unread, stderr=unread, env=environment)
    assert done.returncode == UNREAD


def test_a_pipe_that_is_read_changes_nothing(folder):
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    words = COMMANDS["table"]
    done = ended(words, folder, capture_output=True, encoding="utf-8", env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nDCG@10" in done.stdout
    assert "│" in done.stdout
    failed = ended(["evaluate", "nowhere.trec", "qrels.tsv"], folder, capture_output=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith(b"stope: ")


def test_a_stream_of_the_program_that_calls_it_stays(succeeds):
    said = succeeds(
        "import contextlib, io, sys\n"
        "from stope.__main__ import main\n"
        "sys.argv = ['stope', '--version']\n"
        "with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.suppress(SystemExit):\n"
        "    main()\n"
        "print('told', told.getvalue())"
    )
    assert said.startswith("told stope ")


@pytest.mark.parametrize(
    "words",
    [
        ["search", "queries.jsonl", "corpus.jsonl", "--top", "3"],
        ["mine", "pairs.tsv", "corpus.jsonl", *EMBEDDED, "-n", "3"],
    ],
    ids=lambda words: words[0],
)
def test_files_are_whole_before_anything_is_printed(folder, unread, words):
    done = ended([*words, "-o", "out.jsonl"], folder, stdout=unread, stderr=subprocess.PIPE)
    assert done.returncode == UNREAD
    assert len((folder / "out.jsonl").read_text().splitlines()) == 3 * 40
