"""Losses on where embeddings lie: centers, prototypes, nearest neighbours, orthogonality."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import torch
from stope._checks import choice, integer, real
from stope._checks import size as size_of
from stope.torch.ranking import _tensors
from stope.torch.ranking._tensors import Reduction
from torch import nn

Update: TypeAlias = Literal["gradient", "running"]


def center_loss(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    centers: torch.Tensor,
    *,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Squared distance of each embedding from the center of its class.

    ``L_i = ||x_i - c_{y_i}||^2``. The original halves it; its clamp to [1e-12, 1e12] is left out,
    since all it does is stop gradients.

    Args:
        embeddings, labels, centers: float [B, d]; int64 [B], rows of centers; float [C, d], with a
            gradient where they require one.

    Source: Wen et al. 2016 in the form of pytorch-center-loss (docs/methods.md, D13).

    >>> points, zero = torch.tensor([[1.0], [-1.0]]), torch.zeros(1, 1)
    >>> float(center_loss(points, torch.tensor([0, 0]), zero))
    1.0
    """
    embeddings, labels = _labelled(embeddings, labels, _rows("centers", centers, embeddings))
    distances = (embeddings - centers[labels]).square().sum(1)
    return _tensors.reduce(distances, weights=weights, reduction=reduction)


class CenterLoss(nn.Module):  # type: ignore[misc]
    """The centers of `center_loss`, learned with the model or kept as running means.

    "gradient" makes the centers a parameter, as the reference implementation does. "running" moves
    the center of each class of the batch by ``c_k <- c_k - rate sum_{i: y_i = k} (c_k - x_i) /
    (1 + n_k)`` after each forward pass in training mode; that rule is recalled from Wen et al.
    2016, not verified (docs/methods.md, D13).

    Frozen classes keep their centers: with old classes frozen, the loss of embeddings labelled with
    them penalises drift, the continual-learning use that D13 names.

    Args:
        num_classes, dim: C and d.
        update, rate: "gradient", or "running" by this share of the way, from 0 to 1.

    Attributes:
        centers: float [C, d], standard normal at first for "gradient", 0 for "running".
        frozen: bool [C].

    Source: docs/methods.md, D13.

    >>> loss = CenterLoss(num_classes=1, dim=1, update="running")
    >>> float(loss(torch.tensor([[1.0], [2.0]]), torch.tensor([0, 0])))  # from center 0
    2.5
    >>> float(loss.centers[0, 0])  # 0 + 0.5 (1 + 2) / (1 + 2)
    0.5
    """

    def __init__(
        self, num_classes: int, dim: int, *, update: Update = "gradient", rate: float = 0.5
    ) -> None:
        super().__init__()
        size = (size_of(num_classes, "num_classes"), size_of(dim, "dim"))
        self.update = choice(update, "update", get_args(Update))
        self.rate = real(rate, "rate", 0, 1)
        if update == "gradient":
            self.centers = nn.Parameter(torch.randn(size))
        else:
            self.register_buffer("centers", torch.zeros(size))
        self.register_buffer("frozen", torch.zeros(num_classes, dtype=torch.bool))

    def freeze(self, classes: torch.Tensor) -> None:
        """Keep the centers of classes, int64 [n], where they are."""
        self.frozen[_tensors.integers(classes, "classes", 0, len(self.frozen))] = True

    def forward(
        self,
        embeddings: torch.Tensor,
        labels: torch.Tensor,
        *,
        weights: torch.Tensor | None = None,
        reduction: Reduction = "mean",
    ) -> torch.Tensor:
        """Return `center_loss` at the present centers; "running" moves them afterwards."""
        held = self.frozen[:, None]
        # A copy: the running update below must not change what backward reads.
        centers = torch.where(held, self.centers.detach(), self.centers)
        loss = center_loss(embeddings, labels, centers, weights=weights, reduction=reduction)
        if self.update == "running" and self.training:
            with torch.no_grad():
                labels = labels.long()
                rows = embeddings.detach().to(self.centers.dtype)
                pull = torch.zeros_like(self.centers)
                pull.index_add_(0, labels, rows - self.centers[labels])
                count = torch.bincount(labels, minlength=len(self.centers))[:, None]
                self.centers += (self.rate * pull / (1 + count)).masked_fill(held, 0)
        return loss


def class_means(embeddings: torch.Tensor, labels: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Mean embedding of each class, the prototypes of `prototype_triplet`.

    Args:
        embeddings: float [B, d], the support set.
        labels, num_classes: int64 [B], from 0 to C - 1, each class at least once; C.

    Returns: Float [C, d], with gradients to embeddings.
    Raises ValueError: a class without an embedding.
    Source: docs/methods.md, D14.

    >>> class_means(torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([0, 0, 1]), 2)
    tensor([[2.],
            [5.]])
    """
    embeddings, labels = _labelled(embeddings, labels, size_of(num_classes, "num_classes"))
    count = torch.bincount(labels, minlength=num_classes)
    if bool((count == 0).any()):
        raise ValueError(f"class {int((count == 0).nonzero()[0])} has no embedding to average")
    sums = embeddings.new_zeros(num_classes, embeddings.shape[1]).index_add(0, labels, embeddings)
    return sums / count[:, None]


def prototype_triplet(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    prototypes: torch.Tensor,
    *,
    margin: float = 0.5,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Triplet hinge against the nearest prototype of another class, inspired by Proto-Triplet.

    ``L_i = max(0, ||x_i - c_{y_i}||^2 - min_{k != y_i} ||x_i - c_k||^2 + margin)``. This is our
    interpretation: the paper's formula was not found, and the margin is a free choice.

    Args:
        embeddings, labels: float [B, d], the episode's queries; int64 [B], rows of prototypes.
        prototypes: float [C, d], C at least 2, as `class_means` computes them.
        margin: at least 0.

    Raises ValueError: fewer than 2 prototypes.
    Memory: O(B C).
    Source: inspired by Proto-Triplet (docs/methods.md, D14, an interpretation).

    >>> prototypes = torch.tensor([[0.0], [2.0]])
    >>> loss = prototype_triplet(torch.tensor([[1.0]]), torch.tensor([0]), prototypes)
    >>> float(loss)  # as far from both: the margin is left
    0.5
    """
    real(margin, "margin", 0)
    classes = _rows("prototypes", prototypes, embeddings)
    if classes < 2:
        raise ValueError(f"prototypes has {classes} rows; another class needs at least 2")
    embeddings, labels = _labelled(embeddings, labels, classes)
    distances = _squared_distances(embeddings, prototypes.to(embeddings.dtype))
    own = distances.gather(1, labels[:, None])[:, 0]
    others = distances.scatter(1, labels[:, None], torch.inf).amin(1)
    return _tensors.reduce((own - others + margin).relu(), weights=weights, reduction=reduction)


def soft_neighbors(
    embeddings: torch.Tensor,
    labels: torch.Tensor,
    *,
    k: int = 10,
    temperature: float = 1.0,
    epsilon: float = 1e-6,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Share of each point's neighbourhood that its own class holds, inspired by ICNN.

    ``score_i = sum_{j in N_i, y_j = y_i} exp(-d_ij / temperature) / sum_{j in N_i} exp(-d_ij /
    temperature)`` over the k nearest others N_i of the batch, d the squared distance, and ``L_i =
    log(1 + epsilon) - log(score_i + epsilon)``: 0 for a pure neighbourhood. This is a soft nearest
    neighbour loss (NCA) in the role of ICNN, our interpretation: the paper's formula was not found.

    A point whose class has no other member in the batch is skipped. A point with none of its class
    among its k nearest has the largest loss and no gradient; a larger k gives it one.

    Args:
        embeddings, labels: float [B, d] and int64 [B], B at least 2.
        k: neighbours, cut to B - 1.
        epsilon: bounds the loss by log(1 + 1 / epsilon).

    Raises ValueError: fewer than 2 embeddings.
    Memory: O(B^2).
    Source: inspired by ICNN (docs/methods.md, D14, an interpretation).

    >>> points = torch.tensor([[0.0], [0.1], [9.0], [9.1]])
    >>> float(soft_neighbors(points, torch.tensor([0, 0, 1, 1]), k=1))
    0.0
    """
    integer(k, "k", 1)
    _tensors.positive(temperature, "temperature")
    _tensors.positive(epsilon, "epsilon")
    embeddings, labels = _labelled(embeddings, labels, torch.iinfo(torch.long).max)
    if len(embeddings) < 2:
        raise ValueError(f"embeddings has {len(embeddings)} rows; neighbours need at least 2")
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    distances = _squared_distances(embeddings, embeddings).masked_fill(itself, torch.inf)
    nearest, columns = distances.topk(min(k, len(labels) - 1), dim=1, largest=False)
    same = labels[columns] == labels[:, None]
    logits = -nearest / temperature
    logs = _tensors.floor(logits, same).logsumexp(1) - logits.logsumexp(1)
    bound = torch.log(logits.new_tensor(epsilon))
    losses = torch.logaddexp(torch.zeros_like(bound), bound) - torch.logaddexp(logs, bound)
    paired = ((labels[:, None] == labels[None, :]) & ~itself).any(1)
    return _tensors.reduce(losses, counted=paired, weights=weights, reduction=reduction)


def orthogonal_projection(
    positive_scores: torch.Tensor,
    negative_scores: torch.Tensor,
    *,
    gamma: float = 0.5,
    weights: torch.Tensor | None = None,
    reduction: Reduction = "mean",
) -> torch.Tensor:
    """Pull positives together and make negatives orthogonal, without any other sample.

    ``L_i = (1 - cos(q_i, p_i)) + gamma mean_n |cos(q_i, n)|``: 0 at a cosine of 1 and of 0, so a
    negative is not pushed to the opposite side, and a batch of one sample works. This is our
    interpretation of M2-BERT's loss, whose exact form was not found; the loss over classes that it
    follows compares batch means of the same two cosines.

    Args:
        positive_scores, negative_scores: float [B]; [B] or [B, n], cosines with each query.
        gamma: at least 0.

    Source: single-sample form of orthogonal projection (docs/methods.md, D15, an interpretation).

    >>> loss = orthogonal_projection(torch.tensor([0.8]), torch.tensor([-0.2]))
    >>> print(f"{loss:.2f}")
    0.30
    """
    positives = _tensors.floats(positive_scores, "positive_scores", 1)
    negatives = _tensors.floats(negative_scores, "negative_scores", 1, 2)
    real(gamma, "gamma", 0)
    if len(positives) != len(negatives):
        raise ValueError(
            f"positive_scores has {len(positives)} queries but negative_scores has {len(negatives)}"
        )
    _tensors.same_device(positives, "positive_scores", negatives, "negative_scores")
    pushes = negatives.abs().reshape(len(negatives), -1).mean(1)
    losses = (1 - positives) + gamma * pushes
    return _tensors.reduce(losses, weights=weights, reduction=reduction)


def _labelled(
    embeddings: torch.Tensor, labels: torch.Tensor, classes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    embeddings = _tensors.floats(embeddings, "embeddings", 2)
    labels = _tensors.integers(labels, "labels", 0, classes)
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"labels has shape {tuple(labels.shape)} for {len(embeddings)} embeddings; "
            f"it needs ({len(embeddings)},)"
        )
    _tensors.same_device(labels, "labels", embeddings, "embeddings")
    return embeddings, labels


def _rows(name: str, matrix: torch.Tensor, embeddings: torch.Tensor) -> int:
    """Number of rows of a float matrix of the embeddings' dimension."""
    _tensors.floats(matrix, name, 2)
    _tensors.floats(embeddings, "embeddings", 2)
    if matrix.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f"{name} has dim {matrix.shape[1]} but embeddings has dim {embeddings.shape[1]}"
        )
    _tensors.same_device(matrix, name, embeddings, "embeddings")
    return len(matrix)


def _squared_distances(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """``|x|^2 + |y|^2 - 2 x.y``, at least 0: no square root, whose gradient at 0 is infinite."""
    # Distances do not depend on the origin; a near one cancels less.
    origin = columns.mean(0).detach()
    rows, columns = rows - origin, columns - origin
    norms = rows.square().sum(1)[:, None] + columns.square().sum(1)[None, :]
    return (norms - 2 * rows @ columns.T).clamp(min=0)
