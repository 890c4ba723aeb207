"""A small linear adapter on the frozen embeddings of a large encoder.

Trained is f(x) = normalise(W x), W square and at first the identity, for each pair of query q and
positive p over a set C of documents, without q's other positives (methods.md, H1):

    loss = -log( exp(f(q).f(p) / temperature) / sum_{c in C} exp(f(q).f(c) / temperature) )

Nothing is encoded again: the embeddings are given, so C may be thousands of documents, or all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stope._extras import need
from stope.training._library import part
from stope.training.losses import Precision

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Floats = NDArray[np.float32]
Csr = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class Adapter:
    """A trained square matrix; unit rows go out.

    Attributes:
        weight: float32 [d, d]; rows of embeddings are multiplied by its transpose.
        losses: loss of each training step.
    """

    weight: Floats
    losses: list[float] = field(default_factory=list)

    def apply(self, embeddings: Floats) -> Floats:
        """Return the adapted embeddings, float32 [n, d] with rows of length one.

        Raises:
            ValueError: embeddings has another dimension than the adapter.

        Example:
            >>> Adapter(np.eye(2, dtype=np.float32)).apply(np.array([[3, 4]], np.float32)).tolist()
            [[0.6000000238418579, 0.800000011920929]]
        """
        rows = _rows(embeddings, "embeddings")
        if rows.shape[1] != len(self.weight):
            raise ValueError(
                f"embeddings has dim {rows.shape[1]} but the adapter has dim {len(self.weight)}."
            )
        found = np.asarray(rows @ self.weight.T, dtype=np.float32)
        found /= np.linalg.norm(found, axis=1, keepdims=True).clip(1e-12)
        return found

    def attach(self, model: SentenceTransformer) -> SentenceTransformer:
        """Return a new model: model's modules (shared, not copied), this matrix, Normalize.

        The result saves and loads as any sentence-transformers model does.

        Raises:
            ValueError: model's embeddings have another dimension than the adapter.
        """
        models = part("models")
        import torch
        from sentence_transformers import SentenceTransformer

        dim = _dimension(model)
        if dim != len(self.weight):
            raise ValueError(
                f"model gives embeddings of dim {dim} but the adapter has {len(self.weight)}."
            )
        dense = models.Dense(
            dim,
            dim,
            bias=False,
            activation_function=torch.nn.Identity(),
            init_weight=torch.from_numpy(self.weight.copy()),
        )
        # What model says about its prompts and its length stays true of the longer one.
        return SentenceTransformer(
            modules=[*model.children(), dense, models.Normalize()],
            device=str(model.device),
            prompts=dict(model.prompts),
            default_prompt_name=model.default_prompt_name,
        )


def train_adapter(
    query_embeddings: Floats,
    corpus_embeddings: Floats,
    positives: Csr | Sequence[int] | NDArray[np.int64],
    *,
    negatives: NDArray[np.int64] | None = None,
    num_documents: int = 16_384,
    batch_size: int = 1024,
    epochs: int = 10,
    learning_rate: float = 1e-3,
    temperature: float = 0.05,
    precision: Precision = "float32",
    weight_decay: float = 0.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Adapter:
    """Train a linear adapter on embeddings that an encoder gave, without the encoder.

    Args:
        query_embeddings: float32 [queries, d].
        corpus_embeddings: float32 [documents, d].
        positives: rows of corpus_embeddings that are right for each query: one per query, or CSR
            ``(offsets, rows)``.
        negatives: int64 [queries, n], hard negatives that are always among the documents a query
            is scored against; -1 for none. Of use only with more than num_documents documents.
        num_documents: how many documents each step scores: all, if there are no more than this,
            else the positives and negatives of the batch and a random rest.
        batch_size: pairs per step.
        epochs: passes over the pairs.
        learning_rate: of Adam, decaying linearly to 0.
        temperature: divides the cosines.
        precision: of the products in the loss, as in `contrastive_loss`.
        weight_decay: pulls W towards the identity, not towards 0.
        seed: of the order of pairs and the random documents.
        progress: called with (steps done, steps in total).

    Returns:
        The adapter. The same seed gives the same weights up to the last bits of torch's matrix
        products.

    Raises:
        ValueError: shapes that disagree, ids out of range, a number out of range, no pair.

    Memory: the documents of a step and their gradient, three times in all, and four d x d matrices;
    the loss is `stope.torch.infonce`, which keeps no scores.

    Example:
        >>> rows = np.eye(4, dtype=np.float32)
        >>> adapter = train_adapter(rows, rows[[1, 0, 3, 2]], [1, 0, 3, 2], epochs=2)
        >>> adapter.weight.shape
        (4, 4)
    """
    queries = _rows(query_embeddings, "query_embeddings")
    corpus = _rows(corpus_embeddings, "corpus_embeddings")
    if queries.shape[1] != corpus.shape[1]:
        raise ValueError(
            f"corpus_embeddings has dim {corpus.shape[1]} but query_embeddings has"
            f" {queries.shape[1]}."
        )
    for name, value in (
        ("num_documents", num_documents),
        ("batch_size", batch_size),
        ("epochs", epochs),
    ):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
    for name, rate in (("learning_rate", learning_rate), ("temperature", temperature)):
        if not rate > 0:
            raise ValueError(f"{name} must be positive, but is {rate}.")
    offsets, ids = _csr(positives, len(queries), len(corpus))
    if negatives is not None:
        negatives = _check_negatives(negatives, len(queries), len(corpus))
    torch: Any = need("torch", extra="train")
    from stope.torch import infonce

    dim = queries.shape[1]
    pair_query = np.repeat(np.arange(len(queries)), np.diff(offsets))
    query_rows, corpus_rows = torch.from_numpy(queries), torch.from_numpy(corpus)
    change = torch.zeros(dim, dim, requires_grad=True)  # W - identity, so decay is towards it
    identity = torch.eye(dim)
    optimiser = torch.optim.AdamW([change], lr=learning_rate, weight_decay=weight_decay)
    per_epoch = -(-len(ids) // batch_size)
    total = per_epoch * epochs
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / total)
    generator = np.random.default_rng(seed)
    losses: list[float] = []
    for _ in range(epochs):
        order = generator.permutation(len(ids))
        for start in range(0, len(ids), batch_size):
            chosen = order[start : start + batch_size]
            rows = pair_query[chosen]
            wanted = ids[chosen] if negatives is None else [*ids[chosen], *negatives[rows].ravel()]
            documents = _documents(wanted, len(corpus), num_documents, generator)
            weight = identity + change
            loss = infonce(
                query_rows[rows] @ weight.T,
                corpus_rows[documents] @ weight.T,
                torch.from_numpy(np.searchsorted(documents, ids[chosen])),
                exclude=_other_positives(rows, ids[chosen], offsets, ids, documents),
                temperature=temperature,
                precision=precision,
            ).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
            if progress is not None:
                progress(len(losses), total)
    return Adapter((identity + change).detach().numpy().copy(), losses)


def _documents(
    wanted: Any, count: int, num_documents: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    """Ascending rows: all documents, or the wanted ones filled up at random to num_documents."""
    if count <= num_documents:
        return np.arange(count)
    needed = np.unique(np.asarray(wanted, dtype=np.int64))
    needed = needed[needed >= 0]
    more = generator.choice(count, size=max(0, num_documents - len(needed)), replace=False)
    return np.union1d(needed, more)


def _other_positives(
    rows: NDArray[np.int64],
    own: NDArray[np.int64],
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    documents: NDArray[np.int64],
) -> Csr:
    """The columns of each line's positives other than its own, as (offsets, columns)."""
    counts = np.diff(offsets)[rows]
    line = np.repeat(np.arange(len(rows)), counts)
    # The positions of a line's positives in `ids`, one line after the other.
    within = np.arange(len(line)) - np.repeat(np.cumsum(counts) - counts, counts)
    positive = ids[np.repeat(offsets[rows], counts) + within]
    column = np.searchsorted(documents, positive).clip(max=len(documents) - 1)
    keep = (positive != own[line]) & (documents[column] == positive)
    ends = np.cumsum(np.bincount(line[keep], minlength=len(rows)))
    return np.concatenate([[0], ends]).astype(np.int64), column[keep]


def _rows(embeddings: Any, name: str) -> Floats:
    array = np.asarray(embeddings, dtype=np.float32)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name} has shape {array.shape}; a filled matrix [n, d] is needed.")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise ValueError(f"{name} has a NaN or an infinity in row {bad[0]}.")
    return np.ascontiguousarray(array)


def _csr(positives: Any, num_queries: int, num_documents: int) -> Csr:
    if isinstance(positives, tuple) and len(positives) == 2:
        offsets, ids = (np.asarray(part, dtype=np.int64) for part in positives)
        good = len(offsets) == num_queries + 1 and offsets[0] == 0 and offsets[-1] == len(ids)
        if not good or (np.diff(offsets) < 0).any():
            raise ValueError(
                f"positives are (offsets, rows) with {len(offsets)} offsets that must be"
                f" {num_queries + 1}, rise from 0 and end at {len(ids)}, the number of rows."
            )
    else:
        ids = np.asarray(positives, dtype=np.int64)
        if ids.shape != (num_queries,):
            raise ValueError(
                f"positives has shape {ids.shape} for {num_queries} queries; give one row each, or"
                " CSR (offsets, rows)."
            )
        offsets = np.arange(num_queries + 1, dtype=np.int64)
    if not len(ids):
        raise ValueError("positives is empty; there is nothing to train on.")
    wrong = ids[(ids < 0) | (ids >= num_documents)]
    if len(wrong):
        raise ValueError(f"positives has the row {wrong[0]}; there are {num_documents} documents.")
    return offsets, ids


def _check_negatives(negatives: Any, num_queries: int, num_documents: int) -> NDArray[np.int64]:
    found = np.asarray(negatives, dtype=np.int64)
    if found.ndim != 2 or len(found) != num_queries:
        raise ValueError(
            f"negatives has shape {found.shape} for {num_queries} queries; it needs a row for each."
        )
    if (found < -1).any() or (found >= num_documents).any():
        raise ValueError(f"negatives has a row outside -1 and the {num_documents} documents.")
    return found


def _dimension(model: Any) -> int:
    ask = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
    return int(ask())
