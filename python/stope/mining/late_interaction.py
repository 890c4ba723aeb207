"""A late-interaction model (ColBERT) as a teacher: it scores pairs by their tokens' embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.encoders.cache import fingerprint_encoder

KIND = "MultiVectorEncoder"
_KEPT = 2**19  # vectors of tokens between calls; 256 MiB of 128 dims


class LateInteraction:
    """What sentence-transformers' MultiVectorEncoder says of pairs, in the form of a CrossEncoder.

    With the embeddings q_a and x_b of the tokens of a query and a document, its own similarity:

        maxsim      sum_a max_b q_a . x_b
        meanmaxsim  the mean over a in place of the sum

    Args:
        model: a MultiVectorEncoder; its prompts and limits of length hold.

    Memory: the vectors of 524,288 tokens, and those of one batch.

    Source: Khattab and Zaharia 2020 (ColBERT).
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._kept: dict[tuple[str, str], Any] = {}

    def fingerprint(self) -> str:
        """A digest of all that decides the scores."""
        return f"{fingerprint_encoder(self.model)} {self.model.similarity_fn_name}"

    def predict(
        self, pairs: Sequence[tuple[str, str]], batch_size: int = 64
    ) -> NDArray[np.float32]:
        """One score for each (query, document)."""
        queries, documents = zip(*pairs, strict=True)
        sides = (
            self._tokens("query", queries, self.model.encode_query, batch_size),
            self._tokens("document", documents, self.model.encode_document, batch_size),
        )
        self._forget()
        return np.asarray(self.model.similarity_pairwise(*sides).float().cpu(), np.float32)

    def _tokens(self, side: str, texts: Sequence[str], encode: Any, batch_size: int) -> list[Any]:
        new = [text for text in dict.fromkeys(texts) if (side, text) not in self._kept]
        if new:
            made = encode(new, batch_size=batch_size, show_progress_bar=False)
            self._kept.update(((side, text), rows) for text, rows in zip(new, made, strict=True))
        return [self._kept[side, text] for text in texts]

    def _forget(self) -> None:
        """Let the oldest go where there are too many."""
        total = sum(len(rows) for rows in self._kept.values())
        for name in list(self._kept):
            if total <= _KEPT:
                return
            total -= len(self._kept.pop(name))


def pairwise_teacher(teacher: Any) -> Any:
    """The teacher itself, or a late-interaction model as something that scores pairs."""
    known = getattr(teacher, "model_type", None) == KIND
    return LateInteraction(teacher) if known else teacher
