"""What ids and filters of a FlatIndex cost: processor time of one search, kinds in turns.

python benchmarks/bench_index.py [--rows 100000] [--dim 384] [--turns 9]

Every kind of search answers from the same rows; its answer is compared with that of a plain search
that is filtered afterwards, and the exit code is 1 where they differ.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time

import numpy as np

import stope

K = 10


def filtered(index, queries, allowed):
    """The k best of a search for everything, without what is not allowed (a mask each)."""
    every = index.search(queries, len(index))
    kept = np.take_along_axis(allowed, every.ids, axis=1)
    order = np.argsort(~kept, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(every.ids, order, axis=1)


def searches(rows, dim, random):
    """{name: (index, options for a number of queries, mask for a number of queries)}."""
    corpus = random.standard_normal((rows, dim), dtype=np.float32)
    plain, gone = (stope.FlatIndex(corpus, "cosine") for _ in range(2))
    gone.remove(np.arange(rows // 100))
    mixed = stope.FlatIndex(dim, "cosine")
    order = random.permutation(rows)
    mixed.add(corpus[order], order)
    shares = {share: random.random(rows) < share for share in (0.9, 0.5, 0.1, 0.01)}
    hundred = np.sort(random.integers(0, rows // 100, 100) + np.arange(100) * (rows // 100))
    found = {
        "plain": (plain, {}, np.ones(rows, bool)),
        "1% of the rows removed": (gone, {}, np.arange(rows) >= rows // 100),
        "ids in any order": (mixed, {}, np.ones(rows, bool)),
        "among 100 for each": (plain, {"each": hundred}, np.isin(np.arange(rows), hundred)),
    }
    for share, mask in shares.items():
        found[f"among {share:.0%} for all"] = (plain, {"among": mask}, mask)
    return found


def ranges(index, queries, turns):
    """Print what range_search takes with the index's panels and without; how often they differ."""
    corpus, wrong = index.reconstruct(), 0
    for count in (1, 16, 200):
        some = queries[:count]
        least = float(index.search(some, 20).scores[:, -1].min())
        ways = {
            "range_search": lambda some=some, least=least: index.range_search(some, least),
            "pairs_above, which packs": lambda some=some, least=least: stope.pairs_above(
                some, corpus, threshold=least, metric="cosine"
            ),
        }
        seconds = {name: [] for name in ways}
        packed, plain = (way() for way in ways.values())
        wrong += not np.array_equal(packed.ids, plain.ids)
        wrong += not np.array_equal(packed.scores, plain.scores)
        for _ in range(turns):
            for name, way in ways.items():
                start = time.process_time()
                way()
                seconds[name].append((time.process_time() - start) / count)
        for name, samples in seconds.items():
            print(f"{count:4} queries  {name:24} {1000 * statistics.median(samples):8.3f}")
    return wrong


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("rows", 100_000), ("dim", 384), ("turns", 9)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    kinds = searches(options.rows, options.dim, random)
    queries = random.standard_normal((200, options.dim), dtype=np.float32)
    print(
        f"{options.rows:,} x {options.dim}, cosine, k {K}, {stope.get_num_threads()} threads, "
        f"{stope.isa.current()}, {platform.machine()}, {os.cpu_count()} processors, "
        f"stope {stope.__version__}, NumPy {np.__version__}; processor time, ms a query"
    )
    wrong = 0
    for count in (1, 200):
        some, seconds = queries[:count], {name: [] for name in kinds}
        calls = 20 if count == 1 else 1
        for turn in range(options.turns + 1):
            for name, (index, given, mask) in kinds.items():
                filters = {"among": [given["each"]] * count} if "each" in given else given
                start = time.process_time()
                for _ in range(calls):
                    answer = index.search(some, K, **filters)
                seconds[name].append((time.process_time() - start) / calls / count)
                if turn == 0:  # unmeasured
                    seconds[name].clear()
                    few = min(count, 3)
                    masks = np.broadcast_to(mask, (few, len(mask)))
                    expected = filtered(kinds["plain"][0], some[:few], masks)
                    wrong += not np.array_equal(answer.ids[:few], expected)
        for name, samples in seconds.items():
            print(f"{count:4} queries  {name:24} {1000 * statistics.median(samples):8.3f}")
    wrong += ranges(kinds["plain"][0], queries, options.turns)
    if wrong:
        sys.exit(f"{wrong} wrong answers")


if __name__ == "__main__":
    main()
