"""The arguments of sentence-transformers' mine_hard_negatives: their kinds, and what they say."""

from __future__ import annotations

import logging
from typing import Any

from stope._checks import choice, integer, shown
from stope._kinds import strings

_LOG = logging.getLogger(__name__)
FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")


def with_columns(value: Any, name: str) -> None:
    """A dataset."""
    if not hasattr(value, "column_names") or not hasattr(value, "__len__"):
        raise TypeError(f"{name} is {shown(value)}; give a datasets.Dataset of pairs")


def encodes_both(value: Any, name: str) -> None:
    """A model of queries and documents."""
    if not all(callable(getattr(value, f"encode_{side}", None)) for side in ("query", "document")):
        raise TypeError(
            f"{name} is {shown(value)}; give a SentenceTransformer, or an object with encode_query "
            "and encode_document"
        )


def predicts(value: Any, name: str) -> None:
    """A cross-encoder."""
    if not callable(getattr(value, "predict", None)):
        raise TypeError(f"{name} is {shown(value)}; give a CrossEncoder")


def devices(value: Any, name: str) -> None:
    """Whether there are processes, or their devices."""
    if not isinstance(value, bool):
        strings(value, name)
        if not value:
            raise ValueError(f"{name} is empty; name devices, or give True or False")


def columns_of(dataset: Any, anchor: str | None, positive: str | None) -> tuple[str, str]:
    """The names of the anchor's and of the positive's column."""
    names = list(dataset.column_names)
    if len(names) < 2:
        raise ValueError(
            f"dataset has the columns {shown(names)}; it must contain at least two, of anchors and "
            "of positives"
        )
    for argument, name in (("anchor_column_name", anchor), ("positive_column_name", positive)):
        if name is not None:
            choice(name, argument, names)
    return anchor or names[0], positive or names[1]


def format_of(
    wanted: str, as_triplets: bool | None, include_positives: bool, scores: bool
) -> tuple[str, bool]:
    """The output format and whether it has scores, from what the library's words say."""
    if as_triplets is not None:
        wanted = "triplet" if as_triplets else "n-tuple"
        _LOG.warning("as_triplets is deprecated; output_format is %s", wanted)
    if include_positives and wanted != "n-tuple":
        _LOG.warning('include_positives is True, which makes output_format "n-tuple"')
        wanted = "n-tuple"
    if wanted == "n-tuple-scores":
        _LOG.warning('"n-tuple-scores" is deprecated; it is "n-tuple" with output_scores=True')
        return "n-tuple", True
    return choice(wanted, "output_format", FORMATS), scores


def ranks_of(
    first: Any, end: Any, count: Any, most: int, strict: bool, verbose: bool
) -> tuple[int, int]:
    """The ranks to take negatives from."""
    if integer(count, "num_negatives", -(1 << 62)) < 1:
        raise ValueError(f"num_negatives must be at least 1, got num_negatives={count}")
    if integer(first, "range_min", -(1 << 62)) < 0:
        raise ValueError(f"range_min must be non-negative, got range_min={first}")
    if end is None:
        end = first + count * (10 if strict else 1) + most
        if verbose:
            print(f"Setting range_max to {end} based on the provided parameters.")
    if first >= integer(end, "range_max", -(1 << 62)):
        raise ValueError(
            f"range_min must be smaller than range_max, got range_min={first} and range_max={end}"
        )
    if count > end - first:
        raise ValueError(
            f"Cannot mine {count} negatives per query: only {end - first} candidates remain after "
            f"skipping the first range_min={first} of range_max={end}; give a smaller "
            f"num_negatives, or range_max={first + count} or more"
        )
    return first, end
