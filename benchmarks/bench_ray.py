"""Jobs on local Ray clusters: equal bytes by 1, 2 and 4 workers, overhead, and 30 random kills.

    python benchmarks/bench_ray.py equality | overhead [ROWS QUERIES] | kills [COUNT]

Two cores cannot show a speed-up: more workers share them. Kills are of a worker's process, or of a
raylet with all on it (one in five, after which a new node joins), at random moments of the job,
which are those at which a block is done: other blocks are then under way.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import ray
from ray.cluster_utils import Cluster as LocalCluster

import stope
from stope.scale.ray import Cluster, topk

# Ray ends workers where the machine, with whatever else runs on it, is short of memory.
os.environ["RAY_memory_monitor_refresh_ms"] = "0"  # noqa: SIM112
# It runs workers at niceness 15, where beside other work they would be compared with nothing.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}
DIM, K = 384, 20


def matrices(folder, rows, queries, dim):
    """Random rows in files, written block by block."""
    rng = np.random.default_rng(0)
    for name, count in (("c", rows), ("q", queries)):
        path = folder / f"{name}.npy"
        out = np.lib.format.open_memmap(path, "w+", np.float32, (count, dim))
        for at in range(0, count, 65_536):
            part = out[at : at + 65_536]
            part[:] = rng.standard_normal(part.shape, dtype=np.float32)
        del out
    return folder / "q.npy", folder / "c.npy"


def equality(folder):
    """The parts of a job by 1, 2 and 4 workers, byte by byte."""
    queries, corpus = matrices(folder, 50_000, 10_000, 128)
    ray.init("local", num_cpus=4, log_to_driver=False, logging_level="ERROR")
    parts = []
    for workers in (1, 2, 4):
        for memory in (4 << 30, 336 << 20):
            began = time.perf_counter()
            cluster = Cluster(workers=workers, memory=memory)
            answer = topk(queries, corpus, K, folder / f"{workers}-{memory}", cluster=cluster)
            columns = answer.column("document_ids"), answer.column("scores")
            parts.append(b"".join(column.tobytes() for column in columns))
            said = f"{time.perf_counter() - began:.1f} s; {answer.plan}"
            print(f"{workers} workers: {'equal' if parts[-1] == parts[0] else 'DIFFERENT'}, {said}")
    ray.shutdown()


def processor_seconds():
    """Of this process and of all that Ray has started on this machine: name and seconds by id."""
    me = psutil.Process()
    seconds = {me.pid: ("driver", time.process_time())}
    for child in me.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            words, used = child.cmdline(), child.cpu_times()
            kind = "worker" if words and words[0].startswith("ray::") else "daemon"
            seconds[child.pid] = kind, used.user + used.system
    return seconds


def overhead(folder, rows=1_000_000, queries=20_000):
    """A job against the plain call, each twice in turns; processor time beside wall time."""
    query_path, corpus_path = matrices(folder, rows, queries, DIM)
    ray.init("local", num_cpus=2, log_to_driver=False, logging_level="ERROR")
    asked, corpus = (np.load(path, mmap_mode="r") for path in (query_path, corpus_path))
    stope.set_num_threads(2)
    for turn in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        plain = stope.topk(asked, corpus, K)
        plain_wall, plain_cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(
            f"turn {turn}: plain, 2 threads: {plain_wall:.1f} s wall, {plain_cpu:.1f} s processor"
        )
        wall, before = time.perf_counter(), processor_seconds()
        answer = topk(query_path, corpus_path, K, folder / f"job{turn}")
        wall, after = time.perf_counter() - wall, processor_seconds()
        for peak in answer.workers:  # the job has ended them; theirs is from their start on
            after[peak.process] = "worker", peak.cpu_seconds
            before.pop(peak.process, None)
        used = dict.fromkeys(("driver", "worker", "daemon"), 0.0)
        for process, (kind, seconds) in after.items():
            used[kind] += seconds - before.get(process, ("", 0.0))[1]
        cpu = used["driver"] + used["worker"]
        same = np.array_equal(answer.column("document_ids"), plain.ids)
        print(f"turn {turn}: Ray, 2 workers: {wall:.1f} s wall, {cpu:.1f} s processor (driver")
        print(f"    {used['driver']:.1f}, workers {used['worker']:.1f}); Ray itself:")
        print(f"    {used['daemon']:.1f} s; equal: {same}; {answer.plan}")
        for what, more in (("processor", cpu / plain_cpu), ("wall", wall / plain_wall)):
            print(f"    over the plain call: {more - 1:.1%} of {what} time", flush=True)
        print(
            "   ",
            [f"peak {p.peak_bytes >> 20} MiB, own {p.own_bytes >> 20}" for p in answer.workers],
        )
    ray.shutdown()


def workers_of(node):
    """The processes of a node that are actors at work."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    for child in raylet.children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "_Worker" in " ".join(child.cmdline()):
                yield child


class Kills:
    """Kills as the job says how far it is."""

    def __init__(self, local, many, rng):
        self.local, self.left, self.rng, self.said = local, many, rng, []

    def __call__(self, done, total):
        if not self.left or self.rng.random() < 0.3:
            return
        node = self.rng.choice([node for node in self.local.list_all_nodes() if not node.head])
        if self.rng.random() < 0.2:
            self.local.remove_node(node, allow_graceful=False)
            self.local.add_node(**NODE)
            self.said.append("raylet")
        else:
            workers = list(workers_of(node))
            if not workers:
                return
            self.rng.choice(workers).send_signal(signal.SIGKILL)
            self.said.append("worker")
        self.left -= 1


def kills(folder, many=30):
    """Jobs until so many kills; answers against the plain call."""
    queries, corpus = matrices(folder, 40_000, 30_000, 96)
    wanted = stope.topk(np.load(queries), np.load(corpus), K)
    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    local = LocalCluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        local.add_node(**NODE)
    ray.init(local.address, log_to_driver=False, logging_level="ERROR")
    killer, jobs, began = Kills(local, many, random.Random(0)), 0, time.perf_counter()
    while killer.left:
        cluster = Cluster(memory=(4 << 30, 336 << 20)[jobs % 2])
        answer = topk(queries, corpus, K, folder / f"job{jobs}", cluster=cluster, progress=killer)
        jobs += 1
        same = np.array_equal(answer.column("document_ids"), wanted.ids)
        same = same and np.array_equal(answer.column("scores"), wanted.scores)
        done = len(killer.said)
        print(f"job {jobs}: {done} kills so far; equal: {same}; {answer.plan}", flush=True)
    seconds = time.perf_counter() - began
    raylets = killer.said.count("raylet")
    print(f"{len(killer.said)} kills, {raylets} of raylets, in {jobs} jobs and {seconds:.0f} s")
    ray.shutdown()
    local.shutdown()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        {"equality": equality, "overhead": overhead, "kills": kills}[sys.argv[1]](
            Path(made), *map(int, sys.argv[2:])
        )
