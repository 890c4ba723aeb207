"""Rows of any layout as (query, positives, negatives): which columns hold what, and what they mean.

| layout | columns |
|---|---|
| pairs | query, positive: a text, a list of texts, or of {"title", "text"} |
| triplets, n-tuples | ... and negative, or negative_1, negative_2, ...; or lists (neg) |
| labelled pairs | query, document, label: a number that says whether the document answers |
| labelled lists | query, documents, labels: a list of each |

Columns are found by their usual names (`columns`), capitals do not matter. A row's label is never
overlooked: it makes the document a positive or a negative, or the row is refused; and a column of
yes and no that nobody named is refused after the last row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from stope._checks import shown
from stope._kinds import a, kinds, mapping, maybe, string
from stope.data.readers.columns import (
    ID_COLUMNS,
    POSITIVE_COLUMNS,
    QUERY_COLUMNS,
    QUERY_ID_COLUMNS,
    Layout,
    column_of,
    first_of,
    negative_columns_of,
)
from stope.data.readers.fields import (
    Row,
    filled,
    id_of,
    in_brackets,
    join_title,
    missing_before,
    names,
    number_of,
    require,
    scores_of,
    text_of,
)
from stope.data.readers.labels import Labels
from stope.data.readers.tables import Source, read_rows, source_name
from stope.data.readers.texts import Document

_ID_LISTS = ("positive_document_ids", "positive_ids", "positive_id")
NO_TEXT, NO_ANSWER = "rows without text", "rows labelled as no answer"


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
        positive_titles: titles, each the beginning of its positive, or ""; None without any.

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


@kinds(
    query_column=maybe(string),
    positive_column=maybe(string),
    layout=maybe(a(Layout)),
    skipped=maybe(mapping),
)
def read_pairs(
    source: Source,
    query_column: str | None = None,
    positive_column: str | None = None,
    *,
    layout: Layout | None = None,
    skipped: Counter[str] | None = None,
) -> Iterator[tuple[str, str]]:
    """Yield (query, positive) strings from a file or a `datasets.Dataset`.

    Args:
        source: see `read_rows`: .jsonl, .tsv, .csv, .parquet, a dataset, dictionaries.
        query_column, positive_column: of the `Layout`, if that is not given.
        skipped: counts what is no pair, by reason: rows labelled as no answer, rows without text.

    Raises:
        ValueError: no such column, a cell of the wrong type, an empty query or positive, a label
            that says neither yes nor no, a malformed line; names file and line. No pairs at all.

    Memory: one row.

    Example:
        >>> list(read_pairs([{"question": "what is ore", "answer": "rock with metal"}]))
        [('what is ore', 'rock with metal')]
        >>> list(read_pairs([{"left": "a", "right": "b"}]))
        Traceback (most recent call last):
            ...
        ValueError: row 1: no query column among "left", "right"; name it with query_column
    """
    names = layout or Layout(query_column, positive_column)
    counts: Counter[str] = Counter() if skipped is None else skipped
    empty = True
    for _, _, example in iter_examples(source, names, skipped=counts):
        if not example.positives:
            counts[NO_ANSWER] += 1
        for positive in example.positives:
            empty = False
            yield example.query, positive
    if empty:
        raise ValueError(no_pairs(source_name(source), counts))


@kinds(layout=maybe(a(Layout)), skipped=maybe(mapping))
def read_examples(
    source: Source, layout: Layout | None = None, *, skipped: Counter[str] | None = None
) -> Iterator[TrainingExample]:
    """Yield a query with its positives and negatives for every row, whatever the layout.

    A row labelled as no answer has no positives, and its document among the negatives. Arguments
    and errors are those of `read_pairs`.

    Example:
        >>> row = {"query": "ore", "documents": ["rock", "pit"], "labels": [1, 0]}
        >>> next(read_examples([row])).negatives
        ['pit']
    """
    return (example for _, _, example in iter_examples(source, layout, skipped=skipped))


def read_flagembedding(source: Source) -> Iterator[TrainingExample]:
    """`read_examples` of a FlagEmbedding file: {"query", "pos": [..], "neg": [..]}, with scores.

    Example:
        >>> example = next(read_flagembedding([{"query": "ore", "pos": ["rock"], "neg": ["pit"]}]))
        >>> example.positives, example.negatives
        (['rock'], ['pit'])
    """
    reader = ExampleReader(Layout("query", "pos"), None, Counter())
    return (reader.answered(row, where) for where, row in read_rows(source))


@kinds(documents=maybe(mapping))
def read_tevatron(
    source: Source, documents: Mapping[str, str] | None = None
) -> Iterator[TrainingExample]:
    """`read_examples` of a Tevatron file, in either of its layouts.

    With texts inside: {"query_id", "query", "positive_passages": [{"docid", "title", "text"}],
    "negative_passages": [..]}; a passage's "score" is read when all of a list have one. With ids
    only: {"query_id", "query_text", "positive_document_ids", "negative_document_ids"}, whose texts
    are looked up in documents, {document id: text}.

    Example:
        >>> row = {"query_id": "q1", "query_text": "ore", "positive_document_ids": ["d1"],
        ...        "negative_document_ids": ["d2"]}
        >>> next(read_tevatron([row], documents={"d1": "rock", "d2": "pit"})).negatives
        ['pit']
    """
    known = {name: Document(name, text) for name, text in (documents or {}).items()}
    inline = ExampleReader(Layout(None, "positive_passages", "query_id"), None, Counter())
    by_id = ExampleReader(Layout(None, "positive_document_ids", "query_id"), known, Counter())
    for where, row in read_rows(source):
        if "positive_passages" not in row and documents is None:
            raise ValueError(
                f"{where}: there are no positive_passages among {names(row)}; where rows have "
                "document ids and no texts, pass documents={id: text}"
            )
        yield (inline if "positive_passages" in row else by_id).answered(row, where)


def iter_examples(
    source: Source,
    layout: Layout | None = None,
    *,
    documents: Mapping[str, Document] | None = None,
    skipped: Counter[str] | None = None,
) -> Iterator[tuple[str, Row, TrainingExample]]:
    """Yield (where, row, example) for every row; see `read_examples`.

    Where documents are given, by id, the columns of positives and negatives hold their ids.
    """
    reader = ExampleReader(layout or Layout(), documents, Counter() if skipped is None else skipped)
    for where, row in read_rows(source):
        example = reader.example(row, where)
        if example is not None:
            yield where, row, example
    reader.labels.refuse_unread()


def no_pairs(name: str, skipped: Mapping[str, int]) -> str:
    """What is said of a file without pairs."""
    return (
        f"{name} holds no pairs{in_brackets(skipped)}; give rows with a query and what answers it"
    )


class _Passage(NamedTuple):
    """A `Document` and its score."""

    id: str
    text: str
    title: str = ""
    score: float | None = None


class ExampleReader:
    """Reads rows one by one; the first says which columns hold what."""

    def __init__(
        self, layout: Layout, documents: Mapping[str, Document] | None, skipped: Counter[str]
    ) -> None:
        self._layout, self._documents, self._skipped = layout, documents, skipped
        self._query: str | None = None
        self._positive = ""
        self._query_id: str | None = None
        self.labels = Labels(layout)
        self._names: dict[tuple[str, ...], tuple[list[str], str | None]] = {}

    def example(self, row: Row, where: str) -> TrainingExample | None:
        """What the row says; None where it has no text and such rows are skipped."""
        if self._query is None:
            self._name_columns(row, where)
        negative_columns, label = self._columns_of(row, where)
        query = self._value(row, str(self._query), where)
        if self._is_skipped(query):
            return None
        query = _filled(text_of(query, str(self._query), where), str(self._query), where)
        answers = self._passages(
            self._value(row, self._positive, where), self._positive, where, needed=True
        )
        right = self.labels.answers(row, label, len(answers), where)
        positives = [answer for answer, yes in zip(answers, right, strict=True) if yes]
        negatives = [answer for answer, yes in zip(answers, right, strict=True) if not yes]
        for name in negative_columns:
            negatives += self._passages(row[name], name, where, needed=False)
        titles = [answer.title for answer in positives]
        query_id = None
        if self._query_id is not None:
            query_id = id_of(require(row, self._query_id, where), self._query_id, where)
        return TrainingExample(
            query,
            [answer.text for answer in positives],
            [answer.text for answer in negatives],
            query_id,
            _ids_of(positives),
            _ids_of(negatives),
            _scores_of(row, "pos_scores", positives, where),
            _scores_of(row, "neg_scores", negatives, where),
            titles if any(titles) else None,
        )

    def answered(self, row: Row, where: str) -> TrainingExample:
        """The same, of a row that must have a positive."""
        example = self.example(row, where)
        if example is None or not example.positives:
            raise ValueError(
                f'{where}: field "{self._positive}" is empty; a row needs at least one positive'
            )
        return example

    def _name_columns(self, row: Row, where: str) -> None:
        layout = self._layout
        usual = POSITIVE_COLUMNS if self._documents is None else (*_ID_LISTS, *POSITIVE_COLUMNS)
        self._query = column_of(row, layout.query_column, QUERY_COLUMNS, "query_column", where)
        rest = {name: None for name in row if name != self._query}
        ids = first_of(rest, _ID_LISTS)
        if ids is not None and layout.positive_column is first_of(rest, usual) is None:
            raise ValueError(
                f"{where}: no positive column among {names(rest)}; name it with positive_column, "
                f'or give positive_ids=True and a corpus where "{ids}" holds ids of its documents'
            )
        self._positive = column_of(rest, layout.positive_column, usual, "positive_column", where)
        if layout.query_id_column is not None:
            self._query_id = column_of(row, layout.query_id_column, (), "query_id_column", where)
        else:
            self._query_id = first_of(rest, QUERY_ID_COLUMNS)

    def _columns_of(self, row: Row, where: str) -> tuple[list[str], str | None]:
        """The columns of negatives and that of labels; rows may differ in their columns."""
        keys = tuple(row)
        if keys not in self._names:
            rest = [name for name in row if name not in (self._query, self._positive)]
            negatives = negative_columns_of(rest, ids=self._documents is not None)
            label = self.labels.column(row, rest, bool(negatives), where)
            late = first_of(rest, QUERY_ID_COLUMNS) if self._query_id is None else None
            if late is not None:
                raise ValueError(missing_before(late, where))
            self._names[keys] = (negatives, label)
        return self._names[keys]

    def _value(self, row: Row, name: str, where: str) -> Any:
        return row.get(name) if self._layout.skip_empty else filled(row, name, where)

    def _is_skipped(self, value: Any) -> bool:
        empty = value is None or (isinstance(value, str) and not value.strip())
        if empty and self._layout.skip_empty:
            self._skipped[NO_TEXT] += 1
            return True
        return False

    def _passages(self, cell: Any, name: str, where: str, *, needed: bool) -> list[_Passage]:
        """The texts of a cell, with titles and ids; empty ones are refused where needed."""
        if not needed and (cell is None or cell == ""):
            return []
        cells = cell if isinstance(cell, (list, tuple)) else [cell]
        passages = []
        for index, value in enumerate(cells):
            label = name if cells is not cell else f"{name}[{index}]"
            if self._is_skipped(value):
                continue
            if self._documents is not None:
                passages.append(self._known(self._documents, value, label, where))
                continue
            passage = _passage(value, label, where)
            _filled(passage.text, label, where)
            passages.append(passage)
        return passages

    def _known(
        self, documents: Mapping[str, Document], value: Any, label: str, where: str
    ) -> _Passage:
        name = id_of(value, label, where)
        if name not in documents:
            what = "names the positive" if label.startswith(self._positive) else f"{label} is"
            raise ValueError(
                f"{where}: {what} {shown(name)}, an id that the corpus lacks; add the document, or "
                "give the corpus of these ids"
            )
        return _Passage(*documents[name])


def _passage(value: Any, label: str, where: str) -> _Passage:
    if not isinstance(value, Mapping) or "text" not in value:
        return _Passage("", text_of(value, label, where))
    title = text_of(value.get("title") or "", f"{label}.title", where)
    text = join_title(title, text_of(value["text"], f"{label}.text", where))
    id_name = first_of(value, ID_COLUMNS)
    name = "" if id_name is None else id_of(value[id_name], f"{label}.{id_name}", where)
    score = value.get("score")
    if score is not None:
        score = number_of(score, f"{label}.score", where)
    return _Passage(name, text, title, score)


def _ids_of(passages: Sequence[_Passage]) -> list[str] | None:
    """Their ids, where each has one."""
    ids = [passage.id for passage in passages]
    return ids if ids and all(ids) else None


def _scores_of(row: Row, name: str, passages: Sequence[_Passage], where: str) -> list[float] | None:
    """The scores in the column of this name; or of the passages, where each has one."""
    if row.get(name) is not None:
        return scores_of(row[name], name, where, len(passages))
    scores = [passage.score for passage in passages if passage.score is not None]
    return scores if scores and len(scores) == len(passages) else None


def _filled(text: str, name: str, where: str) -> str:
    if not text or text.isspace():
        raise ValueError(
            f'{where}: field "{name}" is empty; fill it, or leave such rows out by skip_empty=True'
        )
    return text
