"""HippoRAG 2's walk over phrases and passages against dense retrieval, without a language model.

A language model extracts the facts there. Here a phrase is a passage's title, or a run of words
with capitals that two passages hold; a fact joins a passage's title with each phrase of its text.
Everything else is as docs/methods.md, G9, says; nothing was tuned.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

import stope
from stope.data import Collection
from stope.evaluation import compare, confidence_interval, evaluate
from stope.lists import Lists
from stope.retrieval.ranking import Ranking
from training_data import of_documents, positives_of

METRICS = ("nDCG@10", "R@5")
_FACTS, _PHRASES, _SYNONYM = 5, 5, 0.8  # of a question; of it as well; cosine from which
_DAMPING, _PASSAGE_WEIGHT = 0.5, 0.05
_DEPTH = 10
_CAPITALS = re.compile(r"\b[A-Z][\w'-]*(?:\s(?:(?:of|the|de|la|von|van)\s)?[A-Z0-9][\w'-]*)*")
_WORD = re.compile(r"\b[a-z]+\b")


class Facts(NamedTuple):
    """Phrases, the passages that hold them, and facts as pairs of phrases (rows ``[facts, 2]``).

    `of_passage` lists the phrases of each passage, its title first among the rows of `phrases`.
    """

    phrases: list[str]
    of_passage: Lists
    pairs: np.ndarray


def cut(whole: Collection, documents: int) -> Collection:
    """All positives, and others at random, so many in all."""
    kept = positives_of({"": {q: a for split in whole.qrels.values() for q, a in split.items()}})
    others = [name for name in whole.corpus_ids if name not in kept]
    rows = np.random.default_rng(0).permutation(len(others))[: max(0, documents - len(kept))]
    return of_documents(whole, whole.qrels, kept | {others[row] for row in rows})


def facts_of(titles: list[str], texts: list[str]) -> Facts:
    """What passages speak of, by their titles and capitals."""
    small = {word for text in texts for word in _WORD.findall(text)}
    named = [re.sub(r"\s*\(.*\)$", "", title) for title in titles]
    held = []
    for title, text in zip(titles, texts, strict=True):
        found = (phrase.removesuffix("'s") for phrase in _CAPITALS.findall(text[len(title) :]))
        held.append({phrase for phrase in found if " " in phrase or phrase.lower() not in small})
    counts = Counter(phrase for phrases in held for phrase in phrases)
    known = {title: row for row, title in enumerate(dict.fromkeys(named))}
    for phrase, count in counts.items():
        if count > 1 and phrase not in known:
            known[phrase] = len(known)
    rows = [
        [known[name], *sorted(known[phrase] for phrase in phrases if phrase in known)]
        for name, phrases in zip(named, held, strict=True)
    ]
    pairs = [(first, other) for first, *others in rows for other in others if other != first]
    unique = np.unique(np.array(pairs, dtype=np.int64).reshape(-1, 2), axis=0)
    return Facts(list(known), Lists.from_sequences([sorted(set(each)) for each in rows]), unique)


def graph_of(facts: Facts, phrase_embeddings: np.ndarray) -> sparse.csr_matrix:
    """Phrases, then passages: who holds whom, which are of a fact, which are synonyms."""
    alike = stope.pairs_above(phrase_embeddings, threshold=_SYNONYM, metric="cosine")
    holders = facts.of_passage.owners + len(facts.phrases)
    ends = [facts.pairs.T, np.stack([facts.of_passage.ids, holders]), [alike.rows, alike.ids]]
    first, second = np.concatenate(ends, axis=1)
    nodes = len(facts.phrases) + facts.of_passage.num_lists
    graph = sparse.coo_matrix((np.ones(len(first)), (first, second)), shape=(nodes, nodes))
    return (graph + graph.T).tocsr()


def resets(
    facts: Facts, nearest: Any, dense: np.ndarray, passages_of: np.ndarray
) -> sparse.csr_matrix | np.ndarray:
    """Where each question's walk begins: ``[questions, phrases + passages]``, sums 1."""
    low, high = dense.min(axis=1, keepdims=True), dense.max(axis=1, keepdims=True)
    made = []
    for row, (ids, scores) in enumerate(zip(nearest.ids, nearest.scores, strict=True)):
        phrases = facts.pairs[ids].ravel()
        sums = np.bincount(phrases, np.repeat(scores, 2), len(facts.phrases))
        counts = np.bincount(phrases, minlength=len(facts.phrases))
        weights = sums / np.maximum(counts * passages_of, 1)
        weights[np.argsort(-weights, kind="stable")[_PHRASES:]] = 0
        made.append([*weights, *(_PASSAGE_WEIGHT * (dense[row] - low[row]) / (high - low)[row])])
    whole = np.array(made)
    return whole / whole.sum(axis=1, keepdims=True)


def walked(graph: sparse.csr_matrix, reset: np.ndarray) -> np.ndarray:
    """Personalised PageRank of each row of `reset`, until nothing changes by more than 1e-8."""
    sums = np.asarray(graph.sum(axis=1)).ravel()
    steps = (sparse.diags(1 / np.where(sums > 0, sums, 1)) @ graph).T.tocsr()
    reset = reset.T
    now, change = reset, np.inf
    while change > 1e-8:
        after = (1 - _DAMPING) * reset + _DAMPING * (steps @ now)
        now, change = after, np.abs(after - now).sum(axis=0).max()
    return now.T


def measure(collection: Collection, embed: Callable[..., Any]) -> list[dict[str, Any]]:
    """Dense retrieval and the walk, for each split."""
    facts = facts_of(collection.corpus_titles, collection.corpus_texts)
    passages = np.array(embed(collection.corpus_texts, role="corpus"))
    phrases = np.array(embed(facts.phrases, role="corpus"))
    told = [f"{facts.phrases[first]}, {facts.phrases[other]}" for first, other in facts.pairs]
    of_facts = np.array(embed(told, role="corpus"))
    graph = graph_of(facts, phrases)
    passages_of = np.bincount(facts.of_passage.ids, minlength=len(facts.phrases))
    rows = []
    for name in collection.splits:
        split = collection.split(name)
        questions = np.array(embed(split.query_texts, role="query"))
        dense = stope.similarity(questions, passages, metric="cosine").astype(np.float64)
        nearest = stope.topk(questions, of_facts, _FACTS, metric="cosine")
        walk = walked(graph, resets(facts, nearest, dense, passages_of))[:, len(facts.phrases) :]
        evaluations = {}
        for title, scores in {"dense": dense, "walk": walk}.items():
            best = np.argsort(-scores, axis=1, kind="stable")[:, :_DEPTH]
            ranking = Ranking(best, np.take_along_axis(scores, best, axis=1).astype(np.float32))
            run = ranking.to_run(split.query_ids, collection.corpus_ids)
            evaluations[title] = evaluate(run, split.qrels, METRICS)
        for metric in METRICS:
            between = compare(evaluations["dense"], evaluations["walk"], metric)
            rows.append(
                {
                    "split": name,
                    "questions": len(split),
                    "passages": len(passages),
                    "phrases": len(facts.phrases),
                    "facts": len(told),
                    "metric": metric,
                    **{title: each.mean[metric] for title, each in evaluations.items()},
                    "dense_interval": confidence_interval(evaluations["dense"], metric),
                    "difference": between.mean_difference,
                    "difference_interval": (between.low, between.high),
                    "p_value": between.p_value,
                }
            )
    return rows
