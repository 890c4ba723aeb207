"""Read the sources of a configuration: one table of pairs, with what is known of every pair."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stope.data import read_beir, read_pairs, read_rows, read_texts
from stope.mining import Pairs
from stope.mining.fingerprint import fingerprint_texts
from stope.training.configuration.raw import pairs_from_text
from stope.training.configuration.sections import Source

WEIGHT = "weight"
Say = Callable[[str], None]


@dataclass(frozen=True)
class TrainingData:
    """What the sources hold together.

    Attributes:
        pairs: all queries, documents and positives.
        columns: values per (query, positive), in the order of ``pairs.positives``: "source" where
            there are several, "weight", signals.
        negatives: texts per (query, positive) that a file brought along, or None.
        fingerprints: of each source's texts and values, by name.
        query_sources: place of the source of each query.
        corpus_sources: for each document, the places of the sources that have it.
    """

    pairs: Pairs
    columns: dict[str, list[Any]]
    negatives: list[list[str]] | None
    fingerprints: dict[str, str]
    query_sources: NDArray[np.int64]
    corpus_sources: list[set[int]] = field(repr=False)

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
            query_sources=self.query_sources[kept],
        )

    def texts(self) -> list[str]:
        """Every text once: documents, queries, negatives that came along."""
        more = (text for row in self.negatives or [] for text in row)
        return list(dict.fromkeys([*self.pairs.corpus_texts, *self.pairs.query_texts, *more]))


@dataclass
class _Part:
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


def read_sources(
    sources: Sequence[Source], *, seed: int = 0, say: Say | None = None
) -> TrainingData:
    """Read all sources and join them.

    Documents of equal text are one, whichever source they are from. Ids that stand for different
    texts in two sources get the name of the source in front.

    Raises:
        ValueError, FileNotFoundError: what the readers say, with the place of the source in front;
            signals or negatives that one source has and another has not.

    Memory: all texts, twice while several sources are joined.
    """
    parts = []
    for place, source in enumerate(sources):
        where = "data" if len(sources) == 1 else f"data[{place}]"
        try:
            parts.append(_read(source, seed))
        except (ValueError, OSError) as error:
            raise type(error)(f"{where}: {_text(error)}") from error
        if say is not None:
            say(f"{source.path}: {_described(parts[-1])}")
    _same_columns(parts)
    fingerprints = {part.name: _fingerprint(part) for part in parts}
    offset = np.cumsum([0, *(len(part.pairs.query_texts) for part in parts)])
    query_sources = np.repeat(np.arange(len(parts)), np.diff(offset))
    if len(parts) == 1:
        only = parts[0]
        everyone = [{0} for _ in only.pairs.corpus_texts]
        columns: dict[str, list[Any]] = dict(only.columns)
        return TrainingData(
            only.pairs, columns, only.negatives, fingerprints, query_sources, everyone
        )
    return _join(parts, offset.tolist(), fingerprints, query_sources)


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


def _read(source: Source, seed: int) -> _Part:
    path = Path(source.path).expanduser()
    name = source_name(source)
    if source.pairs_from is not None:
        part = _Part(name, pairs_from_text(source, seed), {})
    elif path.is_dir():
        wrong = next((key for key in _OF_FILES if getattr(source, key)), None)
        if wrong is not None:
            raise ValueError(
                f"{path} is a BEIR folder, which {_OF_FILES[wrong]}; leave {wrong} away"
            )
        part = _Part(name, Pairs.from_collection(read_beir(path, [source.split]), source.split), {})
    else:
        part = _from_file(source, path)
    if source.limit is not None and source.limit < len(part.pairs.query_texts):
        drawn = np.random.default_rng([seed, 1]).choice(
            len(part.pairs.query_texts), source.limit, replace=False
        )
        part = _limited(part, np.sort(drawn))
    return part


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


def _from_file(source: Source, path: Path) -> _Part:
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
    return _Part(
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


def _limited(part: _Part, queries: NDArray[np.int64]) -> _Part:
    offsets, _ = part.pairs.positives
    rows = [row for query in queries for row in range(offsets[query], offsets[query + 1])]
    return _Part(
        part.name,
        subset(part.pairs, queries),
        {name: [values[row] for row in rows] for name, values in part.columns.items()},
        part.negatives and [part.negatives[row] for row in rows],
    )


def _same_columns(parts: Sequence[_Part]) -> None:
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


def _join(
    parts: Sequence[_Part],
    offset: list[int],
    fingerprints: dict[str, str],
    query_sources: NDArray[np.int64],
) -> TrainingData:
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
    corpus_sources: list[set[int]] = [set() for _ in row_of]
    given: dict[tuple[int, int], tuple[_Part, int]] = {}
    for place, part in enumerate(parts):
        rows_here = [row_of[text] for text in part.pairs.corpus_texts]
        for row in rows_here:
            corpus_sources[row].add(place)
        starts, rows = part.pairs.positives
        query_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).tolist()
        for line, (query, row) in enumerate(zip(query_of, rows.tolist(), strict=True)):
            given[offset[place] + query, rows_here[row]] = (part, line)
    starts, rows = joined.positives
    query_of = np.repeat(np.arange(len(starts) - 1), np.diff(starts)).tolist()
    order = [given[key] for key in zip(query_of, rows.tolist(), strict=True)]
    columns: dict[str, list[Any]] = {"source": [part.name for part, _ in order]}
    for name in parts[0].columns:
        columns[name] = [part.columns[name][line] for part, line in order]
    negatives = None
    if parts[0].negatives is not None:
        negatives = [(part.negatives or [])[line] for part, line in order]
    return TrainingData(joined, columns, negatives, fingerprints, query_sources, corpus_sources)


def _fingerprint(part: _Part) -> str:
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


def _described(part: _Part) -> str:
    pairs = part.pairs
    said = f"{len(pairs.query_texts):,} queries, {len(pairs.corpus_texts):,} documents"
    said += f", {int(pairs.positives[0][-1]):,} pairs"
    if part.negatives is not None:
        said += f" with {len(part.negatives[0])} negatives each"
    if part.columns:
        said += f", with {', '.join(part.columns)}"
    return said


def _text(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot open {error.filename}: {error.strerror}"
    return str(error)
