"""What large in-batch batches buy: `python benchmarks/bench_batch_size.py`.

A static encoder is trained from the same start with batches of several sizes, each for its own
number of passes over the same rows: the same number, and as many as take about the same time.
Where several learning rates are given, each size has the one that is best on the dev split with
the first seed; the test split is judged with all seeds. The loss scores every query of a batch
against every document of it: `stope.torch.infonce`, without the matrix of scores.
"""

from __future__ import annotations

import argparse
import copy
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import inputs
from stope.data import Collection, Pairs, read_beir
from stope.encoders import static_encoder
from stope.evaluation import Evaluation
from stope.training import TrainingReport, train
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

CAPTION = (
    f"{METRIC} on the test split: mean over queries and seeds [95% bootstrap interval over queries]"
    "; difference: to the first batch size, paired over the queries; seconds: one training, mean."
)


def trained(
    start: Any,
    pairs: Pairs,
    size: int,
    epochs: int,
    rate: float,
    seed: int,
    given: argparse.Namespace,
) -> tuple[Any, TrainingReport]:
    """A copy of the start, trained."""
    model = copy.deepcopy(start)
    report = train(
        model,
        pairs,
        batch_size=size,
        learning_rate=rate,
        epochs=epochs,
        temperature=given.temperature,
        precision=given.precision,
        seed=seed,
    )
    return model, report


def measure(name: str, collection: Collection, given: argparse.Namespace) -> list[dict[str, Any]]:
    """One row of the table for every batch size."""
    pairs = Pairs.from_collection(collection, "train")
    texts = [*pairs.corpus_texts, *pairs.query_texts]
    starts = [static_encoder(texts, seed=seed) for seed in range(given.seeds)]
    untrained = averaged([judged(start, collection) for start in starts])
    rows: list[dict[str, Any]] = []
    baseline: Evaluation | None = None
    for size, epochs in zip(given.sizes, given.epochs, strict=True):
        tried = {}
        for rate in given.learning_rates if len(given.learning_rates) > 1 else ():
            model, _ = trained(starts[0], pairs, size, epochs, rate, 0, given)
            tried[rate] = judged(model, collection, "dev").mean[METRIC]
            print(f"{name} {size} {rate}: dev {tried[rate]:.4f}", file=sys.stderr, flush=True)
        rate = max(tried, key=lambda rate: tried[rate], default=given.learning_rates[0])
        each, reports = [], []
        for seed, start in enumerate(starts):
            model, report = trained(start, pairs, size, epochs, rate, seed, given)
            each.append(judged(model, collection))
            reports.append(report)
            print(
                f"{name} {size} seed {seed}: {each[-1].mean[METRIC]:.4f}, {report.seconds:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        baseline = baseline or averaged(each)
        rows.append(
            {
                **facts(name, collection, pairs),
                "epochs": epochs,
                "batch_size": size,
                "steps": reports[0].steps,
                "learning_rate": rate,
                "dev_by_learning_rate": tried,
                "untrained": untrained.mean[METRIC],
                **against(baseline, each, [report.seconds for report in reports]),
            }
        )
    return rows


def show(rows: list[dict[str, Any]], command: str) -> None:
    """The table."""
    print_table(
        rows,
        command,
        CAPTION,
        group=lambda row: row["collection"],
        note=lambda row: f"untrained {row['untrained']:.4f}",
        columns={
            "batch": lambda row: f"{row['batch_size']:,}",
            "epochs": lambda row: str(row["epochs"]),
            "steps": lambda row: f"{row['steps']:,}",
            "rate": lambda row: f"{row['learning_rate']:g}",
            METRIC: mean_cell,
            "difference": difference_cell,
            "each seed": seeds_cell,
            "seconds": seconds_cell,
        },
    )


def main() -> None:
    """Run the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=inputs.COLLECTIONS, help="folder of BEIR folders")
    add("--collections", nargs="+", default=["esco_skills"])
    add("--sizes", nargs="+", type=int, default=[256, 16_384, 16_384])
    add("--epochs", nargs="+", type=int, default=[2, 2, 10], help="of each size")
    add("--learning-rates", nargs="+", type=float, default=[0.1])
    add("--seeds", type=int, default=3, help="how many")
    add("--temperature", type=float, default=0.05)
    add("--precision", default="float32", choices=("float32", "bfloat16"))
    add("--json", type=Path, default=None, metavar="PATH", help="write everything measured there")
    given = parser.parse_args()
    if len(given.sizes) != len(given.epochs):
        parser.error(f"--sizes names {len(given.sizes)} but --epochs {len(given.epochs)}")
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    began = time.perf_counter()
    rows: list[dict[str, Any]] = []
    for name in given.collections:
        rows += measure(name, read_beir(given.data / name), given)
        if given.json:  # what was measured stays if the next is stopped
            write_json(given.json, rows, command, time.perf_counter() - began)
    show(rows, command)


if __name__ == "__main__":
    main()
