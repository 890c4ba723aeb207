"""What holds for every command and every option of it, whoever adds one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import typer
from typer.testing import CliRunner
from typer.utils import get_params_from_function

from stope.cli.app import app


class Parameter(NamedTuple):
    """A parameter of a command: its name in Python, its kind, and what typer was told of it."""

    name: str
    kind: type
    told: Any

    @property
    def words(self):
        words = [word for each in self.told.param_decls or () for word in each.split("/")]
        return words or ["--" + self.name.replace("_", "-")]

    @property
    def word(self):
        return max(self.words, key=len)

    @property
    def help(self):
        return self.told.help or ""


def parameters(function):
    for each in get_params_from_function(function).values():
        if isinstance(each.default, typer.models.ParameterInfo):
            kinds = [kind for kind in get_args(each.annotation) if kind is not type(None)]
            kinds = [kind for outer in kinds for kind in (get_args(outer) or [outer])]
            yield Parameter(each.name, kinds[0] if kinds else each.annotation, each.default)


COMMANDS = {
    each.callback.__name__: list(parameters(each.callback)) for each in app.registered_commands
}
CALLBACKS = {each.callback.__name__: each.callback for each in app.registered_commands}
OPTIONS = [
    pytest.param(name, option, id=f"{name} {option.word}")
    for name, several in COMMANDS.items()
    for option in several
    if isinstance(option.told, typer.models.OptionInfo)
]
PYTHON_NAMES = {each.name for several in COMMANDS.values() for each in several if "_" in each.name}
# Options of Python as they stand in a file's rows or in words of the user's own text.
COLUMNS = {"query_id", "document_id"}
WORDS = {
    each.value
    for several in COMMANDS.values()
    for option in several
    if isinstance(option.kind, type) and issubclass(option.kind, Enum)
    for each in option.kind
}
WITHOUT_WORK = {"doctor", "plan"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def call(*words):
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "200"})


def needed(name):
    """Words for the arguments and options that a command cannot do without."""
    words = []
    for each in get_params_from_function(CALLBACKS[name]).values():
        told = each.default
        if not isinstance(told, typer.models.ParameterInfo) or told.default is not ...:
            continue
        if isinstance(told, typer.models.ArgumentInfo):
            words.append("no-such.trec" if name == "evaluate" else "no-such.jsonl")
        else:
            words += [Parameter(each.name, int, told).word, "1"]
    return words


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_json_quiet_and_debug(name):
    names = {word for option in COMMANDS[name] for word in option.words}
    assert {"--json", "--debug"} <= names
    assert name in WITHOUT_WORK or {"--quiet", "-q"} <= names


@pytest.mark.parametrize("name", COMMANDS)
def test_help_says_options_and_never_arguments_of_python(name):
    done = call(name, "--help")
    assert done.exit_code == 0
    said = set(re.findall(r"[a-z]+(?:_[a-z]+)+", done.stdout))
    assert not (said & PYTHON_NAMES) - COLUMNS - WORDS
    for each in COMMANDS[name]:
        assert each.help


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_a_wrong_word_or_number_is_refused_by_the_options_name(name, option):
    word = option.word
    if issubclass(option.kind, Enum):
        wrong, says = "no-such-word", next(iter(option.kind)).value
    elif option.told.min is not None:
        wrong, says = f"{option.told.min - 1:g}", f"{option.told.min:g}"
    elif option.kind in (int, float):
        wrong, says = "many", "number" if option.kind is float else "integer"
    else:
        return  # texts, paths and switches take what is given
    others = [part for part in needed(name) if part != word]
    done = call(name, *others, word, wrong)
    assert done.exit_code == 2, done.output
    assert word in done.stderr
    assert says in done.stderr


def outputs():
    for name, several in COMMANDS.items():
        for each in several:
            if name == "demo" or each.name == "figures":  # folders, which are made
                continue
            if each.kind is Path and (each.name == "output" or each.help.startswith("Also ")):
                ending = re.search(r"\.(?:jsonl|json|npy|npz|png|trec|html|parquet)\b", each.help)
                ending = ending[0] if ending else ".jsonl" if each.name == "ids" else ""
                ending = ".json" if each.name == "summary" else ending
                yield pytest.param(name, each.word, ending, id=f"{name} {each.word}")


@pytest.mark.parametrize(("name", "option", "ending"), list(outputs()))
def test_where_nothing_could_be_written_is_said_before_anything_is_read(name, option, ending):
    words = [*needed(name), *(["--simulate"] if name == "plan" else [])]
    done = call(name, *words, option, f"no-folder/x{ending}")
    assert done.exit_code == 1, done.output
    assert "no-folder" in done.stderr
    assert "no-such" not in done.stderr


@pytest.mark.parametrize(
    "option", ["--workers", "--worker-cpus", "--worker-memory", "--worker-gpus", "--threads"]
)
def test_options_without_effect_on_ray_are_refused_before_anything_is_read(option):
    on_ray = [name for name, several in COMMANDS.items() if any(o.name == "ray" for o in several)]
    assert len(on_ray) > 3
    with_ray, why = ([], "without --ray") if option != "--threads" else (["--ray"], "with --ray")
    for name in on_ray:
        done = call(name, *needed(name), *with_ray, option, "2")
        assert done.exit_code == 2, done.output
        assert why in done.stderr
        assert "Usage: " in done.stderr


@pytest.mark.parametrize("words", [("demo", "-o"), ("report", "no-such.jsonl", "--figures")])
def test_a_file_is_refused_where_a_folder_is_made(words, tmp_path):
    (tmp_path / "there.txt").write_text("kept")
    done = call(*words, "there.txt")
    assert done.exit_code == 1, done.output
    assert done.stderr == "stope: cannot write there.txt: it is a file; name a folder.\n"


FILES = {
    "pairs.jsonl": [
        {"query": f"query of rock {n}", "positive": f"rock {n} is hard"} for n in range(12)
    ],
    "corpus.jsonl": [{"_id": f"d{n}", "text": f"rock {n} is hard and old"} for n in range(12)],
    "queries.jsonl": [{"_id": f"q{n}", "text": f"rock {n}"} for n in range(4)],
}
RUNS = [
    ("doctor",),
    ("search", "queries.jsonl", "corpus.jsonl", "-o", "rün.trec", "-q"),
    ("evaluate", "given.trec", "qrels.txt", "-q"),
    ("mine", "pairs.jsonl", "-q", "-n", "1"),
    ("bench", "--seconds", "1", "--only", "similarity", "--dim", "8", "-q"),
    ("dedup", "corpus.jsonl", "-q"),
    ("cluster", "corpus.jsonl", "-k", "2", "-q"),
    ("graph", "corpus.jsonl", "-k", "2", "-q"),
    ("select", "corpus.jsonl", "-n", "2", "--method", "k-center", "-q"),
    ("train", "pairs.jsonl", "-o", "model", "--epochs", "1", "-q"),
]


@pytest.mark.parametrize("words", RUNS, ids=lambda words: words[0])
def test_json_is_one_object_on_stdout_and_nothing_else_is_there(words, tmp_path):
    for name, rows in FILES.items():
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "given.trec").write_text("q0 Q0 d0 1 2.0 x\nq1 Q0 d1 1 2.0 x\n")
    (tmp_path / "qrels.txt").write_text("q0 0 d0 1\nq1 0 d2 1\n")
    done = call(*words, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert isinstance(facts, dict)
    assert done.stdout.count("\n") == 1
    assert done.stdout.isascii()  # which every terminal and every path can be written in
    assert all(re.fullmatch(r"[a-z_0-9]+", key) for key in facts), facts.keys()


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("stope search --dense", "--dense-weight"),
        ("stope search --method ", "hybrid"),
        ("stope evaluate --metric R", "Rprec"),
        ("stope bench --only knn", "knn-graph"),
        ("stope eval", "evaluate"),
    ],
)
def test_bash_completes_commands_options_and_words(typed, expected):
    words = typed.split(" ")
    environment = {**os.environ, "_STOPE_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(words) - 1)
    program = [sys.executable, "-m", "stope"]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert expected in done.stdout.splitlines()
