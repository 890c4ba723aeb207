"""Embed, mine, and name what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import stope
from stope._host import on_host
from stope.data.pairs import Pairs
from stope.encoders.cache import EmbeddingCache
from stope.lists import Lists
from stope.mining._embedded import embeddings_of, silent
from stope.mining.mined import Mined


def mine(
    pairs: Pairs,
    encoder: Any = None,
    *,
    query_embeddings: Any = None,
    corpus_embeddings: Any = None,
    num_negatives: int = 5,
    metric: str = "cosine",
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    range_min: int = 0,
    range_max: int | None = None,
    range_counts: str = "eligible",
    sampling: str = "top",
    seed: int = 0,
    exclude: tuple[ArrayLike, ArrayLike] | Sequence[ArrayLike] | None = None,
    exclude_query_text: bool = True,
    query_prompt: str | None = None,
    corpus_prompt: str | None = None,
    batch_size: int = 256,
    cache: EmbeddingCache | str | PathLike[str] | None = None,
    progress: Callable[[str, int, int], object] | None = None,
) -> Mined:
    """Find hard negatives for every query of the pairs, exactly.

    The limits from num_negatives to seed mean what they mean in `stope.mine_hard_negatives`:
    eligibility is decided before selection, so a query gets all the negatives that exist.

    Args:
        pairs: queries, corpus and positives.
        encoder: object with ``encode(list of strings) -> array``; not needed where both embeddings
            are given.
        query_embeddings: array with one row per query that was given to `Pairs`, in that order.
        corpus_embeddings: array with one row per document that was given to `Pairs`.
        num_negatives: negatives per query, at most.
        metric: "cosine", "dot" or "euclidean".
        absolute_margin: a negative's score is at most (lowest positive score) - absolute_margin.
        relative_margin: a negative's score is at most p - abs(p) * relative_margin.
        max_score: a negative's score is at most this.
        min_score: a negative's score is at least this.
        range_min: ranks to skip from the top.
        range_max: rank to stop at.
        range_counts: "eligible" or "raw": which ranks the range counts.
        sampling: "top" or "random" within the range.
        seed: of random sampling.
        exclude: corpus rows of ``pairs`` never to choose, CSR or one array per query.
        exclude_query_text: never choose the document whose text is the query itself.
        query_prompt: put before every query; None leaves the encoder's own prompt in force.
        corpus_prompt: the same for documents.
        batch_size: texts per call of the encoder.
        cache: folder, or `EmbeddingCache`, that keeps what the encoder computes.
        progress: called with (stage, done, total); stages "queries", "corpus", "mining".

    Raises:
        TypeError: embeddings missing and no encoder.
        ValueError: embeddings whose rows do not match; what `stope.mine_hard_negatives` refuses.

    Memory: both embedding arrays (memory-mapped with a cache) and O(queries x num_negatives). Given
    corpus embeddings are copied only where duplicate texts were removed.

    Source: peers.md 1.1 and 7; NV-Retriever (Moreira et al. 2024) for the relative margin.

    Example:
        >>> import numpy as np
        >>> pairs = Pairs.from_texts(["ore?"], ["rock"], ["rock", "stone", "sea", "rock"])
        >>> corpus = np.array([[1, 0], [0.8, 0.6], [0, 1], [1, 0]], np.float32)
        >>> query = np.array([[1, 0.1]], np.float32)
        >>> mined = mine(pairs, query_embeddings=query, corpus_embeddings=corpus, num_negatives=1)
        >>> [(row["document_id"], row["rank"]) for row in mined.rows()]
        [('d1', 1)]
    """
    step = progress or silent
    queries, corpus = embeddings_of(
        pairs,
        encoder,
        query_embeddings,
        corpus_embeddings,
        prompts=(query_prompt, corpus_prompt),
        batch_size=batch_size,
        cache=cache,
        step=step,
    )
    parameters: dict[str, Any] = {
        "num_negatives": num_negatives,
        "metric": metric,
        "absolute_margin": absolute_margin,
        "relative_margin": relative_margin,
        "max_score": max_score,
        "min_score": min_score,
        "range_min": range_min,
        "range_max": range_max,
        "range_counts": range_counts,
        "sampling": sampling,
        "seed": seed,
    }
    found = stope.mine_hard_negatives(
        queries,
        corpus,
        pairs.positives,
        exclude=_exclusions(pairs, exclude, exclude_query_text),
        progress=lambda done, total: step("mining", done, total),
        **parameters,
    )
    found = _all_on_host(found)
    positive_scores = _positive_scores(queries, corpus, pairs.positives, found, metric)
    parameters["exclude_query_text"] = exclude_query_text
    return Mined(pairs, found, positive_scores, parameters)


def _exclusions(pairs: Pairs, given: Any, query_text: bool) -> Any:
    """Merge the caller's exclusions with the rows that hold the query's own text."""
    if not query_text:
        return given
    offsets, rows = pairs.same_text_rows()
    if not len(rows):
        return given
    if given is None:
        return offsets, rows
    lists = (
        np.split(np.asarray(given[1]), np.asarray(given[0])[1:-1])
        if isinstance(given, tuple)
        else list(given)
    )
    if len(lists) != len(pairs.query_ids):
        raise ValueError(
            f"exclude has {len(lists)} rows but there are {len(pairs.query_ids)} queries"
        )
    own = np.split(rows, offsets[1:-1])
    return [np.union1d(np.asarray(a, dtype=np.int64), b) for a, b in zip(lists, own, strict=True)]


def _all_on_host(found: stope.HardNegatives) -> stope.HardNegatives:
    """Return the same result as NumPy arrays, whatever kind the embeddings were."""
    return stope.HardNegatives(
        on_host(found.ids),
        on_host(found.scores),
        on_host(found.positive_scores),
        on_host(found.counts),
        {reason: on_host(rows) for reason, rows in found.rejected.items()},
    )


def _positive_scores(
    queries: Any, corpus: Any, positives: Lists, found: stope.HardNegatives, metric: str
) -> NDArray[np.float32]:
    """Score of every positive: the minimum where a query has one, computed where it has several."""
    offsets, rows = positives
    counts = np.diff(offsets)
    scores = np.repeat(found.positive_scores.astype(np.float32), counts)
    for query in np.flatnonzero(counts > 1):
        part = slice(int(offsets[query]), int(offsets[query + 1]))
        pair = stope.similarity(queries[query : query + 1], corpus[rows[part]], metric=metric)
        scores[part] = on_host(pair)[0]
    return scores
