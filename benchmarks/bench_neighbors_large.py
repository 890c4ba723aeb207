"""Rows against each other at full size, in processor time: `bench_neighbors_large.py graph`.

`bench_neighbors.py` times whole calls by the clock; here peers that would take hours answer a
stated share of the queries (a multiple of it is given as their time), and every contender has one
thread whose processor time is read, since the clock of a shared machine says little. What has a
share runs twice, before and after what runs once. Answers are compared wherever both have them.

    graph    15 nearest others of 200,000 rows     pairs   scores above 0.9 in them
    semantic SemDeDup of 500,000 rows              choose  vote-k over 50,000, BETR
    growth   of graph, pairs and k-means with n, dim and k
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import answers
import inputs as data
from neighbor_choices import choose, semantic
from processor_turns import Contender, described, in_turns, keep, one_thread, seconds_of, shares

THRESHOLD, NEIGHBORS = 0.9, 15
Rows = np.ndarray


def graph(kind: str, rows: int, share: float) -> dict[str, Any]:
    """The nearest others of every row."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    import stope

    work = data.NeighborWork("graph", "graph", rows, rows, 384, NEIGHBORS, kind, threads=1)
    given = data.make(work)
    x, parts = given.corpus, shares(rows, share)
    index = faiss.IndexFlatIP(work.dim)
    index.add(x)
    brute = NearestNeighbors(n_neighbors=NEIGHBORS + 1, algorithm="brute").fit(x)

    def excluding(turn: int) -> Any:
        part = parts[turn]
        itself = np.arange(part.start, part.stop)
        excluded = (np.arange(len(itself) + 1), itself)
        return stope.topk(x[part], x, NEIGHBORS, exclude=excluded)

    def by_faiss(turn: int) -> Any:
        return index.search(x[parts[turn]], NEIGHBORS + 1)[1]

    def by_sklearn(turn: int) -> Any:
        return brute.kneighbors(x[parts[turn]])[1]

    made = in_turns(
        {
            "stope": Contender(lambda turn: stope.knn_graph(x, NEIGHBORS)),
            "stope.topk": Contender(excluding, share),
            "faiss IndexFlatIP": Contender(by_faiss, share),
            "scikit-learn brute": Contender(by_sklearn, share),
        }
    )
    mine = made["stope"].answers[0].ids
    compared = {}
    for name in list(made)[1:]:
        near = wrong = 0
        for part, answer in zip(parts, made[name].answers, strict=True):
            ids = answer.ids if name == "stope.topk" else without_itself(answer, part.start)
            some = data.Inputs(x[part], x, given.positives, None)
            equal = answers.differing_positions(some, mine[part], ids)
            near, wrong = near + equal[0], wrong + equal[1]
        compared[name] = {"other ids within rounding": near, "wrong ids": wrong}
    return described(work.label, made, share, compared)


def without_itself(ids: Rows, first: int) -> Rows:
    """One entry less a row: the row itself, or the last where others crowded it out."""
    itself = ids == np.arange(first, first + len(ids))[:, None]
    itself[~itself.any(1), -1] = True
    return ids[~itself].reshape(len(ids), -1)


def pairs(kind: str, rows: int, share: float) -> dict[str, Any]:
    """All pairs above the threshold."""
    import faiss

    import stope

    work = data.NeighborWork("pairs", "pairs", rows, rows, 384, 0, kind, threads=1)
    given = data.make(work)
    x, parts = given.corpus, shares(rows, share)
    index = faiss.IndexFlatIP(work.dim)
    index.add(x)

    def by_faiss(turn: int) -> Any:
        offsets, _, ids = index.range_search(x[parts[turn]], THRESHOLD)
        owners = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets.astype(np.int64)))
        return owners + parts[turn].start, ids

    made = in_turns(
        {
            "stope": Contender(lambda turn: stope.pairs_above(x, threshold=THRESHOLD)),
            "faiss range_search": Contender(by_faiss, share),
        }
    )
    mine = made["stope"].answers[0]
    both = numbers(rows, np.append(mine.rows, mine.ids), np.append(mine.ids, mine.rows))
    wrong = differing = 0
    for part, (owners, ids) in zip(parts, made["faiss range_search"].answers, strict=True):
        others = numbers(rows, owners[owners != ids], ids[owners != ids])
        same = both[(both // rows >= part.start) & (both // rows < part.stop)]
        unlike = np.setxor1d(same, others)
        exact = answers.exact_scores(given, unlike // rows, unlike % rows)
        differing += len(unlike)
        wrong += int((np.abs(exact - THRESHOLD) > answers.rounding(384)).sum())
    compared = {"faiss range_search": {"pairs that differ": differing, "wrong pairs": wrong}}
    return described(work.label, made, share, {"pairs": len(mine.rows), **compared})


def approximate(kind: str, rows: int) -> dict[str, Any]:
    """Pairs above the threshold by those whose whole call is the work: at equal, fewer rows."""
    from sentence_transformers.util import paraphrase_mining_embeddings

    import stope
    import torch

    work = data.NeighborWork("pairs", "pairs", rows, rows, 384, 0, kind, threads=1)
    x = data.make(work).corpus
    embeddings = torch.from_numpy(x)
    contenders = {
        "stope": Contender(lambda turn: stope.pairs_above(x, threshold=THRESHOLD)),
        "paraphrase_mining": Contender(lambda turn: paraphrase_mining_embeddings(embeddings)),
    }
    try:
        from semhash import SemHash
    except ImportError:
        print("semhash is not installed: left out", file=sys.stderr)
    else:

        def by_semhash(turn: int) -> Any:
            records = [f"row {row}" for row in range(rows)]
            hashed = SemHash.from_embeddings(x, records, model=None)
            return hashed.self_deduplicate(threshold=THRESHOLD)

        contenders["SemHash"] = Contender(by_semhash)
    made = in_turns(contenders)
    mine = made["stope"].answers[0]
    mined = made["paraphrase_mining"].answers[0]
    others = np.array([(i, j) for score, i, j in mined if score >= THRESHOLD]).reshape(-1, 2)
    same = np.isin(numbers(rows, mine.rows, mine.ids), numbers(rows, others.min(1), others.max(1)))
    compared: dict[str, Any] = {
        "pairs": len(mine.rows),
        "paraphrase_mining": {"pairs": len(others), "recall": float(same.mean())},
    }
    if "SemHash" in made:
        answer = made["SemHash"].answers[0]
        found = {
            (int(duplicate.record.split()[1]), int(str(other).split()[1]))
            for duplicate in answer.filtered
            for other, _ in duplicate.duplicates
        }
        lone = {row for row, _ in found}
        hits = sum(
            (i, j) in found or (j, i) in found or i in lone or j in lone
            for i, j in zip(mine.rows.tolist(), mine.ids.tolist(), strict=True)
        )
        compared["SemHash"] = {
            "rows that go": len(answer.filtered),
            "pairs of which one row goes": hits / len(mine.rows),
        }
    return described(work.label, made, 1.0, compared)


def numbers(rows: int, first: Rows, second: Rows) -> Rows:
    """Each pair as a number."""
    return first.astype(np.int64) * rows + second


def super_kmeans(kind: str, rows: int, clusters: int) -> dict[str, Any]:
    """k-means of all rows, ten updates, as faiss does them from the same centers.

    SuperKMeans as it is draws its own first centers.

    Flat, of all rows and without stopping early it does what stope does, but for pruned products;
    its defaults draw rows (at most 256 a cluster) and, above 100,000 rows, cluster in two levels.
    """
    import faiss

    import stope

    work = data.ClusterWork("kmeans", "kmeans", rows, rows, 384, clusters, kind, threads=1)
    given = data.make(work)
    x, ten = given.corpus, {"init": given.queries, "max_iterations": 10}

    def by_faiss(turn: int) -> tuple[Rows, Any]:
        every = {"min_points_per_centroid": 1, "max_points_per_centroid": rows}
        model = faiss.Kmeans(x.shape[1], clusters, niter=10, **every)
        model.train(x, init_centroids=given.queries)
        return model.centroids, []

    contenders = {
        "stope": Contender(lambda turn: (stope.kmeans(x, clusters, **ten).centers, [])),
        "faiss Kmeans": Contender(by_faiss),
    }
    try:
        from superkmeans import SuperKMeans
    except ImportError:
        print("superkmeans is not installed: left out", file=sys.stderr)
    else:
        whole = {
            "hierarchical": False,
            "sampling_fraction": 1.0,
            "max_points_per_cluster": rows,
            "early_termination": False,
        }
        for name, options in {
            "SuperKMeans, all rows": whole,
            "SuperKMeans, all rows, products alone": {**whole, "use_blas_only": True},
            "SuperKMeans as it comes": {},
        }.items():

            def run(turn: int, options: dict[str, Any] = options) -> tuple[Rows, Any]:
                model = SuperKMeans(clusters, x.shape[1], iters=10, n_threads=1, **options)
                centers = np.array(model.train(x))
                return centers, [] if model.hierarchical_ else model.iteration_stats

            contenders[name] = Contender(run)
    made = in_turns(contenders)
    told: dict[str, Any] = {}
    for name, each in made.items():
        centers, rounds = each.answers[0]
        nearest = stope.topk(x, np.float32(centers), 1, metric="euclidean")
        pruned = [(each.partial_d, each.not_pruned_pct) for each in rounds if not each.is_gemm_only]
        told[name] = {
            "inertia": float(np.square(nearest.scores.astype(np.float64)).sum()),
            "dims before pruning, share of pairs left then": pruned,
        }
    return described(work.label, made, 1.0, told)


def growth(kind: str) -> dict[str, Any]:
    """Seconds as one of rows, dim and k grows: stope alone, best of two."""
    import stope

    def best(run: Callable[[], Any]) -> float:
        return min(seconds_of(run) for _ in range(2))

    def rows_of(rows: int, dim: int) -> Rows:
        return data.make(data.NeighborWork("growth", "pairs", rows, rows, dim, 0, data=kind)).corpus

    made: dict[str, list[tuple[int, float]]] = {}
    for rows in (5_000, 10_000, 20_000):
        x = rows_of(rows, 384)
        for name, run in {
            "graph, rows": lambda x=x: stope.knn_graph(x, NEIGHBORS),
            "pairs, rows": lambda x=x: stope.pairs_above(x, threshold=THRESHOLD, count_only=True),
            "nearest_earlier, rows": lambda x=x: stope.nearest_earlier(x),
            "k-means of 100, rows": lambda x=x: stope.kmeans(
                x, 100, init="random", max_iterations=10
            ),
        }.items():
            made.setdefault(name, []).append((rows, best(run)))
    for dim in (96, 192, 384, 768, 1536):
        x = rows_of(10_000, dim)
        made.setdefault("graph of 10,000, dim", []).append(
            (dim, best(lambda x=x: stope.knn_graph(x, NEIGHBORS)))
        )
    x = rows_of(10_000, 384)
    for k in (1, 5, 15, 32, 33, 100, 300):
        made.setdefault("graph of 10,000, k", []).append(
            (k, best(lambda k=k: stope.knn_graph(x, k)))
        )
    for k in (10, 100, 1_000):
        made.setdefault("k-means of 10,000, k", []).append(
            (k, best(lambda k=k: stope.kmeans(x, k, init="random", max_iterations=10)))
        )
    for name, points in made.items():
        print(name, ", ".join(f"{size:,}: {seconds:.3f} s" for size, seconds in points))
    return {"label": f"growth, {kind}", "seconds": made}


WORKS: dict[str, Callable[[str, int | None], dict[str, Any]]] = {
    "graph": lambda kind, rows: graph(kind, rows or 200_000, 1 / 40),
    "pairs": lambda kind, rows: pairs(kind, rows or 200_000, 1 / 40),
    "approximate": lambda kind, rows: approximate(kind, rows or 20_000),
    "semantic": lambda kind, rows: semantic(kind, rows or 500_000, (rows or 500_000) // 1_000),
    "choose": lambda kind, rows: choose(kind, rows or 200_000, (rows or 200_000) // 4, 2_000),
    "kmeans": lambda kind, rows: super_kmeans(kind, rows or 500_000, 1_000),
    "growth": lambda kind, rows: growth(kind),
    "quick": lambda kind, rows: {
        "graph": graph(kind, 4_000, 1 / 4),
        "pairs": pairs(kind, 4_000, 1 / 4),
        "approximate": approximate(kind, 4_000),
        "semantic": semantic(kind, 6_000, 10),
        "choose": choose(kind, 4_000, 2_000, 64),
        "kmeans": super_kmeans(kind, 4_000, 50),
    },
}


def main() -> int:
    """Run the benchmark; see `--help`."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("works", nargs="+", choices=WORKS)
    options.add_argument(
        "--data", default="clustered", help=f"{', '.join(data.KINDS)}, or a .npy of embeddings"
    )
    options.add_argument("--rows", type=int, default=None, help="default: those that tables name")
    options.add_argument("--json", type=Path, default=None, metavar="PATH")
    chosen = options.parse_args()
    one_thread()
    for name in chosen.works:
        print(f"{name}, load {os.getloadavg()[0]:.1f}", flush=True)
        result = WORKS[name](chosen.data, chosen.rows)
        if chosen.json is not None:
            keep(chosen.json, name, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
