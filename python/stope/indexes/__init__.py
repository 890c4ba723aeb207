"""Corpora that are packed once, searched often, saved and loaded."""

from stope.indexes.flat import FlatIndex

__all__ = ["FlatIndex"]
