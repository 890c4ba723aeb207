"""Batches in which no query and no positive occurs twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from stope.training._library import part

WEIGHT = "weight"  # the column of a dataset that holds no text


def distinct_batches(
    dataset: Any,
    batch_size: int,
    drop_last: bool,
    valid_label_columns: list[str] | None = None,
    generator: Any | None = None,
    seed: int = 0,
) -> Any:
    """Return the batch sampler that sentence-transformers' trainer asks for.

    A row goes into the first batch with room that has neither its query nor its positive, so that
    no row's positive is another's in-batch negative. Hard negatives may repeat: they do by nature,
    and a copy of a row's positive among them can slow that row's pull but not reverse it (its
    softmax weight and the positive's are together at most one). A batch less than half
    as long as the longest is left out.
    """
    if seed == 0 and generator is not None:
        seed = int(generator.initial_seed())  # version 5 of the library hands over no other

    class DistinctBatches(part("sampler").DefaultBatchSampler):  # type: ignore[misc]
        def _plan(self, epoch: int) -> list[list[int]]:
            order = np.random.default_rng([seed, epoch]).permutation(len(queries))
            batches: list[list[int]] = []
            seen: list[set[int]] = []
            first_open = 0
            for row in order.tolist():
                place = first_open
                while place < len(batches) and (
                    len(batches[place]) == batch_size
                    or queries[row] in seen[place]
                    or positives[row] in seen[place]
                ):
                    place += 1
                if place == len(batches):
                    batches.append([])
                    seen.append(set())
                batches[place].append(row)
                seen[place] |= {queries[row], positives[row]}
                while first_open < len(batches) and len(batches[first_open]) == batch_size:
                    first_open += 1
            least = max(2, max(map(len, batches)) // 2)
            return [batch for batch in batches if len(batch) >= least]

        def __iter__(self) -> Iterator[list[int]]:
            yield from self._plan(self.epoch)[: len(self)]

        def __len__(self) -> int:
            return num_batches

    names = [name for name in dataset.column_names if name != WEIGHT][:2]
    numbers: dict[str, int] = {}
    queries, positives = (
        [numbers.setdefault(text, len(numbers)) for text in dataset[name]] for name in names
    )
    sampler = DistinctBatches(dataset, batch_size=batch_size, drop_last=drop_last)
    num_batches = len(sampler._plan(0))
    if num_batches == 0:
        raise ValueError(
            f"examples has {len(queries)} rows but no two of them with different queries and "
            "different positives; in-batch negatives need at least two."
        )
    return sampler
