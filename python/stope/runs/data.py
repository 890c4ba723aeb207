"""All sources of a configuration as one table of pairs, with what is known of every pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.data import Pairs, read_rows
from stope.runs.sections import Source
from stope.runs.source import WEIGHT, Part, described, fingerprint, read_source, subset

Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingData:
    """What the sources hold together.

    Attributes:
        pairs: all queries, documents and positives; its ``corpus_of`` has the documents of each
            source where there are several.
        columns: values per (query, positive), in the order of ``pairs.positives``: "source" where
            there are several, "weight", signals.
        negatives: texts per (query, positive) that a file brought along, or None.
        fingerprints: of each source's texts and values, by name.
    """

    pairs: Pairs
    columns: dict[str, list[Any]]
    negatives: list[list[str]] | None
    fingerprints: dict[str, str]

    def without(self, queries: NDArray[np.int64]) -> TrainingData:
        """The same without these queries; their documents stay in the corpus."""
        kept = np.setdiff1d(np.arange(len(self.pairs.query_texts)), queries)
        offsets, _ = self.pairs.positives
        rows = [row for query in kept for row in range(offsets[query], offsets[query + 1])]
        return dataclasses.replace(
            self,
            pairs=subset(self.pairs, kept),
            columns={name: [values[row] for row in rows] for name, values in self.columns.items()},
            negatives=self.negatives and [self.negatives[row] for row in rows],
        )

    def texts(self) -> list[str]:
        """Every text once: documents, queries, negatives that came along."""
        more = (text for row in self.negatives or [] for text in row)
        return list(dict.fromkeys([*self.pairs.corpus_texts, *self.pairs.query_texts, *more]))


def read_sources(
    sources: Sequence[Source], *, seed: int = 0, say: Say | None = None, section: str = "data"
) -> TrainingData:
    """Read all sources and join them.

    Documents of equal text are one, whichever source they are from. Ids that stand for different
    texts in two sources get the name of the source in front. Errors name the section that has them.

    Raises:
        ValueError, FileNotFoundError: what the readers say, with the place of the source in front;
            signals or negatives that one source has and another has not.

    Memory: all texts, twice while several sources are joined.
    """
    parts = []
    for place, source in enumerate(sources):
        where = section if len(sources) == 1 else f"{section}[{place}]"
        try:
            parts.append(read_source(source, seed))
        except (ValueError, OSError) as error:
            raise type(error)(f"{where}: {_text(error)}") from error
        if say is not None:
            say(f"{source.path}: {described(parts[-1])}")
    _same_columns(parts)
    fingerprints = {part.name: fingerprint(part) for part in parts}
    if len(parts) == 1:
        only = parts[0]
        columns: dict[str, list[Any]] = dict(only.columns)
        return TrainingData(only.pairs, columns, only.negatives, fingerprints)
    return _join(parts, fingerprints)


def negative_ids(path: str, pairs: Pairs, *, complete: bool) -> NDArray[np.int64]:
    """Negatives by id, as ``stope mine --ids`` writes them: int64 [queries, most of one], -1 else.

    Args:
        path: rows with query_id and document_id, the hardest first.
        pairs: whose ids they are.
        complete: whether pairs has all queries, so that another is a mistake.

    Raises:
        ValueError: an id that pairs does not have, a row without ids, or no row.
    """
    query_of = {name: row for row, name in enumerate(pairs.query_ids)}
    row_of = {name: row for row, name in enumerate(pairs.corpus_ids)}
    found: list[list[int]] = [[] for _ in pairs.query_ids]
    for where, row in read_rows(Path(path).expanduser()):
        query, document = row.get("query_id"), row.get("document_id")
        if not isinstance(query, str) or not isinstance(document, str):
            raise ValueError(
                f"negatives.file: {where}: no query_id and document_id; give what stope mine --ids "
                "wrote"
            )
        if document not in row_of or (complete and query not in query_of):
            name = document if document not in row_of else query
            raise ValueError(f"negatives.file: {where}: the id {name!r} is not in the data")
        if query in query_of:
            found[query_of[query]].append(row_of[document])
    width = max(map(len, found), default=0)
    if width == 0:
        raise ValueError(f"negatives.file: {path} holds no negative of a query of the data")
    ids = np.full((len(found), width), -1, dtype=np.int64)
    for query_row, rows in enumerate(found):
        ids[query_row, : len(rows)] = rows
    return ids


def _same_columns(parts: Sequence[Part]) -> None:
    """Weights may be missing in a source (they are 1 there); signals and negatives may not."""
    signals = list(dict.fromkeys(n for part in parts for n in part.columns if n != WEIGHT))
    for name in signals:
        lacking = next((part.name for part in parts if name not in part.columns), None)
        if lacking is not None:
            raise ValueError(
                f'data: the source "{lacking}" has no signal "{name}", which another has; every '
                "source needs the same signals"
            )
    widths = {part.name: len((part.negatives or [[]])[0]) for part in parts}
    if len(set(widths.values())) > 1:
        told = ", ".join(f'"{name}" {width}' for name, width in widths.items())
        raise ValueError(
            f"data: the sources bring different numbers of negatives along ({told}); give every "
            "source the same number of negative columns, or none"
        )
    if any(WEIGHT in part.columns for part in parts):
        for part in parts:
            part.columns.setdefault(WEIGHT, [1.0] * int(part.pairs.positives[0][-1]))


def _join(parts: Sequence[Part], fingerprints: dict[str, str]) -> TrainingData:
    text_of: dict[str, str] = {}
    names: list[dict[str, str]] = []
    for part in parts:
        own = {}
        for name, text in zip(part.pairs.corpus_ids, part.pairs.corpus_texts, strict=True):
            own[name] = name if text_of.get(name, text) == text else f"{part.name}:{name}"
            while text_of.get(own[name], text) != text:
                own[name] = "_" + own[name]
            text_of[own[name]] = text
        names.append(own)
    query_ids: list[str] = []
    qrels: dict[str, dict[str, int]] = {}
    for part, own in zip(parts, names, strict=True):
        starts, rows = part.pairs.positives
        for query, name in enumerate(part.pairs.query_ids):
            unique = name if name not in qrels else f"{part.name}:{name}"
            while unique in qrels:
                unique = "_" + unique
            query_ids.append(unique)
            qrels[unique] = {
                own[part.pairs.corpus_ids[row]]: 1
                for row in rows[starts[query] : starts[query + 1]]
            }
    queries = [text for part in parts for text in part.pairs.query_texts]
    joined = Pairs.from_qrels(query_ids, queries, list(text_of), list(text_of.values()), qrels)
    row_of = {text: row for row, text in enumerate(joined.corpus_texts)}
    corpus_of: dict[str | int, NDArray[np.int64]] = {}
    given: dict[tuple[int, int], tuple[Part, int]] = {}
    before = 0
    for part in parts:
        rows_here = [row_of[text] for text in part.pairs.corpus_texts]
        corpus_of[part.name] = np.unique(np.array(rows_here, dtype=np.int64))
        starts, rows = part.pairs.positives
        query_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).tolist()
        for line, (query, row) in enumerate(zip(query_of, rows.tolist(), strict=True)):
            given[before + query, rows_here[row]] = (part, line)
        before += len(part.pairs.query_texts)
    joined = dataclasses.replace(joined, corpus_of=corpus_of)
    starts, rows = joined.positives
    query_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).tolist()
    order = [given[key] for key in zip(query_of, rows.tolist(), strict=True)]
    columns: dict[str, list[Any]] = {"source": [part.name for part, _ in order]}
    for name in parts[0].columns:
        columns[name] = [part.columns[name][line] for part, line in order]
    negatives = None
    if parts[0].negatives is not None:
        negatives = [(part.negatives or [])[line] for part, line in order]
    return TrainingData(joined, columns, negatives, fingerprints)


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot open {error.filename}: {error.strerror}"
    return str(error)
