"""Pictures that commands draw, with matplotlib (the extra ``pictures``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope._files.atomic import atomic_path


def need_matplotlib() -> Any:
    """Its module of figures; where it is missing, the command that installs it is named."""
    return need("matplotlib.figure", extra="pictures")


def draw_scores(path: Path, scores: NDArray[np.float32], threshold: float) -> None:
    """Draw how many documents have which highest cosine with one before them, as PNG."""
    scores = np.minimum(scores[np.isfinite(scores)], 1)  # rounding reaches 1.0000001
    figure = need_matplotlib().Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    low = min(float(scores.min(initial=threshold)), threshold)
    bins = np.linspace(np.floor(low * 20) / 20, 1, 61)
    alike = scores >= np.float64(threshold)
    axes.hist(
        [scores[~alike], scores[alike]],
        bins,
        stacked=True,
        color=["#9aa5b1", "#c0392b"],
        label=[f"below ({(~alike).sum():,})", f"at the threshold and above ({alike.sum():,})"],
    )
    axes.axvline(threshold, color="black", linewidth=1, linestyle="--")
    axes.set_yscale("symlog", linthresh=10)
    axes.set_xlabel(f"highest cosine with a document before it (threshold {threshold})")
    axes.set_ylabel("documents")
    figure.legend(loc="outside upper center", ncols=2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def draw_completion(path: Path, rows: Sequence[Any]) -> None:
    """Draw how long a simulated job takes by size of block and policy, as PNG or SVG."""
    figure = need_matplotlib().Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for policy, color in (("retry", "#2c6e9b"), ("speculate", "#c0392b")):
        shown = [row for row in rows if row.policy == policy]
        hours = np.array([(row.low, row.seconds, row.high) for row in shown]) / 3600
        blocks = [row.block_rows for row in shown]
        axes.plot(blocks, hours[:, 1], color=color, marker="o", markersize=4, label=policy)
        axes.fill_between(blocks, hours[:, 0], hours[:, 2], color=color, alpha=0.2, linewidth=0)
    ideal = [row.ideal / 3600 for row in shown]
    axes.plot(blocks, ideal, color="black", linewidth=1, linestyle="--", label="ideal")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("queries of a block")
    axes.set_ylabel("hours (mean; band: 90% of runs)")
    figure.legend(loc="outside upper center", ncols=3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:], dpi=120)
