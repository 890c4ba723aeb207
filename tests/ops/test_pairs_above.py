"""pairs_above: every pair that reaches the threshold, in order, against canonical scores."""

from __future__ import annotations

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope
from stope.ops import pairs_above as page

METRICS = ("dot", "cosine", "euclidean")


def expected_pairs(scores, threshold, within):
    """(rows, ids, scores) of a matrix of scores, row by row, best first."""
    rows, columns = np.nonzero(scores >= np.float64(threshold))
    kept = columns > rows if within else np.ones(rows.shape, bool)
    rows, columns = rows[kept], columns[kept]
    order = np.lexsort((columns, -scores[rows, columns], rows))
    return rows[order], columns[order], scores[rows, columns][order]


def assert_pairs(got, expected, note=""):
    np.testing.assert_array_equal(np.asarray(got[0]), expected[0], err_msg=f"rows {note}")
    reference.assert_same((got[2], got[1]), (expected[2], expected[1]), note)


def thresholds_of(scores):
    """Scores that occur, so that equality decides, and one between none and few pairs."""
    ordered = np.sort(scores.ravel())
    return [float(ordered[int(share * (ordered.size - 1))]) for share in (0, 0.5, 0.95, 0.999)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_hard_inputs(case, metric):
    x, y = cases.make(case, 40, 300, 52)
    between = reference.canonical(x, y, metric)
    within = reference.canonical(y, y, metric)
    for threshold in thresholds_of(between):
        got = stope.pairs_above(x, y, threshold=threshold, metric=metric)
        assert_pairs(got, expected_pairs(between, threshold, False), f"{threshold}")
    for threshold in thresholds_of(within):
        options = {"threshold": threshold, "metric": metric}
        expected = expected_pairs(within, threshold, True)
        assert_pairs(stope.pairs_above(y, **options), expected, f"{threshold}")
        assert stope.pairs_above(y, **options, count_only=True) == len(expected[0])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dim", [1, 15, 17, 64, 100])
def test_ragged_shapes_on_every_isa(metric, dim, threads):
    for n in (1, 2, 16, 17, 255, 257, 700):
        _, x = cases.make("gaussian", 1, n, dim)
        scores = reference.canonical(x, x, metric)
        threshold = thresholds_of(scores)[2]
        expected = expected_pairs(scores, threshold, True)
        for isa in stope.isa.available():
            for count in (1, 3):
                threads(count)
                with stope.isa.only(isa):
                    got = stope.pairs_above(x, threshold=threshold, metric=metric)
                assert_pairs(got, expected, f"n={n} {isa} {count} threads")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8])
def test_other_dtypes(dtype, metric):
    _, x = cases.make("clustered", 1, 300, 70)
    x = np.clip((40 if dtype == np.int8 else 1) * x, -128, 127).astype(dtype)
    scores = reference.canonical(x, x, metric)
    threshold = thresholds_of(scores)[2]
    for isa in stope.isa.available():
        with stope.isa.only(isa):
            got = stope.pairs_above(x, threshold=threshold, metric=metric)
        assert_pairs(got, expected_pairs(scores, threshold, True), isa)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", ["gaussian", "many_ties", "duplicated", "mixed_norms"])
def test_groups_are_calls_of_their_own_one_after_another(case, metric, threads, monkeypatch):
    monkeypatch.setattr(page, "_FIRST_ROWS", 77)
    monkeypatch.setattr(page, "_MOST_ROWS", 301)
    rng = np.random.default_rng(4)
    _, x = cases.make(case, 1, 700, 70)
    threshold = thresholds_of(reference.canonical(x, x, metric))[2]
    options = {"threshold": threshold, "metric": metric}
    for groups in (
        rng.integers(-9, 700, 700),  # mostly of one row
        rng.integers(0, 12, 700) * 10**12,
        np.arange(700)[::-1] // 690,
        np.zeros(700, np.int8),
    ):
        parts = []
        for group in np.unique(groups):
            rows = np.flatnonzero(groups == group)
            got = stope.pairs_above(x[rows], **options)
            parts.append((rows[got.rows], rows[got.ids], got.scores))
        expected = [np.concatenate(part) for part in zip(*parts, strict=True)]
        for isa in stope.isa.available():
            for count in (1, 3):
                threads(count)
                with stope.isa.only(isa):
                    got = stope.pairs_above(x, groups=groups, **options)
                assert_pairs(got, expected, f"{isa} {count} threads")
        chunks = []
        number = stope.pairs_above(
            x, groups=groups, sink=lambda *c, to=chunks: to.append(c), **options
        )
        assert number == len(expected[0])
        if number:
            assert_pairs([np.concatenate(part) for part in zip(*chunks, strict=True)], expected)
        assert stope.pairs_above(x, groups=groups, count_only=True, **options) == number


def test_groups_that_are_refused():
    x = np.ones((3, 2), np.float32)
    with pytest.raises(ValueError, match="groups is given together with y"):
        stope.pairs_above(x, x, threshold=0, groups=[0, 1, 2])
    with pytest.raises(ValueError, match="groups has 2 entries for 3 rows of x; give one for each"):
        stope.pairs_above(x, threshold=0, groups=[0, 1])
    with pytest.raises(TypeError, match=r"groups is .*; give an integer for each row, or None"):
        stope.pairs_above(x, threshold=0, groups="abc")


def of_which_a_part_is_alike(part, rng, n=700, dim=384):
    """Rows whose near repeats differ in one part of the depth alone, and whose mean is far off."""
    x = rng.standard_normal((n, dim)) + 0.7
    if part == "end":
        x[: n // 2, : dim // 2] = 0  # all that these have is beyond the first cuts
    noise = np.zeros((n // 4, dim))
    places = {"begin": slice(0, 64), "end": slice(320, dim), "everywhere": slice(0, dim)}[part]
    noise[:, places] = rng.standard_normal(noise[:, places].shape)
    noise *= rng.uniform(0, 14, (len(noise), 1)) / np.linalg.norm(noise, axis=1, keepdims=True)
    x[rng.choice(n, n // 4, False)] = x[rng.choice(n, n // 4, False)] + noise
    return x.astype(np.float32)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("part", ["begin", "end", "everywhere"])
@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_pairs_that_only_the_end_of_the_depth_decides(part, metric, dtype):
    """Tiles of which only a part is scanned lose no pair: thresholds that few and many reach."""
    x = of_which_a_part_is_alike(part, np.random.default_rng(5))
    if dtype == np.int8:
        x = np.clip(25 * x, -128, 127).astype(dtype)
    scores = reference.canonical(x, x, metric)
    above = np.sort(scores[np.triu_indices(len(x), 1)])
    for rank in (1, 20, 200, 5_000):
        threshold = float(above[-rank])
        expected = expected_pairs(scores, threshold, True)
        assert len(expected[0]) >= rank
        for isa in stope.isa.available():
            with stope.isa.only(isa):
                got = stope.pairs_above(x, threshold=threshold, metric=metric)
                assert_pairs(got, expected, f"{rank} {isa}")
                nearest = stope.nearest_earlier(x, threshold=threshold, metric=metric)
            assert set(np.flatnonzero(nearest.ids >= 0)) == set(expected[1]), f"{rank} {isa}"


def test_any_chunks_give_the_same_pairs(monkeypatch, threads):
    """Chunks of a few pairs, of which some rows alone have more, and of rows here and there."""
    _, x = cases.make("duplicated", 1, 400, 24)
    expected = stope.pairs_above(x, threshold=0.0)
    assert len(expected.rows) > 10_000
    for room, first, most in ((7, 3, 50), (1, 1, 1), (300, 400, 400), (10**6, 16, 16)):
        monkeypatch.setattr(page, "_CHUNK_PAIRS", room)
        monkeypatch.setattr(page, "_FIRST_ROWS", first)
        monkeypatch.setattr(page, "_MOST_ROWS", most)
        threads(1 + room % 2)
        assert_pairs(stope.pairs_above(x, threshold=0.0), expected, f"chunks of {room}")
        chunks = []
        count = stope.pairs_above(x, threshold=0.0, sink=lambda *c, to=chunks: to.append(c))
        joined = [np.concatenate(part) for part in zip(*chunks, strict=True)]
        assert_pairs(joined, expected, f"sink of {room}")
        assert count == len(expected.rows)
        longest = np.bincount(expected.rows).max()
        assert max(len(chunk[0]) for chunk in chunks) <= max(room, longest)
        assert stope.pairs_above(x, threshold=0.0, count_only=True) == count


def test_duplicates_are_pairs_once_and_no_row_pairs_with_itself():
    x = np.tile(np.eye(3, dtype=np.float32), (40, 1))
    got = stope.pairs_above(x, threshold=1)
    assert (got.rows < got.ids).all()
    assert len(got.rows) == 3 * 40 * 39 // 2
    assert len(set(zip(got.rows.tolist(), got.ids.tolist(), strict=True))) == len(got.rows)
    both = stope.pairs_above(x, x, threshold=1)
    assert len(both.rows) == 3 * 40 * 40


def test_a_threshold_between_two_float32_numbers_keeps_what_reaches_it():
    x = np.ones((2, 1), np.float32)
    assert stope.pairs_above(x, threshold=1.0, count_only=True) == 1
    assert stope.pairs_above(x, threshold=1.0 + 1e-12, count_only=True) == 0
    assert stope.pairs_above(x, threshold=1.0 - 1e-12, count_only=True) == 1


def test_no_pairs_and_one_row():
    x = np.ones((1, 5), np.float32)
    for got in (stope.pairs_above(x, threshold=0), stope.pairs_above(x, x, threshold=99)):
        assert [part.dtype for part in got] == [np.int64, np.int64, np.float32]
        assert [len(part) for part in got] == [0, 0, 0]
    assert stope.pairs_above(x, threshold=0, sink=lambda *chunk: 1 / 0) == 0


def test_max_pairs_is_a_limit_and_says_how_many(monkeypatch):
    monkeypatch.setattr(page, "_FIRST_ROWS", 10)
    x = np.ones((100, 4), np.float32)
    for options in ({}, {"count_only": True}, {"sink": lambda *chunk: None}):
        with pytest.raises(
            ValueError, match=r"max_pairs is 900, but the first 10 of 100 rows have 945 p"
        ):
            stope.pairs_above(x, threshold=1, max_pairs=900, **options)
    assert stope.pairs_above(x, threshold=1, max_pairs=4950, count_only=True) == 4950
    assert len(stope.pairs_above(x, threshold=1, max_pairs=4950).rows) == 4950


def test_a_sink_that_raises_ends_the_search(monkeypatch):
    monkeypatch.setattr(page, "_FIRST_ROWS", 10)
    chunks = []

    def sink(rows, ids, scores):
        chunks.append(len(rows))
        raise KeyError("full")

    with pytest.raises(KeyError, match="full"):
        stope.pairs_above(np.ones((100, 4), np.float32), threshold=1, sink=sink)
    assert len(chunks) == 1


def test_progress_rises_to_all_rows(monkeypatch):
    monkeypatch.setattr(page, "_FIRST_ROWS", 30)
    told = []
    _, x = cases.make("gaussian", 1, 300, 20)
    stope.pairs_above(x, threshold=9, progress=lambda done, total: told.append((done, total)))
    done = [entry[0] for entry in told]
    assert told[-1] == (300, 300)
    assert {entry[1] for entry in told} == {300}
    assert done == sorted(done)


def test_kinds_of_arrays_in_and_out(tmp_path):
    torch = pytest.importorskip("torch")
    _, x = cases.make("duplicated", 1, 200, 16)
    expected = stope.pairs_above(x, threshold=5)
    assert len(expected.rows) > 100
    got = stope.pairs_above(torch.from_numpy(x), threshold=5)
    assert all(isinstance(part, torch.Tensor) for part in got)
    assert_pairs(got, expected)
    wide = np.zeros((400, 20), np.float32)
    wide[::2, 3:19] = x
    assert_pairs(stope.pairs_above(wide[::2, 3:19], threshold=5), expected)
    x.tofile(tmp_path / "x.f32")
    mapped = np.memmap(tmp_path / "x.f32", np.float32, "r", shape=x.shape)
    assert_pairs(stope.pairs_above(mapped, threshold=5), expected)


@pytest.mark.parametrize("row", [0, 150, 299])
def test_a_row_that_is_not_finite_is_named(row):
    x, y = cases.make("gaussian", 300, 300, 20)
    bad = y.copy()
    bad[row, 7] = np.nan
    with pytest.raises(ValueError, match=rf"x has a NaN.* row {row};"):
        stope.pairs_above(bad, threshold=0)
    with pytest.raises(ValueError, match=rf"x has a NaN.* row {row};"):
        stope.pairs_above(bad, x, threshold=0)
    with pytest.raises(ValueError, match=rf"y has a NaN.* row {row};"):
        stope.pairs_above(x, bad, threshold=0)
    with pytest.raises(ValueError, match=r"x has a NaN.* row 0;"):
        stope.pairs_above(np.full((1, 4), np.nan, np.float32), threshold=0)


def test_what_does_not_go_together_is_refused():
    x = np.ones((3, 4), np.float32)
    with pytest.raises(ValueError, match="x is empty"):
        stope.pairs_above(x[:0], threshold=0)
    with pytest.raises(ValueError, match="y is empty"):
        stope.pairs_above(x, x[:0], threshold=0)
    with pytest.raises(ValueError, match="y has dim 3 but x has dim 4"):
        stope.pairs_above(x, np.ones((3, 3), np.float32), threshold=0)
    with pytest.raises(TypeError, match="x is int8"):
        stope.pairs_above(x.astype(np.int8), x, threshold=0)
    with pytest.raises(TypeError, match="float64"):
        stope.pairs_above(x.astype(np.float64), threshold=0)
    with pytest.raises(ValueError, match="threshold"):
        stope.pairs_above(x, threshold=np.nan)
    with pytest.raises(ValueError, match="count_only"):
        stope.pairs_above(x, threshold=0, sink=print, count_only=True)
