"""Numbers among arguments: what is one, and the sentence about what is not."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from stope._checks import integer, real


def test_numbers_of_any_kind():
    assert [type(integer(value, "n", 3)) for value in (3, np.int8(3), np.uint64(9))] == [int] * 3
    halves = [real(value, "x", 0, 1) for value in (0.5, np.float32(0.5), Fraction(1, 2))]
    assert halves == [0.5] * 3
    assert [type(value) for value in halves] == [float] * 3


@pytest.mark.parametrize("value", [True, None, 1.0, "1", np.ones(1, np.float32), np.True_])
def test_no_integers(value):
    with pytest.raises(TypeError, match=r"^n is .*; give an integer$"):
        integer(value, "n", 0)


@pytest.mark.parametrize("value", [False, None, "1", 1j, np.ones(1)])
def test_no_numbers(value):
    with pytest.raises(TypeError, match=r"^x is .*; give a number$"):
        real(value, "x")


@pytest.mark.parametrize(
    ("check", "says"),
    [
        (lambda: integer(-1, "n", 0), r"n is -1; it must be at least 0"),
        (lambda: real(1.5, "x", 0, 1), r"x is 1\.5; it must be from 0 to 1"),
        (lambda: real(float("nan"), "x", 0, 1), r"x is nan; it must be from 0 to 1"),
        (lambda: real(float("inf"), "x"), r"x is inf; it must be finite"),
        (lambda: real(float("inf"), "x", 0), r"x is inf; it must be finite and at least 0"),
        (lambda: real(3, "x", most=2), r"x is 3; it must be finite and at most 2"),
    ],
)
def test_numbers_beyond_their_limits(check, says):
    with pytest.raises(ValueError, match=f"^{says}$"):
        check()
