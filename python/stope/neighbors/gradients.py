"""Features of examples for `GradientInfluence`: projected gradients of a torch model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import torch
from stope._checks import integer
from stope._checks import path as as_path
from stope._kinds import a, callback, kinds, sequence
from stope.progress import Progress, check_progress

_BLOCK = 4096  # parameters that are projected at once
_EXAMPLES = 64  # whose gradients are held at once


@kinds(model=a(torch.nn.Module), examples=sequence, loss=callback)
def gradient_features(
    model: torch.nn.Module,
    examples: Sequence[Any],
    loss: Callable[[Any], torch.Tensor],
    *,
    dim: int = 8192,
    optimizer: Any = None,
    path: str | Path | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """The gradient of each example's loss, projected to a few dimensions, of length one.

    For every example: g = gradient of loss(example) with respect to the parameters that require
    one (LoRA's, say), then a random projection by signs, R g with R_ij = +1 or -1, then division by
    the length. Cosines of gradients survive it up to about sqrt(2 / dim). With an Adam optimizer
    the feature of a training example is what its step would be instead,

        (beta1 m + (1 - beta1) g) / sqrt(beta2 v + (1 - beta2) g² + eps),

    with the moments m and v that the optimizer holds, eps within the root and no correction of
    bias, as in the source; validation examples go without.

    Args:
        model: as it was at one checkpoint; put it into ``eval()`` for gradients without dropout.
        examples: what ``loss`` takes, one after another.
        loss: example -> scalar tensor.
        dim: of a feature.
        optimizer: torch.optim.Adam or AdamW after steps on these parameters, or None.
        path: where to write the features, a .npy file, memory-mapped; None for memory.
        seed: of R. Features that are compared need the same one.
        progress: called with (done, total) after every 64 examples.

    Returns:
        float32 ``[examples, dim]``; a zero gradient stays a zero row.

    Raises:
        TypeError: an optimizer without moments of Adam's kind.
        ValueError: no parameter requires a gradient, the optimizer has made no step, a gradient
            that is not finite (naming the example).

    Memory: 64 gradients, and 16 KiB·dim of signs; the features, unless ``path`` holds them. Time
    parameters · dim for each example: it is meant for LoRA.

    Source: LESS (Xia et al. 2024), docs/methods.md, F1.

    >>> model = torch.nn.Linear(2, 1, bias=False)
    >>> rows = [torch.tensor([1.0, 0.0]), torch.tensor([2.0, 0.0]), torch.tensor([-1.0, 0.0])]
    >>> features = gradient_features(model, rows, lambda row: model(row).sum(), dim=64)
    >>> (features @ features[0]).round(4).tolist()
    [1.0, 1.0, -1.0]
    """
    integer(dim, "dim", 1)
    integer(seed, "seed", 0)
    check_progress(progress)
    parameters = [each for each in model.parameters() if each.requires_grad]
    if not parameters:
        raise ValueError("model has no parameter that requires a gradient; nothing to project")
    adam = None if optimizer is None else _moments(optimizer, parameters)
    shape = (len(examples), dim)
    features: Any = np.zeros(shape, np.float32)
    if path is not None:
        file = as_path(path, "path")
        features = np.lib.format.open_memmap(file, "w+", np.float32, shape)
    for start in range(0, len(examples), _EXAMPLES):
        part = range(start, min(start + _EXAMPLES, len(examples)))
        gradients = torch.stack(
            [_gradient(parameters, loss, examples[at], at, adam) for at in part]
        )
        projected = _project(gradients, dim, seed)
        lengths = projected.norm(dim=1, keepdim=True)
        features[part.start : part.stop] = (projected / lengths.clamp(min=1e-30)).numpy()
        if progress is not None:
            progress(part.stop, len(examples))
    return features  # type: ignore[no-any-return]


class _Adam:
    """The moments of all parameters in one vector each, and the optimizer's numbers."""

    def __init__(self, m: torch.Tensor, v: torch.Tensor, options: Any) -> None:
        self.m, self.v = m, v
        self.beta1, self.beta2 = options["betas"]
        self.eps = options["eps"]

    def step(self, gradient: torch.Tensor) -> torch.Tensor:
        mean = self.beta1 * self.m + (1 - self.beta1) * gradient
        square = self.beta2 * self.v + (1 - self.beta2) * gradient.square()
        return mean / (square + self.eps).sqrt()


def _moments(optimizer: Any, parameters: Iterable[torch.nn.Parameter]) -> _Adam:
    groups = getattr(optimizer, "param_groups", None)
    if not groups or "betas" not in groups[0]:
        raise TypeError(f"optimizer is a {type(optimizer).__name__}; give torch.optim.Adam or None")
    moments: dict[str, list[torch.Tensor]] = {"exp_avg": [], "exp_avg_sq": []}
    for parameter in parameters:
        state = optimizer.state.get(parameter, {})
        if "exp_avg" not in state:
            raise ValueError("optimizer has no moments for a parameter; let it make a step first")
        for name, parts in moments.items():
            parts.append(state[name].detach().reshape(-1).float().cpu())
    return _Adam(torch.cat(moments["exp_avg"]), torch.cat(moments["exp_avg_sq"]), groups[0])


def _gradient(
    parameters: list[torch.nn.Parameter],
    loss: Callable[[Any], torch.Tensor],
    example: Any,
    number: int,
    adam: _Adam | None,
) -> torch.Tensor:
    parts = torch.autograd.grad(loss(example), parameters, allow_unused=True)
    gradient = torch.cat(
        [
            (torch.zeros_like(parameter) if part is None else part)
            .detach()
            .reshape(-1)
            .float()
            .cpu()
            for part, parameter in zip(parts, parameters, strict=True)
        ]
    )
    if not bool(torch.isfinite(gradient).all()):
        raise ValueError(
            f"examples[{number}] has a gradient that is not finite; leave it out or lower the loss"
        )
    return gradient if adam is None else adam.step(gradient)


def _project(gradients: torch.Tensor, dim: int, seed: int) -> torch.Tensor:
    projected = torch.zeros(len(gradients), dim)
    for block, start in enumerate(range(0, gradients.shape[1], _BLOCK)):
        part = gradients[:, start : start + _BLOCK]
        random = np.random.default_rng([seed, block])
        bits = np.frombuffer(random.bytes(-(-part.shape[1] * dim // 8)), np.uint8)
        signs = np.unpackbits(bits, count=part.shape[1] * dim).reshape(-1, dim)
        projected += part @ (2.0 * torch.from_numpy(signs).float() - 1)
    return projected
