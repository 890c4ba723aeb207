"""Rows of named fields from JSON lines, tsv, csv, Parquet or a `datasets.Dataset`, streamed."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Any, TypeAlias

from stope._extras import need
from stope.data.readers._lines import existing_file, read_lines
from stope.data.readers.jsonl import numbered_jsonl

Source: TypeAlias = "str | PathLike[str] | Iterable[Mapping[str, Any]]"

_ENDINGS = ".jsonl, .tsv, .csv (each also .gz) or .parquet"
_LARGEST_CELL = 2**31 - 1


def read_rows(source: Source) -> Iterator[tuple[str, dict[str, Any]]]:
    r"""Yield (where, row) for every row; `where` ("file:line") is for error messages.

    Args:
        source: a file, told by the end of its name: .jsonl (or .json with one object a line), .tsv
            and .csv with a header line (each also with .gz), .parquet; or a `datasets.Dataset`,
            `datasets.IterableDataset` or any iterable of mappings. In .tsv files a quote is an
            ordinary character; .csv follows RFC 4180 and a quoted cell may span lines.

    Raises:
        ValueError: unknown ending, malformed line or cell count, damaged file; names file and line.
        TypeError: an element of an iterable is not a mapping, or the source is a dict of splits.
        FileNotFoundError: no such file. ImportError: Parquet without pyarrow.

    Memory: one row (Parquet: 1,024 rows).

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
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return numbered_jsonl(path)
    if name.endswith(".tsv"):
        return _from_tsv(path)
    if name.endswith(".csv"):
        return _from_csv(path)
    if path.name.lower().endswith(".parquet"):
        return _from_parquet(path)
    raise ValueError(f"{path}: unknown kind of file; the name must end in {_ENDINGS}")


def _from_iterable(source: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(source, Mapping):
        splits = ", ".join(f'"{name}"' for name in source)
        raise TypeError(
            f"source is a dict of {splits}; give one of its values, for example a split"
        )
    for number, row in enumerate(source, start=1):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {number} of the source is a {type(row).__name__}, not a mapping")
        yield f"row {number}", dict(row)


def _from_tsv(path: PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    header: list[str] | None = None
    for number, line in read_lines(path):
        if not line:
            continue
        cells = line.split("\t")
        if header is None:
            header = _header(cells, f"{path}:{number}")
        else:
            yield _row(header, cells, f"{path}:{number}")


def _from_csv(path: PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    if csv.field_size_limit() < _LARGEST_CELL:  # process-wide; the default refuses texts of 128 KB
        csv.field_size_limit(_LARGEST_CELL)
    reader = csv.reader((line + "\n" for _, line in read_lines(path)), strict=True)
    header: list[str] | None = None
    while True:
        first_line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}:{first_line}: not CSV ({error})") from error
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = _header(cells, f"{path}:{first_line}")
        else:
            yield _row(header, cells, f"{path}:{first_line}")


def _from_parquet(path: PathLike[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    parquet = need("pyarrow.parquet", extra="train")
    arrow = need("pyarrow", extra="train")
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", row
    except (arrow.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: not a readable Parquet file after row {number} ({error})"
        ) from error


def _header(cells: list[str], where: str) -> list[str]:
    for name in cells:
        if cells.count(name) > 1:
            raise ValueError(f'{where}: the header names the column "{name}" twice')
    return cells


def _row(header: list[str], cells: list[str], where: str) -> tuple[str, dict[str, Any]]:
    if len(cells) != len(header):
        raise ValueError(
            f"{where}: expected {len(header)} columns as in the header, but found {len(cells)}"
        )
    return where, dict(zip(header, cells, strict=True))
