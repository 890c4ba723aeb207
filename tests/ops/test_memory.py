"""Peak extra memory: no score matrix, no copy of the corpus, nothing left behind."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not os.path.exists("/proc/self/status"), reason="memory is read from /proc"
)

MEMORY = """
import sys, threading, time
import numpy as np
import stope

def private_bytes():
    with open("/proc/self/status") as lines:
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))

def fill(shape):
    rows, rng = np.empty(shape, np.float32), np.random.default_rng(0)
    for part in np.array_split(rows, 40):
        part[:] = rng.standard_normal(part.shape, dtype=np.float32)
    return rows

stope.set_num_threads(2)
queries, corpus = fill((1024, 64)), fill((300_000, 64))
corpus.tofile("corpus.f32")
mapped = np.memmap("corpus.f32", np.float32, "r", shape=corpus.shape)
half = np.empty(corpus.shape, np.float16)
half[:] = corpus
positives = np.arange(1024)
work = {
    "dot": lambda: stope.topk(queries, corpus, 100),
    "cosine": lambda: stope.topk(queries, corpus, 100, metric="cosine"),
    "euclidean": lambda: stope.topk(queries, corpus, 100, metric="euclidean"),
    "float16": lambda: stope.topk(queries.astype(np.float16), half, 100),
    "memory map": lambda: stope.topk(queries, mapped, 100),
    "mining": lambda: stope.mine_hard_negatives(queries, corpus, positives, relative_margin=0.05),
    "random": lambda: stope.mine_hard_negatives(
        queries, corpus, positives, sampling="random", range_max=100),
}[sys.argv[1]]
stope.topk(queries[:8], corpus[:1000], 10)
before, peak, stop = private_bytes(), 0, threading.Event()
def watch():
    global peak
    while not stop.is_set():
        peak = max(peak, private_bytes())
        time.sleep(0.002)
watcher = threading.Thread(target=watch)
watcher.start()
work()
stop.set()
watcher.join()
print((peak - before) / 2**20)
"""


@pytest.mark.parametrize(
    "work", ["dot", "cosine", "euclidean", "float16", "memory map", "mining", "random"]
)
def test_extra_memory_is_bounded(work, tmp_path):
    """The score matrix would be 1,172 MiB and a packed or copied corpus 18 to 73 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, work],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 64, done.stdout


def test_repeated_calls_do_not_leak(succeeds):
    stdout = succeeds(
        """
        import numpy as np, stope
        def private_bytes():
            with open("/proc/self/status") as lines:
                return next(1024 * int(s.split()[1]) for s in lines if s.startswith("RssAnon"))
        rng = np.random.default_rng(0)
        queries, corpus = (rng.standard_normal((n, 32), dtype=np.float32) for n in (64, 5000))
        def once():
            stope.topk(queries, corpus, 50, exclude=[[1, 2]] * 64)
            stope.mine_hard_negatives(queries, corpus, np.arange(64), relative_margin=0.05)
            stope.FlatIndex(corpus[:500]).search(queries, 5)
            try:
                stope.topk(queries, corpus.astype(np.float64), 3)
            except TypeError:
                pass
        for _ in range(40):
            once()
        before = private_bytes()
        for _ in range(200):
            once()
        print((private_bytes() - before) / 2**20)
        """
    )
    assert float(stdout) < 4
