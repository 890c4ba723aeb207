"""The border: which arrays come in, how results go out, and the sentence that bad input gets."""

from __future__ import annotations

import cases
import ml_dtypes
import numpy as np
import pytest
import reference

import stope

OPERATIONS = {
    "similarity": lambda q, x: stope.similarity(q, x),
    "topk": lambda q, x: stope.topk(q, x, 2).scores,
    "mine_hard_negatives": lambda q, x: (
        stope.mine_hard_negatives(q, x, [[0]] * len(q), 2, metric="dot").scores
    ),
    "FlatIndex": lambda q, x: stope.FlatIndex(x).search(q, 2).scores,
}
every_operation = pytest.mark.parametrize("call", OPERATIONS.values(), ids=OPERATIONS)


@pytest.fixture
def arrays():
    return cases.make("gaussian", 6, 50, 20)


# --- what comes in -----------------------------------------------------------------------------


def variants(rows, tmp_path):
    """The same float32 values behind other kinds of memory."""
    read_only = rows.copy()
    read_only.flags.writeable = False
    path = tmp_path / f"{len(rows)}.f32"
    rows.tofile(path)
    wide = np.zeros((len(rows) * 2, rows.shape[1] + 3), np.float32)
    wide[::2, 1:-2] = rows
    return {
        "read-only": read_only,
        "memory map": np.memmap(path, np.float32, "r", shape=rows.shape),
        "row strides": wide[::2, 1:-2],
        "backward": rows[::-1].copy()[::-1],
        "subclass": rows.view(type("Rows", (np.ndarray,), {})),
    }


@every_operation
@pytest.mark.parametrize("kind", ["read-only", "memory map", "row strides", "backward", "subclass"])
def test_memory_of_every_kind(call, kind, arrays, tmp_path):
    queries, corpus = arrays
    expected = call(queries, corpus)
    before = corpus.copy()
    got = call(variants(queries, tmp_path)[kind], variants(corpus, tmp_path)[kind])
    np.testing.assert_array_equal(reference.bits(got), reference.bits(expected))
    np.testing.assert_array_equal(corpus, before)


def test_broadcast_rows_and_single_rows(arrays):
    queries, corpus = arrays
    same = np.broadcast_to(corpus[0], (50, 20))  # row stride 0
    got = stope.topk(queries, same, 50)
    np.testing.assert_array_equal(got.ids, np.tile(np.arange(50), (6, 1)))
    np.testing.assert_array_equal(got.scores, np.tile(reference.canonical(queries, corpus[:1]), 50))
    column = np.asfortranarray(corpus[:, :1])  # one column: any strides are contiguous
    np.testing.assert_array_equal(
        stope.similarity(queries[:, :1].copy(), column), queries[:, :1] * column.T
    )


@every_operation
def test_a_strided_last_axis_is_refused_with_the_remedy(call, arrays):
    queries, corpus = arrays
    for bad in (np.asfortranarray(corpus), corpus[:, ::-1], np.repeat(corpus, 2, axis=1)[:, ::2]):
        with pytest.raises(ValueError, match=r"corpus.*ascontiguousarray"):
            call(queries, bad)
    if call is not OPERATIONS["FlatIndex"]:
        with pytest.raises(ValueError, match=r"queries.*ascontiguousarray"):
            call(np.asfortranarray(queries), corpus)


@every_operation
def test_float64_is_refused_with_the_cast_to_write(call, arrays):
    queries, corpus = arrays
    with pytest.raises(TypeError, match=r"corpus.*float64.*astype\(.*float32"):
        call(queries, corpus.astype(np.float64))
    with pytest.raises(TypeError, match=r"queries.*float64.*astype\(.*float32"):
        call(queries.astype(np.float64), corpus)


@every_operation
@pytest.mark.parametrize(
    "dtype", [np.int32, np.int64, np.uint8, bool, np.complex64, "U5", object, ">f4"]
)
def test_other_dtypes_are_refused(call, dtype, arrays):
    with pytest.raises(TypeError, match="corpus"):
        call(arrays[0], np.zeros((50, 20)).astype(dtype))


@every_operation
def test_int8_goes_with_int8_only(call, arrays):
    queries, corpus = arrays
    with pytest.raises(TypeError, match=r"queries.*int8"):
        call((10 * queries).astype(np.int8), corpus)
    with pytest.raises(TypeError, match=r"corpus.*int8"):
        call(queries, (10 * corpus).astype(np.int8))


@every_operation
def test_float_types_mix(call, arrays):
    queries, corpus = arrays
    for dtype in (np.float16, ml_dtypes.bfloat16):
        half = corpus.astype(dtype)
        expected = call(queries, half.astype(np.float32))
        np.testing.assert_array_equal(reference.bits(call(queries, half)), reference.bits(expected))


@every_operation
@pytest.mark.parametrize("bad", [None, 3.0, "text", [[1.0, 2.0]], {"a": 1}])
def test_things_that_are_no_arrays_are_refused(call, bad, arrays):
    with pytest.raises(TypeError, match="corpus"):
        call(arrays[0], bad)


@every_operation
def test_wrong_rank_is_refused(call, arrays):
    queries, corpus = arrays
    for bad in (corpus[0], corpus[None]):
        with pytest.raises(ValueError, match=rf"corpus.*\b{bad.ndim}\b"):
            call(queries, bad)
    with pytest.raises(ValueError, match=r"queries.*\b1\b"):
        call(queries[0], corpus)


@every_operation
def test_different_dimensions_are_named(call, arrays):
    queries, corpus = arrays
    with pytest.raises(ValueError, match="corpus has dim 20 but queries have dim 19"):
        call(queries[:, :19].copy(), corpus)


@pytest.mark.parametrize("operation", [name for name in OPERATIONS if name != "FlatIndex"])
def test_empty_arrays_are_refused(operation, arrays):
    queries, corpus = arrays
    call = OPERATIONS[operation]
    for none in (corpus[:0], np.ones((0, corpus.shape[1]), np.float32)):
        with pytest.raises(ValueError, match="corpus is empty"):
            call(queries, none)
        with pytest.raises(ValueError, match="queries is empty"):
            call(none, corpus)
    with pytest.raises(ValueError, match="dim"):
        call(queries[:, :0], corpus[:, :0])


@every_operation
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_nan_and_infinity_name_argument_and_row(call, value, dtype, arrays):
    for row, column in ((0, 0), (37, 19), (49, 16)):
        queries, corpus = (rows.astype(dtype) for rows in arrays)
        corpus[row, column] = value
        with pytest.raises(ValueError, match=rf"corpus.*row {row}\b"):
            call(queries, corpus)
    for row in (0, 5):
        queries, corpus = (rows.astype(dtype) for rows in arrays)
        queries[row, 7] = value
        with pytest.raises(ValueError, match=rf"queries.*row {row}\b"):
            call(queries, corpus)


@every_operation
def test_the_first_bad_row_is_named_whatever_the_threads(call, threads):
    queries, corpus = cases.make("gaussian", 3, 9000, 8)
    corpus[[1234, 1235, 8000]] = np.nan
    for count in (1, 2, 5):
        threads(count)
        with pytest.raises(ValueError, match=r"corpus.*row 1234\b"):
            call(queries, corpus)


def test_a_finite_row_is_never_called_infinite():
    largest = np.full((3, 40), np.finfo(np.float32).max, np.float32)
    cosine = stope.similarity(largest, largest, metric="cosine")
    np.testing.assert_allclose(cosine, 1, atol=1e-6)
    assert (stope.topk(largest[:1], largest, 3, metric="cosine").ids == [0, 1, 2]).all()
    just_short_enough = np.zeros((3, 40), np.float32)
    just_short_enough[:, 7] = 2.0**62.9
    got = stope.similarity(just_short_enough[:1], just_short_enough)
    np.testing.assert_array_equal(got, just_short_enough[:, 7:8].T ** 2)
    assert (stope.topk(just_short_enough[:1], just_short_enough, 3).ids == [0, 1, 2]).all()


@every_operation
def test_rows_whose_scores_could_overflow_are_refused(call, arrays):
    """From a norm of 2^63 on, products may be infinite, or NaN where both signs meet."""
    queries, corpus = arrays
    for row in (0, 31, 49):
        bad = corpus.copy()
        bad[row, 3] = 2.0**63
        with pytest.raises(ValueError, match=rf"corpus.*row {row}\b.*overflow"):
            call(queries, bad)
    bad = queries.copy()
    bad[4, 3] = -(2.0**63)
    with pytest.raises(ValueError, match=r"queries.*row 4\b.*overflow"):
        call(bad, corpus)


# --- what goes out -----------------------------------------------------------------------------


def test_numpy_in_numpy_out(arrays):
    queries, corpus = arrays
    for result in (*stope.topk(queries, corpus, 2), stope.similarity(queries, corpus)):
        assert type(result) is np.ndarray
        assert result.flags.c_contiguous
        assert result.flags.writeable


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8"])
def test_torch_in_torch_out(dtype, arrays):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    queries, corpus = (torch.from_numpy(rows) for rows in arrays)
    if dtype == "int8":
        queries, corpus = 20 * queries, 20 * corpus
    queries, corpus = (rows.to(getattr(torch, dtype)) for rows in (queries, corpus))
    numpy_dtype = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
    plain = [rows.float().numpy().astype(numpy_dtype) for rows in (queries, corpus)]
    scores = reference.canonical(*plain)

    got = stope.topk(queries, corpus, 9)
    assert isinstance(got.scores, torch.Tensor)
    assert got.scores.dtype == torch.float32
    assert isinstance(got.ids, torch.Tensor)
    assert got.ids.dtype == torch.int64
    expected = reference.select(scores, 9)
    reference.assert_same((got.scores.numpy(), got.ids.numpy()), expected)

    matrix = stope.similarity(queries, corpus)
    assert isinstance(matrix, torch.Tensor)
    np.testing.assert_array_equal(reference.bits(matrix.numpy()), reference.bits(scores))

    mined = stope.mine_hard_negatives(queries, corpus, torch.arange(6), 3, metric="dot")
    expected = reference.mine(scores, [[i] for i in range(6)], 3)
    assert isinstance(mined.ids, torch.Tensor)
    assert isinstance(mined.counts, torch.Tensor)
    reference.assert_same((mined.scores.numpy(), mined.ids.numpy()), (expected[1], expected[0]))

    found = stope.FlatIndex(corpus).search(queries, 9)
    assert isinstance(found.ids, torch.Tensor)
    np.testing.assert_array_equal(found.ids, got.ids)


def test_torch_details(arrays):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    queries, corpus = (torch.from_numpy(rows) for rows in arrays)
    expected = stope.topk(*arrays, 5)
    strided = torch.cat([corpus, corpus], dim=1)[:, :20]
    np.testing.assert_array_equal(stope.topk(queries, strided, 5).ids.numpy(), expected.ids)
    with pytest.raises(ValueError, match=r"corpus.*contiguous"):
        stope.topk(queries, corpus.t().contiguous().t(), 5)
    with pytest.raises(TypeError, match=r"corpus.*float64"):
        stope.topk(queries, corpus.double(), 5)
    with pytest.raises((TypeError, ValueError), match="corpus"):
        stope.topk(queries, corpus.to("meta"), 5)
    with pytest.raises(ValueError, match=r"corpus.*detach"):
        stope.topk(queries, corpus.clone().requires_grad_(), 5)


def test_what_holds_other_numbers_than_its_memory_is_refused(arrays):
    """A mask and a pending minus sign do not cross with the memory."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    queries, corpus = arrays
    masked = np.ma.array(corpus, mask=False)
    expected = stope.topk(queries, corpus, 3).ids
    np.testing.assert_array_equal(stope.topk(queries, masked, 3).ids, expected)
    masked[7, 2] = np.ma.masked
    for call in (
        lambda: stope.topk(queries, masked, 3),
        lambda: stope.similarity(queries, masked),
        lambda: stope.FlatIndex(masked),
        lambda: stope.kmeans(masked, 2, seed=0),
    ):
        with pytest.raises(ValueError, match=r"masked elements; leave .*\.filled"):
            call()
    ids = np.ma.array([[1]] * len(queries), mask=True)
    with pytest.raises(ValueError, match="an array has masked elements"):
        stope.topk(queries, corpus, 3, exclude=ids)
    with pytest.raises(ValueError, match=r"give corpus\.resolve_neg\(\)"):
        stope.topk(queries, torch._neg_view(torch.from_numpy(corpus)), 3)


def test_other_tables_of_numbers_name_what_to_give(arrays):
    pa = pytest.importorskip("pyarrow", reason='needs pip install "stope[formats]"')
    from stope.data import from_arrow

    queries, corpus = arrays
    lists = pa.FixedSizeListArray.from_arrays(pa.array(corpus.ravel()), corpus.shape[1])
    ragged = pa.array(corpus.tolist(), pa.list_(pa.float32()))
    for table in (lists, ragged, pa.chunked_array([lists, lists[:2]])):
        with pytest.raises(TypeError, match=r"corpus is a .* of Arrow; give stope\.data\.from_arr"):
            stope.topk(queries, table, 3)
        rows = np.asarray(table.to_pylist(), np.float32)
        found = stope.topk(queries, from_arrow(table), 3).ids
        np.testing.assert_array_equal(found, stope.topk(queries, rows, 3).ids)
    with pytest.raises(TypeError, match=r"a list; give .* numpy\.asarray\(corpus, 'float32'\)"):
        stope.topk(queries, corpus.tolist(), 3)


def test_mixed_owners(arrays):
    """The queries decide the kind of the result."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    queries, corpus = arrays
    assert isinstance(stope.topk(torch.from_numpy(queries), corpus, 2).ids, torch.Tensor)
    assert isinstance(stope.topk(queries, torch.from_numpy(corpus), 2).ids, np.ndarray)


def test_any_object_with_dlpack_or_a_buffer(arrays):
    queries, corpus = arrays

    class OnlyDlpack:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    expected = stope.topk(queries, corpus, 5).ids
    got = stope.topk(OnlyDlpack(queries), OnlyDlpack(corpus), 5).ids
    np.testing.assert_array_equal(np.asarray(got), expected)
    got = stope.topk(memoryview(queries), memoryview(corpus), 5).ids
    np.testing.assert_array_equal(np.asarray(got), expected)


def test_inputs_stay_alive_and_are_released(arrays):
    """No reference to the caller's arrays outlives the call."""
    import gc
    import sys

    queries, corpus = (rows.copy() for rows in arrays)
    stope.topk(queries, corpus, 5)
    gc.collect()
    before = sys.getrefcount(queries), sys.getrefcount(corpus)
    for _ in range(5):
        stope.topk(queries, corpus, 5)
        stope.similarity(queries, corpus)
        with pytest.raises(ValueError, match="strided"):
            stope.topk(queries, corpus[:, ::2], 1)
        with pytest.raises(ValueError, match="dim"):
            stope.topk(queries[:, :7], corpus, 1)
    gc.collect()
    assert (sys.getrefcount(queries), sys.getrefcount(corpus)) == before


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_unaligned_rows_are_refused(dtype):
    """Elements that begin at an odd address: read as aligned ones before."""
    rows = np.frombuffer(b"\0" + np.eye(4, dtype=dtype).tobytes(), dtype, 16, offset=1)
    unaligned = rows.reshape(4, 4)
    aligned = unaligned.copy()
    match = r"is not aligned: .* multiple of \d bytes; make a copy, (queries|corpus|documents).copy"
    calls = [
        lambda a, b: stope.similarity(a, b),
        lambda a, b: stope.topk(a, b, 1),
        lambda a, b: stope.infonce_forward(a, b),
        lambda a, b: stope.mine_hard_negatives(a, b, np.arange(4), 1),
    ]
    for call in calls:
        for pair in ((unaligned, aligned), (aligned, unaligned)):
            with pytest.raises(ValueError, match=match):
                call(*pair)
    # Rows that lie a byte further apart than they are long.
    with pytest.raises(ValueError, match="queries is not aligned"):
        stope.similarity(odd_rows(dtype), aligned)


def odd_rows(dtype):
    item = np.dtype(dtype).itemsize
    memory = np.zeros(4 * (4 * item + 1), np.uint8)
    return np.ndarray((4, 4), dtype, memory, strides=(4 * item + 1, item))


def test_unaligned_ids_and_results():
    rows = np.eye(4, dtype=np.float32)
    ids = np.frombuffer(b"\0" + np.arange(4).tobytes(), np.int64, 4, offset=1)
    offsets = np.frombuffer(b"\0" + np.arange(5).tobytes(), np.int64, 5, offset=1)
    found = stope.topk(rows, rows, 1, exclude=(offsets, ids))
    assert (found.ids[:, 0] != np.arange(4)).all()
    scores = np.frombuffer(bytearray(1 + 16 * 4), np.float32, 16, offset=1).reshape(4, 4)
    with pytest.raises(ValueError, match="out must be an aligned, C-contiguous array"):
        stope.similarity(rows, rows, out=scores)
