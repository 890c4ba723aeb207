"""Documents that somebody excluded are no negatives of an adapter: neither mined nor scored."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from adapter_cases import DIM, normal, pairs, problem

from stope.adapters import AdapterRecipe, train_adapter
from stope.adapters.maps import unit
from stope.adapters.step import Step, Trainable
from stope.lists import Lists


@pytest.mark.parametrize("symmetric", [False, True])
def test_excluded_documents_are_no_negatives(symmetric):
    """Query 0 against document 2 alone: 1 is excluded; in the other direction likewise."""
    rows = unit(normal(3, DIM))
    never = Lists.from_sequences([[1], [], []])
    task = problem(3, queries=rows, corpus=rows, never=never)
    recipe = AdapterRecipe().with_options(temperature=0.1, symmetric=symmetric)
    part = Trainable(recipe.adapter, np.eye(DIM, dtype=np.float32), np.random.default_rng(0))
    loss, _ = Step(task, (part, part), recipe, DIM)(
        np.arange(3), None, 0.0, np.random.default_rng(0)
    )
    kept = np.ones((3, 3), dtype=bool)
    kept[0, 1] = False
    scores = np.where(kept, np.exp(rows.astype(np.float64) @ rows.T / 0.1), 0)
    expected = -np.log(np.diag(scores) / scores.sum(1)).mean()
    if symmetric:
        expected = (expected - np.log(np.diag(scores) / scores.sum(0)).mean()) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("among", ["positives", "corpus"])
def test_excluded_documents_are_not_mined(monkeypatch, among):
    """Nor taken from what was given; a positive that is excluded stays one."""
    queries, corpus = pairs(40)
    corpus = np.concatenate([corpus, normal(9, DIM, seed=3)])
    steps, call = [], Step.__call__

    def spy(self, chosen, negatives, *rest):
        steps.append(negatives)
        return call(self, chosen, negatives, *rest)

    monkeypatch.setattr(Step, "__call__", spy)
    options = {"num_documents": 1, "epochs": 2, "batch_size": 40, "relative_margin": None,
               "among": among, "learning_rate": 1e-9}  # fmt: skip
    train_adapter(queries, corpus, np.arange(40), refresh_every=1, num_negatives=3, **options)
    plain, steps[:] = steps[0], []
    excluded = np.concatenate([plain[:, :1], np.arange(40)[:, None]], axis=1)
    train_adapter(
        queries, corpus, np.arange(40), refresh_every=1, num_negatives=2, exclude=excluded,
        **options,
    )  # fmt: skip
    assert np.array_equal(steps[0], plain[:, 1:])
    given = train_adapter(
        queries, corpus, np.arange(40), negatives=plain, exclude=excluded, **options
    )
    assert (steps[-1][:, 0] == -1).all()
    assert np.array_equal(steps[-1][:, 1:], plain[:, 1:])
    assert len(given.losses) == 2
