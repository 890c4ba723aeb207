"""The contenders of `bench_infonce.py`: the loss with its gradients, and a whole training step.

A run returns a `Gradients`: the mean loss and its gradients, so that every contender does all of
the work inside the clock and the answers can be compared.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from inputs import Inputs, LossWork, StepWork
from peers import Run

NUM_HARD = 5  # hard negatives of a query under the extra "hard"
RELATIVE_MARGIN = 0.05
MINI_BATCH = 1_024  # of the cached loss: fastest of 32 to 4,096 for 4,096 pairs at dim 256
LEARNING_RATE = 1e-3

Contenders = dict[str, tuple[str, Callable[..., Run], Callable[[Any], bool]]]


class Gradients(NamedTuple):
    """Mean loss, gradients of queries and documents (of the vectors of tokens, in a step).

    `losses` of the rows where the contender gives them.
    """

    loss: float
    queries: np.ndarray
    documents: np.ndarray | None = None
    losses: np.ndarray | None = None


def contenders(work: LossWork) -> Contenders:
    """Contender: the module that must be there, how it is prepared, and the work it can do."""
    return STEP if isinstance(work, StepWork) else LOSS


def import_packages(name: str, work: LossWork) -> None:
    """Import what the contender needs beside its main module."""
    if isinstance(work, StepWork):
        importlib.import_module("sentence_transformers.sentence_transformer.losses")
        importlib.import_module("stope.integrations.sentence_transformers")
    elif name.startswith("torch"):
        importlib.import_module("torch.nn.functional")


# the loss and its gradients ------------------------------------------------------------------


def row_weights(work: LossWork) -> np.ndarray:
    """One weight per query; all 1 without the extra "weights"."""
    if "weights" not in work.extras:
        return np.ones(work.queries, np.float32)
    rng = np.random.default_rng([work.queries, work.rows, 1])
    return rng.uniform(0.25, 2.0, work.queries).astype(np.float32)


def document_ids(work: LossWork) -> np.ndarray:
    """Ids of which most are shared by two or three documents (the extra "ids")."""
    rng = np.random.default_rng([work.queries, work.rows, 2])
    return rng.integers(0, max(1, work.rows // 2), work.rows)


def options_of(work: LossWork) -> dict[str, Any]:
    """Options of `stope.infonce_forward` for the work."""
    options: dict[str, Any] = {
        "positives": np.arange(work.queries),
        "temperature": work.temperature,
        "precision": work.precision,
    }
    both = ("query_to_document", "document_to_query")
    if "ids" in work.extras:
        options["document_ids"] = document_ids(work)
    if "margin" in work.extras:
        options["relative_margin"] = RELATIVE_MARGIN
    if "joint" in work.extras:
        options["directions"] = both
    if "ways" in work.extras:
        options |= {"directions": both, "partition": "per_direction"}
    if "hard" in work.extras:
        first = work.queries + NUM_HARD * np.arange(work.queries)[:, None]
        options["hard_negatives"] = first + np.arange(NUM_HARD)
    return options


def _loss_stope(work: LossWork, inputs: Inputs) -> Run:
    import stope

    queries, documents, options = inputs.queries, inputs.corpus, options_of(work)
    weights = row_weights(work)
    share = weights / weights.sum()

    def run() -> Gradients:
        forward = stope.infonce_forward(queries, documents, **options)
        found = stope.infonce_backward(queries, documents, forward, share, **options)
        loss = float(share.astype(np.float64) @ forward.losses)
        return Gradients(loss, found.queries, found.documents, forward.losses)

    return run


def _loss_plain(work: LossWork, inputs: Inputs) -> Run:
    return _loss_stope(dataclasses.replace(work, extras=()), inputs)


def _loss_torch(work: LossWork, inputs: Inputs, autocast: bool = False) -> Run:
    from torch.nn.functional import cross_entropy, normalize

    import torch

    queries = torch.from_numpy(inputs.queries).requires_grad_()
    documents = torch.from_numpy(inputs.corpus).requires_grad_()
    targets = torch.arange(work.queries)

    def run() -> Gradients:
        queries.grad = documents.grad = None
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            scores = normalize(queries) @ normalize(documents).T
            loss = cross_entropy(scores / work.temperature, targets)
        loss.backward()
        return Gradients(loss.item(), queries.grad.numpy(), documents.grad.numpy())

    return run


def _loss_torch_bfloat16(work: LossWork, inputs: Inputs) -> Run:
    return _loss_torch(work, inputs, autocast=True)


# a whole training step -----------------------------------------------------------------------


def _encoder(work: StepWork) -> Any:
    """StaticEmbedding and Normalize with vectors that are the same for every contender."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer, models

    words = {f"w{token}": token for token in range(work.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    rng = np.random.default_rng([work.vocabulary, work.dim])
    vectors = rng.standard_normal((work.vocabulary, work.dim), np.float32)
    embedding = modules.StaticEmbedding(tokenizer, embedding_weights=vectors)
    return SentenceTransformer(modules=[embedding, modules.Normalize()], device="cpu")


def _padded_encoder(encoder: Any) -> Any:
    """The same encoder on token ids [batch, length], which mini-batches can be cut from.

    CachedMultipleNegativesRankingLoss refuses StaticEmbedding for its flat token ids alone.
    """
    from torch import nn

    class Padded(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            found: dict[str, Any] = self.encoder(_flat(features["input_ids"]))
            return found

    return nn.Sequential(Padded())


def _flat(ids: Any) -> dict[str, Any]:
    """What StaticEmbedding's tokenizer makes of texts of equal length."""
    import torch

    return {
        "input_ids": ids.reshape(-1),
        "offsets": torch.arange(0, ids.numel(), ids.shape[1]),
    }


def _step(
    work: StepWork,
    inputs: Inputs,
    make_loss: Callable[[Any], Any],
    *,
    padded: bool = False,
    autocast: bool = False,
) -> Run:
    """Encode, loss, backward and AdamW, as the trainer does with a collated batch."""
    import torch

    encoder = _encoder(work)
    model = _padded_encoder(encoder) if padded else encoder
    model.train()
    loss_of = make_loss(model)
    (vectors,) = encoder.parameters()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE, fused=True)
    columns = [torch.from_numpy(ids) for ids in (inputs.queries, inputs.corpus)]

    def run() -> Gradients:
        optimizer.zero_grad()
        features = [{"input_ids": ids} if padded else _flat(ids) for ids in columns]
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(features, None)
        loss.backward()
        optimizer.step()
        return Gradients(loss.item(), vectors.grad.numpy())

    return run


def _step_stope(work: StepWork, inputs: Inputs) -> Run:
    from stope.integrations.sentence_transformers import InfoNCELoss

    options = {"temperature": work.temperature, "precision": work.precision}
    return _step(work, inputs, lambda model: InfoNCELoss(model, **options))


def _step_plain(work: StepWork, inputs: Inputs, autocast: bool = False) -> Run:
    from sentence_transformers.sentence_transformer import losses

    def make(model: Any) -> Any:
        return losses.MultipleNegativesRankingLoss(model, scale=1 / work.temperature)

    return _step(work, inputs, make, autocast=autocast)


def _step_cached(work: StepWork, inputs: Inputs, autocast: bool = False) -> Run:
    from sentence_transformers.sentence_transformer import losses

    def make(model: Any) -> Any:
        size = min(MINI_BATCH, work.queries)
        return losses.CachedMultipleNegativesRankingLoss(
            model, scale=1 / work.temperature, mini_batch_size=size
        )

    return _step(work, inputs, make, padded=True, autocast=autocast)


def _step_plain_bfloat16(work: StepWork, inputs: Inputs) -> Run:
    return _step_plain(work, inputs, autocast=True)


def _step_cached_bfloat16(work: StepWork, inputs: Inputs) -> Run:
    return _step_cached(work, inputs, autocast=True)


def _asked(work: LossWork) -> bool:
    return work.all_peers and not work.extras


LOSS: Contenders = {
    "stope": ("stope", _loss_stope, lambda work: True),
    "stope-plain": ("stope", _loss_plain, lambda work: bool(work.extras) and work.all_peers),
    "torch": ("torch", _loss_torch, _asked),
    "torch-bfloat16": ("torch", _loss_torch_bfloat16, _asked),
}
_LIBRARY = "sentence_transformers"
STEP: Contenders = {
    "stope": (_LIBRARY, _step_stope, lambda work: True),
    "mnrl": (_LIBRARY, _step_plain, _asked),
    "mnrl-bfloat16": (_LIBRARY, _step_plain_bfloat16, _asked),
    "cached-mnrl": (_LIBRARY, _step_cached, _asked),
    "cached-mnrl-bfloat16": (_LIBRARY, _step_cached_bfloat16, _asked),
}
