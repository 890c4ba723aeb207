"""Orders of documents in which neighbours stand together, and contexts packed from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

import stope
from stope._checks import choice, integer, real, texts
from stope._kinds import at_least, integers, kinds, matrix, maybe
from stope.lists import Ids, Lists, offsets_of
from stope.neighbors._embeddings import rows_of
from stope.ops._search import METRICS, Metric
from stope.progress import Progress, check_progress

Start = Literal["earliest", "degree"]


class Path(NamedTuple):
    """Every document once, neighbours together.

    Attributes:
        order: int64 ``[n]``, rows.
        clusters: `Lists` over the order: rows of each stretch, one after another.
    """

    order: Ids
    clusters: Lists


class Contexts(NamedTuple):
    """Pieces of documents, packed: context c holds pieces offsets[c] to offsets[c + 1].

    Attributes:
        offsets: int64 ``[contexts + 1]``.
        documents: int64 ``[pieces]``, whose piece it is.
        starts, ends: int64 ``[pieces]``, its tokens within the document.
    """

    offsets: Ids
    documents: Ids
    starts: Ids
    ends: Ids


@kinds(x=matrix, k=at_least(1), max_cluster=maybe(at_least(1)))
def similarity_path(
    x: Any,
    *,
    k: int = 9,
    max_cluster: int | None = 21,
    start: Start = "earliest",
    metric: Metric = "cosine",
    progress: Progress | None = None,
) -> Path:
    """Order documents so that each one follows a neighbour where it can (in-context pretraining).

    From a document the path goes to the first of its k nearest that was not visited. Where there is
    none, or the cluster has max_cluster documents, a new cluster starts. At the end, each document
    of a cluster with fewer than max_cluster is put before its nearest neighbour that is in another
    cluster of at least max_cluster; a document without one stays where it is. Clusters follow one
    after another in the order of their starts. Of equally near rows the lower is the nearer one.

    Args:
        x: ``[n, dim]``, embeddings of the documents.
        k: neighbours a step may go to (9 in the authors' code).
        max_cluster: documents of a cluster, before others are merged into it (21 in the authors'
            code); None for paths as long as they go, without merging, as the paper tells it.
        start: a new cluster starts at the ``"earliest"`` row that was not visited, or at that of
            lowest ``"degree"``: the fewest other documents have it among their k nearest (the
            paper's minimum degree, an interpretation).
        metric: of the graph.
        progress: of the graph, called now and then with (done, total).

    Returns:
        `Path` with ``order`` and ``clusters``.

    Raises:
        ValueError: an empty matrix, NaN or infinity (naming the row).

    Memory: 16·n·k bytes, and that of the search.

    Source: In-Context Pretraining (Shi et al. 2023), docs/methods.md, F7.

    >>> line = np.float32([[0], [10], [1], [11], [2]])
    >>> similarity_path(line, k=2, metric="euclidean", max_cluster=None).order.tolist()
    [0, 2, 4, 1, 3]
    """
    rows = rows_of(x, "x")
    choice(start, "start", get_args(Start))
    choice(metric, "metric", METRICS)
    check_progress(progress)
    n, width = len(rows), min(k, len(rows) - 1)
    nearest = np.zeros((n, 0), np.int64)
    if width:
        nearest = stope.knn_graph(rows, width, metric=metric, progress=progress).ids
    starts = np.arange(n)
    if start == "degree":
        starts = np.argsort(np.bincount(nearest.reshape(-1), minlength=n), kind="stable")
    clusters = _walk(nearest, starts, max_cluster)
    if max_cluster is not None:
        clusters = _merge(clusters, nearest, max_cluster)
    lists = Lists.from_sequences(clusters)
    return Path(lists.ids, lists)


def _walk(nearest: Ids, starts: Ids, most: int | None) -> list[list[int]]:
    visited = np.zeros(len(nearest), dtype=bool)
    clusters: list[list[int]] = []
    for first in starts.tolist():
        row = first
        while not visited[row]:
            if row == first:
                clusters.append([])
            clusters[-1].append(row)
            visited[row] = True
            fresh = nearest[row][~visited[nearest[row]]]
            if not len(fresh) or len(clusters[-1]) == most:
                break
            row = int(fresh[0])
    return clusters


def _merge(clusters: list[list[int]], nearest: Ids, most: int) -> list[list[int]]:
    whole = [cluster for cluster in clusters if len(cluster) >= most]
    place = np.full(len(nearest), -1, dtype=np.int64)  # which of the whole clusters
    for number, cluster in enumerate(whole):
        place[cluster] = number
    before: dict[int, list[int]] = {}
    left: dict[int, list[int]] = {}
    for cluster in clusters:
        if len(cluster) < most:
            for row in cluster:
                hosts = nearest[row][place[nearest[row]] >= 0]
                side = before.setdefault(int(hosts[0]), []) if len(hosts) else (
                    left.setdefault(cluster[0], [])
                )  # fmt: skip
                side.append(row)
    merged = []
    for cluster in clusters:
        if len(cluster) >= most:
            merged.append([row for host in cluster for row in (*before.get(host, ()), host)])
        elif cluster[0] in left:
            merged.append(left[cluster[0]])
    return merged


@kinds(order=integers)
def without_repeats(
    order: Any, documents: Sequence[str], *, characters: int = 100, threshold: float = 0.85
) -> Ids:
    """The order without documents that begin like the one before them.

    The first so many characters of both are compared as sets of three consecutive ones: a document
    goes when |A n B| / |A u B| > threshold, the one before being the last that stayed.

    Args:
        order: rows.
        documents: texts by row.
        characters: 100 in the authors' code.
        threshold: 0.85 in the authors' code.

    Raises:
        ValueError: a row without a text, a threshold outside 0 to 1.

    Memory: 8 bytes a row, and the characters of two documents.

    Source: In-Context Pretraining's output step, docs/methods.md, F7.

    >>> without_repeats([0, 1, 2], ["iron ore", "iron ore", "the deep sea"]).tolist()
    [0, 2]
    """
    listed = texts(documents, "documents", empty=True)
    integer(characters, "characters", 1)
    real(threshold, "threshold", 0, 1)
    rows = np.asarray(order, dtype=np.int64)
    _rows_within(rows, "order", len(listed), "documents")
    kept: list[int] = []
    before: set[str] = set()
    for row in rows.tolist():
        opening = listed[row][:characters]
        grams = {opening[at : at + 3] for at in range(max(len(opening) - 2, 1))}
        if kept and len(grams & before) > threshold * len(grams | before):
            continue
        kept.append(row)
        before = grams
    return np.array(kept, dtype=np.int64)


@kinds(order=integers, lengths=integers)
def pack(order: Any, lengths: Any, context_length: int) -> Contexts:
    """Cut documents, one after another in an order, into contexts of equal length.

    The documents' tokens make one stream; every context but the last has exactly context_length of
    them. No token is lost, none is there twice.

    Args:
        order: rows, such as ``similarity_path(x).order``.
        lengths: int64 ``[n]``, tokens of each document by row, 0 or more; what separates documents
            counts, too.
        context_length: tokens of a context.

    Returns:
        `Contexts` with ``offsets``, ``documents``, ``starts`` and ``ends``.

    Raises:
        ValueError: a row without a length, a length below 0.

    Memory: 40 bytes a piece.

    Source: docs/methods.md, F7.

    >>> contexts = pack([1, 0], [5, 4], 6)
    >>> contexts.documents.tolist(), contexts.starts.tolist(), contexts.ends.tolist()
    ([1, 0, 0], [0, 0, 2], [4, 2, 5])
    >>> contexts.offsets.tolist()
    [0, 2, 3]
    """
    rows, sizes = np.asarray(order, dtype=np.int64), np.asarray(lengths, dtype=np.int64)
    integer(context_length, "context_length", 1)
    _rows_within(rows, "order", len(sizes), "lengths")
    if (sizes < 0).any():
        raise ValueError(f"lengths has {sizes.min()} for row {sizes.argmin()}; give 0 or more")
    ends = np.cumsum(sizes[rows])
    total = int(ends[-1]) if len(ends) else 0
    # Pieces end where a document or a context ends.
    borders = np.unique(np.concatenate([ends, np.arange(context_length, total, context_length)]))
    borders = borders[borders > 0]
    begins = np.concatenate([[0], borders[:-1]])[: len(borders)]
    piece_of = np.searchsorted(ends, begins, side="right")
    first = (ends - sizes[rows])[piece_of]
    contexts = np.bincount(begins // context_length, minlength=-(-total // context_length))
    return Contexts(offsets_of(contexts), rows[piece_of], begins - first, borders - first)


def _rows_within(rows: Ids, name: str, count: int, what: str) -> None:
    if rows.ndim != 1:
        raise ValueError(f"{name} has {rows.ndim} dimensions; give a list of rows")
    outside = np.flatnonzero((rows < 0) | (rows >= count))
    if len(outside):
        raise ValueError(
            f"{name} has row {rows[outside[0]]}, but there are {count} {what}; give rows from 0"
        )
