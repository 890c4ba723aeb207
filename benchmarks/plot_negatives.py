"""Draw whom mined negatives help: `python benchmarks/plot_negatives.py RESULTS... --output SVG`.

From the JSON that `bench_training.py` keeps: for each collection the difference to in-batch
training, apart for test queries whose answers answered a training query too (seen) and for the
others (unseen), with 95% intervals over queries. With --course, JSON of `bench_course.py`, also how
the distance of unseen test queries and their answers goes on with the passes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

RECIPES = {"5 of the corpus": "tab:red", "5 among positives": "tab:blue"}
COURSES = {"in-batch": "gray", **RECIPES}
DASHES = ("-", "--", ":", "-.")
GROUPS = {"unseen": "o", "seen": "s"}
OUTPUT = Path(__file__).parents[1] / "docs/concepts/negatives.svg"


def draw(axis: Any, rows: list[dict[str, Any]], kind: str) -> None:
    """One kind of model: a line per collection and group of queries."""
    lines = [
        (row["collection"], group)
        for row in rows
        if row["recipe"] == next(iter(RECIPES))
        for group in GROUPS
        if group in row["groups"]
    ]
    for (recipe, color), shift in zip(RECIPES.items(), (0.15, -0.15), strict=True):
        of = {row["collection"]: row for row in rows if row["recipe"] == recipe}
        for place, (collection, group) in enumerate(lines):
            there = of[collection]["groups"][group]
            low, high = there["difference_interval"]
            height = len(lines) - 1 - place + shift
            axis.plot([low, high], [height, height], color=color, linewidth=1.5)
            label = recipe if not place else None
            marker = GROUPS[group]
            axis.plot(there["difference"], height, marker, color=color, markersize=5, label=label)
    never = {row["collection"]: row["never_positive"] for row in rows}
    names = [f"{collection} ({never[collection]:.0%}), {group}" for collection, group in lines]
    axis.set_yticks(np.arange(len(lines))[::-1], names)
    axis.locator_params(axis="x", nbins=5)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_title(kind, loc="left")
    axis.set_xlabel("nDCG@10, difference to in-batch training")


def draw_course(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Alignment of unseen test pairs by pass: a dash per collection, a colour per recipe."""
    drawn = [row for row in rows if row["recipe"] in COURSES and "alignment_unseen" in row]
    names = list(dict.fromkeys(row["collection"] for row in drawn))
    for row in drawn:
        passes = np.linspace(0, row["passes"], len(row["alignment_unseen"]))
        dash, color = DASHES[names.index(row["collection"])], COURSES[row["recipe"]]
        axis.plot(passes, row["alignment_unseen"], dash, color=color, linewidth=1.3)
    for name, dash in zip(names, DASHES, strict=False):
        axis.plot([], [], dash, color="black", linewidth=1.3, label=name)
    axis.plot([], [], color=COURSES["in-batch"], label="in-batch")
    axis.legend(fontsize=8)
    axis.set_title("adapter, unseen queries", loc="left")
    axis.set_xlabel("passes")
    axis.set_ylabel("mean squared distance of query and answer")


def main() -> None:
    """Draw; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="+", type=Path, help="JSON of bench_training.py")
    parser.add_argument("--course", type=Path, default=None, help="JSON of bench_course.py")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    given = parser.parse_args()
    rows = [row for path in given.results for row in json.loads(path.read_text())["rows"]]
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    plt.rcParams["svg.hashsalt"] = "stope"  # the same file from the same results
    panels = len(kinds) + (given.course is not None)
    figure, axes = plt.subplots(1, panels, figsize=(5.2 * panels, 3.9), squeeze=False)
    for axis, kind in zip(axes[0], kinds, strict=False):
        draw(axis, [row for row in rows if row["kind"] == kind], kind)
    axes[0, len(kinds) - 1].legend(loc="lower left", fontsize=8)
    if given.course is not None:
        draw_course(axes[0, -1], json.loads(given.course.read_text())["rows"])
    figure.tight_layout()
    figure.savefig(given.output, metadata={"Date": None})


if __name__ == "__main__":
    main()
