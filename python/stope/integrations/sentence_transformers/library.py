"""What the loss needs of sentence-transformers, wherever versions 5 and 6 keep it."""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import torch
from stope._extras import need

LIBRARY = need("sentence_transformers", extra="train")


def part(*places: str) -> Any:
    """The first of these names ("module:attribute") that the installed version has, or None."""
    for place in places:
        module, _, attribute = place.partition(":")
        try:
            return getattr(importlib.import_module(f"sentence_transformers.{module}"), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("sentence_transformers"):
                raise
    return None


embed_columns = part("base.losses.merged_forward:embed_columns")
StaticEmbedding = part("sentence_transformer.modules:StaticEmbedding", "models:StaticEmbedding")
Collator: Any = part(
    "sentence_transformer.data_collator:SentenceTransformerDataCollator",
    "data_collator:SentenceTransformerDataCollator",
)
_has_static_input = part("base.losses:has_static_embedding_input")
# Before the mixin, MatryoshkaLoss knew the losses with a gradient cache by their class.
CachedBase: Any = part("base.losses:CachedLossMixin", "losses:CachedMultipleNegativesRankingLoss")


def floats(embeddings: Any) -> Any:
    """Embeddings in a dtype that the core takes."""
    return embeddings.float() if embeddings.dtype == torch.float64 else embeddings


def is_static(model: Any) -> bool:
    """Whether the model looks up one vector per token and keeps no activations."""
    if _has_static_input is not None:
        return bool(_has_static_input(model))
    return isinstance(getattr(model, "_orig_mod", model)[0], StaticEmbedding)


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


def texts_of(tokenizer: Any, features: dict[str, Any]) -> list[str]:
    """The texts that were tokenized, as far as the tokens tell."""
    rows = features["input_ids"].tolist()
    if "cu_seq_lens_q" in features:  # texts without padding, one after the other
        ends, (flat,) = features["cu_seq_lens_q"].tolist(), rows
        rows = [flat[start:end] for start, end in itertools.pairwise(ends)]
    return list(tokenizer.batch_decode(rows, skip_special_tokens=True))


INFONCE_PAPER = """
@article{oord2018representation,
    title={Representation Learning with Contrastive Predictive Coding},
    author={van den Oord, Aaron and Li, Yazhe and Vinyals, Oriol},
    journal={arXiv preprint arXiv:1807.03748},
    year={2018}
}
"""
GIST_PAPER = """
@article{solatorio2024gistembed,
    title={GISTEmbed: Guided In-sample Selection of Training Negatives for Text Embedding
        Fine-tuning},
    author={Solatorio, Aivin V.},
    journal={arXiv preprint arXiv:2402.16829},
    year={2024}
}
"""
GRAD_CACHE_PAPER = """
@article{gao2021scaling,
    title={Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup},
    author={Gao, Luyu and Zhang, Yunyi and Han, Jiawei and Callan, Jamie},
    journal={arXiv preprint arXiv:2101.06983},
    year={2021}
}
"""
