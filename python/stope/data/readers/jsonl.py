"""JSON lines: one object a line; also an array of objects, and objects over several lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain
from os import PathLike
from typing import Any

from stope._checks import first_twice, shown
from stope._checks import path as path_kind
from stope._kinds import kinds
from stope.data.readers.lines import read_lines

JSON_ENDINGS = (".jsonl", ".ndjson", ".json")


@kinds(path=path_kind)
def read_jsonl(path: str | PathLike[str]) -> Iterator[dict[str, Any]]:
    r"""Yield the objects of a JSON lines file, plain or compressed; empty lines are skipped.

    A file that is one JSON array of objects, or whose objects run over several lines, is read too.

    Raises:
        ValueError: a line is not JSON, not an object, has a key twice, holds NaN, Infinity or half
            a surrogate pair, is not UTF-8, or compressed data is damaged; the message begins with
            "file:line: ".
        FileNotFoundError: no such file.

    Memory: one line at a time; an array, or objects over several lines, whole.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "rows.jsonl")
        >>> _ = path.write_text('{"query": "a"}\n{"query": "b"}\n')
        >>> [row["query"] for row in read_jsonl(path)]
        ['a', 'b']
    """
    for _, row in numbered_jsonl(path):
        yield row


def numbered_jsonl(path: str | PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ("file:line", object); see read_jsonl."""
    lines = read_lines(path)
    first = next(((number, line) for number, line in lines if line.strip()), None)
    if first is None:
        return
    number, line = first
    if line.strip() in ("[", "{", "[{") or line.lstrip().startswith("["):
        yield from _over_lines(path, number, chain([line], (text for _, text in lines)))
        return
    yield f"{path}:{number}", _parse(line, f"{path}:{number}")
    for number, line in lines:
        if line and not line.isspace():
            where = f"{path}:{number}"
            yield where, _parse(line, where)


def _over_lines(
    path: str | PathLike[str], first: int, lines: Iterator[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of an array, or objects one after the other, in a text of several lines."""
    text = "\n".join(lines)
    has_surrogates = "\\ud" in text.lower()
    place, counted, line = _past_blanks(text, 0), 0, first
    while place < len(text):
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, end = _DECODER.raw_decode(text, place)
        except json.JSONDecodeError as error:
            where = f"{path}:{first + error.lineno - 1}"
            raise _not_json(where, error) from error
        except (ValueError, RecursionError) as error:
            raise _not_json(f"{path}:{line}", error) from error
        if isinstance(value, list):
            for number, row in enumerate(value, start=1):
                where = f"{path}: item {number}"
                yield where, _checked(row, where, has_surrogates)
        else:
            yield f"{path}:{line}", _checked(value, f"{path}:{line}", has_surrogates)
        place = _past_blanks(text, end)


def _past_blanks(text: str, place: int) -> int:
    match = _BLANKS.match(text, place)
    return match.end() if match else place


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_refuse_constant, object_pairs_hook=_without_doubles)
    except (ValueError, RecursionError) as error:
        raise _not_json(where, error) from error
    # Only an escape can bring half a surrogate pair into a string.
    return _checked(row, where, "\\ud" in line.lower())


def _checked(row: Any, where: str, has_surrogates: bool) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise ValueError(
            f"{where}: expected a JSON object, but it is a {type(row).__name__}; give one with "
            "named fields"
        )
    if has_surrogates:
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: a string holds half a surrogate pair, which is not text; take it out"
            ) from error
        except RecursionError:
            raise _not_json(where, RecursionError("nested too deeply")) from None
    return row


def _not_json(where: str, error: Exception) -> ValueError:
    what = str(error)
    if isinstance(error, json.JSONDecodeError):
        what = f"{error.msg} at column {error.colno}"
    return ValueError(f"{where}: not JSON ({what}); write one object a line, or an array of them")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")


def _without_doubles(items: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(items)
    if len(row) != len(items):
        twice = first_twice(key for key, _ in items)
        raise ValueError(f"the key {shown(twice)} appears twice in one object: keep one")
    return row


_BLANKS = re.compile(r"[ \t\r\n]*")
_DECODER = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=_without_doubles)
