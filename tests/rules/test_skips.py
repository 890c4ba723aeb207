"""Tests that need a package are skipped where it is missing: never where the extra `all` is."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path

from frameworks import load

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest

ROOT = Path(__file__).resolve().parents[2]
OF_NO_EXTRA = {"cupy", "jax", "lance"}  # of `all`: CI does without them


def asked_for():
    """The modules that tests name in importorskip, and the file of one of these tests."""
    files = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = getattr(node, "func", None)
            if getattr(called, "attr", "") == "importorskip" and isinstance(
                node.args[0], ast.Constant
            ):
                files[node.args[0].value] = path.name
    assert len(files) > 30, "this test would check nothing"
    return files


def packages(extra, extras):
    for requirement in extras[extra]:
        name, _, of_stope = re.match(r"([\w.-]+)(\[([\w,-]+)])?", requirement).groups()
        if name == "stope":
            for other in of_stope.split(","):
                yield from packages(other, extras)
        else:
            yield name


def is_installed(package):
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def test_no_package_of_all_is_missing_or_broken():
    """A module that moved, or a package that left `all`, must not take tests with it in silence."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = tomllib.loads(text)["project"]["optional-dependencies"]
    complete = all(map(is_installed, set(packages("all", extras))))
    missing = []
    for name, file in asked_for().items():
        package = name.partition(".")[0]
        here = importlib.util.find_spec(package) is not None
        if package in OF_NO_EXTRA or not (here or complete):
            continue
        try:
            load(name)
        except ImportError as error:
            missing.append(f"{file} skips its tests: {error}")
    assert not missing, "\n".join(missing)
