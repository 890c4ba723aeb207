"""The fused loss with sentence-transformers' gradient cache: so many rows are encoded at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from stope.encoders import versions
from stope.encoders.versions import Features
from stope.integrations.sentence_transformers.batch import Batch
from stope.integrations.sentence_transformers.loss import TOKENS, InfoNCELoss
from stope.integrations.sentence_transformers.papers import PAPERS
from torch import Tensor


class CachedInfoNCELoss(InfoNCELoss, versions.cached_loss_base()):  # type: ignore[misc]
    """:class:`InfoNCELoss` with mini-batches, which makes it where ``mini_batch_size`` is given."""

    uses_gradient_cache = True

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        name = TOKENS if self.mini_batch_size is None else "mini_batch_size"
        if versions.has_static_input(model):
            raise ValueError(
                f"{name} is {getattr(self, name)}, but {type(self).__name__} is not compatible "
                "with a SentenceTransformer model based on a StaticEmbedding, a static encoder, "
                "which keeps no activations to save; use "
                f"{type(self).__name__.removeprefix('Cached')} without mini-batches: it needs no "
                "score matrix"
            )
        if self.mini_batch_size is None:
            self.mini_batch_size = 32  # not read where tokens are counted
        if self.mini_batch_num_tokens is not None and not hasattr(
            versions.cached_loss_base(), TOKENS
        ):
            raise ValueError(
                f"{TOKENS} needs a newer sentence-transformers than {versions.library_version()}; "
                "use mini_batch_size"
            )
        self._batch = Batch()

    def forward(self, sentence_features: Iterable[Features], labels: Any = None) -> Tensor:
        """The loss of one batch; its backward pass encodes every mini-batch once more."""
        # The library does not hand every kind of labels on.
        columns, self._batch = self._open(sentence_features, labels)
        base = versions.cached_loss_base()
        if hasattr(base, "forward_cached"):
            return self.forward_cached(columns, labels)
        return base.forward(self, columns, labels)

    def calculate_loss(
        self, reps: list[list[Tensor]], labels: Any = None, *, with_backward: bool = False
    ) -> Tensor:
        """The loss of the embeddings of all mini-batches (MatryoshkaLoss shortens them first)."""
        loss = self.loss_of([torch.cat(column) for column in reps], self._batch)
        if with_backward:
            loss.backward()
            loss = loss.detach()
        return loss

    def get_config_dict(self) -> dict[str, Any]:
        """The options, for the model card."""
        sizes = {"mini_batch_size": self.mini_batch_size, TOKENS: self.mini_batch_num_tokens}
        return {**super().get_config_dict(), **sizes}

    @property
    def citation(self) -> str:
        """BibTeX of the paper behind mini-batches."""
        return PAPERS["grad_cache"]

    def _guide_embeddings(self, columns: list[Features]) -> list[Tensor]:
        assert self._guide_features is not None
        model, self.model = self.model, self.guide
        try:
            return [
                torch.cat(
                    [
                        rows
                        for rows, *_ in self.embed_minibatch_iter(
                            sentence_feature=self._guide_features(features),
                            with_grad=False,
                            copy_random_state=False,
                        )
                    ]
                )
                for features in columns
            ]
        finally:
            self.model = model
