"""What an adapter's training does pass by pass: `python benchmarks/bench_course.py`.

After every pass, with f the adapted and normed embeddings (Wang and Isola 2020, alpha = t = 2):

    alignment   mean of |f(q) - f(p)|^2 over pairs of a query and its positive: of training, and of
                test queries whose answers training has seen or not; small is good
    uniformity  log of the mean of exp(-2 |f(x) - f(y)|^2) over two different documents, of all and
                of those that answer no training query; small is spread out
    never, some mean cosine of a training query and of documents that answer none, or another one
    nDCG@10     of the training queries, and of test queries of both groups

The test split is looked at in every pass: that shows what happens, and chooses nothing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

import inputs
from bench_training import BASELINE, COLLECTIONS, FEWEST, RECIPES
from stope.adapters import train_adapter
from stope.evaluation import RetrievalEvaluation
from trained import METRIC, print_with_machine, write_json
from training_data import queries_by_answers, read
from training_kinds import DEPTH, AdapterOnMiniLM, Settings

Rows = NDArray[np.float32]


def alignment(queries: Rows, documents: Rows) -> float:
    """Mean squared distance of queries and positives, both [pairs, d] of length one."""
    return float(np.square(queries - documents, dtype=np.float64).sum(axis=1).mean())


def uniformity(rows: Rows) -> float:
    """log mean exp(-2 |x - y|^2) over two different rows of length one, [n, d]."""
    values = np.exp(4 * (rows.astype(np.float64) @ rows.T.astype(np.float64) - 1))
    count = len(rows)
    return float(np.log((values.sum() - np.trace(values)) / (count * (count - 1))))


class Course:
    """What is looked at on the way of one training."""

    def __init__(self, kind: AdapterOnMiniLM) -> None:
        self.kind, collection = kind, kind.collection
        kind.judges["train"] = RetrievalEvaluation.from_collection(collection, "train", k=DEPTH)
        kind.asked["train"] = kind.embed(kind.judges["train"].query_texts, role="query")
        self.groups = {
            ("test", name): queries
            for name, queries in queries_by_answers(collection).items()
            if len(queries) >= FEWEST
        }
        self.groups["train", "train"] = list(collection.qrels["train"])
        answers = {name for judged in collection.qrels["train"].values() for name in judged}
        self.positive = np.array([name in answers for name in collection.corpus_ids])
        row_of = {name: row for row, name in enumerate(collection.corpus_ids)}
        self.pairs = {}
        for (split, name), queries in self.groups.items():
            place = {query: row for row, query in enumerate(kind.judges[split].query_ids)}
            both = [
                (place[query], row_of[document])
                for query in queries
                for document in collection.qrels[split][query]
            ]
            self.pairs[split, name] = np.array(both).T
        self.own = np.zeros((len(kind.asked["train"]), len(row_of)), dtype=bool)
        self.own[tuple(self.pairs["train", "train"])] = True

    def look(self, adapter: Any) -> dict[str, Any]:
        """All figures of an adapter."""
        kind, looked = self.kind, dict[str, Any]()
        corpus = adapter.apply(kind.corpus, "documents")
        of = {split: adapter.apply(kind.asked[split], "queries") for split in ("train", "test")}
        reached = {split: kind.judged(split, adapter).per_query[METRIC] for split in of}
        for (split, name), queries in self.groups.items():
            left, right = self.pairs[split, name]
            looked[f"ndcg_{name}"] = float(np.mean([reached[split][query] for query in queries]))
            looked[f"alignment_{name}"] = alignment(of[split][left], corpus[right])
        looked["uniformity"] = uniformity(corpus)
        looked["uniformity_never"] = uniformity(corpus[~self.positive])
        scores = of["train"] @ corpus.T
        looked["cosine_never"] = float(scores[:, ~self.positive].mean())
        others = ~self.own[:, self.positive]
        looked["cosine_some"] = float(scores[:, self.positive][others].mean())
        return looked


def courses(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for every recipe and number of passes: figures by pass, means over the seeds."""
    collection = read(given.data / name, given.queries, given.documents)
    kind = AdapterOnMiniLM(collection, Settings(given.cache, given.tokens))
    course, rows = Course(kind), list[dict[str, Any]]()
    for title in given.recipes:
        for passes in given.passes:
            looks: list[list[dict[str, Any]]] = []
            for seed in range(given.seeds):
                looks.append([])

                def look(adapter: Any) -> float:
                    looks[-1].append(course.look(adapter))  # noqa: B023  # called at once
                    return float(len(looks[-1]))  # noqa: B023  # the last one stays

                options = {**kind.usual, **kind.made(RECIPES[title].adapter or {}, None)}
                options |= {"epochs": passes, "evaluate_every": max(1, passes // 10)}
                positives = kind.pairs.positives
                options |= {"seed": seed, "evaluate": look}
                train_adapter(kind.queries, kind.documents, positives, **options)
            figures = {
                figure: [float(np.mean([run[at][figure] for run in looks])) for at in range(11)]
                for figure in looks[0][0]
            }
            rows.append({"collection": name, "recipe": title, "passes": passes, **figures})
            print(f"{name} {title} {passes}", file=sys.stderr, flush=True)
    return rows


def table_of(rows: list[dict[str, Any]]) -> Table:
    """The start, and the end of every training."""
    figures = [name for name in rows[0] if isinstance(rows[0][name], list)]
    figures += [name for row in rows for name in row if isinstance(row[name], list)]
    figures = list(dict.fromkeys(figures))
    table = Table(title="before training and after it", title_justify="left")
    for heading in ("collection", "recipe", "passes", *figures):
        table.add_column(heading)
    for name in dict.fromkeys(row["collection"] for row in rows):
        here = [row for row in rows if row["collection"] == name]
        for row, at in ((here[0], 0), *((row, -1) for row in here)):
            texts = [f"{row[figure][at]:.3f}" if figure in row else "" for figure in figures]
            table.add_row(name, row["recipe"] if at else "start", str(row["passes"]), *texts)
    return table


def main() -> None:
    """Run the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=inputs.COLLECTIONS, help="folder of BEIR folders")
    add("--collections", nargs="+", default=list(COLLECTIONS), help="folders in it")
    add("--recipes", nargs="+", choices=list(RECIPES), help="of bench_training.py, for adapters")
    parser.set_defaults(recipes=[BASELINE, "5 of the corpus", "5 among positives"])
    add("--passes", nargs="+", type=int, default=[10, 40], help="of each training; tens")
    add("--seeds", type=int, default=3, help="how many")
    add("--queries", type=int, default=1000, help="of the training split at most")
    add("--documents", type=int, default=1500, help="that answer no query at most")
    add("--tokens", type=int, default=64, help="of a text for MiniLM")
    add("--cache", type=Path, default=inputs.CACHE, help="for MiniLM's embeddings")
    add("--json", type=Path, default=None, metavar="PATH", help="write everything measured there")
    given = parser.parse_args()
    if any(passes % 10 for passes in given.passes):
        parser.error(f"--passes is {given.passes}; there are ten looks, so give tens")
    given.queries, given.documents = given.queries or None, given.documents or None
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    began, rows = time.perf_counter(), list[dict[str, Any]]()
    for name in given.collections:
        rows += courses(name, given)
        if given.json:
            write_json(given.json, rows, command, time.perf_counter() - began)
    print_with_machine(table_of(rows))


if __name__ == "__main__":
    main()
