"""The embeddings of pairs: given, kept in a cache, or computed now."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stope._checks import flag, shown
from stope._kinds import Check, a, at_least, callback, matrix, maybe, string
from stope.data.pairs import Among, Pairs
from stope.encoders import encode_corpus, encode_queries
from stope.encoders.cache import EmbeddingCache
from stope.encoders.encode import Encoder, has_encode
from stope.lists import Ids
from stope.progress import StageProgress, of_stage

OF_EMBEDDING: dict[str, Check] = {
    "pairs": a(Pairs),
    "encoder": maybe(has_encode),
    "query_embeddings": maybe(matrix),
    "corpus_embeddings": maybe(matrix),
    "exclude_query_text": flag,
    "query_prompt": maybe(string),
    "corpus_prompt": maybe(string),
    "batch_size": at_least(1),
    "cache": maybe(a(str, PathLike, EmbeddingCache)),
    "progress": maybe(callback),
}


def mined_among(pairs: Pairs, among: Among, corpus: Any) -> tuple[Pairs, Ids | None, Any]:
    """The pairs over the documents that are mined, their rows (None is all), and given embeddings.

    Embeddings with a row per document given, or none, stay as they are: `embeddings_of` selects.
    """
    if among == "corpus":
        return pairs, None, corpus
    documents = pairs.positive_rows()
    rows = corpus.shape[0] if hasattr(corpus, "shape") else None
    if rows == len(pairs.corpus_ids) != pairs.num_corpus_given:
        corpus = corpus[documents]
    return pairs.narrowed(documents), documents, corpus


def embeddings_of(
    pairs: Pairs,
    encoder: Encoder | None,
    known: tuple[Any, Any],
    prompts: tuple[str | None, str | None],
    batch_size: int,
    cache: EmbeddingCache | str | PathLike[str] | None,
    step: StageProgress,
) -> tuple[Any, Any]:
    """One row per query and one per document: those known, where not None, or the encoder's.

    The options are those of `stope.mining.mine`; step has the stages "queries" and "corpus".

    Raises:
        TypeError: embeddings missing and no encoder.
        ValueError: embeddings whose rows do not match.
    """
    if cache is not None and not isinstance(cache, EmbeddingCache):
        cache = EmbeddingCache(cache)
    queries = selected(known[0], pairs.query_rows, pairs.num_queries_given, "query_embeddings")
    corpus = selected(known[1], pairs.corpus_rows, pairs.num_corpus_given, "corpus_embeddings")
    check_embeddings(encoder, queries, corpus)

    def embedded(texts: Sequence[str], role: Literal["query", "corpus"], prompt: str | None) -> Any:
        assert encoder is not None
        progress = of_stage(step, "queries" if role == "query" else "corpus")
        if cache is not None:
            return cache.embeddings(
                encoder, texts, role=role, prompt=prompt, batch_size=batch_size, progress=progress
            )
        encode = encode_queries if role == "query" else encode_corpus
        return encode(encoder, texts, prompt=prompt, batch_size=batch_size, progress=progress)

    if queries is None:
        queries = embedded(pairs.query_texts, "query", prompts[0])
    if corpus is None:
        corpus = embedded(pairs.corpus_texts, "corpus", prompts[1])
    return queries, corpus


def check_embeddings(encoder: Encoder | None, queries: Any, corpus: Any) -> None:
    """Refuse where there is neither an encoder nor embeddings."""
    missing = "query" if queries is None else "corpus" if corpus is None else None
    if encoder is None and missing is not None:
        raise TypeError(f"there is no encoder and no {missing}_embeddings; give one of the two")


def selected(embeddings: Any, rows: NDArray[np.int64], count: int, name: str) -> Any:
    """Rows of the embeddings that the pairs kept; the array itself where that is all."""
    if embeddings is None:
        return None
    if not hasattr(embeddings, "shape"):
        raise TypeError(f"{name} is {shown(embeddings)}; give an array of two dimensions")
    if len(embeddings) == len(rows) != count:
        return embeddings
    if len(embeddings) != count:
        more = "" if len(rows) == count else f", of which the pairs have {len(rows)}"
        raise ValueError(
            f"{name} has {len(embeddings)} rows but {count} texts were given{more}; "
            "it needs one row per text, in the same order"
        )
    missing = int((rows < 0).sum())
    if missing:
        raise ValueError(
            f"{missing} positives are not in the corpus, so {name} has no rows for them; "
            "add these texts and their embeddings to the corpus, or give an encoder instead"
        )
    return embeddings if np.array_equal(rows, np.arange(count)) else embeddings[rows]
