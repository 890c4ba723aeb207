"""How many threads of the processor a training takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import stope
from stope._extras import need


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """So many threads in stope and in torch meanwhile; None leaves them."""
    if count is None:
        yield
        return
    torch = need("torch", extra="train")
    before = stope.get_num_threads(), torch.get_num_threads()
    stope.set_num_threads(count)
    torch.set_num_threads(count)
    try:
        yield
    finally:
        stope.set_num_threads(before[0])
        torch.set_num_threads(before[1])
