"""A retriever over named queries: batches in, a run out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from stope._checks import texts as texts_of
from stope.retrieval.ranking import Ranking, check_k


class Retriever(Protocol):
    """Anything that finds corpus rows for query texts."""

    def __len__(self) -> int:
        """Count the documents."""

    def search(self, queries: Sequence[str], k: int = 100) -> Ranking:
        """Find the k best documents of each query."""


def search(
    retriever: Retriever,
    query_ids: Sequence[str],
    query_texts: Sequence[str],
    corpus_ids: Sequence[str],
    *,
    k: int = 100,
    exclude_self: bool = False,
    batch_size: int = 1024,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, dict[str, float]]:
    """Search all queries and return the run ``{query id: {document id: score}}``.

    Args:
        retriever: any of this package, or an object with ``search(queries, k) -> Ranking``.
        query_ids: names of the queries, without duplicates.
        query_texts: their texts.
        corpus_ids: names of the documents, in the order the retriever has them.
        k: documents per query.
        exclude_self: leave out a document that has the query's own id (BEIR's ArguAna and Quora).
        batch_size: queries per call of the retriever.
        progress: called with (queries done, queries).

    Raises:
        ValueError: lengths that disagree, a duplicated query id, k out of range.

    Memory: one ranking of batch_size x k, and the run.
    """
    texts = texts_of(query_texts, "query_texts")
    if len(query_ids) != len(texts):
        raise ValueError(f"query_ids has {len(query_ids)} ids for {len(texts)} query_texts")
    if len(set(query_ids)) != len(texts):
        raise ValueError("query_ids has duplicates; a run holds each query once")
    if len(corpus_ids) != len(retriever):
        raise ValueError(
            f"corpus_ids has {len(corpus_ids)} ids but the retriever has {len(retriever)} documents"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
    k = check_k(k, len(retriever))
    depth = min(k + 1, len(retriever)) if exclude_self else k
    run: dict[str, dict[str, float]] = {}
    for start in range(0, len(texts), batch_size):
        stop = min(start + batch_size, len(texts))
        found = retriever.search(texts[start:stop], depth).to_run(query_ids[start:stop], corpus_ids)
        for query, documents in found.items():
            if exclude_self:
                kept = [(name, score) for name, score in documents.items() if name != query]
                documents = dict(kept[:k])
            run[query] = documents
        if progress is not None:
            progress(stop, len(texts))
    return run
