"""FlatIndex: ids, changes, filters and storage: what the model test does not draw, and refusals."""

from __future__ import annotations

import pickle

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope
from stope.lists import Lists

ROWS = np.eye(6, dtype=np.float32) + 1


def texts():
    return stope.FlatIndex(ROWS, ids=["f", "b", "d", "a", "é", "c"])


def test_topk_pads_by_option():
    queries, corpus = cases.make("gaussian", 4, 20, 16)
    scores = reference.canonical(queries, corpus)
    expected = [np.concatenate([part, fill], axis=1) for part, fill in zip(
        reference.select(scores, 20),
        (np.full((4, 5), -np.inf, np.float32), np.full((4, 5), -1)), strict=True)]  # fmt: skip
    reference.assert_same(stope.topk(queries, corpus, 25, pad=True), expected)
    empty = stope.topk(queries, corpus[:0], 3, pad=True)
    assert (empty.ids == -1).all()
    assert (empty.scores == -np.inf).all()
    assert stope.topk(queries[:0], corpus, 3, pad=True).ids.shape == (0, 3)
    with pytest.raises(ValueError, match=r"k is 25, .*use k=20 or less, or pad=True"):
        stope.topk(queries, corpus, 25)
    with pytest.raises(ValueError, match=r"exclude of query 1 has id 20"):
        stope.topk(queries, corpus, 25, pad=True, exclude=[[], [20], [], []])
    with pytest.raises(TypeError, match="pad is 1; give True or False"):
        stope.topk(queries, corpus, 25, pad=1)
    with pytest.raises(ValueError, match="ceiling is NaN for query 0"):
        stope.topk(queries, corpus[:0], 3, pad=True, ceiling=np.nan)


def test_parts_merge_to_the_whole_by_score_and_id():
    """Whatever order the rows came in, in whatever parts, with filters that name ids of others."""
    rng = np.random.default_rng(0)
    queries, corpus = cases.make("many_ties", 6, 400, 9)
    ids = rng.permutation(10_000)[:400]
    exclude = [rng.choice(ids, 50, replace=False) for _ in queries]
    whole = stope.FlatIndex(corpus, ids=ids)
    parts = [
        stope.FlatIndex(corpus[s], ids=ids[s]) for s in np.split(rng.permutation(400), [30, 99])
    ]
    for options in ({}, {"exclude": exclude}, {"among": exclude}, {"among": ids[:70]}):
        found = [part.search(queries, 20, **options) for part in parts]
        for answer in found:
            answer.ids[answer.ids < 0] = 2**60  # behind all others of score -inf
        merged = reference.merge(found, 20)
        merged[1][merged[1] == 2**60] = -1
        reference.assert_same(whole.search(queries, 20, **options), merged, str([*options]))


@pytest.mark.parametrize("shared", [0.02, 0.2, 0.9])
@pytest.mark.parametrize("threads_", [1, 2])
@pytest.mark.parametrize("precision", ["exact", "int8"])
def test_one_filter_for_all_answers_as_lists_do(shared, threads_, precision, threads):
    """Bits in the core, or the few rows alone: large k samples the corpus, too."""
    threads(threads_)
    queries, corpus = cases.make("clustered", 300, 5000, 24)
    index = stope.FlatIndex(corpus)
    allowed = np.random.default_rng(1).random(5000) < shared
    out = np.flatnonzero(~allowed)
    for k in (1, 10, 100):
        for count in (1, 300):
            expected = index.search(queries[:count], k, exclude=[out] * count, precision=precision)
            for options in ({"among": allowed}, {"exclude": ~allowed}, {"exclude": out}):
                got = index.search(queries[:count], k, precision=precision, **options)
                if precision == "exact" or shared > 1 / 8:  # few rows have other scales of int8
                    reference.assert_same(got, expected, str([*options]))
    every = index.search(queries, 100, among=allowed).ids
    assert np.isin(every, [*np.flatnonzero(allowed), -1]).all()


def test_a_mask_for_each_query_is_read_by_the_order_of_ids():
    index = stope.FlatIndex(ROWS, ids=[9, 3, 5, 1, 7, 2])
    masks = np.zeros((2, 6), bool)
    masks[0, 1:3], masks[1, 5] = True, True  # ids 2 and 3; 9
    assert index.ids.tolist() == [1, 2, 3, 5, 7, 9]
    found = index.search(ROWS[:2], 3, among=masks)
    assert [sorted(row) for row in found.ids.tolist()] == [[-1, 2, 3], [-1, -1, 9]]
    found = index.search(ROWS[:2], 6, exclude=masks)
    assert [sorted(row) for row in found.ids.tolist()] == [
        [-1, -1, 1, 5, 7, 9],
        [-1, 1, 2, 3, 5, 7],
    ]


def test_what_is_returned_serves_as_a_filter():
    for index in (stope.FlatIndex(ROWS), texts()):
        first = index.search(ROWS, 4, ceiling=6.5).ids
        assert None in first or -1 in first
        rest = index.search(ROWS, 6, exclude=first).ids
        for row, other in zip(first.tolist(), rest.tolist(), strict=True):
            assert not (set(row) & set(other)) - {-1, None}
            assert len((set(row) | set(other)) - {-1, None}) == 6
        again = index.search(ROWS, 4, among=first).ids
        assert again.tolist() == first.tolist()


def test_ids_that_are_not_there_make_no_difference():
    """Nor numbers that the index never gave: before and after rows are removed and copied."""
    index = stope.FlatIndex(ROWS)
    for changed in (lambda: None, lambda: index.remove([0]), index.compact):
        changed()
        for call in (lambda **o: index.search(ROWS[:2], 6, **o).ids,
                     lambda **o: index.range_search(ROWS[:2], -100, **o).ids):  # fmt: skip
            np.testing.assert_array_equal(call(exclude=[[], [6, 99]]), call())
            np.testing.assert_array_equal(call(among=[-2, 3, 6]), call(among=[3]))
            np.testing.assert_array_equal(call(among=[[3, 7], [-5]]), call(among=[[3], []]))
    index = stope.FlatIndex(ROWS)
    with pytest.raises(TypeError, match=r"exclude is array\(3\); give ids"):
        index.search(ROWS[:1], 1, exclude=np.array(3))
    for huge in ([2**64 - 1], [[2**64 - 1]], (np.int64([0, 1]), np.uint64([2**64 - 1]))):
        with pytest.raises(ValueError, match=r"exclude.* has .*beyond"):  # not -1, which is none
            index.search(ROWS[:1], 1, exclude=huge)
    index.remove([5])
    assert 5 not in index.search(ROWS, 6, exclude=[5, 5]).ids
    assert sorted(texts().search(ROWS[:1], 9, among=["zz", "a", "a"]).ids[0, :1]) == ["a"]
    assert texts().search(ROWS[:1], 1, exclude=["zz"]).ids.tolist() == [["f"]]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1]])
@pytest.mark.parametrize("how", ["compact", "save", "pickle"])
def test_ids_that_a_caller_gave_stay_a_caller_s(order, how, tmp_path):
    index = stope.FlatIndex(ROWS[order], ids=order)
    wanted = index.search(ROWS[:2], 2, exclude=[9, 1]).ids.tolist()
    if how == "compact":
        index.compact()
    elif how == "pickle":
        index = pickle.loads(pickle.dumps(index))
    else:
        index.save(tmp_path / "index")
        index = stope.FlatIndex.load(tmp_path / "index")
    assert index.search(ROWS[:2], 2, exclude=[9, 1]).ids.tolist() == wanted


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("ids", [None, [5, 3, 1, 4, 0, 2], "fbdaéc"])
def test_answers_are_of_the_kind_of_the_queries(kind, ids):
    index = stope.FlatIndex(ROWS, ids=None if ids is None else list(ids))
    index.remove([index.ids[0]])
    queries = ROWS[:2]
    if kind == "torch":
        torch = pytest.importorskip("torch", reason="torch is not installed")
        queries = torch.from_numpy(queries)
    found = index.search(queries, 7)
    assert type(found.scores) is type(queries)
    plain = index.search(ROWS[:2], 7)
    if isinstance(ids, str):
        assert found.ids.dtype == object
        assert found.ids[0, -1] is None
        with pytest.raises(TypeError, match="out takes int64 ids"):
            index.search(queries, 7, out=(plain.scores, np.zeros((2, 7), np.int64)))
    else:
        assert type(found.ids) is type(queries)
        out = np.zeros((2, 7), np.float32), np.zeros((2, 7), np.int64)
        assert index.search(queries, 7, out=out).ids is out[1]
        np.testing.assert_array_equal(out[1], plain.ids)
        np.testing.assert_array_equal(out[0], plain.scores)
    np.testing.assert_array_equal(np.asarray(found.ids), plain.ids)
    np.testing.assert_array_equal(np.asarray(found.scores), plain.scores)


@pytest.mark.parametrize("storage", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("metric", ["dot", "cosine", "euclidean"])
def test_storage_rounds_every_row_once(tmp_path, storage, metric):
    queries, corpus = cases.make("gaussian", 6, 90, 33)
    kind = ml_dtypes.bfloat16 if storage == "bfloat16" else storage
    rounded = corpus.astype(kind).astype(np.float32)
    index = stope.FlatIndex(33, metric, storage=storage)
    index.add(corpus[:40])
    index.save(tmp_path / "index")
    index = pickle.loads(pickle.dumps(stope.FlatIndex.load(tmp_path / "index")))
    index.add(corpus[40:80].astype(np.float64).astype(np.float32))
    index.add(rounded[80:].astype(kind))
    assert index.dtype == storage
    assert index.reconstruct().dtype == kind
    expected = reference.select(reference.canonical(queries, rounded, metric), 90)
    reference.assert_same(index.search(queries, 90), expected)
    whole = stope.FlatIndex(corpus, metric, storage=storage)
    reference.assert_same(whole.search(queries, 90), expected)
    assert whole.nbytes <= 90 * 33 * (4 if storage == "float32" else 2) + 90 * (64 + 24) + 10_000


def test_storage_refuses_what_it_cannot_hold():
    index = stope.FlatIndex(2, storage="float16")
    with pytest.raises(ValueError, match="rows has a number beyond float16 in row 1"):
        index.add(np.array([[1, 2], [7e4, 1]], np.float32))
    with pytest.raises(ValueError, match=r"rows.*row 1\b.*"):
        index.add(np.array([[1, 2], [np.inf, 1]], np.float32))
    assert len(index) == 0
    for made, rows in (("int8", np.float32), ("float32", np.int8)):
        with pytest.raises(TypeError, match="int8 goes with int8"):
            stope.FlatIndex(2, storage=made).add(np.ones((1, 2), rows))
    with pytest.raises(TypeError, match="rows are float16 but the index holds float32; cast them"):
        stope.FlatIndex(2).add(np.ones((1, 2), np.float16))
    codes = np.array([[3, -4], [127, -127]], np.int8)
    index = stope.FlatIndex(2, storage="int8")
    index.add(codes)
    assert index.search(codes, 2).ids.tolist() == [[1, 0], [1, 0]]


def test_numbers_are_never_given_twice(tmp_path):
    index = stope.FlatIndex(ROWS)
    index.remove([5, 4])
    index.save(tmp_path / "index")
    for each in (
        index,
        stope.FlatIndex.load(tmp_path / "index"),
        pickle.loads(pickle.dumps(index)),
    ):
        assert each.add(ROWS[:2]).tolist() == [6, 7]
        assert each.ids.tolist() == [0, 1, 2, 3, 6, 7]
    index.add(ROWS[:1], [100])
    assert index.add(ROWS[:1]).tolist() == [101]
    index.add(ROWS[:1], [2**63 - 1])
    with pytest.raises(ValueError, match="do not fit int64; give ids"):
        index.add(ROWS[:1])


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([1, 1], ValueError, "ids has 1 more than once"),
        (["a", "a"], ValueError, "ids has 'a' more than once"),
        ([1], ValueError, "ids has 1 entries for 2 rows"),
        ([1, -1], ValueError, "ids has -1, which marks a missing place"),
        ([1, 2**63], ValueError, "beyond 64 bits"),
        (np.array([1, 2**63], np.uint64), ValueError, "beyond int64"),
        ([1, "a"], TypeError, "give a list of integers, or of strings"),
        ([1.0, 2.0], TypeError, "give a list of integers, or of strings"),
        ([True, False], TypeError, "give a list of integers, or of strings"),
        ([b"a", b"b"], TypeError, "give a list of integers, or of strings"),
        ([[1], [2]], TypeError, "give a list of integers, or of strings"),
        ("ab", TypeError, "give a list of integers, or of strings"),
        ({1: 2, 3: 4}, TypeError, "give a list of integers, or of strings"),
        ([None, "a"], TypeError, "ids has None"),
        (7, TypeError, "give a list of integers, or of strings"),
    ],
)
def test_wrong_ids(ids, error, message):
    for call in (
        lambda: stope.FlatIndex(ROWS[:2], ids=ids),
        lambda: stope.FlatIndex(6).add(ROWS[:2], ids),
        lambda: stope.FlatIndex(ROWS).update(ROWS[:2], ids),
    ):
        with pytest.raises(error, match=message):
            call()


def test_refusals_leave_everything_as_it_was():
    index = texts()
    before = pickle.dumps(index)
    rows = ROWS[:2]
    poisoned = rows * np.float32([[1], [np.nan]])
    for call, error, message in [
        (lambda: index.add(rows), ValueError, "ids is None, but the ids of the index are strings"),
        (lambda: index.add(rows, [1, 2]), TypeError, "ids has 1, but the ids .* are strings"),
        (lambda: index.add(rows, ["x", "a"]), ValueError, "ids has 'a', which is in the index al"),
        (lambda: index.add(rows, ["x", "a"], replace=1), TypeError, "replace is 1"),
        (lambda: index.add(poisoned, ["x", "a"], replace=True), ValueError, r"rows.*row 1\b"),
        (lambda: index.update(poisoned, ["b", "a"]), ValueError, r"rows.*row 1\b"),
        (lambda: index.update(rows, ["x", "a"]), ValueError, "ids has 'x', which is not in the"),
        (lambda: index.update(rows, None), TypeError, "ids is None"),
        (lambda: index.remove(["x", "a"]), ValueError, "ids has 'x', which is not in the index"),
        (lambda: index.remove("a"), TypeError, "ids is 'a'; give a list"),
        (lambda: index.remove([1]), TypeError, "ids has 1, but the ids of the index are strings"),
        (lambda: index.reconstruct(["a", "x"]), ValueError, "ids has 'x', which is not in the"),
        (lambda: index.reconstruct([3]), TypeError, "ids has 3"),
        (lambda: index.merge(texts()), ValueError, "which is in the index already"),
        (lambda: index.merge(stope.FlatIndex(6, "cosine")), ValueError, "other has metric 'cosi"),
        (lambda: index.merge(rows), TypeError, "other is .*give a stope.FlatIndex"),
        (lambda: index.search(rows, 1, exclude="a"), TypeError, "exclude is 'a'; give ids"),
        (lambda: index.search(rows, 1, among=7), TypeError, "among is 7; give ids"),
        (lambda: index.search(rows, 1, among=[1]), TypeError, "among has 1, but the ids of the in"),
        (lambda: index.search(rows, 1, among=[["a"]]), ValueError, "among has 1 id lists for 2 qu"),
        (lambda: index.search(rows, 1, among=[["a"], "b"]), TypeError, r"among\[1\] is 'b'; give"),
        (
            lambda: index.search(rows, 1, among=[True] * 5),
            ValueError,
            r"among is a mask of shape \(5",
        ),
        (
            lambda: index.search(rows, 1, exclude=Lists.from_sequences([[1], []])),
            TypeError,
            "exclude",
        ),
        (lambda: index.range_search(rows, np.nan), ValueError, "threshold is nan"),
        (
            lambda: index.range_search(rows[:, :3].copy(), 1),
            ValueError,
            "corpus has dim 6 but quer",
        ),
    ]:
        with pytest.raises(error, match=message):
            call()
        assert pickle.dumps(index) == before


def test_words_of_in_and_iteration():
    index = texts()
    assert "a" in index
    assert "x" not in index
    assert 1 not in index
    assert None not in index
    assert [*index] == sorted("fbdaéc")
    numbered = stope.FlatIndex(ROWS, ids=np.arange(6)[::-1])
    assert np.int32(3) in numbered
    assert 6 not in numbered
    assert "3" not in numbered
    assert 10**30 not in numbered
    assert -(10**30) not in numbered
    assert True not in numbered
    assert 3.0 not in numbered
    assert repr(numbered) == "FlatIndex(6 rows, dim=6, float32, metric='dot')"
    np.testing.assert_array_equal(numbered.reconstruct([0, 5, 0]), ROWS[[5, 0, 5]])


def test_copies_share_nothing_that_changes():
    """Also the dictionary of ids that came out of order, and rows that the caller still has."""
    rows = ROWS.copy()
    index = stope.FlatIndex(rows, ids=[3, 1, 2, 9, 8, 7])
    others = [
        pickle.loads(pickle.dumps(index)),
        *map(stope_copy, ("copy", "deepcopy"), [index] * 2),
    ]
    index.remove([1, 9])
    index.add(ROWS[:1] * 5, [1])
    for other in others:
        assert other.ids.tolist() == [1, 2, 3, 7, 8, 9]
        np.testing.assert_array_equal(other.reconstruct([1]), ROWS[1:2])
        other.remove([1])
        assert 1 in index
        assert 1 not in other


def stope_copy(how, index):
    import copy

    return getattr(copy, how)(index)


class Interrupting(dict):
    """A dictionary whose first change is interrupted, when it is done, as by Ctrl-C."""

    left = 1

    def interrupt(self):
        self.left -= 1
        if self.left >= 0:
            raise KeyboardInterrupt

    def update(self, *changes):
        super().update(*changes)
        self.interrupt()

    def pop(self, *key):
        super().pop(*key)
        self.interrupt()


@pytest.mark.parametrize("change", ["replace", "remove"])
def test_an_interrupted_change_leaves_ids_where_they_were(change):
    index = stope.FlatIndex(ROWS, ids=[9, 3, 5, 1, 7, 2])
    rows = {id_: index.reconstruct([id_]).copy() for id_ in index}
    store = index._store
    ids = store.held.ids._replace(later=Interrupting(store.held.ids.later))
    store.held = store.held._replace(ids=ids)
    with pytest.raises(KeyboardInterrupt):
        index.remove([1, 2]) if change == "remove" else index.add(
            ROWS[:2] * 7, [4, 3], replace=True
        )
    assert index.ids.tolist() == sorted(rows)
    assert 4 not in index
    index.add(ROWS[:1] * 3, [4])
    rows[4] = ROWS[:1] * 3
    for id_, row in rows.items():
        np.testing.assert_array_equal(index.reconstruct([id_]), row)


def test_nbytes_counts_what_is_kept():
    rows = np.ones((1000, 64), np.float32)
    plain = stope.FlatIndex(rows)
    assert 1000 * (256 + 64) < plain.nbytes < 1000 * (256 + 64 + 24 + 32 + 24) + 2000
    numbered = stope.FlatIndex(rows, ids=np.arange(1000) * 2)
    assert numbered.nbytes == plain.nbytes + 8000
    named = stope.FlatIndex(rows, ids=[f"{n:04}" for n in range(1000)])
    assert named.nbytes > numbered.nbytes + 1000 * 50
    plain.add(rows)
    assert plain.nbytes > 2000 * (256 + 64)
