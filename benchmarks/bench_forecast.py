"""Can a number say before training what negatives bring? `python benchmarks/bench_forecast.py`.

A cell is a collection and a source of negatives, with the difference to in-batch training that
`bench_training.py` measured there. For each the negatives are mined with the encoder as it is
before they enter (MiniLM; a static encoder after in-batch training), and of them:

    never       share that answers no training query
    unseen      that share, times the share of dev queries that ask for unseen documents
    apart       1 - sum_d min(m_d / m, n_d / n): how far exposure as a negative (m_d times) lies
                from exposure as a positive (n_d times)
    entropy     -sum_d m_d / m log(m_d / m) / log(documents): 1 where all are mined equally often
    hard        mean cosine of query and negative
    margin      mean of the lowest positive's score less the negative's
    spread      standard deviation of that
    near        share of the negatives less than 0.1 below the positive
    capacity    log(1 + negatives per query) x the harmonic mean of hard and margin, both from 0
    volume      log det(I + d E[w r r']), r the negative less the positive (d numbers), w =
                p (1 - p) of a softmax over both at temperature 0.05

The last two follow what the abstracts of arXiv 2603.20990 say (v1: information capacity and a
harmonic mean of hardness and safety; v3: log-determinant of weighted residuals); the paper's own
formulas were not found. Printed is Spearman's rank correlation of number and difference, with 95%
intervals from drawing collections anew: collections, not cells, are what is independent.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats
from rich.table import Table

import inputs
from stope.adapters.maps import unit
from stope.encoders import encode_corpus, encode_queries
from stope.mining import Mined
from trained import print_with_machine, write_json
from training_data import facts, queries_by_answers, read
from training_kinds import KINDS, AdapterOnMiniLM, Settings

SOURCES = {
    "5 of the corpus": ("corpus", 5),
    "5 among positives": ("positives", 5),
    "1 among positives": ("positives", 1),
}
TEMPERATURE = 0.05
DRAWS = 2000


def numbers(mined: Mined, queries: Any, corpus: Any, unseen: float) -> dict[str, float]:
    """All of them, of one source of negatives."""
    pairs, ids = mined.pairs, mined.result.ids
    times = np.bincount(ids[ids >= 0], minlength=len(pairs.corpus_ids)).astype(float)
    asked = np.bincount(pairs.positives.ids, minlength=len(times)).astype(float)
    share, wanted = times / times.sum(), asked / asked.sum()
    rows, places = np.nonzero(ids >= 0)
    negatives, scores = ids[rows, places], mined.result.scores[rows, places].astype(float)
    positives = mined.result.positive_scores[rows].astype(float)
    margins = positives - scores
    hard, safe = float(scores.clip(0).mean()), float(margins.clip(0).mean())
    never = float((asked[negatives] == 0).mean())
    right = pairs.positives.ids[pairs.positives.offsets[rows]]
    residuals = np.asarray(corpus[negatives] - corpus[right], dtype=np.float64)
    chance = 1 / (1 + np.exp(margins / TEMPERATURE))
    weighted = residuals * (chance * (1 - chance))[:, None]
    dim = residuals.shape[1]
    moments = np.eye(dim) + dim * (weighted.T @ residuals) / len(rows)
    present = share[share > 0]
    return {
        "never": never,
        "unseen": never * unseen,
        "apart": float(1 - np.minimum(share, wanted).sum()),
        "entropy": float(-(present * np.log(present)).sum() / np.log(len(times))),
        "hard": hard,
        "margin": float(margins.mean()),
        "spread": float(margins.std()),
        "near": float((margins < 0.1).mean()),
        "capacity": float(np.log1p(ids.shape[1]) * 2 * hard * safe / (hard + safe)),
        "volume": float(np.linalg.slogdet(moments)[1]),
    }


def cells_of(rows: list[dict[str, Any]], given: argparse.Namespace) -> list[dict[str, Any]]:
    """A cell for every row of a source: what it brought, and its numbers."""
    cells = []
    wanted = [row for row in rows if row["recipe"] in SOURCES]
    for kind_name, name in dict.fromkeys((row["kind"], row["collection"]) for row in wanted):
        collection = read(given.data / name, None, None)
        kind = KINDS[kind_name](collection, Settings(given.cache, given.tokens))
        if isinstance(kind, AdapterOnMiniLM):
            model, queries, corpus = None, kind.queries, kind.documents
        else:
            model = kind.in_batch(0, 1.0)[0]
            queries = unit(encode_queries(model, kind.pairs.query_texts))
            corpus = unit(encode_corpus(model, kind.pairs.corpus_texts))
        groups = queries_by_answers(collection, "dev")
        unseen = len(groups["unseen"]) / sum(map(len, groups.values()))
        for row in wanted:
            if (row["kind"], row["collection"]) != (kind_name, name):
                continue
            among, count = SOURCES[row["recipe"]]
            mined = kind.mined(model, among=among, num_negatives=count)
            kept = ("kind", "collection", "recipe", "difference", "difference_interval", "groups")
            cells.append(
                {
                    **{field: row[field] for field in kept},
                    "never_positive": facts(collection)["never_positive"],
                    "numbers": numbers(mined, queries, corpus, unseen),
                }
            )
            print(f"{kind_name} {name} {row['recipe']}", file=sys.stderr, flush=True)
    return cells


def correlation(cells: list[dict[str, Any]], number: str) -> tuple[float, float, float] | None:
    """Spearman's rank correlation with the difference, and its interval over collections.

    None where the number is the same in all cells.
    """
    if np.ptp([cell["numbers"][number] for cell in cells]) == 0:
        return None
    names = list(dict.fromkeys(cell["collection"] for cell in cells))
    of = {name: [cell for cell in cells if cell["collection"] == name] for name in names}

    def rank(chosen: list[dict[str, Any]]) -> float:
        left, right = (
            scipy.stats.rankdata(values)
            for values in (
                [cell["numbers"][number] for cell in chosen],
                [cell["difference"] for cell in chosen],
            )
        )
        if min(np.ptp(left), np.ptp(right)) == 0:  # one collection, drawn again and again
            return float("nan")
        return float(np.corrcoef(left, right)[0, 1])

    rng = np.random.default_rng(0)
    drawn = [
        rank([cell for name in rng.choice(names, len(names)) for cell in of[name]])
        for _ in range(DRAWS)
    ]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return rank(cells), float(low), float(high)


def main() -> None:
    """Run the benchmark; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("results", nargs="+", type=Path, help="JSON of bench_training.py, of adapters and static")
    add("--data", type=Path, default=inputs.COLLECTIONS, help="folder of BEIR folders, as then")
    add("--tokens", type=int, default=64, help="of a text for MiniLM; a static encoder reads twice")
    add("--cache", type=Path, default=inputs.CACHE, help="for MiniLM's embeddings")
    add("--json", type=Path, default=None, metavar="PATH", help="write everything measured there")
    given = parser.parse_args()
    began = time.perf_counter()
    rows = [row for path in given.results for row in json.loads(path.read_text())["rows"]]
    cells = cells_of(rows, given)
    sets = {
        f"{kind}, {source}": [
            cell
            for cell in cells
            if cell["kind"] == kind and (source == "all" or cell["recipe"] == source)
        ]
        for kind in dict.fromkeys(cell["kind"] for cell in cells)
        for source in (*SOURCES, "all")
    }
    sets |= {
        f"{title}, unseen queries": [
            {**cell, "difference": cell["groups"]["unseen"]["difference"]}
            for cell in chosen
            if "unseen" in cell["groups"]
        ]
        for title, chosen in sets.items()
        if title.endswith("5 of the corpus")
    }
    sets = {title: chosen for title, chosen in sets.items() if len(chosen) > 3}
    table = Table(title="rank correlation with what negatives brought", title_justify="left")
    for heading in ("number", *(f"{title} ({len(chosen)})" for title, chosen in sets.items())):
        table.add_column(heading)
    correlations = {
        number: {title: correlation(chosen, number) for title, chosen in sets.items()}
        for number in cells[0]["numbers"]
    }
    for number, of in correlations.items():
        texts = ("" if r is None else "{:+.2f} [{:+.2f}, {:+.2f}]".format(*r) for r in of.values())
        table.add_row(number, *texts)
    print_with_machine(table)
    if given.json:
        command = shlex.join([Path(sys.executable).name, *sys.argv])
        row = {"correlations": correlations, "cells": cells}
        write_json(given.json, [row], command, time.perf_counter() - began)


if __name__ == "__main__":
    main()
