"""Numbers among arguments: the number itself, or a sentence that names the argument."""

from __future__ import annotations

import math
import numbers
import operator
from typing import Any


def integer(value: Any, name: str, least: int) -> int:
    """The value as an int of at least `least`.

    Raises:
        TypeError: no integer; True and False are none.
        ValueError: a smaller one.

    >>> integer(3, "top", 1)
    3
    >>> integer(0, "top", 1)
    Traceback (most recent call last):
        ...
    ValueError: top is 0; it must be at least 1.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}; give an integer.") from None
    if isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}; give an integer.")
    if number < least:
        raise ValueError(f"{name} is {number}; it must be at least {least}.")
    return number


def real(value: Any, name: str, least: float = -math.inf, most: float = math.inf) -> float:
    """The value as a finite float from `least` to `most`.

    Raises:
        TypeError: no number; True and False are none.
        ValueError: NaN, infinity, or a number beyond the limits.

    >>> real(1, "temperature", 0, 1)
    1.0
    >>> real(2, "temperature", 0, 1)
    Traceback (most recent call last):
        ...
    ValueError: temperature is 2; it must be from 0 to 1.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; give a number.")
    number = float(value)
    if math.isfinite(number) and least <= number <= most:
        return number
    if least > -math.inf and most < math.inf:
        limits = f"from {least:g} to {most:g}"
    else:
        limits = "finite" + (f" and at least {least:g}" if least > -math.inf else "")
        limits += f" and at most {most:g}" if most < math.inf else ""
    raise ValueError(f"{name} is {value}; it must be {limits}.")


def number(value: Any, name: str, remedy: str = "give a number") -> float:
    """A finite float, from a scalar of any library or an array or tensor of one element."""
    if hasattr(value, "item") and getattr(value, "size", None) != 0:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} is {value!r}; {remedy}")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; {remedy}")
    return float(value)
