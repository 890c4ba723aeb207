"""infonce: the row losses of the fused contrastive loss, differentiable by torch."""

from __future__ import annotations

from typing import Any

import stope
import torch
from stope._checks import shown
from stope.ops._infonce_options import ARRAY_NAMES, OPTION_NAMES
from stope.torch import _operators
from stope.torch._lists import id_lists, one_each
from stope.torch._operators import Statistics

# What a loss module fixes when it is made; everything else comes with every call.
SCALAR_OPTIONS = (
    *(name for name in OPTION_NAMES if name not in ("temperature", "bias")),
    "max_score",
    "min_score",
)


def infonce(
    queries: Any,
    documents: Any,
    positives: Any = None,
    *,
    temperature: Any = 0.05,
    bias: Any = 0.0,
    **options: Any,
) -> Any:
    """Row losses of the contrastive loss, for gradients by torch.

    With similarities S (cosine or dot), s = 1 / temperature and Y the positives' weights divided by
    their sum, the plain objective (``objective="out"``) of query i is

        L_i = log sum_j exp(s S_ij) - sum_p Y_ip s S_ip,

    over all documents j that no mask drops. Options, masks, directions and the other objectives are
    those of :func:`stope.infonce_forward`, where each is explained.

    Args:
        queries: ``[M, d]`` float32, float16 or bfloat16, on the CPU or on a CUDA device.
        documents: ``[N, d]``; where dtypes differ, both become the wider one.
        positives: ids ``[M]`` or ``[M, n]``, a list of id sequences, or CSR as a tuple
            ``(offsets, ids)``. None: document i is query i's positive.
        temperature, bias: numbers or tensors with one element, which may require a gradient.
        **options: the others of :func:`stope.infonce_forward`: ``hard_negatives`` and ``exclude``
            in the forms of ``positives``, ``max_score`` and ``min_score`` numbers or tensors
            ``[M]``, what comes with a batch as tensors.

    Returns:
        float32 ``[M]``. Gradients flow to queries, documents, temperature and bias, each in the
        dtype of its tensor; ids, masks, margins, guides and the queue are constants.

    Thread safety: any number of threads may call at once.

    Raises:
        ValueError: tensors on different devices, and what :func:`stope.infonce_forward` raises.
        TypeError: an unknown option, an argument that is no tensor, float64 matrices.
        RuntimeError: tensors on a device that this stope does not compute on; a second derivative;
            in the backward pass, an input that was changed in place after the loss was computed.

    Memory beyond inputs and outputs: O(M + N), nothing of size M x N, forward and backward. A
    matrix whose last axis is strided is copied once. All matrices are on one device; vectors, ids
    and numbers may also be on the CPU, where the core reads them. Works under ``torch.compile``
    (also with ``fullgraph=True``) and under autocast, where the loss stays float32.

    Source: docs/methods.md, H1 to H5.

    >>> import torch
    >>> queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> losses = infonce(queries, torch.eye(2), temperature=0.5)
    >>> [round(loss, 4) for loss in losses.tolist()]
    [0.1269, 0.1269]
    >>> losses.mean().backward()
    >>> queries.grad.shape
    torch.Size([2, 2])
    """
    known = dict.fromkeys((*ARRAY_NAMES[1:], *SCALAR_OPTIONS))
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"infonce has no option {unknown[0]!r}; it has {', '.join(known)}")
    of_batch = {name: options.pop(name) for name in ARRAY_NAMES if name in options}
    return infonce_statistics(
        queries,
        documents,
        positives,
        temperature=temperature,
        bias=bias,
        options=_operators.encode(options),
        **of_batch,
    )[0]


def infonce_statistics(
    queries: Any,
    documents: Any,
    positives: Any = None,
    *,
    temperature: Any = 0.05,
    bias: Any = 0.0,
    options: str = "{}",
    **arguments: Any,
) -> tuple[Any, Statistics]:
    """:func:`infonce` with its row statistics: (losses with gradient, statistics without).

    The scalar options come encoded: torch.compile would take a module's floats for variables.

    Thread safety: any number of threads may call at once.
    """
    _check_tensor(queries, "queries")
    _check_tensor(documents, "documents")
    wide = torch.promote_types(queries.dtype, documents.dtype)
    rows, device = queries.shape[0], torch.device("cpu")  # where the core reads ids
    tensors: dict[str, Any] = {}
    if positives is None:
        offsets, ids = one_each(rows, device)
    else:
        offsets, ids = id_lists(positives, "positives", rows, device)
    for name in _operators.LISTS:
        value = arguments.pop(name, None)
        if value is not None:
            lists = id_lists(value, name, rows, device)
            tensors[f"{name}_offsets"], tensors[f"{name}_ids"] = lists
    for name, value in arguments.items():
        if value is not None:
            tensors[name] = _as_tensor(value, name).detach()
    inputs = [
        queries.to(wide),
        documents.to(wide),
        _one_number(temperature, "temperature"),
        _one_number(bias, "bias"),
        offsets,
        ids,
        *(tensors.get(name) for name in _operators.OPTIONAL_TENSORS),
    ]
    _check_devices(inputs)
    losses, *statistics = torch.ops.stope.infonce_forward(*inputs, options)
    return losses, Statistics(losses.detach(), *statistics[:-1])


def _as_tensor(value: Any, name: str) -> Any:
    if torch.is_tensor(value):
        return value
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} is {shown(value)}; give a tensor") from None


_NAMES = (
    "queries",
    "documents",
    "temperature",
    "bias",
    "positives",
    "positives",
    *_operators.OPTIONAL_TENSORS,
)
_MATRICES = ("documents", "guide_queries", "guide_documents", "queue", "guide_queue")
_HAS_CUDA = stope.build_info()["cuda"]  # not asked while torch.compile traces


def computes_on(device: Any) -> bool:
    """Whether this stope computes where tensors of this device lie.

    >>> computes_on(torch.device("cpu")), computes_on(torch.device("meta"))
    (True, False)
    """
    return bool(device.type == "cpu" or (_HAS_CUDA and device.type == "cuda"))


def _check_devices(inputs: list[Any]) -> None:
    device = inputs[0].device
    for name, tensor in zip(_NAMES, inputs, strict=True):
        if tensor is None or tensor.device == device:
            continue
        if name in _MATRICES or tensor.device.type != "cpu":
            raise ValueError(
                f"queries is on {device}, but {name} is on {tensor.device}; move them to one device"
            )
    if not computes_on(device):
        where = "the CPU and CUDA devices" if _HAS_CUDA else "the CPU"
        raise RuntimeError(
            f"queries is on {device}, but this stope computes on {where} only; move the tensors "
            "there with .cpu()"
        )


def _check_tensor(value: Any, name: str) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}; give a torch tensor")
    if value.ndim != 2:
        raise ValueError(f"{name} has {value.ndim} dimensions; give a matrix, one row each")
    if value.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise TypeError(
            f"{name} has dtype {value.dtype}; give float32, float16 or bfloat16, such as "
            f"{name}.float()"
        )


def _one_number(value: Any, name: str) -> Any:
    # A Python number becomes float64, so that the core sees the very number that was given.
    if not isinstance(value, torch.Tensor):
        # torch.compile knows the kind of its symbols, not their attributes.
        plain = isinstance(value, (int, float))
        if not plain and (getattr(value, "ndim", False) or not hasattr(value, "__float__")):
            raise TypeError(f"{name} is {shown(value)}; give a number")
        return torch.tensor(float(value), dtype=torch.float64)
    if value.numel() != 1:
        raise ValueError(f"{name} has {value.numel()} elements; give one number")
    return value.reshape(())
