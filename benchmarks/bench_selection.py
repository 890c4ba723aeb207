"""Choosing data by similarity, on real collections: `python benchmarks/bench_selection.py --quick`.

duplicates  copies planted in three collections, found by threshold; pairs to read
training    pairs selected for a collection, trained on; nDCG@10 of its test queries
labels      titles of jobs labelled by a classifier, by neighbours, by both (NNOSE)
passages    questions of several hops, by dense retrieval and by HippoRAG's walk

Embeddings are all-MiniLM-L6-v2's and are kept in --cache. Collections are cut, by their options.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

import inputs
import selection_duplicates
import selection_labels
import selection_passages
import selection_training
import torch
from stope.data import read_beir
from trained import print_with_machine, write_json
from training_kinds import Settings, embedder

POOL = (
    "medquad",
    "python_doc2code",
    "stackexchange_small",
    "nl2bash",
    "tldr_pages",
    "metatool",
    "onet_titles",
    "scifact",
)
TARGETS = ("medquad", "python_doc2code", "nl2bash")
WITH_COPIES = ("wordnet_gloss", "python_doc2code", "stackexchange_small")
READ_FROM = (0.7, 0.8, 0.85, 0.9, 0.95)  # ranges of scores whose pairs are drawn to be read
LONG = 128  # tokens of a text where all of it matters; in bfloat16, nearly twice as fast


def say(words: str) -> None:
    """A line of progress."""
    print(words, file=sys.stderr, flush=True)


def embedder_of_long(options: argparse.Namespace) -> Any:
    """MiniLM's embeddings of longer texts, in bfloat16 and kept apart from the others."""
    embed = embedder(Settings(options.cache / "bfloat16", LONG))

    def made(texts: list[str], **how: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return embed(texts, **how)

    return made


Rows = Iterator[list[dict[str, Any]]]  # some at a time: what was measured stays if it is stopped


def duplicates(options: argparse.Namespace) -> Rows:
    """Recall of planted copies, by encoder and threshold; --read writes the pairs to be judged."""
    pairs = []
    embed = embedder_of_long(options)
    for name in options.copies:
        planted = selection_duplicates.plant(
            read_beir(options.data / name), options.documents, options.planted
        )
        say(f"{name}: {planted.start:,} documents, {len(planted.kinds)} copies")
        for encoder, embeddings in {
            "words": selection_duplicates.of_words(planted.texts),
            "MiniLM": embed(planted.texts, role="corpus"),
        }.items():
            common = {"collection": name, "encoder": encoder, "documents": planted.start}
            yield [{**common, **row} for row in selection_duplicates.measure(planted, embeddings)]
            drawn = selection_duplicates.to_read(
                planted, embeddings, list(READ_FROM), options.read_each
            )
            pairs += [{**common, **pair} for pair in drawn]
    if options.read:
        lines = [json.dumps(pair, ensure_ascii=False) + "\n" for pair in pairs]
        options.read.write_text("".join(lines), encoding="utf-8")


def training(options: argparse.Namespace) -> Rows:
    """What training on a selection brings, against as many random pairs."""
    yield from selection_training.measure(
        options.data,
        Settings(options.cache),
        names=options.pool,
        targets=options.targets,
        budgets=options.budgets,
        models=options.models,
        seeds=options.seeds,
        seen=options.seen_by,
        sizes=(options.queries, options.judged, options.unanswered),
        say=say,
    )


def labels(options: argparse.Namespace) -> Rows:
    """Accuracy of titles by method, the classifier trained on some or all of them."""
    collection = read_beir(options.data / "onet_titles")
    embed = embedder(Settings(options.cache))
    splits = []
    for split, limit in (("train", options.titles), ("dev", None), ("test", None)):
        names, texts, right = selection_labels.drawn(
            collection, split, limit or options.titles // 5
        )
        splits.append(selection_labels.Titles(names, embed(texts, role="query"), right))
    say(f"onet_titles: {', '.join(str(len(each.names)) for each in splits)} titles")
    classes = len(collection.corpus_ids)
    yield selection_labels.measure(*splits, classes, [0.2, 1.0], options.seeds)


def passages(options: argparse.Namespace) -> Rows:
    """nDCG@10 and recall of the first five, by split."""
    collection = read_beir(options.data / "multihop_small")
    collection = selection_passages.cut(collection, options.passages)
    yield selection_passages.measure(collection, embedder_of_long(options))


def table_of(part: str, rows: list[dict[str, Any]]) -> Table:
    """All rows, a column for every number."""
    table = Table(title=part, title_justify="left")
    columns = [name for name in rows[0] if name not in ("of_each_seed", "seconds", "interval")]
    for name in columns:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(_text(row[name]) for name in columns))
    return table


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{_text(each)} {name}" for name, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else f"{value}"


PARTS = {"duplicates": duplicates, "training": training, "labels": labels, "passages": passages}
QUICK = {
    "copies": ["stackexchange_small"],
    "documents": 200,
    "planted": 10,
    "targets": ["nl2bash"],
    "pool": ["nl2bash", "metatool"],
    "budgets": [50],
    "queries": 100,
    "unanswered": 50,
    "models": ["adapter"],
    "seeds": 2,
    "titles": 500,
    "passages": 500,
}


def main() -> None:
    """Run the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--parts", nargs="+", default=list(PARTS), choices=list(PARTS))
    add("--quick", action="store_true", help="small cuts, to see that it works")
    add("--data", type=Path, default=inputs.COLLECTIONS, help="folder of BEIR folders")
    add("--cache", type=Path, default=inputs.CACHE, help="for MiniLM's embeddings")
    add("--json", type=Path, default=None, metavar="PATH", help="write everything measured there")
    add("--copies", nargs="+", default=list(WITH_COPIES), help="collections to plant copies in")
    add("--documents", type=int, default=2000, help="of each, at random")
    add("--planted", type=int, default=100, help="copies of each kind")
    add("--read", type=Path, default=None, help="write pairs to be judged by reading: .jsonl")
    add("--read-each", type=int, default=12, help="of each range of scores")
    add("--pool", nargs="+", default=list(POOL), help="collections whose pairs may be selected")
    add("--targets", nargs="+", default=list(TARGETS), help="collections to select for")
    add("--budgets", nargs="+", type=int, default=[500, 2000], help="pairs selected")
    add("--models", nargs="+", default=["adapter"], choices=["adapter", "static"])
    add("--seen-by", default="minilm", choices=["minilm", "static"], help="how selectors embed")
    add("--queries", type=int, default=1000, help="of a training split at most; 0: all")
    add("--judged", type=int, default=400, help="of dev and test at most")
    add("--unanswered", type=int, default=1500, help="documents that answer no query; 0: all")
    add("--seeds", type=int, default=3, help="how many")
    add("--titles", type=int, default=10_000, help="to train on; a fifth for dev and for test")
    add("--passages", type=int, default=1500, help="of multihop_small, all positives among them")
    options = parser.parse_args()
    if options.quick:
        vars(options).update(QUICK)
    options.queries, options.unanswered = options.queries or None, options.unanswered or None
    began, command = time.perf_counter(), shlex.join([Path(sys.executable).name, *sys.argv])
    measured: list[dict[str, Any]] = []
    for part in options.parts:
        rows: list[dict[str, Any]] = []
        for some in PARTS[part](options):
            rows += some
            measured += [{"part": part, **row} for row in some]
            if options.json:
                write_json(options.json, measured, command, time.perf_counter() - began)
        print_with_machine(table_of(part, rows))


if __name__ == "__main__":
    main()
