"""The embeddings of pairs: given, kept in a cache, or computed now."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.data.pairs import Pairs
from stope.encoders import encode_corpus, encode_queries
from stope.encoders.cache import EmbeddingCache

Step = Callable[[str, int, int], object]


def embeddings_of(
    pairs: Pairs,
    encoder: Any,
    query_embeddings: Any,
    corpus_embeddings: Any,
    *,
    prompts: tuple[str | None, str | None],
    batch_size: int,
    cache: EmbeddingCache | str | PathLike[str] | None,
    step: Step,
) -> tuple[Any, Any]:
    """One row per query and one per document of the pairs.

    Args:
        pairs: whose queries and corpus.
        encoder: what computes the rows that are not given.
        query_embeddings: one row per query that was given to `Pairs`, or None.
        corpus_embeddings: one row per document that was given to `Pairs`, or None.
        prompts: put before queries and before documents; None leaves the encoder's own in force.
        batch_size: texts per call of the encoder.
        cache: folder, or `EmbeddingCache`, that keeps what the encoder computes.
        step: called with (stage, done, total); stages "queries" and "corpus".

    Raises:
        TypeError: embeddings missing and no encoder.
        ValueError: embeddings whose rows do not match.
    """
    if cache is not None and not isinstance(cache, EmbeddingCache):
        cache = EmbeddingCache(cache)
    queries = _selected(
        query_embeddings, pairs.query_rows, pairs.num_queries_given, "query_embeddings"
    )
    corpus = _selected(
        corpus_embeddings, pairs.corpus_rows, pairs.num_corpus_given, "corpus_embeddings"
    )
    missing = "query" if queries is None else "corpus" if corpus is None else None
    if encoder is None and missing is not None:
        raise TypeError(f"There is no encoder and no {missing}_embeddings; give one of the two")
    if queries is None:
        queries = _embedded(
            encoder, cache, pairs.query_texts, "query", prompts[0], batch_size, step
        )
    if corpus is None:
        corpus = _embedded(
            encoder, cache, pairs.corpus_texts, "corpus", prompts[1], batch_size, step
        )
    return queries, corpus


def silent(stage: str, done: int, total: int) -> None:
    """Report nothing."""


def _selected(given: Any, rows: NDArray[np.int64], count: int, name: str) -> Any:
    """Rows of the given embeddings that the pairs kept; the array itself where that is all."""
    if given is None:
        return None
    if len(given) != count:
        raise ValueError(
            f"{name} has {len(given)} rows but {count} texts were given; "
            "it needs one row per text, in the same order"
        )
    missing = int((rows < 0).sum())
    if missing:
        raise ValueError(
            f"{missing} positives are not in the corpus, so {name} has no rows for them; "
            "add these texts and their embeddings to the corpus, or give an encoder instead"
        )
    return given if np.array_equal(rows, np.arange(count)) else given[rows]


def _embedded(
    encoder: Any,
    cache: EmbeddingCache | None,
    texts: list[str],
    role: str,
    prompt: str | None,
    batch_size: int,
    step: Step,
) -> Any:
    stage = "queries" if role == "query" else "corpus"

    def progress(done: int, total: int) -> object:
        return step(stage, done, total)

    if cache is not None:
        return cache.embeddings(
            encoder, texts, role=role, prompt=prompt, batch_size=batch_size, progress=progress
        )
    encode = encode_queries if role == "query" else encode_corpus
    return encode(encoder, texts, prompt=prompt, batch_size=batch_size, progress=progress)
