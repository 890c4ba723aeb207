"""Corpora that are packed once, searched often, changed, saved and loaded."""

from stope.indexes.flat import FlatIndex, InRange

__all__ = ["FlatIndex", "InRange"]
