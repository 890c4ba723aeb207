"""CUDA devices for tests that run on both: the emulated machine, and a GPU by torch."""

from __future__ import annotations

import fake_cupy
import ml_dtypes
import numpy as np
import pytest

import stope

EMULATED = "STOPE_CUDA=EMULATED" in stope.build_info()["flags"]
emulated = pytest.param(
    "emulated",
    marks=pytest.mark.skipif(
        not EMULATED, reason="this build does not emulate CUDA (cmake option STOPE_CUDA=EMULATED)"
    ),
)
DEVICES = (emulated, pytest.param("gpu", marks=pytest.mark.gpu))


def _array(rows):
    """What DLPack takes: contiguous rows, and bfloat16 as torch's."""
    rows = np.ascontiguousarray(rows)
    if rows.dtype != ml_dtypes.bfloat16:
        return rows
    torch = pytest.importorskip("torch", reason="the tests' bfloat16 arrays are torch's")
    return torch.from_numpy(rows.view(np.int16)).view(torch.bfloat16)


class Emulated:
    """CuPy's arrays on the emulated machine."""

    def to(self, array):
        return fake_cupy.on_device(_array(array))

    def back(self, array):
        assert isinstance(array, fake_cupy.ndarray), "results are on the device"
        return array.get()

    def write(self, array, rows):
        array.get()[...] = rows

    def record(self, call):
        """(what the call returns, replay()): the call as a CUDA graph."""
        graph = fake_cupy.Graph()
        with graph:
            result = call()
        return result, graph.replay


class Torch:
    """torch's tensors on a GPU."""

    def to(self, array):
        import torch

        return torch.as_tensor(_array(array)).cuda()

    def back(self, array):
        assert array.is_cuda, "results are on the device"
        return array.cpu().numpy()

    def write(self, array, rows):
        array.copy_(self.to(rows))

    def record(self, call):
        """(what the call returns, replay()): the call as a CUDA graph."""
        import torch

        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            torch.zeros(1, device="cuda")  # torch warns of graphs that are empty
            result = call()
        return result, graph.replay


def device_called(name, monkeypatch):
    """The device of a parameter of DEVICES, for a test's fixture."""
    if name == "gpu":
        torch = pytest.importorskip("torch", reason="the tests' CUDA arrays are torch's")
        assert torch.cuda.is_available(), "torch sees no GPU: install its CUDA build"
        return Torch()
    fake_cupy.install(monkeypatch)
    return Emulated()
