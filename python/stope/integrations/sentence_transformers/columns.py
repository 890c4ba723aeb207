"""The columns of a dataset: which are texts, and which say something about the row.

Texts go through the tokenizer. Beside them a dataset may have
    "weight"      how much the row counts, at least 0;
    "log_weight"  added to the logits of the row's positive where it is a negative of other rows,
                  such as minus the log of how often it is drawn (logQ correction);
    "row"         the number of the row in the table;
    "source"      the task or data set it is from, a word or an integer;
    "X_id"        for a column of texts X: an integer or a word, None where nobody knows; "query_id"
                  and "document_id" are those of the first and of the second column of texts;
    "label", "labels", "score" or "scores", by which a row may turn out to be no pair at all;
    "teacher_scores"  a list per row: a teacher's scores of the positive and of each negative in the
                  order of their columns, None or -inf where it has scored none (a filled place);
and any other column of numbers is a signal of that name, which a weighting can read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from stope._checks import shown

WEIGHT, LOG_WEIGHT, ROW, SOURCE = "weight", "log_weight", "row", "source"
TEACHER = "teacher_scores"
LABELS = ("label", "labels", "score", "scores")


@dataclass(frozen=True)
class Columns:
    """The columns of a dataset by what they are.

    Attributes:
        texts: query, positive, and hard negatives.
        signals: numbers about a row, except those with a meaning of their own.
        ids: by column of texts the column of its ids.
        labels: columns that say whether the row is a pair.
        weight, log_weight, row, source, teacher: whether there is such a column.
    """

    texts: tuple[str, ...]
    signals: tuple[str, ...]
    ids: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    weight: bool = False
    log_weight: bool = False
    row: bool = False
    source: bool = False
    teacher: bool = False


def columns_of(row: Mapping[str, Any]) -> Columns:
    """The columns by the values of one row.

    >>> columns = columns_of({"query": "ore?", "positive": "rock", "weight": 2.0, "easiness": 0.5})
    >>> columns.texts, columns.signals, columns.weight, columns.row
    (('query', 'positive'), ('easiness',), True, False)
    """
    named = (WEIGHT, LOG_WEIGHT, ROW, SOURCE, TEACHER)
    labels = tuple(name for name in LABELS if name in row)
    owners = {
        name: name.removesuffix("_id")
        for name in row
        if name in ("query_id", "document_id")
        or (name.endswith("_id") and name.removesuffix("_id") in row)
    }
    rest = [name for name in row if name not in {*named, *labels, *owners}]
    signals = tuple(name for name in rest if _is_number(row[name]))
    texts = tuple(name for name in rest if name not in signals)
    usual = dict(zip(("query", "document"), texts, strict=False))
    ids = {
        text if text in texts else usual[text]: name
        for name, text in owners.items()
        if text in texts or text in usual
    }
    return Columns(texts, signals, ids, labels, *(name in row for name in named))


def check_columns(dataset: Any) -> Columns:
    """The columns of a dataset, after every value of it has been looked at.

    Raises:
        ValueError: fewer than two columns of texts; a label that says that a row is no pair; a
            value that its column cannot have.
    """
    columns = columns_of(dataset[0])
    if len(columns.texts) < 2:
        raise ValueError(f"examples has only the text column {list(columns.texts)}; two are needed")
    for name in columns.labels:
        check_labels(dataset[name], name)
    numbers = (*columns.signals, *([LOG_WEIGHT] if columns.log_weight else []))
    rules: list[tuple[str, Callable[[Any], bool], str]] = [
        *((name, _is_finite, "a signal for weightings; give a finite number") for name in numbers),
        *((name, _is_text, "give a text, or remove the row") for name in columns.texts),
    ]
    if columns.weight:
        rules.append((WEIGHT, lambda w: _is_finite(w) and w >= 0, "give a number of at least 0"))
    if columns.source:
        rules.append((SOURCE, lambda name: isinstance(name, str | int), "give words or integers"))
    if columns.teacher:
        width = len(columns.texts) - 1
        told = f"give the teacher's {width} scores, of the positive and of each negative"
        rules.append((TEACHER, lambda scores: _are_scores(scores, width), told))
    for name, is_right, remedy in rules:
        for row, value in enumerate(values_of(dataset, name)):
            if not is_right(value):
                raise ValueError(
                    f'examples has {shown(value)} in row {row} of the column "{name}"; {remedy}'
                )
    return columns


def values_of(dataset: Any, name: str) -> Iterator[Any]:
    """The values of a column, read by thousands: one after another they take ten times as long."""
    column = dataset[name]
    for start in range(0, len(column), 4096):
        yield from column[start : start + 4096]


def check_labels(values: Sequence[Any], name: str, first: int = 0) -> None:
    """Refuse rows that are labelled as something else than a query with its positive.

    A label is 1, a score above 0.

    >>> check_labels([1, 0], "label")
    Traceback (most recent call last):
        ...
    ValueError: the column "label" has 0 in row 1, which is then no query with its positive; take
    such rows out (they could be hard negatives) and remove the column
    """
    for row, value in enumerate(values):
        right = _is_number(value) and (value > 0 if name.startswith("score") else value == 1)
        if not right:
            raise ValueError(
                f'the column "{name}" has {shown(value)} in row {first + row}, which is then no '
                "query with its positive; take such rows out (they could be hard negatives) and "
                "remove the column"
            )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value)


def _are_scores(value: Any, width: int) -> bool:
    """Finite numbers, but that of a negative may be missing."""
    if isinstance(value, str) or not hasattr(value, "__len__") or len(value) != width:
        return False
    missing = (None, -math.inf)
    return _is_finite(value[0]) and all(v in missing or _is_finite(v) for v in value[1:])


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
