"""Maps while they are trained: torch parameters, their start, and what weight decay pulls at.

Factors are scaled so that one learning rate suits all kinds: a step of Adam moves every entry by
about the learning rate, and moves f(x) by about as much as it would with a full matrix.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stope.adapters.maps import Floats, Linear, LowRank, Map, ResidualMLP, arrays


class Trainable:
    """One map: `current` is it with gradients, `frozen` a copy in NumPy.

    Args:
        kind: "linear", "low_rank" or "mlp".
        start: float32 [out, d], where a linear map starts.
        rank: r of "low_rank".
        hidden: h of "mlp".
        generator: of V and W1.
        torch: the library.
    """

    def __init__(
        self,
        kind: str,
        start: Floats,
        rank: int,
        hidden: int,
        generator: np.random.Generator,
        torch: Any,
    ) -> None:
        dim = start.shape[1]

        def normal(*shape: int) -> Any:
            return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

        def zeros(*shape: int) -> Any:
            return torch.zeros(*shape, requires_grad=True)

        self.kind = kind
        self._start = torch.from_numpy(start)
        self._scale = 1.0
        # Decay pulls the parameter that starts at zero back there: f back to where it began.
        self.decayed, self.free = zeros(*start.shape), None
        if kind == "low_rank":
            self.decayed = zeros(dim, rank)
            self.free = (normal(dim, rank) / rank**0.5).requires_grad_()
        elif kind == "mlp":
            # Rows have length one, so W1 x has entries of variance one.
            self._scale = hidden**-0.5
            self.decayed, self.free = zeros(dim, hidden), normal(hidden, dim).requires_grad_()

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Parameter groups for an optimiser."""
        groups = [{"params": [self.decayed], "weight_decay": weight_decay}]
        if self.free is not None:
            groups.append({"params": [self.free], "weight_decay": 0.0})
        return groups

    def current(self) -> Map:
        """The map of torch tensors that gradients flow to."""
        if self.kind == "linear":
            return Linear(self._start + self.decayed)
        if self.kind == "low_rank":
            return LowRank(self.decayed, self.free)
        return ResidualMLP(self.free, self._scale * self.decayed)

    def frozen(self) -> Map:
        """A copy of the map as it is, in NumPy."""
        now = self.current()
        return type(now)(
            **{name: tensor.detach().numpy().copy() for name, tensor in arrays(now).items()}
        )


def start_matrix(dim: int, out: int, corpus: Floats) -> Floats:
    """The identity, or for out < dim the directions in which the corpus is longest.

    Those are the eigenvectors of sum x x' of the largest eigenvalues: of all projections to so many
    dimensions they keep most of the squared lengths. The largest entry of each is positive, so that
    the same corpus gives the same signs. Memory: 65,536 rows in float64.
    """
    if out == dim:
        return np.eye(dim, dtype=np.float32)
    moments = np.zeros((dim, dim))
    for first in range(0, len(corpus), 65_536):
        block = corpus[first : first + 65_536].astype(np.float64)
        moments += block.T @ block
    directions = np.linalg.eigh(moments)[1].T[::-1][:out]
    largest = np.take_along_axis(directions, abs(directions).argmax(axis=1)[:, None], axis=1)
    return np.ascontiguousarray(directions * np.sign(largest), dtype=np.float32)
