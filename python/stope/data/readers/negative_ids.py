"""Documents of queries by id: negatives to train on, and documents that are none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import flag, shown
from stope._checks import path as path_kind
from stope._kinds import a, kinds, string
from stope.data.exclusions import Exclusions
from stope.data.pairs import Pairs
from stope.data.readers.columns import ID_COLUMNS, QUERY_ID_COLUMNS, first_of
from stope.data.readers.fields import id_of, names
from stope.data.readers.lines import plain_name, read_lines
from stope.data.readers.tables import read_rows
from stope.lists import Lists

_DOCUMENT_IDS = (*ID_COLUMNS[2:], *ID_COLUMNS[:2])  # "id" may be that of the row


@kinds(path=path_kind, pairs=a(Pairs), complete=flag, argument=string)
def read_negative_ids(
    path: str | PathLike[str], pairs: Pairs, *, complete: bool = True, argument: str = "path"
) -> NDArray[np.int64]:
    """Negatives by id, as ``stope mine --ids`` or ``--job`` writes them.

    Args:
        path: rows with query_id and document_id, the hardest first; where they have a reason, those
            of the reason "kept".
        complete: whether pairs has all queries, so that another is a mistake.
        argument: what errors call the file.

    Returns:
        int64 ``[queries, most of one]``, rows of the corpus; -1 at the end of short rows.

    Raises:
        ValueError: an id that pairs does not have, a row without ids, or no row.
    """
    query_of = {name: row for row, name in enumerate(pairs.query_ids)}
    row_of = pairs.documents_by_id()
    owners, rows = [], []
    for where, row in read_rows(Path(path).expanduser()):
        if "query_id" not in row or "document_id" not in row:
            raise ValueError(
                f"{argument}: {where}: no query_id and document_id among {names(row)}; give what "
                "stope mine --ids wrote"
            )
        if row.get("reason", "kept") != "kept":
            continue
        query, document = (id_of(row[name], name, where) for name in ("query_id", "document_id"))
        if document not in row_of or (complete and query not in query_of):
            name = document if document not in row_of else query
            raise ValueError(
                f"{argument}: {where}: the id {shown(name)} is not in the data; mine these data"
            )
        if query in query_of:
            owners.append(query_of[query])
            rows.append(row_of[document])
    if not rows:
        raise ValueError(f"{argument}: {path} holds no negative of a query of the data; mine it")
    return Lists.from_owners(owners, rows, len(query_of)).padded()


def file_names(files: Any, name: str) -> tuple[str, ...] | None:
    """One file or several, as names; None for none.

    >>> file_names(["no.tsv"], "exclude"), file_names("no.tsv", "exclude")
    (('no.tsv',), ('no.tsv',))
    """
    several = files if isinstance(files, list | tuple) else [files]
    return tuple(str(path_kind(file, name)) for file in several) or None


@kinds(path=file_names, pairs=a(Pairs), argument=string)
def read_exclusions(
    path: str | PathLike[str] | Sequence[str | PathLike[str]],
    pairs: Pairs,
    *,
    argument: str = "path",
) -> Exclusions:
    r"""Documents that a person, or a report, takes for answers: for a query, or for all.

    Args:
        path: rows of any kind that `read_rows` reads, with the id of a document under one of its
            usual names, and of a query; a row without a query is of all queries. A .txt file has an
            id of a document in each line. Or several such files.
        pairs: whose ids these are.
        argument: what errors call the file.

    Raises:
        ValueError: an id that pairs does not have (a document that is a copy of another goes by the
            id of the first), a row without one, a file without rows, or no file.

    Memory: the ids.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "no.tsv")
        >>> _ = path.write_text("query_id\tdocument_id\nq0\td1\n\td2\nq0\td1\n")
        >>> excluded = read_exclusions(path, Pairs.from_texts(["ore?"], ["a"], ["a", "b", "c"]))
        >>> excluded.queries.ids.tolist(), excluded.documents.tolist()
        ([1], [2])
    """
    query_of = {name: row for row, name in enumerate(pairs.query_ids)}
    row_of = pairs.documents_by_id()
    owners: list[int] = []
    rows: list[int] = []
    documents: list[int] = []
    files = file_names(path, argument)
    if files is None:
        raise ValueError(f"{argument} is an empty list; name a file, or leave the argument out")
    for each in files:
        before = len(rows) + len(documents)
        for where, query, document in _ids_of(Path(each).expanduser()):
            unknown = document if document not in row_of else query
            if document not in row_of or (query and query not in query_of):
                what = "document" if document not in row_of else "query"
                raise ValueError(
                    f"{argument}: {where}: the data have no {what} of the id {shown(unknown)}; "
                    "take it out, or give the ids of these data (a copy of a text goes by the id "
                    "of the first)"
                )
            if query:
                owners.append(query_of[query])
                rows.append(row_of[document])
            else:
                documents.append(row_of[document])
        if len(rows) + len(documents) == before:
            raise ValueError(f"{argument}: {each} names no document; leave it out")
    lists = Lists.from_owners(owners, rows, len(query_of)).distinct() if rows else None
    return Exclusions(lists, np.unique(np.array(documents, np.int64)))


def _ids_of(path: Path) -> Iterator[tuple[str, str, str]]:
    """Where, the id of a query or "", and that of a document."""
    if plain_name(path).endswith(".txt"):
        for number, line in read_lines(path):
            if line.strip():
                yield f"{path}:{number}", "", line.strip()
        return
    for where, row in read_rows(path):
        document, query = first_of(row, _DOCUMENT_IDS), first_of(row, QUERY_ID_COLUMNS)
        if document is None:
            raise ValueError(
                f"{where}: no id of a document among {names(row)}; name the column document_id"
            )
        of_query = row[query] if query is not None else None
        named = "" if of_query in (None, "") else id_of(of_query, str(query), where)
        yield where, named, id_of(row[document], document, where)
