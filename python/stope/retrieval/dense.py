"""Exact dense retrieval: an encoder and a `stope.FlatIndex`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import stope
from stope._checks import texts as texts_of
from stope._host import on_host
from stope._kinds import callback, kinds, matrix, maybe, string
from stope.encoders.encode import ENCODING, Encoder, encode_corpus, encode_queries
from stope.ops._search import Precision
from stope.progress import Progress
from stope.retrieval.ranking import Exclusions, Metric, Ranking, check_k


@kinds(
    **ENCODING,
    corpus=maybe(texts_of),
    embeddings=maybe(matrix),
    **dict.fromkeys(("query_prompt", "corpus_prompt"), maybe(string)),
    index=callback,
)
class DenseRetriever:
    """Rank documents by the similarity of embeddings, exactly.

    Args:
        encoder: object with ``encode(list of strings) -> array``; ``encode_query`` and
            ``encode_document`` are used where present (sentence-transformers).
        corpus: texts to embed. Give either this or embeddings.
        embeddings: array ``[documents, dim]`` in place of corpus, of any kind `stope.topk` takes.
        metric: "cosine", "dot" or "euclidean" (score = -distance).
        batch_size: texts per call of the encoder.
        query_prompt, corpus_prompt: put before every query or document; None leaves the encoder's
            own prompt in force.
        index: makes what is searched of the embeddings and the metric: `stope.FlatIndex`, or
            that of `stope.scale.ray.Operations`, which answers alike.
        progress: called with (texts embedded, texts).

    Thread safety: searches may overlap if those of the encoder may; embeddings, always.

    Raises:
        TypeError: neither or both of corpus and embeddings, or an encoder without encode.
        ValueError: an empty corpus, NaN or infinity in the embeddings (naming the row).

    Memory: the embeddings, and what `stope.FlatIndex` keeps.

    Example:
        >>> import numpy as np
        >>> class Lengths:
        ...     def encode(self, texts):
        ...         return np.array([[1.0, len(text)] for text in texts], np.float32)
        >>> retriever = DenseRetriever(Lengths(), ["tree", "a", "woodland"], metric="euclidean")
        >>> retriever.search(["bush"], k=2).ids
        array([[0, 1]])
    """

    def __init__(
        self,
        encoder: Encoder,
        corpus: Sequence[str] | None = None,
        *,
        embeddings: Any = None,
        metric: Metric = "cosine",
        batch_size: int = 256,
        query_prompt: str | None = None,
        corpus_prompt: str | None = None,
        index: Callable[..., Any] = stope.FlatIndex,
        progress: Progress | None = None,
    ) -> None:
        self.encoder = encoder
        self.batch_size = batch_size
        self.query_prompt = query_prompt
        rows = document_rows(encoder, corpus, embeddings, corpus_prompt, batch_size, progress)
        self.index = index(rows, metric=metric)

    def __len__(self) -> int:
        """Count the documents."""
        return len(self.index)

    def search(
        self,
        queries: Sequence[str],
        k: int = 100,
        *,
        exclude: Exclusions | None = None,
        precision: Precision = "exact",
        progress: Progress | None = None,
    ) -> Ranking:
        """Embed the queries and find the k best documents of each.

        Args:
            exclude: corpus rows never to return, as `stope.topk` takes them.
            precision: "exact", or "int8" or "bfloat16" for an approximate, faster answer.

        Raises:
            ValueError: k below 1 or above the corpus size, no queries, a wrong exclusion.
        """
        check_k(k, len(self))
        texts_of(queries, "queries")
        rows = encode_queries(
            self.encoder, queries, prompt=self.query_prompt, batch_size=self.batch_size
        )
        return self.search_embeddings(
            rows, k, exclude=exclude, precision=precision, progress=progress
        )

    def search_embeddings(
        self,
        queries: Any,
        k: int = 100,
        *,
        exclude: Exclusions | None = None,
        precision: Precision = "exact",
        progress: Progress | None = None,
    ) -> Ranking:
        """Find the k best documents of each query embedding; like `search`, without the encoder."""
        check_k(k, len(self))
        best = self.index.search(
            queries, k, exclude=exclude, precision=precision, progress=progress
        )
        return Ranking(on_host(best.ids), on_host(best.scores))


def document_rows(
    encoder: Encoder,
    corpus: Sequence[str] | None,
    embeddings: Any,
    prompt: str | None,
    batch_size: int,
    progress: Progress | None,
) -> Any:
    """Embeddings of the documents: those given, or the corpus encoded."""
    if (corpus is None) == (embeddings is None):
        raise TypeError("give either corpus (texts) or embeddings (an array), and not both")
    if corpus is None:
        return embeddings
    return encode_corpus(encoder, corpus, prompt=prompt, batch_size=batch_size, progress=progress)
