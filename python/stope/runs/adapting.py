"""A run that trains an adapter on frozen embeddings instead of an encoder.

The embeddings come from encoder.model, kept under embeddings/ in the run's folder, or from .npy
files. Training takes seconds, so it has no checkpoints: a run that goes on trains anew.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stope.adapters import Adapter, train_adapter
from stope.adapters.maps import Floats
from stope.data import SourceData
from stope.data.sources import WEIGHT
from stope.encoders import EmbeddingCache
from stope.evaluation import Evaluation, RetrievalEvaluation
from stope.integrations.sentence_transformers.columns import SOURCE
from stope.progress import Progress
from stope.retrieval import DenseRetriever
from stope.runs.config import Config
from stope.training.callbacks.log import TrainingLog
from stope.training.trainer import TrainingReport


class Frozen:
    """The embeddings of texts, from a model or from files.

    Args:
        config: with a section adapter.
        folder: of the run; embeddings that a model gives are kept there.
        data: all of it, held-out queries included.
        model: a sentence-transformers model, or None where files are given.

    Raises:
        ValueError: files that do not fit the texts.
    """

    def __init__(self, config: Config, folder: Path, data: SourceData, model: Any) -> None:
        self._model = model
        if model is not None:
            self._cache = EmbeddingCache(folder / "embeddings")
            return
        section = config.adapter
        assert section is not None
        pairs = data.pairs
        if len(config.data) > 1 or (pairs.corpus_rows < 0).any():
            raise ValueError(
                "adapter.corpus_embeddings has a row for every document of data.corpus, but "
                + (
                    "there are several sources; train on one"
                    if len(config.data) > 1
                    else "some positives are not in that corpus; add them to it"
                )
            )
        self._rows = {
            role: (
                _array(getattr(section, f"{role}_embeddings"), f"adapter.{role}_embeddings", count),
                {text: int(row) for text, row in zip(texts, rows, strict=True)},
            )
            for role, texts, rows, count in (
                ("query", pairs.query_texts, pairs.query_rows, pairs.num_queries_given),
                ("corpus", pairs.corpus_texts, pairs.corpus_rows, pairs.num_corpus_given),
            )
        }

    def embed(self, role: Literal["query", "corpus"], texts: Sequence[str]) -> Floats:
        """The embeddings of queries ("query") or documents ("corpus")."""
        if self._model is not None:
            return np.asarray(self._cache.embeddings(self._model, list(texts), role=role))
        array, row_of = self._rows[role]
        lacking = next((text for text in texts if text not in row_of), None)
        if lacking is not None:
            raise ValueError(
                f"adapter.{role}_embeddings has no row for {lacking[:60]!r}, which the evaluation "
                "needs; judge by evaluation.holdout, or give encoder.model instead of files"
            )
        return np.ascontiguousarray(array[[row_of[text] for text in texts]])


class Judge:
    """Held-out queries over their corpus, embedded once, for an adapter or None."""

    def __init__(self, wanted: RetrievalEvaluation, frozen: Frozen) -> None:
        self._wanted = wanted
        self._queries = frozen.embed("query", wanted.query_texts)
        self._corpus = frozen.embed("corpus", wanted.corpus_texts)

    def evaluate(self, adapter: Adapter | None) -> Evaluation:
        """The metrics, query by query too."""
        queries, corpus = self._queries, self._corpus
        if adapter is not None:
            queries, corpus = adapter.apply(queries, "queries"), adapter.apply(corpus, "documents")
        wanted = self._wanted
        retriever = DenseRetriever(_Ready(queries), embeddings=corpus)
        found = retriever.search(wanted.query_texts, wanted.depth)
        return wanted.evaluate_run(found.to_run(wanted.query_ids, wanted.corpus_ids))


class _Ready:
    """An encoder of queries whose embeddings are there already, asked for in their order."""

    def __init__(self, rows: Floats) -> None:
        self._rows = rows
        self._next = 0

    def encode(self, texts: list[str]) -> Floats:
        self._next += len(texts)
        return self._rows[self._next - len(texts) : self._next]


def fit(
    config: Config,
    folder: Path,
    data: SourceData,
    frozen: Frozen,
    judge: Judge | None,
    progress: Progress | None,
) -> tuple[Adapter, TrainingReport]:
    """Train the adapter of a configuration."""
    assert config.adapter is not None
    report = TrainingReport()
    score = None
    if judge is not None and config.evaluation is not None:

        def score(adapter: Adapter) -> Evaluation:
            judged = judge.evaluate(adapter)
            report.evaluations.append(dict(judged.mean))
            return judged

    (folder / "log.jsonl").unlink(missing_ok=True)  # of a training that did not end
    queries = frozen.embed("query", data.pairs.query_texts)
    corpus = frozen.embed("corpus", data.pairs.corpus_texts)
    excluded = data.pairs.exclusions
    began = time.perf_counter()

    def noted(kind: str, step: int, **numbers: Any) -> None:
        log.write(kind, step, **numbers)
        if kind == "guard":
            report.guard = numbers
        if kind == "refresh":
            report.refreshes.append({"step": step, **numbers})

    with TrainingLog(folder, tensorboard=config.output.tensorboard) as log:
        adapter = train_adapter(
            queries,
            corpus,
            data.pairs.positives,
            recipe=config.adapter_recipe(),
            weights=data.columns.get(WEIGHT),
            signals=_signals(data) if config.weighting is not None else None,
            exclude=None if excluded is None else excluded.lists(len(queries)),
            sources=_sources(data) if config.adapter.refresh_every is not None else None,
            evaluate=score,
            progress=progress,
            log=noted,
        )
    report.seconds = time.perf_counter() - began
    report.losses = list(adapter.losses)
    report.steps = len(adapter.losses)
    report.finished = True
    return adapter, report


def keep(adapter: Adapter, model: Any, target: Path, save: Callable[[Any, Path], None]) -> None:
    """Write the adapted model as a sentence-transformers folder, or the adapter alone."""
    if target.is_dir() and not any(target.iterdir()):
        shutil.rmtree(target)
    if model is None:
        adapter.save(target)
    else:
        save(adapter.attach(model), target)


def _array(path: str, name: str, count: int) -> Floats:
    file = Path(path)
    try:
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{name} is {path}, which does not exist") from error
    except (ValueError, EOFError) as error:
        raise ValueError(f"{name} is {path}, which is no .npy file of numbers ({error})") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype != np.float32:
        raise ValueError(f"{name} is {path}; it must hold one float32 array of two dimensions")
    if len(array) != count:
        raise ValueError(
            f"{name} has {len(array):,} rows, but {count:,} texts were read; give one row for each "
            "line, in the order of the file"
        )
    return array


def _sources(data: SourceData) -> list[tuple[Any, Any]] | None:
    """Queries and documents of each source, where there are several."""
    pairs = data.pairs
    if pairs.corpus_of is None:
        return None
    names = [data.columns[SOURCE][row] for row in pairs.positives[0][:-1].tolist()]
    return [(one.queries, one.documents) for one in pairs.of_sources(names)]


def _signals(data: SourceData) -> dict[str, Any] | None:
    found = {n: v for n, v in data.columns.items() if n not in (WEIGHT, SOURCE)}
    return found or None
