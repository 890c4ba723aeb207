"""The queries of a mining job (`stope.mining.MiningJob`), mined by workers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.mining.jobs.miner import Miner
from stope.scale.plan import Search, layout
from stope.scale.ray.block_answers import Span
from stope.scale.ray.matrix_files import Rows, rows_of
from stope.scale.ray.pool import Cluster, Pool


def mined(
    miner: Miner, spans: Sequence[Span], folder: Path, cluster: Cluster
) -> Iterator[NDArray[np.float32]]:
    """What the miner has to say of spans of its queries, in their order.

    Raises:
        ValueError: a worker's memory does not hold the corpus.
        RuntimeError: see `Pool.answers`.

    Memory: here the records of spans that wait for one before them; of a worker the plan's for the
    whole corpus, and the job's ids, query texts and positives, with an index of BM25 where one is
    asked.
    """
    assert miner.teacher is None  # keeps scores in files that one process writes
    folder.mkdir(parents=True, exist_ok=True)
    queries, corpus = (
        rows_of(getattr(miner, name), name, folder) for name in ("queries", "corpus")
    )
    k = min(max(miner.spare * miner.total, miner.limits.pool), len(corpus))
    rows = spans[0][1] - spans[0][0]
    work = Search(rows, len(corpus), corpus.dim, k, corpus.itemsize)
    cut = layout(work, memory=cluster.memory or 0, block_rows=rows)
    if cut.shards > 1:
        raise ValueError(
            f"{cut.why}, but a worker maps the whole corpus of a job; give workers more memory, or "
            "mine without a job"
        )
    operation = _Mining(_sent(miner), queries, corpus)
    with Pool(cluster, operation, cut.memory) as pool:
        waiting, first = dict[int, NDArray[np.float32]](), 0
        for number, records, _ in pool.answers(range(len(spans)), lambda n: (spans[n],)):
            waiting[number] = records
            while first in waiting:
                yield waiting.pop(first)
                first += 1


def _sent(miner: Miner) -> Miner:
    """The miner without embeddings and texts of the corpus, which it does not read."""
    nothing = [""] * len(miner.pairs.corpus_ids)
    pairs = dataclasses.replace(
        miner.pairs, corpus_ids=nothing, corpus_texts=nothing, _looked_up=[]
    )
    candidates = copy(miner.candidates)  # made anew, they would be read anew
    candidates.pairs, candidates.progress = pairs, None
    return dataclasses.replace(miner, pairs=pairs, queries=None, corpus=None, candidates=candidates)


@dataclass
class _Mining:
    """The operation; there is one shard."""

    sent: Miner
    queries: Rows
    corpus: Rows

    @cached_property
    def miner(self) -> Miner:
        """With embeddings, mapped."""
        return dataclasses.replace(
            self.sent, queries=self.queries.mapped, corpus=self.corpus.mapped
        )

    def part(self, shard: None, span: Span) -> NDArray[np.float32]:
        """The records of a span."""
        return self.miner.records(*span)

    def merge(self, parts: Sequence[Any]) -> Any:
        """The only one."""
        (part,) = parts
        return part
