"""Texts to embeddings, with any encoder.

An encoder is any object with ``encode(list of strings) -> array [texts, dim]``. One that also has
``encode_query`` and ``encode_document`` (sentence-transformers) is asked through those, so that its
own prompts and routes apply. One that has ``encode_all(texts, role, prompt, batch_size, progress)``
is asked for all texts by that alone (`stope.scale.ray` shares their batches out).

Thread safety: these functions keep nothing; threads may share what the encoder lets them share.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stope._checks import texts as texts_of
from stope._host import on_host
from stope._kinds import Check, at_least, callback, kinds, maybe, string
from stope.progress import Progress


def has_encode(value: Any, name: str) -> None:
    """An object with the method encode, which no string or bytes is."""
    if isinstance(value, str | bytes) or not callable(getattr(value, "encode", None)):
        raise TypeError(
            f"{name} is {type(value).__name__}, which has no encode method; pass a "
            "sentence-transformers model or any object with encode(list of strings) -> array"
        )


ENCODING: dict[str, Check] = {
    "encoder": has_encode,
    "batch_size": at_least(1),
    "progress": maybe(callback),
}


class Encoder(Protocol):
    """Anything that turns a list of texts into an array with one row per text."""

    def encode(self, sentences: list[str], /) -> Any:
        """Embed the texts."""


@kinds(**ENCODING, texts=texts_of, prompt=maybe(string))
def encode_queries(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    prompt: str | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Embed queries: through ``encoder.encode_query`` where it exists, else ``encoder.encode``.

    Args:
        encoder: see the module; embeddings of any float or integer type, torch tensors included.
        texts: strings.
        prompt: put before every text. None leaves the encoder's own query prompt in force.
        batch_size: texts per call.
        progress: called with (texts done, texts).

    Returns:
        float32 ``[len(texts), dim]``, C-contiguous, as the encoder gave them (not normalised).

    Raises:
        TypeError: encoder has no encode method, or texts are not strings.
        ValueError: no texts, batch_size below 1, or the encoder returned a wrong shape.

    Memory: the result, and one batch.
    """
    return _encode(encoder, "encode_query", "queries", texts, prompt, batch_size, progress)


@kinds(**ENCODING, texts=texts_of, prompt=maybe(string))
def encode_corpus(
    encoder: Encoder,
    texts: Sequence[str],
    *,
    prompt: str | None = None,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Embed documents: `encode_queries` through ``encoder.encode_document`` where it exists."""
    return _encode(encoder, "encode_document", "corpus", texts, prompt, batch_size, progress)


def _encode(
    encoder: Encoder,
    method: str,
    name: str,
    texts: Sequence[str],
    prompt: str | None,
    batch_size: int,
    progress: Progress | None,
) -> NDArray[np.float32]:
    listed, encode_all = list(texts), getattr(encoder, "encode_all", None)
    if encode_all is not None:
        role = "query" if name == "queries" else "corpus"
        every = encode_all(listed, role, prompt, batch_size, progress)
        return _as_float32(every, len(listed), f"{type(encoder).__name__}.encode_all")
    call = getattr(encoder, method, None) or encoder.encode
    options = _options(call, prompt, batch_size)
    if prompt is not None and "prompt" not in options:
        listed = [prompt + text for text in listed]

    def batches() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, len(listed), batch_size):
            batch = listed[start : start + batch_size]
            made = call(batch, **options)
            yield start, _as_float32(made, len(batch), f"{type(encoder).__name__}.encode")

    return put_together(batches(), len(listed), name, progress)


def put_together(
    batches: Iterable[tuple[int, NDArray[np.float32]]],
    count: int,
    name: str,
    progress: Progress | None,
) -> NDArray[np.float32]:
    """The embeddings of so many texts, from batches in any order: first text and rows of each."""
    result: NDArray[np.float32] | None = None
    done = 0
    for start, rows in batches:
        if result is None:
            result = np.empty((count, rows.shape[1]), dtype=np.float32)
        if rows.shape[1] != result.shape[1]:
            raise ValueError(
                f"encoder gave {rows.shape[1]} columns for text {start} of {name} "
                f"but {result.shape[1]} before; its output must have one width"
            )
        result[start : start + len(rows)] = rows
        done += len(rows)
        if progress is not None:
            progress(done, count)
    assert result is not None
    return result


def _options(call: Callable[..., Any], prompt: str | None, batch_size: int) -> dict[str, Any]:
    """Keyword arguments of sentence-transformers that `call` accepts by name."""
    try:
        known = inspect.signature(call).parameters
    except ValueError:  # a builtin or a compiled function shows no signature
        return {}
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "show_progress_bar": False,
        "convert_to_numpy": True,
    }
    if prompt is not None:
        options["prompt"] = prompt
    return {name: value for name, value in options.items() if name in known}


def _as_float32(output: Any, rows: int, call: str) -> NDArray[np.float32]:
    if isinstance(output, Mapping):
        raise TypeError(
            f"{call} gave a {type(output).__name__}; it must give an array of shape "
            f"({rows}, dim): give an encoder that returns the embeddings alone"
        )
    if hasattr(output, "detach"):
        output = output.detach().float()
    try:
        array = on_host(output)
    except ValueError as error:
        raise ValueError(
            f"{call} gave rows of different widths for {rows} texts; it must give "
            f"numbers of shape ({rows}, dim)"
        ) from error
    if array.ndim != 2 or len(array) != rows or array.dtype.kind not in "fiV":
        raise ValueError(
            f"{call} gave an array of shape {array.shape} and type {array.dtype} "
            f"for {rows} texts; it must give numbers of shape ({rows}, dim)"
        )
    return np.ascontiguousarray(array, dtype=np.float32)
