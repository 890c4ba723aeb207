"""What this installation is: build, processor, threads and optional packages. Needs NumPy only."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import stope

_NOT_INSTALLED = "not installed"


def describe() -> dict[str, Any]:
    """Collect what a report of a problem should carry.

    Returns:
        ``{"stope": {...}, "machine": {...}, "extras": {extra: {package: version}}}``. A package
        that is absent has the version "not installed".

    Example:
        >>> describe()["stope"]["version"] == stope.build_info()["version"]
        True
    """
    build = stope.build_info()
    return {
        "stope": {
            "version": build["version"],
            "compiler": build["compiler"],
            "flags": build["flags"],
            "isa": stope.isa.current(),
            "isas": stope.isa.available(),
            "threads": stope.get_num_threads(),
            "cuda": bool(build["cuda"]),
        },
        "machine": {
            "processor": processor(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "numpy": importlib.metadata.version("numpy"),
        },
        "extras": extras(),
    }


def processor() -> str:
    """The processor's name, as the system has it.

    >>> bool(processor())
    True
    """
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def extras() -> dict[str, dict[str, str]]:
    """Versions of the packages that each extra of stope brings, read from its own metadata."""
    try:
        requirements = importlib.metadata.requires("stope") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, dict[str, str]] = {}
    for line in requirements:
        needed, _, marker = line.partition(";")
        name = re.match(r"[A-Za-z0-9._-]+", needed.strip())
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", marker)
        if name is None or extra is None or name.group() == "stope":
            continue
        found.setdefault(extra.group(1), {})[name.group()] = _version(name.group())
    return found


def plain_text(report: dict[str, Any]) -> str:
    """Write the report as titles with aligned lines, for a person."""
    build = report["stope"]
    sections = {
        "stope": {
            **{name: build[name] for name in ("version", "compiler", "flags")},
            "ISA chosen": build["isa"],
            "ISA available": ", ".join(build["isas"]),
            "threads": build["threads"],
            "CUDA": "built in" if build["cuda"] else "not built",
        },
        "machine": report["machine"],
    }
    for extra, packages in report["extras"].items():
        command = f'{_NOT_INSTALLED}; pip install "stope[{extra}]"'
        rows = {n: command if v == _NOT_INSTALLED else v for n, v in packages.items()}
        sections[f"extra: {extra}"] = rows
    lines = []
    for title, rows in sections.items():
        lines += [title, *(f"  {name:<24} {value}" for name, value in rows.items())]
    return "\n".join(lines)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return _NOT_INSTALLED
