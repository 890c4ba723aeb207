"""What workers on a Ray cluster read of matrices in files, in this process."""

from __future__ import annotations

import numpy as np
import pytest

from stope.lists import Lists

pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")

from stope.scale.ray import block_answers, matrix_files


def test_a_shard_is_asked_of_its_own_rows_alone(tmp_path):
    rng = np.random.default_rng(0)
    queries, corpus = (rng.integers(-3, 4, (n, 8)).astype(np.float32) for n in (20, 900))
    paths = [tmp_path / name for name in ("q.npy", "a.npy", "b.npy")]
    for path, rows in zip(paths, (queries, corpus[:450], corpus[450:]), strict=True):
        np.save(path, rows)
    files = [matrix_files.File(str(path), 450, 8, "<f4", None, []) for path in paths]
    asked = matrix_files.Rows((files[0]._replace(rows=20),)), matrix_files.Rows((*files[1:],))
    negatives = block_answers.NegativesOf(*asked, {"metric": "dot"})
    block = (0, 20), Lists(np.arange(21) * 2, np.tile([3, 600], 20)), None
    paths[2].unlink()
    score = negatives.part((0, 450), *block)
    assert np.array_equal(score, queries @ corpus[3])
    assert (negatives.part((0, 450), *block, score).ids < 450).all()


def _mapped_mib():
    """What this process has in memory of files."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) >> 10 for line in file if line.startswith("RssFile"))


def test_a_worker_holds_the_pages_of_one_shard(tmp_path):
    """Each shard is in the memory while it is searched; blocks of queries are copied out."""
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", np.ones((2**19, 32), np.float32))  # 64 MiB each
    paths = [str(tmp_path / f"{name}.npy") for name in ("a", "b")]
    rows = matrix_files.Rows(
        tuple(matrix_files.File(path, 2**19, 32, "<f4", None, []) for path in paths)
    )
    before = _mapped_mib()
    for first, end in ((0, 2**18), (2**18, 2**19), (2**19, 2**20), (0, 2**18)):
        for _ in range(2):
            pieces = [(start, piece, piece.sum()) for start, piece in rows.pieces(first, end)]
        assert [start for start, *_ in pieces] == [first]
        held = (end - first) * 32 * 4 >> 20
        assert held - 16 <= _mapped_mib() - before <= held + 16
    assert rows.read(2**19 - 1, 2**19 + 1).tolist() == np.ones((2, 32)).tolist()
    assert _mapped_mib() - before <= 16


def write_lance(path, table):
    pytest.importorskip("lance").write_dataset(table, str(path), max_rows_per_file=100)


def write_parquet(path, table):
    pytest.importorskip("pyarrow.parquet").write_table(table, path)


def write_arrow(path, table):
    with pa.ipc.new_file(str(path), table.schema) as file:
        file.write_table(table)


WRITERS = {"parquet": write_parquet, "arrow": write_arrow, "lance": write_lance}


@pytest.mark.parametrize("ending", WRITERS)
@pytest.mark.parametrize("first", ["d0", 1000], ids=["text", "number"])
def test_every_table_brings_its_ids(tmp_path, ending, first):
    write = WRITERS[ending]
    ids = [f"d{row}" for row in range(300)] if first == "d0" else list(range(1000, 1300))
    rows = np.random.default_rng(0).standard_normal((300, 4), dtype=np.float32)
    table = pa.table({"id": ids, "vector": pa.FixedSizeListArray.from_arrays(rows.ravel(), 4)})
    path = tmp_path / f"corpus.{ending}"
    write(path, table)
    read = matrix_files.Rows((matrix_files._of_file(path, "corpus", tmp_path),))
    assert np.array_equal(read.read(0, 300), rows)
    named = read.named(np.array([[2, -1], [299, 0]])).to_pylist()
    assert named == [str(ids[2]), None, str(ids[299]), str(ids[0])]
    write(tmp_path / f"plain.{ending}", table.drop_columns("id"))
    plain = matrix_files._of_file(tmp_path / f"plain.{ending}", "corpus", tmp_path)
    assert not matrix_files.Rows((plain,)).has_ids
