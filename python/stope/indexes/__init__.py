"""Corpora that are packed once, searched often, changed, saved and loaded."""

from stope.indexes._answers import InRange
from stope.indexes.flat import FlatIndex

__all__ = ["FlatIndex", "InRange"]
