"""Import an optional dependency when it is used; when missing, name the command to install it."""

from __future__ import annotations

import importlib
from types import ModuleType


def need(name: str, extra: str) -> ModuleType:
    """Import and return the optional module `name`, which the extra `extra` of stope installs.

    Args:
        name: importable name, dots allowed ("bm25s", "sentence_transformers", "pyarrow.parquet").
        extra: the extra of stope that brings it ("train", "retrieval", "cuda", "dev").

    Returns:
        The module `name` itself (the last part of a dotted name).

    Raises:
        ImportError: the module is not installed; the message has the pip command. A module that is
            installed but fails inside its own imports raises its own error, unchanged.

    Example:
        >>> need("json", extra="train").loads("[1, 2]")
        [1, 2]
        >>> need("no_such", extra="retrieval")
        Traceback (most recent call last):
            ...
        ImportError: no_such is not installed. Install it with: pip install "stope[retrieval]"
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        top_level = name.partition(".")[0]
        missing_is_ours = error.name is not None and (
            error.name == top_level or name == error.name or name.startswith(error.name + ".")
        )
        if not missing_is_ours:
            raise
        raise ImportError(
            f'{top_level} is not installed. Install it with: pip install "stope[{extra}]"',
            name=top_level,
        ) from error
