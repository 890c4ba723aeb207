"""Accuracy of the contrastive loss against float64: `python benchmarks/infonce_accuracy.py`.

For every instruction set, precision and temperature, the largest error over several shapes, beside
the bound that `tests/support/infonce_checks.py` holds every rule of the loss to. The oracle is
`tests/support/reference_infonce.py`. With s = 1 / temperature and per-row gradients w:

- loss: max |L_i - exact| over max(1, s), or over L_i / 10 where that is larger;
- d queries, d documents: Frobenius norm of the error over that of the gradient;
- zero: where the gradient is zero up to 2% of s |w| / r (one document, one dimension; r the
  shortest row's norm), the error over s |w| / r, for terms of that size cancel;
- d temperature: error over |gradient| + s² sum |w|.

Gradients' bounds grow with s above 15, as an error of a score moves e^(s S) by s times as much. The
bounds of "zero" are those of this file: 2% of float32's, and the rounding to bfloat16, 2^-9.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import report
import stope

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

import infonce_checks
import reference_infonce as oracle

SHAPES = ((1, 1, 8), (5, 9, 1), (33, 70, 31), (64, 257, 128), (48, 300, 384), (130, 520, 768))
TEMPERATURES = (0.001, 0.02, 0.05, 1.0, 100.0)
PRECISIONS = ("float32", "bfloat16")
ALL_DIRECTIONS = (oracle.QD, oracle.QQ, oracle.DQ, oracle.DD)
FIELDS = ("loss", "queries", "documents", "temperature", "zero")
ZERO = {"float32": 2e-7, "bfloat16": 2.0**-9}
RESULTS = Path(__file__).resolve().parent / "results" / "infonce_accuracy"


def embeddings(rows: int, count: int, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Even queries at cosine 0.7 or so of their document, odd ones anywhere; a common part in all.

    The odd ones keep losses, and so gradients, from vanishing at low temperatures.
    """
    rng = np.random.default_rng([rows, count, dim])
    common = 0.5 * rng.standard_normal((1, dim))
    documents = rng.standard_normal((count, dim)) + common
    queries = rng.standard_normal((rows, dim)) + common
    queries[::2] += documents[:rows:2] - common
    return queries.astype(np.float32), documents.astype(np.float32)


def options_of(kind: str, rows: int, count: int) -> dict[str, Any]:
    """Options of the plain loss, with every direction and ids, or with two positives each."""
    if kind == "plain":
        return {}
    ids = np.arange(count) // 2
    if kind == "joint":
        return {"directions": ALL_DIRECTIONS, "document_ids": ids}
    return {"positives": [[i, (i + 1) % count][: 1 + (count > 1)] for i in range(rows)]}


def exact(shape: tuple[int, int, int], temperature: float, kind: str) -> dict[str, Any]:
    """One problem and its float64 answer."""
    rows, count, _ = shape
    queries, documents = embeddings(*shape)
    options = {"temperature": temperature, **options_of(kind, rows, count)}
    answer = oracle.evaluate(queries, documents, **options)
    return {"given": (queries, documents), "options": options, "answer": answer}


def errors_of(problem: dict[str, Any], precision: str) -> dict[str, float]:
    """Errors of stope's current instruction set on one problem, as the top of this file says."""
    queries, documents = problem["given"]
    options = {**problem["options"], "precision": precision}
    forward = stope.infonce_forward(queries, documents, **options)
    got = stope.infonce_backward(queries, documents, forward, **options)
    losses, gradients = problem["answer"]
    scale = 1 / options["temperature"]
    size = np.maximum(max(1.0, scale), np.abs(losses.losses) / 10)
    found = {"loss": float((np.abs(forward.losses - losses.losses) / size).max())}
    weight = len(queries) ** -0.5
    for name, rows in (("queries", queries), ("documents", documents)):
        expected = getattr(gradients, name)
        shortest = np.linalg.norm(rows.astype(np.float64), axis=1).min()
        norm, terms = np.linalg.norm(expected), scale * weight / shortest
        error = np.linalg.norm(getattr(got, name) - expected)
        if norm > 0.02 * terms:
            found[name] = float(error / norm)
        else:
            found["zero"] = max(found.get("zero", 0.0), float(error / terms))
    size = abs(gradients.temperature) + scale**2
    found["temperature"] = float(abs(got.temperature - gradients.temperature) / size)
    return found


def bounds(precision: str, temperature: float) -> dict[str, float]:
    """The bounds of the tests for these errors."""
    gradient = infonce_checks.GRADIENT[precision] * max(1.0, 1 / temperature / 15)
    found = dict.fromkeys(FIELDS, gradient)
    return {**found, "loss": infonce_checks.LOSS[precision], "zero": ZERO[precision]}


def measure() -> list[dict[str, Any]]:
    """One entry per instruction set, precision and temperature."""
    found = []
    kinds = ("plain", "several", "joint")
    for temperature in TEMPERATURES:
        problems = [exact(shape, temperature, kind) for shape in SHAPES for kind in kinds]
        for isa in stope.isa.available():
            with stope.isa.only(isa):
                for precision in PRECISIONS:
                    errors = [errors_of(problem, precision) for problem in problems]
                    worst = {name: max(e.get(name, 0.0) for e in errors) for name in FIELDS}
                    found.append(
                        {
                            "isa": isa,
                            "precision": precision,
                            "temperature": temperature,
                            "errors": worst,
                            "bounds": bounds(precision, temperature),
                        }
                    )
    order = stope.isa.available()
    return sorted(
        found,
        key=lambda e: (order.index(e["isa"]), PRECISIONS.index(e["precision"]), e["temperature"]),
    )


def within(entry: dict[str, Any]) -> bool:
    """Whether every error is at most its bound (NaN is not)."""
    return all(entry["errors"][name] <= entry["bounds"][name] for name in FIELDS)


def print_table(console: Console, entries: list[dict[str, Any]]) -> None:
    """Print errors and bounds side by side."""
    words = f"infonce against float64: largest error / bound over {len(SHAPES)} shapes, 3 rules"
    table = Table(title=words, title_justify="left")
    for heading in (
        "isa",
        "precision",
        "temperature",
        "loss",
        *(f"d {f}" for f in FIELDS[1:4]),
        "zero",
        "",
    ):
        table.add_column(heading, justify="left" if heading in ("isa", "precision") else "right")
    for position, entry in enumerate(entries):
        cells = [f"{entry['errors'][f]:.1e} / {entry['bounds'][f]:.1e}" for f in FIELDS]
        names = [entry["isa"], entry["precision"], f"{entry['temperature']:g}"]
        last = (position + 1) % len(TEMPERATURES) == 0
        table.add_row(*names, *cells, "" if within(entry) else "ABOVE", end_section=last)
    console.print(table)


def main() -> int:
    """Measure, print and, when asked, keep; 1 when an error is above its bound."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--keep", action="store_true", help=f"write {RESULTS.name}.txt and .json")
    asked = options.parse_args()
    entries = measure()
    print_table(Console(width=150), entries)
    if asked.keep:
        with RESULTS.with_suffix(".txt").open("w", encoding="utf-8") as out:
            print_table(Console(width=150, file=out), entries)
        kept = {
            "schema": 1,
            "command": shlex.join([Path(sys.executable).name, *sys.argv]),
            "machine": report.machine(),
            "versions": report.versions(),
            "shapes": SHAPES,
            "entries": entries,
        }
        text = json.dumps(kept, indent=1) + "\n"
        RESULTS.with_suffix(".json").write_text(text, encoding="utf-8")
    return 0 if all(map(within, entries)) else 1


if __name__ == "__main__":
    sys.exit(main())
