"""What the tests of the emulated CUDA machine share: arrays on it, and equality with the CPU."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import reference
from fake_cupy import on_device

import stope

needs_emulation = pytest.mark.skipif(
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


def both_topk(queries, corpus, k, **options):
    """Scores and ids on the emulated device equal the CPU's."""
    expected = stope.topk(queries, corpus, k, **options)
    assert_all_same(stope.topk(to_device(queries), to_device(corpus), k, **options), expected)
    return expected


def use_budget(monkeypatch, *, lists, codes=1 << 28, block=1 << 26):
    """Searches take so few bytes at a time that small matrices go in several portions."""
    budget = stope._core.CudaTopkBudget(list_bytes=lists, code_bytes=codes, block_bytes=block)
    topk = stope._core.topk
    monkeypatch.setattr(stope._core, "topk", lambda **given: topk(**given, budget=budget))
    return budget
