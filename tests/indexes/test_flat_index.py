"""FlatIndex: the answers of topk, from rows packed once, added later, saved and loaded."""

from __future__ import annotations

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope

METRICS = ("dot", "cosine", "euclidean")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("case", cases.CASES)
def test_answers_equal_topk(metric, case):
    queries, corpus = cases.make(case, 9, 700, 45)
    index = stope.FlatIndex(corpus, metric=metric)
    assert (len(index), index.dim, index.metric) == (700, 45, metric)
    exclude = [np.arange(row, 700, 3) for row in range(9)]
    scores = reference.canonical(queries, corpus, metric)
    middle = np.median(scores, axis=1)
    for k in (1, 10, 700):
        for options in ({}, {"exclude": exclude}, {"ceiling": middle}, {"floor": middle}):
            expected = reference.select(scores, k, **options)
            reference.assert_same(index.search(queries, k, **options), expected, str([*options]))
    for row in range(9):
        one = index.search(queries[row : row + 1], 10)
        reference.assert_same(one, reference.select(scores[row : row + 1], 10))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.int8])
def test_added_rows_count_as_if_they_had_always_been_there(metric, dtype):
    queries, corpus = cases.make("gaussian", 6, 211, 33)
    scale = 30 if dtype == np.int8 else 1
    queries, corpus = (np.clip(scale * rows, -127, 127).astype(dtype) for rows in (queries, corpus))
    expected = reference.select(reference.canonical(queries, corpus, metric), 60)
    for cuts in ([1], [15], [16], [17, 18], [100, 116, 210]):
        parts = np.split(corpus, cuts)
        index = stope.FlatIndex(parts[0], metric=metric)
        for part in parts[1:]:
            index.add(part)
        assert len(index) == 211
        reference.assert_same(index.search(queries, 60), expected, f"cuts {cuts}")


def test_adding_copies_and_leaves_the_callers_rows_alone():
    queries, corpus = cases.make("gaussian", 4, 100, 16)
    first, second = corpus[:70].copy(), corpus[70:].copy()
    index = stope.FlatIndex(first)
    index.add(second)
    np.testing.assert_array_equal(first, corpus[:70])
    first[:], second[:] = 0, 0
    expected = reference.select(reference.canonical(queries, corpus), 100)
    reference.assert_same(index.search(queries, 100), expected)


def test_adding_nothing_changes_nothing():
    queries, corpus = cases.make("gaussian", 4, 100, 16)
    index = stope.FlatIndex(corpus)
    index.add(corpus[:0])
    expected = reference.select(reference.canonical(queries, corpus), 100)
    assert len(index) == 100
    reference.assert_same(index.search(queries, 100), expected)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_torch_rows_are_kept_added_and_saved(tmp_path, dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    queries, corpus = (torch.from_numpy(20 * a) for a in cases.make("gaussian", 4, 100, 16))
    queries, corpus = (rows.to(getattr(torch, dtype)) for rows in (queries, corpus))
    expected = stope.topk(queries, corpus, 100)
    expected = expected.scores.numpy(), expected.ids.numpy()
    index = stope.FlatIndex(corpus[:61])
    index.add(corpus[61:])
    reference.assert_same(index.search(queries, 100), expected)
    index.save(tmp_path / "index.stope")
    got = stope.FlatIndex.load(tmp_path / "index.stope").search(queries, 100)
    reference.assert_same(got, expected)


def test_wrong_rows_are_refused_and_leave_the_index_as_it_was():
    queries, corpus = cases.make("gaussian", 4, 100, 16)
    index = stope.FlatIndex(corpus)
    expected = index.search(queries, 20)
    for row in (17, 3):  # in a panel of its own, and in one that old rows share
        poisoned = np.ones((20, 16), np.float32)
        poisoned[row, 3] = np.inf
        with pytest.raises(ValueError, match=rf"rows.*row {row}\b"):
            index.add(poisoned)
    with pytest.raises(ValueError, match=r"dim 15.*dim 16|dim 16.*dim 15"):
        index.add(np.ones((2, 15), np.float32))
    with pytest.raises(TypeError, match="float16"):
        index.add(np.ones((2, 16), np.float16))
    assert len(index) == 100
    reference.assert_same(index.search(queries, 20), (expected.scores, expected.ids))
    index.add(corpus[:30])
    longer = np.concatenate([corpus, corpus[:30]])
    expected = reference.select(reference.canonical(queries, longer), 130)
    reference.assert_same(index.search(queries, 130), expected)


def test_wrong_arguments_are_refused():
    queries, corpus = cases.make("gaussian", 4, 100, 16)
    with pytest.raises(ValueError, match=r"metric.*'l2'"):
        stope.FlatIndex(corpus, metric="l2")
    with pytest.raises(ValueError, match="corpus"):
        stope.FlatIndex(corpus[0])
    index = stope.FlatIndex(corpus)
    for k, error in ((0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=rf"k is {k}; "):
            index.search(queries, k)
    with pytest.raises(ValueError, match=r"dim 16.*dim 15|dim 15.*dim 16"):
        index.search(queries[:, :15].copy(), 3)
    with pytest.raises(TypeError, match="int8"):
        index.search((10 * queries).astype(np.int8), 3)


@pytest.mark.parametrize("k", [1, 100, 101, 250])
@pytest.mark.parametrize("count", [0, 4])
@pytest.mark.parametrize("rows", [0, 100])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_no_queries_no_rows_and_more_than_there_are(rows, count, k, kind):
    queries, corpus = cases.make("gaussian", 4, 100, 16)
    queries, corpus = queries[:count], corpus[:rows]
    ids = np.full((count, k), -1, dtype=np.int64)
    scores = np.full((count, k), -np.inf, dtype=np.float32)
    if rows and count:
        expected = reference.select(reference.canonical(queries, corpus), min(k, rows))
        scores[:, :rows], ids[:, :rows] = expected
    if kind == "torch":
        torch = pytest.importorskip("torch", reason="torch is not installed")
        queries = torch.from_numpy(queries)
    index = stope.FlatIndex(corpus)
    found = index.search(queries, k)
    assert type(found.ids) is type(queries)
    reference.assert_same((np.asarray(found.scores), np.asarray(found.ids)), (scores, ids))
    out = np.empty_like(scores), np.empty_like(ids)
    assert index.search(queries, k, out=out).ids is out[1]
    reference.assert_same(out, (scores, ids))
    with pytest.raises(ValueError, match="corpus has dim 16 but queries have dim 3"):
        index.search(np.ones((count, 3), np.float32), k)


def test_an_empty_index_grows_and_is_saved(tmp_path):
    queries, corpus = cases.make("gaussian", 4, 100, 16)
    expected = reference.select(reference.canonical(queries, corpus), 10)
    index = stope.FlatIndex(corpus[:0])
    index.save(tmp_path / "index.stope")
    for empty in (index, stope.FlatIndex.load(tmp_path / "index.stope")):
        assert len(empty) == 0
        for part in np.split(corpus, [1, 5, 80]):
            empty.add(part)
        reference.assert_same(empty.search(queries, 10), expected)


@pytest.mark.parametrize("k", [2, 200])
@pytest.mark.parametrize("out", [3, (1,), "ab", (None, None, None)])
def test_out_of_a_wrong_kind(k, out):
    queries, corpus = cases.make("gaussian", 4, 100, 16)
    with pytest.raises(TypeError, match=r"out must be a tuple \(scores, ids\)"):
        stope.FlatIndex(corpus).search(queries, k, out=out)
