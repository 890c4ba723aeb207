"""Sums without rounding: the same whatever the order, and so wherever numbers are cut in shards."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

_MANTISSA, _HALF, _LOWEST = 53, 27, -1100  # bits of a float64 and of half of it; below any exponent

_PART = 16_384  # numbers at a time, which stay in a near cache


def exact_sum(values: NDArray[np.float64]) -> Fraction:
    """The sum of fewer than 2^36 finite numbers, without rounding.

    >>> float(exact_sum(np.array([1e300, 1.0, -1e300])))
    1.0
    """
    sums = np.zeros((2, 1024 - _LOWEST + 1), dtype=np.int64)  # by exponent, of halves of 27 bits
    for start in range(0, len(values), _PART):
        mantissas, exponents = np.frexp(values[start : start + _PART])
        whole = np.ldexp(mantissas, _MANTISSA).astype(np.int64)
        np.add.at(sums[0], exponents - _LOWEST, whole >> _HALF)
        np.add.at(sums[1], exponents - _LOWEST, whole & ((1 << _HALF) - 1))
    total = 0
    for place in np.flatnonzero(sums.any(axis=0)).tolist():
        total += ((int(sums[0, place]) << _HALF) + int(sums[1, place])) << place
    return Fraction(total, 2 ** (_MANTISSA - _LOWEST))
