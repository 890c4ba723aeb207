"""Training rows: query, positive and any number of hard negatives, as a datasets.Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need

if TYPE_CHECKING:
    from datasets import Dataset

    from stope.data import Pairs


def training_dataset(
    queries: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[Sequence[str]] | None = None,
) -> Dataset:
    """Return one row per (query, positive), with the row's hard negatives beside them.

    Args:
        queries: one text per row.
        positives: the right document of each row.
        negatives: for each row its hard negatives, the same number for every row.

    Returns:
        A `datasets.Dataset` with columns query, positive, negative_1, negative_2, ...

    Raises:
        ValueError: no rows, or lengths that disagree.

    Example:
        >>> training_dataset(["ore?"], ["rock"], [["air", "sea"]]).column_names
        ['query', 'positive', 'negative_1', 'negative_2']
    """
    if not len(queries):
        raise ValueError("queries is empty; there is nothing to train on")
    if len(queries) != len(positives):
        raise ValueError(f"positives has {len(positives)} texts for {len(queries)} queries")
    columns: dict[str, list[str]] = {"query": list(queries), "positive": list(positives)}
    if negatives is not None:
        if len(negatives) != len(queries):
            raise ValueError(f"negatives has {len(negatives)} rows for {len(queries)} queries")
        count = len(negatives[0])
        wrong = next((row for row, texts in enumerate(negatives) if len(texts) != count), None)
        if wrong is not None:
            raise ValueError(
                f"negatives[{wrong}] has {len(negatives[wrong])} texts but negatives[0] has"
                f" {count}; every row needs the same number"
            )
        for place in range(count):
            columns[f"negative_{place + 1}"] = [texts[place] for texts in negatives]
    dataset: Any = need("datasets", extra="train").Dataset
    return dataset.from_dict(columns)


def pairs_dataset(
    pairs: Pairs, negative_ids: NDArray[np.int64] | None = None, *, seed: int = 0
) -> Dataset:
    """Return one row per (query, positive) of pairs, with mined negatives where given.

    Args:
        pairs: queries, corpus and positives.
        negative_ids: int64 [queries, n], rows of ``pairs.corpus_texts``, -1 where mining found no
            more (`Mined.result.ids`). A missing one becomes a random document that is no positive
            of its query, since a loss over columns needs a text in each.
        seed: of those random documents.

    Raises:
        ValueError: negative_ids has not one row per query, or a query has every document as its
            positive, so that no negative is left.

    Example:
        >>> from stope.data import Pairs
        >>> pairs = Pairs.from_texts(["ore?", "pit?"], ["rock", "hole"])
        >>> pairs_dataset(pairs, np.array([[1], [-1]]))["negative_1"][:]
        ['hole', 'rock']
    """
    offsets, ids = pairs.positives
    query_of = np.repeat(np.arange(len(pairs.query_texts)), np.diff(offsets))
    queries = [pairs.query_texts[row] for row in query_of]
    positives = [pairs.corpus_texts[row] for row in ids]
    if negative_ids is None:
        return training_dataset(queries, positives)
    if negative_ids.ndim != 2 or len(negative_ids) != len(pairs.query_texts):
        raise ValueError(
            f"negative_ids has shape {negative_ids.shape} but there are {len(pairs.query_texts)}"
            " queries; it needs one row for each"
        )
    filled = _fill(pairs, negative_ids, seed)
    texts = [[pairs.corpus_texts[row] for row in rows] for rows in filled]
    return training_dataset(queries, positives, [texts[row] for row in query_of])


def _fill(pairs: Pairs, negative_ids: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    offsets, ids = pairs.positives
    generator = np.random.default_rng(seed)
    filled = np.array(negative_ids, dtype=np.int64)
    for row in np.flatnonzero((filled < 0).any(axis=1)):
        own = ids[offsets[row] : offsets[row + 1]]
        allowed = len(pairs.corpus_texts) - len(own)
        if allowed == 0:
            raise ValueError(
                f"query {pairs.query_ids[row]!r} has every document as a positive; there is no"
                " negative to train with"
            )
        missing = np.flatnonzero(filled[row] < 0)
        # A rank among the allowed documents becomes an id by stepping over the (sorted) positives.
        drawn = generator.integers(allowed, size=len(missing))
        for positive in own:
            drawn += drawn >= positive
        filled[row, missing] = drawn
    return filled
