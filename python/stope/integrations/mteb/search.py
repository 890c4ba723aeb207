"""A search in the place of mteb's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stope._checks import shown, unique
from stope._extras import need
from stope._kinds import at_least, kinds
from stope.integrations._vectors import best_of_blocks, listed_rows, taken


@kinds(corpus_chunk_size=at_least(1))
class StopeSearch:
    """An encoder with stope's search, to give to ``mteb.evaluate`` in the encoder's place.

    mteb's ``SearchProtocol``: the corpus is embedded and searched `corpus_chunk_size` documents at
    a time, and no other embeddings of it are in memory. Metric and scores are those of
    :class:`stope.integrations.mteb.StopeSearchIndex`; equal scores come in the corpus's order.

    Args:
        model: an encoder of mteb's (``mteb.get_model``), or a SentenceTransformer.
        corpus_chunk_size: documents to embed and search at once.

    Raises:
        TypeError: no such model.
        ValueError: two documents of one id; as :class:`stope.integrations.mteb.StopeSearchIndex`.

    Memory: the embeddings of the queries and of a chunk; what :func:`stope.topk_blocks` needs.

    Example: ``mteb.evaluate(StopeSearch(mteb.get_model("intfloat/e5-small-v2")), tasks)``
    """

    def __init__(self, model: Any, *, corpus_chunk_size: int = 100_000) -> None:
        if not hasattr(model, "mteb_model_meta"):
            from sentence_transformers import SentenceTransformer

            if not isinstance(model, SentenceTransformer):
                raise TypeError(f"model is {shown(model)}; give mteb.get_model(name)")
            model = need("mteb", extra="mteb").SentenceTransformerEncoderWrapper(model)
        self.model, self.corpus_chunk_size = model, corpus_chunk_size
        self.mteb_model_meta = model.mteb_model_meta  # under whose name mteb keeps the results
        self._corpus: Any = None

    def index(self, corpus: Any, **options: Any) -> None:
        """Remember the corpus; it is embedded while it is searched."""
        unique(corpus["id"][:], "corpus ids")
        self._corpus = corpus

    def search(
        self, queries: Any, *, task_metadata: Any, hf_split: str, hf_subset: str, top_k: int,
        encode_kwargs: Mapping[str, Any], top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None, **options: Any,
    ) -> dict[str, dict[str, float]]:  # fmt: skip
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
        listed = None if top_ranked is None else listed_rows(top_ranked, names, ids.tolist())
        rows = embedded(queries, kind.query)
        starts = range(0, len(ids), step)
        chunks = (corpus.select(range(at, min(at + step, len(ids)))) for at in starts)
        blocks = (embedded(chunk, kind.document) for chunk in chunks)
        best = best_of_blocks(rows, blocks, min(top_k, len(ids)), self.model.similarity, listed)
        if listed is not None:
            best = [(scores, listed.row(row)[at]) for row, (scores, at) in enumerate(best)]
        return {
            name: dict(zip(ids[row].tolist(), scores.tolist(), strict=True))
            for name, (scores, row) in zip(names, best, strict=True)
        }
