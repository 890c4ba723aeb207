"""sentence-transformers' ranking losses by their own names and arguments, over the fused loss.

Each takes what the library's class of its name takes, in its order, and computes the same value and
gradient without the score matrix; options of :class:`InfoNCELoss` may follow by name (weighting=,
queue_size= ...).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from stope._checks import real, shown
from stope._kinds import at_least, kinds, strings
from stope.encoders.encode import has_encode
from stope.encoders.versions import Features
from stope.integrations.sentence_transformers.cached import CachedInfoNCELoss
from stope.integrations.sentence_transformers.loss import TOKENS, InfoNCELoss
from stope.integrations.sentence_transformers.options import library_words

_LOG = logging.getLogger(__name__)
_SIZES = ("mini_batch_size", TOKENS)
Similarity = Callable[..., Any]
_BOTH_WAYS: dict[str, Any] = {
    "directions": ("query_to_doc", "doc_to_query"),
    "partition_mode": "per_direction",
}

_WORDS = (
    "gather_across_devices",
    "directions",
    "partition_mode",
    "hardness_mode",
    "hardness_strength",
    *_SIZES,
)


def _option(name: str) -> Any:
    """A property for an option by the library's name; assigning to it is refused."""
    return property(lambda loss: library_words(loss.infonce.options)[name])


class _LibraryLoss(InfoNCELoss):
    """What the library's losses have in common."""

    _more: tuple[str, ...] = ()  # names of options that the library's class does not have
    _told = False  # of labels

    def _open(self, sentence_features: Iterable[Features], labels: Any) -> Any:
        """As the library's losses, read no labels; say so where they tell rows apart."""
        if not isinstance(labels, dict | None):
            values = torch.as_tensor(labels).reshape(-1)
            if len(values.unique()) > 1 and not self._told:
                self._told = True
                _LOG.warning(
                    "%s reads no labels: every row is a pair of texts that belong together, "
                    "but the labels are %s",
                    type(self).__name__,
                    shown(values[:8].tolist()),
                )
            labels = None
        return super()._open(sentence_features, labels)

    def _config(self, config: dict[str, Any], words: Sequence[str]) -> dict[str, Any]:
        """These options, and those that were given besides the library's."""
        return {name: config[name] for name in (*words, *self._more) if name in config}


@kinds(scale=real, directions=strings)
class MultipleNegativesRankingLoss(_LibraryLoss):
    """The library's loss of this name (:class:`InfoNCELoss` with scale = 1 / temperature).

    L = mean_i (log sum_j exp(scale · s_ij) - scale · s_ii), over all documents j of the batch.

    Args:
        model: the SentenceTransformer in training.
        scale, similarity_fct, gather_across_devices, directions, partition_mode, hardness_mode,
            hardness_strength: as for :class:`InfoNCELoss`, of which ``options`` are others.

    Raises:
        ValueError, TypeError: at construction, what :class:`InfoNCELoss` refuses.

    Memory: as :class:`InfoNCELoss`. Source: docs/methods.md, A1, H1.

    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red ore", "iron in rock", "deep pit"] * 9, dim=8)
    >>> MultipleNegativesRankingLoss(encoder, scale=50.0).get_config_dict()["scale"]
    50.0
    """

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity | None = None,
        gather_across_devices: bool = False,
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
        **options: Any,
    ) -> None:
        if not scale > 0:
            raise ValueError(f"Scale must be a positive value; scale is {shown(scale)}")
        super().__init__(
            model,
            scale=scale,
            similarity_fct=similarity_fct,
            gather_across_devices=gather_across_devices,
            directions=directions,
            partition_mode=partition_mode,
            hardness_mode=hardness_mode,
            hardness_strength=hardness_strength,
            **options,
        )
        self._scale, self._more = float(scale), tuple(options)

    directions = _option("directions")
    partition_mode = _option("partition_mode")
    hardness_mode = _option("hardness_mode")
    hardness_strength = _option("hardness_strength")

    @property
    def scale(self) -> float:
        """1 / temperature: what was given, or what was learned."""
        return self._scale if self.infonce.log_scale is None else 1.0 / self.temperature

    def get_config_dict(self) -> dict[str, Any]:
        """The library's options in its words, and those of ours that were given."""
        named = {"scale": self.scale, "similarity_fct": self.similarity_fct.__name__}
        return named | self._config(super().get_config_dict(), _WORDS)


@kinds(mini_batch_size=at_least(1))
class CachedMultipleNegativesRankingLoss(MultipleNegativesRankingLoss, CachedInfoNCELoss):
    """The library's loss of this name: :class:`MultipleNegativesRankingLoss` in mini-batches.

    Args, errors, memory and source: as for that one; mini_batch_size, mini_batch_num_tokens and
    show_progress_bar as for :class:`InfoNCELoss`.

    >>> CachedMultipleNegativesRankingLoss.uses_gradient_cache
    True
    """

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity | None = None,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        directions: Sequence[str] = ("query_to_doc",),
        partition_mode: str = "joint",
        show_progress_bar: bool = False,
        hardness_mode: str | None = None,
        hardness_strength: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            gather_across_devices,
            directions,
            partition_mode,
            hardness_mode,
            hardness_strength,
            mini_batch_size=mini_batch_size,
            mini_batch_num_tokens=mini_batch_num_tokens,
            show_progress_bar=show_progress_bar,
            **options,
        )


class MultipleNegativesSymmetricRankingLoss(MultipleNegativesRankingLoss):
    """The library's loss of this name: :class:`MultipleNegativesRankingLoss` in both directions.

    Args, errors, memory and source: as for that one, with partition_mode="per_direction" and
    directions=("query_to_doc", "doc_to_query").

    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red ore", "iron in rock", "deep pit"] * 9, dim=8)
    >>> MultipleNegativesSymmetricRankingLoss(encoder).directions
    ('query_to_doc', 'doc_to_query')
    """

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity | None = None,
        gather_across_devices: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            model, scale, similarity_fct, gather_across_devices, **_BOTH_WAYS, **options
        )


@kinds(mini_batch_size=at_least(1))
class CachedMultipleNegativesSymmetricRankingLoss(CachedMultipleNegativesRankingLoss):
    """The library's loss of this name: the symmetric one in mini-batches.

    Args, errors, memory and source: as for :class:`CachedMultipleNegativesRankingLoss`.

    >>> CachedMultipleNegativesSymmetricRankingLoss.uses_gradient_cache
    True
    """

    def __init__(
        self,
        model: Any,
        scale: float = 20.0,
        similarity_fct: Similarity | None = None,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        gather_across_devices: bool = False,
        show_progress_bar: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            scale,
            similarity_fct,
            mini_batch_size,
            mini_batch_num_tokens,
            gather_across_devices,
            show_progress_bar=show_progress_bar,
            **_BOTH_WAYS,
            **options,
        )


@kinds(guide=has_encode, temperature=real, margin=real)
class GISTEmbedLoss(_LibraryLoss):
    """The library's loss of this name: a guide decides which negatives of the batch are false.

    Args:
        model: the SentenceTransformer in training.
        guide, temperature, margin_strategy, margin, contrast_anchors, contrast_positives,
            gather_across_devices: as for :class:`InfoNCELoss`, of which ``options`` are others.
            Any number of hard negatives, where the library takes one column.

    Raises:
        ValueError, TypeError: at construction, what :class:`InfoNCELoss` refuses.

    Memory: as :class:`InfoNCELoss`. Source: docs/methods.md, H8; Solatorio 2024.

    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red ore", "iron in rock", "deep pit"] * 9, dim=8)
    >>> loss = GISTEmbedLoss(encoder, encoder, margin_strategy="relative", margin=0.05)
    >>> loss.temperature, loss.margin_strategy, loss.margin
    (0.01, 'relative', 0.05)
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        temperature: float = 0.01,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
        **options: Any,
    ) -> None:
        gist: dict[str, Any] = {
            "margin_strategy": margin_strategy,
            "margin": margin,
            "contrast_anchors": contrast_anchors,
            "contrast_positives": contrast_positives,
        }
        super().__init__(
            model,
            guide=guide,
            temperature=temperature,
            gather_across_devices=gather_across_devices,
            **gist,
            **options,
        )
        self._gist, self._more = gist, tuple(options)

    margin_strategy = property(lambda loss: loss._gist["margin_strategy"])
    margin = property(lambda loss: loss._gist["margin"])
    contrast_anchors = property(lambda loss: loss._gist["contrast_anchors"])
    contrast_positives = property(lambda loss: loss._gist["contrast_positives"])

    def get_config_dict(self) -> dict[str, Any]:
        """The library's options in its words, and those of ours that were given."""
        words = ("guide", "temperature", "gather_across_devices", *_SIZES)
        return self._config(super().get_config_dict(), words) | self._gist


@kinds(mini_batch_size=at_least(1))
class CachedGISTEmbedLoss(GISTEmbedLoss, CachedInfoNCELoss):
    """The library's loss of this name: :class:`GISTEmbedLoss` in mini-batches.

    Args, errors, memory and source: as for that one; mini_batch_size, mini_batch_num_tokens and
    show_progress_bar as for :class:`InfoNCELoss`.

    >>> CachedGISTEmbedLoss.uses_gradient_cache
    True
    """

    def __init__(
        self,
        model: Any,
        guide: Any,
        temperature: float = 0.01,
        mini_batch_size: int = 32,
        mini_batch_num_tokens: int | None = None,
        show_progress_bar: bool = False,
        margin_strategy: str = "absolute",
        margin: float = 0.0,
        contrast_anchors: bool = True,
        contrast_positives: bool = True,
        gather_across_devices: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            model,
            guide,
            temperature,
            margin_strategy,
            margin,
            contrast_anchors,
            contrast_positives,
            gather_across_devices,
            mini_batch_size=mini_batch_size,
            mini_batch_num_tokens=mini_batch_num_tokens,
            show_progress_bar=show_progress_bar,
            **options,
        )
