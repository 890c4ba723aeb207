"""Exact top-k against faiss, torch and usearch: `python benchmarks/bench_topk.py --quick`.

The first rows are the headline of the README; the others change one thing at a time: the number of
queries, k, the dimension, the corpus' type and size, the threads, the precision asked for.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

import answers
import harness
import inputs as data
import peers
from answers import Verdict
from inputs import TopKWork

QUERIES, ROWS, DIM, K = 2_048, 500_000, 384, 100


def rows(kinds: list[str], quick: bool) -> list[TopKWork]:
    """The rows of the table; only the headline is measured on every kind of data."""
    queries, size = (128, 20_000) if quick else (QUERIES, ROWS)
    first = kinds[0]

    def row(name: str, group: str, **changed: Any) -> TopKWork:
        sizes = {"queries": queries, "rows": size, "dim": DIM, "k": K, "data": first}
        return TopKWork(name, group, **{**sizes, **changed})

    every = {"all_peers": True, "memory": True}
    found = [row(f"main-{kind}", "main", data=kind, all_isas=True, **every) for kind in kinds]
    if quick:
        found[1:] = [row(f"main-{kind}", "main", data=kind) for kind in kinds[1:]]
    found += [
        row(f"packed-{n}", "packed", queries=n, packed=True, all_peers=True, memory=not quick)
        for n in (1, 8, 32)
    ]
    found += [
        row(f"euclidean-{n}-k{k}", "euclidean", queries=n, k=k, packed=True, metric="euclidean")
        for n, k in ((1, 10), (1, K), (8, K))
    ]
    found += [row(f"unpacked-{n}", "queries", queries=n) for n in (1, 32)]
    found += [row(f"k-{k}", "k", k=k, memory=not quick) for k in (10, 1_000)]
    found += [
        row(f"dim-{dim}", "dim", dim=dim) for dim in ((100,) if quick else (100, 128, 768, 1_024))
    ]
    found += [row(name, "dtype", dtype=name, memory=not quick) for name in ("float16", "bfloat16")]
    found += [
        row(f"precision-{name}", "precision", precision=name) for name in ("bfloat16", "int8")
    ]
    cores = peers.cores()
    found += [row(f"threads-{n}", "threads", threads=n) for n in sorted({1, cores})]
    if not quick:
        found += [row(f"k-{k}", "k", k=k) for k in (1, 300)]
        found += [row(f"queries-{n}", "queries", queries=n) for n in (8, 128, 512, 8_192)]
        found += [row(f"rows-{n}", "rows", rows=n) for n in (62_500, 125_000, 250_000, 1_000_000)]
    if first == "real":  # one dimension, and 4,892 queries
        return [work for work in found if work.dim == DIM and work.queries <= QUERIES]
    return found


def check(work: data.Work, given: data.Inputs, results: dict[str, Any], subject: str) -> Verdict:
    """Ids equal the peers' wherever scores differ by more than rounding; all ISAs bit-equal."""
    scores, ids = (np.asarray(part) for part in results[subject])
    others = {name: found for name, found in results.items() if name != subject}
    if isinstance(work, TopKWork) and work.precision != "exact":
        return _recall(ids, {name: np.asarray(found[1]) for name, found in others.items()})
    if isinstance(work, TopKWork) and work.metric == "euclidean":
        scores = 1 - np.square(scores, dtype=np.float64) / 2  # of rows of norm 1
    problems, details, swaps = [], {}, 0
    wrong = answers.wrong_scores(given, scores, ids)
    if wrong:
        problems.append(f"{wrong} scores WRONG")
    for name, (other_scores, other_ids) in others.items():
        if name.startswith("stope"):
            same = np.array_equal(scores, other_scores) and np.array_equal(ids, other_ids)
            details[name] = {"same_bits": same}
            problems += [] if same else [f"{name}: OTHER BITS"]
            continue
        swapped, wrong = answers.differing_positions(given, ids, np.asarray(other_ids))
        details[name] = {"rounding_swaps": swapped, "beyond_rounding": wrong}
        problems += [f"{name}: {wrong} ids WRONG"] if wrong else []
        swaps = max(swaps, swapped)
    words = "\n".join(problems) or ("same" if others else "not compared")
    return Verdict(not problems, words + (f"\n{swaps:,} near ties" if swaps else ""), details)


def _recall(ids: np.ndarray, references: dict[str, np.ndarray]) -> Verdict:
    """An approximate answer is not checked but described: the share of the exact ids it found."""
    recall = {
        name: float(np.mean([np.isin(*pair).mean() for pair in zip(exact, ids, strict=True)]))
        for name, exact in references.items()
    }
    words = ", ".join(f"recall {share:.4f}" for share in list(recall.values())[:1])
    return Verdict(True, words or "not compared", {"recall": recall})


def main() -> int:
    """Run the benchmark; see `--help`."""
    options = harness.parser(__doc__.splitlines()[0]).parse_args()
    kinds = options.data or ["clustered", "iid"]
    return harness.run("exact top-k", rows(kinds, options.quick), options, check)


if __name__ == "__main__":
    sys.exit(main())
