"""The core's fused contrastive loss as torch operators: stope::infonce_forward and _backward.

torch sees two opaque functions of tensors: forward gives the row losses and row statistics,
backward takes the gradient of the row losses. Both run in the core, so nothing of size
rows x columns exists. Scalar options travel as one JSON string, a constant to torch.compile.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import stope
import torch
from stope.ops._infonce_options import ARRAY_NAMES
from stope.ops._infonce_state import state_size

Scalar = bool | int | float | str | None | tuple[str, ...]
LISTS = ("hard_negatives", "exclude")  # which cross as two tensors
OPTIONAL_TENSORS = tuple(
    tensor
    for name in ARRAY_NAMES
    if name != "positives"
    for tensor in ((f"{name}_offsets", f"{name}_ids") if name in LISTS else (name,))
)
_INPUTS = (
    "Tensor queries, Tensor documents, Tensor temperature, Tensor bias, "
    "Tensor positive_offsets, Tensor positive_ids, "
    + "".join(f"Tensor? {name}, " for name in OPTIONAL_TENSORS)
)
_DIFFERENTIABLE = 4  # queries, documents, temperature, bias


class Statistics(NamedTuple):
    """What the forward pass knows of every query, without gradient.

    Attributes:
        losses: float32 ``[M]``, before weighting; 0 for a query without positives.
        log_sum_exp: float32 ``[M]``, the logarithm of the whole partition.
        positive_scores: float32 ``[nnz]``, raw similarities of the positives, in their order.
        negatives: int64 ``[M]``, how many negatives the masks left.
        best_negatives: int64 ``[M]``, id of the best of them among the documents, -1 if none.
        best_negative_scores: float32 ``[M]``, its raw similarity, -inf if none.
        ranks: int64 ``[M]``, 1 + negatives above the best positive; 0 without positives.
        kept: int64 ``[M]``, how many of the negatives get a gradient (``drop``).
        left_out: float32 ``[M]``, at most this share of the negatives' mass gets none.
    """

    losses: Any
    log_sum_exp: Any
    positive_scores: Any
    negatives: Any
    best_negatives: Any
    best_negative_scores: Any
    ranks: Any
    kept: Any
    left_out: Any


def encode(options: dict[str, Scalar]) -> str:
    """The options as JSON, in plain string operations: torch.compile cannot trace json.dumps."""
    return (
        "{" + ", ".join([f'"{name}": {_literal(value)}' for name, value in options.items()]) + "}"
    )


def _literal(value: Scalar) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join([_literal(item) for item in value]) + "]"
    return repr(value)


@functools.lru_cache(maxsize=256)
def _decoded(options: str) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(options).items()}


def _rows(matrix: Any) -> Any:
    """The core reads rows at any distance from each other, but their elements side by side."""
    return matrix if matrix.stride(-1) == 1 or matrix.shape[-1] <= 1 else matrix.contiguous()


def _arguments(tensors: tuple[Any, ...], options: str) -> dict[str, Any]:
    """Keyword arguments of the core from everything after the two matrices."""
    temperature, bias, positive_offsets, positive_ids, *rest = tensors
    arrays = {
        name: tensor if tensor.ndim < 2 else _rows(tensor)
        for name, tensor in zip(OPTIONAL_TENSORS, rest, strict=True)
        if tensor is not None
    }
    for name in LISTS:
        if f"{name}_offsets" in arrays:
            arrays[name] = (arrays.pop(f"{name}_offsets"), arrays.pop(f"{name}_ids"))
    return {
        **_decoded(options),
        **arrays,
        "positives": (positive_offsets, positive_ids),
        "temperature": float(temperature),
        "bias": float(bias),
    }


def _forward(queries: Any, documents: Any, *rest: Any) -> tuple[Any, ...]:
    *tensors, options = rest
    result = stope.infonce_forward(
        _rows(queries.detach()), _rows(documents.detach()), **_arguments(tuple(tensors), options)
    )
    return tuple(torch.as_tensor(field) for field in result)


def _forward_fake(queries: Any, documents: Any, *rest: Any) -> tuple[Any, ...]:
    *tensors, options = rest
    ids, optional = tensors[3], dict(zip(OPTIONAL_TENSORS, tensors[4:], strict=True))
    queue = optional["queue"]
    rows = queries.shape[0]

    def floats(count: Any) -> Any:
        return queries.new_empty(count, dtype=torch.float32)

    def integers(count: Any) -> Any:
        return queries.new_empty(count, dtype=torch.int64)

    size = state_size(
        rows,
        documents.shape[0],
        0 if queue is None else queue.shape[0],
        _decoded(options),
    )
    return (
        floats(rows),
        floats(rows),
        floats(ids.shape[0]),
        integers(rows),
        integers(rows),
        floats(rows),
        integers(rows),
        integers(rows),
        floats(rows),
        queries.new_empty(size, dtype=torch.float64),
    )


def _backward(
    row_gradients: Any,
    document_gradients: bool,
    saved: list[Any],
    queries: Any,
    documents: Any,
    *rest: Any,
) -> tuple[Any, ...]:
    *tensors, options = rest
    gradients = stope.infonce_backward(
        _rows(queries.detach()),
        _rows(documents.detach()),
        stope.InfoNCE(*saved),
        row_gradients.detach().contiguous(),
        document_gradients=document_gradients,
        **_arguments(tuple(tensors), options),
    )
    temperature, bias = (
        # A tensor while a CUDA graph is recorded: it stays on its device then.
        value
        if isinstance(value, torch.Tensor)
        else torch.tensor(value, dtype=torch.float64, device=tensor.device)
        for value, tensor in zip((gradients.temperature, gradients.bias), tensors[:2], strict=True)
    )
    of_documents = documents.new_zeros((0, documents.shape[1]), dtype=torch.float32)
    if document_gradients:
        of_documents = torch.as_tensor(gradients.documents)
    return torch.as_tensor(gradients.queries), of_documents, temperature, bias


def _backward_fake(
    row_gradients: Any,
    document_gradients: bool,
    saved: list[Any],
    queries: Any,
    documents: Any,
    *rest: Any,
) -> tuple[Any, ...]:
    temperature, bias = rest[:2]
    columns = documents.shape[0] if document_gradients else 0
    return (
        queries.new_empty(queries.shape, dtype=torch.float32),
        documents.new_empty((columns, documents.shape[1]), dtype=torch.float32),
        temperature.new_empty((), dtype=torch.float64),
        bias.new_empty((), dtype=torch.float64),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    *tensors, options = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.options = options
    ctx.inputs = len(tensors)
    # Saved this way, torch itself refuses a backward pass after an in-place change of an input.
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, row_gradients: Any, *_: Any) -> tuple[Any, ...]:
    nothing: tuple[Any, ...] = (None,) * (ctx.inputs + 1)
    if row_gradients is None:
        return nothing
    kept = ctx.saved_tensors  # once: a checkpoint around the loss gives them no second time
    tensors, saved = kept[: ctx.inputs], list(kept[ctx.inputs :])
    gradients = torch.ops.stope.infonce_backward(
        row_gradients, ctx.needs_input_grad[1], saved, *tensors, ctx.options
    )
    wanted = zip(gradients, tensors, ctx.needs_input_grad, strict=False)
    return (
        *(gradient.to(tensor.dtype) if need else None for gradient, tensor, need in wanted),
        *nothing[_DIFFERENTIABLE:],
    )


def _refuse_second_derivative(ctx: Any, *_: Any) -> None:
    raise RuntimeError(
        "stope computes first derivatives of infonce only, but a second derivative was asked for "
        "(backward through a gradient made with create_graph=True); for a gradient penalty, "
        "compute the loss in plain torch"
    )


def _nothing_to_save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    return None


def _check_weights(weights: Any, none_is_fine: bool) -> Any:
    values = weights.detach()
    bad = torch.nonzero(~(values >= 0) | torch.isinf(values))
    if bad.numel():
        row = int(bad[0])
        raise ValueError(
            f"weights of query {row} is {float(values[row])}; weights are finite and at least 0"
        )
    if not none_is_fine and not bool((values > 0).any()):
        raise ValueError(
            "weights are all zero, so their mean loss is undefined; give at least one query a "
            "positive weight, or leave the batch out"
        )
    return weights.clone()


def _define(name: str, schema: str, kernel: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    operator = torch.library.custom_op(name, kernel, mutates_args=(), schema=schema)
    operator.register_fake(fake)
    return operator


_define(
    "stope::infonce_forward",
    f"({_INPUTS}str options) -> ({', '.join(['Tensor'] * len(stope.InfoNCE._fields))})",
    _forward,
    _forward_fake,
).register_autograd(_differentiate, setup_context=_save)

_define(
    "stope::infonce_backward",
    f"(Tensor row_gradients, bool document_gradients, Tensor[] saved, {_INPUTS}str options) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    _backward,
    _backward_fake,
).register_autograd(_refuse_second_derivative, setup_context=_nothing_to_save)

_define(
    "stope::checked_weights",
    "(Tensor weights, bool none_is_fine) -> Tensor",
    _check_weights,
    lambda weights, none_is_fine: torch.empty_like(weights),
).register_autograd(lambda ctx, gradient: (gradient, None), setup_context=_nothing_to_save)
