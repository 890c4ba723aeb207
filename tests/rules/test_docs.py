"""Every public name explains itself, every example in a docstring runs, and the README's too."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import stope

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = ("similarity", "topk", "mine_hard_negatives", "FlatIndex")


def module_names():
    found = pkgutil.walk_packages(stope.__path__, "stope.")
    return [
        "stope",
        *sorted(m.name for m in found if not m.name.rpartition(".")[2].startswith("__main")),
    ]


def load(name):
    """The module, with other people's warnings at import kept quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


@pytest.mark.parametrize("name", module_names())
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    module = load(name)
    monkeypatch.chdir(tmp_path)
    failures = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        out: list[str] = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if runner.run(test, out=out.append).failed:
                failures.append("".join(out))
    assert not failures, "\n".join(failures)


def public_things():
    for name in module_names():
        module = load(name)
        if name.rpartition(".")[2].startswith("_"):
            continue
        for attribute in getattr(module, "__all__", []):
            yield f"{name}.{attribute}", getattr(module, attribute)


def test_public_names_have_docstrings():
    missing = []
    for name, thing in public_things():
        if not (inspect.isroutine(thing) or inspect.isclass(thing) or inspect.ismodule(thing)):
            continue
        text = inspect.getdoc(thing) or ""
        if len(text) < 20 or text.startswith(f"{getattr(thing, '__name__', '')}("):
            missing.append(name)  # a dataclass without its own docstring repeats its signature
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if (
                    not method.startswith("_")
                    and inspect.isroutine(function)
                    and not inspect.getdoc(function)
                ):
                    missing.append(f"{name}.{method}")
    assert not missing


def test_modules_have_docstrings():
    assert not [name for name in module_names() if name != "stope._core" and not load(name).__doc__]


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_document_their_contract(name):
    thing = getattr(stope, name)
    text = inspect.getdoc(thing)
    assert ">>>" in text, f"{name} has no example"
    for word in ("float32", "ValueError", "TypeError", "emory"):
        assert word in text, f"{name} does not speak of {word}"
    parameters = inspect.signature(thing).parameters
    for parameter in parameters:
        assert re.search(rf"\b{parameter}\b", text), f"{name} does not explain {parameter}"


def test_public_names_are_listed():
    assert set(OPERATIONS) | {
        "TopK",
        "HardNegatives",
        "isa",
        "set_num_threads",
        "get_num_threads",
        "build_info",
    } <= set(stope.__all__)
    assert all(hasattr(stope, name) for name in stope.__all__)


def readme():
    return (ROOT / "README.md").read_text()


def test_readme_example_runs(tmp_path):
    examples = re.findall(r"```python\n(.*?)```", readme(), flags=re.S)
    assert examples, "README.md has no python example"
    for code in examples:
        done = subprocess.run(
            [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c", code],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, f"{code}\n{done.stderr}"


def test_readme_names_files_that_exist():
    """Paths in backquotes that look like the repository's own."""
    named = re.findall(r"`((?:cpp|cuda|python|tests|benchmarks)/[\w./-]*)`", readme())
    assert named, "README.md names no file of the repository"
    assert not [path for path in named if not (ROOT / path).exists()]
