"""A local Ray cluster of two nodes with a CPU each."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

ray = pytest.importorskip("ray")

from ray.cluster_utils import Cluster as LocalCluster

from stope.scale import ray as scale

# Ray leaves sockets and files to the end of the process, and tells of itself in warnings.
MARKS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:`use_\\w+` is deprecated:DeprecationWarning"),
]
NODE = {"num_cpus": 1, "object_store_memory": 80 << 20}
ONE = scale.Cluster(workers=1)  # starts sooner than two


@pytest.fixture(scope="module")
def local():
    """A connected cluster: a head without CPUs, and two nodes with one each."""
    with contextlib.ExitStack() as until, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # whatever else this machine does
        patch.setenv("RAY_health_check_period_ms", "1000")  # five fail before a node is dead
        cluster = LocalCluster()
        until.callback(cluster.shutdown)
        cluster.add_node(**{**NODE, "num_cpus": 0}, include_dashboard=False)
        for _ in range(2):
            cluster.add_node(**NODE)
        until.callback(ray.shutdown)
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster


def matrices(rows=900, queries=1000, dim=8):
    """Small whole numbers: many scores are equal."""
    rng = np.random.default_rng(0)
    return (
        rng.integers(-3, 4, (queries, dim)).astype(np.float32),
        rng.integers(-3, 4, (rows, dim)).astype(np.float32),
    )
