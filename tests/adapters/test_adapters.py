"""Adapters on frozen embeddings: every kind and side, weights, refresh."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason='needs pip install "stope[train]"')
torch = pytest.importorskip("torch", reason='needs pip install "stope[train]"')

from adapter_cases import (
    DIM,
    KINDS,
    SIDES,
    normal,
    pairs,
    problem,
    random_adapter,
    random_map,
    recall,
    unit,
)

from stope.adapters import Adapter, AdapterRecipe, train_adapter
from stope.adapters.maps import arrays, matrix
from stope.adapters.step import Step, Trainable, start_matrix
from stope.lists import Lists


def formula(transform, rows):
    """The map in float64, as the page has it."""
    wide = {name: np.float64(array) for name, array in arrays(transform).items()}
    if transform.kind == "linear":
        return rows @ wide["weight"].T
    if transform.kind == "low_rank":
        return rows @ (np.eye(rows.shape[1]) + wide["left"] @ wide["right"].T).T
    hidden = torch.from_numpy(rows @ wide["inner"].T)
    return rows + (hidden * torch.special.ndtr(hidden)).numpy() @ wide["outer"].T


@pytest.mark.parametrize("kind", KINDS)
def test_apply_is_the_formula_between_unit_rows(kind):
    rows = 3 * normal(20, DIM, seed=4)
    expected = unit(formula(random_map(kind), unit(np.float64(rows))))
    np.testing.assert_allclose(random_adapter(kind, "both").apply(rows), expected, atol=2e-6)


def test_low_rank_is_its_dense_matrix():
    transform = random_map("low_rank")
    dense = Adapter(matrix(transform))
    rows = normal(10, DIM)
    np.testing.assert_allclose(Adapter(transform).apply(rows), dense.apply(rows), atol=1e-5)
    np.testing.assert_allclose(Adapter(transform).weight, dense.weight)


def test_each_side_has_its_map():
    rows = normal(5, DIM)
    first, second = random_map("mlp", 0), random_map("mlp", 9)
    of_first, of_second = Adapter(first).apply(rows), Adapter(second).apply(rows)
    separate = Adapter(first, side="separate", documents=second)
    assert np.array_equal(separate.apply(rows, "queries"), of_first)
    assert np.array_equal(separate.apply(rows, "documents"), of_second)
    queries = Adapter(first, side="queries")
    assert np.array_equal(queries.apply(rows, "queries"), of_first)
    np.testing.assert_allclose(queries.apply(rows, "documents"), unit(rows), atol=1e-6)
    documents = Adapter(first, side="documents")
    assert np.array_equal(documents.apply(rows, "documents"), of_first)
    np.testing.assert_allclose(documents.apply(rows, "queries"), unit(rows), atol=1e-6)


def test_apply_in_blocks_and_with_a_row_of_zeros(monkeypatch):
    rows = normal(9, DIM)
    rows[4] = 0
    adapter = random_adapter("mlp", "both")
    whole = adapter.apply(rows)
    monkeypatch.setattr("stope.adapters.adapter._BLOCK", 2)
    np.testing.assert_allclose(adapter.apply(rows), whole, atol=1e-6)
    assert not whole[4].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", SIDES)
def test_loss_and_gradients_are_those_of_plain_torch(kind, side):
    task = problem(weights=np.linspace(0, 1, 30, dtype=np.float32))
    recipe = AdapterRecipe().with_options(
        kind=kind, rank=3, hidden=7, temperature=0.1, matryoshka_dims=[5]
    )
    made = [
        Trainable(recipe.adapter, np.eye(DIM, dtype=np.float32), np.random.default_rng(s))
        for s in (0, 1)
    ]
    for place, part in enumerate(made):  # away from the start, where half the gradients are zero
        part.decayed.data += 0.3 * torch.from_numpy(normal(*part.decayed.shape, seed=place))
    maps = {
        "both": (made[0], made[0]),
        "queries": (made[0], None),
        "documents": (None, made[0]),
        "separate": tuple(made),
    }[side]
    parameters = [p for part in made for p in (part.decayed, part.free) if p is not None]
    step = Step(task, maps, recipe, DIM)
    chosen = np.arange(2, 30, 3)
    loss, _ = step(chosen, None, 0.0, np.random.default_rng(0))
    found = torch.autograd.grad(loss, parameters, allow_unused=True)

    of_queries, of_documents = step._current()
    queries = of_queries(torch.from_numpy(task.queries[chosen]))
    documents = of_documents(torch.from_numpy(task.corpus))
    weights = torch.from_numpy(task.weights[chosen])
    expected = 0
    for dim in (DIM, 5):
        q, d = (torch.nn.functional.normalize(rows[:, :dim]) for rows in (queries, documents))
        rows = torch.nn.functional.cross_entropy(
            q @ d.T / 0.1, torch.from_numpy(chosen), reduction="none"
        )
        expected = expected + (weights * rows).sum() / weights.sum()
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    used = 0
    for one, other in zip(found, wanted, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
            used += bool(one.abs().max() > 1e-3)
    assert used == (2 if side == "separate" else 1) * (1 if kind == "linear" else 2)


def test_other_positives_of_a_query_are_no_negatives():
    rows = unit(normal(3, DIM))
    positives = Lists(np.array([0, 2]), np.array([0, 1]))
    task = problem(queries=rows[:1], corpus=rows, positives=positives)
    recipe = AdapterRecipe().with_options(temperature=0.1)
    part = Trainable(recipe.adapter, np.eye(DIM, dtype=np.float32), np.random.default_rng(0))
    loss, facts = Step(task, (part, part), recipe, DIM)(
        np.array([0, 1]), None, 0.0, np.random.default_rng(0)
    )
    first, second, other = np.exp(rows[0] @ rows.T / 0.1)
    expected = -np.log(first / (first + other)) / 2 - np.log(second / (second + other)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert facts["documents"] == 3


def test_weights_of_zero_leave_pairs_out():
    queries, corpus = pairs(60)
    weights = np.tile(np.float32([0, 1, 1]), 20)
    left, kept = np.flatnonzero(weights == 0), np.flatnonzero(weights)
    options = {"epochs": 3, "batch_size": 16}
    found = train_adapter(queries, corpus, np.arange(60), weights=weights, **options)
    spoilt = queries.copy()
    spoilt[left] = normal(20, DIM, seed=7)
    again = train_adapter(spoilt, corpus, np.arange(60), weights=weights, **options)
    assert np.array_equal(found.weight, again.weight)
    alone = train_adapter(queries[kept], corpus[kept], np.arange(40), **options)
    np.testing.assert_allclose(found.weight, alone.weight, atol=1e-6)


def test_weighting_follows_difficulty_and_progress():
    queries, corpus = pairs(60)
    lines = []

    def log(kind, step, **numbers):
        lines.append((kind, numbers))

    weighting = {"name": "progressive", "first": -1.0, "last": 1.0}
    options = {"epochs": 4, "batch_size": 20}
    found = train_adapter(
        queries, corpus, np.arange(60), weighting=weighting, log=log, weights=np.ones(60), **options
    )
    assert len(lines) == 12
    assert {kind for kind, _ in lines} == {"step"}
    # Difficulty counts at both ends and not halfway.
    shares = [numbers["weight_effective"] for _, numbers in lines]
    assert max(shares[5:7]) > 0.97
    assert max(shares[0], shares[-1]) < 0.95
    assert {"loss", "mean_rank", "rank_one", "documents", "epoch"} <= set(lines[0][1])
    plain = train_adapter(queries, corpus, np.arange(60), **options)
    assert not np.array_equal(found.weight, plain.weight)


def test_among_positives_the_others_do_not_exist():
    """Neither scored nor mined; negatives that were given are scored all the same."""
    queries, corpus = pairs(40)
    more = np.concatenate([corpus, queries[:20], normal(5, DIM, seed=3)])
    options = {"epochs": 3, "batch_size": 16, "num_documents": 30, "refresh_every": 1}
    found = train_adapter(queries, more, np.arange(40), **options)
    alone = train_adapter(queries, corpus, np.arange(40), **options)
    assert np.array_equal(found.weight, alone.weight)
    every = train_adapter(queries, more, np.arange(40), among="corpus", **options)
    assert not np.array_equal(found.weight, every.weight)
    facts = []
    given = np.full((40, 2), -1)
    given[3, 1], given[7, 0] = 42, 5
    train_adapter(
        queries,
        more,
        np.arange(40),
        negatives=given,
        epochs=1,
        batch_size=40,
        log=lambda kind, step, **numbers: facts.append(numbers),
    )
    assert facts[0]["documents"] == 41


def test_weighting_by_a_signal_of_ones_own():
    queries, corpus = pairs(60)
    easiness = np.r_[np.ones(40), np.zeros(20)].astype(np.float32)
    rule = {"name": "answer_ranking", "until": 1.0}
    common = {"epochs": 1, "batch_size": 60, "among": "corpus"}
    found = train_adapter(
        queries, corpus, np.arange(60), weighting=rule, signals={"easiness": easiness}, **common
    )
    only = train_adapter(queries, corpus, np.arange(60), weights=easiness, **common)
    # At the start of training easiness is the weight.
    np.testing.assert_allclose(found.weight, only.weight, atol=1e-5)
    # The data's own weights multiply in.
    other = np.linspace(0.1, 1, 60, dtype=np.float32)
    both, product = (
        train_adapter(queries, corpus, np.arange(60), **given, **common)
        for given in (
            {"weighting": rule, "signals": {"easiness": easiness}, "weights": other},
            {"weights": other * easiness},
        )
    )
    np.testing.assert_allclose(both.weight, product.weight, atol=1e-5)
    assert not np.allclose(both.weight, found.weight, atol=1e-5)
    with pytest.raises(ValueError, match="reads the signal 'easiness'"):
        train_adapter(queries, corpus, np.arange(60), weighting=rule)


def test_a_step_whose_weights_are_all_zero_changes_nothing():
    queries, corpus = pairs(20)
    rule = {"name": "rank_cutoff", "top": 1}
    signals = {"rank": np.full(20, 5, np.float32)}
    options = {"weighting": rule, "signals": signals, "epochs": 2, "batch_size": 20}
    found = train_adapter(queries, corpus, np.arange(20), **options)
    assert np.array_equal(found.weight, np.eye(DIM, dtype=np.float32))
    assert found.losses == [0.0, 0.0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", SIDES)
def test_every_kind_and_side_learns(kind, side):
    queries, corpus = pairs()
    held = np.arange(180, 240)
    options = {"kind": kind, "side": side, "rank": 8, "hidden": 64, "batch_size": 60}
    train = slice(0, 180)
    found = train_adapter(
        queries[train], corpus, np.arange(180), epochs=60, learning_rate=1e-2, **options
    )
    start = Adapter(np.eye(DIM, dtype=np.float32))
    before, after = recall(start, queries, corpus, held), recall(found, queries, corpus, held)
    assert after > before + 0.1, (before, after)
    assert found.losses[-1] < 0.8 * found.losses[0]
    assert (found.queries is None, found.documents is None) == (
        side == "documents",
        side == "queries",
    )


@pytest.mark.parametrize("kind", KINDS)
def test_training_starts_at_the_identity(kind):
    queries, corpus = pairs(40)
    found = train_adapter(
        queries, corpus, np.arange(40), kind=kind, epochs=1, learning_rate=1e-9, hidden=8, rank=2
    )
    np.testing.assert_allclose(found.apply(queries), unit(queries), atol=1e-5)


def test_projection_starts_at_the_main_directions_and_learns():
    queries, corpus = pairs()
    corpus[:, :4] *= 4
    queries[:, :4] *= 4
    left = np.linalg.svd(np.float64(unit(corpus)), full_matrices=False)[2][:4]
    start = start_matrix(DIM, 4, unit(corpus))
    np.testing.assert_allclose(start.T @ start, left.T @ left, atol=1e-4)
    for side in ("both", "separate"):
        found = train_adapter(queries, corpus, np.arange(240), dim=4, side=side, epochs=20)
        assert found.apply(queries, "queries").shape == (240, 4)
        assert found.losses[-1] < found.losses[0]


def test_matryoshka_dims_serve_the_prefix():
    queries, corpus = pairs()
    options = {"epochs": 40, "learning_rate": 1e-2, "batch_size": 240}

    def short(adapter):
        q, d = (unit(adapter.apply(rows)[:, :4]) for rows in (queries, corpus))
        return float(((q @ d.T).argmax(axis=1) == np.arange(240)).mean())

    plain = train_adapter(queries, corpus, np.arange(240), **options)
    nested = train_adapter(queries, corpus, np.arange(240), matryoshka_dims=[4], **options)
    assert short(nested) > short(plain) + 0.05


def test_refresh_changes_the_negatives(monkeypatch):
    queries, corpus = pairs()
    lines, seen = [], []
    call = Step.__call__

    def spy(self, chosen, negatives, *rest):
        seen.append(negatives)
        return call(self, chosen, negatives, *rest)

    monkeypatch.setattr(Step, "__call__", spy)
    options = {"num_documents": 1, "batch_size": 240, "epochs": 6, "learning_rate": 0.05}
    train_adapter(
        queries,
        corpus,
        np.arange(240),
        refresh_every=2,
        num_negatives=3,
        relative_margin=None,
        log=lambda kind, step, **numbers: lines.append((kind, step, numbers)),
        **options,
    )
    refreshes = [(step, numbers) for kind, step, numbers in lines if kind == "refresh"]
    assert [step for step, _ in refreshes] == [0, 2, 4]
    assert "changed" not in refreshes[0][1]
    both = [len(set(a) & set(b)) for a, b in zip(seen[1], seen[2], strict=True)]
    assert refreshes[1][1]["changed"] == pytest.approx(1 - sum(both) / 720)
    assert seen[0] is seen[1]
    assert not np.array_equal(seen[1], seen[2])
    assert seen[0].shape == (240, 3)
    assert not (seen[0] == np.arange(240)[:, None]).any()
    # Mined before training, the negatives are those of the embeddings as they came.
    scores = unit(queries) @ unit(corpus).T
    np.fill_diagonal(scores, -9)
    assert np.array_equal(np.sort(seen[0]), np.sort(np.argsort(-scores, axis=1)[:, :3]))


def test_given_negatives_serve_until_the_first_refresh(monkeypatch):
    queries, corpus = pairs(40)
    steps = []
    given = (np.arange(40)[:, None] + 1) % 40
    # A query without a positive has no pair and gets no negatives.
    offsets = np.r_[np.arange(40), 39]
    train_adapter(
        queries,
        corpus,
        (offsets, np.arange(39)),
        negatives=given,
        num_documents=1,
        batch_size=40,
        epochs=4,
        refresh_every=3,
        log=lambda kind, step, **numbers: steps.append((kind, step)),
    )
    assert [step for kind, step in steps if kind == "refresh"] == [3]


def test_evaluation_keeps_the_best_and_stops():
    queries, corpus = pairs(60)
    scores = iter([0.1, 0.5, 0.9, 0.3, 0.2, 0.1])
    seen = []

    def evaluate(adapter):
        seen.append(adapter.apply(queries))
        return next(scores)

    found = train_adapter(
        queries, corpus, np.arange(60), epochs=20, batch_size=60, evaluate=evaluate,
        evaluate_every=2, patience=2,
    )  # fmt: skip
    assert [epoch for epoch, _ in found.evaluations] == [0, 2, 4, 6, 8][: len(found.evaluations)]
    assert len(seen) == 5
    assert np.array_equal(found.apply(queries), seen[2])
    assert len(found.losses) == 4
    worse = train_adapter(
        queries, corpus, np.arange(60), epochs=2, evaluate=lambda a: -float(len(a.losses))
    )
    assert np.array_equal(worse.weight, np.eye(DIM, dtype=np.float32))
    with pytest.raises(ValueError, match="evaluate returned NaN after epoch 0"):
        train_adapter(queries, corpus, np.arange(60), evaluate=lambda _: np.nan)


@pytest.mark.parametrize(
    ("pairs_", "steps"), [(20, 2), (200, 8), (9000, 9)], ids=["smallest", "eighth", "largest"]
)
def test_an_eighth_of_the_pairs_is_a_step(pairs_, steps):
    rows = normal(pairs_, 4, seed=1)
    found = train_adapter(rows, rows, np.arange(pairs_), epochs=1, num_documents=1)
    assert len(found.losses) == steps


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_adapter(kind):
    queries, corpus = pairs(60)
    options = {"kind": kind, "hidden": 8, "rank": 2, "epochs": 2, "num_documents": 32}
    first, again, other = (
        train_adapter(queries, corpus, np.arange(60), batch_size=16, seed=seed, **options)
        for seed in (0, 0, 1)
    )
    assert np.array_equal(first.apply(queries), again.apply(queries))
    assert not np.array_equal(first.apply(queries), other.apply(queries))


def test_training_is_adam_with_a_rate_that_falls_to_zero():
    queries, corpus = pairs(40)
    found = train_adapter(
        queries, corpus, np.arange(40), epochs=5, learning_rate=0.02, batch_size=40
    )
    change = torch.zeros(DIM, DIM, requires_grad=True)
    optimiser = torch.optim.Adam([change])
    for step in range(5):
        optimiser.param_groups[0]["lr"] = 0.02 * (1 - step / 5)
        q, d = (
            torch.nn.functional.normalize(torch.from_numpy(rows) @ (torch.eye(DIM) + change).T)
            for rows in (queries, corpus)
        )
        loss = torch.nn.functional.cross_entropy(q @ d.T / 0.05, torch.arange(40))
        assert found.losses[step] == pytest.approx(loss.item(), rel=1e-4)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    np.testing.assert_allclose(found.weight, np.eye(DIM) + change.detach().numpy(), atol=1e-4)


def test_weight_decay_pulls_to_the_start():
    queries, corpus = pairs(60)
    far, near = (
        train_adapter(
            queries, corpus, np.arange(60), epochs=200, learning_rate=1e-2, weight_decay=decay
        )
        for decay in (0.0, 10.0)
    )
    distance = [np.linalg.norm(one.weight - np.eye(DIM)) for one in (far, near)]
    assert distance[1] < 0.5 * distance[0]
