"""Operations on a Ray cluster, over matrices in files: the bits of one machine, from many.

A job has a folder, which holds the answer in parts, Parquet files, and a manifest. A job that was
stopped anywhere goes on from the parts that are there. Every node must see the files by the same
names; and the folder, too, where a source has to be copied first (Parquet, Lance, Zarr, JSON lines,
Ray Data sets, matrices in memory).
"""

from stope._extras import need

need("ray", extra="ray")

from stope.scale.ray.clusters import kmeans  # noqa: E402
from stope.scale.ray.duplicates import dedup  # noqa: E402
from stope.scale.ray.encoding import encode  # noqa: E402
from stope.scale.ray.job import Answer  # noqa: E402
from stope.scale.ray.jobs import knn_graph, mine, topk  # noqa: E402
from stope.scale.ray.operations import Operations  # noqa: E402
from stope.scale.ray.pool import Cluster  # noqa: E402

__all__ = [
    "Answer", "Cluster", "Operations", "dedup", "encode", "kmeans", "knn_graph", "mine", "topk",
]  # fmt: skip
