"""CUDA devices for the tests of the contrastive loss: the emulated machine, and a GPU by torch."""

from __future__ import annotations

import fake_cupy
import numpy as np
import pytest
from infonce_checks import backward_is_close, forward_is_close

import stope

EMULATED = "STOPE_CUDA=EMULATED" in stope.build_info()["flags"]
emulated = pytest.param(
    "emulated",
    marks=pytest.mark.skipif(
        not EMULATED, reason="this build does not emulate CUDA (cmake option STOPE_CUDA=EMULATED)"
    ),
)
DEVICES = (emulated, pytest.param("gpu", marks=pytest.mark.gpu))
MATRICES = ("guide_queries", "guide_documents", "queue", "guide_queue")


class Emulated:
    """CuPy's arrays on the emulated machine."""

    def to(self, array):
        return fake_cupy.on_device(np.ascontiguousarray(array))

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

        return torch.from_numpy(np.ascontiguousarray(array)).cuda()

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


def moved(device, options):
    """The options with their matrices on the device."""
    return {
        name: device.to(value) if name in MATRICES and value is not None else value
        for name, value in options.items()
    }


def run(device, queries, documents, options, upstream=None, **more):
    """(InfoNCE, InfoNCEGradients) as NumPy, computed on the device."""
    there = device.to(queries), device.to(documents)
    given = moved(device, options)
    forward = stope.infonce_forward(*there, **given)
    weights = None if upstream is None else device.to(np.asarray(upstream, np.float32))
    back = stope.infonce_backward(*there, forward, weights, **given, **more)
    forward = stope.InfoNCE(*(device.back(part) for part in forward))
    documents = None if back.documents is None else device.back(back.documents)
    return forward, back._replace(queries=device.back(back.queries), documents=documents)


def check(device, queries, documents, options, upstream, expected, note=""):
    """`run`, near the oracle's (forward, backward)."""
    got = run(device, queries, documents, options, upstream)
    forward_is_close(got[0], expected[0], options, note)
    backward_is_close(got[1], expected[1], (queries, documents), options, upstream, note)
    return got
