"""Tables of rows for the tests of batches, and what every plan promises."""

from __future__ import annotations

import numpy as np

from stope.training.batches import RowNumbers


def check(plan, table, batch_size, processes=1, epochs=4):
    """What `BatchSpec.plan` promises; returns the epochs."""
    queries, positives = np.asarray(table.query_numbers), np.asarray(table.positive_numbers)
    assert plan.num_batches % processes == 0
    found = [plan.batches(epoch) for epoch in range(epochs)]
    for batches in found:
        assert len(batches) == plan.num_batches
        for batch in batches:
            assert all(type(row) is int for row in batch)
            assert plan.least <= len(batch) <= batch_size
            assert len(set(queries[batch])) == len(set(positives[batch])) == len(batch)
    assert plan.least >= 2
    return found


def attempt(spec, *arguments, **options):
    """The plan and None, or None and why not."""
    try:
        return spec.plan(*arguments, **options), None
    except ValueError as error:
        return None, str(error)


def random_table(random, rows, queries, positives, sources=0):
    return RowNumbers(
        random.integers(0, queries, rows),
        random.integers(0, positives, rows),
        random.integers(0, sources, rows) if sources else None,
    )


def sized(*sizes):
    total = sum(sizes)
    return RowNumbers(np.arange(total), np.arange(total), np.repeat(np.arange(len(sizes)), sizes))
