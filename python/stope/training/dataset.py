"""What `train` is given to train on, as a dataset: query, positive, any number of hard negatives.

Which columns mean what is said by `stope.integrations.sentence_transformers.columns`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import shown
from stope._extras import need
from stope._kinds import a, at_least, integers, kinds, maybe, sequence, strings
from stope.data import Pairs
from stope.data.source_data import random_negatives
from stope.data.text_identity import fingerprint_texts
from stope.integrations.sentence_transformers.columns import (
    ROW,
    SOURCE,
    check_columns,
    values_of,
)
from stope.integrations.sentence_transformers.row_table import RowTable

if TYPE_CHECKING:
    from datasets import Dataset


def as_rows(
    examples: Any, columns: Mapping[str, Sequence[Any]] | None = None
) -> tuple[Any, RowTable]:
    """Return the rows as a dataset, and who is who among them.

    Args:
        examples: pairs, a dataset, or rows (query, positive, negatives...).
        columns: more columns for the rows; with pairs one entry per (query, positive) in the order
            of ``pairs.positives``.

    Raises:
        ValueError: what `train` says of its rows.
    """
    pairs = examples if isinstance(examples, Pairs) else None
    if pairs is not None:
        dataset: Any = pairs_dataset(pairs)
        dataset = dataset.add_column(ROW, list(range(len(dataset))))
    elif hasattr(examples, "column_names"):
        dataset = examples
    else:
        dataset = _from_tuples(examples)
    for name, values in (columns or {}).items():
        if name in dataset.column_names:
            raise ValueError(f'columns has "{name}", which the rows have already; leave it out')
        if len(values) != len(dataset):
            raise ValueError(
                f'columns has {len(values)} values of "{name}" for {len(dataset)} rows; it needs '
                "one for each"
            )
        listed = values.tolist() if hasattr(values, "tolist") else list(values)
        dataset = dataset.add_column(name, listed)
    if len(dataset) < 2:
        raise ValueError(f"examples has {len(dataset)} rows; in-batch negatives need two or more")
    checked = check_columns(dataset)
    if pairs is None:
        return dataset, RowTable.of_dataset(dataset)
    first = pairs.positives.offsets[:-1].tolist()  # every query has a row
    sources = [dataset[SOURCE][row] for row in first] if checked.source else None
    return dataset, RowTable.of_pairs(pairs, sources)


def fingerprint_rows(dataset: Any) -> str:
    """Return a SHA-256 hex digest of all columns, their names and the order of the rows."""
    return fingerprint_texts(
        text if isinstance(text, str) else repr(text)
        for name in dataset.column_names
        for text in (name, *values_of(dataset, name))
    )


def _from_tuples(examples: Any) -> Any:
    if isinstance(examples, str) or not isinstance(examples, Sequence):
        raise TypeError(
            f"examples is {shown(examples)}; give Pairs, a datasets.Dataset, or a list of rows "
            "(query, positive, negatives...)"
        )
    strange = next((r for r in examples if isinstance(r, str) or not isinstance(r, Sequence)), None)
    if strange is not None:
        raise TypeError(f"examples has {shown(strange)}; rows are (query, positive, negatives...)")
    rows = [tuple(row) for row in examples]
    if not rows:
        raise ValueError("examples is empty; there is nothing to train on")
    if min(map(len, rows)) < 2:
        raise ValueError("examples has a row without a positive; rows are (query, positive)")
    negatives = [row[2:] for row in rows] if max(map(len, rows)) > 2 else None
    return training_dataset([row[0] for row in rows], [row[1] for row in rows], negatives)


@kinds(queries=strings, positives=strings, negatives=maybe(sequence))
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
        for row, texts in enumerate(negatives):
            strings(texts, f"negatives[{row}]")
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


@kinds(pairs=a(Pairs), negative_ids=maybe(integers), seed=at_least(0))
def pairs_dataset(
    pairs: Pairs, negative_ids: NDArray[np.int64] | None = None, *, seed: int = 0
) -> Dataset:
    """Return one row per (query, positive) of pairs, with mined negatives where given.

    Args:
        pairs: queries, corpus and positives.
        negative_ids: int64 [queries, n], rows of ``pairs.corpus_texts``, -1 where mining found no
            more (`Mined.result.ids`). A missing one becomes a random document that is no positive
            of its query and not its own text, since a loss over columns needs a text in each.
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
    query_of = pairs.positives.owners.tolist()
    queries = [pairs.query_texts[row] for row in query_of]
    positives = [pairs.corpus_texts[row] for row in pairs.positives.ids.tolist()]
    if negative_ids is None:
        return training_dataset(queries, positives)
    negative_ids = np.asarray(negative_ids)
    if negative_ids.ndim != 2 or len(negative_ids) != len(pairs.query_texts):
        raise ValueError(
            f"negative_ids has shape {negative_ids.shape} but there are {len(pairs.query_texts)}"
            " queries; it needs one row for each"
        )
    filled = _fill(pairs, negative_ids, seed)
    texts = [[pairs.corpus_texts[row] for row in rows] for rows in filled]
    return training_dataset(queries, positives, [texts[row] for row in query_of])


def _fill(pairs: Pairs, negative_ids: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    random, never = np.random.default_rng(seed), pairs.never_negatives()
    filled = np.array(negative_ids, dtype=np.int64)
    for row in np.flatnonzero((filled < 0).any(axis=1)).tolist():
        missing = filled[row] < 0
        known, count = filled[row, ~missing], int(missing.sum())
        filled[row, missing] = random_negatives(pairs, row, never, known, count, random)
    return filled
