"""Processor time of `stope train` on two files: `python benchmarks/bench_static.py --json OUT`.

A collection is cut to 3,000 pairs and 10,000 documents; the command trains a static encoder on them
with its defaults, in a process of its own, imports included. With `--before PATH` an older package
(its folder `python`) takes turns with this one, and both must leave the same weights.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import inputs
from stope.data import read_beir, write_jsonl
from trained import print_with_machine, write_json

NOW = Path(__file__).parent.parent / "python"


def write_files(collection: str, folder: Path, pairs: int, documents: int) -> None:
    """pairs.jsonl and corpus.jsonl: random pairs of the split train, and their documents first."""
    beir = read_beir(inputs.COLLECTIONS / collection, ["train"])
    queries = dict(zip(beir.query_ids, beir.query_texts, strict=True))
    texts = dict(zip(beir.corpus_ids, beir.corpus_texts, strict=True))
    rows = [(query, doc) for query, docs in beir.qrels["train"].items() for doc in docs]
    random = np.random.default_rng(0)
    rows = [rows[place] for place in random.permutation(len(rows))[:pairs]]
    others = [list(texts)[place] for place in random.permutation(len(texts))]
    kept = list(dict.fromkeys([doc for _, doc in rows] + others))[:documents]
    write_jsonl(
        folder / "pairs.jsonl",
        [{"query": queries[query], "positive": texts[doc]} for query, doc in rows],
    )
    write_jsonl(folder / "corpus.jsonl", [{"id": doc, "text": texts[doc]} for doc in kept])


def measure(package: Path, folder: Path, negatives: int) -> dict[str, Any]:
    """One run of the command: processor and wall-clock seconds, steps, and what it made."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        model = Path(place) / "model"
        words = ["train", "pairs.jsonl", "corpus.jsonl", "-n", str(negatives), "-o", str(model)]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "stope", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(package.resolve())},
            check=True,
            capture_output=True,
        )
        seconds = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        report = json.loads((Path(place) / "model.run" / "report.json").read_text())
        weights = (model / "model.safetensors").read_bytes()
    return {
        "processor_seconds": sum(getattr(after, f) - getattr(before, f) for f in _TIMES),
        "wall_seconds": seconds,
        "steps": report["training"]["steps"],
        "nDCG@10": report["after"]["nDCG@10"],
        "sha256": hashlib.sha256(weights).hexdigest(),
    }


_TIMES = ("ru_utime", "ru_stime")


def main() -> int:
    """Run in turns, print the table, write the JSON; 1 where the weights differ."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--collection", nargs="+", default=["nl2bash", "medquad"])
    options.add_argument("--negatives", type=int, nargs="+", default=[0, 5])
    options.add_argument("--pairs", type=int, default=3000)
    options.add_argument("--documents", type=int, default=10_000)
    options.add_argument("--turns", type=int, default=1)
    options.add_argument("--before", type=Path, help="folder python of an older package")
    options.add_argument("--json", type=Path, default=None, metavar="PATH")
    asked = options.parse_args()
    began = time.perf_counter()
    packages = {"now": NOW} | ({} if asked.before is None else {"before": asked.before})
    table = Table(
        title="`stope train` of a static encoder",
        title_justify="left",
        caption="least of the turns; OMP_NUM_THREADS is "
        + os.environ.get("OMP_NUM_THREADS", "not set"),
    )
    for heading in ("collection", "negatives", "package", "processor s", "wall s", "nDCG@10"):
        table.add_column(heading)
    rows: list[dict[str, Any]] = []
    differ = False
    for collection in asked.collection:
        with tempfile.TemporaryDirectory() as place:
            write_files(collection, Path(place), asked.pairs, asked.documents)
            for negatives in asked.negatives:
                turns = [
                    {"package": name, **measure(package, Path(place), negatives)}
                    for _ in range(asked.turns)
                    for name, package in packages.items()
                ]
                differ |= len({turn["sha256"] for turn in turns}) > 1
                rows += [{"collection": collection, "negatives": negatives, **t} for t in turns]
                for name in packages:
                    mine = [turn for turn in turns if turn["package"] == name]
                    least = min(mine, key=lambda turn: turn["processor_seconds"])
                    numbers = (least["processor_seconds"], least["wall_seconds"])
                    words = [f"{number:.1f}" for number in numbers]
                    table.add_row(
                        collection, str(negatives), name, *words, f"{least['nDCG@10']:.4f}"
                    )
    print_with_machine(table)
    if differ:
        print("the packages, or the turns, left different weights", file=sys.stderr)
    if asked.json:
        command = shlex.join([Path(sys.executable).name, *sys.argv])
        write_json(asked.json, rows, command, time.perf_counter() - began)
    return int(differ)


if __name__ == "__main__":
    sys.exit(main())
