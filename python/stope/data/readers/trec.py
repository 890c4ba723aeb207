"""Judgements (BEIR tsv or TREC qrels) and runs (TREC, six columns), plain or gzip."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from typing import Literal

from stope._files.atomic import open_atomic
from stope.data.collection import Qrels, Run
from stope.data.readers._fields import id_of, number_of, require
from stope.data.readers._lines import existing_file, read_lines
from stope.data.readers.jsonl import numbered_jsonl

_HEADER_WORDS = {"query-id", "query_id", "qid", "queryid"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,9}")
_LARGEST = 999_999_999


def read_qrels(path: str | PathLike[str]) -> Qrels:
    r"""Read judgements: {query id: {document id: relevance}}, in the order of the file.

    Two layouts are recognised by their first line: BEIR (query-id, corpus-id, score with tabs, the
    header line may be missing) and TREC (query, iteration, document, relevance with blanks).

    Raises:
        ValueError: wrong number of columns, a relevance that is not a whole number, a document
            judged twice for a query, damaged text; the message begins with "file:line: ".

    Memory: the judgements.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "qrels.txt")
        >>> _ = path.write_text("q1 0 d1 2\nq1 0 d2 0\n")
        >>> read_qrels(path)
        {'q1': {'d1': 2, 'd2': 0}}
    """
    qrels: Qrels = {}
    trec: bool | None = None
    for number, line in read_lines(path):
        if not line or line.isspace():
            continue
        where = f"{path}:{number}"
        if trec is None:
            trec = "\t" not in line or len(line.split("\t")) == 4
            if not trec and line.split("\t")[0].strip().lower() in _HEADER_WORDS:
                _columns(line.split("\t"), 3, "query-id, corpus-id, score", where)
                continue
        if trec:
            query, _, document, relevance = _columns(
                line.split(), 4, "query, iteration, document, relevance", where
            )
        else:
            query, document, relevance = _columns(
                line.split("\t"), 3, "query-id, corpus-id, score with tabs", where
            )
        if not query or not document:
            raise ValueError(f"{where}: an id is empty")
        if not _INTEGER.fullmatch(relevance.strip()):
            raise ValueError(
                f'{where}: the relevance is "{relevance}", which is not a whole number'
                " (of at most 9 digits)"
            )
        judged = qrels.setdefault(query, {})
        if document in judged:
            raise ValueError(f'{where}: document "{document}" is judged twice for query "{query}"')
        judged[document] = int(relevance)
    return qrels


def write_qrels(
    qrels: Mapping[str, Mapping[str, int]],
    path: str | PathLike[str],
    *,
    format: Literal["beir", "trec"] = "beir",
) -> None:
    """Write judgements as BEIR tsv (with header) or TREC qrels; the file appears when complete.

    Raises:
        ValueError: unknown format; an id that is empty or holds the separator (a tab or line end;
            in TREC files any blank); a relevance of more than nine digits.
        TypeError: a relevance that is not a whole number.
        OSError: the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "test.tsv")
        >>> write_qrels({"q1": {"d1": 1}}, path)
        >>> read_qrels(path)
        {'q1': {'d1': 1}}
    """
    if format not in ("beir", "trec"):
        raise ValueError(f'format is {format!r}; use "beir" or "trec"')
    blanks = format == "beir"
    with open_atomic(path) as file:
        if format == "beir":
            file.write("query-id\tcorpus-id\tscore\n")
        for query, judged in qrels.items():
            _writable(query, "query", blanks=blanks)
            for document, relevance in judged.items():
                _writable(document, "document", blanks=blanks)
                if isinstance(relevance, bool) or not hasattr(relevance, "__index__"):
                    raise TypeError(
                        f'the relevance of document "{document}" for query "{query}" is '
                        f"{relevance!r}; it must be a whole number"
                    )
                value = relevance.__index__()
                if abs(value) > _LARGEST:
                    raise ValueError(
                        f'the relevance of document "{document}" for query "{query}" is {value}; '
                        f"it may be at most {_LARGEST}"
                    )
                file.write(
                    f"{query}\t{document}\t{value}\n"
                    if format == "beir"
                    else f"{query} 0 {document} {value}\n"
                )


def read_run(path: str | PathLike[str]) -> Run:
    r"""Read a run: {query id: {document id: score}}, in the order of the file.

    A file is in TREC format; one whose name ends in .jsonl (or .jsonl.gz) has objects with
    query_id, document_id and score, as `stope search` writes them, and can hold ids with blanks.
    Ranks are not read: scores order a run (ties: see `stope.evaluation.evaluate`).

    Raises:
        ValueError: a line without six columns or a field, a score that is not a finite number, a
            document retrieved twice for a query; the message begins with "file:line: ".

    Memory: the run.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "run.txt")
        >>> _ = path.write_text("q1 Q0 d2 1 7.5 bm25\nq1 Q0 d1 2 3.25 bm25\n")
        >>> read_run(path)
        {'q1': {'d2': 7.5, 'd1': 3.25}}
    """
    run: Run = {}
    as_json = str(os.fspath(path)).lower().removesuffix(".gz").endswith(".jsonl")
    for where, query, document, score in (_json_results if as_json else _trec_results)(path):
        retrieved = run.setdefault(query, {})
        if document in retrieved:
            raise ValueError(
                f'{where}: document "{document}" is retrieved twice for query "{query}"'
            )
        retrieved[document] = score
    return run


def _trec_results(path: str | PathLike[str]) -> Iterator[tuple[str, str, str, float]]:
    for number, line in read_lines(path):
        if not line or line.isspace():
            continue
        where = f"{path}:{number}"
        query, _, document, _, text, _ = _columns(
            line.split(), 6, "query, Q0, document, rank, score, tag", where
        )
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise ValueError(f'{where}: the score is "{text}", which is not a finite number')
        yield where, query, document, score


def _json_results(path: str | PathLike[str]) -> Iterator[tuple[str, str, str, float]]:
    for where, row in numbered_jsonl(existing_file(path)):
        query, document = (
            id_of(require(row, name, where), name, where) for name in ("query_id", "document_id")
        )
        yield where, query, document, number_of(require(row, "score", where), "score", where)


def write_run(
    run: Mapping[str, Mapping[str, float]], path: str | PathLike[str], *, tag: str = "stope"
) -> None:
    """Write a TREC run; documents are ordered by (score descending, document id ascending).

    Scores are written so that reading them gives the same float64 back.

    Raises:
        ValueError: an id or the tag is empty or holds a blank; a score is NaN or infinite.
        OSError: the file cannot be written.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "run.txt")
        >>> write_run({"q1": {"d1": 0.5, "d2": 0.75}}, path, tag="dense")
        >>> print(path.read_text(), end="")
        q1 Q0 d2 1 0.75 dense
        q1 Q0 d1 2 0.5 dense
    """
    _writable(tag, "tag", blanks=False)
    with open_atomic(path) as file:
        for query, retrieved in run.items():
            _writable(query, "query", blanks=False)
            for rank, (document, score) in enumerate(ranked(retrieved), start=1):
                _writable(document, "document", blanks=False)
                if not math.isfinite(score):
                    raise ValueError(
                        f'the score of document "{document}" for query "{query}" is {score}; '
                        "a run holds finite scores"
                    )
                file.write(f"{query} Q0 {document} {rank} {float(score)!r} {tag}\n")


def ranked(retrieved: Mapping[str, float]) -> list[tuple[str, float]]:
    """(document id, score) by (score descending, document id ascending)."""
    return sorted(retrieved.items(), key=lambda item: (-item[1], item[0]))


def _columns(columns: list[str], wanted: int, names: str, where: str) -> list[str]:
    if len(columns) != wanted:
        raise ValueError(f"{where}: expected {wanted} columns ({names}), but found {len(columns)}")
    return columns


def _writable(identifier: str, what: str, *, blanks: bool) -> None:
    forbidden: Iterable[str] = "\t\r\n" if blanks else identifier
    bad = not identifier or any(
        letter in identifier and (blanks or letter.isspace()) for letter in forbidden
    )
    if bad or (blanks and identifier.isspace()):
        remedy = "tabs and line ends" if blanks else "blanks"
        raise ValueError(
            f"the {what} id {identifier!r} cannot be written to this file: ids may not be empty "
            f"or hold {remedy}"
        )
