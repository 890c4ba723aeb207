"""How a run's configuration names the way its batches are made."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from stope._checks import integer
from stope._kinds import integers, kinds, maybe
from stope._named import Named, names_of
from stope.lists import Ids
from stope.training.batches.plans import Plan


class Table(Protocol):
    """What a plan needs to know of the rows: numbers, no texts."""

    @property
    def query_numbers(self) -> Any:
        """int64 ``[rows]``: equal numbers are the same query."""

    @property
    def positive_numbers(self) -> Any:
        """int64 ``[rows]``: equal numbers are the same positive."""

    @property
    def sources(self) -> Any:
        """int64 ``[rows]``, the source of each row, or None."""


@kinds(query_numbers=integers, positive_numbers=integers, sources=maybe(integers))
@dataclass(frozen=True)
class RowNumbers:
    """A `Table` of given numbers.

    Attributes:
        query_numbers: int64 ``[rows]``.
        positive_numbers: int64 ``[rows]``.
        sources: int64 ``[rows]`` or None.
    """

    query_numbers: Ids
    positive_numbers: Ids
    sources: Ids | None = None

    @classmethod
    def from_texts(
        cls, queries: Sequence[str], positives: Sequence[str], sources: Sequence[Any] | None = None
    ) -> RowNumbers:
        """Number texts so that equal ones have one number.

        >>> RowNumbers.from_texts(["a", "b", "a"], ["x", "y", "z"]).query_numbers.tolist()
        [0, 1, 0]
        """
        return cls(
            _numbered(queries),
            _numbered(positives),
            None if sources is None else _numbered(sources),
        )


class Sizes(NamedTuple):
    """The numbers of a plan.

    Attributes:
        batch_size: at most so many rows are in a batch, of each process.
        seed: of everything random.
        processes: batches of one step.
    """

    batch_size: int
    seed: int
    processes: int


class BatchSpec(Named, family="batches", members="kinds"):
    """A frozen dataclass of numbers that plans batches; written by name into configurations.

    A spec of your own is a frozen dataclass derived from this class, with the name that
    configurations give it and its own `arrange`.

    >>> from stope.training.batches import Distinct, Mixed
    >>> Mixed(temperature=0.5).to_dict()
    {'name': 'mixed', 'temperature': 0.5, 'homogeneous': True}
    >>> BatchSpec.from_dict("distinct") == Distinct()
    True
    >>> BatchSpec.from_dict({"name": "mixed", "temprature": 1})
    Traceback (most recent call last):
        ...
    ValueError: batches 'mixed' has no field 'temprature'; it has temperature, homogeneous

    Attributes:
        name: of the class, in configurations.
    """

    def plan(
        self,
        table: Table,
        batch_size: int,
        seed: int = 0,
        *,
        embeddings: Any = None,
        processes: int = 1,
    ) -> Plan:
        """Plan the batches of every epoch.

        Whatever the spec, every epoch has exactly ``num_batches`` batches, in every process. Of all
        but `Shuffled` (which says what holds for it) no batch has a query or a positive twice. A
        batch has at most batch_size rows, and at least half of b, 2 at the least, where b is
        batch_size or, if that is less, how many rows the whole table has (for specs by source: the
        source has) that share no query and no positive.
        Batches are of nearly equal length, and shorter than batch_size rather than fewer, down to
        three quarters of b; only where each process gets a single batch may the rows not suffice
        for these lengths (``Plan.least`` is what holds).

        An epoch may leave rows out: those that are too many to fill a batch (less than half of
        one), and, of a query or positive that has more rows than there are batches, all above one
        per batch. They come first in the next epoch. A row is in two batches of an epoch only where
        a batch would be shorter than promised without it. A row that shares its query or positive
        with every other is in no batch, ever.

        Args:
            table: numbers of the rows' queries, positives and, for some specs, sources.
            batch_size: at most so many rows are in a batch, 2 or more; of each process.
            seed: 0 or more; with the epoch it decides everything.
            embeddings: float32 ``[queries, dim]``, one row for each query number, if the spec asks
                for them.
            processes: num_batches is a multiple of it, and any processes batches that begin at a
                multiple of it are trained on in one step.

        Raises:
            ValueError: no two rows that can share a batch, too few rows for the processes, numbers
                out of range, sources or embeddings missing.
            TypeError: arguments that are no integers.

        Memory: at most about 190 bytes a row while an epoch is planned or the plan is made, and 80
        afterwards, the epoch's lists included. A million rows take one to five seconds.
        """
        sizes = Sizes(
            integer(batch_size, "batch_size", 2),
            integer(seed, "seed", 0),
            integer(processes, "processes", 1),
        )
        return self.arrange(table, sizes, embeddings)

    @abstractmethod
    def arrange(self, table: Table, sizes: Sizes, embeddings: Any) -> Plan:
        """What every spec defines: a plan that keeps the promises of :meth:`plan`.

        Args:
            table: as for :meth:`plan`.
            sizes: its numbers, checked.
            embeddings: as for :meth:`plan`.
        """


def batch_spec_names() -> tuple[str, ...]:
    """The names that :meth:`BatchSpec.from_dict` knows.

    >>> batch_spec_names()
    ('clustered', 'distinct', 'homogeneous', 'mixed', 'shuffled')
    """
    return names_of(BatchSpec)


def numbers_of(table: Table) -> tuple[Ids, Ids]:
    """The rows' queries and positives, checked, each numbered from 0 without gaps."""
    queries, positives = (
        _checked(given, name)
        for given, name in (
            (table.query_numbers, "query_numbers"),
            (table.positive_numbers, "positive_numbers"),
        )
    )
    if len(queries) != len(positives):
        raise ValueError(
            f"query_numbers has {len(queries)} rows but positive_numbers {len(positives)}"
        )
    if not len(queries):
        raise ValueError("table has no rows; there is nothing to make batches of")
    return _dense(queries), _dense(positives)


def sources_of(table: Table, spec: BatchSpec) -> tuple[Ids, Ids]:
    """The sources' own numbers, ascending, and the place of each row's source among them."""
    if table.sources is None:
        raise ValueError(
            f'batches {spec.name!r} need the source of every row; add a column "source".'
        )
    given = _checked(table.sources, "sources")
    if len(given) != len(table.query_numbers):
        raise ValueError(f"sources has {len(given)} rows for {len(table.query_numbers)} queries")
    names, places = np.unique(given, return_inverse=True)
    return names, places.astype(np.int64)


def _checked(given: Any, name: str) -> Ids:
    values = np.asarray(given)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise TypeError(
            f"{name} is an array of shape {values.shape} and type {values.dtype}; "
            "give one integer per row"
        )
    return values.astype(np.int64)


def _dense(values: Ids) -> Ids:
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _numbered(values: Sequence[Any]) -> Ids:
    numbers: dict[Any, int] = {}
    found = (numbers.setdefault(value, len(numbers)) for value in values)
    return np.fromiter(found, np.int64, len(values))
