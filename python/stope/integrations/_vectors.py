"""Vectors as other frameworks hand them over."""

from __future__ import annotations

from typing import Any

import numpy as np


def taken(vectors: Any) -> Any:
    """As stope takes them: without gradients, float64 (as lists of numbers are) as float32.

    >>> taken([[1.0, 2.0]])
    array([[1., 2.]], dtype=float32)
    """
    if hasattr(vectors, "detach"):
        vectors = vectors.detach()
        return vectors.float() if "float64" in str(vectors.dtype) else vectors
    rows = vectors if hasattr(vectors, "dtype") else np.asarray(vectors)
    return rows.astype(np.float32) if rows.dtype == np.float64 else rows
