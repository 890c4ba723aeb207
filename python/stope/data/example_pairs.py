"""Rows of training examples as `Pairs`, and the negatives that they bring along."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stope._checks import shown
from stope.data.pairs import Pairs
from stope.data.readers.examples import TrainingExample
from stope.data.readers.texts import Document
from stope.data.stored_documents import columns_of
from stope.data.text_identity import text_key
from stope.lists import Lists

_ANSWERS = "negatives among the positives of their query"


def pairs_of(
    lines: Sequence[TrainingExample], documents: Mapping[str, Document], path: Path
) -> tuple[Pairs, Lists]:
    """The pairs of the lines, and the lines of each."""
    query_ids = None
    if all(line.query_id is not None for line in lines):
        query_ids = [str(line.query_id) for line in lines]
        asked: dict[str, str] = {}
        for name, line in zip(query_ids, lines, strict=True):
            first = asked.setdefault(name, line.query)
            if first != line.query and text_key(first) != text_key(line.query):
                raise ValueError(f"{path}: the id {shown(name)} stands for two queries; keep one")
    if not documents and all(line.positive_ids is not None for line in lines):
        documents = _named_by_rows(lines, path)
    ids, texts, titles = columns_of(documents)
    return Pairs.from_lines(
        [line.query for line in lines],
        [line.positives for line in lines],
        texts,
        query_ids=query_ids,
        corpus_ids=ids if len(ids) else None,
        corpus_titles=titles if len(ids) else None,
        positive_titles=[line.positive_titles or [""] * len(line.positives) for line in lines],
    )


def _named_by_rows(lines: Sequence[TrainingExample], path: Path) -> dict[str, Document]:
    """The positives under the ids that the rows give them."""
    documents: dict[str, Document] = {}
    for line in lines:
        titles = line.positive_titles or [""] * len(line.positives)
        for name, text, title in zip(line.positive_ids or (), line.positives, titles, strict=True):
            known = documents.setdefault(name, Document(name, text, title))
            if text_key(known.text) != text_key(text):
                raise ValueError(f"{path}: the id {shown(name)} stands for two texts; keep one")
    return documents


def negatives_of(
    pairs: Pairs,
    lines: Sequence[TrainingExample],
    lines_of: Lists,
    wrong: Sequence[TrainingExample],
    left_out: Counter[str],
) -> list[list[str]]:
    """For each pair the negatives of all its lines, each once, and none that answers its query."""
    labelled: dict[bytes, list[str]] = {}
    for example in wrong:
        labelled.setdefault(text_key(example.query), []).extend(example.negatives)
    keys = [text_key(query) for query in pairs.query_texts]
    left_out["queries without a positive"] += len(labelled.keys() - set(keys))
    never = pairs.positives
    negatives = []
    for query, same in zip(never.owners.tolist(), lines_of.rows(), strict=True):
        texts = [text for line in same.tolist() for text in lines[line].negatives]
        distinct: dict[bytes, str] = {}
        for text in [*texts, *labelled.get(keys[query], ())]:
            distinct.setdefault(text_key(text), text)
        right = np.isin(pairs.rows_of(list(distinct.values())), never.row(query)).tolist()
        kept = [text for text, answers in zip(distinct.values(), right, strict=True) if not answers]
        left_out[_ANSWERS] += len(distinct) - len(kept)
        negatives.append(kept)
    return negatives
