"""Plans as sentence-transformers' trainer takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from stope._checks import shown
from stope._kinds import a, at_least, kinds, matrix, maybe
from stope.encoders.versions import part
from stope.integrations.sentence_transformers.columns import SOURCE, WEIGHT
from stope.training.batches.plans import Plan
from stope.training.batches.protocol import BatchSpec, RowNumbers, Table
from stope.training.batches.specs import Distinct


@kinds(spec=maybe(a(BatchSpec)), embeddings=maybe(matrix), processes=maybe(at_least(1)))
def batch_sampler(
    spec: BatchSpec | None = None,
    *,
    table: Table | None = None,
    embeddings: Any = None,
    processes: int | None = None,
) -> Callable[..., Any]:
    """Make what ``SentenceTransformerTrainingArguments(batch_sampler=...)`` takes (5 and 6).

    The trainer's samplers follow ``set_epoch``, also inside accelerate's wrappers. Resuming skips
    batches of the same plan. Their length is exact, so that no process waits for another for ever.

    Args:
        spec: how to make batches; default `Distinct`.
        table: numbers of the rows, if they are known; else texts of the dataset's first two text
            columns are numbered, and its column "source" names sources.
        embeddings: for `Clustered`, one row per query number. Queries are numbered in the order of
            their first row.
        processes: default: those of torch.distributed, if it runs, else 1.

    Raises:
        ImportError: sentence-transformers is not installed.
        ValueError: from the sampler, when the trainer asks for it: what the spec refuses, or a
            table of another length than the dataset.

    Source: sentence-transformers issue 3348 is the hang of samplers with inexact lengths.

    >>> from datasets import Dataset
    >>> rows = Dataset.from_dict({"query": list("abcd"), "positive": list("wxyz")})
    >>> sampler = batch_sampler()(rows, batch_size=2, drop_last=False, seed=1)
    >>> len(sampler), sorted(row for batch in sampler for row in batch)
    (2, [0, 1, 2, 3])
    """
    if table is not None and not hasattr(table, "query_numbers"):
        raise TypeError(f"table is {shown(table)}; give a RowNumbers")
    chosen = Distinct() if spec is None else spec

    def make(
        dataset: Any,
        batch_size: int,
        drop_last: bool,
        valid_label_columns: list[str] | None = None,
        generator: Any | None = None,
        seed: int = 0,
    ) -> Any:
        if seed == 0 and generator is not None:
            seed = int(generator.initial_seed())  # version 5 of the library hands over no other
        rows = table_of(dataset) if table is None else table
        if len(rows.query_numbers) != len(dataset):
            raise ValueError(
                f"table has {len(rows.query_numbers)} rows but the dataset {len(dataset)}"
            )
        plan = chosen.plan(
            rows,
            batch_size,
            seed,
            embeddings=embeddings,
            processes=_processes() if processes is None else processes,
        )
        return _sampler(dataset, plan, drop_last)

    return make


def table_of(dataset: Any) -> RowNumbers:
    """Number the texts of a dataset's first two text columns, and its sources.

    Raises:
        ValueError: fewer than two text columns.
    """
    names = [
        name
        for name in dataset.column_names
        if name not in (WEIGHT, SOURCE) and isinstance(dataset[0][name], str)
    ]
    if len(names) < 2:
        raise ValueError(f"The dataset has the text columns {names}; a query and a positive go in")
    sources = dataset[SOURCE] if SOURCE in dataset.column_names else None
    return RowNumbers.from_texts(dataset[names[0]], dataset[names[1]], sources)


def _processes() -> int:
    import torch.distributed as group

    return int(group.get_world_size()) if group.is_available() and group.is_initialized() else 1


def _sampler(dataset: Any, plan: Plan, drop_last: bool) -> Any:
    class PlannedBatches(part("sampler").DefaultBatchSampler):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(dataset, batch_size=plan.batch_size, drop_last=drop_last)
            # accelerate leaves out rounds of batches that are shorter than batch_size; None tells
            # it that lengths vary. It looks for set_epoch in `sampler` when it wraps this one.
            self.batch_size = None
            self.drop_last = False
            self.sampler = _Epochs(self)
            self.plan = plan

        def __iter__(self) -> Iterator[list[int]]:
            yield from plan.batches(self.epoch)

        def __len__(self) -> int:
            return plan.num_batches

    return PlannedBatches()


class _Epochs:
    """Passes set_epoch on."""

    def __init__(self, to: Any) -> None:
        self._to = to

    def set_epoch(self, epoch: int) -> None:
        self._to.epoch = epoch
