"""Peak extra memory: no score matrix, no copy of the corpus, nothing left behind."""

from __future__ import annotations

import pytest

SEARCH = """
import os
import numpy as np
import stope
from memory import peak_mib

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
    "kmeans": lambda: stope.kmeans(corpus, 1024, init="random", max_iterations=1),
    "mining": lambda: stope.mine_hard_negatives(queries, corpus, positives, relative_margin=0.05),
    "random": lambda: stope.mine_hard_negatives(
        queries, corpus, positives, sampling="random", range_max=100),
}[os.environ["WORK"]]
stope.topk(queries[:8], corpus[:1000], 10)
print(peak_mib(work))
"""
NEIGHBORS = """
import os
import numpy as np
import stope
from memory import peak_mib

stope.set_num_threads(2)
rng = np.random.default_rng(0)
x = np.empty((40_000, 64), np.float32)
for part in np.array_split(x, 20):
    part[:] = rng.standard_normal(part.shape, dtype=np.float32)
pairs = {"metric": "cosine", "threshold": 0.245}
work = {
    "knn_graph": lambda: stope.knn_graph(x, 10),
    "nearest_earlier": lambda: stope.nearest_earlier(x),
    "normalised": lambda: stope.nearest_earlier(x, metric="cosine"),
    "count": lambda: stope.pairs_above(x, count_only=True, **pairs),
    "sink": lambda: stope.pairs_above(x, sink=lambda *chunk: None, **pairs),
    "few": lambda: stope.pairs_above(x, metric="cosine", threshold=0.4),
}[os.environ["WORK"]]
stope.pairs_above(x[:300], threshold=0)
stope.knn_graph(x[:300], 5)
print(peak_mib(work))
"""
LOSS = """
import os
import numpy as np
import stope
from memory import peak_mib

stope.set_num_threads(2)
rng = np.random.default_rng(0)
options = {
    "plain": {},
    "masks": {"absolute_margin": 0.1, "document_ids": np.arange(32768)},
    "four": {"directions": ("query_to_document", "query_to_query", "document_to_query",
                            "document_to_document")},
    "ways": {"directions": ("query_to_document", "document_to_query"),
             "partition": "per_direction"},
}[os.environ["WORK"]] | {"precision": os.environ["PRECISION"]}
queries, documents = (rng.standard_normal((n, 32), dtype=np.float32) for n in (4096, 32768))
def work(queries=queries, documents=documents):
    forward = stope.infonce_forward(queries, documents, **options)
    return stope.infonce_backward(queries, documents, forward, **options)
if os.environ["WORK"] != "masks":
    work(queries[:64], documents[:64])
print(peak_mib(work))
"""


@pytest.mark.parametrize(
    "work", ["dot", "cosine", "euclidean", "float16", "memory map", "mining", "random"]
)
def test_extra_memory_is_bounded(work, succeeds):
    """The score matrix would be 1,172 MiB and a packed or copied corpus 18 to 73 MiB."""
    assert float(succeeds(SEARCH, WORK=work)) < 64


def test_extra_memory_of_kmeans(succeeds):
    """As documented: a row takes 100 bytes and 4 for each of 64 groups."""
    most = (300_000 * (100 + 4 * 64) + 1024 * 64 * 30 + 4096 * 64 * 4) / 2**20 + 2
    assert float(succeeds(SEARCH, WORK="kmeans")) < most


@pytest.mark.parametrize(
    ("work", "most"),
    [
        ("knn_graph", 40_000 * (24 * 10 + 1208 + 12 * 10) / 2**20 + 14),
        ("nearest_earlier", 14),
        ("normalised", 20),
        ("count", 14),
        ("sink", 180 + 14),
        ("few", 60),
    ],
)
def test_extra_memory_among_the_rows_of_one_matrix(work, most, succeeds):
    """All scores would be 6,104 MiB; the pairs of "sink" 370 MiB, those of "few" 10 MiB."""
    assert float(succeeds(NEIGHBORS, WORK=work)) < most


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("work", ["plain", "masks", "four", "ways"])
def test_extra_memory_of_the_loss_is_bounded(work, precision, succeeds):
    """The scores would be 512 MiB, or 4,608 MiB with those of all documents to each other."""
    assert float(succeeds(LOSS, WORK=work, PRECISION=precision)) < 25.6  # 5% of 512 MiB


def test_repeated_calls_do_not_leak(succeeds):
    stdout = succeeds(
        """
        import numpy as np, stope
        from memory import private_bytes
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
