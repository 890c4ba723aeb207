"""What the tests of the list losses share: tensors by seed, and comparisons in float64."""

from __future__ import annotations

import torch

F64 = torch.float64


def t(*rows, dtype=F64):
    return torch.tensor(rows, dtype=dtype)


def draw(seed, *shape, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def gradcheck(function, *inputs):
    for value in inputs:
        value.requires_grad_(True)
    return torch.autograd.gradcheck(function, inputs)


def close(found, wanted, tolerance=1e-12):
    torch.testing.assert_close(
        found, torch.as_tensor(wanted, dtype=found.dtype), rtol=0, atol=tolerance
    )
