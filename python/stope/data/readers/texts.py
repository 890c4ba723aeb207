"""One's own files: (query, positive) pairs and documents, columns found by their usual names."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stope.data.readers._fields import Row, id_of, join_title, names, require, text_of
from stope.data.readers._lines import read_lines
from stope.data.readers.tables import Source, read_rows

QUERY_COLUMNS = ("query", "anchor", "question", "query_text", "sentence1", "text1")
POSITIVE_COLUMNS = (
    "positive",
    "positives",
    "pos",
    "positive_passages",
    "document",
    "passage",
    "answer",
    "response",
    "context",
    "sentence2",
    "text2",
    "text",
    "body",
)
TEXT_COLUMNS = ("text", "contents", "content", "document", "passage", "positive", "answer", "body")
ID_COLUMNS = ("_id", "id", "docid", "doc_id", "document_id", "corpus_id", "corpus-id")


def read_pairs(
    source: Source, query_column: str | None = None, positive_column: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (query, positive) strings from a file or a `datasets.Dataset`.

    Args:
        source: see `read_rows`: .jsonl, .tsv, .csv (also .gz), .parquet, a dataset, dictionaries.
        query_column: name of the column; None looks for the first of QUERY_COLUMNS (capitals do not
            matter) in the first row.
        positive_column: the same with POSITIVE_COLUMNS. A cell may hold a string, a list of strings
            (one pair for each, as in FlagEmbedding's "pos"), or a list of {"title", "text"} objects
            (as in Tevatron's "positive_passages").

    Raises:
        ValueError: no such column (the message names those found), a cell of the wrong type, an
            empty query or positive, a malformed line; names file and line. A source without rows.

    Memory: one row.

    Example:
        >>> list(read_pairs([{"question": "what is ore", "answer": "rock with metal"}]))
        [('what is ore', 'rock with metal')]
        >>> list(read_pairs([{"left": "a", "right": "b"}]))
        Traceback (most recent call last):
            ...
        ValueError: row 1: no query column among "left", "right"; name it with query_column
    """
    query_name: str | None = None
    positive_name = ""
    for where, row in read_rows(source):
        if query_name is None:
            query_name = _column(row, query_column, QUERY_COLUMNS, "query", where)
            rest = {name: None for name in row if name != query_name}
            positive_name = _column(rest, positive_column, POSITIVE_COLUMNS, "positive", where)
        query = _filled(
            text_of(require(row, query_name, where), query_name, where), query_name, where
        )
        for positive in _positives(require(row, positive_name, where), positive_name, where):
            yield query, positive
    if query_name is None:
        raise ValueError(f"{_called(source)} holds no pairs")


def read_texts(
    source: Source, text_column: str | None = None, id_column: str | None = None
) -> tuple[list[str], list[str]]:
    """Return (ids, texts) of a file of documents; see `iter_texts`.

    Memory: all ids and texts.

    Example:
        >>> read_texts([{"_id": "d1", "title": "Ore", "text": "Rock with metal."}])
        (['d1'], ['Ore Rock with metal.'])
    """
    ids: list[str] = []
    texts: list[str] = []
    for identifier, text in iter_texts(source, text_column, id_column):
        ids.append(identifier)
        texts.append(text)
    return ids, texts


def iter_texts(
    source: Source, text_column: str | None = None, id_column: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of documents, one at a time.

    Args:
        source: see `read_rows`; also .txt (.txt.gz) with one document a line, empty lines skipped.
        text_column: name of the column; None looks for the first of TEXT_COLUMNS in the first row,
            and puts the column "title", if there is one, in front of it.
        id_column: name of the column; None looks for the first of ID_COLUMNS. Without any, ids are
            the numbers of the documents from "0".

    Raises:
        ValueError: no such column (the message names those found), a cell of the wrong type, a
            duplicate id, a malformed line; names file and line. A source without documents.

    Memory: one row, and the ids seen (to find duplicates).

    Example:
        >>> list(iter_texts([{"text": "rock"}, {"text": "tunnel"}]))
        [('0', 'rock'), ('1', 'tunnel')]
    """
    count = 0
    if isinstance(source, (str, os.PathLike)) and _is_plain_text(Path(source)):
        if text_column is not None or id_column is not None:
            raise ValueError(f"{source} is plain text, one document a line; it has no columns")
        for _, line in read_lines(source):
            if line and not line.isspace():
                yield str(count), line
                count += 1
    else:
        for identifier, text in _documents(source, text_column, id_column):
            yield identifier, text
            count += 1
    if count == 0:
        raise ValueError(f"{_called(source)} holds no documents")


def _documents(
    source: Source, text_column: str | None, id_column: str | None
) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    text_name: str | None = None
    id_name: str | None = None
    title_name: str | None = None
    for number, (where, row) in enumerate(read_rows(source)):
        if text_name is None:
            text_name = _column(row, text_column, TEXT_COLUMNS, "text", where)
            if id_column is not None:
                id_name = _column(row, id_column, (), "id", where)
            else:
                id_name = _first(row, ID_COLUMNS)
            if text_column is None:
                title_name = _first(row, ("title",))
        text = text_of(require(row, text_name, where), text_name, where)
        title = row.get(title_name) if title_name is not None else None
        if title is not None:
            text = join_title(text_of(title, "title", where), text)
        identifier = str(number)
        if id_name is not None:
            identifier = id_of(require(row, id_name, where), id_name, where)
            if identifier in seen:
                raise ValueError(f'{where}: the id "{identifier}" appears twice')
            seen.add(identifier)
        yield identifier, text


def _column(row: Row, given: str | None, usual: tuple[str, ...], what: str, where: str) -> str:
    if given is not None:
        if given not in row:
            raise ValueError(
                f'{where}: {what}_column is "{given}", but the columns are {names(row)}'
            )
        return given
    found = _first(row, usual)
    if found is None:
        header = "; the first line of a table names its columns" if _is_table(where) else ""
        raise ValueError(
            f"{where}: no {what} column among {names(row)}; name it with {what}_column{header}"
        )
    return found


def _is_table(where: str) -> bool:
    """Whether a row's place is a line of a .tsv or .csv file."""
    return any(f"{ending}:" in where for ending in (".tsv", ".csv", ".tsv.gz", ".csv.gz"))


def _first(row: Row, usual: tuple[str, ...]) -> str | None:
    by_lower_case = {name.lower(): name for name in reversed(list(row))}
    return next((by_lower_case[name] for name in usual if name in by_lower_case), None)


def _positives(cell: Any, name: str, where: str) -> list[str]:
    cells = cell if isinstance(cell, (list, tuple)) else [cell]
    positives = []
    for index, value in enumerate(cells):
        label = name if cells is not cell else f"{name}[{index}]"
        if isinstance(value, dict) and "text" in value:
            title = value.get("title") or ""
            value = join_title(
                text_of(title, f"{label}.title", where),
                text_of(value["text"], f"{label}.text", where),
            )
        positives.append(_filled(text_of(value, label, where), label, where))
    return positives


def _filled(text: str, name: str, where: str) -> str:
    if not text or text.isspace():
        raise ValueError(f'{where}: field "{name}" is empty')
    return text


def _is_plain_text(path: Path) -> bool:
    return path.name.lower().removesuffix(".gz").endswith(".txt")


def _called(source: Source) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else "the source"
