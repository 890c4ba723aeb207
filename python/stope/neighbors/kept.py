"""Operations whose answers stay in a folder, block by block: what was stopped goes on there.

An answer is kept under a digest of the rows, of all options that decide it and of stope's version:
another version may round differently, and begins anew. Blocks are ranges of rows; for the graph of
one matrix they are the lines of a projective plane: its points are groups of rows, any two of which
lie on one line, so that every pair of rows meets in one block, and the graph of a block's rows has
half its products as that of all rows has.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from itertools import count
from math import isqrt
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import integer, real
from stope._checks import path as path_kind
from stope._files.arrays import digest, read_arrays, write_arrays
from stope._files.shards import locked
from stope.lists import Ids
from stope.neighbors._embeddings import finite_rows, rows_of
from stope.ops._lloyd import ClusterMetric, KMeans, KMeansShard, Reached, lloyd
from stope.ops._search import Metric, TopK
from stope.ops.nearest_earlier import in_order
from stope.progress import Progress, check_progress
from stope.scale.shards import earlier_part, knn_part, merge_earlier, merge_topk

_FORMAT = "stope.answers 1"
_STEPS = 1000  # of a block, that progress tells
Arrays = dict[str, NDArray[Any]]


class KeptOperations:
    """Operations of stope that keep their answers in a folder: the same, bit for bit.

    What takes ``operations`` (`stope.neighbors.deduplicate`, `neighbor_graph`, `VoteK`, `D4`, ...)
    takes this in place of the module `stope`. A process that is stopped anywhere loses a block at
    most, and k-means a round; who asks the same version of stope again, with other thresholds
    perhaps, finds what is there. No answer is deleted: remove the folder when nobody asks any more.

    Threads and processes may share a folder; only one at a time goes on with the same k-means.

    Args:
        folder: made where missing.
        block: multiply-adds of a block. 2^43 take about a minute of one core; smaller searches are
            one block. A graph of more takes up to 1.3 times the products, less the more blocks.

    Raises:
        ValueError: later, a file of the folder was altered.
        OSError: the folder cannot be made, or the disk is full.
        RuntimeError: another process is at the same k-means.

    Memory: 12 bytes a row and neighbour beside that of the operation, and the rows of a block.

    Source: docs/methods.md, H10 (answers are merged by the order of ties).

    >>> import tempfile
    >>> x = np.float32([[1, 0], [0.96, 0.28], [0.84, 0.54], [0, 1]])
    >>> operations = KeptOperations(tempfile.mkdtemp())
    >>> stope.neighbors.deduplicate(x, 0.95, operations=operations).kept.tolist()
    [0, 2, 3]
    """

    def __init__(self, folder: str | PathLike[str], *, block: int = 2**43) -> None:
        self.folder, self.block = path_kind(folder, "folder"), integer(block, "block", 1)
        if self.folder.exists() and not self.folder.is_dir():
            raise FileExistsError(f"folder {self.folder} is a file; name a folder")
        self.folder.mkdir(parents=True, exist_ok=True)

    def knn_graph(
        self, x: Any, k: int, *, metric: Metric = "dot", progress: Progress | None = None
    ) -> TopK:
        """`stope.knn_graph`."""
        rows, told = _asked(x, progress)
        k = integer(k, "k", 1, len(rows) - 1)
        described = {"operation": "knn_graph", "x": _digest(rows), "k": k, "metric": metric}
        best = TopK(np.full((len(rows), k), -np.inf, np.float32), np.full((len(rows), k), -1))
        lines = _lines(len(rows), rows.shape[1], self.block)
        for place, line in enumerate(lines):

            def nearest(line: Ids = line, place: int = place) -> Arrays:
                step = _within(told, place, len(lines))
                part = rows if len(lines) == 1 else rows[line]
                near = knn_part(part, part, k, 0, 0, metric=metric, progress=step)
                ids = np.where(near.ids < 0, -1, line[near.ids])
                return {"scores": near.scores, "ids": ids}

            kept = self._kept({**described, "line": [place, len(lines)]}, nearest)
            merged = merge_topk([TopK(best.scores[line], best.ids[line]), TopK(**kept)], k)
            best.scores[line], best.ids[line] = merged
            _tell(told, place + 1, len(lines))
        return best

    def nearest_earlier(
        self,
        x: Any,
        order: Any = None,
        *,
        metric: Metric = "dot",
        progress: Progress | None = None,
    ) -> TopK:
        """`stope.nearest_earlier`; for an order the rows are copied in that order."""
        rows, told = _asked(x, progress)
        return in_order(lambda rows: self._earlier(rows, metric, told), rows, order)

    def _earlier(self, rows: NDArray[Any], metric: Metric, told: Progress | None) -> TopK:
        described = {"operation": "nearest_earlier", "x": _digest(rows), "metric": metric}
        result = TopK(np.empty(len(rows), np.float32), np.empty(len(rows), np.int64))
        cuts = _triangular(len(rows), rows.shape[1], self.block)
        for place, (first, end) in enumerate(cuts):

            def nearest(first: int = first, end: int = end, place: int = place) -> Arrays:
                part, step = rows[first:end], _within(told, place, len(cuts))
                parts = [earlier_part(part, first, metric=metric, progress=step)]
                if first:
                    parts.append(earlier_part(part, first, rows[:first], 0, metric=metric))
                return merge_earlier(parts)._asdict()

            kept = self._kept({**described, "rows": [first, end]}, nearest)
            result.scores[first:end], result.ids[first:end] = kept["scores"], kept["ids"]
            _tell(told, place + 1, len(cuts))
        return result

    def pairs_above(
        self,
        x: Any,
        y: Any,
        *,
        threshold: float,
        sink: Callable[[Ids, Ids, NDArray[np.float32]], object],
        metric: Metric = "dot",
        progress: Progress | None = None,
    ) -> int:
        """`stope.pairs_above` of two matrices, with a sink."""
        (rows, told), others = _asked(x, progress), finite_rows(y, "y")
        described = {
            "operation": "pairs_above",
            "x": _digest(rows),
            "y": _digest(others),
            "threshold": real(threshold, "threshold"),
            "metric": metric,
        }
        size = max(self.block // (len(others) * rows.shape[1]), 1)
        starts, total = range(0, len(rows), size), 0
        for place, first in enumerate(starts):

            def pairs(first: int = first, place: int = place) -> Arrays:
                part, step = rows[first : first + size], _within(told, place, len(starts))
                made = stope.pairs_above(
                    part, others, threshold=threshold, metric=metric, progress=step
                )
                return {**made._asdict(), "rows": made.rows + first}

            kept = self._kept({**described, "rows": [first, first + size]}, pairs, "rows")
            total += len(kept["rows"])
            if len(kept["rows"]):
                sink(kept["rows"], kept["ids"], kept["scores"])
            _tell(told, place + 1, len(starts))
        return total

    def kmeans(
        self,
        x: Any,
        k: int,
        *,
        metric: ClusterMetric = "euclidean",
        init: Any = "k-means++",
        max_iterations: int = 25,
        tolerance: float = 0.0,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> KMeans:
        """`stope.kmeans`; more iterations go on from those that there are."""
        rows, _ = _asked(x, progress)
        described = {
            "operation": "kmeans",
            "x": _digest(rows),
            "k": integer(k, "k", 1),
            "metric": metric,
            "init": init if isinstance(init, str) else _digest(rows_of(init, "init")),
            "tolerance": real(tolerance, "tolerance", 0, 1),
            "seed": integer(seed, "seed", 0),
        }
        most = integer(max_iterations, "max_iterations", 0)
        path, kind = self._path(described).with_suffix("") / "round.json", dict[str, Any](of=object)
        kind |= {"inertia": [float], "converged": bool}

        def keep(now: Reached) -> None:
            values = {"of": described, "inertia": now.inertia, "converged": now.converged}
            write_arrays(path, values, {"centers": now.centers})

        path.parent.mkdir(exist_ok=True)
        with locked(path.parent):
            reached = None
            if path.exists():
                values, arrays = read_arrays(path, kind, ["centers"], self._remedy)
                if len(values["inertia"]) <= most + 1:
                    reached = Reached(arrays["centers"], values["inertia"], values["converged"])
            return lloyd(
                [KMeansShard(rows)],
                k,
                metric=metric,
                init=init,
                max_iterations=most,
                tolerance=tolerance,
                seed=seed,
                progress=progress,
                reached=reached,
                keep=keep,
            )

    def _kept(self, described: Any, compute: Callable[[], Arrays], *more: str) -> Arrays:
        """The arrays of a block, computed where they are not there."""
        path = self._path(described)
        if path.exists():
            names = [*more, "scores", "ids"]
            return read_arrays(path, {"of": object}, names, self._remedy)[1]
        arrays = compute()
        write_arrays(path, {"of": described}, arrays)
        return arrays

    def _path(self, described: Any) -> Any:
        name = json.dumps([_FORMAT, stope.__version__, described], sort_keys=True)
        key = hashlib.sha256(name.encode()).hexdigest()[:32]
        return self.folder / f"{described['operation']}-{key}.json"

    @property
    def _remedy(self) -> str:
        return f"remove the folder {self.folder} and run again"


def _asked(x: Any, progress: Progress | None) -> tuple[NDArray[Any], Progress | None]:
    check_progress(progress)
    return finite_rows(x, "x"), progress  # blocks would count rows from their own beginning


def _digest(rows: NDArray[Any]) -> list[str]:
    """What tells a matrix from others; NumPy gives no buffer of bfloat16."""
    plain = rows.view(np.int16) if rows.dtype.name == "bfloat16" else rows
    return [rows.dtype.name, digest(plain)]


def _triangular(rows: int, dim: int, block: int) -> list[tuple[int, int]]:
    """Ranges of rows that cost as much each, with those before them.

    >>> _triangular(10, 1, 18)
    [(0, 6), (6, 8), (8, 10)]
    """
    cuts, end = [], 0
    while end < rows:
        first, end = end, min(rows, max(end + 1, isqrt(end * end + 2 * block // dim)))
        cuts.append((first, end))
    return cuts


def _lines(rows: int, dim: int, block: int) -> list[Ids]:
    """Rows that meet in a block: all, or as few as a plane of prime order q needs, about rows / q.

    >>> [line.tolist() for line in _lines(7, 1, 5)]
    [[0, 2, 4], [1, 3, 4], [0, 3, 5], [1, 2, 5], [0, 1, 6], [2, 3, 6], [4, 5, 6]]
    """
    if rows * rows * dim // 2 <= block:
        return [np.arange(rows)]
    for order in filter(_is_prime, count(2)):
        groups = np.array_split(np.arange(rows), order * order + order + 1)
        longest = (order + 1) * len(groups[0])
        if longest * longest * dim // 2 <= block or len(groups) >= rows:
            lines = [np.concatenate([groups[g] for g in line]) for line in _plane(order)]
            return [np.sort(line) for line in lines if len(line) > 1]
    raise AssertionError("there is always a larger prime")


def _is_prime(number: int) -> bool:
    return all(number % divisor for divisor in range(2, isqrt(number) + 1))


def _plane(order: int) -> Iterator[list[int]]:
    """The lines of the projective plane over the integers modulo a prime: order + 1 points each.

    Point order·x + y is (x, y); order² + m lies on all lines of slope m, the last point on all
    vertical ones.
    """
    q = order
    for slope in range(q):
        for shift in range(q):
            yield [*(q * x + (slope * x + shift) % q for x in range(q)), q * q + slope]
    for x in range(q):
        yield [*range(q * x, q * x + q), q * q + q]
    yield list(range(q * q, q * q + q + 1))


def _within(progress: Progress | None, place: int, parts: int) -> Progress | None:
    """Progress of one of so many parts."""
    if progress is None:
        return None
    return lambda done, total: progress(_STEPS * place + _STEPS * done // total, _STEPS * parts)


def _tell(progress: Progress | None, done: int, parts: int) -> None:
    if progress is not None:
        progress(_STEPS * done, _STEPS * parts)
