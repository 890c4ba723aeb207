"""What `train` is given to train on, as one `datasets.Dataset`, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stope.data import Pairs
from stope.data.text_identity import fingerprint_texts
from stope.training.dataset import pairs_dataset, training_dataset
from stope.training.rows import ROW, SOURCE, RowTable, check_columns


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
            raise ValueError(f'columns has "{name}", which the rows have already; leave it out.')
        if len(values) != len(dataset):
            raise ValueError(
                f'columns has {len(values)} values of "{name}" for {len(dataset)} rows; it needs '
                "one for each"
            )
        dataset = dataset.add_column(name, list(values))
    if len(dataset) < 2:
        raise ValueError(f"examples has {len(dataset)} rows; in-batch negatives need two or more")
    found = check_columns(dataset)
    if pairs is None:
        return dataset, RowTable.of_dataset(dataset)
    first = pairs.positives[0][:-1].tolist()  # every query has a row
    sources = [dataset[SOURCE][row] for row in first] if found.source else None
    return dataset, RowTable.of_pairs(pairs, sources)


def fingerprint_rows(dataset: Any) -> str:
    """Return a SHA-256 hex digest of all columns, their names and the order of the rows."""
    return fingerprint_texts(
        text
        for name in dataset.column_names
        for text in (name, *(v if isinstance(v, str) else repr(v) for v in dataset[name]))
    )


def _from_tuples(examples: Any) -> Any:
    rows = [tuple(row) for row in examples]
    if not rows:
        raise ValueError("examples is empty; there is nothing to train on")
    if min(map(len, rows)) < 2:
        raise ValueError("examples has a row without a positive; rows are (query, positive)")
    negatives = [row[2:] for row in rows] if max(map(len, rows)) > 2 else None
    return training_dataset([row[0] for row in rows], [row[1] for row in rows], negatives)
