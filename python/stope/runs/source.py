"""Read one source of a configuration: its pairs, and the numbers that stand beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.data import Pairs, read_beir, read_pairs, read_rows, read_texts
from stope.encoders.fingerprint import fingerprint_texts
from stope.runs.raw import pairs_from_text
from stope.runs.sections import Source

WEIGHT = "weight"


@dataclass
class Part:
    """One source: its pairs, and for each of them the named values."""

    name: str
    pairs: Pairs
    columns: dict[str, list[float]]
    negatives: list[list[str]] | None = None


def source_name(source: Source) -> str:
    """The name a source goes by.

    >>> source_name(Source("data/pairs.tsv"))
    'pairs.tsv'
    """
    return source.name or Path(source.path).name


def subset(pairs: Pairs, queries: NDArray[np.int64]) -> Pairs:
    """The pairs of these queries (ascending rows), over the same corpus.

    >>> pairs = Pairs.from_texts(["a", "b", "c"], ["x", "y", "z"])
    >>> part = subset(pairs, np.array([0, 2]))
    >>> part.query_texts, part.positives[1].tolist(), len(part.corpus_texts)
    (['a', 'c'], [0, 2], 3)
    """
    offsets, rows = pairs.positives
    lists = [rows[offsets[query] : offsets[query + 1]] for query in queries]
    ends = np.cumsum([0, *map(len, lists)], dtype=np.int64)
    return dataclasses.replace(
        pairs,
        query_ids=[pairs.query_ids[query] for query in queries],
        query_texts=[pairs.query_texts[query] for query in queries],
        positives=(ends, np.concatenate([*lists, np.empty(0, np.int64)]).astype(np.int64)),
        query_rows=pairs.query_rows[queries],
    )


def read_source(source: Source, seed: int) -> Part:
    """Read a BEIR folder, a file of pairs, or raw text that pairs are made from."""
    path = Path(source.path).expanduser()
    name = source_name(source)
    if source.pairs_from is not None:
        wrong = next((key for key in _OF_PAIRS if getattr(source, key)), None)
        if wrong is not None:
            raise ValueError(
                f"pairs_from makes pairs, which {_OF_PAIRS[wrong]}; leave {wrong} away"
            )
        part = Part(name, pairs_from_text(source, seed), {})
    elif path.is_dir():
        wrong = next((key for key in _OF_FILES if getattr(source, key)), None)
        if wrong is not None:
            raise ValueError(
                f"{path} is a BEIR folder, which {_OF_FILES[wrong]}; leave {wrong} away"
            )
        part = Part(name, Pairs.from_collection(read_beir(path, [source.split]), source.split), {})
    else:
        part = _from_file(source, path)
    if source.limit is not None and source.limit < len(part.pairs.query_texts):
        drawn = np.random.default_rng([seed, 1]).choice(
            len(part.pairs.query_texts), source.limit, replace=False
        )
        part = _limited(part, np.sort(drawn))
    return part


_OF_PAIRS = {
    "query_column": "stand in no column",
    "positive_column": "stand in no column",
    "positive_ids": "have no ids",
    "weight": "have no weights",
    "signals": "have no signals",
}
_OF_FILES = {
    "corpus": "brings its own corpus",
    "query_column": "has no columns",
    "positive_column": "has no columns",
    "text_column": "has no columns",
    "id_column": "has no columns",
    "positive_ids": "has ids in its qrels",
    "weight": "has no columns of weights",
    "signals": "has no columns of signals",
}


def _from_file(source: Source, path: Path) -> Part:
    numbers, texts = _columns_of(source, path)
    queries: list[str] = []
    positives: list[str] = []
    values: dict[str, list[float]] = {name: [] for name in numbers}
    negatives: list[list[str]] = []
    now: dict[str, Any] = {}
    for query, positive in _pairs_of(source, path, now):
        queries.append(query)
        positives.append(positive)
        for name, column in numbers.items():
            values[name].append(_number(now, column))
        if texts:
            negatives.append([_filled(now, name) for name in texts])
    if source.positive_ids and source.corpus is None:
        raise ValueError("positive_ids needs corpus, where the ids are looked up")
    if source.corpus is None:
        pairs = Pairs.from_texts(queries, positives)
    else:
        if texts:
            raise ValueError(
                f"{path} brings its own negatives ({', '.join(texts)}); leave corpus away"
            )
        ids, documents = read_texts(
            Path(source.corpus).expanduser(), source.text_column, source.id_column
        )
        if source.positive_ids:
            positives = _looked_up(positives, dict(zip(ids, documents, strict=True)), path, source)
        pairs = Pairs.from_texts(queries, positives, documents, corpus_ids=ids)
    lines: dict[tuple[str, str], list[int]] = {}
    for line, key in enumerate(zip(queries, positives, strict=True)):
        lines.setdefault(key, []).append(line)
    offsets, rows = pairs.positives
    query_of = np.repeat(np.arange(len(pairs.query_texts)), np.diff(offsets))
    order = [
        lines[pairs.query_texts[query], pairs.corpus_texts[row]]
        for query, row in zip(query_of.tolist(), rows.tolist(), strict=True)
    ]
    # A pair that stands in several lines is one row: with the mean of their numbers.
    columns = {
        name: [float(np.mean([given[line] for line in same])) for same in order]
        for name, given in values.items()
    }
    return Part(
        source_name(source),
        pairs,
        columns,
        [negatives[same[0]] for same in order] if texts else None,
    )


def _columns_of(source: Source, path: Path) -> tuple[dict[str, str], list[str]]:
    """The columns of "weight" and of signals, and those of negatives, that the first row has."""
    first = next(iter(read_rows(path)), None)
    if first is None:
        return {}, []
    names = list(first[1])
    wanted = [*([source.weight] if source.weight else []), *(source.signals or ())]
    missing = next((name for name in wanted if name not in names), None)
    if missing is not None:
        known = ", ".join(f'"{name}"' for name in names)
        raise ValueError(f'{path} has no column "{missing}"; its columns are {known}')
    weight = source.weight or (WEIGHT if WEIGHT in names else None)
    found = {WEIGHT: weight} if weight is not None else {}
    return {**found, **{name: name for name in source.signals or ()}}, _negatives(names)


def negative_columns(path: Path) -> list[str]:
    """The columns negative, or negative_1, negative_2, ... that the first row of a file has."""
    first = next(iter(read_rows(path)), None)
    return [] if first is None else _negatives(list(first[1]))


def _negatives(names: Sequence[str]) -> list[str]:
    return [
        name
        for name in names
        if name == "negative" or (name.startswith("negative_") and name[9:].isdigit())
    ]


def _pairs_of(source: Source, path: Path, now: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(query, positive) of the file, with the row of each in ``now`` meanwhile."""
    where = [str(path)]

    def rows() -> Iterator[Mapping[str, Any]]:
        for place, row in read_rows(path):
            where[0] = place
            now.clear()
            now.update(row, **{_WHERE: place})
            yield row

    try:
        yield from read_pairs(rows(), source.query_column, source.positive_column)
    except ValueError as error:
        said = str(error)
        if said.startswith("row "):  # the reader counts rows; the file has lines
            said = f"{where[0]}:{said.partition(':')[2]}"
        raise ValueError(said.replace("the source holds", f"{path} holds")) from error


_WHERE = "\0where"


def _number(row: Mapping[str, Any], name: str) -> float:
    value = row.get(name)
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        found = float("nan")
    if isinstance(value, bool) or not np.isfinite(found):
        raise ValueError(
            f'{row[_WHERE]}: {value!r} stands in the column "{name}"; give a finite number'
        )
    return found


def _filled(row: Mapping[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'{row[_WHERE]}: there is no text in the column "{name}"')
    return value


def _looked_up(ids: list[str], texts: dict[str, str], path: Path, source: Source) -> list[str]:
    missing = next((name for name in ids if name not in texts), None)
    if missing is not None:
        raise ValueError(f"{path} names the positive {missing!r}, an id that {source.corpus} lacks")
    return [texts[name] for name in ids]


def _limited(part: Part, queries: NDArray[np.int64]) -> Part:
    offsets, _ = part.pairs.positives
    rows = [row for query in queries for row in range(offsets[query], offsets[query + 1])]
    return Part(
        part.name,
        subset(part.pairs, queries),
        {name: [values[row] for row in rows] for name, values in part.columns.items()},
        part.negatives and [part.negatives[row] for row in rows],
    )


def fingerprint(part: Part) -> str:
    """SHA-256 of all that the source brings."""
    offsets, rows = part.pairs.positives
    columns = [[name, *map(repr, values)] for name, values in part.columns.items()]
    return fingerprint_texts(
        [
            *part.pairs.query_texts,
            *part.pairs.corpus_texts,
            repr(offsets.tolist()),
            repr(rows.tolist()),
            *(cell for column in columns for cell in column),
            *(text for row in part.negatives or [] for text in row),
        ]
    )


def described(part: Part) -> str:
    """How many queries, documents and pairs there are."""
    pairs = part.pairs
    said = f"{len(pairs.query_texts):,} queries, {len(pairs.corpus_texts):,} documents"
    said += f", {int(pairs.positives[0][-1]):,} pairs"
    if part.negatives is not None:
        said += f" with {len(part.negatives[0])} negatives each"
    if part.columns:
        said += f", with {', '.join(part.columns)}"
    return said
