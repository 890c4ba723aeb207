"""JSON lines: one object a line, plain or gzip."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any

from stope._files.atomic import open_atomic
from stope.data.readers._lines import read_lines


def read_jsonl(path: str | PathLike[str]) -> Iterator[dict[str, Any]]:
    r"""Yield the objects of a JSON lines file, plain or gzip; empty lines are skipped.

    Raises:
        ValueError: a line is not JSON, not an object, holds NaN, Infinity or half a surrogate pair,
            is not UTF-8, or the gzip data is damaged; the message begins with "file:line: ".
        FileNotFoundError: no such file.

    Memory: one line at a time.

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
    for number, line in read_lines(path):
        if line and not line.isspace():
            where = f"{path}:{number}"
            yield where, _parse(line, where)


def write_jsonl(path: str | PathLike[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write one JSON object a line (gzip when the name ends in .gz) and return how many.

    The file appears when it is complete (see `open_atomic`). `rows` may be a generator.

    Raises:
        ValueError: a value is NaN, infinite or not a JSON value; names the row, counted from 1.
        OSError: the file cannot be written, for example because the disk is full.

    Memory: one row at a time.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "rows.jsonl")
        >>> write_jsonl(path, ({"number": number} for number in range(3)))
        3
    """
    count = 0
    with open_atomic(path) as file:
        for row in rows:
            try:
                line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"row {count + 1} for {path} is not valid as JSON: {error}"
                ) from error
            file.write(line + "\n")
            count += 1
    return count


def _parse(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"{where}: expected a JSON object, but it is a {type(row).__name__}")
    if "\\ud" in line.lower():  # only an escape can bring half a surrogate pair into a string
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"{where}: a string holds half a surrogate pair, which is not text"
            ) from error
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON value")
