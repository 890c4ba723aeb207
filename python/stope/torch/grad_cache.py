"""GradCache: the gradient of a whole batch with the activations of one chunk (docs/methods.md, H8).

1. encode all chunks without a graph, remembering the random state before each;
2. the loss of all representations R and its gradient u = dL/dR;
3. encode each chunk again from its random state and go back through <R_chunk, u_chunk>.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from stope._checks import integer


def cached_step(
    encoders: Any,
    inputs: Sequence[Any],
    loss: Callable[..., Any],
    *,
    chunk_size: int,
    scaler: Any = None,
    no_sync: Callable[[Any], contextlib.AbstractContextManager[Any]] | None = None,
) -> Any:
    """Add the gradients of ``loss(*representations)`` to the encoders' parameters, chunk by chunk.

    Equals ``loss(*(encoder(x) for encoder, x in ...)).backward()`` up to rounding, dropout
    included, while only one chunk's activations exist at a time. The price is one more forward
    pass.

    Args:
        encoders: one function from inputs to representations ``[rows, dim]`` for all inputs, or a
            sequence of them, one for each of the inputs (one module may stand there repeatedly).
        inputs: what to encode, such as (queries, documents). Each is a tensor, or a mapping, tuple
            or list of tensors (nested as you like) whose first axis counts the rows; values that
            are no tensors go to every chunk unchanged.
        loss: from all representations, in the order of the inputs, to a scalar. Parameters that it
            uses (a temperature) get their gradient too.
        chunk_size: rows that are encoded at a time.
        scaler: a ``torch.amp.GradScaler``; the loss is scaled before gradients are taken, and the
            caller steps and updates the scaler.
        no_sync: from an encoder to a context in which its backward passes do not communicate.
            Default: ``encoder.no_sync()`` where it exists (DistributedDataParallel). Every chunk
            but an encoder's last runs in it.

    Returns: The loss, without a graph (and without the scaler's factor).
    Thread safety: one step at a time for a model, whose gradients it adds to, and for a device,
    whose random state it replays.

    Raises:
        ValueError: chunk_size below 1, encoders that do not match the inputs, tensors of one input
            with different numbers of rows, or a loss that is no scalar.
        RuntimeError: the loss does not depend on one of the representations.

    Exact only if encoding a chunk twice from the same random state gives the same result: no
    statistics over the batch (BatchNorm in training) and no other hidden state. Random numbers are
    drawn once: the generator ends as after a single forward pass over the chunks.

    Source: Gao et al. 2021 (GradCache); docs/methods.md, H8.

    >>> import torch
    >>> from stope.torch import InfoNCELoss
    >>> encoder = torch.nn.Linear(4, 3)
    >>> queries, documents = torch.randn(6, 4), torch.randn(6, 4)
    >>> value = cached_step(encoder, (queries, documents), InfoNCELoss(), chunk_size=2)
    >>> value.requires_grad, encoder.weight.grad.shape
    (False, torch.Size([3, 4]))
    """
    integer(chunk_size, "chunk_size", 1)
    chunks = _chunks(_one_per_input(encoders, inputs), inputs, chunk_size)
    columns: list[list[Any]] = [[] for _ in inputs]
    for chunk in chunks:
        chunk.states.append(_RandomState(chunk.rows))
        with torch.no_grad():
            columns[chunk.column].append(chunk.encoder(chunk.rows))
    # Under autocast, some versions of torch would reuse the weights cast without a graph.
    torch.clear_autocast_cache()
    representations = [torch.cat(column).detach().requires_grad_() for column in columns]
    value = loss(*representations)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        raise ValueError("the loss must be one number, a tensor with one element")
    (value if scaler is None else scaler.scale(value)).backward()
    for column, representation in enumerate(representations):
        if representation.grad is None:
            raise RuntimeError(
                f"the loss does not depend on the representations of inputs[{column}]; leave it out"
            )
    _encode_again(chunks, [r.grad for r in representations], no_sync)
    return value.detach()


class _Chunk(NamedTuple):
    encoder: Any
    column: int
    first: int
    rows: Any
    states: list[_RandomState]  # filled by the first pass


class _RandomState:
    """The generators of the CPU and of the devices in use, to be put back for a while."""

    def __init__(self, rows: Any) -> None:
        self.devices = sorted({t.device.index for t in _tensors(rows) if t.device.type == "cuda"})
        self.cpu = torch.get_rng_state()
        self.cuda = [torch.cuda.get_rng_state(device) for device in self.devices]

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        with torch.random.fork_rng(devices=self.devices):
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def _encode_again(
    chunks: list[_Chunk],
    gradients: list[Any],
    no_sync: Callable[[Any], contextlib.AbstractContextManager[Any]] | None,
) -> None:
    last = {id(chunk.encoder): at for at, chunk in enumerate(chunks)}
    for at, chunk in enumerate(chunks):
        communicates = last[id(chunk.encoder)] == at
        quiet = contextlib.nullcontext() if communicates else _quiet(chunk.encoder, no_sync)
        with quiet:
            with chunk.states[0].restored():
                again = chunk.encoder(chunk.rows)
            if not again.requires_grad:
                continue
            gradient = gradients[chunk.column][chunk.first : chunk.first + again.shape[0]]
            # The same as going back through <again, gradient>, without rounding a sum.
            again.backward(gradient.to(again.dtype))


def _quiet(
    encoder: Any, no_sync: Callable[[Any], contextlib.AbstractContextManager[Any]] | None
) -> contextlib.AbstractContextManager[Any]:
    if no_sync is not None:
        return no_sync(encoder)
    own: contextlib.AbstractContextManager[Any] = (
        encoder.no_sync() if hasattr(encoder, "no_sync") else contextlib.nullcontext()
    )
    return own


def _one_per_input(encoders: Any, inputs: Sequence[Any]) -> list[Any]:
    if not inputs:
        raise ValueError("inputs is empty; give what to encode, such as (queries, documents)")
    if callable(encoders):
        return [encoders] * len(inputs)
    found = list(encoders)
    if len(found) != len(inputs):
        raise ValueError(
            f"encoders has {len(found)} entries for {len(inputs)} inputs; give one each, or one "
            "function for all"
        )
    return found


def _chunks(encoders: list[Any], inputs: Sequence[Any], chunk_size: int) -> list[_Chunk]:
    found = []
    for column, (encoder, given) in enumerate(zip(encoders, inputs, strict=True)):
        counts = {tensor.shape[0] for tensor in _tensors(given) if tensor.ndim}
        if len(counts) != 1:
            raise ValueError(
                f"inputs[{column}] has tensors with {sorted(counts) or 'no'} rows; all must have "
                "the same number, on their first axis"
            )
        (rows,) = counts
        if rows == 0:
            raise ValueError(f"inputs[{column}] is empty (0 rows); give at least one row")
        for first in range(0, rows, chunk_size):
            part = _slice(given, first, first + chunk_size)
            found.append(_Chunk(encoder, column, first, part, []))
    return found


def _tensors(given: Any) -> Iterator[Any]:
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, Mapping):
        for value in given.values():
            yield from _tensors(value)
    elif isinstance(given, (tuple, list)):
        for value in given:
            yield from _tensors(value)


def _slice(given: Any, first: int, end: int) -> Any:
    if isinstance(given, torch.Tensor):
        return given[first:end] if given.ndim else given
    if isinstance(given, Mapping):
        return {name: _slice(value, first, end) for name, value in given.items()}
    if isinstance(given, (tuple, list)):
        return type(given)([_slice(value, first, end) for value in given])
    return given
