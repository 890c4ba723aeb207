"""Operations that keep their answers: equal bits whole, in blocks and after kills."""

import json
import random
import subprocess
import sys

import kills
import numpy as np
import pytest

import stope
from stope.neighbors import D4, Prototypes, VoteK, deduplicate, kept, neighbor_graph
from stope.neighbors.kept import KeptOperations


@pytest.fixture
def rows():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 24), np.float32)
    x[200:260] = x[:60] + 0.1 * rng.standard_normal((60, 24), np.float32)
    x[280:] = x[20:40]  # ties
    return x


def equal(first, second):
    return all(np.array_equal(*sides) for sides in zip(first, second, strict=True))


@pytest.mark.parametrize("block", [2**16, 2**18, 2**40])
@pytest.mark.parametrize("metric", ["cosine", "dot", "euclidean"])
def test_answers_are_those_of_the_operations(rows, tmp_path, block, metric):
    operations = KeptOperations(tmp_path, block=block)
    for _ in range(2):  # computed, then read
        graph = operations.knn_graph(rows, 7, metric=metric)
        assert equal(graph, stope.knn_graph(rows, 7, metric=metric))
        order = np.random.default_rng(0).permutation(len(rows))
        nearest = operations.nearest_earlier(rows, order, metric=metric)
        assert equal(nearest, stope.nearest_earlier(rows, order, metric=metric))
        pairs = []
        limit = {"cosine": 0.5, "dot": 12.0, "euclidean": -4.0}[metric]
        total = operations.pairs_above(
            rows[100:],
            rows,
            threshold=limit,
            metric=metric,
            sink=lambda *columns, pairs=pairs: pairs.append(columns),
        )
        expected = stope.pairs_above(rows[100:], rows, threshold=limit, metric=metric)
        assert total == len(expected.rows) > 100
        assert equal(map(np.concatenate, zip(*pairs, strict=True)), expected)


@pytest.mark.parametrize("count", [2, 3, 5, 8, 30])
@pytest.mark.parametrize("k", [1, 4])
def test_graphs_of_few_rows_in_many_blocks(rows, tmp_path, count, k):
    x, k = rows[:count], min(k, count - 1)
    made = KeptOperations(tmp_path, block=1).knn_graph(x, k)
    assert equal(made, stope.knn_graph(x, k))


def test_any_two_groups_meet_on_one_line():
    for order in (2, 3, 5, 7):
        lines = list(kept._plane(order))
        together = [tuple(sorted((a, b))) for line in lines for a in line for b in line if a < b]
        points = order * order + order + 1
        assert len(lines) == points
        assert len(together) == len(set(together)) == points * (points - 1) // 2


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_other_dtypes(rows, tmp_path, dtype):
    import ml_dtypes

    x = (rows * 20).astype(getattr(ml_dtypes, dtype, None) or dtype)
    made = KeptOperations(tmp_path, block=2**17).nearest_earlier(x, metric="cosine")
    assert equal(made, stope.nearest_earlier(x, metric="cosine"))


def test_rounds_go_on_and_fewer_begin_anew(rows, tmp_path):
    options = {"metric": "cosine", "init": "random", "seed": 4}
    operations = KeptOperations(tmp_path)
    for iterations in (0, 2, 2, 5, 3, 40, 60):
        made = operations.kmeans(rows, 12, max_iterations=iterations, **options)
        expected = stope.kmeans(rows, 12, max_iterations=iterations, **options)
        assert equal(made[:4], expected[:4])
        assert made.converged is expected.converged
    assert made.converged


def test_a_kept_round_is_not_computed_again(rows, tmp_path, monkeypatch):
    operations, assigned = KeptOperations(tmp_path), []
    real = stope.ops._lloyd.KMeansShard.assign
    monkeypatch.setattr(
        stope.ops._lloyd.KMeansShard,
        "assign",
        lambda *arguments, **named: assigned.append(1) or real(*arguments, **named),
    )
    operations.kmeans(rows, 12, max_iterations=2)
    before = len(assigned)
    told = []
    operations.kmeans(rows, 12, max_iterations=4, progress=lambda *step: told.append(step))
    assert (before, len(assigned) - before) == (3, 3)
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


def test_what_takes_operations_gives_the_same(rows, tmp_path):
    operations = KeptOperations(tmp_path, block=2**17)
    assert equal(deduplicate(rows, 0.9, operations=operations)[:3], deduplicate(rows, 0.9)[:3])
    graphs = neighbor_graph(rows, 5), neighbor_graph(rows, 5, operations=operations)
    assert (graphs[0] != graphs[1]).nnz == 0
    for selector in (VoteK, Prototypes, D4):
        options = {"k": 9} if selector is VoteK else {"clusters": 6}
        first = selector(**options)(rows, 30)
        second = selector(**options, operations=operations)(rows, 30)
        assert equal(first[:2], second[:2])


def test_one_process_at_a_time_goes_on_with_k_means(rows, tmp_path):
    operations = KeptOperations(tmp_path)

    def again(done, total):
        with pytest.raises(RuntimeError, match="is filling"):
            operations.kmeans(rows, 12)
        operations.kmeans(rows, 11)  # another one

    assert equal(operations.kmeans(rows, 12, progress=again)[:4], stope.kmeans(rows, 12)[:4])


def test_other_rows_and_options_are_other_answers(rows, tmp_path):
    operations = KeptOperations(tmp_path)
    operations.nearest_earlier(rows, metric="cosine")
    changed = rows.copy()
    changed[7] *= -1
    for x, metric in ((changed, "cosine"), (rows, "dot")):
        assert equal(
            operations.nearest_earlier(x, metric=metric), stope.nearest_earlier(x, metric=metric)
        )


def test_another_version_of_stope_takes_no_answers_of_this_one(rows, tmp_path, monkeypatch):
    for version in ("1.0", "1.1", "1.0"):
        monkeypatch.setattr(stope, "__version__", version)
        KeptOperations(tmp_path).nearest_earlier(rows)
        KeptOperations(tmp_path).kmeans(rows, 5, max_iterations=1)
    assert len([*tmp_path.glob("nearest_earlier-*.json")]) == 2
    assert len([*tmp_path.glob("kmeans-*/round.json")]) == 2


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing", "json"])
def test_damage_is_refused(rows, tmp_path, damage):
    operations = KeptOperations(tmp_path)
    operations.knn_graph(rows, 3)
    (path,) = tmp_path.glob("*-scores-*.npy")
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "json":
        next(tmp_path.glob("*.json")).write_text("{")
    else:
        path.write_bytes(content[:-4] if damage == "truncated" else content[:-1] + b"x")
    with pytest.raises(ValueError, match="remove the folder"):
        operations.knn_graph(rows, 3)


def test_wrong_arguments_are_those_of_the_operations(rows, tmp_path):
    operations = KeptOperations(tmp_path)
    with pytest.raises(ValueError, match="order"):
        operations.nearest_earlier(rows, np.zeros(len(rows), np.int64))
    for order in ("abc", np.arange(300.0)):
        with pytest.raises(TypeError, match=r"order is .*; give a permutation"):
            operations.nearest_earlier(rows, order)
    operations.kmeans(rows, 2, max_iterations=1)
    with pytest.raises(TypeError, match="max_iterations is '3'"):
        operations.kmeans(rows, 2, max_iterations="3")
    with pytest.raises(ValueError, match="k is 300"):
        operations.knn_graph(rows, 300)
    with pytest.raises(ValueError, match="NaN"):
        operations.kmeans(np.full((3, 2), np.nan, np.float32), 2)
    with pytest.raises(ValueError, match="block is 0"):
        KeptOperations(tmp_path, block=0)
    with pytest.raises(TypeError, match="folder"):
        KeptOperations(3)
    broken = rows.copy()
    broken[291, 3] = np.nan
    for search in (
        lambda: KeptOperations(tmp_path, block=2**17).knn_graph(broken, 3),
        lambda: KeptOperations(tmp_path, block=2**17).nearest_earlier(broken),
    ):
        with pytest.raises(ValueError, match="in row 291"):
            search()
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="is a file; name a folder"):
        KeptOperations(tmp_path / "file")


COMMAND = """
import sys
sys.path.insert(0, {support!r})
import kills
from stope.neighbors import kept
kept.KeptOperations.__init__.__kwdefaults__["block"] = 2**18
{death}
from stope.cli.app import app
app(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("command", "outputs"),
    [
        (
            ("dedup", "--threshold", "0.7", "--groups", "groups.jsonl"),
            ("out.jsonl", "groups.jsonl"),
        ),
        (("graph", "-k", "4"), ("out.npz",)),
        (("cluster", "-k", "9", "--max-iterations", "6"), ("out.jsonl",)),
        (("select", "-n", "20", "--method", "d4", "--clusters", "7"), ("out.jsonl",)),
    ],
    ids=lambda value: value[0],
)
def test_killed_commands_go_on_to_equal_bytes(tmp_path, rows, command, outputs):
    """SIGKILL at random calls of what computes and writes; each run finds a little more there."""
    np.save(tmp_path / "x.npy", rows)
    support = kills.__file__.rpartition("/")[0]

    def run(folder, death="", cache=True):
        folder.mkdir(exist_ok=True)
        where = ["--cache", "answers"] if cache else []
        script = COMMAND.format(support=support, death=death)
        arguments = [command[0], str(tmp_path / "x.npy"), *command[1:], "-o", outputs[0], *where]
        return subprocess.run(
            [sys.executable, "-c", script, *arguments], cwd=folder, capture_output=True, check=False
        )

    whole = run(tmp_path / "whole", cache=False)
    assert whole.returncode == 0, whole.stderr
    rng, killed = random.Random(command[0]), 0
    for function in ("atomic_path", "open_atomic", "digest"):
        death = (
            "import stope._files.arrays as arrays\n"
            f"kills.kill_at_call(arrays, {function!r}, {rng.randint(1, 4)})"
        )
        killed += run(tmp_path / "killed", death).returncode == -9
    assert killed == 3
    assert run(tmp_path / "killed").returncode == 0
    for name in outputs:
        mine, expected = ((tmp_path / side / name).read_bytes() for side in ("killed", "whole"))
        assert mine == expected
    left = json.dumps(sorted(path.name for path in (tmp_path / "killed").rglob("*")))
    assert "tmp" not in left
