"""Every recipe runs on the public API, is short, cites its section and is on the index."""

from __future__ import annotations

import ast
import re
import sys
import types
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs/recipes"
PAGES = sorted(path for path in FOLDER.glob("*.md") if path.name != "README.md")
LINES = 60
METHODS = re.compile(r"^\[Methods, ([A-J]\d+(?:, [A-J]\d+)*)\]\(\.\./methods\.md\)$", flags=re.M)
CONCEPTS = re.compile(r"^\[Concepts, (\w+)\]\(\.\./concepts/\1\.md\)$", flags=re.M)

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def block(page):
    """The one Python block of the page."""
    (code,) = re.findall(r"^```python\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    return code


def sections(page):
    """The sections of methods that a paper's system cites, or the concept of stope's own."""
    text = page.read_text()
    (cited,) = [*METHODS.findall(text), *CONCEPTS.findall(text)]
    return cited


@every_page
def test_the_recipe_runs(page, tmp_path, monkeypatch):
    """In a module of its own; torch is imported once for all of them."""
    module = types.ModuleType("recipe")
    monkeypatch.setitem(sys.modules, "recipe", module)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(FOLDER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", category=DeprecationWarning, module="recipe")
        exec(compile(block(page), str(page), "exec"), module.__dict__)


@every_page
def test_the_recipe_is_short_and_shows_something(page):
    code = block(page)
    assert len(code.splitlines()) <= LINES, "a primitive is missing"
    body = ast.parse(code).body
    assert any(isinstance(node, ast.Assert) for node in ast.walk(ast.Module(body, [])))
    assert ast.unparse(body[-1]).startswith(("assert ", "print(")), "the last line shows the point"


@every_page
def test_the_recipe_uses_what_is_public(page):
    for node in ast.walk(ast.parse(block(page))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import | ast.ImportFrom):
            names += [name.name for name in node.names]
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        hidden = [part for name in names for part in name.split(".") if re.match(r"_[a-z]", part)]
        assert not hidden, f"{page.stem} uses {hidden[0]}"


@every_page
def test_the_recipe_cites_a_section(page):
    headings = re.findall(r"^#+ ([A-J]\d+)\. ", (ROOT / "docs/methods.md").read_text(), flags=re.M)
    concepts = [path.stem for path in (ROOT / "docs/concepts").glob("*.md")]
    assert set(sections(page).split(", ")) <= {*headings, *concepts}


def test_every_recipe_is_on_the_index_with_its_section():
    rows = re.findall(r"^\| \[[^]]+\]\((\w+\.md)\) \|.*\| ([^|]+) \|$", index(), flags=re.M)
    assert dict(rows) == {page.name: sections(page) for page in PAGES}
    assert len(rows) == len(PAGES)


def test_the_index_shows_what_recipes_share():
    assert (FOLDER / "small_world.py").read_text() in index()


def index():
    return (FOLDER / "README.md").read_text()
