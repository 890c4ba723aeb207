"""Embeddings in Parquet, Arrow, Lance, HDF5, Zarr: those of .npy, mapped or block by block."""

from __future__ import annotations

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason='needs pip install "stope[train]"')

import pyarrow.parquet

import stope
from stope.data import embedding_blocks, from_arrow, read_embeddings, to_arrow

ROWS = (np.random.default_rng(0).standard_normal((1000, 6)) * 20).astype(np.float32)


def table(x, **more):
    return pa.table({"vectors": to_arrow(x), **more})


def write_parquet(path, x, **more):
    pyarrow.parquet.write_table(table(x, **more), path)


def write_arrow(path, x, **more):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table(x).schema) as writer:
        writer.write_table(table(x))


def write_stream(path, x):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table(x).schema) as writer:
        writer.write_table(table(x), max_chunksize=300)


def write_hdf5(path, x, **how):
    h5py = pytest.importorskip("h5py", reason='needs pip install "stope[formats]"')
    with h5py.File(path, "w", userblock_size=how.pop("userblock_size", 0)) as file:
        file.create_dataset("a/vectors", data=x, **how)
        file.create_dataset("lengths", data=np.arange(len(x)))


def write_zarr(path, x):
    zarr = pytest.importorskip("zarr", reason='needs pip install "stope[formats]"')
    group = zarr.open_group(path, mode="w")
    create = getattr(group, "create_array", None) or group.create_dataset  # zarr 3, zarr 2
    create("vectors", data=x, chunks=(300, 4))
    create("lengths", data=np.arange(len(x)))


def write_lance(path, x):
    lance = pytest.importorskip("lance", reason='needs pip install "stope[lance]"')
    lance.write_dataset(table(x), str(path), max_rows_per_file=400)


# name of the case: file, writer, options, whether it is mapped
CASES = {
    "npy": ("e.npy", np.save, {}, True),
    "parquet": ("e.parquet", write_parquet, {}, False),
    "arrow": ("e.arrow", write_arrow, {}, True),
    "feather": ("e.feather", write_arrow, {}, True),
    "arrow stream": ("e.arrow", write_stream, {}, False),
    "hdf5": ("e.h5", write_hdf5, {}, True),
    "hdf5 user block": ("e.hdf5", write_hdf5, {"userblock_size": 512}, True),
    "hdf5 chunks": ("e.h5", write_hdf5, {"chunks": (128, 6), "compression": "gzip"}, False),
    "zarr": ("e.zarr", write_zarr, {}, False),
    "lance": ("e.lance", write_lance, {}, False),
}


def in_memory_map(array):
    while array is not None and not isinstance(array, np.memmap):
        array = getattr(array, "base", None)
    return array is not None


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("case", CASES)
def test_all_formats_hold_the_same_rows(case, dtype, tmp_path):
    name, write, options, mapped = CASES[case]
    x = ROWS.astype(dtype)
    write(tmp_path / name, x, **options)
    read = read_embeddings(tmp_path / name, rows=len(x))
    assert read.dtype == dtype
    np.testing.assert_array_equal(read, x)
    if mapped:
        before = pa.total_allocated_bytes()
        again = read_embeddings(tmp_path / name)
        assert not again.flags.owndata
        assert in_memory_map(again) or pa.total_allocated_bytes() - before < x.nbytes
    blocks = list(embedding_blocks(tmp_path / name, block_rows=128))
    assert max(map(len, blocks)) <= 128
    np.testing.assert_array_equal(np.concatenate(blocks), x)
    if dtype != "int8":
        parts = stope.topk_blocks(x[:5], embedding_blocks(tmp_path / name, block_rows=77), 9)
        whole = stope.topk(x[:5], read, 9)
        assert [a.tolist() for a in parts] == [a.tolist() for a in whole]
    with pytest.raises(ValueError, match=r"--embeddings \S+ has 1,000 rows for 3 texts"):
        read_embeddings(tmp_path / name, "--embeddings", rows=3)


@pytest.mark.parametrize("case", sorted(set(CASES) - {"npy"}))
def test_a_column_is_named(case, tmp_path):
    name, write, options, _ = CASES[case]
    write(tmp_path / name, ROWS, **options)
    column = "a/vectors" if "hdf5" in case else "vectors"
    for path, how in ((tmp_path / name, {"column": column}), (f"{tmp_path / name}::{column}", {})):
        np.testing.assert_array_equal(read_embeddings(path, **how), ROWS)
    with pytest.raises(ValueError, match=r'has no (column of lists.*|matrix) "x"; name one of "'):
        read_embeddings(f"{tmp_path / name}::x")


def test_several_columns_need_a_name(tmp_path):
    write_parquet(tmp_path / "two.parquet", ROWS, other=to_arrow(-ROWS))
    with pytest.raises(ValueError, match='more than one column of lists of numbers, "vectors", "o'):
        read_embeddings(tmp_path / "two.parquet")
    np.testing.assert_array_equal(read_embeddings(tmp_path / "two.parquet", column="other"), -ROWS)
    np.save(tmp_path / "e.npy", ROWS)
    with pytest.raises(ValueError, match=r'is one array, without the column "x"'):
        read_embeddings(tmp_path / "e.npy", column="x")


@pytest.mark.parametrize("case", sorted(set(CASES) - {"npy"}))
def test_damage_and_other_numbers_are_sentences(case, tmp_path):
    name, write, options, _ = CASES[case]
    path = tmp_path / name
    write(path, ROWS.astype(np.float64), **options)
    with pytest.raises(ValueError, match=r"--rows \S+.* holds (lists of double|float64)"):
        read_embeddings(path, "--rows")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_embeddings(tmp_path / f"no{path.suffix}")
    if path.is_file():
        for content in (b"", b"nothing", path.read_bytes()[:60]):
            path.write_bytes(content)
            with pytest.raises(ValueError, match="write it again"):
                read_embeddings(path)
    else:
        (tmp_path / "bad" / name).mkdir(parents=True)
        with pytest.raises(ValueError, match="write it again"):
            read_embeddings(tmp_path / "bad" / name)


def test_arrow_is_not_copied():
    x = np.ascontiguousarray(ROWS)
    column = to_arrow(x)
    assert column.type == pa.list_(pa.float32(), 6)
    assert np.shares_memory(from_arrow(column), x)
    np.testing.assert_array_equal(from_arrow(column.slice(10, 7)), x[10:17])
    assert np.shares_memory(from_arrow(column.slice(10, 7)), x)
    chunked = pa.chunked_array([column.slice(0, 400), column.slice(400)])
    np.testing.assert_array_equal(from_arrow(chunked), x)
    empty = pa.chunked_array([], pa.list_(pa.float16(), 6))
    assert (from_arrow(empty).shape, from_arrow(empty).dtype) == ((0, 6), np.float16)
    best = stope.topk(from_arrow(column)[:4], from_arrow(column), 3)
    answer = pa.table({"ids": to_arrow(best.ids), "scores": to_arrow(best.scores)})
    assert answer["ids"].to_pylist() == best.ids.tolist()
    np.testing.assert_array_equal(from_arrow(answer["scores"]), best.scores)


def test_tensors_of_one_axis_are_lists():
    x = np.ascontiguousarray(ROWS)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(x)
    assert np.shares_memory(from_arrow(tensors), x)
    np.testing.assert_array_equal(from_arrow(tensors.slice(10, 7)), x[10:17])
    chunked = pa.chunked_array([tensors.slice(0, 400), tensors.slice(400)])
    np.testing.assert_array_equal(from_arrow(chunked), x)
    np.testing.assert_array_equal(from_arrow(pa.table({"v": chunked})["v"]), x)
    matrices = pa.FixedShapeTensorArray.from_numpy_ndarray(x.reshape(500, 2, 6))
    with pytest.raises(TypeError, match=r"v is of type .*fixed_shape_tensor.*; cast it to lists"):
        from_arrow(matrices, "v")


@pytest.mark.parametrize(
    ("column", "kind", "message"),
    [
        (
            pa.array([[1.0], [2.0]]),
            TypeError,
            r"v is of type list<.*double>; cast it to lists of f",
        ),
        (pa.array([1, 2]), TypeError, r"v is of type int64; cast"),
        ([[1, 2]], TypeError, r"v is \[\[1, 2\]\]; give an Arrow array"),
        (
            pa.array([[1], None], pa.list_(pa.float32())),
            ValueError,
            r"row 1 \(from 0\) has no list",
        ),
        (
            pa.array([[1], [1, 2]], pa.list_(pa.float32())),
            ValueError,
            r"row 1 .*has 2 numbers, .* 1",
        ),
        (pa.array([[1], [None]], pa.list_(pa.float32())), ValueError, r"from row 0 .*lack numbers"),
        (
            pa.array([[], []], pa.list_(pa.float32())),
            ValueError,
            r"row 0 .*has an empty list; give",
        ),
        (
            pa.chunked_array([[[1]], [[1, 2]]], pa.list_(pa.float32())),
            ValueError,
            r"row 1 .*has 2 numbers, others have 1",
        ),
    ],
    ids=str,
)
def test_wrong_columns_are_refused(column, kind, message):
    with pytest.raises(kind, match=message):
        from_arrow(column, "v")


def test_bfloat16_is_not_for_arrow():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    with pytest.raises(TypeError, match="bfloat16, which Arrow does not have"):
        to_arrow(ROWS.astype(ml_dtypes.bfloat16))
