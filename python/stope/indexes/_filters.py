"""Which rows a search may find: what a caller says of ids, as places.

A filter for all queries is a mask of the places; one each is a list of places per query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stope import _arrays
from stope._checks import shown
from stope._host import on_host
from stope.indexes import _ids
from stope.indexes._ids import Ids, Mask, Places
from stope.lists import Lists, offsets_of

Find = Callable[[Ids, NDArray[Any]], Places]


class Filter(NamedTuple):
    """What queries may find.

    Attributes:
        mask: places for all queries; None for all of them.
        excluded: ascending places that a query may not find besides; None for none.
        listed: ascending places that are all a query may find, mask and excluded included; or None.
    """

    mask: Mask | None
    excluded: Lists | None
    listed: Lists | None


def resolve(exclude: Any, among: Any, queries: int, ids: Ids, find: Find) -> Filter:
    """The two arguments of a search, of rows that are there; find looks ids up."""
    mask, excluded, listed = ids.live, None, None
    if among is not None:
        wanted = _bools(among, "among", queries, ids)
        if wanted is not None and wanted.ndim == 2 and 2 * np.count_nonzero(wanted) > wanted.size:
            excluded = _of_masks(~wanted, ids)
        else:
            chosen = _named(among, "among", queries, ids, find)
            mask, listed = (mask, chosen) if isinstance(chosen, Lists) else (chosen, None)
    if exclude is not None:
        chosen = _named(exclude, "exclude", queries, ids, find)
        if not isinstance(chosen, Lists):
            mask = ~chosen if mask is None else mask & ~chosen
        else:
            excluded = chosen if excluded is None else excluded.union(chosen)
    if listed is None:
        return Filter(mask, excluded, None)
    if excluded is not None:
        listed = listed.without(excluded)
    if mask is not None:
        listed = listed.where(mask[listed.ids])
    return Filter(None, None, listed)


def _named(value: Any, name: str, queries: int, ids: Ids, find: Find) -> Mask | Lists:
    """The rows that a value names: a mask for all queries, or ascending places for each."""
    mask = _bools(value, name, queries, ids)
    if mask is not None and mask.ndim == 2:
        return _of_masks(mask, ids)
    if mask is not None and ids.sorted and ids.live is None:
        return mask
    marked = np.zeros(ids.places, dtype=bool)
    if mask is not None:
        marked[ids.in_order()[mask]] = True
        return marked
    no_list = not hasattr(value, "__len__") or getattr(value, "ndim", 1) == 0
    if isinstance(value, str | bytes | Mapping) or no_list:
        raise TypeError(
            f"{name} is {shown(value)}; give ids, a list of them for each query, or a mask"
        )
    if isinstance(value, Set):
        value = list(value)
    everyone = None if _arrays.is_csr(value, queries) else _ids.flat(value, name)
    if everyone is not None:
        padding = None if everyone.dtype == object else -1
        everyone = everyone[everyone != padding]
        places = _places(everyone, name, ids, find)
        marked[places[places >= 0]] = True
        return marked
    lists = _lists(value, name, queries, ids)
    places = _places(lists.ids, name, ids, find)
    return lists._replace(ids=places).where(places >= 0).distinct()


def _lists(value: Any, name: str, queries: int, ids: Ids) -> Lists:
    """A list of ids for each query, without -1 and None."""
    if (ids.places and not ids.texts) or _arrays.is_csr(value, queries):
        return _arrays.ragged_ids(value, name, queries, padded=True)
    if len(value) != queries:
        raise ValueError(f"{name} has {len(value)} id lists for {queries} queries; give one each")
    rows = []
    for row, given in enumerate(value):
        texts = _ids.flat(given, f"{name}[{row}]")
        if texts is None:
            raise TypeError(f"{name}[{row}] is {shown(given)}; give a list of ids")
        rows.append(texts[texts != None] if texts.dtype == object else texts)  # noqa: E711
    return Lists(
        offsets_of([len(row) for row in rows]), np.concatenate([np.empty(0, object), *rows])
    )


def _places(wanted: NDArray[Any], name: str, ids: Ids, find: Find) -> Places:
    """The places of ids, -1 where one is not there: never given, removed, or of another part."""
    if not ids.places:  # of no kind yet
        return np.full(len(wanted), -1, dtype=np.int64)
    return find(ids, _ids.same_kind(wanted, name, ids))


def _bools(value: Any, name: str, queries: int, ids: Ids) -> Mask | None:
    """A mask of the rows in the order of their ids, or one for each query; None for no mask."""
    if hasattr(value, "dtype"):
        array = on_host(value) if "bool" in str(value.dtype) else None
    else:
        array = None
        if isinstance(value, Sequence) and len(value) and isinstance(value[0], bool | np.bool_):
            array = np.asarray(value)
    if array is None or array.dtype.kind != "b":
        return None
    if array.shape not in ((ids.rows,), (queries, ids.rows)):
        raise ValueError(
            f"{name} is a mask of shape {array.shape}; give one for {ids.rows} rows in the order "
            f"of index.ids, or one of shape ({queries}, {ids.rows})"
        )
    return array


def _of_masks(masks: Mask, ids: Ids) -> Lists:
    """The places that each query's mask marks, ascending."""
    owners, columns = np.nonzero(masks)
    return Lists.from_owners(owners, ids.in_order()[columns], len(masks)).distinct()
