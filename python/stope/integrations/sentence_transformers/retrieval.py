"""sentence-transformers' searches over embeddings, by stope's exact operations."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
import torch
from stope._checks import flag, integer, real, shown, texts
from stope._host import on_host
from stope._kinds import at_least, kinds, maybe, string
from stope.encoders.encode import has_encode
from stope.integrations.sentence_transformers.from_embeddings import computable
from stope.integrations.sentence_transformers.kept_embeddings import check_prompt_name
from stope.integrations.sentence_transformers.metrics import metric_of_function
from stope.integrations.sentence_transformers.progress import bar
from stope.lists import Lists
from stope.ops._search import Metric, pair_scores

Hits = list[list[dict[str, int | float]]]
Pairs = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]
_FEW_ROWS, _SAMPLE = 4096, 256


def semantic_search(
    query_embeddings: Any,
    corpus_embeddings: Any,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500000,
    top_k: int = 10,
    score_function: Callable[..., Any] | None = None,
) -> Hits:
    """The top_k best rows of a corpus for every query, as `util.semantic_search` lists them.

    Hits are those of :func:`stope.topk`: exact, by (score descending, corpus_id ascending), where
    the library leaves the order of equal scores open.

    Args:
        query_embeddings: ``[q, dim]`` or ``[dim]``: a tensor, an array or a list of rows. float64
            is rounded to float32.
        corpus_embeddings: ``[n, dim]``, likewise.
        query_chunk_size, corpus_chunk_size: the library's; memory does not depend on them here.
        top_k: at most so many hits a query.
        score_function: `util.cos_sim` (also None), `util.dot_score`, `util.euclidean_sim`, or the
            ``similarity`` of a model that is one of them.

    Returns:
        For every query a list of ``{"corpus_id": int, "score": float}``, best first.

    Raises:
        ValueError: another score function, and what :func:`stope.topk` refuses.
        TypeError: a sparse tensor.

    Memory beyond inputs and results: as :func:`stope.topk`.

    Source: docs/guides/sentence_transformers.md.

    >>> corpus = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
    >>> [hit["corpus_id"] for hit in semantic_search([0.6, 0.8], corpus, top_k=2)[0]]
    [1, 2]
    """
    _chunks(query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size)
    integer(top_k, "top_k", 1)
    metric = "cosine" if score_function is None else metric_of_function(score_function)
    corpus = _rows(corpus_embeddings, "corpus_embeddings")
    queries = _rows(query_embeddings, "query_embeddings").to(corpus.device)
    if not len(queries) or not len(corpus):
        return [[] for _ in range(len(queries))]
    if queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"query_embeddings has {queries.shape[1]} columns but corpus_embeddings has "
            f"{corpus.shape[1]}; embed both with one model"
        )
    ranked = stope.topk(queries, corpus, min(top_k, len(corpus)), metric=metric)
    with _collecting_later():
        return [
            [{"corpus_id": row, "score": score} for row, score in zip(ids, scores, strict=True)]
            for ids, scores in zip(ranked.ids.tolist(), ranked.scores.tolist(), strict=True)
        ]


@kinds(
    model=has_encode,
    sentences=texts,
    show_progress_bar=flag,
    batch_size=at_least(1),
    truncate_dim=maybe(at_least(1)),
    **dict.fromkeys(("prompt_name", "prompt"), maybe(string)),
)
def paraphrase_mining(
    model: Any,
    sentences: list[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Callable[..., Any] | None = None,
    truncate_dim: int | None = None,
    prompt_name: str | None = None,
    prompt: str | None = None,
) -> list[list[float | int]]:
    """Encode sentences and list the pairs of the most similar ones.

    Args:
        model: SentenceTransformer; its ``encode`` gets batch_size, show_progress_bar, truncate_dim,
            prompt_name and prompt.
        sentences: texts.
        query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function: as for
            :func:`paraphrase_mining_embeddings`, whose result, errors and memory this has.

    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red iron ore", "grey stone", "deep salt sea"] * 9, dim=8)
    >>> pairs = paraphrase_mining(encoder, ["iron ore", "salt", "ore of iron"])
    >>> pairs[0][1:]
    [0, 2]
    """
    check_prompt_name(model, prompt_name, "prompt_name")
    embeddings = model.encode(
        sentences,
        show_progress_bar=show_progress_bar,
        batch_size=batch_size,
        convert_to_tensor=True,
        truncate_dim=truncate_dim,
        prompt_name=prompt_name,
        prompt=prompt,
    )
    return paraphrase_mining_embeddings(
        embeddings, query_chunk_size, corpus_chunk_size, max_pairs, top_k, score_function
    )


def paraphrase_mining_embeddings(
    embeddings: Any,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100000,
    max_pairs: int = 500000,
    top_k: int = 100,
    score_function: Callable[..., Any] | None = None,
) -> list[list[float | int]]:
    """The most similar pairs of rows, as `util.paraphrase_mining_embeddings` lists them.

    A pair is one of a row and one of its top_k nearest others (`stope.knn_graph`); the max_pairs
    best of all are listed by (score descending, first id, second id).

    Args:
        embeddings: ``[n, dim]``, as for :func:`semantic_search`.
        query_chunk_size, corpus_chunk_size: the library's; memory does not depend on them here.
        max_pairs: at most so many pairs.
        top_k: neighbours of a row that are looked at.
        score_function: as for :func:`semantic_search`.

    Returns:
        ``[score, i, j]`` with i < j, each pair once.

    Raises:
        ValueError, TypeError: as :func:`semantic_search`.

    Memory beyond inputs and results: that of `stope.knn_graph`, and 30 bytes per row and neighbour;
    where max_pairs is less than a third of these, that of `stope.pairs_above` and 180 bytes a pair.

    Source: docs/guides/sentence_transformers.md.

    >>> paraphrase_mining_embeddings([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], max_pairs=1)
    [[1.0, 0, 2]]
    """
    _chunks(query_chunk_size=query_chunk_size, corpus_chunk_size=corpus_chunk_size)
    integer(max_pairs, "max_pairs", 0)
    integer(top_k, "top_k", 1)
    metric = "cosine" if score_function is None else metric_of_function(score_function)
    rows = _rows(embeddings, "embeddings")
    if len(rows) < 2 or not max_pairs:
        return []
    count = min(top_k, len(rows) - 1)
    pairs = _best_pairs(rows, count, max_pairs, metric)
    scores, lower, upper = _pairs_of_graph(rows, count, metric) if pairs is None else pairs
    best = np.argsort(-scores, kind="stable")[:max_pairs]
    listed = zip(scores[best].tolist(), lower[best].tolist(), upper[best].tolist(), strict=True)
    with _collecting_later():
        return list(map(list, listed))


def _pairs_of_graph(rows: torch.Tensor, count: int, metric: Metric) -> Pairs:
    """Each pair of a row and one of its nearest, once: scores, first and second rows, ascending."""
    graph = stope.knn_graph(rows, count, metric=metric)
    scores, others = on_host(graph.scores).reshape(-1), on_host(graph.ids).reshape(-1)
    itself = np.repeat(np.arange(len(rows)), count)
    pairs = np.minimum(itself, others) * len(rows) + np.maximum(itself, others)
    pairs, first = np.unique(pairs, return_index=True)
    return scores[first], *np.divmod(pairs, len(rows))


def _best_pairs(rows: torch.Tensor, count: int, most: int, metric: Metric) -> Pairs | None:
    """The same of the best pairs alone, where these are few: all pairs above a threshold that a
    sample of the rows tells, for half the products. None where the graph is as good.
    """
    wanted = 2 * most / len(rows)  # pairs of a row
    if len(rows) < _FEW_ROWS or 1.5 * wanted > count:
        return None
    sample = np.arange(0, len(rows), len(rows) // _SAMPLE)
    near = stope.topk(
        rows[sample], rows, min(4 * count, len(rows) - 1), metric=metric, exclude=sample[:, None]
    )
    told = on_host(near.scores)
    # No row brings more than `count` pairs, however many it has above the threshold.
    values = -np.sort(-told[:, :count].reshape(-1))
    threshold = float(values[int(1.2 * wanted * len(sample))])
    limit = 3 * most + len(rows) // 64  # a sample tells the place of few pairs badly
    if np.count_nonzero(told >= threshold) * len(rows) > 2 * limit * len(sample):
        return None
    try:
        above = stope.pairs_above(rows, threshold=threshold, metric=metric, max_pairs=limit)
    except ValueError:  # more pairs than the sample tells; or rows that the graph refuses as well
        return None
    lower, upper, scores = map(on_host, above)
    both = np.concatenate([lower, upper]), np.concatenate([upper, lower])
    crowded = np.bincount(both[0], minlength=len(rows)) > count
    open_ = np.flatnonzero(crowded[both[0]])  # whose row has nearer ones, perhaps
    order = open_[np.lexsort((both[1][open_], -np.tile(scores, 2)[open_], both[0][open_]))]
    owners = both[0][order]
    far = order[np.arange(len(order)) - np.searchsorted(owners, owners) >= count]
    near_of = np.ones(2 * len(scores), bool)
    near_of[far] = False
    kept = near_of[: len(scores)] | near_of[len(scores) :]
    if np.count_nonzero(kept) < most:
        return None
    return scores[kept], lower[kept], upper[kept]


def community_detection(
    embeddings: Any,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Groups of rows around a central one, as `util.community_detection` lists them.

    A community is a row and all rows whose cosine with it is at least the threshold, by canonical
    scores (`stope.pairs_above`). Communities are gone through from the largest on (of equal ones
    the earlier row first): one whose centre is taken is dropped, what others took is left out of
    it, and it is kept if min_community_size rows are left.

    Args:
        embeddings: ``[n, dim]``, as for :func:`semantic_search`.
        threshold: least cosine, inclusive.
        min_community_size: least number of rows, the centre included.
        batch_size: the library's; memory does not depend on it here.
        show_progress_bar: while searching.

    Returns:
        Lists of row numbers, the longest first: the centre, then by cosine with it, equal ones by
        number.

    Raises:
        ValueError: a threshold that is not finite, and what :func:`stope.pairs_above` refuses.
        TypeError: a sparse tensor, or an argument of another kind.

    Memory beyond inputs and results: that of `stope.pairs_above`, and 70 bytes per pair of rows
    that reaches the threshold.

    Source: docs/guides/sentence_transformers.md.

    >>> community_detection([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], min_community_size=2)
    [[0, 1]]
    """
    real(threshold, "threshold")
    size = integer(min_community_size, "min_community_size", 1)
    _chunks(batch_size=batch_size)
    hidden = not flag(show_progress_bar, "show_progress_bar")
    rows = _rows(embeddings, "embeddings").cpu()
    count = len(rows)
    if count < max(size, 1):
        return []
    progress = bar("Finding clusters", hidden=hidden)
    pairs = stope.pairs_above(rows, threshold=threshold, metric="cosine", progress=progress)
    first, second, scores = map(on_host, pairs)
    numbers = np.arange(count)
    itself = pair_scores(rows, rows, Lists(np.arange(count + 1), numbers), metric="cosine")
    alone = numbers[itself >= np.float32(threshold)]
    owners = np.concatenate([alone, first, second])
    members = np.concatenate([alone, second, first])
    values = np.concatenate([itself[alone], scores, scores])
    sizes = np.bincount(owners, minlength=count)
    kept = sizes[owners] >= size
    owners, members, values = owners[kept], members[kept], values[kept]
    order = np.lexsort((members, -values, owners))
    lists = Lists.from_owners(owners[order], members[order], count)
    taken = np.zeros(count, bool)
    communities: list[list[int]] = []
    for centre in np.argsort(-lists.lengths, kind="stable").tolist():
        community = lists.row(centre)
        if len(community) < size:
            break
        left = community[~taken[community]]
        if taken[centre] or len(left) < size:
            continue
        taken[left] = taken[centre] = True
        communities.append([centre, *left[left != centre].tolist()])
    return sorted(communities, key=len, reverse=True)


def _rows(embeddings: Any, name: str) -> torch.Tensor:
    """Embeddings as a matrix that stope computes with."""
    if isinstance(embeddings, Sequence) and embeddings and isinstance(embeddings[0], torch.Tensor):
        embeddings = torch.stack(list(embeddings))
    try:
        # Of a list of arrays torch would read number by number.
        rows = torch.as_tensor(
            np.array(embeddings) if isinstance(embeddings, Sequence) else embeddings
        )
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"{name} is {shown(embeddings)}; give a tensor, an array or a list of equally long rows"
        ) from error
    if rows.is_sparse:
        raise TypeError(
            f"{name} is a sparse tensor, which stope does not search; give its to_dense(), or use "
            "sentence_transformers.util"
        )
    if rows.ndim == 1 and rows.numel():
        rows = rows[None]
    if rows.ndim != 2 and rows.numel():
        raise ValueError(f"{name} has {rows.ndim} dimensions; give one row per text")
    if not rows.is_floating_point():
        rows = rows.float()
    rows = computable(rows.detach())
    return rows.contiguous() if rows.ndim == 2 and rows.stride(1) != 1 else rows


@contextmanager
def _collecting_later() -> Iterator[None]:
    """While as many objects are made as an answer has, none of them garbage: each search for
    cycles among them takes as long as they do.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _chunks(**sizes: Any) -> None:
    for name, size in sizes.items():
        integer(size, name, 1)
