"""What the CUDA core decides on the host, in any build: groups, chunks and lists of candidates."""

from __future__ import annotations

from pathlib import Path

import fake_cupy
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stope

MIB = 1 << 20
TILE, SLAB = 128, 32


def plan(queries, rows, columns, k):
    return stope._core.cuda_topk_plan(queries=queries, rows=rows, columns=columns, k=k)


@given(
    st.integers(1, 200_000), st.integers(1, 10**7), st.integers(1, 65_536), st.integers(1, 10**6)
)
def test_a_list_has_room_for_a_whole_chunk(queries, rows, columns, k):
    got = plan(queries, rows, columns, min(k, rows))
    k = min(k, rows)
    assert got["capacity"] == got["keep"] + got["chunk"]
    assert got["keep"] >= 2 * k  # of the k best, sorted with room for the next power of two
    assert 1 <= got["group"] <= queries
    assert TILE <= got["chunk"] <= 65_536
    assert got["chunk"] % TILE == 0
    assert got["depth_padded"] % SLAB == 0
    assert 0 <= got["depth_padded"] - columns < SLAB
    # No place of a list or a code overflows the kernels' 32-bit numbers of entries.
    assert got["capacity"] < 2**31


@given(st.integers(1, 200_000), st.integers(1, 10**7), st.integers(1, 65_536), st.integers(1, 2048))
def test_memory_beside_inputs_and_outputs_has_a_limit(queries, rows, columns, k):
    """Lists of 256 MiB, codes of 256 MiB each for queries and corpus, and a little per query."""
    got = plan(queries, rows, columns, min(k, rows))
    assert got["workspace_bytes"] < 3 * 256 * MIB + 200 * got["group"] + 64 * got["chunk"] + 4096


@given(st.integers(1, 10**6), st.integers(1, 10**7), st.integers(1, 16_384), st.integers(1, 2048))
def test_memory_for_a_corpus_in_host_memory_has_a_limit(queries, rows, columns, k):
    """Beside what a corpus on the device takes: two blocks of 64 MiB, and as much pinned."""
    got = stope._core.cuda_topk_plan(
        queries=queries, rows=rows, columns=columns, k=min(k, rows), in_host_memory=True
    )
    assert got["group"] <= got["pass"] <= queries
    assert got["pass"] % got["group"] == 0 or got["pass"] == queries
    assert got["pinned_bytes"] == 2 * got["chunk"] * columns * 4 <= 128 * MIB
    limit = (3 * 256 + 128) * MIB + 200 * got["pass"] + 64 * got["chunk"] + 4096
    assert got["workspace_bytes"] < limit


def test_groups_share_the_way_from_host_memory():
    got = stope._core.cuda_topk_plan(
        queries=16_384, rows=4_000_000, columns=768, k=100, in_host_memory=True
    )
    assert (got["group"], got["pass"]) == (4_608, 16_384)


@pytest.mark.parametrize(
    ("queries", "rows", "columns", "k", "group", "chunk"),
    [
        (1, 4_000_000, 768, 100, 1, 65_536),
        (16_384, 4_000_000, 768, 100, 4_608, 4_096),
        (16_384, 4_000_000, 768, 2_048, 2_560, 4_096),
        (3, 50, 10, 5, 3, 128),
        (100, 1_000, 65_536, 10, 100, 1_024),
    ],
)
def test_plans_of_known_sizes(queries, rows, columns, k, group, chunk):
    got = plan(queries, rows, columns, k)
    assert (got["group"], got["chunk"]) == (group, chunk)


ON_A_DEVICE = {
    "similarity": lambda array: stope.similarity(array, array),
    "topk": lambda array: stope.topk(array, array, 2),
    "mine_hard_negatives": lambda array: stope.mine_hard_negatives(array, array, [0] * 4),
    "FlatIndex": lambda array: stope.FlatIndex(array),
    "knn_graph": lambda array: stope.knn_graph(array, 2),
    "pairs_above": lambda array: stope.pairs_above(array, threshold=0),
    "nearest_earlier": lambda array: stope.nearest_earlier(array),
}


@pytest.mark.parametrize("call", ON_A_DEVICE.values(), ids=ON_A_DEVICE)
def test_arrays_on_a_gpu_that_is_not_there(call, monkeypatch):
    """A build without CUDA says so; one with CUDA works here too, and passes on its text."""
    flags = stope.build_info()["flags"]
    if "EMULATED" in flags or Path("/dev/nvidiactl").exists():
        pytest.skip("this build or this machine has a CUDA device")
    fake_cupy.install(monkeypatch)
    rows = np.eye(4, dtype=np.float32)
    array = fake_cupy.on_device(rows)
    said = "built without CUDA.*CPU" if "STOPE_CUDA=OFF" in flags else r"cuda\w+ failed: .+ \(cuda"
    with pytest.raises(RuntimeError, match=said):
        call(array)
    assert stope.topk(rows, rows, 1).ids.ravel().tolist() == [0, 1, 2, 3]
