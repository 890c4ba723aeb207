"""Which rows train together: batches by plan, of exact number.

`Distinct`, `Homogeneous`, `Clustered` and `Mixed` are specs, by which no query and no positive is
twice in a batch, and so is `Shuffled`, by which it may be; ``spec.plan(table, batch_size, seed)``
gives a `Plan`, whose ``batches(epoch)`` are a function of seed and epoch. `batch_sampler` hands one
to sentence-transformers' trainer. All but the sampler is plain NumPy.
"""

from __future__ import annotations

from stope import KMeans as Clusters  # noqa: F401  # the names of before
from stope.training.batches.plans import Plan
from stope.training.batches.protocol import BatchSpec, RowNumbers, Sizes, Table, batch_spec_names
from stope.training.batches.sampler import batch_sampler
from stope.training.batches.specs import Clustered, Distinct, Homogeneous, Mixed, Shuffled
from stope.training.batches.specs import kmeans as kmeans

__all__ = [
    "BatchSpec", "Clustered", "Distinct", "Homogeneous", "Mixed", "Plan", "RowNumbers", "Shuffled",
    "Sizes", "Table", "batch_sampler", "batch_spec_names",
]  # fmt: skip
