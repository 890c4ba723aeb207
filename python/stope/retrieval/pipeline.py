"""A retriever over named queries: batches in, a run out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stope._checks import flag, integer, one_each, shown, unique
from stope._checks import texts as texts_of
from stope._kinds import callback, kinds, maybe
from stope.progress import Progress
from stope.retrieval.ranking import Ranking, check_k


class Retriever(Protocol):
    """Anything that finds corpus rows for query texts."""

    def __len__(self) -> int:
        """Count the documents."""

    def search(self, queries: Sequence[str], k: int = 100) -> Ranking:
        """Find the k best documents of each query."""


@kinds(progress=maybe(callback))
def search(
    retriever: Retriever,
    query_ids: Sequence[str],
    query_texts: Sequence[str],
    corpus_ids: Sequence[str],
    *,
    k: int = 100,
    exclude_self: bool = False,
    batch_size: int = 1024,
    progress: Progress | None = None,
) -> dict[str, dict[str, float]]:
    """Search all queries and return the run ``{query id: {document id: score}}``.

    Args:
        retriever: any of this package, or an object with ``search(queries, k) -> Ranking``.
        query_ids, query_texts: of the queries, no id twice.
        corpus_ids: names of the documents, in the order the retriever has them.
        exclude_self: leave out a document that has the query's own id, which in BEIR's ArguAna and
            Quora is the query itself (BEIR's evaluation does so: `ignore_identical_ids`); k others
            are found all the same.
        batch_size: queries per call of the retriever.
        progress: called with (queries done, queries).

    A query that finds nothing has an empty dictionary.

    Thread safety: that of the retriever.

    Raises:
        TypeError: no retriever, ids or texts that are not strings.
        ValueError: lengths that disagree, an id that is there twice, k out of range.

    Memory: one ranking of batch_size x k, and the run.
    """
    if not hasattr(retriever, "search") or not hasattr(retriever, "__len__"):
        raise TypeError(f"retriever is {shown(retriever)}; give an object with search and len")
    texts = texts_of(query_texts, "query_texts")
    _check_ids(query_ids, "query_ids", len(texts), "query_texts")
    _check_ids(corpus_ids, "corpus_ids", len(retriever), "documents of the retriever")
    integer(batch_size, "batch_size", 1)
    flag(exclude_self, "exclude_self")
    k = check_k(k, len(retriever))
    depth = min(k + 1, len(retriever)) if exclude_self else k
    run: dict[str, dict[str, float]] = {}
    for start in range(0, len(texts), batch_size):
        stop = min(start + batch_size, len(texts))
        ranking = retriever.search(texts[start:stop], depth)
        for query, documents in ranking.to_run(query_ids[start:stop], corpus_ids).items():
            if exclude_self:
                kept = [(name, score) for name, score in documents.items() if name != query]
                documents = dict(kept[:k])
            run[query] = documents
        if progress is not None:
            progress(stop, len(texts))
    return run


def _check_ids(ids: Sequence[str], name: str, count: int, what: str) -> None:
    one_each(texts_of(ids, name), name, count, what)
    unique(ids, name)
