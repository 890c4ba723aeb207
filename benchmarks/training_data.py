"""The collections of the benchmark of training, cut to a size that two cores can train on.

Cut are queries, so many of each split, and with them the documents: the positives of the queries
that stay, and of the documents that answer no query the same share. So the corpus keeps what may
decide whether negatives help: how much of it no training query answers.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from stope.data import Collection, Pairs, read_beir
from stope.runs.judging import draw

SPLITS = ("train", "dev", "test")
HELD_OUT = 0.15  # of the training queries, where a collection has no dev split
LARGEST_GROUP = 0.1  # of the training queries, that is held out as a whole
Judged = dict[str, dict[str, int]]


def read(
    folder: Path, queries: int | None, documents: int | None, judged: int | None = None
) -> Collection:
    """A BEIR folder with splits train, dev and test, at most so many queries in each.

    Args:
        folder: with the splits train and test, and dev or not.
        queries: at most so many in training; None: all.
        documents: at most so many that answer no query; None: as their share of the corpus.
        judged: at most so many queries in dev and in test; None: four tenths of `queries`.
    """
    whole = read_beir(folder)
    known = set(whole.corpus_ids)
    qrels = {
        split: answered(whole.split(split).qrels, known) for split in SPLITS if split in whole.qrels
    }
    for split in ("train", "test"):
        if not qrels.get(split):
            raise ValueError(f"{folder} has no query with a positive in the split {split}")
    rng = np.random.default_rng(0)
    if "dev" not in qrels:
        qrels["train"], qrels["dev"] = held_out(qrels["train"], rng)
    before = positives_of(qrels)
    if queries is not None:
        few = queries * 4 // 10 if judged is None else judged
        limits = {"train": queries, "dev": few, "test": few}
        qrels = {split: drawn(answers, limits[split], rng) for split, answers in qrels.items()}
    answers = positives_of(qrels)
    others = [document for document in whole.corpus_ids if document not in before]
    count = len(others) * len(answers) // len(before)
    count = count if documents is None else min(count, documents)
    kept = answers | {others[row] for row in rng.permutation(len(others))[:count]}
    return of_documents(whole, qrels, kept)


def held_out_anew(whole: Collection, share: float) -> Collection:
    """With train and dev as one, of which dev is what a run would hold out by itself."""
    both = {**whole.qrels["train"], **whole.qrels["dev"]}
    pairs = Pairs.from_collection(dataclasses.replace(whole, qrels={"both": both}), "both")
    rows, _ = draw(pairs, round(share * len(pairs.query_texts)), "both", 0)
    dev = {pairs.query_ids[row] for row in rows.tolist()}
    parts = {
        split: {query: answers for query, answers in both.items() if (query in dev) == wanted}
        for split, wanted in (("train", False), ("dev", True))
    }
    return dataclasses.replace(whole, qrels={**whole.qrels, **parts})


def of_documents(whole: Collection, qrels: dict[str, Judged], kept: set[str]) -> Collection:
    """The judged queries over these documents."""
    rows = [row for row, document in enumerate(whole.corpus_ids) if document in kept]
    asked = {query for judged in qrels.values() for query in judged}
    places = [place for place, query in enumerate(whole.query_ids) if query in asked]
    return dataclasses.replace(
        whole,
        corpus_ids=[whole.corpus_ids[row] for row in rows],
        corpus_texts=[whole.corpus_texts[row] for row in rows],
        corpus_titles=[whole.corpus_titles[row] for row in rows],
        query_ids=[whole.query_ids[place] for place in places],
        query_texts=[whole.query_texts[place] for place in places],
        qrels=qrels,
    )


def answered(qrels: Judged, known: set[str]) -> Judged:
    """The queries that have a positive, with their positives alone."""
    positives = {
        query: {name: grade for name, grade in judged.items() if grade > 0 and name in known}
        for query, judged in qrels.items()
    }
    return {query: judged for query, judged in positives.items() if judged}


def positives_of(qrels: dict[str, Judged]) -> set[str]:
    """The documents that answer a query of any split."""
    return {name for judged in qrels.values() for answers in judged.values() for name in answers}


def drawn(judged: Judged, limit: int, rng: np.random.Generator) -> Judged:
    """At most so many of the queries, in their order."""
    names = list(judged)
    rows = np.sort(rng.permutation(len(names))[:limit])
    return {names[row]: judged[names[row]] for row in rows}


def held_out(judged: Judged, rng: np.random.Generator) -> tuple[Judged, Judged]:
    """Training queries and dev queries; queries that share a positive stay together.

    Where nearly all of them hang together (few documents with many queries), single ones are drawn:
    test queries of such a collection ask for documents that training has seen, too.
    """
    groups = connected(judged)
    wanted, dev = round(HELD_OUT * len(judged)), set[str]()
    for place in rng.permutation(len(groups)):
        if len(dev) < wanted and len(groups[place]) <= LARGEST_GROUP * len(judged):
            dev.update(groups[place])
    if len(dev) < wanted / 2:
        names = list(judged)
        dev = {names[row] for row in rng.permutation(len(names))[:wanted]}
    rest = {query: answers for query, answers in judged.items() if query not in dev}
    return rest, {query: answers for query, answers in judged.items() if query in dev}


def connected(judged: Judged) -> list[list[str]]:
    """The queries in groups, those that share a positive in one."""
    import scipy.sparse

    names = list(judged)
    columns = {
        document: column for column, document in enumerate(sorted(positives_of({"": judged})))
    }
    entries = [(row, columns[name]) for row, query in enumerate(names) for name in judged[query]]
    rows, columns_of = np.array(entries).T
    shape = (len(names), len(columns))
    table = scipy.sparse.csr_matrix((np.ones(len(rows)), (rows, columns_of)), shape=shape)
    count, group = scipy.sparse.csgraph.connected_components(table @ table.T, directed=False)
    members: list[list[str]] = [[] for _ in range(count)]
    for query, number in zip(names, group, strict=True):
        members[number].append(query)
    return members


def answers_of(collection: Collection, split: str) -> set[str]:
    """The documents that answer a query of a split."""
    return positives_of({split: collection.qrels[split]})


def queries_by_answers(collection: Collection, split: str = "test") -> dict[str, list[str]]:
    """The queries of a split by whether training has one for all that answers them ("seen")."""
    seen, judged = answers_of(collection, "train"), collection.qrels[split]
    known = {query: seen.issuperset(answers) for query, answers in judged.items()}
    return {
        name: [query for query in judged if known[query] == value]
        for name, value in (("seen", True), ("unseen", False))
    }


def facts(collection: Collection) -> dict[str, Any]:
    """What a table says of a collection, and what may decide whether negatives help.

    `never_positive` is the share of documents that answer no training query; `unseen` that share
    among the documents that answer a test query.
    """
    pairs = Pairs.from_collection(collection, "train")
    seen, tested = answers_of(collection, "train"), answers_of(collection, "test")
    return {
        "pairs": len(pairs.positives.ids),
        "documents": len(collection.corpus_ids),
        "dev_queries": len(collection.qrels["dev"]),
        "queries": len(collection.qrels["test"]),
        "never_positive": 1 - len(seen) / len(collection.corpus_ids),
        "unseen": len(tested - seen) / len(tested),
    }
