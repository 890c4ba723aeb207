"""The trainer's collator, with what the loss must know of the rows beside their texts.

The trainer hands what its collator calls "label" to the loss as it is: here a dictionary. It
collates one batch ahead, so nothing that changes while training runs is read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import torch
from stope._checks import flag, number
from stope._kinds import maybe, strings
from stope.encoders.encode import has_encode
from stope.encoders.versions import collator_base, reader_of
from stope.integrations.sentence_transformers.columns import (
    LOG_WEIGHT,
    ROW,
    SOURCE,
    TEACHER,
    WEIGHT,
    Columns,
    check_labels,
    columns_of,
)
from stope.integrations.sentence_transformers.row_table import (
    UNKNOWN,
    RowTable,
    id_number,
    text_numbers,
)
from stope.lists import Ids


class InfoNCECollator(collator_base()):  # type: ignore[misc]
    """Collates rows of texts, and hands what else is known of them to :class:`InfoNCELoss`.

    sentence-transformers' own collator would tokenise such columns as texts. Give it to the trainer
    as ``data_collator``; `stope.training.train` does so itself. Any of these columns may be
    missing:

    - ``weight``: a number of at least 0 per row;
    - ``X_id`` for a text column X: an integer or a string, None where unknown;
    - ``query_id`` and ``document_id``: ids of the first and of the second text column;
    - ``log_weight``: see :class:`InfoNCELoss`;
    - ``source``: where a row is from, for prompts;
    - ``teacher_scores``: a list, a teacher's scores of the row's positive and negatives;
    - any other column of numbers: a signal of that name, for the weighting.

    Documents are one if their texts are equal, if their ids are, or if they answer one query by its
    id: none is then a negative of a row whose positive another is.

    Args:
        model: the SentenceTransformer whose tokenizer is used.
        rows: `RowTable` of the dataset; with one of `stope.data.Pairs` the column "row" has the
            rows' numbers in it.
        prompts: of sentence-transformers' collator; or `stope.encoders.TaskPrompts`, put before the
            texts by their source.
        labels: True leaves columns label, labels, score and scores to other losses of the same
            trainer; such a dataset has no weights and ids. Otherwise a label other than 1 and a
            score of 0 or less is refused, for such rows are no pairs.
        dataset_columns: names of all columns that are no texts, which samplers must leave out when
            they look for equal texts (``BatchSamplers.NO_DUPLICATES``); default: weights, and ids
            of the usual columns with up to 64 negatives.
        **options: of sentence-transformers' collator: ``router_mapping``, ...

    Raises:
        ValueError: rows with a label other than 1, a number that is none.
        TypeError: an id that is neither integer nor string.

    >>> from stope.encoders import static_encoder
    >>> encoder = static_encoder(["red ore", "iron in rock", "deep pit", "a hole"] * 9, dim=8)
    >>> row = {"query": "ore", "positive": "rock", "weight": 2.0, "positive_id": "d7"}
    >>> batch = InfoNCECollator(encoder)([row, {**row, "weight": 1.0}])
    >>> sorted(batch["label"]), batch["label"]["weights"].tolist()
    (['document_ids', 'ids', 'weights'], [2.0, 1.0])
    """

    def __init__(
        self,
        model: Any,
        *,
        rows: RowTable | None = None,
        prompts: Any = None,
        labels: bool = False,
        dataset_columns: Sequence[str] | None = None,
        **options: Any,
    ) -> None:
        has_encode(model, "model")
        flag(labels, "labels")
        maybe(strings)(dataset_columns, "dataset_columns")
        read = "preprocess_fn" if hasattr(model, "preprocess") else "tokenize_fn"
        ours = hasattr(prompts, "document")
        if prompts is not None and not ours:
            options["prompts"] = prompts
        super().__init__(**{read: reader_of(model), **options})
        self.rows = rows
        self.task_prompts = prompts if ours else None
        self.labels = labels
        if dataset_columns is None:
            texts = ["anchor", "query", "question", "positive", "document", "answer", "negative"]
            texts += [f"negative_{place}" for place in range(65)]
            dataset_columns = [WEIGHT, LOG_WEIGHT, ROW, SOURCE, TEACHER]
            dataset_columns += [*(f"{text}_id" for text in texts)]
        # Samplers leave label columns out of their comparisons.
        library: list[str] = self.valid_label_columns
        self.valid_label_columns: list[str] = [*library, *dataset_columns]

    def __call__(self, features: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One batch of tensors from rows of the dataset.

        Its "label" is a dictionary of what there is: "document_ids", numbers of the documents'
        texts, column by column; "ids", of queries and documents, int64 ``[columns, rows]``;
        "weights", "log_weights", "rows", "sources", "teacher_scores" (float32
        ``[rows, 1 + negatives]``, -inf where there is none), and "signals" by name.
        """
        if not features:
            return {}
        named = {name: value for name, value in features[0].items() if name != "dataset_name"}
        columns = columns_of(named)
        kept = [*columns.texts, *(columns.labels if self.labels else ())]
        if "dataset_name" in features[0]:
            kept.append("dataset_name")
        batch: dict[str, Any] = super().__call__(
            [{name: self._prompted(row, name, columns.texts) for name in kept} for row in features]
        )
        if columns.labels and self.labels:
            return batch
        for name in columns.labels:
            check_labels([row[name] for row in features], name)
        batch["label"] = self._known(features, columns)
        return batch

    def _known(self, features: Sequence[dict[str, Any]], columns: Columns) -> dict[str, Any]:
        labels: dict[str, Any] = {}
        if len(columns.texts) > 1:
            labels["document_ids"] = torch.from_numpy(self._text_numbers(features, columns))
        if columns.ids:
            labels["ids"] = torch.tensor(
                [
                    [
                        id_number(row[columns.ids[text]]) if text in columns.ids else UNKNOWN
                        for row in features
                    ]
                    for text in columns.texts
                ],
                dtype=torch.int64,
            )
        for name, there in ((WEIGHT, columns.weight), (LOG_WEIGHT, columns.log_weight)):
            if there:
                labels[f"{name}s"] = _numbers(features, name)
        if columns.teacher:
            labels[TEACHER] = torch.tensor(
                [
                    [-math.inf if score is None else score for score in row[TEACHER]]
                    for row in features
                ],
                dtype=torch.float32,
            )
        if columns.row:
            labels["rows"] = torch.tensor([int(row[ROW]) for row in features])
        if columns.source:
            labels["sources"] = [row[SOURCE] for row in features]
        if columns.signals:
            labels["signals"] = {name: _numbers(features, name) for name in columns.signals}
        return labels

    def _text_numbers(self, features: Sequence[dict[str, Any]], columns: Columns) -> Ids:
        """One number per document, column by column; equal texts have the same."""
        first, *others = columns.texts[1:]
        if self.rows is None or self.rows.pairs is None:
            return text_numbers([_text(row[name]) for name in (first, *others) for row in features])
        if columns.row:  # no need to look up the texts of positives
            positives = self.rows.positive_numbers[[int(row[ROW]) for row in features]]
        else:
            positives = self.rows.document_numbers([row[first] for row in features])
        if not others:
            return positives
        texts = [row[name] for name in others for row in features]
        return np.concatenate([positives, self.rows.document_numbers(texts)])

    def _prompted(self, row: Mapping[str, Any], name: str, texts: Sequence[str]) -> Any:
        if self.task_prompts is None or name not in texts:
            return row[name]
        asked = self.task_prompts
        ask = asked.query if name == texts[0] else asked.document
        return str(ask(row.get(SOURCE))) + row[name]


def _numbers(features: Sequence[dict[str, Any]], name: str) -> Any:
    remedy = f'give each row a finite number in the column "{name}"'
    return torch.tensor([number(row[name], name, remedy) for row in features], dtype=torch.float32)


def _text(value: Any) -> str:
    """What tells documents apart; what is no text is told by its repr, each apart from others."""
    return value if isinstance(value, str) else f"{id(value)} {value!r}"
