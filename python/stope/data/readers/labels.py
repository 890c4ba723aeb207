"""Whether a row's document answers its query: the column that says so, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stope.data.readers.columns import (
    ID_COLUMNS,
    LABEL_COLUMNS,
    QUERY_ID_COLUMNS,
    SCORE_COLUMNS,
    Layout,
    column_of,
    first_of,
)
from stope.data.readers.fields import Row, cell_number, require

_YES_OR_NO = {
    **dict.fromkeys(("1", "1.0", "true", "yes"), True),
    **dict.fromkeys(("0", "0.0", "false", "no"), False),
}


class Labels:
    """Reads the labels of rows, one by one."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        # Columns that nobody reads -> yes or no -> the first place; None: they say something else.
        self._unread: dict[str, dict[bool, str] | None] = {}

    def column(self, row: Row, rest: Sequence[str], negatives: bool, where: str) -> str | None:
        """The column of labels among the rest, what is no query, positive or negative."""
        layout = self._layout
        if layout.ignore_labels:
            return None
        if layout.label_column is not None:
            return column_of(row, layout.label_column, (), "label_column", where)
        numbers = [name for name in rest if name not in layout.numbers]
        label, score = first_of(numbers, LABEL_COLUMNS), first_of(numbers, SCORE_COLUMNS)
        if label is not None or negatives:  # beside negatives a score is that of their places
            return label
        if score is None:
            ids = [first_of(numbers, usual) for usual in (ID_COLUMNS, QUERY_ID_COLUMNS)]
            for name in numbers:
                if name not in (*ids, layout.query_id_column):
                    self._unread.setdefault(name, {})
        elif layout.min_relevance is None:
            raise ValueError(
                f'{where}: the column "{score}" may say which documents answer; give the least '
                "score of an answer with min_relevance, or read every row as a positive with "
                "ignore_labels"
            )
        return score

    def answers(self, row: Row, name: str | None, count: int, where: str) -> list[bool]:
        """Whether each of the row's documents answers; all do where there is no label."""
        if name is None:
            self._note(row, where)
            return [True] * count
        value = require(row, name, where)
        if not isinstance(value, (list, tuple)):
            return [self._is_answer(value, name, where)] * count
        if len(value) != count:
            raise ValueError(
                f'{where}: field "{name}" has {len(value)} labels for {count} texts; give one each'
            )
        return [self._is_answer(label, f"{name}[{at}]", where) for at, label in enumerate(value)]

    def refuse_unread(self) -> None:
        """Refuse, after the last row, a column that says yes and no and that nobody named."""
        for name, places in self._unread.items():
            if places is not None and len(places) == 2:
                raise ValueError(
                    f'{places[False]}: the column "{name}", which says yes in some rows and no in '
                    "others, may say which documents answer; name it with label_column, or read "
                    "every row as a positive with ignore_labels"
                )

    def _note(self, row: Row, where: str) -> None:
        for name, places in self._unread.items():
            if places is not None and (value := row.get(name)) not in (None, ""):
                says = _YES_OR_NO.get(str(value).strip().lower())
                if says is None:
                    self._unread[name] = None
                else:
                    places.setdefault(says, where)

    def _is_answer(self, value: Any, name: str, where: str) -> bool:
        least = self._layout.min_relevance
        try:
            grade = float(value) if isinstance(value, bool) else cell_number(value, name, where)
        except ValueError as error:
            raise ValueError(
                f"{error}: it says whether the row is a positive; ignore_labels reads all rows as "
                "positives, label_column names another column"
            ) from None
        if least is None and not grade.is_integer():
            raise ValueError(
                f'{where}: field "{name}" is {grade:g}, which is neither yes nor no; give the '
                "least label of an answer with min_relevance, or read every row as a positive with "
                "ignore_labels"
            )
        return grade >= (1 if least is None else least)
