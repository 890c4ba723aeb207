"""Draw what progressive weights do in one training: `python benchmarks/plot_weights.py`.

A static encoder is trained on one collection with `weighting="progressive"`. In every step the
batch's samples are divided into five equal parts by their difficulty; drawn are the mean weight of
each part, and how hard the easiest, middle and hardest parts are, over the training.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np

import inputs
from stope.data import Pairs, read_beir
from stope.encoders import static_encoder
from stope.training import train
from stope.weighting import Weighting

PARTS = ("easiest fifth", "second", "third", "fourth", "hardest fifth")
COLORS = plt.get_cmap("viridis")(np.linspace(0.05, 0.9, len(PARTS)))


class Seen(NamedTuple):
    """One step: share of the training done, and per part the mean weight and difficulty."""

    progress: float
    weights: list[float]
    hardness: list[float]


SEEN: list[Seen] = []


@dataclass(frozen=True)
class Recorded(Weighting, name="benchmarks_recorded"):
    """Another weighting's weights, noted in SEEN."""

    of: Weighting

    def __call__(
        self, signals: Mapping[str, Any], progress: float, *, processes: Any = None
    ) -> Any:
        weights = self.of(signals, progress, processes=processes)
        hardness = np.asarray(signals["hardness"], dtype=np.float64)
        if len(hardness) < len(PARTS):  # no batch, but what a weighting is tried on beforehand
            return weights
        order = np.array_split(np.argsort(hardness, kind="stable"), len(PARTS))
        found = np.asarray(weights, dtype=np.float64)
        SEEN.append(
            Seen(
                progress,
                [float(found[rows].mean()) for rows in order],
                [float(hardness[rows].mean()) for rows in order],
            )
        )
        return weights


def draw(path: Path, title: str) -> None:
    """Two panels over one axis: weights above, difficulty below."""
    progress = [seen.progress for seen in SEEN]
    figure, (above, below) = plt.subplots(
        2, 1, sharex=True, figsize=(7.2, 5.4), height_ratios=(3, 2), layout="constrained"
    )
    for part, name in enumerate(PARTS):
        above.plot(progress, [seen.weights[part] for seen in SEEN], color=COLORS[part], label=name)
        below.plot(progress, [seen.hardness[part] for seen in SEEN], color=COLORS[part])
    above.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":")
    above.set_ylabel("mean weight")
    above.set_title(title, fontsize=10, loc="left")
    above.legend(fontsize=8, frameon=False, title="samples of the batch", title_fontsize=8)
    below.set_ylabel("best negative\nminus positive (cosine)")
    below.set_xlabel("share of the training done")
    below.set_xlim(0, 1)
    for panel in (above, below):
        panel.spines[["top", "right"]].set_visible(False)
        panel.margins(y=0.08)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Train and draw; see `--help`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, default=inputs.COLLECTIONS / "medquad", help="a BEIR folder")
    add("--epochs", type=int, default=10)
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path(__file__).parent / "results/weights_over_training.svg")
    given = parser.parse_args()
    plt.rcParams["svg.hashsalt"] = "stope"
    pairs = Pairs.from_collection(read_beir(given.data), "train")
    model = static_encoder([*pairs.corpus_texts, *pairs.query_texts], seed=given.seed)
    weighting = Recorded(Weighting.from_dict("progressive"))
    train(model, pairs, epochs=given.epochs, seed=given.seed, weighting=weighting)
    draw(given.output, f"progressive weights, a static encoder on {given.data.name}")
    print(f"{len(SEEN)} steps, {given.output}: {shlex.join(sys.argv)}")


if __name__ == "__main__":
    main()
