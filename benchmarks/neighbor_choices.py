"""Semantic deduplication, vote-k and BETR at full size, against NumPy and torch as written plainly.

Works of bench_neighbors_large.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import inputs as data
from processor_turns import Contender, described, in_turns

EPSILON = 0.1  # a cosine above 0.9 is a duplicate
Rows = np.ndarray


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
            nearest.append(np.argpartition(-scores, k, axis=1)[:, :k].copy())
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
        "vote-k: at the same place": int((mine == np.array(others)).sum()),
        "BETR, an eighth of the examples: ranks that differ": int(
            (ranks[few.ids] != few.reasons["rank"]).sum()
        ),
        "worst rank chosen by stope, by NumPy": [int(few.reasons["rank"].max()), worst],
    }
    label = f"vote-k of {votes_of:,}, k {k}; BETR {rows:,} x {targets:,}; {budget:,} chosen; {kind}"
    return described(label, made, share, told)
