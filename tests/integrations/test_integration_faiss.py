"""faiss's names on FlatIndex, beside faiss itself: on whole numbers, which it adds exactly."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from stope.integrations import faiss as ours

faiss = pytest.importorskip("faiss", reason="faiss is not installed")

DIM, ROWS = 6, 300
CLASSES = ["IndexFlatL2", "IndexFlatIP"]


@pytest.fixture(params=CLASSES)
def both(request):
    rng = np.random.default_rng(0)
    rows = rng.integers(-50, 50, (ROWS, DIM)).astype(np.float32)
    indexes = [getattr(library, request.param)(DIM) for library in (faiss, ours)]
    for index in indexes:
        index.add(rows)
    return indexes, rows, rng.integers(-50, 50, (9, DIM)).astype(np.float32)


def same(theirs, mine, *, exact):
    """Distances, and ids of those that no other row has: faiss leaves the order of equals open."""
    np.testing.assert_allclose(mine[0], theirs[0], rtol=0 if exact else 3e-7)
    for distances, expected, got in zip(theirs[0], theirs[1], mine[1], strict=True):
        values, first, counts = np.unique(distances, return_index=True, return_counts=True)
        alone = first[(counts == 1) & (values != distances[-1])]
        np.testing.assert_array_equal(got[alone], expected[alone])


def test_search_is_that_of_faiss(both):
    (theirs, mine), _, queries = both
    exact = mine.metric_type == ours.METRIC_INNER_PRODUCT
    assert (mine.ntotal, mine.d, mine.is_trained) == (theirs.ntotal, theirs.d, theirs.is_trained)
    assert mine.metric_type == theirs.metric_type
    for k in (1, 7, 300):
        answer = mine.search(queries, k)
        same(theirs.search(queries, k), answer, exact=exact)
        assert [array.dtype for array in answer] == [np.float32, np.int64]
    np.testing.assert_array_equal(mine.assign(queries), mine.search(queries, 1)[1][:, 0])
    missing = [index.search(queries, 310) for index in (theirs, mine)]
    for array, other in zip(*missing, strict=True):
        np.testing.assert_array_equal(array[:, 300:], other[:, 300:])
    assert mine.search(queries[:0], 3)[0].shape == (0, 3)
    out = np.zeros((9, 2), np.float32), np.zeros((9, 2), np.int64)
    assert mine.search(queries.tolist(), 2, D=out[0], I=out[1])[1] is out[1]
    np.testing.assert_array_equal(out[1], mine.search(queries, 2)[1])


@pytest.mark.parametrize("radius", [-np.inf, -100.0, 0.0, 2500.0, np.inf])
def test_ranges_leave_out_the_radius(both, radius):
    (theirs, mine), _, queries = both
    distances, _ = theirs.search(queries, ROWS)
    for limit in (radius, float(distances[0, 20])):  # one that a row has to the bit
        if not np.isfinite(limit) and mine.metric_type != ours.METRIC_L2:
            limit = np.sign(limit) * 1e9
        lims, found, ids = mine.range_search(queries, limit)
        expected = theirs.range_search(queries, limit)
        np.testing.assert_array_equal(ids, expected[2])
        np.testing.assert_array_equal(lims, expected[0])
        np.testing.assert_allclose(found, expected[1], rtol=3e-7)


def test_ranges_are_those_of_the_distances(both):
    """Also of the next radius, whose root is often that of the row it lets in."""
    (_, mine), _, queries = both
    distances, ids = (array[0] for array in mine.search(queries[:1], ROWS))
    nearer = mine.metric_type == ours.METRIC_L2
    for radius in np.nextafter(distances[::10], np.float32(np.inf if nearer else -np.inf)):
        inside = distances < radius if nearer else distances > radius
        assert mine.range_search(queries[:1], radius)[2].tolist() == sorted(ids[inside].tolist())


def test_selectors(both):
    (theirs, mine), _, queries = both
    chosen = np.arange(5, 250, 3)
    batch = faiss.SearchParameters(sel=faiss.IDSelectorBatch(chosen))
    exact = mine.metric_type == ours.METRIC_INNER_PRODUCT
    same(
        theirs.search(queries, 9, params=batch), mine.search(queries, 9, params=batch), exact=exact
    )
    for selector in (chosen, np.isin(np.arange(ROWS), chosen)):
        got = mine.search(queries, 9, params=SimpleNamespace(sel=selector))[1]
        np.testing.assert_array_equal(got, mine.search(queries, 9, params=batch)[1])
    got, expected = (index.range_search(queries, 900.0, params=batch) for index in (mine, theirs))
    np.testing.assert_array_equal(got[2], expected[2])


def test_rows_come_back_and_go(both):
    (theirs, mine), rows, queries = both
    np.testing.assert_array_equal(mine.reconstruct_n(), rows)
    np.testing.assert_array_equal(mine.reconstruct_n(3, 4), rows[3:7])
    np.testing.assert_array_equal(mine.reconstruct(299), rows[299])
    _, ids, found = mine.search_and_reconstruct(queries, 301)
    np.testing.assert_array_equal(found[:, :300], rows[ids[:, :300]])
    assert np.isnan(found[:, 300]).all()
    for index in (theirs, mine):
        assert index.remove_ids(np.array([3, 5, 299, 1000])) == 3
        assert index.remove_ids(faiss.IDSelectorRange(0, 2)) == 2
    np.testing.assert_array_equal(mine.reconstruct_n(), theirs.reconstruct_n())
    other = type(mine)(DIM)
    other.add(rows[:4])
    mine.merge_from(other)
    assert (mine.ntotal, other.ntotal) == (299, 0)
    np.testing.assert_array_equal(mine.reconstruct_n(295), rows[:4])
    mine.reset()
    assert mine.ntotal == 0


def test_ids_of_ones_own():
    rows = np.eye(4, dtype=np.float32)
    mine, theirs = (lib.IndexIDMap2(lib.IndexFlatL2(4)) for lib in (ours, faiss))
    for index in (mine, theirs):
        index.add_with_ids(rows, np.array([70, -5, 30, 70]))
        assert index.search(rows[1:2], 1)[1].tolist() == [[-5]]
        assert sorted(index.range_search(rows[:1], 2.5)[2].tolist()) == [-5, 30, 70, 70]
        np.testing.assert_array_equal(index.reconstruct(30), rows[2])
        params = faiss.SearchParameters(sel=faiss.IDSelectorBatch([30]))
        assert index.search(rows[:1], 2, params=params)[1].tolist() == [[30, -1]]
        assert index.remove_ids(np.array([70, 1])) == 2
        assert index.search(rows, 1)[1].tolist()[1:3] == [[-5], [30]]
        with pytest.raises(RuntimeError):
            index.reconstruct(70)
        index.reset()
        assert index.ntotal == 0
    assert mine.search(rows, 1)[1].tolist() == [[-1]] * 4


def test_refusals_are_faisss_and_stopes_at_once():
    index = ours.IndexFlatL2(3)
    for error in (ValueError, AssertionError, RuntimeError):
        for call in (
            lambda: index.search(np.ones((1, 3)), 0),
            lambda: index.add(np.ones((1, 4))),
            lambda: index.add(np.ones(3)),
            lambda: index.reconstruct(0),
            lambda: index.add_with_ids(np.ones((1, 3)), [1]),
            lambda: index.merge_from(ours.IndexFlatIP(3)),
            lambda: index.merge_from(index, 5),
            lambda: ours.IndexIDMap(index).add(np.ones((1, 3))),
            lambda: ours.IndexIDMap(index).add_with_ids(np.ones((1, 3)), [1, 2]),
            lambda: ours.IndexIDMap(3),
        ):
            with pytest.raises(error, match=r"; |wrap the index"):
                call()
    with pytest.raises(ValueError, match=r"rows.*row 0\b"):
        index.add(np.full((1, 3), np.nan))
    assert index.ntotal == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda index, mapped: index.remove_ids(np.array([True, False])), r"mask of shape \(2,\)"),
        (
            lambda index, mapped: index.remove_ids([1.5]),
            r"ids is .*1\.5.*; give a list of integers",
        ),
        (lambda index, mapped: index.remove_ids(["a"]), "give a list of integers"),
        (lambda index, mapped: index.merge_from(index), "give another flat index"),
        (lambda index, mapped: mapped.add_with_ids(np.ones((1, 3)), [1.7]), "list of integers"),
        (lambda index, mapped: mapped.add_with_ids(np.ones((1, 3)), [True]), "list of integers"),
        (lambda index, mapped: mapped.add_with_ids(np.ones((1, 3)), np.uint64([2**64 - 7])), "64"),
        (lambda index, mapped: mapped.add_with_ids(np.ones((2, 3)), [1]), "ids has 1 for 2 rows"),
        (
            lambda index, mapped: index.search(np.ones((1, 3)), 2, D=np.empty((4, 2))),
            r"shape \(4, 2\); give one of \(1, 2\)",
        ),
    ],
)
def test_no_row_or_id_changes_by_mistake(change, message):
    index, mapped = ours.IndexFlatIP(3), ours.IndexIDMap(ours.IndexFlatIP(3))
    index.add(np.eye(3))
    with pytest.raises(ours.WrongArgumentError, match=message):
        change(index, mapped)
    assert (index.ntotal, mapped.ntotal, len(mapped.id_map)) == (3, 0, 0)
    assert index.remove_ids([]) == 0
    assert index.remove_ids(np.int64(1)) == 1
