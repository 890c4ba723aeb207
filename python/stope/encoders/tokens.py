"""Token ids of a static encoder: each text is tokenized once while a training or a run lasts.

A static encoder looks vectors up and multiplies nothing, so to tokenize is most of its work, and
most of the rest is sentence-transformers asking of every text whether it is one. Both are left out
for texts that are known. Embeddings are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.encoders.versions import is_static


class TokenIds:
    """The token ids of texts by one tokenizer, which must not change meanwhile.

    Args:
        tokenizer: a `tokenizers.Tokenizer`, as StaticEmbedding has it.

    Memory: 4 bytes per token, and some 150 per text.

    Thread safety: none; each thread has its own.

    Example:
        >>> from stope.encoders.models import train_tokenizer
        >>> ids = TokenIds(train_tokenizer(["red ore", "deep pit"] * 9, vocab_size=16))
        >>> first, second = ids.of(["ore", "ore"])
        >>> first is second, first.dtype.name
        (True, 'int32')
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[str, NDArray[np.int32]] = {}

    def of(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        """The ids of each text, int32; equal texts share theirs."""
        known = self._known
        new = list(dict.fromkeys(text for text in texts if text not in known))
        for start in range(0, len(new), 4096):  # the library's encodings are far larger than ids
            part = new[start : start + 4096]
            encodings = self.tokenizer.encode_batch(part, add_special_tokens=False)
            for text, encoding in zip(part, encodings, strict=True):
                known[text] = np.array(encoding.ids, dtype=np.int32)
        return [known[text] for text in texts]

    def features(self, texts: Sequence[str], prompt: str | None = None) -> dict[str, Any]:
        """What StaticEmbedding makes of texts: int64 tensors input_ids and offsets."""
        torch = need("torch", extra="train")
        rows = self.of([prompt + text for text in texts] if prompt else texts)
        offsets = np.zeros(len(rows), dtype=np.int64)
        np.cumsum([len(row) for row in rows[:-1]], out=offsets[1:])
        ids = np.concatenate([*rows, np.empty(0, np.int32)], dtype=np.int64)
        return {"input_ids": torch.from_numpy(ids), "offsets": torch.from_numpy(offsets)}


@contextmanager
def tokens_once(model: Any, known: TokenIds | None = None) -> Iterator[None]:
    """Let a static encoder meanwhile tokenize each text once; another encoder is as it was.

    Where it is in force already, the outer one stays.

    Args:
        model: a SentenceTransformer.
        known: ids of its tokenizer that there are already.
    """
    if not is_static(model):
        yield
        return
    model = getattr(model, "_orig_mod", model)
    ids = TokenIds(model[0].tokenizer) if known is None else known
    readers: list[tuple[Any, str]] = []
    # The model's own asks what its inputs are; what has it already (a loss) still comes to the
    # module's.
    for part in (model, model[0]):
        name = "preprocess" if hasattr(part, "preprocess") else "tokenize"
        if name not in part.__dict__:
            part.__dict__[name] = _reader(getattr(part, name), ids)
            readers.append((part, name))
    try:
        yield
    finally:
        for part, name in readers:
            del part.__dict__[name]


def _reader(original: Callable[..., Any], ids: TokenIds) -> Callable[..., Any]:
    def read(inputs: Any, prompt: str | None = None, **options: Any) -> Any:
        if not inputs or not all(type(text) is str for text in inputs):
            options |= {"prompt": prompt} if prompt else {}
            return original(inputs, **options)  # which says what is wrong
        return ids.features(inputs, prompt)

    return read
