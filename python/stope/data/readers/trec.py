"""Judgements (BEIR tsv or TREC qrels) and runs (TREC, six columns), plain or compressed."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from os import PathLike

from stope._checks import path as path_kind
from stope._kinds import kinds
from stope.data.collection import Qrels, Run
from stope.data.readers.columns import ID_COLUMNS, LABEL_COLUMNS, SCORE_COLUMNS
from stope.data.readers.fields import id_of, number_of, plain_number, require
from stope.data.readers.jsonl import JSON_ENDINGS, numbered_jsonl
from stope.data.readers.lines import existing_file, plain_name, read_lines

_HEADER_WORDS = {"query-id", "query_id", "qid", "queryid"}
_GRADES = {*LABEL_COLUMNS, *SCORE_COLUMNS}
_INTEGER = re.compile(r"([+-]?[0-9]{1,9})(\.0*)?")


@kinds(path=path_kind)
def read_qrels(path: str | PathLike[str]) -> Qrels:
    r"""Read judgements: {query id: {document id: relevance}}, in the order of the file.

    Two layouts are recognised by their first line: BEIR (query-id, corpus-id, score with tabs, the
    header line may be missing) and TREC (query, iteration, document, relevance with blanks).

    Raises:
        ValueError: wrong number of columns, a relevance that is not a whole number (1.0 is one), a
            document judged twice for a query with different relevances, damaged text; the message
            begins with "file:line: ".

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
            words = [cell.strip().lower() for cell in line.split("\t")]
            if not trec and words[0] in _HEADER_WORDS:
                _columns(words, 3, "query-id, corpus-id, score", where)
                if words[1] in _GRADES or words[2] in ID_COLUMNS:
                    raise ValueError(
                        f"{where}: the header's columns are {', '.join(words)}; write them in the "
                        "order query-id, corpus-id, score"
                    )
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
            raise ValueError(f"{where}: an id is empty; give both")
        whole = _INTEGER.fullmatch(relevance.strip())
        if not whole:
            raise ValueError(
                f'{where}: the relevance is "{relevance}", which is not a whole number'
                " (of at most 9 digits); write a grade"
            )
        judged = qrels.setdefault(query, {})
        grade = int(whole[1])
        if judged.setdefault(document, grade) != grade:
            raise ValueError(
                f'{where}: document "{document}" is judged twice for query "{query}", as '
                f"{judged[document]} and as {grade}; keep one of the two lines"
            )
    return qrels


@kinds(path=path_kind)
def read_run(path: str | PathLike[str]) -> Run:
    r"""Read a run: {query id: {document id: score}}, in the order of the file.

    A file is in TREC format; one whose name ends in .jsonl or .json (or .jsonl.gz) has objects with
    query_id, document_id and score, as `stope search` writes them, and can hold ids with blanks.
    Scores order a run, not its ranks (ties: see `stope.evaluation.evaluate`); one whose scores only
    rise with the ranks, as distances do, is refused.

    Raises:
        ValueError: a line without six columns or a field, a score that is not a finite number, a
            document retrieved twice for a query, ranks of a query that begin anew under another
            tag; the message begins with "file:line: ". Scores that only rise with the ranks.

    Memory: the run.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "run.txt")
        >>> _ = path.write_text("q1 Q0 d2 1 7.5 bm25\nq1 Q0 d1 2 3.25 bm25\n")
        >>> read_run(path)
        {'q1': {'d2': 7.5, 'd1': 3.25}}
    """
    run: Run = {}
    as_json = plain_name(path).endswith(JSON_ENDINGS)
    before: dict[str, tuple[float, float]] = {}
    falls = rises = 0
    for where, query, document, rank, score in (_json_results if as_json else _trec_results)(path):
        retrieved = run.setdefault(query, {})
        last_rank, last_score = before.get(query, (rank, score))
        if rank != last_rank and score != last_score:
            rise = (rank > last_rank) == (score > last_score)
            rises, falls = rises + rise, falls + (not rise)
        before[query] = rank, score
        if document in retrieved:
            raise ValueError(
                f'{where}: document "{document}" is retrieved twice for query "{query}"; keep one'
            )
        retrieved[document] = score
    if rises and not falls:
        raise ValueError(
            f"{path}: the scores rise with the ranks, as distances do, but the highest score of a "
            "run is the best; write minus the distances, or the same rank everywhere"
        )
    return run


def _trec_results(path: str | PathLike[str]) -> Iterator[tuple[str, str, str, float, float]]:
    before: dict[str, tuple[str, float]] = {}
    for number, line in read_lines(path):
        if not line or line.isspace():
            continue
        where = f"{path}:{number}"
        query, _, document, place, text, tag = _columns(
            line.split(), 6, "query, Q0, document, rank, score, tag", where
        )
        rank = plain_number(place) or 0.0
        last_tag, last_rank = before.get(query, (tag, rank))
        if tag != last_tag and rank <= last_rank:  # merged runs may tag whose a document is
            raise ValueError(
                f'{where}: query "{query}" has documents of two runs, tagged "{last_tag}" and '
                f'"{tag}"; give each run a file'
            )
        before[query] = tag, rank
        score = plain_number(text)
        if score is None:
            raise ValueError(
                f'{where}: the score is "{text}", which is not a finite number; give one'
            )
        yield where, query, document, rank, score


def _json_results(path: str | PathLike[str]) -> Iterator[tuple[str, str, str, float, float]]:
    for where, row in numbered_jsonl(existing_file(path)):
        query, document = (
            id_of(require(row, name, where), name, where) for name in ("query_id", "document_id")
        )
        rank = row.get("rank")
        rank = float(rank) if isinstance(rank, int | float) and math.isfinite(rank) else 0.0
        score = number_of(require(row, "score", where), "score", where)
        yield where, query, document, rank, score


def _columns(columns: list[str], wanted: int, names: str, where: str) -> list[str]:
    if len(columns) != wanted:
        raise ValueError(
            f"{where}: expected {wanted} columns ({names}), but found {len(columns)}; write them so"
        )
    return columns
