"""stope's operations with their own names and arguments, computed on a cluster.

What takes ``operations`` (`stope.neighbors.deduplicate`, `stope.mining.mine`, ...) takes this in
place of the module `stope`, and so does everything that it is made of.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._checks import path as path_kind
from stope._host import on_host
from stope.mining.jobs.miner import Miner
from stope.ops._lloyd import KMeans
from stope.ops._search import Metric, TopK
from stope.ops.hard_negatives import REASONS, HardNegatives
from stope.ops.nearest_earlier import in_order
from stope.progress import Progress
from stope.scale.ray import clusters, jobs
from stope.scale.ray.encoding import SharedEncoder
from stope.scale.ray.job import Answer
from stope.scale.ray.mining_jobs import mined
from stope.scale.ray.pool import Cluster


@dataclass
class Operations:
    """Operations on matrices in memory or mapped, each a job in a folder of its name.

    Attributes:
        folder: of the jobs; a process that was stopped goes on from what is there.
        cluster: which works.
        plans: how jobs were cut, in their order.
        folders: of the jobs, likewise.
    """

    folder: Path
    cluster: Cluster
    plans: list[str] = dataclasses.field(default_factory=list)
    folders: list[Path] = dataclasses.field(default_factory=list)
    shared: SharedEncoder | None = None

    @classmethod
    @contextmanager
    def at(
        cls, folder: str | PathLike[str], cluster: Cluster | None = None
    ) -> Iterator[Operations]:
        """Connect to the cluster, until the end of a `with` block."""
        with (cluster or Cluster()).connected() as connected:
            made = cls(path_kind(folder, "folder"), dataclasses.replace(connected, address=None))
            try:
                yield made
            finally:
                made.close()

    def share(self, model: Any, name: Any) -> None:
        """Let workers, who load it by this name, encode what the model is asked for.

        `stope.encoders.encode_queries` and `encode_corpus` give the same bits as without, if the
        workers' processors are of one kind with this one.
        """
        self.close()
        model.encode_all = self.shared = SharedEncoder(name, self.cluster)

    def close(self) -> None:
        """Let the workers of an encoder go: they hold CPUs that others need."""
        if self.shared is not None:
            self.shared.close()

    def topk(self, queries: Any, corpus: Any, k: int, **options: Any) -> TopK:
        """`stope.topk`; without precision, out and pad."""
        answer = self._run(jobs.topk, "topk", queries, corpus, k, **options)
        return TopK(answer.column("scores"), answer.column("document_ids"))

    def knn_graph(self, x: Any, k: int, **options: Any) -> TopK:
        """`stope.knn_graph`."""
        answer = self._run(jobs.knn_graph, "knn_graph", x, k, **options)
        return TopK(answer.column("scores"), answer.column("neighbor_ids"))

    def nearest_earlier(self, x: Any, order: Any = None, **options: Any) -> TopK:
        """`stope.nearest_earlier`; for an order the rows are copied in that order."""

        def earlier(rows: Any) -> TopK:
            answer = self._run(jobs.earlier, "nearest_earlier", rows, **options)
            return TopK(answer.column("score"), answer.column("earlier"))

        return in_order(earlier, x, order)

    def pairs_above(self, x: Any, y: Any, *, sink: Any, **options: Any) -> int:
        """`stope.pairs_above` of two matrices, with a sink."""
        answer, total = self._run(jobs.pairs, "pairs_above", x, y, **options), 0
        for table in answer.tables():
            rows, ids, scores = (table[name].to_numpy() for name in ("row", "id", "score"))
            total += len(rows)
            if len(rows):
                sink(rows, ids, scores)
        return total

    def mine_hard_negatives(
        self, queries: Any, corpus: Any, positives: Any, num_negatives: int = 5, **options: Any
    ) -> HardNegatives:
        """`stope.mine_hard_negatives`."""
        arrays = queries, corpus, positives
        answer = self._run(jobs.mine, "mine", *arrays, num_negatives=num_negatives, **options)
        return HardNegatives(
            ids=answer.column("negative_ids"),
            scores=answer.column("scores"),
            positive_scores=answer.column("positive_score"),
            counts=answer.column("count"),
            rejected={reason: answer.column(f"rejected_{reason}") for reason in REASONS},
        )

    def kmeans(self, x: Any, k: int, **options: Any) -> KMeans:
        """`stope.kmeans`."""
        return clusters.clusters_of(self._run(clusters.kmeans, "kmeans", x, k, **options))

    def FlatIndex(self, rows: Any, metric: Metric = "dot") -> Index:  # noqa: N802
        """What `stope.retrieval.DenseRetriever` searches in place of `stope.FlatIndex`."""
        return Index(self, on_host(rows), metric)

    def mined(
        self, miner: Miner, spans: Sequence[tuple[int, int]]
    ) -> Iterator[NDArray[np.float32]]:
        """What a `stope.mining.MiningJob` mines of its queries, span by span in their order."""
        self.close()
        folder = self.folder.absolute() / f"{len(self.plans)}-mined"
        self.folders.append(folder)
        self.plans.append(f"every worker maps the corpus; blocks of {spans[0][1] - spans[0][0]}")
        return mined(miner, spans, folder, self.cluster)

    def _run(self, job: Any, name: str, *arrays: Any, **options: Any) -> Answer:
        self.close()
        folder = self.folder / f"{len(self.plans)}-{name}"
        answer: Answer = job(*arrays, output=folder, cluster=self.cluster, **options)
        self.plans.append(answer.plan)
        self.folders.append(folder)
        return answer


@dataclass(frozen=True)
class Index:
    """The rows that `Operations.topk` searches, as `stope.FlatIndex` is asked."""

    operations: Operations
    rows: Any
    metric: Metric

    def __len__(self) -> int:
        return len(self.rows)

    def search(
        self,
        queries: Any,
        k: int,
        *,
        exclude: Any = None,
        precision: str = "exact",
        progress: Progress | None = None,
    ) -> TopK:
        """The k best rows of each query."""
        if precision != "exact":
            raise ValueError(f"precision is {precision!r}; on a cluster searches are exact")
        options = {"metric": self.metric, "exclude": exclude, "progress": progress}
        return self.operations.topk(queries, self.rows, k, **options)
