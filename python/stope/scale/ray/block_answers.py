"""What jobs compute: for each operation its part, its merge and how a block of it is written.

Parts and merges are those of `stope.scale.shards`, so an answer is that of the operation on one
machine, bit for bit. A shard that lies in several files is searched file by file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

import stope
from stope._extras import need
from stope.data.arrow import to_arrow
from stope.data.writers.parquet import write_parquet
from stope.lists import Ids, Lists
from stope.ops._search import TopK
from stope.ops.pairs_above import PairsAbove
from stope.scale.ray.matrix_files import Rows
from stope.scale.shards import (
    NegativeSearch,
    NegativesPart,
    earlier_part,
    knn_part,
    merge_earlier,
    merge_pairs,
    merge_topk,
    topk_part,
)

Span = tuple[int, int]  # the first row and the one after the last
Part = TypeVar("Part")


@dataclass(frozen=True)
class TopKOf:
    """`stope.topk`, with limits and exclusions of each block."""

    queries: Rows
    corpus: Rows
    k: int
    metric: str

    def part(self, shard: Span, block: Span, *limits: Any) -> TopK:
        """The best of the shard. What a file adds must reach the k-th of those before it."""
        queries = self.queries.read(*block)
        exclude, ceiling, least = limits or (None, None, None)
        best, floor = None, least
        for start, rows in self.corpus.pieces(*shard):
            options: Any = {"metric": self.metric, "exclude": exclude}
            with _counting(block, start):
                more = topk_part(
                    queries, rows, self.k, start, ceiling=ceiling, floor=floor, **options
                )
            best = more if best is None else self.merge([best, more])
            floor = best.scores[:, -1] if least is None else np.maximum(least, best.scores[:, -1])
        assert best is not None
        return best

    def merge(self, parts: Sequence[TopK]) -> TopK:
        """The best of all."""
        return merge_topk(parts, self.k)

    def write(self, path: Path, whole: TopK, block: Span, *told: Any) -> None:
        """A row for each query: query_id, document_ids and scores, lists of k."""
        write_columns(
            path,
            query_id=ids_of(self.queries, np.arange(*block)),
            document_ids=ids_of(self.corpus, whole.ids),
            scores=to_arrow(whole.scores),
        )


@dataclass(frozen=True)
class NeighborsOf:
    """`stope.knn_graph`."""

    x: Rows
    k: int
    metric: str

    def part(self, shard: Span, block: Span) -> TopK:
        """The nearest in the shard."""
        rows, options = self.x.read(*block), cast(Any, {"metric": self.metric})

        def ask(piece: NDArray[Any], start: int) -> TopK:
            return knn_part(rows, piece, self.k, block[0], start, **options)

        return _together(self.merge, _answers(self.x, shard, block, ask))

    def merge(self, parts: Sequence[TopK]) -> TopK:
        """The nearest of all."""
        return merge_topk(parts, self.k)

    def write(self, path: Path, whole: TopK, block: Span, *told: Any) -> None:
        """A row for each row: id, neighbor_ids and scores, lists of k."""
        write_columns(
            path,
            id=ids_of(self.x, np.arange(*block)),
            neighbor_ids=ids_of(self.x, whole.ids),
            scores=to_arrow(whole.scores),
        )


@dataclass(frozen=True)
class EarlierOf:
    """`stope.nearest_earlier`, in the order of the rows."""

    x: Rows
    metric: str
    threshold: float | None

    def part(self, shard: Span, block: Span) -> TopK:
        """The nearest in the shard that is before a row of the block."""
        rows, first = self.x.read(*block), block[0]
        options: dict[str, Any] = {"metric": self.metric, "threshold": self.threshold}
        nothing = TopK(np.full(len(rows), -np.inf, np.float32), np.full(len(rows), -1))
        parts = [nothing]
        if shard[0] <= first < shard[1]:
            parts.append(earlier_part(rows, first, **options))
        before = shard[0], min(shard[1], first)
        ask = partial(earlier_part, rows, first, **options)
        return self.merge([*parts, *_answers(self.x, before, block, ask)])

    def merge(self, parts: Sequence[TopK]) -> TopK:
        """The nearest of all."""
        return merge_earlier(parts)

    def write(self, path: Path, whole: TopK, block: Span, *told: Any) -> None:
        """A row for each row: id, earlier (a row number, -1 for none) and score."""
        write_columns(path, id=np.arange(*block), earlier=whole.ids, score=whole.scores)


@dataclass(frozen=True)
class PairsOf:
    """`stope.pairs_above` of two matrices."""

    x: Rows
    y: Rows
    metric: str
    threshold: float

    def part(self, shard: Span, block: Span) -> PairsAbove:
        """The pairs of the block and the shard."""
        rows = self.x.read(*block)
        options: dict[str, Any] = {"metric": self.metric, "threshold": self.threshold}

        def ask(piece: NDArray[Any], start: int) -> PairsAbove:
            pairs = stope.pairs_above(rows, piece, **options)
            return PairsAbove(pairs.rows + block[0], pairs.ids + start, pairs.scores)

        return _together(self.merge, _answers(self.y, shard, block, ask))

    def merge(self, parts: Sequence[PairsAbove]) -> PairsAbove:
        """All pairs, in their order."""
        return merge_pairs(parts)

    def write(self, path: Path, whole: PairsAbove, block: Span, *told: Any) -> None:
        """A row for each pair: row, id and score."""
        write_columns(path, row=whole.rows, id=whole.ids, score=whole.scores)


@dataclass(frozen=True)
class NegativesOf:
    """`stope.mine_hard_negatives`; a block is told its positives and exclusions.

    It is asked twice: each shard scores the positives that it has, then it is told the lowest
    scores of all and has its candidates.
    """

    queries: Rows
    corpus: Rows
    options: dict[str, Any] = field(hash=False)

    def part(
        self,
        shard: Span,
        block: Span,
        positives: Lists,
        exclude: Lists | None,
        lowest: NDArray[np.float32] | None = None,
    ) -> Any:
        """The lowest scores of the shard's positives; once those of all are known, candidates."""
        queries, search = self.queries.read(*block), self.search(positives, exclude)
        if lowest is None:
            ask: Any = partial(search.positive_scores, queries)
        else:
            ask = partial(search.part, queries, positive_scores=lowest)
        return self.merge(_answers(self.corpus, shard, block, ask))

    def merge(self, parts: Sequence[Any]) -> Any:
        """The lowest scores, or the candidates, of all."""
        if isinstance(parts[0], NegativesPart):
            return self.search([0], None).merge(parts)
        return np.minimum.reduce(parts)

    def write(self, path: Path, whole: NegativesPart, block: Span, *told: Any) -> None:
        """A row for each query: query_id, negative_ids and scores, and what was counted."""
        mined = self.search(*told[:2]).result(whole, first_query=block[0])
        write_columns(
            path,
            query_id=ids_of(self.queries, np.arange(*block)),
            negative_ids=ids_of(self.corpus, mined.ids),
            scores=to_arrow(mined.scores),
            positive_score=mined.positive_scores,
            count=mined.counts,
            **{f"rejected_{reason}": rows for reason, rows in mined.rejected.items()},
        )

    def search(self, positives: Any, exclude: Any) -> NegativeSearch:
        """The search of these queries."""
        return NegativeSearch(positives, len(self.corpus), exclude=exclude, **self.options)


def write_columns(path: Path, **columns: Any) -> None:
    """Write a Parquet file of these columns."""
    arrow = need("pyarrow", extra="ray")
    table = arrow.table(columns)
    write_parquet(path, table.schema, [table])


def ids_of(rows: Rows, numbers: Ids) -> Any:
    """Row numbers as they are, or by the ids that rows have: a column, or one of lists."""
    if not rows.has_ids:
        return numbers if numbers.ndim == 1 else to_arrow(numbers)
    named = rows.named(numbers)
    if numbers.ndim == 1:
        return named
    arrow = need("pyarrow", extra="ray")
    return arrow.FixedSizeListArray.from_arrays(named, numbers.shape[1])


def _answers(
    corpus: Rows, shard: Span, block: Span, ask: Callable[[NDArray[Any], int], Part]
) -> list[Part]:
    """What each file of a shard answers."""
    answers = []
    for start, rows in corpus.pieces(*shard):
        with _counting(block, start):
            answers.append(ask(rows, start))
    return answers


@contextmanager
def _counting(block: Span, start: int) -> Iterator[None]:
    """Say from where on an error counts rows: it knows those of a block and of a file alone."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"{error} (asked were rows {block[0]} to {block[1] - 1}, counted from 0, of a shard "
            f"that begins with row {start})"
        ) from error


def _together(merge: Callable[[Sequence[Part]], Part], parts: Sequence[Part]) -> Part:
    return parts[0] if len(parts) == 1 else merge(parts)
