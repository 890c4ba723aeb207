"""k-means against Lloyd in float64 and two libraries, its promises, and the sums it is made of."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
import reference

import stope
from stope import _arrays, _core, isa

METRICS = ("euclidean", "cosine")


def blobs(seed, clusters, each, dim=16, noise=0.05):
    random = np.random.default_rng(seed)
    centers = random.standard_normal((clusters, dim))
    labels = np.repeat(np.arange(clusters), each)
    points = centers[labels] + noise * random.standard_normal((len(labels), dim))
    order = random.permutation(len(labels))
    return points[order].astype(np.float32), labels[order]


def shapeless(rows=700, dim=12, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, dim), dtype=np.float32) * random.random(
        (rows, 1), dtype=np.float32
    )


def unit(rows):
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(lengths > 0, lengths, 1)


def lloyd(x, centers, metric, iterations):
    """Plain Lloyd in float64, for rows that leave no cluster empty: labels, centers, inertia."""
    x, centers = x.astype(np.float64), centers.astype(np.float64)
    if metric == "cosine":
        x, centers = unit(x), unit(centers)
    inertia = []
    for step in range(iterations + 1):
        costs = (
            np.square(x[:, None] - centers[None]).sum(axis=2)
            if metric == "euclidean"
            else 1 - x @ centers.T
        )
        labels = costs.argmin(axis=1)
        inertia.append(costs.min(axis=1).sum())
        if step < iterations:
            sums = np.stack([x[labels == c].sum(axis=0) for c in range(len(centers))])
            counts = np.bincount(labels, minlength=len(centers))[:, None]
            assert counts.min() > 0
            centers = sums / counts if metric == "euclidean" else unit(sums)
    return labels, centers, np.array(inertia)


@pytest.mark.parametrize("metric", METRICS)
def test_it_is_lloyd(metric):
    """Well-separated data: every assignment is that of float64, so all else agrees to rounding."""
    x, _ = blobs(0, 6, 50)
    start = x[:6]
    clusters = stope.kmeans(x, 6, metric=metric, init=start, max_iterations=4)
    labels, centers, inertia = lloyd(x, start, metric, len(clusters.inertia) - 1)
    assert np.array_equal(clusters.labels, labels)
    assert clusters.centers == pytest.approx(centers, abs=1e-6)
    assert clusters.inertia == pytest.approx(inertia, rel=1e-5)


@pytest.mark.parametrize("metric", METRICS)
def test_labels_and_scores_are_those_of_topk(metric):
    x = shapeless()
    clusters = stope.kmeans(x, 9, metric=metric, max_iterations=3, seed=1)
    best = stope.topk(x, clusters.centers, 1, metric=metric)
    assert np.array_equal(clusters.labels, best.ids[:, 0])
    assert np.array_equal(clusters.scores.view(np.int32), best.scores[:, 0].view(np.int32))
    costs = np.square(clusters.scores.astype(np.float64))
    if metric == "cosine":
        costs = 1 - clusters.scores.astype(np.float64)
        assert np.linalg.norm(clusters.centers, axis=1) == pytest.approx(1, abs=1e-6)
    assert clusters.inertia[-1] == pytest.approx(costs.sum(), rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("init", ["k-means++", "random"])
def test_inertia_never_rises(metric, init):
    for seed in range(6):
        x = shapeless(seed=seed)
        inertia = stope.kmeans(x, 20, metric=metric, init=init, seed=seed).inertia
        assert (inertia[1:] <= inertia[:-1] * (1 + 1e-6)).all()
        assert len(inertia) > 3


@pytest.mark.parametrize("metric", METRICS)
def test_bits_depend_on_no_threads_and_instruction_set(metric, threads):
    x = np.concatenate([shapeless(9000, 70), shapeless(300, 70, seed=1) * 1e-3])
    few, many = {}, {}
    for name, count in itertools.product(isa.available(), (1, 3)):
        threads(count)
        with isa.only(name):
            for k, bits in ((2, few), (40, many)):
                clusters = stope.kmeans(x, k, metric=metric, max_iterations=3, seed=2)
                bits[name, count] = tuple(np.asarray(part).tobytes() for part in clusters)
    assert len(set(few.values())) == len(set(many.values())) == 1


def test_a_start_is_a_function_of_the_seed():
    x = shapeless()
    for init in ("k-means++", "random"):
        centers = [
            stope.kmeans(x, 5, init=init, max_iterations=0, seed=seed).centers for seed in (0, 0, 1)
        ]
        assert np.array_equal(centers[0], centers[1])
        assert not np.array_equal(centers[0], centers[2])
        for center in centers[0]:
            assert (x == center).all(axis=1).any()


def test_plus_plus_draws_by_squared_distance():
    """Three places, of 30, 20 and 10 rows: the chance of each order of them is known.

    The first row is any; the second is drawn by squared distance. 600 seeds, three standard errors.
    """
    places = np.float32([[0, 0], [1, 0], [0, 3]])
    x = np.repeat(places, [30, 20, 10], axis=0)
    squared = np.square(places[:, None] - places[None]).sum(axis=2)
    weights = np.array([30, 20, 10])
    expected = np.zeros((3, 3))
    for first in range(3):
        second = weights * squared[first]
        expected[first] = weights[first] / 60 * second / second.sum()
    seen = np.zeros((3, 3))
    for seed in range(600):
        centers = stope.kmeans(x, 2, max_iterations=0, seed=seed).centers
        first, second = ((places == center).all(axis=1).argmax() for center in centers)
        seen[first, second] += 1
    error = np.sqrt(expected * (1 - expected) / 600)
    assert (np.abs(seen / 600 - expected) <= 3 * error + 1e-9).all()
    assert seen.diagonal().sum() == 0


def test_plus_plus_by_rejection_is_that_of_one_row_after_another():
    """The share of starts that hit all 12 far blobs: what k-means++ is for."""
    x, labels = blobs(0, 12, 40, noise=0.01)
    hits = {"k-means++": 0, "random": 0}
    for init in hits:
        for seed in range(20):
            start = stope.kmeans(x, 12, init=init, max_iterations=0, seed=seed).centers
            rows = [int((x == center).all(axis=1).argmax()) for center in start]
            hits[init] += len(set(labels[rows])) == 12
    assert hits["k-means++"] >= 19
    assert hits["random"] == 0


def test_empty_clusters_get_the_farthest_rows():
    """Both far centers lose all rows at once: rows 0 and 5 are the farthest from the third."""
    x = np.float32([[-9, 0], [0, 0], [1, 0], [0, 1], [1, 1], [0, 7]])
    start = np.float32([[50, 50], [0.5, 0.5], [60, 60]])
    clusters = stope.kmeans(x, 3, init=start, max_iterations=1)
    assert clusters.labels.tolist() == [0, 1, 1, 1, 1, 2]
    assert clusters.centers[[0, 2]].tolist() == [[-9, 0], [0, 7]]
    assert stope.kmeans(x, 3, init=start, max_iterations=0).labels.tolist() == [1] * 6


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_distinct_rows_than_clusters(metric):
    x = np.repeat(np.float32([[1, 2], [3, 1]]), [5, 3], axis=0)
    for init in ("k-means++", "random", x[[0, 0, 1, 1]]):
        clusters = stope.kmeans(x, 4, metric=metric, init=init)
        assert clusters.converged
        assert clusters.inertia[-1] == pytest.approx(0, abs=1e-6)
        assert len(set(clusters.labels[:5])) == len(set(clusters.labels[5:])) == 1
        assert clusters.labels[0] != clusters.labels[5]


def test_zero_rows_under_cosine_are_no_centers():
    x = np.zeros((9, 3), np.float32)
    x[:3] = np.eye(3)
    start = np.float32([[1, 0, 0], [1, 0, 0], [1, 0, 0]])
    clusters = stope.kmeans(x, 3, metric="cosine", init=start)
    assert sorted(clusters.labels[:3]) == [0, 1, 2]
    assert clusters.labels[3:].tolist() == [0] * 6  # all centers score 0: the lowest
    assert clusters.inertia[-1] == pytest.approx(6)


def test_it_stops_when_told(threads):
    x = shapeless()
    until = stope.kmeans(x, 8, max_iterations=200)
    assert until.converged
    assert 3 < len(until.inertia) < 201
    early = stope.kmeans(x, 8, max_iterations=3)
    assert not early.converged
    assert np.array_equal(early.inertia, until.inertia[:4])
    rough = stope.kmeans(x, 8, max_iterations=200, tolerance=0.05)
    falls = 1 - rough.inertia[1:] / rough.inertia[:-1]
    assert rough.converged
    assert falls[-1] <= 0.05 < falls[:-1].min()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_types_are_their_float32_values(dtype):
    x = shapeless().astype(dtype)
    for metric in METRICS:
        half = stope.kmeans(x, 7, metric=metric, max_iterations=4)
        wide = stope.kmeans(x.astype(np.float32), 7, metric=metric, max_iterations=4)
        assert all(np.array_equal(a, b) for a, b in zip(half, wide, strict=True))


def test_memory_maps_strides_and_tensors(tmp_path):
    torch = pytest.importorskip("torch")
    x = shapeless()
    np.save(tmp_path / "x.npy", x)
    wide = np.zeros((700, 40), np.float32)
    wide[:, :12] = x
    expected = stope.kmeans(x, 7, max_iterations=3)
    for rows in (np.load(tmp_path / "x.npy", mmap_mode="r"), wide[:, :12], torch.from_numpy(x)):
        clusters = stope.kmeans(rows, 7, max_iterations=3)
        assert np.array_equal(expected.labels, np.asarray(clusters.labels))
        assert np.array_equal(expected.centers, np.asarray(clusters.centers))
    assert isinstance(clusters.labels, torch.Tensor)
    assert isinstance(clusters.centers, torch.Tensor)


def test_progress_ends_at_the_total():
    calls = []
    clusters = stope.kmeans(
        shapeless(), 5, progress=lambda done, total: calls.append((done, total))
    )
    assert calls == sorted(calls)
    assert calls[-1] == (700 * 27, 700 * 27)
    assert len(clusters.inertia) <= 26

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stope.kmeans(shapeless(), 5, progress=stop)


def test_scikit_learn_and_faiss_agree():
    """The same start: the same clusters, inertia equal to float32's rounding."""
    cluster = pytest.importorskip("sklearn.cluster")
    faiss = pytest.importorskip("faiss")
    x, _ = blobs(3, 8, 60, noise=0.6)
    start = x[:8]
    ours = stope.kmeans(x, 8, init=start, max_iterations=10)
    theirs = cluster.KMeans(8, init=start, n_init=1, max_iter=10, tol=0, algorithm="lloyd").fit(x)
    assert np.mean(ours.labels == theirs.labels_) == 1
    assert ours.inertia[-1] == pytest.approx(theirs.inertia_, rel=1e-5)
    other = faiss.Kmeans(16, 8, niter=10, min_points_per_centroid=1)
    other.train(x, init_centroids=start)
    assert ours.inertia[: len(other.obj)] == pytest.approx(other.obj[: len(ours.inertia)], rel=1e-4)
    assert ours.centers == pytest.approx(other.centroids, abs=1e-4)


@pytest.mark.parametrize(
    ("make", "kind", "sentence"),
    [
        (lambda x: stope.kmeans(x, 8), ValueError, "k is 8, but x has 6 rows; use k=6 or less"),
        (lambda x: stope.kmeans(x, 0), ValueError, "k is 0; it must be at least 1"),
        (lambda x: stope.kmeans(x[:0], 1), ValueError, "x is empty"),
        (lambda x: stope.kmeans(x.astype(np.int8), 1), TypeError, "x has dtype int8.*float16"),
        (lambda x: stope.kmeans(x.astype(float), 1), TypeError, "x has dtype float64"),
        (lambda x: stope.kmeans(x, 2, metric="dot"), ValueError, "metric is 'dot'; give one of"),
        (lambda x: stope.kmeans(x, 2, init="k++"), ValueError, "init is 'k\\+\\+'; give one of"),
        (lambda x: stope.kmeans(x, 2, init=x[:3]), ValueError, "init has shape \\(3, 4\\); 2 cent"),
        (lambda x: stope.kmeans(x, 1, init=x[:1] * np.nan), ValueError, "init has a NaN"),
        (lambda x: stope.kmeans(x, 2, init=None), TypeError, "init is None; give 'k-means"),
        (lambda x: stope.kmeans(x, 2, max_iterations=-1), ValueError, "max_iterations is -1"),
        (lambda x: stope.kmeans(x, 2, tolerance=-0.5), ValueError, "tolerance is -0.5"),
        (lambda x: stope.kmeans(x * np.float32(1e19), 2, init="random"), ValueError,
         "^x has a norm of 2.63"),
        (lambda x: stope.kmeans(x, 2, progress=3), TypeError, "progress is 3"),
        *(
            (
                lambda x, wrong=wrong, metric=metric: stope.kmeans(
                    np.where(np.arange(24).reshape(6, 4) == 13, np.float32(wrong), x), 2,
                    metric=metric,
                ),
                ValueError,
                "^x has a NaN or an infinity in row 3",
            )
            for wrong in (np.nan, np.inf, -np.inf)
            for metric in METRICS
        ),
    ],
)  # fmt: skip
def test_bad_input_gets_a_sentence(make, kind, sentence):
    with pytest.raises(kind, match=sentence):
        make(shapeless(6, 4))


# --- the assignment ----------------------------------------------------------------------------


def as_bounds(scores, metric):
    """Scores as bounds are kept: minus the squared distance under euclidean."""
    wide = scores.astype(np.float64)
    return -np.square(wide) if metric == "euclidean" else wide


def rounds_of_centers(case):
    """(rows, centers of each round) that try the bounds: drifts of every size, and strange rows."""
    random = np.random.default_rng(len(case))
    rows, dim, k = 150, 21, 70
    if case == "wide groups":
        k = 1100  # 69 panels: groups of two
    if case == "fast ones":
        k = 400  # 25 panels: one more of the centers that went farthest
    if case == "one":
        k = 1
    x = random.standard_normal((rows, dim))
    centers = random.standard_normal((k, dim)) * 0.5
    steps = [0.3, 0.05, 0.0, 0.01, 1e-4, 0.02, 2.0, 1e-6, 0.01]
    if case == "alike":
        x = np.repeat(x[:30], 5, axis=0)
        centers = np.repeat(centers[:35], 2, axis=0)
    if case == "on centers":
        x[:k] = centers
    if case == "zeros":
        x[::7] = 0
        centers[3] = 0
    rounds = [centers]
    for step in steps:
        moved = rounds[-1] + step * random.standard_normal(centers.shape) / dim**0.5
        still = random.random(k) < (0.97 if case == "fast ones" else 0.5)
        moved[still] = rounds[-1][still]
        if step == 0.02 and k > 1:
            moved[k // 2] = x[0]  # as an empty cluster's center goes
        if case == "alike" and len(rounds) % 2:
            moved[1::2] = moved[::2]  # a tie with the center before
        rounds.append(moved)
    scale = {"tiny": 1e-19, "huge": 1e17}.get(case, 1)
    return (x * scale).astype(np.float32), [(c * scale).astype(np.float32) for c in rounds]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    "case",
    ["plain", "wide groups", "fast ones", "one", "alike", "on centers", "zeros", "tiny", "huge"],
)
def test_assignments_are_those_of_all_scores_and_bounds_hold(metric, case):
    """Round after round: the nearest center of every row, and no bound below what it bounds."""
    x, rounds = rounds_of_centers(case)
    truth = [reference.canonical(x, centers, metric) for centers in rounds]
    k = len(rounds[0])
    groups, order = _core.center_groups(k), np.random.default_rng(k).permutation(k)
    panels = np.argsort(order) // 16
    members = panels // (panels.max() // 64 + 1)
    assert groups == members.max() + 1 <= 64
    assert _core.group_centers(k) == np.sum(members == 0) or groups == 1
    for name in isa.available():
        labels = np.full(len(x), -7)
        scores = np.full(len(x), np.nan, np.float32)
        reached = np.full((len(x), groups), np.nan, np.float32)
        before = None
        for number, (centers, every) in enumerate(zip(rounds, truth, strict=True)):
            with isa.only(name):
                _core.nearest_centers(
                    rows=x, centers=centers, before=before, metric=metric, labels=labels,
                    order=order, scores=scores, reached=reached, threads=1 + number % 2,
                    allocate=_arrays.workspace, progress=None,
                )  # fmt: skip
            assert np.array_equal(labels, every.argmax(axis=1))
            assert np.array_equal(reference.bits(scores), reference.bits(every.max(axis=1)))
            others = as_bounds(every, metric)
            others[np.arange(len(x)), labels] = -np.inf
            for group in range(groups):
                assert (others[:, members == group].max(axis=1) <= reached[:, group]).all()
            before = centers


def test_rows_whose_bounds_hold_are_not_scanned():
    """Clusters far apart: bounds are moved by the formula, which a scan would not give."""
    x, labels = blobs(1, 40, 30, dim=32)
    centers = np.stack([x[labels == c].mean(axis=0) for c in range(40)])
    state = np.empty(len(x), np.int64), np.empty(len(x), np.float32)
    reached = np.empty((len(x), 3), np.float32)
    bounds = []
    moved = centers + np.float32(0.05)
    for before, to in ((None, centers), (centers, centers), (centers, moved)):
        _core.nearest_centers(
            rows=x, centers=to, before=before, metric="euclidean", labels=state[0],
            scores=state[1], reached=reached, threads=1, order=np.arange(40),
            allocate=_arrays.workspace, progress=None,
        )  # fmt: skip
        bounds.append(reached.copy())
    way = 0.05 * 32**0.5
    far = np.sqrt(-bounds[1].astype(np.float64))
    assert (far > 1).all()  # no group holds a center that could be nearer
    assert -bounds[2] == pytest.approx(np.square(far - way), rel=1e-4)


# --- the sums ----------------------------------------------------------------------------------


def group_sums(x, groups, num_groups, metric="euclidean", threads=1):
    sums = np.zeros((num_groups, x.shape[1]))
    _core.group_sums(
        rows=x, metric=metric, groups=groups, num_groups=num_groups, sums=sums, threads=threads,
        allocate=_arrays.workspace, progress=None,
    )  # fmt: skip
    return sums


@pytest.mark.parametrize("rows", [1, 63, 4096, 4097, 9000])
@pytest.mark.parametrize("num_groups", [1, 3, 2000])
def test_sums_are_those_of_a_loop_in_float64(rows, num_groups):
    """Bit for bit: one row after another."""
    random = np.random.default_rng(rows)
    x = random.standard_normal((rows, 67), dtype=np.float32) * np.float32(1e3)
    groups = random.integers(0, num_groups, rows)
    expected = np.zeros((num_groups, 67))
    for row, group in enumerate(groups):
        expected[group] += x[row]
    for threads in (1, 4):
        assert np.array_equal(group_sums(x, groups, num_groups, threads=threads), expected)
    unit_sums = np.zeros((num_groups, 67))
    np.add.at(unit_sums, groups, unit(x.astype(np.float64)))
    assert group_sums(x, groups, num_groups, "cosine") == pytest.approx(unit_sums, abs=2e-6 * 70)


def test_sums_refuse_groups_that_are_not_there():
    x = shapeless(6, 4)
    for wrong in (-1, 3):
        groups = np.array([0, 1, 2, wrong, 0, 0])
        with pytest.raises(ValueError, match=f"groups has {wrong} for row 3; groups are from 0 to"):
            group_sums(x, groups, 3)
    with pytest.raises(ValueError, match="groups must be an aligned"):
        group_sums(x, np.zeros(5, np.int64), 3)
