"""The stages of the demo: read, BM25, train, mine, train on, fuse, and what each brought."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stope.adapters import Adapter, train_adapter
from stope.data import Collection, Pairs, open_atomic, write_run
from stope.data.readers.beir import UnknownIds
from stope.demo import report, sources
from stope.demo.sources import Material
from stope.encoders import load_encoder, save_encoder, static_encoder
from stope.encoders.encode import encode_corpus, encode_queries
from stope.evaluation import Evaluation, RetrievalEvaluation, compare, confidence_interval, evaluate
from stope.mining import Mined, mine
from stope.retrieval import Bm25, DenseRetriever, Ranking, Tokenizer, fuse
from stope.training import GuardPart, NegativeRefresh, pairs_dataset, train
from stope.training.callbacks.checkpoint import copy_tensors
from stope.training.guard import Verdict
from stope.training.presets import PRESETS

METRICS = ("nDCG@10", "MRR@10", "Recall@100")
NUM_NEGATIVES = 5
RELATIVE_MARGIN = 0.05


@dataclass
class Stage:
    """One retriever, its means and 95% bootstrap intervals by metric on the held-out queries.

    The seconds are those of making it (training, mining, indexing) and of the search.
    """

    name: str
    mean: dict[str, float]
    interval: dict[str, tuple[float, float]]
    seconds: float
    run: dict[str, dict[str, float]] = field(repr=False)
    evaluation: Evaluation = field(repr=False)


@dataclass
class DemoReport:
    """What :func:`run` measured.

    Attributes:
        stages: the retrievers in the order they were made.
        differences: per pair of stages, the difference of nDCG@10 with its interval.
        seconds: the whole demo.
        encoder: the trained model, or None where an adapter could not be attached.
    """

    stages: list[Stage]
    differences: list[dict[str, Any]]
    seconds: float
    encoder: Any = field(repr=False, default=None)

    def to_dict(self) -> dict[str, Any]:
        """What results.json holds: all numbers, no runs."""
        stages = [
            {key: value for key, value in asdict(stage).items() if key not in ("run", "evaluation")}
            for stage in self.stages
        ]
        return {"stages": stages, "differences": self.differences, "seconds": self.seconds}


def run(
    data: str | os.PathLike[str] | None = None,
    encoder: str | None = None,
    *,
    k: int = 100,
    output: str | os.PathLike[str] | None = None,
    seed: int = 0,
    max_documents: int = 12_000,
    unknown_ids: UnknownIds = "error",
    console: Any = None,
) -> DemoReport:
    """Read a corpus, train a retriever, mine its hard negatives, train on, search, and compare.

    Args:
        data: a BEIR folder with a train and a test split; default the Python installation:
            first sentences of docstrings as queries, the functions' sources as documents.
        encoder: a sentence-transformers model, by name or folder: its embeddings stay as they are
            and a linear adapter is trained on them. Default: a static encoder from scratch.
        k: documents retrieved per query.
        output: folder for ``results.json``, ``runs/*.trec`` and ``encoder/``.
        seed: of training and of the division of the Python installation.
        max_documents: documents taken from the Python installation.
        unknown_ids: of a BEIR folder, as in `stope.data.read_beir`.
        console: a ``rich.console.Console`` to print to; default a new one.

    Returns:
        The measurements.

    Raises:
        ValueError: the data lack a train or a test split, or the encoder cannot be opened.
        ImportError: an extra is missing; the message has the pip command.
    """
    show = report.Narrator(console)
    started = time.perf_counter()
    if output is not None:
        Path(output).mkdir(parents=True, exist_ok=True)
    with show.stage("Reading") as step:
        sizes = {"max_documents": max_documents, "seed": seed}
        material = sources.read(data, **sizes, unknown_ids=unknown_ids, progress=step)
        if encoder is None and material.dev is None:
            material = sources.with_dev(material, seed)
    show.material(material)
    demo = _Demo(material, min(k, len(material.collection.corpus_ids)), seed, show)
    demo.lexical()
    if encoder is None:
        demo.train_from_scratch()
    else:
        demo.adapt(load_encoder(encoder), encoder)
    demo.hybrid()
    result = DemoReport(
        demo.stages, demo.differences(), time.perf_counter() - started, demo.encoder
    )
    if output is not None:
        _write(Path(output), result)
    show.table(result, METRICS)
    show.examples(material, result)
    show.what_next(encoder, output)
    return result


class _Demo:
    def __init__(self, material: Material, k: int, seed: int, show: report.Narrator) -> None:
        self.material = material
        self.k = k
        self.seed = seed
        self.show = show
        self.stages: list[Stage] = []
        self.encoder: Any = None
        self.pairs = Pairs.from_collection(material.collection, "train")
        self.test = material.collection.split(material.test)
        self.rankings: dict[str, Ranking] = {}

    def lexical(self) -> None:
        """BM25, the baseline that everything has to be seen beside."""
        with self._timed("BM25") as (step, done):
            bm25 = Bm25(self._collection.corpus_texts, tokenizer=Tokenizer(code=self.material.code))
            done(bm25.search(self.test.query_texts, self.k, progress=step))

    def train_from_scratch(self) -> None:
        """A static encoder: large in-batch batches, then hard negatives that follow the model.

        In the second training the negatives are mined anew after every second epoch, by the model
        as it is then. It is that of `stope.training.guard`, and stays where the dev split gains;
        here stage by stage, so that both can be searched with.
        """
        guard, judge = GuardPart(), self._development()
        texts = [*self.pairs.corpus_texts, *self.pairs.query_texts]
        with self._timed("static, in-batch negatives") as (step, done):
            model = static_encoder(texts, code=self.material.code, seed=self.seed)
            batch_size = min(2048, max(16, len(self.pairs.query_ids) // 4))
            first = train(
                model,
                pairs_dataset(self.pairs),
                batch_size=batch_size,
                seed=self.seed,
                evaluation=judge,
                keep="best",
                progress=step,
            )
            done(self._dense(model))
        with self._timed("+ hard negatives, guarded") as (step, done):
            weights = copy_tensors(model.state_dict())
            before = judge.evaluate(model)
            second = train(
                model,
                self.pairs,
                refresh=NegativeRefresh(every_epochs=2, num_negatives=NUM_NEGATIVES),
                batch_size=batch_size,
                max_steps=guard.steps(first.steps),
                learning_rate=guard.rate * PRESETS["static"]["learning_rate"],
                seed=self.seed,
                progress=step,
            )
            verdict = Verdict.of("negatives", before, judge.evaluate(model), guard.errors)
            if not verdict.kept:
                model.load_state_dict(weights)
            done(self._dense(model))
        self.show.refreshed(second.refreshes)
        self.show.judged(str(verdict))
        self.encoder = model

    def adapt(self, model: Any, name: str) -> None:
        """A frozen encoder, then a linear adapter on its embeddings, then one with negatives."""
        pairs, collection = self.pairs, self._collection
        with self._timed(f"{Path(name).name}, as it is") as (step, done):
            corpus = encode_corpus(model, collection.corpus_texts, progress=step)
            test = encode_queries(model, self.test.query_texts)
            done(DenseRetriever(model, embeddings=corpus).search_embeddings(test, self.k))
        with self.show.stage("Encoding the training queries") as step:
            queries = encode_queries(model, pairs.query_texts, progress=step)
        documents = corpus[pairs.corpus_rows]

        def adapted(negatives: Any = None) -> Adapter:
            name = "+ adapter" if negatives is None else "+ adapter, hard negatives"
            with self._timed(name) as (step, done):
                adapter = train_adapter(
                    queries,
                    documents,
                    pairs.positives,
                    negatives=negatives,
                    seed=self.seed,
                    progress=step,
                )
                retriever = DenseRetriever(model, embeddings=adapter.apply(corpus))
                done(retriever.search_embeddings(adapter.apply(test), self.k))
            return adapter

        adapter = adapted()
        mined = self._mine(
            lambda step: mine(
                pairs,
                query_embeddings=adapter.apply(queries),
                corpus_embeddings=adapter.apply(corpus),
                **self._mining,
                progress=step,
            )
        )
        adapter = adapted(mined.result.ids)
        self.encoder = adapter.attach(model)

    def hybrid(self) -> None:
        """The last dense retriever and BM25, fused by normalised scores."""
        lexical, dense = self.stages[0].name, self.stages[-1].name
        with self._timed("hybrid with BM25") as (_, done):
            both = [self.rankings[lexical], self.rankings[dense]]
            done(fuse(both, method="minmax", k=self.k))

    def differences(self) -> list[dict[str, Any]]:
        """What every stage changed against the one before, and the best against BM25."""
        pairs = list(zip(self.stages[1:-1], self.stages[2:-1], strict=False))
        pairs += [(self.stages[0], self.stages[-2]), (self.stages[0], self.stages[-1])]
        changes = [
            (before, after, compare(before.evaluation, after.evaluation, METRICS[0]))
            for before, after in pairs
        ]
        return [
            {"before": before.name, "after": after.name, "metric": METRICS[0]}
            | {"difference": change.mean_difference, "low": change.low, "high": change.high}
            for before, after, change in changes
        ]

    @property
    def _collection(self) -> Collection:
        return self.material.collection

    @property
    def _mining(self) -> dict[str, Any]:
        limits = {"num_negatives": NUM_NEGATIVES, "relative_margin": RELATIVE_MARGIN}
        return {**limits, "among": "positives", "seed": self.seed}

    def _development(self) -> RetrievalEvaluation:
        """Chooses the epoch and the stage to keep: on the dev split, never on the test queries."""
        split = self.material.dev
        assert split is not None
        return RetrievalEvaluation.from_collection(self._collection, split)

    def _dense(self, model: Any) -> Ranking:
        return DenseRetriever(model, self._collection.corpus_texts).search(
            self.test.query_texts, self.k
        )

    def _mine(self, work: Callable[[Any], Mined]) -> Mined:
        with self.show.stage("Mining hard negatives, exactly") as step:
            mined = work(lambda _, done, total: step(done, total))
        self.show.mined(mined, self.pairs)
        return mined

    @contextmanager
    def _timed(self, name: str) -> Iterator[tuple[Any, Callable[[Ranking], None]]]:
        """Time a stage; its ranking of the held-out queries is scored outside the clock."""
        rankings: list[Ranking] = []
        started = time.perf_counter()
        with self.show.stage(name) as step:
            yield step, rankings.append
        seconds = time.perf_counter() - started
        self.rankings[name] = rankings[0]
        results = rankings[0].to_run(self.test.query_ids, self._collection.corpus_ids)
        scored = evaluate(results, self.test.qrels, METRICS)
        interval = {metric: confidence_interval(scored, metric) for metric in METRICS}
        self.stages.append(Stage(name, dict(scored.mean), interval, seconds, results, scored))


def _write(folder: Path, result: DemoReport) -> None:
    (folder / "runs").mkdir(exist_ok=True)
    for number, stage in enumerate(result.stages):
        write_run(stage.run, folder / "runs" / f"{number}.trec", tag=f"stage{number}")
    with open_atomic(folder / "results.json") as file:
        file.write(json.dumps(result.to_dict(), indent=2) + "\n")
    save_encoder(result.encoder, folder / "encoder")
