"""Recipes of the benchmark of training in which MiniLM teaches by its scores of mined negatives."""

from __future__ import annotations

from typing import Any

import numpy as np

from training_kinds import Kind, Recipe, Settings, embedder


class KeptTeacher:
    """MiniLM, whose embeddings are kept, as a training with an output folder keeps them."""

    def __init__(self, settings: Settings) -> None:
        self.embed = embedder(settings)

    def encode(self, texts: list[str]) -> Any:
        """Queries and documents are alike to MiniLM."""
        return np.array(self.embed(texts, role="corpus"))


def minilm_as_teacher(kind: Kind, model: Any) -> KeptTeacher:
    """For every kind of model; of MiniLM itself, as it was before training."""
    return KeptTeacher(kind.settings)


def taught(among: str, distillation: Any, **more: Any) -> Recipe:
    """Five negatives mined anew in every epoch, and what MiniLM says of them."""
    negatives = {"num_negatives": 5, "among": among, **more}
    options = {"teacher": minilm_as_teacher, "distillation": distillation, "negatives": negatives}
    return Recipe(options)


TAUGHT = {
    f"5 {place}, MiniLM's {words}": taught(among, distillation, **more)
    for place, among in (("among positives", "positives"), ("of the corpus", "corpus"))
    for words, distillation, more in (
        ("lists", {}, {}),
        ("lists alone", {"contrastive": 0.0}, {}),
        ("margins", {"objective": "margin_mse", "weight": 100.0}, {}),
        ("ranks", {"objective": "stabilised"}, {}),
        ("filter", {"weight": 0.0}, {"teacher_margin": 0.05}),
    )
}
