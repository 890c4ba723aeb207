"""Rows against each other, stope and peers: `python benchmarks/bench_neighbors.py --quick`.

Graphs of the 15 nearest others against stope's own topk (which multiplies twice as much), faiss and
scikit-learn; pairs above 0.9 against faiss' range_search and sentence-transformers'
paraphrase_mining; k-means from the same first centers against faiss' and scikit-learn's. Slow peers
get the smaller sizes only (neighbor_peers.py).
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import answers
import harness
import inputs as data
from answers import Verdict
from bench_topk import check as check_ranking
from inputs import ClusterWork, NeighborWork

DIM, K = 384, 15
ROWS = (10_000, 50_000, 200_000)
CLUSTERS = ((50_000, 100), (50_000, 1_000), (500_000, 1_000))  # rows, k
SAME_INERTIA = 1e-4  # relative: faiss adds float32 numbers


def rows(kinds: list[str], quick: bool) -> list[data.Work]:
    """The rows of the table."""
    sizes = (5_000,) if quick else ROWS

    def row(name: str, n: int, k: int, kind: str) -> NeighborWork:
        repeat = 1 if n > min(ROWS) else None  # minutes each
        return NeighborWork(
            f"{name}-{n}-{kind}", name, n, n, DIM, k, data=kind, repeat=repeat, memory=not quick
        )

    def clusters(n: int, k: int, kind: str) -> ClusterWork:
        name = f"kmeans-{n}-{k}-{kind}"
        repeat = 1 if n > 50_000 else 3
        return ClusterWork(name, "kmeans", n, n, DIM, k, kind, repeat=repeat, memory=not quick)

    return [
        row(name, n, k, kind)
        for name, k in (("graph", K), ("pairs", 0))
        for n in sizes
        for kind in kinds
    ] + [
        clusters(n, k, kind) for n, k in (((5_000, 100),) if quick else CLUSTERS) for kind in kinds
    ]


def check(work: data.Work, given: data.Inputs, results: dict[str, Any], subject: str) -> Verdict:
    """Graphs as rankings are compared; pairs must be the same but for scores at the threshold."""
    if isinstance(work, ClusterWork):
        return _check_clusters(work, results, subject)
    if work.k:
        return check_ranking(work, given, results, subject)
    if not isinstance(work, NeighborWork):
        raise TypeError(f"work is {type(work).__name__}, not NeighborWork")
    mine = _numbers(work, results[subject])
    problems, details = [], {"pairs": len(mine)}
    for name, result in results.items():
        others = _numbers(work, result)
        differing = np.setxor1d(mine, others)
        exact = answers.exact_scores(given, differing // work.rows, differing % work.rows)
        wrong = int((np.abs(exact - work.threshold) > answers.rounding(work.dim)).sum())
        details[name] = {"pairs": len(others), "beyond_rounding": wrong}
        problems += [f"{name}: {wrong} pairs WRONG"] if wrong else []
    words = "\n".join(problems) or ("same" if len(results) > 1 else "not compared")
    return Verdict(not problems, f"{words}\n{len(mine):,} pairs", details)


def _check_clusters(work: ClusterWork, results: dict[str, Any], subject: str) -> Verdict:
    """Inertia after each update, of those that a contender tells; and processor seconds."""
    mine = results[subject][0]
    problems, details, words = [], {}, []
    for name, (inertia, seconds) in results.items():
        details[name] = {"inertia": inertia, "processor_seconds": seconds}
        words.append(f"{name.partition('@')[0]} {seconds:.1f} s")
        expected = mine[-len(inertia) :] if len(inertia) == 1 else mine[: len(inertia)]
        if not np.allclose(inertia, expected, rtol=SAME_INERTIA):
            problems.append(f"{name}: inertia WRONG")
    told = "\n".join(problems) or f"inertia {mine[-1]:.6g}"
    return Verdict(not problems, f"{told}\nprocessor: {', '.join(words)}", details)


def _numbers(work: NeighborWork, pairs: tuple[np.ndarray, np.ndarray, np.ndarray]) -> np.ndarray:
    """Each pair as a number; the lower row comes first."""
    first, second = np.minimum(pairs[0], pairs[1]), np.maximum(pairs[0], pairs[1])
    return first.astype(np.int64) * work.rows + second


def main() -> int:
    """Run the benchmark; see `--help`."""
    options = harness.parser(__doc__.splitlines()[0]).parse_args()
    kinds = options.data or ["clustered"]
    return harness.run("neighbours", rows(kinds, options.quick), options, check)


if __name__ == "__main__":
    sys.exit(main())
