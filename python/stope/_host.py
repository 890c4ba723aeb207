"""Arrays of any device as NumPy's: what stope computed lies where the embeddings lie."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def on_host(array: Any) -> NDArray[Any]:
    """The array in the memory of the CPU; a torch tensor without its gradient.

    A bfloat16 tensor comes as float32, which holds it exactly: NumPy has no bfloat16.

    Raises:
        ValueError: an element is masked, of which NumPy would take what lies below the mask.

    >>> on_host(np.float32([1, 2])).tolist()
    [1.0, 2.0]
    >>> on_host(np.ma.array([1, 2], mask=[False, True]))
    Traceback (most recent call last):
        ...
    ValueError: an array has masked elements; leave them out, or fill them with .filled(value)
    """
    if hasattr(array, "harden_mask") and np.any(array.mask):
        raise ValueError(
            "an array has masked elements; leave them out, or fill them with .filled(value)"
        )
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        if str(array.dtype) == "torch.bfloat16":
            array = array.float()
    elif type(array).__module__.split(".")[0] == "cupy":  # a dictionary has a get, too
        return on_host(array.get())
    return np.asarray(array)
