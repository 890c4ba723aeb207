"""What `stope plan` predicts, beside what is measured.

python benchmarks/bench_scale.py plan [--turns 3] [--threads 1]
python benchmarks/bench_scale.py memory
python benchmarks/bench_scale.py corpus [--gigabytes 20] [--queries 512]

`plan`: searches of several shapes from files that lie on the disk alone, the machine measured
before each. The exit code is 1 where a median is further from the prediction than `--within`.
`memory`: peaks of the workers of a local Ray cluster beside what the plan says; 1 where one is
above 1.3 times that. `corpus`: a made corpus of int8 rows, in eight files, through two workers of
`--memory`; 1 where a worker took more, or the answer is not that of one process. Files are made in
`--folder` (default: build, which git ignores) and removed; a run that is killed leaves them there.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import stope
from stope.scale.plan import Search, gib, layout, predict
from stope.scale.rates import measure

# queries, corpus, dim, k, itemsize: each has another term of the model as its largest or second
SHAPES = (
    Search(4096, 100_000, 768, 20),
    Search(4096, 200_000, 384, 10),
    Search(20_000, 40_000, 128, 20),
    Search(16, 400_000, 384, 20),
    Search(2000, 100_000, 384, 1000),
    Search(4096, 200_000, 384, 20, itemsize=2),
    Search(4096, 200_000, 384, 20, itemsize=1),
)
DTYPES = {4: np.float32, 2: np.float16, 1: np.int8}


def written(path, rows, dim, itemsize, random):
    """Write random rows, and let the memory forget them."""
    out = np.lib.format.open_memmap(path, "w+", DTYPES[itemsize], (rows, dim))
    scale = 32 if itemsize == 1 else 1 / math.sqrt(dim)
    for at in range(0, rows, 65_536):
        block = random.standard_normal((min(65_536, rows - at), dim), np.float32)
        out[at : at + len(block)] = np.clip(block * scale, -127, 127)
    out.flush()
    forget(path)


def forget(path):
    """Write a file out and take its pages from the memory."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def searched(folder, work):
    """Seconds (wall, processor) of a search from files to a file."""
    paths = [folder / f"{name}.npy" for name in ("queries", "corpus")]
    for path in paths:
        forget(path)
    start, processor = time.perf_counter(), time.process_time()
    queries, corpus = (np.load(path, mmap_mode="r") for path in paths)
    answer = stope.topk(queries, corpus, work.k)
    for name, array in zip(answer._fields, answer, strict=True):
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, array)
            os.fsync(file.fileno())
    return time.perf_counter() - start, time.process_time() - processor


def machine():
    """One line on where this was measured."""
    return (
        f"{platform.machine()}, {os.cpu_count()} processors, load average "
        f"{os.getloadavg()[0]:.0f}, {stope.isa.current()}, {stope.get_num_threads()} threads; "
        f"stope {stope.__version__}, NumPy {np.__version__}, Python {platform.python_version()}"
    )


def plan(options):
    """Predicted and measured seconds of each shape."""
    stope.set_num_threads(options.threads)
    print(f"{machine()}\nseconds: medians of {options.turns} turns; ratio: measured / predicted\n")
    print(f"{'queries x corpus x dim, k, bytes':38} predicted  measured  ratio (range)      limit")
    far = 0
    for work in SHAPES:
        random = np.random.default_rng(0)
        with tempfile.TemporaryDirectory(dir=options.folder) as name:
            folder = Path(name)
            for part, rows in (("queries", work.queries), ("corpus", work.corpus)):
                written(folder / f"{part}.npy", rows, work.dim, work.itemsize, random)
            turns = []
            for _ in range(options.turns):
                here = measure(work.dim, work.k, itemsize=work.itemsize, folder=folder)
                made = predict(work, here, block_rows=work.queries)
                turns.append((made.total_seconds, searched(folder, work)[0], made.limit))
        ratios = sorted(took / said for said, took, _ in turns)
        middle = statistics.median(ratios)
        far += not 1 / options.within <= middle <= options.within
        shape = f"{work.queries:,} x {work.corpus:,} x {work.dim}, {work.k}, {work.itemsize}"
        said, took = (statistics.median(turn[at] for turn in turns) for at in (0, 1))
        print(
            f"{shape:38} {said:9.2f} {took:9.2f} {middle:6.2f} ({ratios[0]:.2f} to "
            f"{ratios[-1]:.2f})  {turns[0][2]}",
            flush=True,
        )
    print(f"\n{len(SHAPES) - far} of {len(SHAPES)} within a factor of {options.within}")
    return int(far > 0)


def clustered(folder, queries, corpus, k, workers, memory):
    """A job's answer, and its seconds, on a local cluster that ends with it."""
    from stope.scale.ray import Cluster, topk

    cluster = Cluster(address="local", workers=workers, memory=memory)
    start = time.perf_counter()
    answer = topk(queries, corpus, k, folder / "answer", cluster=cluster)
    return answer, time.perf_counter() - start


def tell_peaks(answer, planned):
    """Print each worker's peak beside the plan; the largest ratio."""
    print(answer.plan)
    for worker in answer.workers:
        print(
            f"  worker {worker.process}: peak {gib(worker.peak_bytes)}, of which its own "
            f"{gib(worker.own_bytes)}; planned {gib(planned)}, ratio "
            f"{worker.peak_bytes / planned:.2f}",
            flush=True,
        )
    return max(worker.peak_bytes for worker in answer.workers) / planned


def memory(options):
    """Peaks of workers: a corpus that fits them, and one in shards."""
    print(f"{machine()}\n")
    work = Search(8192, 500_000, 384, 100)
    worst = 0.0
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, random = Path(name), np.random.default_rng(0)
        for part, rows in (("queries", work.queries), ("corpus", work.corpus)):
            written(folder / f"{part}.npy", rows, work.dim, work.itemsize, random)
        for limit in (2 << 30, 700 << 20):
            cut = layout(work, memory=limit, workers=2)
            paths = (folder / "queries.npy", folder / "corpus.npy")
            answer, took = clustered(folder, *paths, work.k, 2, limit)
            print(f"{work}, 2 workers of {gib(limit)}, {took:.0f} s")
            worst = max(worst, tell_peaks(answer, cut.memory))
            shutil.rmtree(folder / "answer")
    return int(worst > 1.3)


def corpus(options):
    """A corpus that is larger than the workers together."""
    print(f"{machine()}\n")
    rows = int(options.gigabytes * 1e9 / 768 / 8)
    work = Search(options.queries, 8 * rows, 768, 20, itemsize=1)
    cut = layout(work, memory=options.memory, workers=2)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder, random = Path(name), np.random.Generator(np.random.SFC64(0))
        (folder / "corpus").mkdir()
        for number in range(8):
            path = folder / f"corpus/part-{number}.npy"
            out = np.lib.format.open_memmap(path, "w+", np.int8, (rows, 768))
            for at in range(0, rows, 1 << 17):
                block = out[at : at + (1 << 17)]
                block[:] = np.frombuffer(random.bytes(block.size), np.int8).reshape(block.shape)
            out.flush()
            del out, block
            forget(path)
        queries = np.frombuffer(random.bytes(768 * options.queries), np.int8).reshape(-1, 768)
        np.save(folder / "queries.npy", queries)
        paths = (folder / "queries.npy", folder / "corpus")
        answer, took = clustered(folder, *paths, work.k, 2, options.memory)
        print(f"{work}, {gib(work.corpus_bytes)}, 2 workers of {gib(options.memory)}, {took:.0f} s")
        tell_peaks(answer, cut.memory)
        start = time.perf_counter()
        maps = (np.load(path, mmap_mode="r") for path in sorted((folder / "corpus").iterdir()))
        alone = stope.topk_blocks(queries, maps, work.k)
        same = all(
            np.array_equal(answer.column(column), matrix)
            for column, matrix in (("document_ids", alone.ids), ("scores", alone.scores))
        )
        print(f"one process: {time.perf_counter() - start:.0f} s; answers equal: {same}")
    fits = max(worker.peak_bytes for worker in answer.workers) <= options.memory
    return int(not (same and fits))


def main(arguments=None):
    """Run the part that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parts = parser.add_subparsers(required=True)
    for function in (plan, memory, corpus):
        part = parts.add_parser(function.__name__)
        part.set_defaults(run=function)
        part.add_argument("--folder", type=Path, default=Path("build"), help="default: build")
        if function is plan:
            part.add_argument("--turns", type=int, default=3)
            part.add_argument("--threads", type=int, default=1)
            part.add_argument("--within", type=float, default=2.0)
        if function is corpus:
            part.add_argument("--gigabytes", type=float, default=20)
            part.add_argument("--queries", type=int, default=512)
            part.add_argument("--memory", type=int, default=4 << 30)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    return options.run(options)


if __name__ == "__main__":
    sys.exit(main())
