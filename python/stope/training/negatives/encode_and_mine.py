"""One table of candidates from a model: encode and mine.

Of several processes each takes a contiguous share of the texts; all get all, in the texts' order.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from stope.data import Pairs, SourcePairs
from stope.encoders import EmbeddingCache, encode_corpus, encode_queries
from stope.mining import mine
from stope.mining.quotas import lexical_candidates
from stope.progress import StageProgress, silent
from stope.scale.processes import alone, gathered, processes, share, together

Prompts = tuple[str | None, str | None]
_ENCODE = {"query": encode_queries, "corpus": encode_corpus}


@dataclass(frozen=True)
class Mining:
    """What was mined for all queries, and what it cost.

    Attributes:
        ids, scores: ``[queries, pool]``, as `LiveNegatives.publish` takes them.
        positive_scores: ``[queries]``.
        seconds_encode, seconds_mine: wall-clock times.
        rows_per_second: documents that all processes together encoded per second.
    """

    ids: NDArray[np.int64]
    scores: NDArray[np.float32]
    positive_scores: NDArray[np.float32]
    seconds_encode: float
    seconds_mine: float
    rows_per_second: float


class Encoding:
    """Encodes texts, through a cache in the folder where there is one.

    Args:
        folder: its subfolder ``embeddings`` keeps shards, so that what was stopped goes on; None
            keeps nothing.
        batch_size: texts per call of the model.
        progress: called with (stage, done, total); stages "queries", "corpus", "mining", "bm25".
    """

    def __init__(
        self, folder: Path | None, batch_size: int, progress: StageProgress | None
    ) -> None:
        self._batch_size = batch_size
        self.progress: StageProgress = progress or silent
        self._root = None if folder is None else folder / "embeddings"
        self._used: set[Path] = set()

    def embeddings(
        self, model: Any, texts: Sequence[str], role: Literal["query", "corpus"], prompt: str | None
    ) -> NDArray[np.float32]:
        """Embeddings of all texts, float32; a read-only map of the file where one process caches.

        The prompt is put before every text; None leaves the model's own in force.

        Raises:
            Exception: what another process raised; all raise it.
        """
        stage = "queries" if role == "query" else "corpus"
        part = share(len(texts))
        options: dict[str, Any] = {
            "prompt": prompt,
            "batch_size": self._batch_size,
            "progress": lambda done, total: self.progress(stage, done, total),
        }
        with together():
            share_of_texts = texts[part]
            if not share_of_texts:
                rows = np.empty((0, 0), dtype=np.float32)
            elif self._root is None:
                rows = _ENCODE[role](model, share_of_texts, **options)
            else:
                cache = EmbeddingCache(self._root / _place())
                rows = cache.embeddings(model, share_of_texts, role=role, **options)
                self._used.add(Path(str(rows.filename)).parent)  # type: ignore[attr-defined]
        return gathered(rows)

    def forget_others(self) -> None:
        """Remove embeddings of earlier weights, texts or numbers of processes from the folder."""
        if self._root is None:
            return
        own = self._root / _place()
        for path in [*own.glob("query-*"), *own.glob("corpus-*")]:
            if path.is_dir() and path not in self._used:
                shutil.rmtree(path)
        if own.name.startswith("0-"):
            ending = own.name.partition("-")[2]
            for path in self._root.glob("*-of-*"):
                if not path.name.endswith(f"-{ending}"):
                    shutil.rmtree(path)
        self._used.clear()


def encode_and_mine(
    pairs: Pairs, model: Any, encoding: Encoding, prompts: Prompts = (None, None), **limits: Any
) -> Mining:
    """Candidates for every query of the pairs, by the model as it is now.

    Args:
        pairs: queries, corpus and positives.
        model: an encoder; a torch module is put into evaluation mode meanwhile.
        encoding: how to encode.
        prompts: put before queries and documents; None leaves the model's own in force.
        **limits: of `stope.mining.mine`.

    Memory: both embedding arrays (mapped, where one process caches) and the candidates.
    """
    began = time.perf_counter()
    with evaluating(model):
        corpus = encoding.embeddings(model, pairs.corpus_texts, "corpus", prompts[1])
        seconds_corpus = time.perf_counter() - began
        queries = encoding.embeddings(model, pairs.query_texts, "query", prompts[0])
    encoded = time.perf_counter()
    part = share(len(pairs.query_ids))
    wanted = min(limits.pop("num_negatives"), len(pairs.corpus_ids))
    with together():
        share_of_pairs = pairs.take(range(len(pairs.query_ids))[part]).renumbered()
        arrays: tuple[Any, ...] = (
            np.empty((0, wanted), dtype=np.int64),
            np.empty((0, wanted), dtype=np.float32),
            np.empty(0, dtype=np.float32),
        )
        if share_of_pairs.query_ids:
            mined = mine(
                share_of_pairs,
                query_embeddings=queries[part],
                corpus_embeddings=corpus,
                num_negatives=wanted,
                progress=encoding.progress,
                **limits,
            ).result
            arrays = mined.ids, mined.scores, mined.positive_scores
    ids, scores, positive_scores = map(gathered, arrays)
    return Mining(
        ids,
        scores,
        positive_scores,
        seconds_encode=encoded - began,
        seconds_mine=time.perf_counter() - encoded,
        rows_per_second=len(pairs.corpus_ids) / max(seconds_corpus, 1e-9),
    )


def mine_by_source(
    sources: Sequence[SourcePairs],
    prompts: Sequence[Prompts],
    model: Any,
    encoding: Encoding,
    **limits: Any,
) -> Mining:
    """`encode_and_mine` of each source with its prompts; ids are rows of the corpus of all."""
    minings = [
        encode_and_mine(source.pairs, model, encoding, prefixes, **limits)
        for source, prefixes in zip(sources, prompts, strict=True)
    ]
    ids = [source.of_all(m.ids) for source, m in zip(sources, minings, strict=True)]
    if len(minings) == 1:
        return replace(minings[0], ids=ids[0])
    documents = [len(source.documents) for source in sources]
    seconds = [size / m.rows_per_second for size, m in zip(documents, minings, strict=True)]
    return Mining(
        of_all_sources(sources, ids),
        of_all_sources(sources, [m.scores for m in minings], fill=-np.inf),
        of_all_sources(sources, [m.positive_scores[:, None] for m in minings])[:, 0],
        sum(m.seconds_encode for m in minings),
        sum(m.seconds_mine for m in minings),
        sum(documents) / sum(seconds),
    )


def of_all_sources(
    sources: Sequence[SourcePairs], tables: Sequence[NDArray[Any]], fill: float = -1
) -> NDArray[Any]:
    """One table ``[queries, widest]`` of the sources' tables, with fill at the end of short rows.

    >>> from stope.data import Pairs, SourcePairs
    >>> one = Pairs.from_texts(["a"], ["x"])
    >>> parts = [SourcePairs("l", one, np.array([1]), np.array([0, 1]))]
    >>> parts += [SourcePairs("r", one, np.array([0]), np.array([1]))]
    >>> of_all_sources(parts, [np.array([[1, 0]]), np.array([[1]])]).tolist()
    [[1, -1], [1, 0]]
    """
    rows = sum(len(one.queries) for one in sources)
    width = max(table.shape[1] for table in tables)
    joined = np.full((rows, width), fill, dtype=tables[0].dtype)
    for one, table in zip(sources, tables, strict=True):
        joined[one.queries, : table.shape[1]] = table
    return joined


def bm25_by_source(
    sources: Sequence[SourcePairs], pool: int, progress: StageProgress
) -> NDArray[np.int64]:
    """BM25's candidates of every query in its own source's corpus, as rows of the corpus of all."""
    found = [one.of_all(bm25_of_all(one.pairs, pool, progress)) for one in sources]
    return of_all_sources(sources, found)


def bm25_of_all(pairs: Pairs, pool: int, progress: StageProgress) -> NDArray[np.int64]:
    """BM25's candidates of every query, the queries shared among processes."""
    part = share(len(pairs.query_ids))
    with together():
        found = lexical_candidates(
            pairs,
            min(pool, len(pairs.corpus_ids)),
            queries=range(len(pairs.query_ids))[part],
            progress=lambda done, total: progress("bm25", done, total),
        )
    return gathered(found)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Put a torch module into evaluation mode, then every part of it back as it was.

    Parameters that FSDP has spread over the processes are whole meanwhile, in each of them: a
    forward pass that gathered them would wait for as many in all, and shares of texts differ.

    Raises:
        ValueError: FSDP 1, which can not keep them whole over a forward pass.
    """
    modules = list(model.modules()) if callable(getattr(model, "modules", None)) else []
    if not alone() and any(hasattr(module, "summon_full_params") for module in modules):
        raise ValueError(
            "the model is in a FullyShardedDataParallel (FSDP 1), whose every forward pass waits "
            "for one in all processes, which encode other numbers of texts; spread it by "
            "torch.distributed.fsdp.fully_shard to refresh its negatives"
        )
    modes = [module.training for module in modules]
    spread = [module for module in modules if hasattr(module, "unshard")]
    if modules:
        model.eval()
    for module in spread:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in spread:
            module.set_reshard_after_forward(module is not spread[0], recurse=False)
            module.reshard()
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode


def _place() -> str:
    here, world = processes()
    return f"{here}-of-{world}"
