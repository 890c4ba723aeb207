"""Does bfloat16 in the loss train as well as float32? `python benchmarks/bench_training.py`.

For every collection and seed one static encoder is made from the corpus and the training queries,
and copied for each contender, which trains on the training split: the same rows in the same order.
What each reaches on the test split over the whole corpus is compared query by query. Queries are
averaged over the seeds first, so that an interval is that of the collection's queries.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import inputs
from stope.data import Collection, Pairs, read_beir
from stope.encoders import static_encoder
from stope.evaluation import Evaluation
from stope.training import pairs_dataset, train
from trained import (
    METRIC,
    against,
    averaged,
    difference_cell,
    facts,
    judged,
    mean_cell,
    print_table,
    seconds_cell,
    seeds_cell,
    write_json,
)

TEMPERATURE = 0.05
BASELINE = "float32"
CONTENDERS = (BASELINE, "bfloat16", "torch")
CAPTION = (
    f"{METRIC} on the test split: mean over queries and seeds [95% bootstrap interval over queries]"
    f"; difference: that contender minus {BASELINE}, paired over the queries; torch is"
    " sentence-transformers' MultipleNegativesRankingLoss in float32; seconds: one training, mean."
)


def options_of(model: Any, contender: str) -> dict[str, Any]:
    """What `stope.training.train` is told."""
    if contender != "torch":
        return {"precision": contender, "temperature": TEMPERATURE}
    from stope.encoders.versions import part

    ranking = part("losses").MultipleNegativesRankingLoss
    return {"loss": ranking(model, scale=1 / TEMPERATURE)}


def measure(name: str, collection: Collection, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row of the table for every contender."""
    pairs = Pairs.from_collection(collection, "train")
    dataset = pairs_dataset(pairs)
    texts = [*pairs.corpus_texts, *pairs.query_texts]
    kept: dict[str, list[Evaluation]] = {contender: [] for contender in given.contenders}
    seconds: dict[str, list[float]] = {contender: [] for contender in given.contenders}
    losses: dict[str, list[float]] = {contender: [] for contender in given.contenders}
    steps = 0
    untrained = []
    for seed in range(given.seeds):
        start = static_encoder(texts, seed=seed)
        untrained.append(judged(start, collection).mean[METRIC])
        for contender in given.contenders:
            model = copy.deepcopy(start)
            done = train(
                model,
                dataset,
                batch_size=given.batch_size,
                epochs=given.epochs,
                seed=seed,
                **options_of(model, contender),
            )
            steps = done.steps
            kept[contender].append(judged(model, collection))
            seconds[contender].append(done.seconds)
            losses[contender].append(float(np.mean(done.losses[-5:])))
            print(
                f"{name} seed {seed} {contender}: {kept[contender][-1].mean[METRIC]:.4f},"
                f" {done.seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    baseline = averaged(kept[BASELINE])
    common = {
        **facts(name, collection, pairs),
        "steps": steps,
        "untrained": float(np.mean(untrained)),
    }
    return [
        {
            **common,
            "contender": contender,
            **against(baseline, kept[contender], seconds[contender]),
            "last_loss": float(np.mean(losses[contender])),
        }
        for contender in given.contenders
    ]


def show(rows: list[dict[str, Any]], command: str) -> None:
    """The table."""
    print_table(
        rows,
        command,
        CAPTION,
        group=lambda row: row["collection"],
        note=lambda row: f"{row['steps']:,} steps, untrained {row['untrained']:.4f}",
        columns={
            "loss": lambda row: row["contender"],
            METRIC: mean_cell,
            "difference": lambda row: "" if row["contender"] == BASELINE else difference_cell(row),
            "each seed": seeds_cell,
            "last loss": lambda row: f"{row['last_loss']:.4f}",
            "seconds": seconds_cell,
        },
    )


def main() -> None:
    """Run the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    shared = inputs.COLLECTIONS
    add("--data", type=Path, default=shared, help="folder of BEIR folders (not in the repository)")
    add("--collections", nargs="+", default=["medquad", "stackexchange_small", "python_doc2code"])
    add("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    add("--seeds", type=int, default=3, help="how many")
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=None, help="default: what train chooses")
    add("--json", type=Path, default=None, metavar="PATH", help="write everything measured there")
    given = parser.parse_args()
    if BASELINE not in given.contenders:
        parser.error(f"--contenders needs {BASELINE}, to which the others are compared")
    missing = [name for name in given.collections if not (given.data / name).is_dir()]
    if missing:
        parser.error(f"{given.data} has no {', '.join(missing)}; name the folder with --data")
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    started = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for name in given.collections:
        rows += measure(name, read_beir(given.data / name), given)
        if given.json:  # after every collection: what was measured stays if the next is stopped
            write_json(given.json, rows, command, time.perf_counter() - started)
    show(rows, command)


if __name__ == "__main__":
    main()
