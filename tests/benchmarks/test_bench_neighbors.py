"""The benchmark of neighbours: every contender's answer is compared, and a wrong one is told."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
for needed in ("faiss", "sklearn", "sentence_transformers", "rich"):
    pytest.importorskip(needed, reason="a peer of the benchmark is not installed")


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("bench_neighbors")
    sys.path.remove(str(BENCHMARKS))


def answers_to(bench, k):
    import inputs
    import peers

    work = bench.NeighborWork("small", "small", 600, 600, 64, k, threads=1)
    given = inputs.make(work)
    names = ["stope", *peers.available(work, ["all"])]
    return work, given, {name: peers.prepare(name, work, given)() for name in names}


@pytest.mark.parametrize("k", [0, 7])
def test_all_contenders_agree_and_a_wrong_answer_is_told(bench, k):
    work, given, results = answers_to(bench, k)
    assert set(results) == (
        {"stope", "own-topk", "faiss", "sklearn"}
        if k
        else {"stope", "faiss", "sentence-transformers"}
    )
    verdict = bench.check(work, given, results, "stope")
    assert verdict.right, verdict.words
    assert k or verdict.details["pairs"] > 10
    wrong = [np.array(part) for part in results["faiss"]]
    wrong[1] = np.roll(wrong[1], 1, axis=0)
    verdict = bench.check(work, given, {**results, "faiss": wrong}, "stope")
    assert not verdict.right
    assert "faiss" in verdict.words


def test_full_sizes_are_those_of_the_targets(bench):
    sizes = {(row.group, row.rows, row.dim, row.k) for row in bench.rows(["clustered"], False)}
    assert {("graph", 200_000, 384, 15), ("pairs", 200_000, 384, 0)} <= sizes
