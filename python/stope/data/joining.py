"""The pairs of several sources as one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from stope._checks import shown
from stope._kinds import kinds, mapping
from stope.data.exclusions import Exclusions
from stope.data.pairs import Pairs
from stope.data.text_identity import text_key
from stope.lists import Ids, Lists, offsets_of

_NONE = Exclusions(None, np.empty(0, np.int64))


@kinds(parts=mapping)
def join_pairs(parts: Mapping[str, Pairs]) -> tuple[Pairs, Ids]:
    """The pairs of several sources as one, with ``corpus_of``.

    Documents of the same text are one, whichever source they are from; queries stay apart. An
    id that stands for different texts in two sources gets the name of the source in front.

    Returns:
        The pairs, and for each of their positives its place among the positives of the parts,
        one part after the other.

    Memory: all texts' references, and their keys.

    Example:
        >>> one = Pairs.from_texts(["q"], ["ore"])
        >>> other = Pairs.from_texts(["q"], [["ore", "pit"]])
        >>> pairs, places = join_pairs({"a": one, "b": other})
        >>> pairs.query_ids, pairs.corpus_ids, places.tolist()
        (['q0', 'b:q0'], ['d0', 'd1'], [0, 1, 2])
    """
    if not parts:
        raise ValueError(f"parts is {shown(parts)}; give the pairs of at least one source by name")
    row_of: dict[bytes, int] = {}
    corpus: dict[str, str] = {}
    starts: list[int] = []
    queries: dict[str, str] = {}
    corpus_of: dict[str | int, Ids] = {}
    owners, ids = [], []
    excluded: list[Lists] = []
    for name, part in parts.items():
        rows = np.empty(len(part.corpus_ids), dtype=np.int64)
        for place, text in enumerate(part.corpus_texts):
            key = text_key(text)
            if key not in row_of:
                row_of[key] = len(corpus)
                corpus[_free_name(part.corpus_ids[place], name, corpus)] = text
                starts.append(0 if part.body_starts is None else int(part.body_starts[place]))
            rows[place] = row_of[key]
        corpus_of[name] = np.unique(rows)
        owners.append(part.positives.owners + len(queries))
        ids.append(rows[part.positives.ids])
        never = (part.exclusions or _NONE).lists(len(part.query_ids))
        excluded.append(never._replace(ids=rows[never.ids]))
        for query, text in zip(part.query_ids, part.query_texts, strict=True):
            queries[_free_name(query, name, queries)] = text
    owner, row = np.concatenate(owners), np.concatenate(ids)
    order = np.lexsort((row, owner))
    texts = list(queries), list(queries.values()), list(corpus), list(corpus.values())
    positives = Lists.from_owners(owner[order], row[order], len(queries))
    places = np.arange(len(queries)), np.arange(len(corpus)), len(queries), len(corpus)
    body_starts = np.array(starts, dtype=np.int64) if any(starts) else None
    exclusions = None
    if any(len(lists.ids) for lists in excluded):
        lengths = np.concatenate([lists.lengths for lists in excluded])
        joined = Lists(offsets_of(lengths), np.concatenate([lists.ids for lists in excluded]))
        exclusions = Exclusions(joined.distinct(), _NONE.documents)
    return Pairs(*texts, positives, *places, corpus_of, body_starts, exclusions), order


def _free_name(name: str, source: str, taken: Mapping[str, str]) -> str:
    """The name; with the source in front, and underscores, where it is taken."""
    free = name if name not in taken else f"{source}:{name}"
    while free in taken:
        free = "_" + free
    return free
