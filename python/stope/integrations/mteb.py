"""mteb's searches by stope: a search in the place of mteb's own, and a backend for mteb's own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

import stope
from stope._checks import one_each, shown, unique
from stope._extras import need
from stope._host import on_host
from stope._kinds import at_least, kinds
from stope.integrations._vectors import taken
from stope.lists import Lists, offsets_of
from stope.ops._search import METRICS, Metric, pair_scores

__all__ = ["StopeSearch", "StopeSearchIndex"]

_Similarity = Callable[[Any, Any], Any]
_Ranked = Mapping[str, Sequence[str]]  # query id -> ids of the documents to rank
_SAMPLE = 16  # rows of each side that tell the metric
_TOLERANCE = 1e-3  # of the largest score; a euclidean distance by expansion is as inaccurate


class StopeSearchIndex:
    """A backend for ``mteb.models.search_wrappers.SearchEncoderWrapper(index_backend=...)``.

    mteb's ``IndexEncoderSearchProtocol``: exact, by the metric of the model's own ``similarity``
    (cosine, dot or euclidean: a few rows are scored by each). float16 and bfloat16 are scored in
    float32, as mteb does; float64 is cast to it. Rows of equal score come in the order in which
    they were added. mteb then sorts the answers anew, which takes longer than the search:
    :class:`StopeSearch` has no such step, and does not keep the embeddings.

    Raises:
        ValueError: the similarity is none of these; NaN or infinity (naming the row).

    >>> import numpy as np
    >>> index = StopeSearchIndex()
    >>> index.add_documents(np.eye(3, dtype=np.float32), ["a", "b", "c"])
    >>> index.search(np.float32([[0, 1, 0.5]]), 2, lambda a, b: a @ b.T)
    ([[1.0, 0.5]], [[1, 2]])
    """

    def __init__(self) -> None:
        self.clear()

    def add_documents(self, embeddings: Any, idxs: Sequence[str]) -> None:
        """Keep the embeddings of some documents, and their ids."""
        rows = taken(embeddings)
        one_each(idxs, "idxs", len(rows), "embeddings")
        self._blocks.append(rows)
        self._ids.extend(idxs)

    def search(
        self,
        embeddings: Any,
        top_k: int,
        similarity_fn: _Similarity,
        top_ranked: _Ranked | None = None,
        query_idx_to_id: Mapping[int, str] | None = None,
    ) -> tuple[list[list[float]], list[list[int]]]:
        """Scores and places of the best documents: of all, or in the query's list of top_ranked."""
        rows = taken(embeddings)
        ranked = None
        if top_ranked is not None:
            names = query_idx_to_id or {}
            ranked = _rows_of(top_ranked, [names[row] for row in range(len(rows))], self._ids)
        best = _best(rows, self._blocks, min(top_k, len(self._ids)), similarity_fn, ranked)
        return [row.tolist() for row, _ in best], [row.tolist() for _, row in best]

    def clear(self) -> None:
        """Forget the documents."""
        self._blocks: list[Any] = []
        self._ids: list[str] = []


@kinds(corpus_chunk_size=at_least(1))
class StopeSearch:
    """An encoder with stope's search, to give to ``mteb.evaluate`` in the encoder's place.

    mteb's ``SearchProtocol``: the corpus is embedded and searched `corpus_chunk_size` documents at
    a time, and no other embeddings of it are in memory. The metric and the scores are those of
    :class:`StopeSearchIndex`; rows of equal score come in the corpus's order.

    Args:
        model: an encoder of mteb's (``mteb.get_model``), or a SentenceTransformer.
        corpus_chunk_size: documents to embed and search at once.

    Raises:
        TypeError: no such model.
        ValueError: two documents of one id; as :class:`StopeSearchIndex`.

    Memory: the embeddings of the queries and of a chunk; what :func:`stope.topk_blocks` needs.

    Example: ``mteb.evaluate(StopeSearch(mteb.get_model("intfloat/e5-small-v2")), tasks)``
    """

    def __init__(self, model: Any, *, corpus_chunk_size: int = 50_000) -> None:
        if not hasattr(model, "mteb_model_meta"):
            from sentence_transformers import SentenceTransformer

            if not isinstance(model, SentenceTransformer):
                raise TypeError(f"model is {shown(model)}; give mteb.get_model(name)")
            model = need("mteb", extra="mteb").SentenceTransformerEncoderWrapper(model)
        self.model = model
        self.corpus_chunk_size = corpus_chunk_size
        self._corpus: Any = None

    @property
    def mteb_model_meta(self) -> Any:
        """The encoder's, under whose name mteb keeps the results."""
        return self.model.mteb_model_meta

    def index(self, corpus: Any, **options: Any) -> None:
        """Remember the corpus; it is embedded while it is searched."""
        unique(corpus["id"][:], "corpus ids")
        self._corpus = corpus

    def search(
        self,
        queries: Any,
        *,
        task_metadata: Any,
        hf_split: str,
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: _Ranked | None = None,
        num_proc: int | None = None,
        **options: Any,
    ) -> dict[str, dict[str, float]]:
        """{query id: {document id: score}}, best first: of the whole corpus, or of top_ranked."""
        if self._corpus is None:
            raise ValueError("there is no corpus yet; call index(corpus) before search")
        loader = need("mteb._create_dataloaders", extra="mteb").create_dataloader
        kind = need("mteb.types", extra="mteb").PromptType
        where = {"hf_split": hf_split, "hf_subset": hf_subset}

        def embedded(texts: Any, prompt_type: Any) -> Any:
            about = {"task_metadata": task_metadata, "prompt_type": prompt_type}
            batches = loader(texts, **about, num_proc=num_proc, **encode_kwargs)
            return taken(self.model.encode(batches, **about, **where, **encode_kwargs))

        corpus, step = self._corpus, self.corpus_chunk_size
        # Whole columns: one value after another takes longer than the search.
        names, ids = queries["id"][:], np.array(corpus["id"][:], dtype=object)
        ranked = None if top_ranked is None else _rows_of(top_ranked, names, ids.tolist())
        rows = embedded(queries, kind.query)
        starts = range(0, len(ids), step)
        chunks = (corpus.select(range(at, min(at + step, len(ids)))) for at in starts)
        blocks = (embedded(chunk, kind.document) for chunk in chunks)
        best = _best(rows, blocks, min(top_k, len(ids)), self.model.similarity, ranked)
        if ranked is not None:
            best = [(scores, ranked.row(row)[at]) for row, (scores, at) in enumerate(best)]
        return {
            name: dict(zip(ids[row].tolist(), scores.tolist(), strict=True))
            for name, (scores, row) in zip(names, best, strict=True)
        }


def _rows_of(ranked: _Ranked, names: Sequence[str], ids: Sequence[str]) -> Lists:
    """The rows of the documents that are to be ranked for each query."""
    row_of = {name: row for row, name in enumerate(ids)}
    lists = [ranked.get(name, ()) for name in names]
    strange = next((name for some in lists for name in some if name not in row_of), None)
    if strange is not None:
        raise ValueError(f"top_ranked names {strange!r}, which the corpus does not have; leave it")
    return Lists.from_sequences([row_of[name] for name in some] for some in lists)


def _best(
    queries: Any, blocks: Iterable[Any], k: int, similarity: _Similarity, ranked: Lists | None
) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Scores and rows of each query's best; with `ranked`, scores and places in its list."""
    blocks = iter(blocks)
    first = next(blocks, None)
    if first is None:
        raise ValueError("the corpus has no documents yet; add some before searching")
    metric, blocks = _metric(queries, first, similarity), itertools.chain([first], blocks)
    if ranked is None:
        return list(zip(*stope.topk_blocks(queries, blocks, k, metric=metric), strict=True))
    scores, start, owners = np.empty(len(ranked.ids), np.float32), 0, ranked.owners
    for block in blocks:
        here = np.flatnonzero((ranked.ids >= start) & (ranked.ids < start + len(block)))
        counts = np.bincount(owners[here], minlength=ranked.num_lists)
        pairs = Lists(offsets_of(counts), ranked.ids[here] - start)
        scores[here] = pair_scores(queries, block, pairs, metric=metric)
        start += len(block)
    lists = np.split(scores, ranked.offsets[1:-1])
    orders = [np.argsort(-each, kind="stable")[:k] for each in lists]
    return [(each[order], order) for each, order in zip(lists, orders, strict=True)]


def _metric(queries: Any, documents: Any, similarity: _Similarity) -> Metric:
    """The metric that scores as the model's similarity does."""
    some = queries[:_SAMPLE], documents[:_SAMPLE]
    wanted = on_host(similarity(*some))
    errors = {
        metric: float(np.abs(on_host(stope.similarity(*some, metric=metric)) - wanted).max())
        for metric in METRICS
    }
    nearest = min(METRICS, key=lambda metric: errors[metric])
    if not errors[nearest] <= _TOLERANCE * float(np.abs(wanted).max()):
        raise ValueError(
            f"the model's similarity is none of {', '.join(METRICS)}; evaluate this model without "
            "stope's search"
        )
    return nearest
