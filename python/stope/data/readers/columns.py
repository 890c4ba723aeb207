"""The usual names of columns: what is a query, a positive, a negative, a label, an id."""

from __future__ import annotations

import re
from collections.abc import Iterable

from stope.data.readers.fields import Row, names

QUERY_COLUMNS = ("query", "anchor", "question", "query_text", "sentence1", "text1")
POSITIVE_COLUMNS = (
    "positive",
    "positives",
    "pos",
    "positive_passages",
    "positive_passage",
    "positive_ctxs",
    "positive_document",
    "positive_text",
    "document",
    "documents",
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
_NAMED_IDS = ("_id", "id")
ID_COLUMNS = (
    *_NAMED_IDS,
    *("docid", "doc_id", "doc-id", "document_id", "document-id", "documentid", "docno"),
    *("corpus_id", "corpus-id", "corpusid", "pid", "passage_id", "passage-id", "passageid"),
)
QUERY_ID_COLUMNS = ("query_id", "query-id", "queryid", "qid", "question_id", "question-id")
# A number here says whether a row's document answers its query.
LABEL_COLUMNS = (
    *("label", "labels", "relevance", "grade", "rel", "relevant", "is_relevant", "is_positive"),
    *("is_selected", "is_answer", "is_correct", "is_match"),
)
# A number here may say so; where the border lies nobody but the user knows.
SCORE_COLUMNS = (
    *(
        "score",
        "scores",
        "similarity",
        "similarity_score",
        "sim_score",
        "relevance_score",
        "rating",
    ),
)
_NEGATIVE = re.compile(
    r"(hard[_-]?)?neg(ative)?s?(_(?:passage|ctx|document|doc|text)s?|(_document)?_ids?)?[_-]?([0-9]*)",
    re.IGNORECASE,
)


def first_of(row: Iterable[str], usual: tuple[str, ...]) -> str | None:
    """The column of the first usual name that is there; capitals do not matter."""
    by_lower_case = {name.lower(): name for name in reversed(list(row))}
    return next((by_lower_case[name] for name in usual if name in by_lower_case), None)


def column_of(
    row: Row, named: str | None, usual: tuple[str, ...], argument: str, where: str
) -> str:
    """The column named, or the first of the usual names; ValueError with those there are."""
    if named is not None:
        if named not in row:
            raise ValueError(f'{where}: {argument} is "{named}", but the columns are {names(row)}')
        return named
    usual_name = first_of(row, usual)
    if usual_name is None:
        header = "; the first line of a table names its columns" if _is_table(where) else ""
        what = argument.removesuffix("_column").replace("_", " ")
        raise ValueError(
            f"{where}: no {what} column among {names(row)}; name it with {argument}{header}"
        )
    return usual_name


def negative_columns_of(row: Iterable[str], *, ids: bool = False) -> list[str]:
    """Columns of negatives, negative_2 before negative_10: "neg", "negative", "hard_negatives", ...

    Columns of their ids ("negative_ids") count where ids are wanted.

    >>> negative_columns_of(["query", "negative_10", "negative_2", "neg", "negation"])
    ['neg', 'negative_2', 'negative_10']
    """
    matches = [(name, _NEGATIVE.fullmatch(name)) for name in row]
    numbered = [
        (int(match[5] or 0), name)
        for name, match in matches
        if match and (ids or "_id" not in (match[3] or ""))
    ]
    return [name for _, name in sorted(numbered, key=lambda pair: pair[0])]


def _is_table(where: str) -> bool:
    """Whether a row's place is a line of a .tsv or .csv file."""
    return re.search(r"\.[tc]sv(\.gz|\.xz|\.bz2)?:", where) is not None
