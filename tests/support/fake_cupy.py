"""CUDA arrays for the emulated machine: memory of the CPU that says it is on a CUDA device.

`on_device(rows)` wraps a NumPy array or a torch tensor in a class that the library takes for CuPy's
(`install` puts a module of that name in `sys.modules`). New memory is poisoned, so that a result or
a workspace that is read before it is written shows.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types

import numpy as np

from stope import _core

STREAM = 7  # of the fake library; the emulated machine takes any number
kept_by_graph = []  # what was allocated while a graph was recorded, as torch keeps it


class Graph:
    """A graph of the emulated machine: what `with graph:` queues, `replay()` runs."""

    recording = False

    def __enter__(self):
        kept_by_graph.clear()
        Graph.recording = True
        _machine().stope_emulated_record(1)

    def __exit__(self, *_):
        Graph.recording = False
        _machine().stope_emulated_record(0)

    def replay(self):
        replay = _machine().stope_emulated_replay
        replay.restype = ctypes.c_char_p
        error = replay()
        assert error is None, error.decode()


def _machine():
    return ctypes.CDLL(_core.__file__)


class ndarray:
    """What the library needs of cupy.ndarray."""

    __module__ = "cupy"

    def __init__(self, memory, device=0):
        self.memory, self.device = memory, device

    shape = property(lambda self: tuple(self.memory.shape))
    dtype = property(lambda self: self.memory.dtype)

    def __len__(self):
        return len(self.memory)

    def get(self):
        return self.memory

    def reshape(self, *shape):
        return ndarray(self.memory.reshape(*shape), self.device)

    def __getitem__(self, index):
        return ndarray(self.memory[_host(index)], self.device)

    def __setitem__(self, index, value):
        self.memory[_host(index)] = _host(value)

    def __rmul__(self, factor):
        return ndarray(factor * self.memory, self.device)

    def __iadd__(self, other):
        self.memory += other.memory  # as CuPy, no array of the CPU
        return self

    def __dlpack_device__(self):
        return (2, self.device)  # kDLCUDA

    def __dlpack__(self, *, stream=None, max_version=None):
        assert stream == -1 or stream == STREAM, "the caller's stream is passed on"
        # NumPy exports a read-only array under a new version only, torch under none but the old.
        if isinstance(self.memory, np.ndarray):
            return self.memory.__dlpack__(max_version=max_version)
        return self.memory.__dlpack__()


def _host(value):
    assert not isinstance(value, np.ndarray), "CuPy takes no index or value on the CPU"
    return value.memory if isinstance(value, ndarray) else value


class InterfaceOnly:
    """An array with __cuda_array_interface__ and nothing else; of a library unknown to stope."""

    __module__ = "numba"

    def __init__(self, memory):
        self.memory = memory
        self.__cuda_array_interface__ = {**memory.__array_interface__, "version": 3, "stream": 1}


def on_device(rows, device=0):
    return ndarray(rows, device)


def install(monkeypatch):
    module = types.ModuleType("cupy")
    current = [0]

    @contextlib.contextmanager
    def use(index):
        current.append(index)
        yield
        current.pop()

    def empty(shape, dtype):
        memory = np.empty(shape, dtype)
        memory.reshape(-1).view(np.uint8)[:] = 0xFF
        if Graph.recording:
            kept_by_graph.append(memory)
        return ndarray(memory, current[-1])

    module.ndarray, module.empty = ndarray, empty
    module.concatenate = lambda parts: ndarray(
        np.concatenate([part.memory for part in parts]), current[-1]
    )

    def ascontiguousarray(array, dtype):
        return ndarray(np.ascontiguousarray(array.memory, dtype), current[-1])

    module.ascontiguousarray = ascontiguousarray
    module.asarray = lambda array: ndarray(array, current[-1])
    stream = types.SimpleNamespace(ptr=STREAM, is_capturing=lambda: Graph.recording)
    module.cuda = types.SimpleNamespace(
        alloc_pinned_memory=lambda size: bytearray(b"\xff" * size),
        Device=use,
        get_current_stream=lambda: stream,
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
