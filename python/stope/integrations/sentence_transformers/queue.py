"""Past documents as more negatives: a first-in, first-out queue, kept with the loss's state.

MoCo's comes with a second encoder, the moving average of the first, which encodes the documents.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

import torch
from stope._checks import real
from stope.encoders import versions
from stope.encoders.versions import Features
from stope.integrations.sentence_transformers.identity import Names, Peers
from stope.integrations.sentence_transformers.row_table import UNKNOWN
from stope.torch.distributed import gather_rows
from torch import Tensor, nn

_AROUND = (
    "a queue goes with matryoshka_dims of the loss itself, not with a loss around it that asks "
    "several times (MatryoshkaLoss, AdaptiveLayerLoss)"
)


class DocumentQueue(nn.Module):  # type: ignore[misc]
    """The newest documents of past batches, without gradient (docs/methods.md, D17).

    Its tensors are buffers: they are in ``state_dict``, and training that goes on from a checkpoint
    has the queue that it had. They get their width from the first batch.

    Args:
        size: how many documents are kept.
    """

    documents: Tensor
    guides: Tensor
    names: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self._last: Features | None = None
        self.register_buffer("documents", torch.zeros(0, 0))
        self.register_buffer("guides", torch.zeros(0, 0))
        self.register_buffer("names", torch.zeros(0, len(Names._fields), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.documents)

    def known(self) -> Names | None:
        """By what its documents are known; None while it is empty."""
        return Names(*self.names.cpu().numpy().T.copy()) if len(self) else None

    def like(self, documents: Tensor) -> Tensor:
        """Its embeddings, on the device of those of the batch.

        Raises:
            ValueError: the batch's are shorter or longer.
        """
        if self.documents.shape[1] != documents.shape[1]:
            raise ValueError(
                f"the queue holds embeddings of {self.documents.shape[1]} dimensions, and the "
                f"batch brings {documents.shape[1]}; {_AROUND}"
            )
        return self.documents.to(documents)

    def check_is_new(self, features: Features) -> None:
        """Refuse the features of a batch that has been asked about."""
        if features is self._last:
            raise ValueError(f"a loss with a queue is asked about the same batch twice; {_AROUND}")
        self._last = features

    def push(
        self, documents: Tensor, names: Names | None, guides: Tensor | None, peers: Peers
    ) -> None:
        """Put the documents of all processes before the others, and let the last ones go."""
        if names is None:
            names = Names(*np.full((len(Names._fields), len(documents)), UNKNOWN))
        told = torch.from_numpy(np.stack(names, axis=1)).to(documents.device)
        self.documents = self._longer(self.documents, documents, peers)
        self.names = self._longer(self.names, told, peers)
        if guides is not None:
            self.guides = self._longer(self.guides, guides, peers)

    def _longer(self, kept: Tensor, new: Tensor, peers: Peers) -> Tensor:
        new = new.detach()
        if peers.together:
            new = gather_rows(new, peers.group)
        if not len(kept):
            kept = new[:0]
        # A clone: a slice would keep the whole batch.
        return torch.cat([new, kept.to(new)])[: self.size].clone()

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name in ("documents", "guides", "names"):  # of another length than now
            if f"{prefix}{name}" in state:
                there = getattr(self, name).device
                setattr(self, name, torch.empty_like(state[f"{prefix}{name}"], device=there))
        super()._load_from_state_dict(state, prefix, *rest)


class MomentumEncoder(nn.Module):  # type: ignore[misc]
    """The encoder that documents are encoded with, without gradient (docs/methods.md, D17).

        theta_k <- momentum theta_k + (1 - momentum) theta

    at the beginning of every step, theta being the model's parameters. It begins as the model, is
    never in training mode, and its tensors are in ``state_dict``.

    Args:
        model: the SentenceTransformer in training.
        momentum: from 0 to 1.
    """

    def __init__(self, model: Any, momentum: float) -> None:
        super().__init__()
        self.momentum = real(momentum, "momentum", 0, 1)
        card = getattr(model, "model_card_data", None)  # has the trainer, which nobody copies
        self.average = copy.deepcopy(model, {id(card): card}).requires_grad_(False)

    @classmethod
    def of_queue(
        cls, model: Any, momentum: float, queue: DocumentQueue | None, *, mini_batches: bool
    ) -> MomentumEncoder:
        """That of a loss with this queue.

        Raises:
            ValueError: no queue; mini-batches; a momentum out of range.
        """
        if queue is None:
            raise ValueError(
                f"momentum is {momentum}, but there is no queue of documents; give queue_size"
            )
        if mini_batches:
            raise ValueError(
                f"momentum is {momentum} and there are mini-batches, which save activations of "
                "documents; there are none to save, so leave mini_batch_size out"
            )
        return cls(model, momentum)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def follow(self, model: Any) -> None:
        """Take a step towards the model."""
        for kept, now in zip(self.average.parameters(), model.parameters(), strict=True):
            kept.lerp_(now, 1 - self.momentum)
        for kept, now in zip(self.average.buffers(), model.buffers(), strict=True):
            kept.copy_(now)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def embed(self, columns: Sequence[Features]) -> list[Tensor]:
        """The embeddings of each column's features."""
        return versions.embed_columns(self.average.eval(), columns)
