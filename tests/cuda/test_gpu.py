"""The CUDA core on a GPU: `pytest -m gpu`. Answers are the CPU's, bit for bit.

Small shapes first (`-k small`): benchmarks/gpu_check.sh runs those under compute-sanitizer too.
"""

from __future__ import annotations

import cases
import numpy as np
import pytest
import reference

import stope

pytestmark = pytest.mark.gpu

METRICS = ("dot", "cosine", "euclidean")
DTYPES = ("float32", "float16", "bfloat16", "int8")


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="the tests' CUDA arrays are torch's")
    assert torch.cuda.is_available(), "torch sees no GPU: install its CUDA build"
    return torch


@pytest.fixture
def both(torch):
    """both(rows, dtype) -> the same rows as torch tensors on the CPU and on the GPU."""

    def make(rows, dtype="float32"):
        tensor = torch.from_numpy(np.ascontiguousarray(rows))
        if dtype == "int8":
            tensor = (tensor * 40).clamp(-128, 127)
        tensor = tensor.to(getattr(torch, dtype))
        return tensor, tensor.cuda()

    return make


def assert_same(got, expected):
    if isinstance(expected, dict):
        for name in expected:
            assert_same(got[name], expected[name])
        return
    assert got.is_cuda
    mine, other = got.cpu().numpy(), expected.numpy()
    assert mine.dtype == other.dtype
    np.testing.assert_array_equal(reference.bits(mine), reference.bits(other))


def assert_all_same(got, expected):
    for mine, other in zip(got, expected, strict=True):
        assert_same(mine, other)


# --- small: also under compute-sanitizer -------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_similarity(metric, dtype, both):
    for rows, n, dim in ((1, 1, 1), (33, 70, 20), (3, 31, 15)):
        (q, gq), (x, gx) = (both(m, dtype) for m in cases.make("gaussian", rows, n, dim))
        assert_same(stope.similarity(gq, gx, metric=metric), stope.similarity(q, x, metric=metric))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_topk(metric, dtype, both):
    for rows, n, dim, k in ((1, 1, 1, 1), (129, 257, 33, 9), (3, 300, 65, 300)):
        (q, gq), (x, gx) = (both(m, dtype) for m in cases.make("duplicated", rows, n, dim))
        assert_all_same(stope.topk(gq, gx, k, metric=metric), stope.topk(q, x, k, metric=metric))


def test_small_topk_with_limits(both):
    rng = np.random.default_rng(3)
    (q, gq), (x, gx) = (both(m) for m in cases.make("many_ties", 9, 500, 12))
    exclude = [rng.choice(500, rng.integers(0, 60), replace=False) for _ in range(9)]
    limits = {"exclude": exclude, "ceiling": 4.0, "floor": np.linspace(-9, 5, 9)}
    assert_all_same(stope.topk(gq, gx, 60, **limits), stope.topk(q, x, 60, **limits))


@pytest.mark.parametrize("counts", ["eligible", "raw"])
def test_small_mining(counts, both):
    (q, gq), (x, gx) = (both(m) for m in cases.make("clustered", 12, 400, 16))
    positives = [[i, i + 100] for i in range(12)]
    options = {"relative_margin": 0.05, "range_counts": counts, "range_max": 30}
    assert_all_same(
        stope.mine_hard_negatives(gq, gx, positives, **options),
        stope.mine_hard_negatives(q, x, positives, **options),
    )


@pytest.mark.parametrize("pinned", [False, True])
def test_small_topk_of_host_memory(pinned, both, monkeypatch):
    """In blocks of 128 rows, several groups of queries and several passes."""
    budget = stope._core.CudaTopkBudget(list_bytes=1 << 15, code_bytes=1 << 14, block_bytes=1)
    topk = stope._core.topk
    monkeypatch.setattr(stope._core, "topk", lambda **given: topk(**given, budget=budget))
    for metric in METRICS:
        (q, gq), (x, _) = (both(m) for m in cases.make("near_ties", 150, 700, 33))
        expected = stope.topk(q, x, 9, metric=metric)
        assert_all_same(stope.topk(gq, x.pin_memory() if pinned else x, 9, metric=metric), expected)


def test_small_mining_of_host_memory(both):
    (q, gq), (x, _) = (both(m) for m in cases.make("clustered", 12, 400, 16))
    options = {"relative_margin": 0.05, "range_max": 30}
    assert_all_same(
        stope.mine_hard_negatives(gq, x, list(range(12)), **options),
        stope.mine_hard_negatives(q, x, list(range(12)), **options),
    )


def test_small_index(both):
    (q, gq), (x, gx) = (both(m) for m in cases.make("gaussian", 5, 300, 20))
    index = stope.FlatIndex(gx[:100])
    index.add(gx[100:128])
    index.add(gx[128:])
    assert_all_same(index.search(gq, 7), stope.topk(q, x, 7))


# --- larger ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", cases.CASES)
def test_hard_cases(name, metric, both):
    (q, gq), (x, gx) = (both(m) for m in cases.make(name, 70, 9_000, 96))
    assert_all_same(stope.topk(gq, gx, 50, metric=metric), stope.topk(q, x, 50, metric=metric))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [1, 100, 2048, 5000])
def test_topk_over_several_chunks_and_groups(dtype, k, both):
    rows = 6_000 if k == 100 else 150
    (q, gq), (x, gx) = (both(m, dtype) for m in cases.make("gaussian", rows, 70_000, 64))
    assert_all_same(stope.topk(gq, gx, k), stope.topk(q, x, k))


def test_equal_rows_are_rescored_while_the_scan_goes_on(both):
    (q, gq), (x, gx) = (both(m) for m in cases.make("identical", 20, 100_000, 32))
    assert_all_same(stope.topk(gq, gx, 40), stope.topk(q, x, 40))


def test_scores_are_near_the_oracle(both):
    queries, corpus = cases.make("gaussian", 40, 3_000, 768)
    (_, gq), (_, gx) = both(queries), both(corpus)
    for metric in METRICS:
        oracle = reference.similarity(queries, corpus, metric)
        error = np.abs(stope.similarity(gq, gx, metric=metric).cpu().numpy() - oracle)
        assert (error <= reference.error_bound(queries, corpus, metric) + 1e-6).all()


def test_the_same_bits_every_time(both):
    (_, gq), (_, gx) = (both(m) for m in cases.make("near_ties", 300, 50_000, 48))
    first = stope.topk(gq, gx, 100)
    for _ in range(5):
        for mine, other in zip(stope.topk(gq, gx, 100), first, strict=True):
            assert (mine == other).all()


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_from_host_memory_overtake_nothing(pinned, dtype, both):
    """Tens of blocks, each on its way while the one before is scanned: 640 MiB in float32."""
    (_, gq), (x, _) = (both(m, dtype) for m in cases.make("gaussian", 40, 1_300_000, 128))
    if pinned:
        x = x.pin_memory()
    for rows in (x, x[::2], x[:1_000_000]):
        expected = stope.topk(gq, rows.cuda(), 100)
        got = stope.topk(gq, rows, 100)
        assert_all_same(got, (expected.scores.cpu(), expected.ids.cpu()))


# --- memory, streams, devices, errors ----------------------------------------------------------


def test_poisoned_results_are_written_everywhere(torch, both):
    (q, gq), (x, gx) = (both(m) for m in cases.make("gaussian", 9, 40, 16))
    scores = torch.full((9, 40), float("nan"), device="cuda")
    ids = torch.full((9, 40), 1 << 40, dtype=torch.int64, device="cuda")
    exclude = [np.arange(i, 40) for i in range(9)]
    stope.topk(gq, gx, 40, exclude=exclude, out=(scores, ids))
    assert_all_same((scores, ids), stope.topk(q, x, 40, exclude=exclude))


def test_strided_rows_and_mixed_dtypes(torch, both):
    queries, corpus = cases.make("gaussian", 9, 400, 40)
    (q, gq), (x, gx) = both(queries[:, :24]), both(corpus, "bfloat16")
    assert_all_same(stope.topk(gq, gx[::2, 3:27], 11), stope.topk(q, x[::2, 3:27], 11))


def test_a_stream_of_the_callers_own_is_used_and_not_waited_behind(torch, both):
    (q, gq), (x, gx) = (both(m) for m in cases.make("gaussian", 200, 20_000, 64))
    expected = stope.topk(q, x, 20)
    stream = torch.cuda.Stream()
    later = torch.empty_like(gx)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # what is queued before must be finished before
        later.copy_(gx)
        assert_all_same(stope.topk(gq, later, 20), expected)


def test_a_graph_captures_a_search(torch, both):
    (q, gq), (x, gx) = (both(m) for m in cases.make("gaussian", 50, 3_000, 64))
    out = torch.empty((50, 10), device="cuda"), torch.empty((50, 10), dtype=torch.int64).cuda()
    stope.topk(gq, gx, 10, out=out)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        stope.topk(gq, gx, 10, out=out)
    gx.copy_(gx.flip(0))
    graph.replay()
    torch.cuda.synchronize()
    assert_all_same(out, stope.topk(q, x.flip(0), 10))


def test_other_kinds_of_arrays(both):
    cupy = pytest.importorskip("cupy", reason="the second kind of CUDA array is CuPy's")
    (q, gq), (x, gx) = (both(m) for m in cases.make("gaussian", 9, 200, 32))
    got = stope.topk(cupy.from_dlpack(gq), cupy.from_dlpack(gx), 5)
    assert isinstance(got.ids, cupy.ndarray)
    np.testing.assert_array_equal(got.ids.get(), stope.topk(q, x, 5).ids.numpy())


def test_other_devices(torch, both):
    (q, gq), (x, gx) = (both(m) for m in cases.make("gaussian", 9, 200, 32))
    with pytest.raises(ValueError, match="queries are on cuda:0 but corpus is on cpu"):
        stope.similarity(gq, x)
    with pytest.raises(ValueError, match="queries are on cpu but corpus is on cuda:0"):
        stope.topk(q, gx, 5)
    if torch.cuda.device_count() > 1:
        got = stope.topk(gq.to("cuda:1"), gx.to("cuda:1"), 5)
        assert got.ids.device.index == 1
        assert_all_same(got, stope.topk(q, x, 5))


def test_bad_rows_are_named_and_the_library_goes_on(torch, both):
    (q, gq), (x, gx) = (both(m) for m in cases.make("gaussian", 9, 200, 32))
    bad = gx.clone()
    bad[77, 3] = float("nan")
    with pytest.raises(ValueError, match=r"corpus has a NaN .*row 77\b"):
        stope.topk(gq, bad, 5)
    with pytest.raises(RuntimeError, match="out of memory"):  # 3 TB for the result: torch's own
        stope.similarity(gq.repeat(120_000, 1), gx.repeat(4_000, 1))
    torch.cuda.empty_cache()
    assert_all_same(stope.topk(gq, gx, 5), stope.topk(q, x, 5))
