"""Negatives from several sources: so many by the encoder, so many by BM25, so many at random.

Ids are rows of the corpus of `Pairs`, one row of them per query, -1 where there is none. The
sources follow one another: what one cannot give, the next gives in its place, chance at last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from stope._checks import integer, size
from stope._kinds import a, at_least, callback, integers, kinds, mapping, matrix, maybe, sequence
from stope.data.pairs import Pairs
from stope.lists import Ids, Lists
from stope.mining.mined import Mined
from stope.mining.sampling import Keys, distinct_numbers, sampling_keys
from stope.progress import Progress

SOURCES = ("dense", "bm25", "random")
_CHUNK_ELEMENTS = 1 << 20


def check_quotas(quotas: Mapping[str, int], sources: Sequence[str] = SOURCES) -> dict[str, int]:
    """The quotas as a dictionary, if they can be met by these sources.

    Raises:
        ValueError, TypeError: an unknown source, no integer, one below 0, or none above 0.

    >>> check_quotas({"dense": 4, "random": 1})
    {'dense': 4, 'random': 1}
    """
    for name in quotas:
        if name not in sources:
            raise ValueError(f"quotas names {name!r}; the sources are {', '.join(sources)}")
    counts = {name: integer(count, f"quotas[{name!r}]", 0) for name, count in quotas.items()}
    if not sum(counts.values()):
        raise ValueError("quotas asks for no negative at all; give at least one source some")
    return counts


@kinds(lists=sequence, quotas=sequence)
def merge_sources(lists: Sequence[Ids], quotas: Sequence[int]) -> Ids:
    """Take so many of each list, best first, nothing twice; the next makes up for one that ends.

    Args:
        lists: int64 ``[Q, any]`` each, -1 where there is none.
        quotas: how many of each.

    Returns:
        int64 ``[Q, sum of quotas]``; -1 at the end of rows whose lists all ended.

    Memory: O(Q * sum of quotas).

    Example:
        >>> merge_sources([np.array([[4, -1, -1]]), np.array([[4, 8, 9]])], [2, 1])
        array([[4, 8, 9]])
    """
    if len(lists) != len(quotas) or not len(lists):
        raise ValueError(f"there are {len(lists)} lists for {len(quotas)} quotas; give one each")
    for place, (ids, quota) in enumerate(zip(lists, quotas, strict=True)):
        matrix(ids, f"lists[{place}]")
        integer(quota, f"quotas[{place}]", 0)
    return merged_and_origins(lists, quotas)[0]


def merged_and_origins(lists: Sequence[Ids], quotas: Sequence[int]) -> tuple[Ids, Ids]:
    """`merge_sources`, and the place of the list that each document was taken of."""
    rows = len(lists[0])
    merged = np.full((rows, sum(quotas)), -1, dtype=np.int64)
    origins = merged.copy()
    count = np.zeros(rows, dtype=np.int64)
    target = 0
    for place, (ids, quota) in enumerate(zip(lists, quotas, strict=True)):
        target += quota
        for column in ids.T:
            if (count >= target).all():
                break
            new = (column >= 0) & (count < target) & ~(merged == column[:, None]).any(1)
            merged[new, count[new]] = column[new]
            origins[new, count[new]] = place
            count += new
    return merged, origins


def fill_at_random(ids: Ids, queries: Ids, never: Lists, size: int, keys: Keys) -> Ids:
    """Put random documents in place of -1: none of never's, none twice in a row.

    Rows ``[B, n]`` of ids are of these queries ``[B]``, which have their lists of never, and keys
    ``[B]`` of `sampling_keys`; -1 is left only where a query has fewer than n of size documents.

    Memory: O(B n), and a chunk of at most a million ids or one query's list.
    """
    found: Ids = ids.copy()
    missing = ids < 0
    short = np.flatnonzero(missing.any(1))
    offsets, flat = never
    for rows, width in _chunks(short, never.lengths[queries[short]], ids.shape[1]):
        place = offsets[queries[rows]][:, None] + np.arange(width)
        inside = place < offsets[queries[rows] + 1][:, None]
        taken = np.full((len(rows), width + ids.shape[1]), size, dtype=np.int64)
        taken[:, :width][inside] = flat[place[inside]]
        taken[:, width:] = np.where(missing[rows], size, ids[rows])
        wanted = int(missing[rows].sum(1).max())
        new = _outside(taken, size, keys[rows], wanted)
        turn = (missing[rows].cumsum(1) - 1).clip(0)
        found[rows] = np.where(missing[rows], np.take_along_axis(new, turn, 1), ids[rows])
    return found


@kinds(pairs=a(Pairs), queries=maybe(integers), progress=maybe(callback))
def lexical_candidates(
    pairs: Pairs,
    pool: int = 200,
    *,
    queries: Sequence[int] | None = None,
    tokenizer: Any = None,
    progress: Progress | None = None,
) -> Ids:
    """BM25's best documents for each query, without its positives and its own text.

    Args:
        queries: which of the pairs' queries; None is all.
        tokenizer: a `stope.retrieval.Tokenizer`; None is its default.

    Returns:
        int64 ``[queries, pool]``, best first; -1 where no further document shares a word.

    Raises:
        ImportError: bm25s is missing; the message has the pip command.
        ValueError: pool below 1, or a corpus without words.

    Memory: that of `stope.retrieval.Bm25`.
    """
    from stope.retrieval import Bm25

    size(pool, "pool")
    own = range(len(pairs.query_ids)) if queries is None else queries
    found = np.full((len(own), pool), -1, dtype=np.int64)
    if not len(own):
        return found
    exclude = list(pairs.never_negatives().take(own).rows())
    bm25 = Bm25(pairs.corpus_texts, tokenizer=tokenizer)
    texts = [pairs.query_texts[query] for query in own]
    k = min(pool, len(bm25))
    found[:, :k] = bm25.search(texts, k, exclude=exclude, progress=progress).ids
    return found


@kinds(
    mined=a(Mined),
    quotas=mapping,
    lexical=maybe(integers),
    seed=at_least(0),
    progress=maybe(callback),
)
def mixed_negatives(
    mined: Mined,
    quotas: Mapping[str, int],
    *,
    lexical: Ids | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Ids:
    """Negatives of every query from several sources, once and for all.

    Args:
        mined: what the encoder found; its best come first.
        quotas: negatives per query by source, in the order in which they are asked, such as
            ``{"dense": 4, "bm25": 1, "random": 1}``. Chance comes last wherever it is named, and
            fills what all others lack.
        lexical: int64 ``[queries, any]`` of `lexical_candidates`; None finds them where needed.
        seed: of the random documents.
        progress: called with (queries done, queries) while BM25 searches.

    Returns:
        int64 ``[queries, sum of quotas]``, distinct in each row and never positives; -1 only where
        a query has fewer documents than that.

    Raises:
        ValueError, TypeError: quotas that `check_quotas` refuses, or lexical of another length.

    Example:
        >>> from stope.mining import mine
        >>> pairs = Pairs.from_texts(["ore"], ["rock"], ["rock", "sea", "sky"])
        >>> rows = np.eye(3, dtype=np.float32)
        >>> mined = mine(pairs, query_embeddings=rows[:1], corpus_embeddings=rows, num_negatives=1)
        >>> mixed_negatives(mined, {"dense": 1, "random": 1})
        array([[1, 2]])
    """
    asked = check_quotas(quotas)
    pairs, every = mined.pairs, np.arange(len(mined.pairs.query_ids))
    if asked.get("bm25") and lexical is None:
        lexical = lexical_candidates(pairs, 10 * sum(asked.values()), progress=progress)
    if lexical is not None and len(lexical) != len(every):
        raise ValueError(f"lexical has {len(lexical)} rows for {len(every)} queries")
    lists = {"dense": mined.result.ids, "bm25": lexical}
    named = [name for name, count in asked.items() if count and name != "random"]
    found = np.full((len(every), sum(asked.values())), -1, dtype=np.int64)
    if named:
        merged = merge_sources([lists[name] for name in named], [asked[name] for name in named])
        found[:, : merged.shape[1]] = merged
    keys = sampling_keys(seed, 0, 0, every)
    return fill_at_random(found, every, pairs.never_negatives(), len(pairs.corpus_ids), keys)


def _chunks(rows: Ids, counts: Ids, extra: int) -> Iterator[tuple[Ids, int]]:
    """Rows of similar counts together, so that one long list does not widen all rows."""
    order = np.argsort(counts, kind="stable")
    start = 0
    while start < len(order):
        # The counts rise: as many rows as fit with the count of the last of them.
        sizes = np.arange(1, len(order) - start + 1) * (counts[order[start:]] + extra)
        stop = start + max(1, int(np.searchsorted(sizes, _CHUNK_ELEMENTS, side="right")))
        yield rows[order[start:stop]], int(counts[order[stop - 1]])
        start = stop


def _outside(taken: Ids, size: int, keys: Keys, n: int) -> Ids:
    """Draw n distinct numbers below size that are not in the row of taken (size fills it)."""
    gone = np.sort(taken, axis=1)
    again = np.zeros(gone.shape, dtype=bool)
    again[:, 1:] = gone[:, 1:] == gone[:, :-1]
    gone[again] = size
    gone.sort(axis=1)
    there = gone < size
    numbers = distinct_numbers(keys, size - there.sum(1), n)
    # Number r of what is left lies behind those of gone with fewer than r + 1 left before them.
    before = np.where(there, gone - np.arange(gone.shape[1]), size)
    for column in range(n):
        number = numbers[:, column]
        moved = number + (before <= number[:, None]).sum(1)
        numbers[:, column] = np.where(number >= 0, moved, -1)
    return numbers
