"""Tensors that say they lie on a CUDA device, for a machine without one: memory is the CPU's.

Inside `pretended_device()` they behave as there in what may be done with which: no function takes
them together with a tensor of the CPU (numbers and stope's operators excepted, whose ids and limits
may lie anywhere), and NumPy reads none. The arithmetic is the CPU's, so results are the same bits.
"""

from __future__ import annotations

from torch.overrides import TorchFunctionMode

import torch

CUDA = torch.device("cuda", 0)
_NAMES = {torch.Tensor.device.__get__: CUDA, torch.Tensor.is_cuda.__get__: True}
_FOR_NUMPY = {torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__}
_MOVING = {torch.Tensor.to, torch.Tensor.cpu, torch.as_tensor}
_MATRICES = 2  # stope's operators begin with queries and documents


class Pretended(torch.Tensor):
    """A tensor of the CPU that says it is not."""


def pretend(tensor):
    """The tensor on the device, with its gradient's way back."""
    return tensor.as_subclass(Pretended)


def _tensors(values):
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


class pretended_device(TorchFunctionMode):
    """Where `Pretended` tensors live by the rules."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return func(*args, **kwargs)
        if args and isinstance(args[0], Pretended):
            if func in _NAMES:
                return _NAMES[func]
            if func in _FOR_NUMPY:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
        there = any(isinstance(t, Pretended) for t in _tensors([*args, *kwargs.values()]))
        wanted = [torch.device(v) for v in [*args, *kwargs.values()] if _is_device(v)]
        if func is torch.Tensor.cpu:
            wanted = [torch.device("cpu")]
        elif func is torch.Tensor.to and isinstance(args[-1], torch.Tensor) and len(args) > 1:
            wanted = [CUDA if isinstance(args[1], Pretended) else torch.device("cpu")]
            args = (args[0], args[1].dtype)
        if there and func not in _MOVING:
            self._check(func, args, kwargs)
        if wanted:
            there = wanted[0].type == "cuda"
        args = [value for value in args if not _is_device(value)]
        kwargs = {name: value for name, value in kwargs.items() if not _is_device(value)}
        with torch._C.DisableTorchFunctionSubclass():
            return _placed(func(*args, **kwargs), there)

    @staticmethod
    def _check(func, args, kwargs):
        given = list(_tensors([*args, *kwargs.values()]))
        if "stope" in str(func):
            given = given[:_MATRICES]
        for tensor in given:
            if not isinstance(tensor, Pretended) and tensor.ndim:
                raise RuntimeError(
                    f"Expected all tensors to be on the same device, but {func} got cuda:0 and cpu"
                )


def _is_device(value):
    return isinstance(value, torch.device) or value in ("cpu", "cuda")


def _placed(found, there):
    if isinstance(found, torch.Tensor):
        wanted = Pretended if there else torch.Tensor
        return found if type(found) is wanted else found.as_subclass(wanted)
    if isinstance(found, (tuple, list)):
        parts = [_placed(value, there) for value in found]
        return type(found)(*parts) if hasattr(found, "_fields") else type(found)(parts)
    return found
