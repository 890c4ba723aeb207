"""Judgements (BEIR tsv or TREC qrels) and runs (TREC, six columns)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from os import PathLike
from typing import Literal

from stope._checks import path as path_kind
from stope._files.atomic import open_atomic
from stope._kinds import kinds, mapping_of_mappings, string

_LARGEST = 999_999_999


@kinds(qrels=mapping_of_mappings, path=path_kind, format=string)
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
        >>> from stope.data import read_qrels
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
                told = f'the relevance of document "{document}" for query "{query}" is'
                if isinstance(relevance, bool) or not hasattr(relevance, "__index__"):
                    raise TypeError(f"{told} {relevance!r}; it must be a whole number")
                value = relevance.__index__()
                if abs(value) > _LARGEST:
                    raise ValueError(f"{told} {value}; it may be at most {_LARGEST}")
                file.write(
                    f"{query}\t{document}\t{value}\n"
                    if format == "beir"
                    else f"{query} 0 {document} {value}\n"
                )


@kinds(run=mapping_of_mappings, path=path_kind, tag=string)
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


def _writable(identifier: str, what: str, *, blanks: bool) -> None:
    forbidden = set("\t\r\n") if blanks else set(filter(str.isspace, identifier))
    if not identifier.strip() or forbidden & set(identifier):
        remedy = "tabs and line ends" if blanks else "blanks"
        raise ValueError(
            f"the {what} id {identifier!r} cannot be written to this file: ids may not be empty "
            f"or hold {remedy}; rename it"
        )
