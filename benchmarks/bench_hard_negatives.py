"""Hard-negative mining against sentence-transformers: `python benchmarks/bench_hard_negatives.py`.

The peer is `mine_hard_negatives(use_faiss=True)` with the embeddings precomputed. It filters after
retrieving a window (52 ranks for five negatives with a margin), so a query whose window holds too
few eligible documents starves: those are counted, and everywhere else the negatives must be equal.
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
from inputs import MiningWork

QUERIES, ROWS, DIM, NEGATIVES = 20_000, 200_000, 384, 5


def rows(kinds: list[str], quick: bool) -> list[MiningWork]:
    """The rows of the table; only the headline is measured on every kind of data."""
    queries, size = (500, 20_000) if quick else (QUERIES, ROWS)
    first = kinds[0]

    def row(name: str, group: str, **changed: Any) -> MiningWork:
        sizes = {"queries": queries, "rows": size, "dim": DIM, "k": NEGATIVES, "data": first}
        return MiningWork(name, group, **{**sizes, "relative_margin": 0.05, **changed})

    found = [
        row(f"main-{kind}", "main", data=kind, all_isas=True, memory=not quick or kind == first)
        for kind in kinds
    ]
    found.append(row("no-margin", "margin", relative_margin=None))
    found.append(row("absolute-margin", "margin", relative_margin=None, absolute_margin=0.1))
    found.append(row("random-of-100", "sampling", sampling="random", range_max=100))
    found += [row(f"exclude-{n}", "exclude", excluded=n) for n in (10, 100)]
    found += [row(f"threads-{n}", "threads", threads=n) for n in sorted({1, peers.cores()})]
    if not quick:
        found += [row(f"negatives-{n}", "negatives", k=n) for n in (1, 20, 100)]
        found += [row(f"queries-{n}", "queries", queries=n) for n in (1_000, 5_000)]
        found += [row(f"rows-{n}", "rows", rows=n) for n in (50_000, 100_000, 400_000)]
    if first == "real":  # the queries' positives are spread over the first 117,659 documents
        return [work for work in found if work.rows in (size, 400_000)]
    return found


def check(work: data.Work, given: data.Inputs, results: dict[str, Any], subject: str) -> Verdict:
    """The peer's negatives equal ours in the rows where its window did not starve."""
    if not isinstance(work, MiningWork):
        raise TypeError(f"work is {type(work).__name__}, not MiningWork")
    ids = peers.negatives_of(results[subject], work)
    problems: list[str] = []
    details: dict[str, Any] = {"negatives": int((ids >= 0).sum())}
    remarks = _forbidden(work, given, ids)
    problems += remarks
    for name, result in results.items():
        if name == subject:
            continue
        others = peers.negatives_of(result, work)
        if name.startswith("stope"):
            same = np.array_equal(ids, others)
            details[name] = {"same_ids": same}
            problems += [] if same else [f"{name}: OTHER IDS"]
            continue
        full = (ids >= 0).all(1)
        starved = full & (others < 0).any(1)
        details[name] = {"rows_starved": int(starved.sum()), "rows_full": int(full.sum())}
        remarks.append(f"peer: {starved.sum():,} rows starve")
        if work.sampling == "top":
            swapped, wrong = _differing_rows(work, given, ids, others, full & ~starved)
            details[name] |= {"rows_near_tied": swapped, "rows_beyond_rounding": wrong}
            problems += [f"{name}: {wrong} rows WRONG"] if wrong else []
    words = problems or ["valid" if work.sampling == "random" or len(results) == 1 else "same"]
    return Verdict(not problems, "\n".join(dict.fromkeys([*words, *remarks])), details)


def ceilings(work: MiningWork, given: data.Inputs) -> np.ndarray:
    """Float64 score ceiling of each query, as both libraries define the margins."""
    offsets, positives = given.positives
    rows_of = np.repeat(np.arange(work.queries), np.diff(offsets))
    lowest = np.minimum.reduceat(answers.exact_scores(given, rows_of, positives), offsets[:-1])
    ceiling = np.full(work.queries, np.inf)
    if work.relative_margin is not None:
        ceiling = np.minimum(ceiling, lowest - np.abs(lowest) * work.relative_margin)
    if work.absolute_margin is not None:
        ceiling = np.minimum(ceiling, lowest - work.absolute_margin)
    return ceiling


def _forbidden(work: MiningWork, given: data.Inputs, ids: np.ndarray) -> list[str]:
    """Complaints about negatives that are positives, excluded, or above the ceiling."""
    row, column = np.nonzero(ids >= 0)
    found = ids[row, column]
    pairs = row * work.rows + found
    complaints = []
    for what, csr in (("positives", given.positives), ("excluded", given.excluded)):
        if csr is not None:
            owners = np.repeat(np.arange(work.queries), np.diff(csr[0]))
            count = int(np.isin(pairs, owners * work.rows + csr[1]).sum())
            complaints += [f"{count} {what} among the negatives: WRONG"] if count else []
    above = answers.exact_scores(given, row, found) - ceilings(work, given)[row]
    count = int((above > answers.rounding(work.dim)).sum())
    return complaints + ([f"{count} above the ceiling: WRONG"] if count else [])


def _differing_rows(
    work: MiningWork, given: data.Inputs, ids: np.ndarray, others: np.ndarray, judged: np.ndarray
) -> tuple[int, int]:
    """Rows with different negatives: those that rounding explains, and the others.

    A document within rounding of the ceiling may be in or out, so it is left out of both lists
    before they are compared place by place.
    """
    ceiling, allowed = ceilings(work, given), answers.rounding(work.dim)
    differing = np.nonzero(judged & (ids != others).any(1))[0]
    wrong = 0
    for row in differing:
        scores = []
        for found in (ids[row], others[row]):
            found = found[found >= 0]
            exact = answers.exact_scores(given, np.full(len(found), row), found)
            scores.append(exact[np.abs(exact - ceiling[row]) > allowed])
        shorter = min(map(len, scores))
        gap = np.abs(scores[0][:shorter] - scores[1][:shorter])
        wrong += bool((gap > allowed).any())
    return len(differing) - wrong, wrong


def main() -> int:
    """Run the benchmark; see `--help`."""
    options = harness.parser(__doc__.splitlines()[0]).parse_args()
    kinds = options.data or ["clustered", "iid"]
    return harness.run("hard-negative mining", rows(kinds, options.quick), options, check)


if __name__ == "__main__":
    sys.exit(main())
