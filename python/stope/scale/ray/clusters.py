"""k-means as a job: actors that hold a shard of the rows each, from the start to the end."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import ray
from ray import exceptions

import stope
from stope._checks import counted
from stope._files.atomic import atomic_path
from stope._kinds import at_least, kinds, string
from stope.ops._lloyd import KMeans, Reached, lloyd
from stope.progress import Progress
from stope.scale.plan import WORKER_BYTES, gib
from stope.scale.ray.block_answers import ids_of, write_columns
from stope.scale.ray.job import CLUSTERS, Answer, Job
from stope.scale.ray.jobs import OF_JOBS
from stope.scale.ray.matrix_files import Rows
from stope.scale.ray.pool import Cluster
from stope.scale.shards import KMeansShard


@kinds(**OF_JOBS, k=at_least(1), metric=string, init=string, max_iterations=at_least(0))
def kmeans(
    x: Any,
    k: int,
    output: str | PathLike[str],
    *,
    metric: str = "euclidean",
    init: str = "k-means++",
    max_iterations: int = 25,
    tolerance: float = 0.0,
    seed: int = 0,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> Answer:
    """`stope.kmeans` on a Ray cluster: the same labels, centers and inertia, bit for bit.

    Every worker holds an equal share of the rows, mapped where it lies in one file, else copied;
    all assign theirs at once. A worker that is lost is made again, on whatever node is left, with
    the state it had. The first centers and those of every update are kept in the folder, and a job
    that was stopped goes on from the last.

    Args:
        x: as the corpus of `topk`.
        k, metric, init, max_iterations, tolerance, seed: as for :func:`stope.kmeans`; init is one
            of its words.
        output, cluster: as for `topk`.
        progress: called after each pass with (done, total).

    Returns:
        `Answer`; parts have the columns id, label and score. _clusters.npz has centers (float32
        ``[k, dim]``), inertia and converged, as of :func:`stope.kmeans`.

    Raises:
        ValueError, TypeError: as :func:`stope.kmeans`; a share that does not fit a worker's memory.
        FileNotFoundError, RuntimeError: as `topk`.

    Memory: 12 bytes a row and 24 · k · dim in the driver, and see `stope.kmeans` for a worker's.

    Source: docs/methods.md, F2 and C5.
    """
    options: dict[str, Any] = {
        "metric": metric,
        "init": init,
        "max_iterations": max_iterations,
        "tolerance": tolerance,
        "seed": seed,
    }
    with Job.at(output, cluster, progress) as job:
        rows = job.rows(x, "x")

        def compute() -> Any:
            kept = job.folder / CLUSTERS

            def keep(reached: Reached) -> None:
                with atomic_path(kept) as path, path.open("wb") as file:
                    np.savez(file, **reached._asdict())

            with _shards(rows, k, job.cluster) as shards, ThreadPoolExecutor(len(shards)) as pool:
                reached = _reached(kept) if kept.exists() else None
                told: dict[str, Any] = {"progress": progress, "run": pool.map, "keep": keep}
                made = lloyd(shards, k, reached=reached, **told, **options)

            def write(path: Path, first: int, end: int) -> None:
                write_columns(
                    path,
                    id=ids_of(rows, np.arange(first, end)),
                    label=made.labels[first:end],
                    score=made.scores[first:end],
                )

            return write

        told = {"operation": "kmeans", "x": rows.described, "k": k, **options}
        plan = f"every worker has a share of {len(rows):,} rows"
        return job.write(told, compute, len(rows), plan)


def clusters_of(answer: Answer) -> KMeans:
    """What a job found, as `stope.kmeans` gives it."""
    centers, inertia, converged = _reached(answer.folder / CLUSTERS)
    sides = answer.column("label"), centers, answer.column("score"), np.array(inertia)
    return KMeans(*sides, converged)


def _reached(path: Path) -> Reached:
    try:
        with np.load(path) as kept:
            centers, inertia, converged = (kept[name] for name in Reached._fields)
            return Reached(centers, inertia.tolist(), bool(converged))
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove the folder {path.parent} and run again"
        ) from error


class _Actor:
    """A shard of the rows in a process of its own."""

    def __init__(self, rows: Rows, first: int, end: int, threads: int) -> None:
        stope.set_num_threads(threads)
        self.rows, self.first, self.end = rows, first, end

    @cached_property
    def shard(self) -> KMeansShard:
        """Made when it is first asked: an error in an actor's start would be taken for a loss."""
        try:
            pieces = [rows for _, rows in self.rows.pieces(self.first, self.end)]
            return KMeansShard(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
        except ValueError as error:
            raise ValueError(f"{error} (counted from row {self.first} of x on)") from error

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method of the shard."""
        return getattr(self.shard, name)(*arguments)


class _Shard:
    """A `KMeansShard` in an actor, made again where it dies; each is asked by one thread."""

    def __init__(self, make: Any, retries: int) -> None:
        self.make, self.retries, self.losses = make, retries, 0
        self.begun: tuple[Any, ...] | None = None
        self.centers: Any = None
        self.actor = make(lost=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)

        def ask(*arguments: Any, progress: Progress | None = None) -> Any:
            answer = self._ask(name, *arguments)
            if name == "begin":
                self.begun, self.centers = arguments, None
            elif name == "assign":
                self.centers = arguments[0]
            return answer

        return ask

    def _ask(self, name: str, *arguments: Any) -> Any:
        while True:
            try:
                return ray.get(self.actor.ask.remote(name, *arguments))
            except exceptions.RayTaskError as error:
                raise error.cause from None
            except exceptions.RayError as error:
                self.losses += 1
                if self.losses > self.retries:
                    raise RuntimeError(
                        f"a shard was lost {self.losses} times, more than retries={self.retries}; "
                        "if workers run out of memory, give them less to hold: workers"
                    ) from error
                self.actor = self.make(lost=True)
                if self.begun is not None:
                    self.actor.ask.remote("begin", *self.begun)
                if self.centers is not None:
                    self.actor.ask.remote("assign", self.centers)


@contextmanager
def _shards(rows: Rows, k: int, cluster: Cluster) -> Iterator[list[_Shard]]:
    workers, room = min(cluster.workers or 1, len(rows)), cluster.memory or 0
    row_bytes = rows.dim * rows.itemsize + 16 + 4 * min(-(-k // 16), 256)
    memory = WORKER_BYTES + -(-len(rows) // workers) * row_bytes + 24 * k * rows.dim
    if memory > room:
        raise ValueError(
            f"memory is {gib(room)}, but a worker needs {gib(memory)} for its share of the rows "
            f"({counted(workers, 'workers')} in all); give more of either"
        )
    bounds = [len(rows) * worker // workers for worker in range(workers + 1)]
    made: list[Any] = []

    def maker(first: int, end: int) -> Any:
        def make(lost: bool) -> Any:
            # Where one was lost there may be no CPU or memory free; another worker's serves.
            taken = (0, 0) if lost else (cluster.num_cpus, memory)
            of_actor = ray.remote(_Actor).options(num_cpus=taken[0], memory=taken[1])
            made.append(of_actor.remote(rows, first, end, cluster.num_cpus))
            return made[-1]

        return make

    try:
        shards = [_Shard(maker(*span), cluster.retries) for span in pairwise(bounds)]
        ready = [actor.__ray_ready__.remote() for actor in made]
        _, late = ray.wait(ready, num_returns=len(ready), timeout=cluster.patience)
        if late:
            raise RuntimeError(
                f"{len(late)} of {counted(workers, 'workers')} did not start in patience="
                f"{cluster.patience} seconds: k-means needs all at once; free the cluster, or ask "
                "for fewer"
            )
        yield shards
    finally:
        for actor in made:
            ray.kill(actor)
