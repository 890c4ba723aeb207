"""Tensors for tests of stope.torch, and what plain torch makes of them."""

from __future__ import annotations

import torch


def normal(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype)


def leaf(*shape, seed=0, dtype=torch.float32):
    return normal(*shape, seed=seed, dtype=dtype).requires_grad_()


def plain(queries, documents, temperature, positives=None):
    """Row losses in float64, by torch's own autograd."""
    scores = (
        torch.nn.functional.normalize(queries.double())
        @ torch.nn.functional.normalize(documents.double()).mT
    )
    if positives is None:
        positives = torch.arange(len(queries))
    return torch.nn.functional.cross_entropy(scores / temperature, positives, reduction="none")


def close(a, b, tolerance=1e-5):
    a, b = a.detach().double(), b.detach().double()
    assert a.shape == b.shape
    scale = max(1e-3, float(b.abs().max()))
    assert float((a - b).abs().max()) <= tolerance * scale, float((a - b).abs().max()) / scale
