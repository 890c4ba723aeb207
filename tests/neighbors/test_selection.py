"""Selectors against their formulas by loops, and the oracles of F4 to F8, F11 and F12."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import reference

import stope
from stope.lists import Lists
from stope.neighbors import (
    D4,
    BenchmarkTargeted,
    Coverage,
    CraftMix,
    Curate,
    FacilityLocation,
    GradientInfluence,
    KCenter,
    Prototypes,
    Quality,
    Selection,
    Selector,
    VoteK,
    semdedup,
)
from stope.neighbors.selection import choose_by_coverage, choose_by_votes


def rows(n=80, dim=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, dim)).astype(np.float32)


X = rows()
SELECTORS = [
    Quality(X[:, 0]), Quality(lambda x: x[:, 1]), VoteK(k=5), KCenter(), FacilityLocation(),
    BenchmarkTargeted(X[:3]), BenchmarkTargeted(X[:3], aggregate="mean"), CraftMix(X[:3]),
    Curate(X[:3], threshold=-1.0), GradientInfluence(X[:3]), Prototypes(4), D4(4),
    Coverage(X[:3], np.arange(81)),
]  # fmt: skip


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda selector: type(selector).__name__)
def test_every_selector_keeps_the_protocol(selector):
    assert isinstance(selector, Selector)
    for budget in (1, 7, 80):
        chosen = selector(X, budget)
        assert isinstance(chosen, Selection)
        assert len(set(chosen.ids.tolist())) == budget == len(chosen.ids) == len(chosen.scores)
        assert 0 <= chosen.ids.min() <= chosen.ids.max() < 80
        assert chosen.scores.dtype == np.float64
        assert all(len(values) == budget for values in chosen.reasons.values())
    for budget, kind in ((0, ValueError), (81, ValueError), (1.5, TypeError)):
        with pytest.raises(kind, match=f"budget is {budget}"):
            selector(X, budget)
    with pytest.raises(TypeError, match=r"embeddings\S* has dtype float64; cast it to float32"):
        selector(X.astype(float), 3)


@pytest.mark.parametrize("selector", SELECTORS, ids=lambda selector: type(selector).__name__)
def test_selectors_tell_progress_and_stop(selector):
    told = {}

    def progress(stage, done, total):
        assert told.get(stage, (0,))[0] <= done <= total
        told[stage] = (done, total)

    chosen, silently = selector(X, 9, progress=progress), selector(X, 9)
    assert np.array_equal(chosen.ids, silently.ids)
    assert all(done == total > 0 for done, total in told.values())
    with pytest.raises(TypeError, match=r"progress is 3; give a function"):
        selector(X, 9, progress=3)
    if isinstance(selector, Quality):  # which is one step
        return
    assert told
    last = list(told)[-1]

    def interrupted(stage, done, total):
        if stage == last:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        selector(X, 9, progress=interrupted)


@pytest.mark.parametrize("selector", SELECTORS[2:], ids=lambda selector: type(selector).__name__)
def test_half_precision_tensors_and_memory_maps(selector, tmp_path):
    torch = pytest.importorskip("torch")
    half = X.astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    expected = selector(half, 9)
    for x in (np.load(tmp_path / "x.npy", mmap_mode="r"), torch.from_numpy(half)):
        chosen = selector(x, 9)
        assert np.array_equal(chosen.ids, expected.ids)
        assert np.array_equal(chosen.scores, expected.scores, equal_nan=True)


def test_quality_prunes_a_quantile():
    scores = np.random.default_rng(0).permutation(80).astype(float)
    for share in (0.25, 0.3):
        kept = Quality(scores)(X, 80 - int(share * 80)).ids
        assert np.array_equal(np.sort(kept), np.flatnonzero(scores >= int(share * 80)))
    ties = Quality(np.zeros(80))(X, 3)
    assert ties.ids.tolist() == [0, 1, 2]
    for wrong in (scores[:3], lambda x: x[:, 0] * np.nan):
        with pytest.raises(ValueError, match="scorer gives scores of shape"):
            Quality(wrong)(X, 3)


# --- vote-k ------------------------------------------------------------------------------------


def votes_by_loop(nearest, budget, rho):
    rows = nearest.num_lists
    voters = [[v for v in range(rows) if u in nearest.row(v)] for u in range(rows)]
    picked, scores = [], []
    for _ in range(budget):
        met = [len(set(nearest.row(v)) & set(picked)) for v in range(rows)]
        score = {
            u: sum(rho ** -float(met[v]) for v in voters[u] if v not in picked)
            for u in range(rows)
            if u not in picked
        }
        best = max(score, key=lambda u: (round(score[u], 9), len(voters[u]), -u))
        picked.append(best)
        scores.append(score[best])
    return picked, scores


def test_vote_k_has_its_oracle():
    votes = {0: [1, 2, 3], 1: [0, 4], 2: [0, 3], 3: [4], 4: [1]}
    nearest = Lists.from_sequences([[u for u in votes if v in votes[u]] for v in range(5)])
    chosen = choose_by_votes(nearest, 3)
    assert chosen.ids.tolist() == [0, 1, 2]
    assert chosen.scores[:2] == pytest.approx([3.0, 1.0])
    # Of the second round {1: 1.0, 2: 0.1, 3: 1.0, 4: 0.1}: 1 and 3 tie, and 1 has more votes.
    assert chosen.reasons["votes"].tolist() == [3, 2, 2]


@pytest.mark.parametrize("rho", [10.0, 2.0, 1.5])
def test_vote_k_is_its_loop(rho):
    x = rows(40)
    scores = reference.canonical(x, x, "cosine")
    np.fill_diagonal(scores, -np.inf)
    nearest = Lists.from_sequences(np.argsort(-scores, axis=1, kind="stable")[:, :6])
    expected, values = votes_by_loop(nearest, 25, rho)
    chosen = VoteK(k=6, rho=rho)(x, 25)
    assert chosen.ids.tolist() == expected
    assert chosen.scores == pytest.approx(values)


# --- coverage ----------------------------------------------------------------------------------


def test_coverage_has_its_oracle():
    recalls = np.array([[0.9, 0.1, 0.1], [0.8, 0.2, 0.2], [0.1, 0.7, 0.6]])
    chosen = choose_by_coverage(recalls, 2)
    assert chosen.ids.tolist() == [0, 2]
    assert chosen.scores == pytest.approx([2.2, 1.4])
    again = choose_by_coverage(recalls, 3)  # nothing covers more: the last begins a new round
    assert again.ids.tolist() == [1, 0, 2]
    assert again.reasons["round"].tolist() == [1, 0, 0]
    full = choose_by_coverage(np.array([[1.0, 0], [0.5, 0], [0, 1]]), 3)
    assert full.ids.tolist() == [1, 2, 0]
    assert full.reasons["round"].tolist() == [1, 0, 0]


def test_coverage_is_max_sim_per_token():
    tokens, query = rows(30), rows(12, seed=1)
    offsets = np.array([0, 3, 4, 11, 19, 30])
    cosines = reference.canonical(query, tokens, "cosine").astype(np.float64)
    weights = np.arange(12.0)
    for given, scale in ((None, np.ones(12)), (weights, weights / weights.sum())):
        recalls = np.stack(
            [cosines[:, a:b].max(axis=1) * scale for a, b in itertools.pairwise(offsets)]
        )
        chosen = Coverage(query, offsets, given)(tokens, 3)
        sets = [recalls[list(chosen.ids[3 - n :])].max(axis=0).sum() for n in (1, 2, 3)]
        assert (chosen.reasons["round"] == 0).all()
        assert chosen.scores[::-1] == pytest.approx(sets)
        assert sets[0] == pytest.approx(recalls.sum(axis=1).max())
        best = max(recalls[list(c)].max(axis=0).sum() for c in itertools.combinations(range(5), 3))
        assert sets[2] >= (1 - 1 / np.e) * best


# --- baselines ---------------------------------------------------------------------------------


def test_k_center_is_twice_the_best_radius_at_most():
    x = rows(14)
    distances = -reference.canonical(x, x, "euclidean")
    for budget in (2, 3):
        chosen = KCenter(metric="euclidean")(x, budget)
        radius = distances[:, chosen.ids].min(axis=1).max()
        best = min(
            distances[:, list(c)].min(axis=1).max()
            for c in itertools.combinations(range(14), budget)
        )
        assert best <= radius <= 2 * best
    for place in range(1, 3):
        to_chosen = distances[:, chosen.ids[:place]].min(axis=1)
        assert chosen.ids[place] == to_chosen.argmax()
        assert chosen.scores[place] == -to_chosen.max()


def test_facility_location_is_the_greedy_one():
    x = rows(60)
    scores = np.maximum(reference.canonical(x, x, "cosine").astype(np.float64), 0)
    covered, expected, gains = np.zeros(60), [], []
    for _ in range(20):
        gain = np.maximum(scores - covered, 0).sum(axis=1)
        gain[expected] = -1
        expected.append(int(gain.argmax()))
        gains.append(gain.max())
        covered = np.maximum(covered, scores[expected[-1]])
    chosen = FacilityLocation()(x, 20)
    assert chosen.ids.tolist() == expected
    assert chosen.scores == pytest.approx(gains)


# --- targets -----------------------------------------------------------------------------------


def test_betr_has_its_oracle():
    """Similarities [.9, .5, .1] and [.2, .3, .8]: ranks [1, 2, 3] and [3, 2, 1]."""
    targets = np.float32([[0.9, 0.5, 0.1], [0.2, 0.3, 0.8]])
    documents = np.eye(3, dtype=np.float32)
    best = BenchmarkTargeted(targets, metric="dot")(documents, 3)
    assert best.ids.tolist() == [0, 2, 1]
    assert best.reasons["rank"].tolist() == [1, 1, 2]
    assert best.reasons["target"].tolist() == [0, 1, 0]
    mean = BenchmarkTargeted(targets, aggregate="mean", metric="dot")(documents, 3)
    assert mean.ids.tolist() == [0, 2, 1]
    assert mean.scores == pytest.approx([-0.7925, -0.7925, -1.0], abs=1e-4)


@pytest.mark.parametrize("aggregate", ["best", "mean"])
@pytest.mark.parametrize("value", ["log2", "reciprocal"])
def test_betr_ranks_exactly(aggregate, value):
    x, targets = rows(200), rows(17, seed=1)
    x[50:60] = x[40:50]  # ties: by row
    scores = reference.canonical(targets, x, "cosine")
    ranks = np.empty(scores.shape, int)
    for line, rank in zip(scores, ranks, strict=True):
        rank[np.argsort(-line, kind="stable")] = np.arange(1, 201)
    values = 1 / ranks if value == "reciprocal" else np.log2(1 / ranks)
    total = values.max(axis=0) if aggregate == "best" else values.mean(axis=0)
    for budget in (1, 30, 200):
        chosen = BenchmarkTargeted(targets, aggregate=aggregate, value=value)(x, budget)
        expected = np.argsort(-total, kind="stable")[:budget]
        if aggregate == "best":
            assert np.array_equal(chosen.ids, expected)
        assert chosen.scores == pytest.approx(total[expected])
        assert chosen.scores == pytest.approx(total[chosen.ids])
        assert np.array_equal(chosen.reasons["rank"], ranks[:, chosen.ids].min(axis=0))
        assert np.array_equal(chosen.reasons["target"], ranks[:, chosen.ids].argmin(axis=0))


def test_cit_has_its_oracle():
    """t = -1 keeps all; t = 1 with min_ratio .01 keeps floor(.01 b) of each batch."""
    x, targets = rows(1000), rows(3, seed=1)
    cosines = reference.canonical(x, targets, "cosine").max(axis=1)
    assert Curate(targets, threshold=-1.0).kept(x).ids.tolist() == list(range(1000))
    few = Curate(targets, threshold=1.0, min_ratio=0.01, batch_size=250)(x, 1000)
    assert len(few.ids) == 8
    for part in range(4):
        batch = cosines[250 * part : 250 * part + 250]
        expected = np.sort(np.argsort(-batch, kind="stable")[:2]) + 250 * part
        assert few.ids[2 * part : 2 * part + 2].tolist() == expected.tolist()
    same = np.float32([[1, 0], [0, 1]])  # a cosine that equals the threshold is not above it
    assert Curate(same[:1], threshold=1.0, min_ratio=0.0).kept(same).ids.tolist() == []
    some = Curate(targets, threshold=0.6, batch_size=100)(x, 20)
    expected = np.flatnonzero(cosines > 0.6)[:20]
    assert np.array_equal(some.ids, expected)
    assert some.scores == pytest.approx(cosines[expected])


def test_craft_gives_every_few_shot_its_quota():
    x, shots = rows(300), rows(5, seed=1)
    cosines = reference.canonical(shots, x, "cosine")
    for budget in (10, 40, 83, 300):
        chosen = CraftMix(shots)(x, budget)
        assert len(set(chosen.ids.tolist())) == budget
        for line in cosines:
            quota = np.argsort(-line, kind="stable")[: budget // 10]
            assert set(quota) <= set(chosen.ids)
        common = np.argsort(-cosines.astype(np.float64).mean(axis=0), kind="stable")
        assert set(common[: budget // 2]) <= set(chosen.ids)
        for place, row in enumerate(chosen.ids):
            shot = chosen.reasons["few_shot"][place]
            value = cosines[shot, row] if shot >= 0 else cosines[:, row].mean()
            assert chosen.scores[place] == pytest.approx(value, abs=1e-6)


def test_less_is_its_formula():
    random = np.random.default_rng(0)

    def features(count):
        made = random.standard_normal((count, 12)).astype(np.float32)
        return made / np.linalg.norm(made, axis=1, keepdims=True)

    train, validation = [features(90) for _ in range(3)], [features(7) for _ in range(3)]
    subtasks, rates = np.array([0, 1, 1, 2, 0, 1, 2]), np.array([3.0, 2, 1])
    influence = sum(
        rate / 6 * a.astype(float) @ b.T
        for rate, a, b in zip(rates, train, validation, strict=True)
    )
    means = np.stack([influence[:, subtasks == s].mean(axis=1) for s in range(3)], axis=1)
    chosen = GradientInfluence(validation, subtasks, rates)(train, 20)
    expected = np.argsort(-means.max(axis=1), kind="stable")[:20]
    assert np.array_equal(chosen.ids, expected)
    assert chosen.scores == pytest.approx(means.max(axis=1)[expected], abs=1e-6)
    assert np.array_equal(chosen.reasons["subtask"], means.argmax(axis=1)[expected])
    assert GradientInfluence(train[0][:1])(train[0], 1).scores[0] == pytest.approx(1)
    with pytest.raises(ValueError, match="subtasks leave out a number"):
        GradientInfluence(validation, [0, 2, 2, 2, 0, 2, 2])
    with pytest.raises(ValueError, match="embeddings have 1 checkpoints, validation has 3"):
        GradientInfluence(validation)(train[0], 1)


# --- by cluster --------------------------------------------------------------------------------


def test_prototypes_are_left_out():
    x = rows(200)
    clusters = stope.kmeans(x, 5, metric="cosine", init="random", seed=4)
    chosen = Prototypes(5, seed=4)(x, 60)
    expected = np.argsort(clusters.scores, kind="stable")[:60]
    assert np.array_equal(chosen.ids, expected)
    assert np.array_equal(chosen.reasons["cluster"], clusters.labels[expected])
    easy = Prototypes(5, seed=4, hardest=False)(x, 60)
    assert easy.scores.max() <= np.partition(1 - clusters.scores, 60)[60]


def test_d4_is_its_steps():
    x = rows(200)
    x[150:] = x[:50] + np.float32(0.01) * rows(50, seed=1)
    chosen = D4(5, dedup_share=0.75)(x, 80)
    left = semdedup(x, clusters=5).least_alike(150)
    assert np.array_equal(chosen.ids, left[Prototypes(5)(x[left], 80).ids])
    scores = reference.canonical(x, x, "cosine")
    copies = sum({row, row + 150} <= set(chosen.ids.tolist()) for row in range(50))
    assert copies == 0
    assert np.all(chosen.reasons["alike"] < 0.99)
    assert (np.diff(chosen.scores) <= 0).all()
    assert np.array_equal(D4(5)(x, 80).ids, chosen.ids)
    assert scores[chosen.ids][:, chosen.ids][np.triu_indices(80, 1)].max() < 0.99
