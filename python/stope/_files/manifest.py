"""JSON that says what a folder or a file holds, read whole or refused in one sentence.

Whoever edits, cuts or overwrites such a file must get a `ValueError` that names it, never a
KeyError from inside nor a read that counts on less than there is. So sizes are bounded before
anything is read, every field has its kind, none is missing or unknown, and a list of files is what
the folder holds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, TypedDict

from stope._checks import shown

_MOST_BYTES = 1 << 28
_MOST_DEPTH = 60
_LARGEST = 2**63 - 1


class FileDescription(TypedDict):
    """What a manifest says of a file."""

    size: int
    sha256: str


FILES = {str: {"size": int, "sha256": str}}
"""The kind of a list of files, as `described_files` makes it."""


def read_manifest(path: Path, kind: Any, remedy: str) -> Any:
    """The JSON of a file, if it is of a kind.

    The kind is as in `checked`; the remedy is what the reader of a message does: "build it again".

    Raises:
        FileNotFoundError: there is none.
        ValueError: anything else is wrong with it; the sentence names file, place and remedy.

    Memory: the file, and what it describes; it may have 256 MiB.
    """
    try:
        return checked(read_json(path), kind)
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; {remedy}") from None


def read_json(path: Path) -> Any:
    """The JSON of a file: UTF-8, of bounded size and depth, no key twice in one mapping.

    Raises:
        ValueError: it is not such a file. The sentence does not name it.
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ValueError(f"it has {size} bytes, more than {_MOST_BYTES}")
    return parse_json(path.read_bytes())


def parse_json(text: bytes) -> Any:
    """The JSON of a text, as `read_json` reads it."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_without_repetition)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {_MOST_DEPTH}") from None
    except ValueError as error:  # no JSON, no UTF-8, or an integer of thousands of digits
        raise ValueError(f"it is not JSON ({str(error)[:120]})") from None
    level = [value]
    for _ in range(_MOST_DEPTH):
        level = [inner for outer in level for inner in _inside(outer)]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {_MOST_DEPTH}")


def checked(value: Any, kind: Any, where: str = "") -> Any:
    """The value, if it is of the kind.

    Kinds are ``int`` (0 to 2^63 - 1), ``float`` (any number), ``str``, ``bool``, ``object``
    (anything); ``[kind]``, a list; ``{str: kind}``, a mapping of any names; ``{"name": kind}``, a
    mapping of these names and no others, those that end in "?" if they are there; and a tuple of
    values and kinds, any of them.

    Raises:
        ValueError: it is not; the sentence says where.

    >>> checked({"rows": 3, "metric": "dot"}, {"rows": int, "metric": ("dot", "cosine")})["rows"]
    3
    >>> checked({"rows": ["3"]}, {"rows": [int]})
    Traceback (most recent call last):
        ...
    ValueError: rows[0] is '3', where a whole number from 0 is needed
    """
    if isinstance(kind, tuple):
        if any(_is(value, choice) for choice in kind):
            return value
        raise ValueError(_wrong(value, " or ".join(map(_named, kind)), where))
    if isinstance(kind, list) and isinstance(value, list):
        for place, item in enumerate(value):
            checked(item, kind[0], f"{where}[{place}]")
    elif isinstance(kind, dict) and isinstance(value, dict):
        within = f"{where}." if where else ""
        if str in kind:
            known = dict.fromkeys(value, kind[str])
        else:
            known = {name.removesuffix("?"): inner for name, inner in kind.items()}
            for name in kind:
                if name not in value and not name.endswith("?"):
                    raise ValueError(f"{within}{name} is missing")
        for name, item in value.items():
            if name not in known:
                raise ValueError(f"{shown(within + name)} is unknown")
            checked(item, known[name], f"{within}{name[:80]}")
    elif not _is(value, kind):
        raise ValueError(_wrong(value, _named(kind), where))
    return value


def described_files(folder: Path, leave_out: Container[str] = ()) -> dict[str, FileDescription]:
    """Size and SHA-256 of every file below a folder, by its path in the folder."""
    return {
        name: described_file(path)
        for name, path in _files_below(folder).items()
        if name not in leave_out
    }


def problem_with_files(
    folder: Path, listed: Mapping[str, FileDescription], leave_out: Container[str] = ()
) -> str | None:
    """Why the files below a folder are not those that are listed, or None."""
    there = _files_below(folder)
    for name in there:
        if name not in listed and name not in leave_out:
            return f"{shown(name)} is not in its list of files"
    for name, expected in listed.items():
        if name not in there:
            return f"{shown(name)} is missing"
        if (
            there[name].stat().st_size != expected["size"]
            or described_file(there[name]) != expected
        ):
            return f"{shown(name)} is not what was written"
    return None


def _files_below(folder: Path) -> dict[str, Path]:
    paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path for path in paths}


def described_file(path: Path) -> FileDescription:
    """Size and SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"size": path.stat().st_size, "sha256": digest.hexdigest()}


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError("a key stands twice in a mapping")
    return mapping


def _inside(value: Any) -> list[Any]:
    """The mappings and lists in a mapping or a list."""
    if not isinstance(value, (dict, list)):
        return []
    items = value.values() if isinstance(value, dict) else value
    return [item for item in items if isinstance(item, (dict, list))]


def _is(value: Any, kind: Any) -> bool:
    if kind is object:
        return True
    if kind is int:
        return type(value) is int and 0 <= value <= _LARGEST
    if kind is float:
        return type(value) in (int, float)
    if isinstance(kind, type):
        return type(value) is kind
    return type(value) is type(kind) and bool(value == kind)


def _named(kind: Any) -> str:
    if isinstance(kind, list):
        return "a list"
    if isinstance(kind, dict):
        return "a mapping"
    names = {int: "a whole number from 0", float: "a number", str: "a text", bool: "true or false"}
    return names[kind] if isinstance(kind, type) else json.dumps(kind)


def _wrong(value: Any, needed: str, where: str) -> str:
    return f"{where or 'it'} is {shown(value)}, where {needed} is needed"


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """The paths at which two plain values differ, with both values, or without for checksums.

    >>> differences({"schedule": {"epochs": 3}}, {"schedule": {"epochs": 5, "seed": 1}})
    ['schedule.epochs (3, now 5)', 'schedule.seed (not given, now 1)']
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return [
            line
            for key in dict.fromkeys([*first, *second])
            for line in differences(first.get(key), second.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            line
            for place, values in enumerate(zip(first, second, strict=True))
            for line in differences(*values, f"{path}[{place}]")
        ]
    if first == second:
        return []
    if path.endswith("sha256"):
        return [f"{path.removesuffix('sha256').rstrip('.')} differs"]
    before, now = ("not given" if value is None else shown(value) for value in (first, second))
    return [f"{path} ({before}, now {now})"]
