"""The loss's rows of `bench_gpu.py`: forward and backward pass as one, in bfloat16."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
from torch.nn.functional import cross_entropy, normalize

import stope
import torch
from gpu_rows import Meter, Row, Sizes

TEMPERATURE = 0.05
RELATIVE_MARGIN = 0.05
SAMPLE = 48  # rows checked in float64
# |loss - float64| times the temperature: of products of bfloat16, and of scores rounded to it.
ALLOWED = {"stope": 4e-3, "triton": 4e-3, "torch": 8e-3}
GRADIENT_ALLOWED = 5e-2  # |dq - dq of Triton| / |dq|

Answer = tuple[Any, Any, Any]  # row losses or None, gradients of queries and of documents


def stope_loss(queries: Any, documents: Any, share: Any, **options: Any) -> Callable[[], Answer]:
    def call() -> Answer:
        forward = stope.infonce_forward(queries, documents, **options)
        back = stope.infonce_backward(queries, documents, forward, share, **options)
        return forward.losses, back.queries, back.documents

    return call


def _by_autograd(queries: Any, documents: Any, losses: Callable[..., Any]) -> Callable[[], Answer]:
    q, d = (rows.clone().requires_grad_() for rows in (queries, documents))

    def call() -> Answer:
        q.grad = d.grad = None
        found = losses(q, d)
        found.mean().backward()
        return found.detach(), q.grad, d.grad

    return call


def torch_loss(queries: Any, documents: Any, compiled: bool) -> Callable[[], Answer]:
    """cross_entropy of the normalised product, which keeps the matrix of scores."""
    targets = torch.arange(len(queries), device=queries.device)

    def losses(q: Any, d: Any) -> Any:
        scores = normalize(q) @ normalize(d).T / TEMPERATURE
        return cross_entropy(scores.float(), targets, reduction="none")

    return _by_autograd(queries, documents, torch.compile(losses) if compiled else losses)


def triton_loss(queries: Any, documents: Any) -> Callable[[], Answer]:
    from triton_loss import triton_losses

    def losses(q: Any, d: Any) -> Any:
        return triton_losses(normalize(q), normalize(d), TEMPERATURE)

    return _by_autograd(queries, documents, losses)


def expected_losses(queries: Any, documents: Any, some: Any, ids: Any = None) -> Any:
    """Losses of some rows in float64; documents with the id of a row's positive are dropped."""
    q = normalize(queries[some].double())
    scores = torch.cat([q @ normalize(part.double()).T for part in documents.split(1 << 16)], 1)
    positives = scores.gather(1, some[:, None])
    dropped = scores > positives - positives.abs() * RELATIVE_MARGIN if ids is not None else None
    if ids is not None:
        dropped |= ids[some][:, None] == ids
        dropped.scatter_(1, some[:, None], False)
        scores = scores.masked_fill(dropped, -torch.inf)
    logits = scores / TEMPERATURE
    return logits.logsumexp(1) - positives[:, 0] / TEMPERATURE


def _sample(rows: int, device: str) -> Any:
    return torch.linspace(0, rows - 1, min(SAMPLE, rows), device=device).long()


def _check_losses(row: Row, name: str, losses: Any, some: Any, expected: Any) -> None:
    error = (losses[some].double() - expected).abs().max().item() * TEMPERATURE
    row.check(f"loss of {name}", error, ALLOWED[name])


def _operations(sizes: tuple[int, int, int]) -> float:
    """One product forward and three backward."""
    queries, documents, dim = sizes
    return 8.0 * queries * documents * dim


def _work(sizes: tuple[int, int, int]) -> str:
    return " x ".join(f"{size:,}" for size in sizes)


def huge(meter: Meter, sizes: Sizes, peak: float) -> Row:
    """Weights and masks on: document ids, a relative margin, row weights."""
    m, n, dim = sizes.huge
    documents = meter.unit_rows(n, dim)
    queries = meter.near(documents, m)
    rng = np.random.default_rng(0)
    ids = rng.integers(0, max(1, n // 2), n)
    weights = torch.from_numpy(rng.uniform(0.25, 2.0, m).astype(np.float32)).to(meter.device)
    options = {"document_ids": ids, "relative_margin": RELATIVE_MARGIN, "precision": "bfloat16"}
    share = weights / weights.sum()
    call = stope_loss(queries, documents, share, temperature=TEMPERATURE, **options)
    row = Row("huge", _work(sizes.huge), meter.seconds(call, 1), _operations(sizes.huge))
    row.of_peak = row.operations / row.seconds / peak
    row.extra_bytes = meter.extra_bytes(call)
    row.target = "at least 50% of the peak, extra memory under 1 GiB"
    some = _sample(m, meter.device)
    known = torch.from_numpy(ids).to(meter.device)
    expected = expected_losses(queries, documents, some, known)
    _check_losses(row, "stope", call()[0], some, expected)
    return row


def square(meter: Meter, sizes: Sizes, peak: float, compiled: bool = True) -> Row:
    """As many documents as queries, against torch and Triton."""
    m, n, dim = sizes.square
    documents = meter.unit_rows(n, dim)
    queries = meter.near(documents, m)
    share = torch.full((m,), 1 / m, device=meter.device)
    options = {"temperature": TEMPERATURE, "precision": "bfloat16"}
    calls = {"stope": stope_loss(queries, documents, share, **options)}
    calls["torch"] = torch_loss(queries, documents, compiled)
    if meter.device == "cuda" and importlib.util.find_spec("triton"):
        calls["triton"] = triton_loss(queries, documents)
    row = Row("square", _work(sizes.square), meter.seconds(calls["stope"]))
    row.operations = _operations(sizes.square)
    row.of_peak = row.operations / row.seconds / peak
    row.extra_bytes = meter.extra_bytes(calls["stope"])
    row.target = "at least 2.5x torch, 1.3x triton"
    some = _sample(m, meter.device)
    expected = expected_losses(queries, documents, some)
    found = {}
    for name, call in calls.items():
        if name != "stope":
            row.against(name, meter.seconds(call))
        losses, of_queries, _ = call()
        _check_losses(row, name, losses, some, expected)
        found[name] = of_queries.float()
    for name in found.keys() - {"stope", "torch"}:
        difference = (found["stope"] - found[name]).norm() / found[name].norm()
        row.check(f"gradient against {name}", difference.item(), GRADIENT_ALLOWED)
    if "triton" not in calls:
        row.notes.append("no Triton here")
    return row
