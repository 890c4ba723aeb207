"""Documents that are no negatives though nobody says so: copies of answers, near ones, blanks."""

from __future__ import annotations

from typing import Any

import numpy as np

import stope
from stope._checks import real
from stope._kinds import a, kinds, matrix
from stope.data.pairs import Pairs
from stope.data.text_identity import letters_key
from stope.lists import Ids, Lists

_MOST_PAIRS = 20_000_000


def without_text(pairs: Pairs) -> Ids:
    """The documents that are blank, ascending: nothing is learned from them."""
    blank = (row for row, text in enumerate(pairs.corpus_texts) if not text.strip())
    return np.fromiter(blank, np.int64)


@kinds(pairs=a(Pairs))
def copies_of_positives(pairs: Pairs) -> Lists:
    """For each query the documents whose text is a positive's, however either was put together.

    Texts that are equal up to case, blanks and the form of letters are one document in `Pairs`.
    Here punctuation that only separates does not count either (`letters_key` of
    `stope.data.text_identity` says which counts: 1.5 is not 15, C# not C), and a title in front may
    be there or not: "Title: text", "Title. Text" and "text" are a document of that title and text.
    Two documents with the same text and different titles are different.

    Returns:
        Rows of the corpus, ascending, without the positives themselves.

    Memory: 16 bytes per positive, and the documents found.

    Example:
        >>> corpus = ["Ore: a rock.", "ore - a rock", "ores, a rock"]
        >>> copies_of_positives(Pairs.from_texts(["?"], ["Ore: a rock."], corpus)).ids
        array([1])
    """
    starts = np.zeros(len(pairs.corpus_ids), np.int64)
    starts = starts if pairs.body_starts is None else pairs.body_starts
    wholes: dict[bytes, list[int]] = {}
    bodies: dict[bytes, list[int]] = {}
    for row in pairs.positive_rows().tolist():
        text, start = pairs.corpus_texts[row], int(starts[row])
        for keys, part in ((wholes, text), (bodies, text[start:] if start else "")):
            if (key := letters_key(part)) is not None:
                keys.setdefault(key, []).append(row)
    originals: list[int] = []
    copies: list[int] = []
    for row, text in enumerate(pairs.corpus_texts):
        key, start = letters_key(text), int(starts[row])
        body = letters_key(text[start:]) if start else None
        if key is None:
            continue
        same = {*wholes.get(key, ()), *bodies.get(key, ())}
        if body is not None:
            same.update(wholes.get(body, ()))
        same.discard(row)
        originals.extend(same)
        copies.extend([row] * len(same))
    places = np.searchsorted(pairs.positive_rows(), np.array(originals, np.int64))
    return _of_positives(
        pairs, Lists.from_owners(places, np.array(copies, np.int64), len(pairs.positive_rows()))
    )


@kinds(pairs=a(Pairs), corpus_embeddings=matrix)
def near_positives(pairs: Pairs, corpus_embeddings: Any, threshold: float) -> Lists:
    """For each query the documents whose cosine with one of its positives is at least a threshold.

    They say the same in nearly the same words, so they answer too; see `stope.pairs_above`, which
    finds all of them exactly.

    Args:
        corpus_embeddings: one row per document of the pairs, on the CPU.
        threshold: least cosine, above 0 and at most 1.

    Returns:
        Rows of the corpus, ascending, without the positives themselves.

    Raises:
        ValueError: a threshold out of range, or so low that 20 million documents are near; another
            number of rows.

    Memory: the embeddings of the positives, and up to 60 bytes per near pair.

    Example:
        >>> corpus = np.float32([[1, 0], [0.99, 0.1], [0, 1]])
        >>> pairs = Pairs.from_texts(["?"], ["ore"], ["ore", "ores", "sea"])
        >>> near_positives(pairs, corpus, 0.95).ids
        array([1])
    """
    if not real(threshold, "threshold", 0, 1) > 0:
        raise ValueError(f"threshold is {threshold}; give a cosine above 0")
    if corpus_embeddings.shape[0] != len(pairs.corpus_ids):
        raise ValueError(
            f"corpus_embeddings has {corpus_embeddings.shape[0]} rows for {len(pairs.corpus_ids)} "
            "documents of the pairs; give one each"
        )
    rows = pairs.positive_rows()
    try:
        near = stope.pairs_above(
            corpus_embeddings[rows],
            corpus_embeddings,
            threshold=threshold,
            metric="cosine",
            max_pairs=_MOST_PAIRS,
        )
    except ValueError as error:
        if "max_pairs" not in str(error):
            raise
        raise ValueError(
            f"threshold is {threshold}, which more than {_MOST_PAIRS:,} documents reach with "
            "positives of some query; raise it"
        ) from None
    return _of_positives(pairs, Lists.from_owners(near.rows, near.ids, len(rows)))


def _of_positives(pairs: Pairs, lists: Lists) -> Lists:
    """Lists of the documents of `Pairs.positive_rows`, as lists of the queries."""
    every = pairs.positives
    listed = lists.take(np.searchsorted(pairs.positive_rows(), every.ids))
    by_query = Lists.from_owners(every.owners[listed.owners], listed.ids, every.num_lists)
    return by_query.union(by_query).without(every)
