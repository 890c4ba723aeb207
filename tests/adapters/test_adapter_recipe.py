"""An adapter's recipe: every option of the fused loss, hardness, and how options may be given."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from adapter_cases import DIM, pairs, problem, unit

from stope.adapters import AdapterRecipe, train_adapter
from stope.adapters.step import Step, Trainable
from stope.lists import Lists
from stope.weighting import Progressive


def test_hardness_is_the_mean_over_a_querys_own_negatives():
    """docs/methods.md, A1: and the best of the batch for a query that has none."""
    task = problem(6)
    negatives = np.array([[1, 2], [2, -1], [2, 4], [-1, -1], [0, 1], [0, 1]])
    recipe = AdapterRecipe().with_options(weighting=Progressive(first=1.0, warm_up=0.0))
    part = Trainable(recipe.adapter, np.eye(DIM, dtype=np.float32), np.random.default_rng(0))
    scores = task.queries @ task.corpus.T
    own = scores.diagonal()
    best = (scores - 9 * np.eye(6)).max(axis=1) - own
    hardness = [np.mean([scores[q, n] for n in row if n not in (q, -1)] or [-9]) - own[q]
                for q, row in enumerate(negatives)]  # fmt: skip
    hardness[3] = best[3]
    weights = Progressive(first=1.0, warm_up=0.0).weights(np.float64(hardness), 0.5)
    logits = torch.from_numpy(scores / 0.05)
    losses = torch.nn.functional.cross_entropy(logits, torch.arange(6), reduction="none").numpy()
    loss, _ = Step(task, (part, part), recipe, DIM)(
        np.arange(6), negatives, 0.5, np.random.default_rng(0)
    )
    assert loss.item() == pytest.approx((weights * losses).sum() / weights.sum(), rel=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "decoupled"},
        {"objective": "hardness", "beta": 0.5},
        {"objective": "sigmoid", "bias": -5.0},
        {"directions": ["query_to_document", "query_to_query"]},
        {"absolute_margin": -0.1},
        {"hard_negative_log_weight": 1.5},
        {"foreign_hard_negatives": False},
        {"hardness": "hard_negatives", "hardness_strength": 2.0},
        {"hardness": "in_batch_negatives", "hardness_strength": 2.0},
    ],
)
def test_options_of_the_loss_are_those_of_the_fused_loss(options):
    from stope.torch import infonce

    queries, corpus = pairs(60)
    queries = queries[:40]
    negatives = np.stack([40 + np.arange(40) // 4, 59 - np.arange(40) // 4], axis=1)
    once = {"epochs": 1, "batch_size": 40, "negatives": negatives}
    found = train_adapter(queries, corpus, np.arange(40), **once, loss_options=options)
    rows, documents = (torch.from_numpy(unit(matrix)) for matrix in (queries, corpus))
    hard = {"hard_negatives": negatives} if "hard" in str(options) else {}
    expected = infonce(rows, documents, list(range(40)), **hard, **options).mean()
    assert found.losses[0] == pytest.approx(expected.item(), rel=1e-5)
    by_name = train_adapter(queries, corpus, np.arange(40), **once, **options)
    assert by_name.losses == found.losses
    plain = train_adapter(queries, corpus, np.arange(40), **once)
    assert plain.losses != found.losses


def step_of(task, **options):
    """A step of the identity map, and that map."""
    recipe = AdapterRecipe().with_options(temperature=0.1, **options)
    part = Trainable(recipe.adapter, np.eye(DIM, dtype=np.float32), np.random.default_rng(0))
    return Step(task, (part, part), recipe, DIM), part


def test_symmetric_is_the_mean_of_both_directions():
    """Queries that have the document are no negatives of it; float64, one pair at a time."""
    positives = Lists.from_sequences([[0, 4], [1], [1, 2], [3], [0]])
    task = problem(5, positives=positives)
    step, _ = step_of(task, symmetric=True, epochs=1)
    loss, _ = step(np.arange(7), None, 0.0, np.random.default_rng(0))
    queries, corpus = task.queries.astype(np.float64), task.corpus.astype(np.float64)
    scores = np.exp(queries @ corpus.T / 0.1)
    lines = list(zip(positives.owners, positives.ids, strict=True))
    expected = 0.0
    for query, document in lines:
        own = scores[query, document]
        others = [d for d in range(5) if d not in positives.row(query)]
        there = np.log(1 + scores[query, others].sum() / own)
        rest = [q for q, _ in lines if document not in positives.row(q)]
        back = np.log(1 + scores[rest, document].sum() / own)
        expected += (there + back) / 2 / len(lines)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="symmetric adds a loss of its own"):
        step_of(task, symmetric=True, directions=["query_to_document", "query_to_query"])


def test_pairs_of_star_are_divided_by_their_number():
    task = problem(6)
    step, _ = step_of(task, objective="STAR")
    loss, _ = step(np.arange(4), None, 0.0, np.random.default_rng(0))
    scores = task.queries.astype(np.float64) @ task.corpus.astype(np.float64).T / 0.1
    terms = [np.log1p(np.exp(scores[i, j] - scores[i, i]))
             for i in range(4) for j in range(6) if j != i]  # fmt: skip
    assert loss.item() == pytest.approx(np.mean(terms), rel=1e-5)


def test_weights_of_dimensions():
    task = problem(6)
    one = {"matryoshka_dims": [DIM], "matryoshka_weights": [1.0]}
    short = step_of(task, **one)[0](np.arange(6), None, 0.0, np.random.default_rng(0))[0]
    both = {"matryoshka_dims": [5, DIM], "matryoshka_weights": [0.25, 2.0]}
    loss = step_of(task, **both)[0](np.arange(6), None, 0.0, np.random.default_rng(0))[0]
    cut = problem(6, queries=unit(task.queries[:, :5]), corpus=unit(task.corpus[:, :5]))
    logits = torch.from_numpy((cut.queries @ cut.corpus.T / 0.1).astype(np.float64))
    prefix = torch.nn.functional.cross_entropy(logits, torch.arange(6)).item()
    assert loss.item() == pytest.approx(2 * short.item() + 0.25 * prefix, rel=1e-5)
    for wrong, said in (
        ({"matryoshka_dims": [5], "matryoshka_weights": [1.0, 1.0]}, "2 numbers for 1 matryoshka"),
        ({"matryoshka_weights": [1.0]}, "1 numbers for 0 matryoshka_dims"),
        ({"matryoshka_dims": [5, 5]}, "named once"),
    ):
        with pytest.raises(ValueError, match=said):
            step_of(task, **wrong)


def test_a_temperature_is_learned():
    """The gradient of log(1 / temperature) is sum G l (docs/methods.md, H6)."""
    task = problem(8)
    step, _ = step_of(task, learnable_temperature=True)
    loss, facts = step(np.arange(8), None, 0.0, np.random.default_rng(0))
    loss.backward()
    logits = torch.from_numpy((task.queries @ task.corpus.T / 0.1).astype(np.float64))
    share = logits.softmax(1) - torch.eye(8)
    assert step.loss.log_scale.grad.item() == pytest.approx(
        (share * logits).sum().item() / 8, rel=1e-4
    )
    assert facts["temperature"] == pytest.approx(0.1)
    queries, corpus = pairs(40)
    seen = []
    train_adapter(
        queries, corpus, np.arange(40), epochs=5, learnable_temperature=True, temperature=0.1,
        log=lambda kind, step, **facts: seen.append(facts.get("temperature")),
    )  # fmt: skip
    assert seen[-1] != pytest.approx(0.1, abs=1e-4)


def test_positives_may_be_lists_of_any_length():
    queries, corpus = pairs(6)
    lists = [[0], [1, 5], [2], [3], [], [0, 5]]
    offsets, ids = Lists.from_sequences([np.array(rows, dtype=np.int64) for rows in lists])
    found, expected = (
        train_adapter(queries, corpus, positives, epochs=2) for positives in (lists, (offsets, ids))
    )
    assert np.array_equal(found.weight, expected.weight)


def test_a_recipe_holds_all_options():
    queries, corpus = pairs(40)
    options = {"kind": "low_rank", "rank": 2, "epochs": 3, "temperature": 0.1, "seed": 4}
    recipe = AdapterRecipe(
        adapter={"kind": "low_rank", "rank": 2},
        loss={"temperature": 0.1},
        schedule={"epochs": 3, "seed": 4},
    )
    assert AdapterRecipe().with_options(**options) == recipe
    assert AdapterRecipe.read(recipe.to_dict()) == recipe
    first, again = (
        train_adapter(queries, corpus, np.arange(40), recipe=given, **more)
        for given, more in ((recipe, {}), (None, options))
    )
    assert np.array_equal(first.apply(queries), again.apply(queries))
    assert first.losses == again.losses
