"""What a guide needs to read the texts of a batch: the model's tokens, or its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from stope.encoders.versions import Features, is_static, reader_of


def reads_other_tokens(model: Any, guide: Any) -> bool:
    """Whether the guide cannot read the features that the model's tokenizer makes."""
    same_words = model.tokenizer.get_vocab() == guide.tokenizer.get_vocab()
    if is_static(model) and not (is_static(guide) and same_words):
        raise ValueError(
            "guide reads other tokens than the model, and a static encoder's tokens do not give "
            "the text back; use a guide with the model's tokenizer"
        )
    if is_static(model):
        return False
    if is_static(guide) or not same_words:
        return True
    longest = (getattr(encoder, "max_seq_length", None) for encoder in (model, guide))
    ours, theirs = (float("inf") if length is None else length for length in longest)
    return bool(theirs < ours)


def guide_features(model: Any, guide: Any) -> Callable[[Features], Features]:
    """The function from the model's features to those of the guide.

    It makes new dictionaries, since modules write into the ones that they get.

    Raises:
        ValueError: the guide cannot be told the texts.
    """
    if not reads_other_tokens(model, guide):
        return dict
    tokenizer, read = model.tokenizer, reader_of(guide)  # wrappers of the model hide both

    def read_again(features: Features) -> Features:
        own = read(_texts_of(tokenizer, features))
        return {k: v.to(guide.device) if hasattr(v, "to") else v for k, v in own.items()}

    return read_again


def _texts_of(tokenizer: Any, features: Features) -> list[str]:
    """The texts that were tokenized, as far as the tokens tell."""
    rows = features["input_ids"].tolist()
    if "cu_seq_lens_q" in features:  # texts without padding, one after the other
        ends, (flat,) = features["cu_seq_lens_q"].tolist(), rows
        rows = [flat[start:end] for start, end in itertools.pairwise(ends)]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=True))
