"""Names that say what they hold, and no function with too many parameters."""

from __future__ import annotations

import ast
import warnings
from pathlib import Path

import frameworks
import pytest

import stope

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "stope"
MODULES = {"_rows", "_steps", "_surroundings", "_library", "parts", "given"}
LOCALS = {"found", "given", "one", "own"}
LONG_BODY = 15
INTERNAL, PUBLIC = 12, 16
# Functions that mirror a foreign signature, and whose it is.
MIRRORS: dict[str, str] = {
    "stope.integrations.sentence_transformers.loss.InfoNCELoss.__init__": (
        "sentence-transformers' MultipleNegativesRankingLoss and GISTEmbedLoss, with their caches"
    ),
    "stope.integrations.sentence_transformers.hard_negatives.mine_hard_negatives": (
        "sentence-transformers' mine_hard_negatives"
    ),
}


def files():
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def relative(path):
    return str(path.relative_to(ROOT))


def functions(path):
    """(qualified name, node) of every function, those inside others too."""

    def visit(node, names):
        for child in ast.iter_child_nodes(node):
            inner = names
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = (*names, child.name)
                if not isinstance(child, ast.ClassDef):
                    yield ".".join(inner), child
            yield from visit(child, inner)

    return list(visit(ast.parse(path.read_text()), ()))


def public_names():
    """Qualified names within each module of what some ``__all__`` lists."""
    listed = set()
    for loaded in map(frameworks.load, frameworks.module_names()):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in getattr(loaded, "__all__", ()):
                thing = getattr(loaded, name)
                if hasattr(thing, "__module__"):
                    listed.add((thing.__module__, getattr(thing, "__qualname__", name)))
    return listed


LISTED = public_names() | {
    (getattr(stope, name).__module__, name)
    for name in stope.__all__
    if hasattr(getattr(stope, name), "__module__")
}


def body_lines(node):
    """Lines of the body without its docstring."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    start = first.end_lineno + 1 if documented else first.lineno
    return node.end_lineno - start + 1


def names_bound(node):
    """Names that the function itself binds: assigned, looped over, taken in as parameters."""
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    yield from (argument.arg for argument in arguments)
    inside = list(ast.iter_child_nodes(node))
    while inside:
        child = inside.pop()
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
            yield child.id
        inside.extend(ast.iter_child_nodes(child))


@pytest.mark.parametrize("path", files(), ids=relative)
def test_names_say_what_they_hold(path):
    assert path.stem not in MODULES, f"{relative(path)}: a name that says nothing of its content"
    wrong = [
        f"{name} (line {node.lineno}) names a local {', '.join(sorted(bound))}"
        for name, node in functions(path)
        if body_lines(node) > LONG_BODY and (bound := LOCALS & set(names_bound(node)))
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", files(), ids=relative)
def test_functions_have_few_parameters(path):
    module = ".".join(["stope", *path.relative_to(PACKAGE).with_suffix("").parts])
    module = module.removesuffix(".__init__")
    wrong = []
    for name, node in functions(path):
        if module.startswith("stope.cli.") or f"{module}.{name}" in MIRRORS:
            continue  # each option of a command is a parameter
        names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([entry for entry in names if entry.arg not in ("self", "cls")])
        owner, _, method = name.rpartition(".")
        of_class = (module, owner) in LISTED and (method == "__init__" or method[0] != "_")
        limit = PUBLIC if (module, name) in LISTED or of_class else INTERNAL
        if count > limit:
            wrong.append(f"{name} (line {node.lineno}) has {count} parameters; at most {limit}")
    assert not wrong, "\n".join(wrong)


def test_mirrors_are_there():
    known = {
        ".".join(["stope", *path.relative_to(PACKAGE).with_suffix("").parts, name])
        for path in files()
        for name, _ in functions(path)
    }
    assert set(MIRRORS) <= known
