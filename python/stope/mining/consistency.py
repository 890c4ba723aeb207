"""Keep the pairs that a first model agrees with: each positive among the best few for its query."""

from __future__ import annotations

from dataclasses import dataclass, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import integer
from stope._host import on_host
from stope._kinds import at_least, kinds, string
from stope.data.pairs import Pairs
from stope.encoders.cache import EmbeddingCache
from stope.encoders.encode import Encoder
from stope.lists import Ids, Lists
from stope.mining.embedded import OF_EMBEDDING, embeddings_of
from stope.ops._search import Metric, pair_scores
from stope.progress import StageProgress, silent


@dataclass(frozen=True)
class Consistency:
    """Which pairs of query and positive were kept, and how well each one ranks.

    Attributes:
        pairs: what was judged.
        kept: bool, one per positive, aligned with ``pairs.positives.ids``.
        ranks: int64, likewise: 1 + how many other documents score strictly higher;
            greatest_rank + 1 where that is more than was counted.
        scores: float32, likewise: of query and positive.
        greatest_rank: up to which ranks were counted.
    """

    pairs: Pairs
    kept: NDArray[np.bool_]
    ranks: Ids
    scores: NDArray[np.float32]
    greatest_rank: int

    def kept_pairs(self) -> Pairs:
        """The pairs without those that were dropped: queries that lost all are gone.

        The corpus stays. So a dropped positive can be mined as a negative of its query; hand
        `dropped` to `stope.mining.mine` as exclude where it should not be.

        Raises:
            ValueError: nothing was kept.
        """
        kept = self.pairs.positives.where(self.kept)
        alive = np.flatnonzero(kept.lengths)
        if not len(alive):
            raise ValueError(
                f"none of the {len(self.kept)} pairs was kept; raise top, or use a better encoder"
            )
        return replace(self.pairs.take(alive), positives=kept.take(alive))

    def dropped(self) -> Lists:
        """Dropped positives of each query of `kept_pairs`, as corpus rows."""
        alive = np.flatnonzero(self.pairs.positives.where(self.kept).lengths)
        return self.pairs.positives.where(~self.kept).take(alive)

    def summary(self) -> dict[str, Any]:
        """Counts, and the share of pairs at the first ranks, for a report."""
        queries = np.count_nonzero(self.pairs.positives.where(self.kept).lengths)
        shares = {
            f"rank {limit} or better": float((self.ranks <= limit).mean())
            for limit in (1, 2, 5, 10, 100)
            if limit <= self.greatest_rank
        }
        return {
            "pairs": len(self.kept),
            "kept": int(self.kept.sum()),
            "queries": len(self.pairs.query_ids),
            "queries kept": queries,
            "share": shares,
        }


@kinds(**OF_EMBEDDING, metric=string, seed=at_least(0))
def consistency_filter(
    pairs: Pairs,
    encoder: Encoder | None = None,
    *,
    query_embeddings: Any = None,
    corpus_embeddings: Any = None,
    top: int = 2,
    num_documents: int | None = None,
    greatest_rank: int = 10,
    seed: int = 0,
    metric: Metric = "cosine",
    exclude_query_text: bool = True,
    query_prompt: str | None = None,
    corpus_prompt: str | None = None,
    batch_size: int = 256,
    cache: EmbeddingCache | str | PathLike[str] | None = None,
    progress: StageProgress | None = None,
) -> Consistency:
    """Keep (q, p) if p is among the ``top`` best documents for q, by a first model's scores.

        rank(q, p) = 1 + #{d in D, d no positive of q: s(q, d) > s(q, p)};  kept iff rank <= top

    D is the corpus, or a random sample of it that all queries share. Ties are in favour of the
    pair, and scores are exact (`stope.topk`). Other positives of q do not count against p: of
    five right answers each may be the best of what is left.

    What is not explained here is as in `stope.mining.mine`.

    Args:
        pairs: queries, corpus and positives, noisy ones such as titles and bodies.
        top: the last rank to keep; 2 in E5.
        num_documents: documents in the sample; None for all. E5 takes 1,000,000.
        greatest_rank: ranks are counted up to this one, for reports; it costs little.
        seed: of the sample.
        exclude_query_text: the document whose text is the query itself does not count.
        progress: called with (stage, done, total); stages "queries", "corpus", "ranking".

    Raises:
        TypeError: embeddings missing and no encoder; numbers that are no integers.
        ValueError: top, greatest_rank or num_documents out of range, embeddings whose rows do not
            match, or what `stope.topk` refuses.

    Memory: both embedding arrays, the sample's once more, and O(queries x greatest_rank).

    Source: E5 (Wang et al. 2022), docs/methods.md, D19.

    Example:
        >>> pairs = Pairs.from_texts(["ore?", "pit?"], ["rock", "sea"], ["rock", "hole", "sea"])
        >>> rows = np.eye(3, dtype=np.float32)
        >>> found = consistency_filter(
        ...     pairs, query_embeddings=rows[:2], corpus_embeddings=rows, top=1)
        >>> found.ranks.tolist(), found.kept_pairs().query_texts
        ([1, 2], ['ore?'])
    """
    step = progress or silent
    integer(top, "top", 1)
    integer(greatest_rank, "greatest_rank", 1)
    documents = len(pairs.corpus_ids)
    if num_documents is not None and integer(num_documents, "num_documents", 1) > documents:
        raise ValueError(
            f"num_documents is {num_documents}, but the corpus has {documents}; give 1 to that "
            "many, or None for all"
        )
    known, prompts = (query_embeddings, corpus_embeddings), (query_prompt, corpus_prompt)
    queries, corpus = embeddings_of(pairs, encoder, known, prompts, batch_size, cache, step)
    never = pairs.never_negatives() if exclude_query_text else pairs.positives
    sample, candidates = None, corpus
    if num_documents is not None and num_documents < documents:
        random = np.random.default_rng([seed, 6])
        sample = np.sort(random.choice(documents, num_documents, replace=False))
        candidates = corpus[sample]
    limit = max(top, greatest_rank)
    best = stope.topk(
        queries,
        candidates,
        min(limit, len(candidates)),
        metric=metric,
        exclude=never if sample is None else never.among(sample),
        progress=lambda done, total: step("ranking", done, total),
    )
    scores = pair_scores(queries, corpus, pairs.positives, metric=metric)
    others = on_host(best.scores)
    query_of = pairs.positives.owners
    ranks = np.ones(len(scores), dtype=np.int64)
    for place in range(others.shape[1]):
        ranks += others[query_of, place] > scores
    return Consistency(pairs, ranks <= top, ranks, scores, limit)
