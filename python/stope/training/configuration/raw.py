"""Pairs from raw text, as a source of a configuration asks for them."""

from __future__ import annotations

from typing import Any

from stope.mining import Pairs


def pairs_from_text(source: Any, seed: int) -> Pairs:
    """Make the pairs that ``source.pairs_from`` names from the documents at its path."""
    raise ValueError(f"pairs_from is {source.pairs_from['kind']!r}; there is none of that name")
