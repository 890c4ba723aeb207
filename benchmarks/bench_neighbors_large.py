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
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import answers
import inputs as data
import report

THRESHOLD, NEIGHBORS = 0.9, 15
EPSILON = 0.1  # a cosine above 0.9 is a duplicate
Rows = np.ndarray


class Contender(NamedTuple):
    """What runs: given a turn (0 or 1) it answers that turn's `share` of the work."""

    run: Callable[[int], Any]
    share: float = 1.0


class Measured(NamedTuple):
    """Seconds of the whole work (share taken into account) and the answer of each turn."""

    processor: list[float]
    clock: list[float]
    answers: list[Any]


def in_turns(contenders: dict[str, Contender]) -> dict[str, Measured]:
    """Run shares, then what is whole, then the other shares."""
    made = {name: Measured([], [], []) for name in contenders}
    shared = [name for name, each in contenders.items() if each.share < 1]
    whole = [name for name in contenders if name not in shared]
    for turn, name in [
        *((0, name) for name in shared),
        *((0, name) for name in whole),
        *((1, name) for name in shared),
    ]:
        gc.collect()
        start, processor = time.perf_counter(), time.process_time()
        answer = contenders[name].run(turn)
        took = (time.process_time() - processor, time.perf_counter() - start)
        made[name].processor.append(took[0] / contenders[name].share)
        made[name].clock.append(took[1] / contenders[name].share)
        made[name].answers.append(answer)
        print(f"  {name}, turn {turn}: {took[0]:.1f} s of processor time, {took[1]:.1f} s")
        sys.stdout.flush()
    return made


def shares(rows: int, share: float) -> list[slice]:
    """The rows of each turn: the first ones of either half."""
    size = int(rows * share)
    return [slice(start, start + size) for start in (0, rows // 2)]


def graph(kind: str, rows: int, share: float) -> dict[str, Any]:
    """The nearest others of every row."""
    import faiss
    from sklearn.neighbors import NearestNeighbors

    import stope

    work = data.NeighborWork("graph", "graph", rows, rows, 384, NEIGHBORS, data=kind)
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

    work = data.NeighborWork("pairs", "pairs", rows, rows, 384, 0, data=kind)
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

    work = data.NeighborWork("pairs", "pairs", rows, rows, 384, 0, data=kind)
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


def semantic(kind: str, rows: int, clusters: int) -> dict[str, Any]:
    """Semantic deduplication from the same centers: k-means, then like rows within clusters."""
    import stope
    import torch
    from stope.neighbors import semdedup

    work = data.ClusterWork("semantic", "kmeans", rows, rows, 384, clusters, kind)
    given = data.make(work)
    plain = data.NeighborWork("semantic", "pairs", rows, rows, 384, 0, data=kind)
    x = data.make(plain).corpus  # with near repeats
    first, tensor = given.queries, torch.from_numpy(x)
    updates = 10
    kept = stope.kmeans(x, clusters, metric="cosine", init=first, max_iterations=updates)
    order = np.argsort(kept.scores, kind="stable")

    def curator(dtype: torch.dtype, share: float) -> Callable[[int], Any]:
        """As NeMo Curator: a product per cluster, its upper triangle, the maximum of columns."""

        def run(turn: int) -> Any:
            best = np.full(rows, -np.inf, np.float32)
            labels = kept.labels[order]
            by_cluster = order[np.argsort(labels, kind="stable")]
            ends = np.cumsum(np.bincount(labels, minlength=clusters))
            some = np.arange(clusters)[turn :: round(1 / share)]
            for cluster in some:
                members = by_cluster[ends[cluster - 1] if cluster else 0 : ends[cluster]]
                part = tensor[torch.from_numpy(members)].to(dtype)
                products = torch.triu(part @ part.T, diagonal=1)
                if len(members):
                    best[members] = products.max(dim=0).values.float().numpy()
            return best

        return run

    def torch_clusters(turn: int) -> Any:
        centers = torch.from_numpy(first).clone()
        for _ in range(updates + 1):
            labels = torch.cat([(part @ centers.T).argmax(1) for part in tensor.split(16_384)])
            sums = torch.zeros_like(centers).index_add_(0, labels, tensor)
            centers = torch.nn.functional.normalize(sums)
        return labels.numpy()

    made = in_turns(
        {
            "stope, k-means": Contender(
                lambda turn: stope.kmeans(
                    x, clusters, metric="cosine", init=first, max_iterations=updates
                )
            ),
            "torch, k-means": Contender(torch_clusters),
            "stope": Contender(lambda turn: semdedup(x, clusters=kept)),
            "torch float32": Contender(curator(torch.float32, 1.0)),
            "torch float16": Contender(curator(torch.float16, 1 / 16), 1 / 16),
        }
    )
    result = made["stope"].answers[0]
    exact = made["torch float32"].answers[0]
    halves = made["torch float16"].answers
    told: dict[str, Any] = {"rows a cluster, at most": int(np.bincount(kept.labels).max())}
    for epsilon in (0.01, 0.05, EPSILON):
        gone = result.scores > np.float64(1 - epsilon)
        theirs = exact > np.float64(1 - epsilon)
        half_gone, compared = 0, 0
        for half in halves:
            some = np.isfinite(half)
            compared += int(some.sum())
            half_gone += int((gone[some] != (half[some] > np.float64(1 - epsilon))).sum())
        told[f"epsilon {epsilon}"] = {
            "rows that go": int(gone.sum()),
            "decisions that torch float32 changes": int((gone != theirs).sum()),
            "decisions that torch float16 changes": half_gone,
            "of so many rows": compared,
        }
    return described(f"{rows:,} x 384, {clusters} clusters, {kind}", made, 1 / 16, told)


def choose(kind: str, rows: int, votes_of: int, targets: int) -> dict[str, Any]:
    """Vote-k and BETR against NumPy and torch as one would write them."""
    import torch
    from stope.neighbors import BenchmarkTargeted, VoteK

    work = data.NeighborWork("choose", "pairs", rows, rows, 384, 0, data=kind)
    everything = data.make(work).corpus
    x = everything[:votes_of]
    examples = everything[np.random.default_rng(1).choice(rows, targets, replace=False)]
    budget, k = 1_000, 150

    def numpy_votes(turn: int) -> Any:
        nearest = []
        for start in range(0, len(x), 1024):
            scores = x[start : start + 1024] @ x.T
            scores[np.arange(len(scores)), np.arange(start, start + len(scores))] = -np.inf
            nearest.append(np.argpartition(-scores, k, axis=1)[:, :k])
        ids = np.concatenate(nearest)
        voters: list[list[int]] = [[] for _ in range(len(x))]
        for row, others in enumerate(ids.tolist()):
            for other in others:
                voters[other].append(row)
        chosen: list[int] = []
        met = np.zeros(len(x))
        left = set(range(len(x)))
        value = np.array([float(len(v)) for v in voters])
        while len(chosen) < budget:
            best = max(left, key=lambda row: (value[row], len(voters[row]), -row))
            left.discard(best)
            chosen.append(best)
            for other in ids[best]:
                value[other] -= 10.0 ** -met[best]
            for voter in voters[best]:
                if voter in left:
                    value[ids[voter]] += 10.0 ** -(met[voter] + 1) - 10.0 ** -met[voter]
                    met[voter] += 1
        return chosen

    def ranked(turn: int, sort: Callable[[Rows], Rows], share: float) -> Rows:
        """Best rank of every document, ranking them all for each example."""
        best = np.full(rows, rows + 1)
        for part in np.array_split(np.arange(targets)[turn :: round(1 / share)], 32):
            for line in sort(examples[part] @ everything.T):
                best[line] = np.minimum(best[line], np.arange(1, rows + 1))
        return best

    def torch_sort(scores: Rows) -> Rows:
        return torch.from_numpy(scores).argsort(dim=1, descending=True, stable=True).numpy()

    share = 1 / 8
    made = in_turns(
        {
            "stope vote-k": Contender(lambda turn: VoteK(k=k)(x, budget)),
            "numpy vote-k": Contender(numpy_votes),
            "stope BETR": Contender(lambda turn: BenchmarkTargeted(examples)(everything, budget)),
            "stope BETR, a tenth chosen": Contender(
                lambda turn: BenchmarkTargeted(examples)(everything, rows // 10)
            ),
            "numpy BETR": Contender(
                lambda turn: ranked(turn, lambda s: np.argsort(-s, axis=1, kind="stable"), share),
                share,
            ),
            "torch BETR": Contender(lambda turn: ranked(turn, torch_sort, share), share),
        }
    )
    mine, others = made["stope vote-k"].answers[0].ids, made["numpy vote-k"].answers[0]
    few = BenchmarkTargeted(examples[:: round(1 / share)])(everything, budget)
    ranks = made["numpy BETR"].answers[0]
    worst = int(np.partition(ranks, budget)[budget - 1])
    told = {
        "vote-k: chosen by both": len(set(mine.tolist()) & set(others)),
        "BETR, an eighth of the examples: ranks that differ": int(
            (ranks[few.ids] != few.reasons["rank"]).sum()
        ),
        "worst rank chosen by stope, by NumPy": [int(few.reasons["rank"].max()), worst],
    }
    label = f"vote-k of {votes_of:,}, k {k}; BETR {rows:,} x {targets:,}; {budget:,} chosen; {kind}"
    return described(label, made, share, told)


def growth(kind: str) -> dict[str, Any]:
    """Seconds as one of rows, dim and k grows: stope alone, best of two."""
    import stope

    def best(run: Callable[[], Any]) -> float:
        return min(seconds_of(run) for _ in range(2))

    def rows_of(rows: int, dim: int) -> Rows:
        return data.make(data.NeighborWork("growth", "pairs", rows, rows, dim, 0, data=kind)).corpus

    made: dict[str, list[tuple[int, float]]] = {}
    for rows in (5_000, 10_000, 20_000, 40_000):
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


def seconds_of(run: Callable[[], Any]) -> float:
    """Processor time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def described(
    label: str, made: dict[str, Measured], share: float, told: dict[str, Any]
) -> dict[str, Any]:
    """What was measured, for the file; answers themselves are left out."""
    seconds = {
        name: {
            "processor_seconds": float(np.mean(each.processor)),
            "of each turn": each.processor,
            "clock_seconds": float(np.mean(each.clock)),
        }
        for name, each in made.items()
    }
    print(label)
    for name, each in seconds.items():
        print(f"  {name}: {each['processor_seconds']:.1f} s")
    print(json.dumps(told, indent=1))
    return {"label": label, "share of what runs twice": share, "seconds": seconds, "told": told}


WORKS: dict[str, Callable[[str], dict[str, Any]]] = {
    "graph": lambda kind: graph(kind, 200_000, 1 / 40),
    "pairs": lambda kind: pairs(kind, 200_000, 1 / 40),
    "approximate": lambda kind: approximate(kind, 20_000),
    "semantic": lambda kind: semantic(kind, 500_000, 500),
    "choose": lambda kind: choose(kind, 200_000, 50_000, 2_000),
    "growth": growth,
    "quick": lambda kind: {
        "graph": graph(kind, 4_000, 1 / 4),
        "pairs": pairs(kind, 4_000, 1 / 4),
        "approximate": approximate(kind, 4_000),
        "semantic": semantic(kind, 6_000, 10),
        "choose": choose(kind, 4_000, 2_000, 64),
    },
}


def main() -> int:
    """Run the benchmark; see `--help`."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("works", nargs="+", choices=WORKS)
    options.add_argument("--data", default="clustered", choices=data.KINDS)
    options.add_argument("--json", type=Path, default=None, metavar="PATH")
    chosen = options.parse_args()
    one_thread()
    for name in chosen.works:
        print(f"{name}, load {os.getloadavg()[0]:.1f}", flush=True)
        result = WORKS[name](chosen.data)
        if chosen.json is not None:
            keep(chosen.json, name, result)
    return 0


def one_thread() -> None:
    """Give every contender a single thread."""
    import faiss

    import stope
    import torch

    stope.set_num_threads(1)
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)


def keep(path: Path, name: str, result: dict[str, Any]) -> None:
    """Put one result beside those that the file has."""
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    around = {"machine": report.machine(), "versions": report.versions()}
    stored[name] = {"command": " ".join(sys.argv), **around, **result}
    path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
