"""A scikit-learn transformer to exact neighbour graphs, in the place of KNeighborsTransformer."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

import stope
from stope._checks import choice, integer
from stope.neighbors._embeddings import finite_rows
from stope.neighbors.graph import distances


class NeighborTransformer(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Rows to the sparse graph of their nearest neighbours, with scikit-learn's conventions.

    As ``sklearn.neighbors.KNeighborsTransformer`` does: the diagonal is explicit, and in the mode
    ``"distance"`` every row has n_neighbors + 1 entries, itself among them, nearest first. So
    ``make_pipeline(NeighborTransformer(15), DBSCAN(metric="precomputed"))`` and the like work.

    Unlike there a row of the fitted matrix always finds itself first, also among duplicates; of
    equally near rows the lower comes first. Distances are 1 - cosine, or euclidean. Names and
    number of columns are checked as scikit-learn does. Memory: the fitted rows are kept as they
    are, a copy of them where a row's numbers do not lie side by side (as in most DataFrames); 40
    bytes an entry, and that of the search.

    Source: scikit-learn's class (1.9.1), with whose matrices the tests compare.

    Args:
        n_neighbors: neighbours of a row.
        mode: ``"distance"``, or ``"connectivity"``: ones, n_neighbors entries with the row itself.
        metric: ``"euclidean"`` or ``"cosine"``.

    Example:
        >>> x = np.float32([[0], [1], [3]])
        >>> NeighborTransformer(1).fit_transform(x).toarray().tolist()
        [[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]
    """

    def __init__(
        self, n_neighbors: int = 5, *, mode: str = "distance", metric: str = "euclidean"
    ) -> None:
        self.n_neighbors = n_neighbors
        self.mode = mode
        self.metric = metric

    def fit(self, X: Any, y: Any = None) -> NeighborTransformer:  # noqa: N803
        """Keep the rows; float32, float16 or bfloat16.

        Raises:
            ValueError: fewer rows than entries, an option of another value, NaN or infinity (naming
                the row).
            TypeError: another dtype, such as float64 (cast it), or a sparse matrix.
        """
        integer(self.n_neighbors, "n_neighbors", 1)
        choice(self.mode, "mode", ("distance", "connectivity"))
        choice(self.metric, "metric", ("euclidean", "cosine"))
        rows = self._rows(X, first=True)
        if self._entries() > len(rows):
            raise ValueError(
                f"n_neighbors is {self.n_neighbors}, with {self._entries()} entries a row, but X "
                f"has {len(rows)} rows; give fewer"
            )
        self.fitted_ = rows
        return self

    def fit_transform(self, X: Any, y: Any = None, **options: Any) -> Any:  # noqa: N803
        """The graph of the rows among themselves, csr_matrix float32 ``[n, n]``."""
        rows = self.fit(X).fitted_
        own = np.arange(len(rows))[:, None]
        if self._entries() == 1:
            return self._graph(own, np.zeros(own.shape, np.float32))
        nearest = stope.knn_graph(rows, self._entries() - 1, metric=self.metric)  # type: ignore[arg-type]
        values = distances(nearest.scores, self.metric)
        zeros = np.zeros(own.shape, np.float32)
        return self._graph(np.hstack([own, nearest.ids]), np.hstack([zeros, values]))

    def transform(self, X: Any) -> Any:  # noqa: N803
        """The graph from rows to those of `fit`, csr_matrix float32 ``[rows, fitted rows]``."""
        check_is_fitted(self)
        nearest = stope.topk(self._rows(X), self.fitted_, self._entries(), metric=self.metric)  # type: ignore[arg-type]
        return self._graph(nearest.ids, distances(nearest.scores, self.metric))

    @property
    def _n_features_out(self) -> int:
        return len(self.fitted_)

    def _rows(self, rows: Any, *, first: bool = False) -> Any:
        """The rows, whose columns are those of `fit`, as scikit-learn counts and names them."""
        made = np.ascontiguousarray(finite_rows(rows, "X"))
        validate_data(self, rows, reset=first, skip_check_array=True)
        return made

    def _entries(self) -> int:
        return self.n_neighbors + (self.mode == "distance")

    def _graph(self, ids: Any, values: Any) -> Any:
        offsets = np.arange(len(ids) + 1) * ids.shape[1]
        data = np.ones_like(values) if self.mode == "connectivity" else values
        shape = (len(ids), len(self.fitted_))
        return sparse.csr_matrix((data.reshape(-1), ids.reshape(-1), offsets), shape=shape)
