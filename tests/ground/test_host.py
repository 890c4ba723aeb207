"""Arrays of any device as NumPy's."""

from __future__ import annotations

import numpy as np
import pytest

from stope._host import on_host


def test_what_has_a_get_is_no_array_of_a_device():
    assert on_host({"a": 1}).dtype == object
    assert on_host([1, 2]).tolist() == [1, 2]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64"])
def test_tensors_keep_their_values_and_lose_their_gradient(dtype):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    tensor = torch.tensor([1, 2, 3]).to(getattr(torch, dtype))
    tensor.requires_grad_(tensor.is_floating_point())
    array = on_host(tensor)
    assert array.tolist() == [1, 2, 3]
    assert array.dtype == np.dtype("float32" if dtype == "bfloat16" else dtype)
