"""Training pairs selected for a collection, and what training on them is worth.

The pool holds one pair a query (its first positive) of several collections. A selector sees the
embeddings of the pool's queries, by MiniLM or by the static encoder that each seed begins with;
those with something to aim at also see `EXAMPLES` dev queries of the target, no judgements. Each
budget trains an adapter on MiniLM's embeddings, or a static encoder from one start for all, with
the defaults and equal steps; the target's test queries judge.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stope.adapters import train_adapter
from stope.data import Collection, Pairs
from stope.encoders import static_encoder
from stope.evaluation import Evaluation
from stope.neighbors import D4, BenchmarkTargeted, CraftMix, KCenter
from stope.training import train
from trained import against, averaged
from training_data import read
from training_kinds import AdapterOnMiniLM, Settings, Static

EXAMPLES = 100  # queries of the target that a selector may see
RANDOM = "random"
AIMED: dict[str, Callable[[Any], Any]] = {
    "BETR": BenchmarkTargeted,
    "CRAFT's mix": CraftMix,
}
BLIND: dict[str, Callable[[int], Any]] = {
    "D4": lambda seed: D4(seed=seed),
    "k-centre": lambda seed: KCenter(),
}
OF_TARGET = "random among its own"
START, WHOLE = "start", "whole pool"


class Pool(NamedTuple):
    """Pairs of several collections: query i's document is `positives[i]`.

    `source` is the place of each pair's collection in `names`.
    """

    names: list[str]
    queries: np.ndarray
    documents: np.ndarray
    positives: np.ndarray
    source: np.ndarray
    query_texts: list[str]
    document_texts: list[str]

    @classmethod
    def of(cls, kinds: dict[str, AdapterOnMiniLM]) -> Pool:
        """The training pairs of all of them, the first positive of each query."""
        each = [(kind.pairs, kind.queries, kind.documents) for kind in kinds.values()]
        starts = np.cumsum([0, *(len(documents) for _, _, documents in each)])
        firsts = [pairs.positives.ids[pairs.positives.offsets[:-1]] for pairs, _, _ in each]
        return cls(
            list(kinds),
            np.concatenate([queries for _, queries, _ in each]),
            np.concatenate([documents for _, _, documents in each]),
            np.concatenate([rows + start for rows, start in zip(firsts, starts, strict=False)]),
            np.repeat(np.arange(len(each)), [len(queries) for _, queries, _ in each]),
            [text for pairs, _, _ in each for text in pairs.query_texts],
            [text for pairs, _, _ in each for text in pairs.corpus_texts],
        )

    def take(self, rows: np.ndarray) -> Pool:
        """These pairs; documents stay."""
        return self._replace(
            queries=self.queries[rows],
            positives=self.positives[rows],
            source=self.source[rows],
            query_texts=[self.query_texts[row] for row in rows],
        )

    def without(self, name: str) -> Pool:
        """The pairs of all other collections."""
        return self.take(np.flatnonzero(self.source != self.names.index(name)))


def selections(
    pool: Pool,
    target: str,
    spaces: Sequence[Space],
    budget: int,
    seeds: int,
    kept: dict[Any, Any],
) -> Iterator[tuple[str, list[np.ndarray]]]:
    """What every selector takes of the pool, for each seed; `kept` spares the same work again.

    There is a space for each seed, or one for all.
    """
    rows = [np.random.default_rng(seed).permutation(len(pool.queries)) for seed in range(seeds)]
    yield RANDOM, [each[:budget] for each in rows]
    mine = pool.source == pool.names.index(target)
    if mine.any():
        yield OF_TARGET, [each[mine[each]][:budget] for each in rows]
    yield WHOLE, rows
    for name, make in AIMED.items():
        aimed = [make(space.examples)(space.queries, budget).ids for space in spaces]
        yield name, (aimed * seeds)[:seeds]
    for name, at in BLIND.items():
        key = (name, len(pool.queries), None if mine.any() else target, budget)
        if key not in kept:
            draws = range(seeds if name == "D4" else len(spaces))
            seen = [spaces[seed % len(spaces)].queries for seed in draws]
            kept[key] = [at(seed)(seen[seed], budget).ids for seed in draws]
        yield name, (kept[key] * seeds)[:seeds]


class Space(NamedTuple):
    """What a selector sees: embeddings of the pool's queries, and of examples of the target."""

    queries: np.ndarray
    examples: np.ndarray


class Judged(NamedTuple):
    """What a model trained on some rows of the pool came to, and its seconds."""

    evaluation: Evaluation
    seconds: float


def adapter_on(pool: Pool, rows: np.ndarray, seed: int, target: AdapterOnMiniLM) -> Judged:
    """A linear adapter, trained on these pairs with in-batch negatives."""
    began = time.process_time()
    used, positives = np.unique(pool.positives[rows], return_inverse=True)
    adapter = train_adapter(
        pool.queries[rows],
        pool.documents[used],
        positives,
        seed=seed,
        num_documents=1,
        **AdapterOnMiniLM.usual,
    )
    return Judged(target.judged("test", adapter), time.process_time() - began)


class StaticModels:
    """Static encoders from one start per seed: the words of all collections, no pairs."""

    def __init__(self, collections: dict[str, Collection], tokens: int) -> None:
        self.texts = [text for each in collections.values() for text in each.corpus_texts]
        self.tokens = tokens
        self.starts: dict[int, Any] = {}

    def start(self, seed: int) -> Any:
        """What all selections of a seed begin with."""
        if seed not in self.starts:
            self.starts[seed] = static_encoder(self.texts, max_tokens=2 * self.tokens, seed=seed)
        return copy.deepcopy(self.starts[seed])

    def spaces(self, pool: Pool, examples: list[str], seeds: int) -> list[Space]:
        """What selectors see by the start of each seed."""
        starts = [self.start(seed) for seed in range(seeds)]
        return [Space(*map(start.encode, (pool.query_texts, examples))) for start in starts]

    def on(self, pool: Pool, rows: np.ndarray, seed: int, target: AdapterOnMiniLM) -> Judged:
        """One trained on these pairs, as the usual static encoder is."""
        began, model = time.process_time(), self.start(seed)
        texts = [pool.document_texts[row] for row in pool.positives[rows]]
        pairs = Pairs.from_texts([pool.query_texts[row] for row in rows], texts)
        train(model, pairs, seed=seed, **Static.usual)
        judged = target.judges["test"].evaluate(model)
        return Judged(judged, time.process_time() - began)


def measure(
    data: Path,
    settings: Settings,
    *,
    names: list[str],
    targets: list[str],
    budgets: list[int],
    models: list[str],
    seeds: int,
    seen: str,
    sizes: tuple[int | None, int, int | None],
    say: Callable[[str], None],
) -> Iterator[list[dict[str, Any]]]:
    """A row for every model, target, pool with or without it, budget and selector.

    Args:
        seen: by whose embeddings selectors choose, "minilm" or "static".
    """
    queries, judged, documents = sizes
    collections = {name: read(data / name, queries, documents, judged) for name in names}
    kinds = {name: AdapterOnMiniLM(each, settings) for name, each in collections.items()}
    whole, kept = Pool.of(kinds), dict[Any, Any]()
    static = StaticModels(collections, settings.tokens)
    for target in targets:
        kind = kinds[target]
        examples = kind.judges["dev"].query_texts[:EXAMPLES]
        for pool, holds in ((whole, True), (whole.without(target), False)):
            common = {"target": target, "pool": len(pool.queries), "holds_target": holds}
            if seen == "static":
                spaces = static.spaces(pool, examples, seeds)
            else:
                spaces = [Space(pool.queries, kind.asked["dev"][:EXAMPLES])]
            for budget in budgets:
                say(f"for {target}, {budget} of {len(pool.queries):,} pairs")
                taken = dict(selections(pool, target, spaces, budget, seeds, kept))
                for model in models:
                    on = adapter_on if model == "adapter" else static.on
                    judged = {
                        name: [on(pool, each, seed, kind) for seed, each in enumerate(chosen)]
                        for name, chosen in taken.items()
                        if name != WHOLE or (model == "adapter" and budget == budgets[0])
                    }
                    judged[START] = [
                        Judged(_start(model, static, kind, seed), 0.0) for seed in range(seeds)
                    ]
                    yield [
                        {
                            **common,
                            "model": model,
                            "selected_by": seen,
                            "budget": budget,
                            "selector": name,
                            "of_target": _share(pool, target, taken.get(name)),
                            **_row(judged[RANDOM], each),
                        }
                        for name, each in judged.items()
                    ]


def _start(model: str, static: StaticModels, kind: AdapterOnMiniLM, seed: int) -> Evaluation:
    if model == "adapter":
        return kind.judged("test", None)
    return kind.judges["test"].evaluate(static.start(seed))


def _share(pool: Pool, target: str, chosen: list[np.ndarray] | None) -> float | None:
    """How much of what was selected is of the target's own collection."""
    if chosen is None:
        return None
    number = pool.names.index(target)
    return float(np.mean([np.mean(pool.source[rows] == number) for rows in chosen]))


def _row(baseline: list[Judged], each: list[Judged]) -> dict[str, Any]:
    before = averaged([one.evaluation for one in baseline])
    return against(before, [one.evaluation for one in each], [one.seconds for one in each])
