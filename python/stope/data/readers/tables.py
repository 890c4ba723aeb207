"""Rows of named fields from JSON, tsv, csv, Parquet or a `datasets.Dataset`, streamed."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, TypeAlias

from stope._checks import first_twice
from stope._extras import need
from stope.data.readers.jsonl import JSON_ENDINGS, numbered_jsonl
from stope.data.readers.lines import existing_file, plain_name, read_lines

Source: TypeAlias = "str | PathLike[str] | Iterable[Mapping[str, Any]]"
NumberedRows: TypeAlias = Iterator[tuple[str, dict[str, Any]]]

_ENDINGS = ".jsonl, .json, .tsv, .csv (each also .gz, .xz, .bz2) or .parquet"
_LARGEST_CELL = 2**31 - 1


def read_rows(source: Source) -> NumberedRows:
    r"""Yield (where, row) for every row; `where` ("file:line") is for error messages.

    Args:
        source: a file, told by the end of its name: .jsonl or .json (objects, or one array of
            them), .tsv and .csv with a header line (each also with .gz, .xz or .bz2), .parquet; or
            a `datasets.Dataset`, `datasets.IterableDataset` or any iterable of mappings. In .tsv
            files a quote is an ordinary character; .csv follows RFC 4180 and a quoted cell may span
            lines. Blanks around the names of a header are left out; where they follow its commas,
            blanks after commas are no part of the cells.

    Raises:
        ValueError: unknown ending, malformed line or cell count, a .tsv cell quoted as in .csv,
            the header once more, two columns of one name, damaged file; names file and line.
        TypeError: an element of an iterable is not a mapping, or the source is a dict of splits.
        FileNotFoundError: no such file. ImportError: Parquet without pyarrow.

    Memory: one row (Parquet: 1,024 rows; a JSON array: the file).

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "pairs.tsv")
        >>> _ = path.write_text("query\tpositive\nwhat is ore\trock\n")
        >>> [row for where, row in read_rows(path)]
        [{'query': 'what is ore', 'positive': 'rock'}]
    """
    if not isinstance(source, (str, os.PathLike)):
        return _from_iterable(source)
    path = existing_file(source)
    name = plain_name(path)
    if name.endswith(JSON_ENDINGS):
        return numbered_jsonl(path)
    if name.endswith(".tsv"):
        return _from_tsv(path)
    if name.endswith(".csv"):
        return _from_csv(path)
    if path.name.lower().endswith(".parquet"):
        return _from_parquet(path)
    raise ValueError(f"{path}: unknown kind of file; the name must end in {_ENDINGS}")


def source_name(source: Source) -> str:
    """What a message calls the source: the file's path, or "the source"."""
    return str(source) if isinstance(source, (str, os.PathLike)) else "the source"


def _from_iterable(source: Iterable[Mapping[str, Any]]) -> NumberedRows:
    if isinstance(source, Mapping):
        splits = ", ".join(f'"{name}"' for name in source)
        raise TypeError(
            f"source is a dict of {splits}; give one of its values, for example a split"
        )
    if not isinstance(source, Iterable):
        raise TypeError(
            f"source is a {type(source).__name__}; give a file, a dataset or an iterable of rows"
        )
    for number, row in enumerate(source, start=1):
        if not isinstance(row, Mapping):
            raise TypeError(
                f"row {number} of the source is a {type(row).__name__}, not a mapping; give rows "
                "of named fields"
            )
        yield f"row {number}", dict(row)


def _from_tsv(path: PathLike[str]) -> NumberedRows:
    header: list[str] | None = None
    for number, line in read_lines(path):
        if not line:
            continue
        cells = line.split("\t")
        where = f"{path}:{number}"
        if header is None:
            header = _header(cells, where)
            continue
        quoted = next((place for place, cell in enumerate(cells) if _is_quoted(cell)), None)
        cut = len(cells) != len(header) and any(cell.count('"') % 2 for cell in cells)
        if cut or (quoted is not None and len(cells) == len(header)):
            cell = "a cell" if quoted is None else f'the cell "{header[quoted]}"'
            raise ValueError(
                f"{where}: {cell} seems to be quoted as in CSV, but in a .tsv file quotes are "
                "ordinary characters; write the file without quotes (pandas: "
                "quoting=csv.QUOTE_NONE), or as .csv or .jsonl"
            )
        yield _row(header, cells, where)


def _is_quoted(cell: str) -> bool:
    """Whether a cell is as CSV writes one with quotes in it: in quotes, and all doubled inside."""
    inner = cell[1:-1]
    return (
        len(cell) > 4
        and cell[0] == cell[-1] == '"'
        and '""' in inner
        and '"' not in inner.replace('""', "")
    )


def _from_csv(path: PathLike[str]) -> NumberedRows:
    if csv.field_size_limit() < _LARGEST_CELL:  # process-wide; the default refuses texts of 128 KB
        csv.field_size_limit(_LARGEST_CELL)
    lines = (line + "\n" for _, line in read_lines(path))
    reader = csv.reader(lines, strict=True)
    header: list[str] | None = None
    before = 0
    while True:
        first_line = before + reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(
                f"{path}:{first_line}: not CSV ({error}); write it again, or .jsonl"
            ) from error
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _header(cells, f"{path}:{first_line}")
            if any(name != name.lstrip() for name in cells[1:]):
                before = reader.line_num
                reader = csv.reader(lines, strict=True, skipinitialspace=True)
        else:
            yield _row(header, cells, f"{path}:{first_line}")


def _from_parquet(path: PathLike[str]) -> NumberedRows:
    parquet = need("pyarrow.parquet", extra="train")
    arrow = need("pyarrow", extra="train")
    number = 0
    file = None
    # Values too: a date that Python has no day for, bytes that are not UTF-8.
    try:
        file = parquet.ParquetFile(path)
        twice = first_twice(file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=1024) if twice is None else ():
            rows = batch.to_pylist()
            for row in rows:
                number += 1
                yield f"{path}: row {number}", row
    except (arrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{path}: not a readable Parquet file after row {number} ({error}); write it again, or "
            "as .jsonl"
        ) from error
    finally:
        if file is not None:
            file.close()
    if twice is not None:
        raise ValueError(f'{path}: two columns have the name "{twice}"; rename one')


def _header(cells: list[str], where: str) -> list[str]:
    header = [cell.strip() for cell in cells]
    if len(set(header)) != len(header):
        raise ValueError(
            f'{where}: the header names the column "{first_twice(header)}" twice; rename one'
        )
    return header


def _row(header: list[str], cells: list[str], where: str) -> tuple[str, dict[str, Any]]:
    if len(cells) != len(header):
        raise ValueError(
            f"{where}: expected {len(header)} columns as in the header, but found {len(cells)}; "
            "where a cell holds what divides them, write .jsonl"
        )
    if len(header) > 1 and all(
        cell.strip() == name for cell, name in zip(cells, header, strict=True)
    ):
        raise ValueError(
            f"{where}: this is the header once more, as where files are put behind each other; "
            "leave the line out"
        )
    return where, dict(zip(header, cells, strict=True))
