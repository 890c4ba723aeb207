"""One's own files of texts, documents or queries, with ids; columns found by their usual names."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from stope._checks import choice, flag, shown
from stope._kinds import kinds, mapping, maybe, string
from stope.data.readers.columns import (
    ID_COLUMNS,
    QUERY_COLUMNS,
    QUERY_ID_COLUMNS,
    TEXT_COLUMNS,
    column_of,
    first_of,
)
from stope.data.readers.fields import (
    Row,
    add_id,
    filled,
    id_of,
    in_brackets,
    join_title,
    missing_before,
    names,
    require,
    text_of,
)
from stope.data.readers.lines import plain_name, read_lines
from stope.data.readers.tables import Source, read_rows, source_name
from stope.data.text_identity import text_key

Ids = Literal["usual", "needed", "named"]


class Document(NamedTuple):
    """A document: its id, the text that is encoded (title, a space, text), and its title or ""."""

    id: str
    text: str
    title: str = ""


@kinds(text_column=maybe(string), id_column=maybe(string), skip_empty=flag, skipped=maybe(mapping))
def read_texts(
    source: Source,
    text_column: str | None = None,
    id_column: str | None = None,
    *,
    ids: Ids = "usual",
    skip_empty: bool = False,
    skipped: Counter[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Return (ids, texts) of a file of documents; see `iter_documents`.

    Memory: all ids and texts.

    Example:
        >>> read_texts([{"_id": "d1", "title": "Ore", "text": "Rock with metal."}])
        (['d1'], ['Ore Rock with metal.'])
    """
    options = skip_empty, Counter() if skipped is None else skipped
    rows = numbered_documents(source, ids, text_column, id_column, *options)
    return _columns(document for _, document in rows)


@kinds(text_column=maybe(string), id_column=maybe(string))
def iter_texts(
    source: Source, text_column: str | None = None, id_column: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of documents, one at a time; see `iter_documents`.

    Example:
        >>> list(iter_texts([{"text": "rock"}, {"text": "tunnel"}]))
        [('0', 'rock'), ('1', 'tunnel')]
    """
    return ((name, text) for name, text, _ in iter_documents(source, text_column, id_column))


@kinds(
    text_column=maybe(string),
    id_column=maybe(string),
    skip_empty=flag,
    skipped=maybe(mapping),
    repeated_ids=flag,
)
def iter_documents(
    source: Source,
    text_column: str | None = None,
    id_column: str | None = None,
    *,
    ids: Ids = "usual",
    skip_empty: bool = False,
    skipped: Counter[str] | None = None,
    repeated_ids: bool = False,
) -> Iterator[Document]:
    """Yield documents one at a time.

    Args:
        source: see `read_rows`; also .txt (.txt.gz) with one document a line, empty lines skipped.
        text_column: None looks for the first of `columns.TEXT_COLUMNS` in the first row, and puts
            the column "title", if there is one, in front of it.
        id_column: name of the column; None looks for the first of `columns.ID_COLUMNS`. Where there
            is none, ids are the numbers of the documents from "0".
        ids: "needed" where the ids will meet those of another file: numbers then stand in only
            where no other column could hold ids. "named" takes no numbers at all.
        skip_empty: leave out rows whose text is empty or missing; they count in skipped.
        skipped: counts what was left out, by reason.
        repeated_ids: do not look for ids that are there twice.

    Raises:
        ValueError: no such column (the message names those found), a cell of the wrong type, a
            duplicate id, a malformed line; names file and line. A source without documents.

    Memory: one row, and the ids seen (to find duplicates, unless they may be repeated).

    Example:
        >>> next(iter_documents([{"docid": "d1", "title": "Ore", "text": "Rock."}]))
        Document(id='d1', text='Ore Rock.', title='Ore')
    """
    counts: Counter[str] = Counter() if skipped is None else skipped
    columns = text_column, id_column, skip_empty, counts, repeated_ids
    return (document for _, document in numbered_documents(source, ids, *columns))


def numbered_documents(
    source: Source,
    ids: Ids,
    text_column: str | None,
    id_column: str | None,
    skip_empty: bool,
    counts: Counter[str],
    repeated_ids: bool = False,
) -> Iterator[tuple[int, Document]]:
    """The same with the number of each one's row, from 0; rows that are left out count, too."""
    columns = text_column, TEXT_COLUMNS, id_column, ID_COLUMNS
    return _Reader("documents", *columns, skip_empty, counts, repeated_ids).read(source, ids)


@kinds(
    query_column=maybe(string),
    query_id_column=maybe(string),
    skip_empty=flag,
    skipped=maybe(mapping),
)
def read_queries(
    source: Source,
    query_column: str | None = None,
    query_id_column: str | None = None,
    *,
    ids: Ids = "usual",
    skip_empty: bool = False,
    skipped: Counter[str] | None = None,
) -> tuple[list[str], list[str]]:
    """Return (ids, texts) of a file of queries.

    What is not explained here is as in `iter_documents`.

    Args:
        query_column: None looks for the first of `columns.QUERY_COLUMNS`, then of TEXT_COLUMNS.
        query_id_column: likewise of QUERY_ID_COLUMNS, then of ID_COLUMNS.

    Example:
        >>> read_queries([{"qid": "q1", "query": "what is ore"}])
        (['q1'], ['what is ore'])
    """
    texts, usual_ids = (*QUERY_COLUMNS, *TEXT_COLUMNS), (*QUERY_ID_COLUMNS, *ID_COLUMNS)
    counts: Counter[str] = Counter() if skipped is None else skipped
    columns = query_column, texts, query_id_column, usual_ids
    rows = _Reader("queries", *columns, skip_empty, counts).read(source, ids)
    return _columns(query for _, query in rows)


def _columns(documents: Iterable[Document]) -> tuple[list[str], list[str]]:
    ids, texts, _ = zip(*documents, strict=True)
    return list(ids), list(texts)


class _Reader(NamedTuple):
    of: Literal["queries", "documents"]
    text_column: str | None
    text_columns: tuple[str, ...]
    id_column: str | None
    id_columns: tuple[str, ...]
    skip_empty: bool
    skipped: Counter[str]
    repeated_ids: bool = False

    def read(self, source: Source, ids: Ids) -> Iterator[tuple[int, Document]]:
        choice(ids, "ids", ("usual", "needed", "named"))
        count = 0
        is_plain = isinstance(source, (str, os.PathLike)) and plain_name(source).endswith(".txt")
        for numbered in self._of_lines(source, ids) if is_plain else self._of_rows(source, ids):
            yield numbered
            count += 1
        if count == 0:
            raise ValueError(
                f"{source_name(source)} holds no {self.of}{in_brackets(self.skipped)}; give more"
            )

    def _of_lines(self, source: Source, ids: Ids) -> Iterator[tuple[int, Document]]:
        if self.text_column is not None or self.id_column is not None:
            raise ValueError(f"{source} is plain text, one document a line; it has no columns")
        if ids == "named":
            raise ValueError(
                f"{source} is plain text, which has no ids to look up; give a file with a column of"
                " ids"
            )
        lines = (line for _, line in read_lines(source) if line.strip())  # type: ignore[arg-type]
        return ((number, Document(str(number), line)) for number, line in enumerate(lines))

    def _of_rows(self, source: Source, ids: Ids) -> Iterator[tuple[int, Document]]:
        seen: set[str] = set()
        text_name = id_name = None
        titles: dict[tuple[str, ...], str | None] = {}  # their column; rows of JSON differ in keys
        for number, (where, row) in enumerate(read_rows(source)):
            if text_name is None:
                argument = "query_column" if self.of == "queries" else "text_column"
                text_name = column_of(row, self.text_column, self.text_columns, argument, where)
            if (keys := tuple(row)) not in titles:
                titles[keys] = first_of(row, ("title",)) if self.text_column is None else None
                if id_name is None:
                    id_name = self._id_name(row, {text_name, titles[keys]}, ids, where)
                    if id_name is not None and number:
                        raise ValueError(missing_before(id_name, where))
            title_name = titles[keys]
            text, title = row.get(text_name), row.get(title_name) if title_name else None
            if text is None:
                text = "" if self.skip_empty else filled(row, text_name, where)
            title = "" if title is None else text_of(title, "title", where)
            text = join_title(title, text_of(text, text_name, where))
            if self.skip_empty and not text.strip():
                self.skipped["rows without text"] += 1
                continue
            identifier = str(number)
            if id_name is not None:
                identifier = id_of(require(row, id_name, where), id_name, where)
                if not self.repeated_ids:
                    add_id(identifier, seen, where)
            yield number, Document(identifier, text, title)

    def _id_name(self, row: Row, texts: set[str | None], ids: Ids, where: str) -> str | None:
        """The column of ids; None where rows are numbered."""
        argument = "query_id_column" if self.of == "queries" else "id_column"
        if self.id_column is not None:
            return column_of(row, self.id_column, (), argument, where)
        name = first_of(row, self.id_columns)
        others = [each for each in row if each not in texts]
        if name is None and (ids == "named" or (ids == "needed" and others)):
            instead = "" if ids == "named" else ", or leave out other columns to number the rows"
            raise ValueError(
                f"{where}: no id column among {names(row)}; name it with {argument}{instead}"
            )
        return name


def refuse_ids(positives: Sequence[str], documents: Mapping[str, Document], path: Path) -> None:
    """Refuse positives that are all ids of the corpus, which would be read as texts."""
    if not documents or not all(text in documents for text in positives):
        return
    known = {text_key(document.text) for document in documents.values()}
    if not any(text_key(text) in known for text in positives):
        raise ValueError(
            f"{path}: the positives are ids of the corpus, such as {shown(positives[0])}; give "
            "positive_ids=True"
        )
