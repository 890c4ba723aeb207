"""The usual names of columns, and a `Layout`: what is a query, a positive, a negative, a label."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from stope._checks import flag, real
from stope._kinds import kinds, maybe, string, strings
from stope.data.readers.fields import Row, names

QUERY_COLUMNS = ("query", "anchor", "question", "query_text", "sentence1", "text1")
POSITIVE_COLUMNS = (
    *("positive", "positives", "pos", "positive_passages", "positive_passage", "positive_ctxs"),
    *("positive_document", "positive_text", "document", "documents", "passage", "answer"),
    *("response", "context", "sentence2", "text2", "text", "body"),
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
    *("is_selected", "is_answer", "is_correct", "is_match", "gold_label"),
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


@kinds(
    **dict.fromkeys(("query_column", "positive_column", "query_id_column"), maybe(string)),
    label_column=maybe(string),
    min_relevance=maybe(real),
    ignore_labels=flag,
    skip_empty=flag,
    numbers=strings,
)
@dataclass(frozen=True)
class Layout:
    """Which columns hold what, and what their values mean; None: found by the usual names.

    Attributes:
        query_column: the queries; one of `columns.QUERY_COLUMNS`.
        positive_column: the positives, or documents with labels; one of `columns.POSITIVE_COLUMNS`.
        query_id_column: ids of the queries; one of `columns.QUERY_ID_COLUMNS`, if there is one.
        label_column: numbers that say whether a row's document answers; one of
            `columns.LABEL_COLUMNS`, if there is one.
        min_relevance: from this label on a document is a positive; None is 1, for whole numbers. A
            column of scores (`columns.SCORE_COLUMNS`) beside a document is read as labels where
            this is given, and refused where it is not.
        ignore_labels: every row is a positive, whatever its label or score.
        skip_empty: leave out rows without a query or a positive, and count them.
        numbers: columns whose numbers mean something else, such as weights and signals.
    """

    query_column: str | None = None
    positive_column: str | None = None
    query_id_column: str | None = None
    label_column: str | None = None
    min_relevance: float | None = None
    ignore_labels: bool = False
    skip_empty: bool = False
    numbers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.ignore_labels and (self.label_column, self.min_relevance) != (None, None):
            name = "min_relevance" if self.label_column is None else "label_column"
            raise ValueError(f"ignore_labels is set beside {name}; keep one of them")


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
            raise ValueError(
                f'{where}: {argument} is "{named}", but the columns are {names(row)}; name one'
            )
        return named
    usual_name = first_of(row, usual)
    if usual_name is None:
        header = _of_header(row, where)
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


def _of_header(row: Row, where: str) -> str:
    """What is said besides where the place is a line of a .tsv or .csv file."""
    table = re.search(r"\.([tc]sv)(\.gz|\.xz|\.bz2)?:", where)
    if table is None:
        return ""
    divider, others = ("tabs", ",;|") if table[1] == "tsv" else ("commas", ";\t|")
    if len(row) == 1 and any(sign in name for name in row for sign in others):
        return f"; {divider} divide the columns of a .{table[1]} file, and this header has none"
    return "; the first line of a table names its columns"
