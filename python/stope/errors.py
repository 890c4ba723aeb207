"""What stope raises besides ``TypeError`` (wrong kind) and ``ValueError`` (wrong value)."""

from __future__ import annotations


class IndexFileError(ValueError):
    """A saved index that is truncated, altered, or of another version or format."""
