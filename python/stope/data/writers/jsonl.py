"""JSON lines, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from os import PathLike
from typing import Any

from stope._checks import path as path_kind
from stope._checks import shown
from stope._files.atomic import open_atomic
from stope._kinds import iterable, kinds


@kinds(path=path_kind, rows=iterable)
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
            if not isinstance(row, Mapping):
                raise TypeError(f"row {count + 1} for {path} is {shown(row)}; give a mapping")
            try:
                line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"row {count + 1} for {path} is not valid as JSON: {error}; give finite "
                    "numbers, texts, lists and mappings"
                ) from error
            file.write(line + "\n")
            count += 1
    return count
