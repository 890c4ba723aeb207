"""What `stope mine` wrote, in any of its forms, as one table of numbers and names.

| form | brings |
|---|---|
| a job's folder, or its negatives.parquet | ids, scores, sources, reasons, a teacher's; counts |
| ``--ids`` | ids, scores, the lowest score of each query's positives |
| ``-o`` in any format | texts; scores with ``--scores``; ids in Tevatron's alone |

The pairs that were mined give what a form lacks: texts to ids, and ids to texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope._checks import counted, shown
from stope._extras import need
from stope.data.pairs import Pairs
from stope.data.readers.columns import (
    LABEL_COLUMNS,
    SCORE_COLUMNS,
    Layout,
    first_of,
    negative_columns_of,
)
from stope.data.readers.examples import TrainingExample, iter_examples
from stope.data.readers.fields import scores_of
from stope.data.readers.labels import Labels
from stope.data.readers.tables import read_rows
from stope.data.text_identity import text_key
from stope.lists import Ids

Numbers = NDArray[np.float64]
_IDS = ("query_id", "document_id")
_NUMBERS = ("score", "rank", "positive_score", "teacher_score")
_WORDS = ("source", "reason")
DOCUMENTS, COUNTS = "negatives.parquet", "counts.parquet"


class Names(NamedTuple):
    """What queries, or documents, are called: by id, by text, or both."""

    ids: Sequence[str] | None
    texts: Sequence[str] | None

    def __len__(self) -> int:
        return len(self.ids if self.ids is not None else self.texts or ())


class Words(NamedTuple):
    """A word of few for each row."""

    codes: NDArray[Any]
    words: list[str]

    def rows(self, word: str) -> NDArray[np.bool_]:
        """Which rows have this word."""
        return np.asarray(self.codes == (self.words.index(word) if word in self.words else -1))

    def take(self, rows: Ids) -> Words:
        """The words of these rows."""
        return Words(self.codes[rows], self.words)

    def and_more(self, word: str, count: int) -> Words:
        """With so many rows of a new word at the end."""
        return Words(np.append(self.codes, np.full(count, len(self.words))), [*self.words, word])


@dataclass(frozen=True, eq=False)
class MinedTable:
    """Rows (query, document): each pair once, or once as a positive and once as a negative.

    Attributes:
        queries, documents: their names; a row has numbers of these.
        query, document: int64 ``[rows]``.
        reason: "positive", "kept" (a negative), or why the document was turned away.
        source: who named the document, or None.
        numbers: float64 ``[rows]`` by name, NaN where there is none: score, rank, positive_score,
            teacher_score.
        turned_away: (source, reason, documents), or None where nobody counted.
        notes: sentences on what is not there, and why.
        num_corpus: documents that were looked through, if that is known.
    """

    queries: Names
    documents: Names
    query: Ids
    document: Ids
    reason: Words
    source: Words | None
    numbers: dict[str, Numbers]
    turned_away: list[tuple[str, str, int]] | None
    notes: list[str]
    num_corpus: int | None = None

    def scores(self, name: str = "score") -> Numbers:
        """A column of numbers, NaN where the table has none."""
        return self.numbers.get(name, np.full(len(self.query), np.nan))


def read_mined(path: Path, pairs: Pairs | None, layout: Layout | None = None) -> MinedTable:
    """Read one of the forms above, with the names that pairs adds.

    Raises:
        ValueError: no such form, a damaged row, no negative, a name that pairs does not have.
        FileNotFoundError: no such file.
    """
    file = path / DOCUMENTS if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise ValueError(
            f"{path} has no {DOCUMENTS}; give the folder of a job that has ended, or a file that "
            "stope mine wrote"
        )
    first = next(iter(read_rows(file)), None)
    if first is None:
        raise ValueError(f"{file} has no rows; give what stope mine wrote")
    if {"query_id", "document_id"} <= set(first[1]):
        table = _by_ids(file)
    else:
        table = _by_texts(file, layout)
    if pairs is not None:
        table = _with_pairs(table, pairs, file)
    elif table.queries.texts is None:
        table.notes.append(
            "This table has ids and no texts, so texts are neither shown nor compared; give the "
            "pairs and the corpus that were mined, too."
        )
    elif table.queries.ids is None:
        table.notes.append(
            "These rows have texts and no ids, so nothing can be saved for --exclude; give the "
            "pairs and the corpus that were mined, too, or the table of stope mine --job or --ids."
        )
    for name, values in table.numbers.items():
        if np.isinf(values).any():
            raise ValueError(f"{file} has an infinite {name}; give finite numbers, or none")
    if not np.isfinite(table.scores()).any():
        table.notes.append(
            "This file has no scores, so neither their distribution nor margins are shown; stope "
            "mine --scores writes them into training rows."
        )
    if not table.reason.rows("kept").any():
        raise ValueError(f"{file} has no negative; give what stope mine wrote")
    return _once(table)


def _by_ids(file: Path) -> MinedTable:
    columns = _columns(file)
    sides = [_numbered(columns[name], name, file) for name in ("query_id", "document_id")]
    (query, queries), (document, documents) = sides
    words = {n: Words(*_numbered(columns[n], n, file)) for n in _WORDS if n in columns}
    reason = words.get("reason", Words(np.zeros(len(query), np.int64), ["kept"]))
    numbers = {n: columns[n].to_numpy().astype(np.float64) for n in _NUMBERS if n in columns}
    counts, notes = None, []
    if file.name == DOCUMENTS and (file.parent / COUNTS).exists():
        rows = [row for _, row in read_rows(file.parent / COUNTS)]
        counts = [(row["source"], row["reason"], row["count"]) for row in rows]
    else:
        notes.append(
            "What was turned away is not counted in this file; the folder of stope mine --job "
            "counts it, and stope mine prints it."
        )
    names = Names(queries, None), Names(documents, None)
    return MinedTable(*names, query, document, reason, words.get("source"), numbers, counts, notes)


def _columns(file: Path) -> dict[str, Any]:
    """Columns of a table by ids, without those that are empty."""
    arrow = need("pyarrow", extra="report")
    kinds = {**dict.fromkeys(_IDS, arrow.string()), **dict.fromkeys(_WORDS, arrow.string())}
    kinds |= dict.fromkeys(_NUMBERS, arrow.float64())
    try:
        if file.name.lower().endswith(".parquet"):
            table = need("pyarrow.parquet", extra="report").read_table(file)
        else:
            reader = need("pyarrow.json", extra="report")
            options = {"unexpected_field_behavior": "ignore"}
            parse = reader.ParseOptions(
                explicit_schema=arrow.schema(list(kinds.items())), **options
            )
            table = reader.read_json(file, parse_options=parse)
        there = {
            name: table[name].cast(kinds[name]) for name in kinds if name in table.column_names
        }
    except arrow.ArrowInvalid as error:
        raise ValueError(f"{file}: {error}; give what stope mine wrote") from None
    return {n: part for n, part in there.items() if n in _IDS or part.null_count < len(part)}


def _numbered(column: Any, name: str, file: Path) -> tuple[NDArray[Any], list[str]]:
    """The numbers of a column's distinct values, and the values."""
    encoded = column.combine_chunks().dictionary_encode()
    words: list[str] = encoded.dictionary.to_pylist()
    if column.null_count or "" in words:  # an empty id would mean all queries in what is saved
        raise ValueError(f"{file} has rows without {name}; fill it, or take them out")
    return encoded.indices.to_numpy().astype(np.int64), words


class _Side:
    """Queries, or documents, as they come: numbered by id, or by what they say."""

    def __init__(self) -> None:
        self._numbers: dict[str | bytes, int] = {}
        self._texts: list[str] = []
        self._ids: list[str] = []

    def number(self, text: str, name: str | None) -> int:
        key = text_key(text) if name is None else name
        number = self._numbers.setdefault(key, len(self._numbers))
        if number == len(self._texts):
            self._texts.append(text)
            self._ids.extend([] if name is None else [name])
        return number

    def names(self) -> Names:
        return Names(self._ids if len(self._ids) == len(self._texts) else None, self._texts)


def _by_texts(file: Path, layout: Layout | None) -> MinedTable:
    queries, documents = _Side(), _Side()
    rows: list[tuple[int, int, int, float]] = []
    for where, row, example in iter_examples(file, layout):
        query = queries.number(example.query, example.query_id)
        scores = _scores_of(row, example, layout, where)
        for reason, texts, ids in (
            (0, example.positives, example.positive_ids),
            (1, example.negatives, example.negative_ids),
        ):
            for place, (text, score) in enumerate(zip(texts, scores[reason], strict=True)):
                document = documents.number(text, ids[place] if ids else None)
                rows.append((query, document, reason, score))
    if not any(reason == 0 for _, _, reason, _ in rows):
        raise ValueError(
            f"{file} has no positive; give what stope mine wrote, with min_relevance where a label "
            "says what answers"
        )
    columns = np.array(rows, np.float64).T
    of_query, of_document, reasons = columns[:3].astype(np.int64)
    notes = ["What was turned away is not in training rows; the folder of stope mine --job has it."]
    names, numbers = (queries.names(), documents.names()), {"score": columns[3]}
    if names[0].ids is None:
        notes.append(
            "Rows of texts do not tell queries of equal text apart: they are one here, with the "
            "negatives of all; the table of --job or --ids keeps them."
        )
    words = Words(reasons, ["positive", "kept"])
    return MinedTable(*names, of_query, of_document, words, None, numbers, None, notes)


def _scores_of(
    row: Any, example: TrainingExample, layout: Layout | None, where: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Scores of the row's positives and of its negatives, NaN where there are none."""
    sides = len(example.positives), len(example.negatives)
    blank = [np.nan] * sides[0], [np.nan] * sides[1]
    if example.positive_scores is not None or example.negative_scores is not None:
        return example.positive_scores or blank[0], example.negative_scores or blank[1]
    name = first_of(row, SCORE_COLUMNS)
    if name is None or row[name] is None:
        return blank
    values = row[name] if isinstance(row[name], list) else [row[name]]
    scores = scores_of(values, name, where, sum(sides))
    label = first_of(row, LABEL_COLUMNS)
    if label is None and layout is not None and layout.min_relevance is not None:
        label = name  # the scores are the labels
    if label is not None and not negative_columns_of(row):  # one list, of either kind
        right = Labels(layout or Layout()).answers(row, label, len(scores), where)
        scores = [scores[place] for place in np.argsort(~np.array(right), kind="stable")]
    return scores[: sides[0]], scores[sides[0] :]


def _with_pairs(table: MinedTable, pairs: Pairs, file: Path) -> MinedTable:
    """The same with ids, texts and positives of the pairs that were mined."""
    queries = Names(pairs.query_ids, pairs.query_texts)
    every = Names(pairs.corpus_ids, pairs.corpus_texts)
    query = _rows_in(table.queries, queries, "queries", file)[table.query]
    document = _rows_in(table.documents, every, "documents", file)[table.document]
    if table.queries.ids is None:
        lost = len(queries) - len(set(map(text_key, pairs.query_texts)))
        if lost:
            table.notes.append(
                f"{counted(lost, 'queries')} with the text of another: no negatives are counted "
                "for them."
            )
    table = replace(table, queries=queries, num_corpus=len(every))
    if not table.reason.rows("positive").any():
        more = len(pairs.positives.ids)
        table = replace(
            table,
            reason=table.reason.and_more("positive", more),
            source=table.source and table.source.and_more("positive", more),
            numbers={n: np.append(x, np.full(more, np.nan)) for n, x in table.numbers.items()},
        )
        query = np.append(query, pairs.positives.owners)
        document = np.append(document, pairs.positives.ids)
    used, document = np.unique(document, return_inverse=True)
    names = Names(*([part[row] for row in used.tolist()] for part in every if part is not None))
    return replace(table, documents=names, query=query, document=document.reshape(-1))


def _rows_in(wanted: Names, known: Names, what: str, file: Path) -> Ids:
    """The rows of these names among those of the pairs, by id, or else by text."""
    if wanted.ids is not None:
        rows = {name: row for row, name in enumerate(known.ids or ())}
        places = [rows.get(name, -1) for name in wanted.ids]
        said = wanted.ids
    else:
        by_text: dict[bytes, int] = {}
        for row, text in enumerate(known.texts or ()):
            by_text.setdefault(text_key(text), row)
        places = [by_text.get(text_key(text), -1) for text in wanted.texts or ()]
        said = wanted.texts or ()
    if -1 in places:
        name = said[places.index(-1)]
        kind = "id" if wanted.ids is not None else "text"
        raise ValueError(
            f"{file} names {counted(places.count(-1), what)} that the pairs do not have, such as "
            f"the {kind} {shown(name)}; give the pairs and the corpus that were mined"
        )
    return np.array(places, np.int64)


def _once(table: MinedTable) -> MinedTable:
    """Each (query, document) once as a positive, and once as none, as it stands first."""
    key = (table.query * len(table.documents) + table.document) * 2 + table.reason.rows("positive")
    places = np.sort(np.unique(key, return_index=True)[1])
    return replace(
        table,
        query=table.query[places],
        document=table.document[places],
        reason=table.reason.take(places),
        source=table.source and table.source.take(places),
        numbers={name: part[places] for name, part in table.numbers.items()},
    )
