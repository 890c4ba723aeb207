"""Training rows of every layout: a query, its positives, its negatives, with ids and scores."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stope._checks import shown
from stope.data.readers.fields import (
    Row,
    id_of,
    join_title,
    names,
    require,
    scores_of,
    text_of,
    texts_of,
)
from stope.data.readers.tables import Source, read_rows


@dataclass(frozen=True)
class TrainingExample:
    """One query with positive and negative texts, and ids and scores where the source has them.

    Attributes:
        query: text of the query.
        positives: at least one text.
        negatives: texts, possibly none.
        query_id: None where the source has no ids; likewise positive_ids and negative_ids.
        positive_scores: aligned with positives, None where there are none.
        negative_scores: aligned with negatives, None where there are none.
        positive_titles: titles, each the beginning of its positive, "" where there is none.

    Example:
        >>> TrainingExample("what is ore", ["rock with metal"], ["a pit"]).negatives
        ['a pit']
    """

    query: str
    positives: list[str]
    negatives: list[str]
    query_id: str | None = None
    positive_ids: list[str] | None = None
    negative_ids: list[str] | None = None
    positive_scores: list[float] | None = None
    negative_scores: list[float] | None = None
    positive_titles: list[str] | None = None


def read_flagembedding(source: Source) -> Iterator[TrainingExample]:
    """Yield the rows of a FlagEmbedding file: {"query", "pos": [..], "neg": [..]}.

    "neg" may be missing; "pos_scores" and "neg_scores" are read when they are there; other fields
    ("prompt", "type") are left aside.

    Raises:
        ValueError: a missing field, a wrong type, no positive, as many scores as texts not given, a
            malformed line; names file and line.

    Memory: one row.

    Example:
        >>> example = next(read_flagembedding([{"query": "ore", "pos": ["rock"], "neg": ["pit"]}]))
        >>> example.positives, example.negatives
        (['rock'], ['pit'])
    """
    for where, row in read_rows(source):
        positives = texts_of(require(row, "pos", where), "pos", where)
        negatives = texts_of(row["neg"], "neg", where) if row.get("neg") is not None else []
        _some(positives, "pos", where)
        yield TrainingExample(
            text_of(require(row, "query", where), "query", where),
            positives,
            negatives,
            positive_scores=_scores(row, "pos_scores", len(positives), where),
            negative_scores=_scores(row, "neg_scores", len(negatives), where),
        )


def read_tevatron(
    source: Source, documents: Mapping[str, str] | None = None
) -> Iterator[TrainingExample]:
    """Yield the rows of a Tevatron file, in either of its layouts.

    With texts inside: {"query_id", "query", "positive_passages": [{"docid", "title", "text"}],
    "negative_passages": [..]}; a passage's "score" is read when all of a list have one. With ids
    only: {"query_id", "query_text", "positive_document_ids", "negative_document_ids"}, whose texts
    are looked up in `documents`.

    Args:
        source: see `read_rows`.
        documents: {document id: text}; needed for the layout with ids only.

    Raises:
        ValueError: a missing field, a wrong type, an id that `documents` does not have, no
            positive, a malformed line; names file and line.

    Memory: one row.

    Example:
        >>> row = {"query_id": "q1", "query_text": "ore", "positive_document_ids": ["d1"],
        ...        "negative_document_ids": ["d2"]}
        >>> next(read_tevatron([row], documents={"d1": "rock", "d2": "pit"})).negatives
        ['pit']
    """
    for where, row in read_rows(source):
        query_id = id_of(require(row, "query_id", where), "query_id", where)
        if "positive_passages" in row:
            query_name = "query"
            positives = _passages(row, "positive_passages", where)
            negatives = _passages(row, "negative_passages", where)
        elif "positive_document_ids" in row:
            query_name = "query_text"
            positives = _looked_up(row, "positive_document_ids", documents, where)
            negatives = _looked_up(row, "negative_document_ids", documents, where)
        else:
            raise ValueError(
                f'{where}: neither "positive_passages" nor "positive_document_ids" is there; the '
                f"fields are {names(row)}"
            )
        _some(positives.texts, "positive_passages", where)
        yield TrainingExample(
            text_of(require(row, query_name, where), query_name, where),
            positives.texts,
            negatives.texts,
            query_id,
            positives.ids,
            negatives.ids,
            positives.scores,
            negatives.scores,
        )


@dataclass(frozen=True)
class _Passages:
    ids: list[str]
    texts: list[str]
    scores: list[float] | None


def _passages(row: Row, name: str, where: str) -> _Passages:
    ids, texts, scores = [], [], []
    for index, passage in enumerate(_list(row, name, where)):
        label = f"{name}[{index}]"
        if not isinstance(passage, dict):
            raise ValueError(f'{where}: field "{label}" must be an object with docid and text')
        ids.append(id_of(require(passage, "docid", f"{where}: {label}"), f"{label}.docid", where))
        text = text_of(require(passage, "text", f"{where}: {label}"), f"{label}.text", where)
        title = passage.get("title") or ""
        texts.append(join_title(text_of(title, f"{label}.title", where), text))
        if passage.get("score") is not None:
            scores += scores_of([passage["score"]], f"{label}.score", where, 1)
    return _Passages(ids, texts, scores if scores and len(scores) == len(texts) else None)


def _looked_up(row: Row, name: str, documents: Mapping[str, str] | None, where: str) -> _Passages:
    if documents is None:
        raise ValueError(
            f"{where}: the row has document ids and no texts; pass documents={{id: text}}"
        )
    ids = [
        id_of(value, f"{name}[{index}]", where)
        for index, value in enumerate(_list(row, name, where))
    ]
    for identifier in ids:
        if identifier not in documents:
            raise ValueError(
                f'{where}: {name} has "{identifier}", which is not among the documents'
            )
    return _Passages(ids, [documents[identifier] for identifier in ids], None)


def _list(row: Row, name: str, where: str) -> list[Any]:
    value = row[name] if row.get(name) is not None else []
    if not isinstance(value, (list, tuple)):
        raise ValueError(f'{where}: field "{name}" must be a list, but it is {shown(value)}')
    return list(value)


def _scores(row: Row, name: str, length: int, where: str) -> list[float] | None:
    return scores_of(row[name], name, where, length) if row.get(name) is not None else None


def _some(positives: list[str], name: str, where: str) -> None:
    if not positives:
        raise ValueError(f'{where}: field "{name}" is empty; a row needs at least one positive')
