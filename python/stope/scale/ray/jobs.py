"""The jobs: operations of stope over matrices in files, into a folder of parts."""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import choice, one_each, real
from stope._checks import path as path_kind
from stope._files.arrays import digest
from stope._host import on_host
from stope._kinds import a, at_least, callback, kinds, maybe
from stope.ops._search import METRICS, Metric, exclusions
from stope.progress import Progress
from stope.scale.plan import Search
from stope.scale.ray.block_answers import EarlierOf, NegativesOf, NeighborsOf, PairsOf, TopKOf
from stope.scale.ray.job import Answer, Job
from stope.scale.ray.matrix_files import Rows
from stope.scale.ray.pool import Cluster
from stope.scale.shards import NegativeSearch

OF_JOBS = {"output": path_kind, "cluster": maybe(a(Cluster)), "progress": maybe(callback)}


@kinds(**OF_JOBS, k=at_least(1))
def topk(
    queries: Any,
    corpus: Any,
    k: int,
    output: str | PathLike[str],
    *,
    metric: Metric = "dot",
    exclude: Any = None,
    ceiling: Any = None,
    floor: Any = None,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Answer:
    """`stope.topk` as a job on a Ray cluster: the same scores and ids, bit for bit.

    Where the corpus fits a worker's memory, every worker maps all of it and blocks of queries are
    shared out; otherwise blocks are asked of all shards and their answers merged in a tree.
    `Answer.plan` says which, and why.

    Args:
        queries, corpus: each a file of embeddings as `stope.data.read_embeddings` takes them, a
            folder of such files (in the order of their names) or a list of them, ``.jsonl`` with a
            column of lists, a `ray.data.Dataset`, or a matrix. A table's or data set's
            column of ids names its rows.
        k: how many, 1 to the rows of the corpus.
        output: the job's folder, new or of the same job.
        metric, exclude, ceiling, floor: as for :func:`stope.topk`; ids are row numbers.
        cluster: default ``Cluster()``.
        progress: called with (queries done, queries).

    Returns:
        `Answer`; parts have the columns query_id, document_ids and scores, lists of k each. Ids are
        row numbers (-1 where there are fewer than k) where rows have no ids, else texts (null).

    Raises:
        ValueError, TypeError: as :func:`stope.topk`, and files that do not go together.
        FileNotFoundError: no such file.
        RuntimeError: no worker starts, or too many are lost.

    Memory: of the driver, two blocks of queries' answers a worker and the ids of one; of a worker
    see `stope.scale.plan.layout`; on disk, a copy of what cannot be mapped, until the job is done.
    Every input file is read once more for its checksum.

    Source: docs/methods.md, H10 (answers of shards are merged by the order of ties).
    """
    choice(metric, "metric", METRICS)
    with Job.at(output, cluster, progress) as job:
        q, c = job.rows(queries, "queries"), job.rows(corpus, "corpus")
        never = exclusions(exclude, len(q), len(c))
        limits = [
            _each(limit, len(q), name) for limit, name in ((ceiling, "ceiling"), (floor, "floor"))
        ]

        def tell(first: int, end: int) -> tuple[Any, ...]:
            rows = np.arange(first, end)
            return (
                None if never is None else never.take(rows),
                *(None if each is None else each[first:end] for each in limits),
            )

        arrays = [*(never or ()), *limits]
        options = {
            "operation": "topk",
            "queries": q.described,
            "corpus": c.described,
            "k": k,
            "metric": metric,
            "limits": [None if each is None else digest(each) for each in arrays],
        }
        return job.run(TopKOf(q, c, k, metric), options, _search(q, c, k), tell=tell)


@kinds(**OF_JOBS, k=at_least(1))
def knn_graph(
    x: Any,
    k: int,
    output: str | PathLike[str],
    *,
    metric: Metric = "dot",
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Answer:
    """`stope.knn_graph` as a job on a Ray cluster: of every row the k nearest others, exactly.

    Every block of rows is asked of every shard, so that a product is computed for each of its two
    rows; on one machine it is for both at once, up to k = 32.

    Args:
        x: as the corpus of `topk`.
        k: how many, 1 to the rows less one.
        metric: as for :func:`stope.knn_graph`.
        output, cluster, progress: as for `topk`.

    Returns:
        `Answer`; parts have the columns id, neighbor_ids and scores, lists of k each.

    Raises:
        ValueError, TypeError, FileNotFoundError, RuntimeError: as `topk`.

    Memory: as `topk`.

    Source: docs/methods.md, H10.
    """
    choice(metric, "metric", METRICS)
    with Job.at(output, cluster, progress) as job:
        rows = job.rows(x, "x")
        if k >= len(rows):
            raise ValueError(f"k is {k}, but a row of x has {len(rows) - 1} others; lower k")
        options = {"operation": "knn_graph", "x": rows.described, "k": k, "metric": metric}
        return job.run(NeighborsOf(rows, k, metric), options, _search(rows, rows, k))


@kinds(**OF_JOBS)
def mine(
    queries: Any,
    corpus: Any,
    positives: Any,
    output: str | PathLike[str],
    num_negatives: int = 5,
    *,
    exclude: Any = None,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Answer:
    """`stope.mine_hard_negatives` as a job on a Ray cluster: counts and reasons, too.

    Args:
        queries, corpus: as for `topk`.
        positives, num_negatives, exclude: as for :func:`stope.mine_hard_negatives`, by row numbers.
        output, cluster, progress: as for `topk`.
        **options: other options of :func:`stope.mine_hard_negatives`, by their names.

    Returns:
        `Answer`; parts have the columns query_id, negative_ids and scores (lists), positive_score,
        count, and rejected_ with every reason.

    Raises:
        ValueError, TypeError: as :func:`stope.mine_hard_negatives`.
        FileNotFoundError, RuntimeError: as `topk`.

    Memory: as `topk`; in the driver the positives and exclusions, and 4 bytes a query.

    Every shard scores its positives for all queries first; only then candidates are searched, and
    `progress` counts those.

    Source: docs/methods.md, C1, C2 and H10.
    """
    with Job.at(output, cluster, progress) as job:
        q, c = job.rows(queries, "queries"), job.rows(corpus, "corpus")
        known = NegativeSearch(positives, len(c), num_negatives, exclude=exclude, **options)
        one_each(known.answers.lengths, "positives", len(q), "queries")
        extra = exclusions(exclude, len(q), len(c))
        chosen = {"num_negatives": num_negatives, **options, "most_positives": known.most_positives}

        def tell(first: int, end: int) -> tuple[Any, ...]:
            rows = np.arange(first, end)
            return known.answers.take(rows), None if extra is None else extra.take(rows)

        told = {
            "operation": "mine",
            "queries": q.described,
            "corpus": c.described,
            "lists": [digest(ids) for lists in (known.answers, extra) for ids in lists or ()],
            **chosen,
        }
        work = _search(q, c, min(known.width, len(c)))
        return job.run(NegativesOf(q, c, chosen), told, work, tell=tell, twice=True)


@kinds(**OF_JOBS, threshold=maybe(real))
def earlier(
    x: Any,
    output: str | PathLike[str],
    *,
    metric: Metric,
    threshold: float | None = None,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Answer:
    """`stope.nearest_earlier` in the order of the rows; see `knn_graph`."""
    choice(metric, "metric", METRICS)
    with Job.at(output, cluster, progress) as job:
        rows = job.rows(x, "x")
        options = {
            "operation": "nearest_earlier",
            "x": rows.described,
            "metric": metric,
            "threshold": threshold,
        }
        return job.run(EarlierOf(rows, metric, threshold), options, _search(rows, rows, 1))


@kinds(**OF_JOBS, threshold=real)
def pairs(
    x: Any,
    y: Any,
    output: str | PathLike[str],
    *,
    metric: Metric,
    threshold: float,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Answer:
    """`stope.pairs_above` of two matrices; parts have a row for each pair: row, id and score."""
    choice(metric, "metric", METRICS)
    with Job.at(output, cluster, progress) as job:
        first, second = job.rows(x, "x"), job.rows(y, "y")
        options = {
            "operation": "pairs_above",
            "x": first.described,
            "y": second.described,
            "metric": metric,
            "threshold": threshold,
        }
        work = _search(first, second, 1)
        return job.run(PairsOf(first, second, metric, threshold), options, work)


def _each(limit: Any, queries: int, name: str) -> NDArray[np.float64] | None:
    """A limit for each query, of which `stope.topk` sees those of a block."""
    if limit is None:
        return None
    values = on_host(limit)
    if values.ndim and values.shape != (queries,):
        raise ValueError(f"{name} has shape {values.shape}; give one score per query, ({queries},)")
    return np.broadcast_to(values, (queries,))


def _search(queries: Rows, corpus: Rows, k: int) -> Search:
    return Search(len(queries), len(corpus), corpus.dim, k, corpus.itemsize)
