"""stope: exact top-k, hard negatives and contrastive training for dense retrieval.

Importing this package needs NumPy only. Pipelines live in ``stope.data``, ``stope.mining``,
``stope.retrieval``, ``stope.evaluation`` and ``stope.training``, and are imported by name.
"""

from __future__ import annotations

from typing import Any

from stope import _core, errors, isa
from stope._checks import integer
from stope._moved import find_moved_modules
from stope.indexes.flat import FlatIndex
from stope.ops._lloyd import KMeans
from stope.ops._search import TopK
from stope.ops.hard_negatives import HardNegatives, mine_hard_negatives
from stope.ops.infonce import InfoNCE, InfoNCEGradients, infonce_backward, infonce_forward
from stope.ops.kmeans import kmeans
from stope.ops.knn_graph import knn_graph
from stope.ops.nearest_earlier import nearest_earlier
from stope.ops.pairs_above import PairsAbove, pairs_above
from stope.ops.similarity import similarity
from stope.ops.topk import topk
from stope.ops.topk_blocks import topk_blocks

__version__: str = _core.build_info()["version"]

find_moved_modules()

__all__ = [
    "FlatIndex", "HardNegatives", "InfoNCE", "InfoNCEGradients", "KMeans", "PairsAbove", "TopK",
    "build_info", "errors", "get_num_threads", "infonce_backward", "infonce_forward", "isa",
    "kmeans", "knn_graph", "mine_hard_negatives", "nearest_earlier", "pairs_above",
    "set_num_threads", "similarity", "topk",
    "topk_blocks",
]  # fmt: skip


def build_info() -> dict[str, Any]:
    """How the core was built and what it runs on.

    Returns:
        ``version``, ``compiler``, ``flags``, ``build_type``, ``build_dir``, ``cuda`` (whether the
        CUDA core is in), ``isa`` (in use), ``isas`` (available) and ``threads``.

    >>> build_info()["version"] == __version__
    True
    """
    return {
        **_core.build_info(),
        "isa": isa.current(),
        "isas": isa.available(),
        "threads": get_num_threads(),
    }


def get_num_threads() -> int:
    """Return how many threads an operation uses."""
    return _core.num_threads()


def set_num_threads(count: int) -> None:
    """Set how many threads an operation uses, from 1 to 1024, for the whole process.

    Operations may be called from any thread, also at once: they take turns on the pool of threads.
    One that is called inside a callback of another (``progress``, a signal handler, ``__del__``),
    or that such a callback waits for, uses the thread that calls it; its bits are the same.
    In a child that is forked inside a callback the operation around it raises ``RuntimeError``.

    The default is ``STOPE_NUM_THREADS``, then ``OMP_NUM_THREADS``, then the processors that this
    process may use. Results do not depend on it.

    Raises:
        TypeError: no integer.
        ValueError: one that is not from 1 to 1024.

    >>> set_num_threads(get_num_threads())
    """
    _core.set_num_threads(integer(count, "num_threads", 1, 1024))
