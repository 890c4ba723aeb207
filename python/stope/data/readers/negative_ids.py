"""Negatives by id, as `stope.mining.Mined.rows` and ``stope mine --ids`` write them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stope._checks import flag, shown
from stope._checks import path as path_kind
from stope._kinds import a, kinds, string
from stope.data.pairs import Pairs
from stope.data.readers.fields import id_of, names
from stope.data.readers.tables import read_rows
from stope.lists import Lists


@kinds(path=path_kind, pairs=a(Pairs), complete=flag, argument=string)
def read_negative_ids(
    path: str | PathLike[str], pairs: Pairs, *, complete: bool = True, argument: str = "path"
) -> NDArray[np.int64]:
    """Negatives by id, as ``stope mine --ids`` writes them.

    Args:
        path: rows with query_id and document_id, the hardest first.
        complete: whether pairs has all queries, so that another is a mistake.
        argument: what errors call the file.

    Returns:
        int64 ``[queries, most of one]``, rows of the corpus; -1 at the end of short rows.

    Raises:
        ValueError: an id that pairs does not have, a row without ids, or no row.
    """
    query_of = {name: row for row, name in enumerate(pairs.query_ids)}
    row_of = {name: row for row, name in enumerate(pairs.corpus_ids)}
    owners, rows = [], []
    for where, row in read_rows(Path(path).expanduser()):
        if "query_id" not in row or "document_id" not in row:
            raise ValueError(
                f"{argument}: {where}: no query_id and document_id among {names(row)}; give what "
                "stope mine --ids wrote"
            )
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
    lists = Lists.from_owners(owners, rows, len(query_of))
    ids = np.full((len(query_of), int(lists.lengths.max())), -1, dtype=np.int64)
    ids[lists.owners, np.arange(len(rows)) - lists.offsets[lists.owners]] = lists.ids
    return ids
