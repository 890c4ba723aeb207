"""Pictures that commands draw, with matplotlib (the extra ``pictures``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stope._extras import need
from stope._files.atomic import atomic_path


def need_matplotlib() -> Any:
    """Its module of figures; where it is missing, the command that installs it is named."""
    return need("matplotlib.figure", extra="pictures")


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
