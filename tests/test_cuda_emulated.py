"""The CUDA kernels on the emulated machine: their logic against the CPU core, bit for bit.

They run in a build with STOPE_CUDA=EMULATED. No GPU has a part in it; tests/test_gpu.py needs one.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

import cases
import fake_cupy
import reference
import stope
from fake_cupy import on_device

pytestmark = pytest.mark.skipif(
    "STOPE_CUDA=EMULATED" not in stope.build_info()["flags"],
    reason="this build does not emulate CUDA (cmake option STOPE_CUDA=EMULATED)",
)

METRICS = ("dot", "cosine", "euclidean")
DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "int8": np.int8,
}


@pytest.fixture(autouse=True)
def cupy(monkeypatch):
    fake_cupy.install(monkeypatch)


@pytest.fixture(params=[0, 5])
def order(request, monkeypatch):
    """Blocks, warps and lanes in their natural order and in another one."""
    monkeypatch.setenv("STOPE_EMULATED_ORDER", str(request.param))


def to_device(rows, device=0):
    """NumPy's DLPack knows no bfloat16; torch's does."""
    if rows.dtype == ml_dtypes.bfloat16:
        torch = pytest.importorskip("torch")
        rows = torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)
    return on_device(rows, device)


def cast(rows, dtype):
    return (np.clip(rows * 40, -128, 127) if dtype == "int8" else rows).astype(DTYPES[dtype])


def assert_same(got, expected):
    if isinstance(expected, dict):
        for name in expected:
            assert_same(got[name], expected[name])
        return
    got = got.get()
    assert got.dtype == expected.dtype
    np.testing.assert_array_equal(reference.bits(got), reference.bits(expected))


def assert_all_same(got, expected):
    for mine, other in zip(got, expected, strict=True):
        assert_same(mine, other)


# --- similarity and pairs ----------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_similarity_of_every_dtype(metric, dtype, order):
    for rows, n, dim in ((1, 1, 1), (33, 70, 20), (5, 40, 64), (3, 31, 15)):
        queries, corpus = (cast(m, dtype) for m in cases.make("gaussian", rows, n, dim))
        assert_same(
            stope.similarity(to_device(queries), to_device(corpus), metric=metric),
            stope.similarity(queries, corpus, metric=metric),
        )


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", cases.CASES)
def test_similarity_of_hard_cases(metric, name):
    queries, corpus = cases.make(name, 7, 40, 37)
    assert_same(
        stope.similarity(on_device(queries), on_device(corpus), metric=metric),
        stope.similarity(queries, corpus, metric=metric),
    )


def test_dtypes_mix_and_rows_may_be_strided():
    queries, corpus = cases.make("gaussian", 9, 50, 24)
    wide = np.zeros((100, 30), np.float16)
    wide[::2, 3:27] = corpus
    for q, x in ((queries, wide[::2, 3:27]), (queries[::-1], corpus[::3]), (queries, corpus[:1])):
        assert_same(stope.similarity(on_device(q), on_device(x)), stope.similarity(q, x))
