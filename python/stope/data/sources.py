"""Files as `Pairs`, and what stands beside the pairs: weights, signals, negatives.

`read_source` is the one way from files to pairs; commands and configurations call it. A source is a
file of rows, a BEIR folder, queries and documents that judgements join, or raw text.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stope._checks import choice, flag, shown, texts
from stope._checks import path as path_kind
from stope._kinds import a, at_least, callback, kinds, maybe, sequence, string
from stope.data.collection import Qrels
from stope.data.example_pairs import negatives_of, pairs_of
from stope.data.joining import join_pairs
from stope.data.pairs import Pairs
from stope.data.raw_pairs.kinds import make_pairs
from stope.data.readers.beir import (
    UnknownIds,
    iter_beir_corpus,
    judged_queries,
    known_judgements,
    read_beir,
)
from stope.data.readers.columns import Layout, first_of, negative_columns_of
from stope.data.readers.examples import NO_ANSWER, TrainingExample, iter_examples, no_pairs
from stope.data.readers.fields import cell_number, join_title, missing_before, names
from stope.data.readers.negative_ids import file_names, read_exclusions
from stope.data.readers.tables import read_rows
from stope.data.readers.texts import Document, iter_documents, read_queries, refuse_ids
from stope.data.readers.trec import read_qrels
from stope.data.source_data import SourceData
from stope.data.stored_documents import StoredDocuments, columns_of

Say = Callable[[str], None]
WEIGHT = "weight"


@kinds(split=string, positive_ids=flag, ignore_labels=flag, skip_empty=flag)
@dataclass(frozen=True)
class Source:
    """Where (query, positive) pairs come from, and how they are read.

    Attributes:
        path: BEIR folder; or pairs as .jsonl, .tsv, .csv (also compressed), .parquet; with
            pairs_from documents, and with qrels queries, of the same kinds or .txt.
        name: of the source. Default: the name of the file or folder.
        corpus: documents to mine negatives in; default, the positives.
        qrels: judgements (BEIR or TREC) that join the queries at path with the corpus by ids.
        split: of a BEIR folder.
        query_column, positive_column, text_column, id_column, query_id_column, label_column: where
            the usual names do not hold (`stope.data.readers.columns`).
        positive_ids: the positives in the file are ids of the corpus.
        min_relevance: from this label, score or judgement on a document is an answer; default 1.
        ignore_labels: every row is an answer, whatever its label or score.
        skip_empty: leave out rows without a text, and count them.
        unknown_ids: judgements of what is not there: "error" refuses, "drop" leaves them out.
        negatives: "read" those that the file brings along, or "leave" them aside.
        weight: column with the weight of each row; default, a column "weight" if there is one.
        signals: columns of numbers that a weighting reads, such as easiness.
        exclude: a file, or several, of documents that are no negatives, of a query or of all, by
            ids (`read_exclusions`).
        limit: take so many queries (drawn with the seed), to try something out.
        pairs_from: make the pairs from raw text: kind ("crops", "inverse_cloze",
            "recurring_spans", "title") and options of that function of `stope.data`.
    """

    path: str | PathLike[str]
    name: str | None = None
    corpus: str | PathLike[str] | None = None
    qrels: str | PathLike[str] | None = None
    split: str = "train"
    query_column: str | None = None
    positive_column: str | None = None
    query_id_column: str | None = None
    text_column: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    positive_ids: bool = False
    min_relevance: float | None = None
    ignore_labels: bool = False
    skip_empty: bool = False
    unknown_ids: UnknownIds = "error"
    negatives: Literal["read", "leave"] = "read"
    weight: str | None = None
    signals: tuple[str, ...] | None = None
    exclude: Any = None
    limit: int | None = None
    pairs_from: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in (each.name for each in dataclasses.fields(self) if each.type == "str | None"):
            maybe(string)(getattr(self, name), name)
        for name in ("path", "corpus", "qrels"):
            value = getattr(self, name)
            if not isinstance(value, (str, PathLike)) and (value is not None or name == "path"):
                raise TypeError(f"{name} is {shown(value)}; give the name of a file or folder")
        choice(self.unknown_ids, "unknown_ids", ("error", "drop", "keep"))
        choice(self.negatives, "negatives", ("read", "leave"))
        maybe(at_least(1))(self.limit, "limit")
        if self.exclude is not None:
            object.__setattr__(self, "exclude", file_names(self.exclude, "exclude"))
        if self.signals is not None:
            object.__setattr__(self, "signals", tuple(texts(self.signals, "signals")))

    @property
    def title(self) -> str:
        """The name that the source goes by.

        >>> Source("data/pairs.tsv").title
        'pairs.tsv'
        """
        return self.name or Path(self.path).name


@kinds(source=a(Source), seed=at_least(0), folder=maybe(path_kind))
def read_source(
    source: Source, *, seed: int = 0, folder: str | PathLike[str] | None = None
) -> SourceData:
    """Read a BEIR folder, a file of pairs, judged queries, or raw text that pairs are made from.

    Args:
        source: what to read.
        seed: of the queries that `Source.limit` draws, and of pairs made from raw text.
        folder: there the ids and texts of a corpus (of a BEIR folder, or ``source.corpus``) lie
            while the pairs do, in files without names that take as many bytes as the texts. So a
            corpus may be larger than memory. Made where missing.

    Raises:
        ValueError, TypeError, FileNotFoundError: what the readers say, with file and line; options
            that do not go together.
        OSError: the folder cannot be written, or the disk is full.

    Memory: all texts; with a folder, those of the queries and of positives that stand beside them,
    and 150 bytes per document (plus 24 for each that has a title).
    """
    if folder is not None:
        folder = path_kind(folder, "folder").expanduser()
        folder.mkdir(parents=True, exist_ok=True)
    path = Path(source.path).expanduser()
    left_out: Counter[str] = Counter()
    if source.pairs_from is not None:
        _refuse(source, _NOT_OF_RAW_TEXT, "pairs_from makes pairs, which")
        more = source.text_column, source.id_column, source.skip_empty, seed, left_out
        pairs = make_pairs(source.pairs_from, path, source.corpus, *more)
        data = SourceData(pairs, left_out=dict(left_out))
    elif path.is_dir():
        _refuse(source, _NOT_OF_FOLDERS, f"{path} is a BEIR folder, which")
        if source.unknown_ids == "keep":
            raise ValueError('unknown_ids is "keep", which evaluation has; use "error" or "drop"')
        pairs = _of_beir(source, path, folder, left_out)
        data = SourceData(pairs, left_out=dict(left_out))
    elif source.qrels is not None:
        _refuse(source, _NOT_OF_QRELS, "qrels join queries and documents, which")
        data = _judged(source, path, folder)
    else:
        data = _from_rows(source, path, folder)
    if source.exclude is not None:
        if data.negatives is not None:
            raise ValueError(
                f"exclude is for negatives that are mined, but {path} brings its own, as texts; "
                'mine them anew (stope mine --exclude), or leave them aside with negatives="leave"'
            )
        exclusions = read_exclusions(source.exclude, data.pairs, argument="exclude")
        data = dataclasses.replace(
            data, pairs=dataclasses.replace(data.pairs, exclusions=exclusions)
        )
    if source.limit is not None and source.limit < len(data.pairs.query_texts):
        count = len(data.pairs.query_texts)
        drawn = np.random.default_rng([seed, 1]).choice(count, source.limit, replace=False)
        data = data.take(np.sort(drawn))
    return dataclasses.replace(data, fingerprints={source.title: data.fingerprint()})


@kinds(sources=sequence, seed=at_least(0), say=maybe(callback), section=string)
def read_sources(
    sources: Sequence[Source], *, seed: int = 0, say: Say | None = None, section: str = "data"
) -> SourceData:
    """Read all sources and join them (`join_pairs`); one source is not changed.

    Sources need names that differ; say is told what each holds, and errors call the list section.

    Raises:
        ValueError, FileNotFoundError: as `read_source`, with the place of the source in front;
            signals or negatives that one source has and another has not.

    Memory: all texts.
    """
    if not len(sources):
        raise ValueError(f"sources is {shown(sources)}; give a list of at least one Source")
    for place, source in enumerate(sources):
        a(Source)(source, f"sources[{place}]")
    parts: dict[str, SourceData] = {}
    for place, source in enumerate(sources):
        where = section if len(sources) == 1 else f"{section}[{place}]"
        try:
            parts[source.title] = read_source(source, seed=seed)
        except (ValueError, OSError) as error:
            raise type(error)(f"{where}: {_sentence(error)}") from error
        if say is not None:
            say(f"{source.path}: {parts[source.title].described()}")
    if len(parts) == 1:
        return next(iter(parts.values()))
    _check_same_columns(parts)
    pairs, order = join_pairs({name: part.pairs for name, part in parts.items()})
    sizes = [len(part.pairs.positives.ids) for part in parts.values()]
    columns: dict[str, list[Any]] = {"source": list(np.repeat(list(parts), sizes)[order])}
    columns["source"] = [str(name) for name in columns["source"]]
    weighted = any(WEIGHT in part.columns for part in parts.values())
    for name in [*([WEIGHT] if weighted else []), *_signals(parts)]:
        flat = [
            value
            for part, size in zip(parts.values(), sizes, strict=True)
            for value in part.columns.get(name, [1.0] * size)
        ]
        columns[name] = [flat[place] for place in order.tolist()]
    negatives = None
    if all(part.negatives is not None for part in parts.values()):
        lists = [texts for part in parts.values() for texts in part.negatives or []]
        negatives = [lists[place] for place in order.tolist()]
    prints = {name: each for part in parts.values() for name, each in part.fingerprints.items()}
    left_out = sum((Counter(part.left_out) for part in parts.values()), Counter())
    return SourceData(pairs, columns, negatives, prints, left_out)


_NOT_OF_RAW_TEXT = {
    **dict.fromkeys(("query_column", "positive_column"), "stand in no column"),
    **dict.fromkeys(("query_id_column", "positive_ids", "qrels"), "have no ids"),
    **dict.fromkeys(("label_column", "min_relevance", "ignore_labels"), "have no labels"),
    "weight": "have no weights",
    "signals": "have no signals",
}
_COLUMNS = ("query_column", "positive_column", "query_id_column", "text_column", "id_column")
_NOT_OF_FOLDERS = {
    "corpus": "brings its own corpus",
    "qrels": "brings its own qrels",
    **dict.fromkeys((*_COLUMNS, "label_column"), "has no columns"),
    "positive_ids": "has ids in its qrels",
    "ignore_labels": "has its labels in its qrels",
    "skip_empty": "is read whole",
    "weight": "has no columns of weights",
    "signals": "has no columns of signals",
}
_NOT_OF_QRELS = {
    **dict.fromkeys(("positive_column", "positive_ids"), "have their positives in the qrels"),
    **dict.fromkeys(("label_column", "ignore_labels"), "have their labels in the qrels"),
    "weight": "have no columns of weights",
    "signals": "have no columns of signals",
}


def _refuse(source: Source, reasons: Mapping[str, str], what: str) -> None:
    """Refuse options that say nothing about this kind of source."""
    wrong = next((name for name in reasons if getattr(source, name)), None)
    if wrong is not None:
        raise ValueError(f"{what} {reasons[wrong]}; leave {wrong} out")


def _of_beir(source: Source, path: Path, folder: Path | None, left_out: Counter[str]) -> Pairs:
    least = 1 if source.min_relevance is None else source.min_relevance
    if folder is None or source.unknown_ids == "keep":
        options: Any = {"unknown_ids": source.unknown_ids, "skipped": left_out}
        collection = read_beir(path, [source.split], **options)
        _count_unanswered(collection.qrels[source.split], least, left_out)
        return Pairs.from_collection(collection, source.split, min_relevance=least)

    def read(*, repeated_ids: bool) -> Iterator[Document]:
        rows = iter_beir_corpus(path, repeated_ids=repeated_ids)
        return (Document(name, join_title(title, text), title) for name, title, text in rows)

    documents = StoredDocuments(read, folder)
    queries, qrels = judged_queries(path, documents, [source.split], source.unknown_ids, left_out)
    _count_unanswered(qrels[source.split], least, left_out)
    return _joined(queries, queries.values(), documents, qrels[source.split], least)


def _judged(source: Source, path: Path, folder: Path | None) -> SourceData:
    if source.corpus is None or source.qrels is None:
        raise ValueError("qrels needs corpus, where the judged documents are looked up; give it")
    left_out: Counter[str] = Counter()
    columns, skip = (source.query_column, source.query_id_column), source.skip_empty
    query_ids, query_texts = read_queries(
        path, *columns, ids="named", skip_empty=skip, skipped=left_out
    )
    documents = _documents(source, left_out, "named", folder)
    judgements = Path(source.qrels).expanduser()
    known = (set(query_ids), str(path)), (documents, str(source.corpus))
    qrels = known_judgements(
        read_qrels(judgements), judgements, *known, source.unknown_ids, left_out
    )
    least = 1 if source.min_relevance is None else source.min_relevance
    _count_unanswered(qrels, least, left_out)
    return SourceData(
        _joined(query_ids, query_texts, documents, qrels, least), left_out=dict(left_out)
    )


def _count_unanswered(qrels: Qrels, least: float, left_out: Counter[str]) -> None:
    """Count the queries that are judged, and no document high enough to be an answer."""
    unanswered = sum(max(grades.values(), default=0) < least for grades in qrels.values())
    left_out["judged queries without an answer"] += unanswered


def _joined(
    query_ids: Iterable[str],
    query_texts: Iterable[str],
    documents: Mapping[str, Document],
    qrels: Qrels,
    least: float,
) -> Pairs:
    """The pairs of queries and documents that judgements join."""
    ids, texts, titles = columns_of(documents)
    asked = list(query_ids), list(query_texts)
    return Pairs.from_qrels(*asked, ids, texts, qrels, min_relevance=least, corpus_titles=titles)


def _documents(
    source: Source, left_out: Counter[str], ids: Literal["usual", "named"], folder: Path | None
) -> Mapping[str, Document]:
    corpus, columns = Path(str(source.corpus)).expanduser(), (source.text_column, source.id_column)
    read = functools.partial(
        iter_documents, corpus, *columns, ids=ids, skip_empty=source.skip_empty, skipped=left_out
    )
    if folder is not None:
        return StoredDocuments(read, folder)
    return {document.id: document for document in read()}


def _from_rows(source: Source, path: Path, folder: Path | None) -> SourceData:
    if source.positive_ids and source.corpus is None:
        raise ValueError("positive_ids needs corpus, where the ids are looked up; give it")
    left_out: Counter[str] = Counter()
    numbers = _number_columns(source, path)
    shared = (each.name for each in dataclasses.fields(Layout) if each.name != "numbers")
    options = {name: getattr(source, name) for name in shared}
    layout = Layout(**options, numbers=tuple(numbers.values()))
    documents: Mapping[str, Document] = {}
    if source.corpus is not None:
        kind: Literal["usual", "named"] = "named" if source.positive_ids else "usual"
        documents = _documents(source, left_out, kind, folder)
    lines: list[TrainingExample] = []
    wrong: list[TrainingExample] = []
    values: dict[str, list[float]] = {name: [] for name in numbers}
    by_id = documents if source.positive_ids else None
    for where, row, example in iter_examples(path, layout, documents=by_id, skipped=left_out):
        late = None if WEIGHT in numbers else next((n for n in row if n.lower() == WEIGHT), None)
        if late is not None:
            raise ValueError(missing_before(late, where))
        if not example.positives:
            wrong.append(example)
            continue
        lines.append(example)
        for name, column in numbers.items():
            values[name].append(cell_number(row.get(column), column, where))
    if not lines:
        left_out[NO_ANSWER] += len(wrong)
        raise ValueError(no_pairs(str(path), left_out))
    if by_id is None:
        refuse_ids([text for line in lines for text in line.positives], documents, path)
    pairs, lines_of = pairs_of(lines, documents, path)
    # A pair that stands in several lines is one row: with the mean of their numbers.
    columns = {
        name: [float(np.mean([by_line[line] for line in same])) for same in lines_of.rows()]
        for name, by_line in values.items()
    }
    negatives = None
    brought = any(example.negatives for example in (*lines, *wrong))
    if brought and source.negatives == "leave":
        left_out["negatives of the file"] += sum(len(x.negatives) for x in (*lines, *wrong))
    elif brought:
        if source.corpus is not None:
            raise ValueError(
                f"{path} brings its own negatives ({_negative_names(path)}); leave corpus out, or "
                'the negatives with negatives="leave"'
            )
        negatives = negatives_of(pairs, lines, lines_of, wrong, left_out)
    return SourceData(pairs, columns, negatives, left_out=dict(left_out))


def _number_columns(source: Source, path: Path) -> dict[str, str]:
    """The columns of "weight" and of signals, which the first row has."""
    first = next(iter(read_rows(path)), None)
    if first is None:
        return {}
    row = first[1]
    wanted = [*([source.weight] if source.weight else []), *(source.signals or ())]
    missing = next((name for name in wanted if name not in row), None)
    if missing is not None:
        raise ValueError(f'{path} has no column "{missing}"; its columns are {names(row)}')
    weight = source.weight or first_of(row, (WEIGHT,))
    columns = {WEIGHT: weight} if weight is not None else {}
    return {**columns, **{name: name for name in source.signals or ()}}


def _negative_names(path: Path) -> str:
    first = next(iter(read_rows(path)))
    return ", ".join(negative_columns_of(first[1])) or "rows labelled as no answer"


def _signals(parts: Mapping[str, SourceData]) -> list[str]:
    return list(
        dict.fromkeys(name for part in parts.values() for name in part.columns if name != WEIGHT)
    )


def _check_same_columns(parts: Mapping[str, SourceData]) -> None:
    """Weights may be missing in a source (they are 1 there); signals and negatives may not."""
    for signal in _signals(parts):
        lacking = next((name for name, part in parts.items() if signal not in part.columns), None)
        if lacking is not None:
            raise ValueError(
                f'data: the source "{lacking}" has no signal "{signal}", which another has; every '
                "source needs the same signals"
            )
    widths = {name: max(map(len, part.negatives or [[]])) for name, part in parts.items()}
    if 0 in widths.values() and any(widths.values()):
        told = ", ".join(f'"{name}" {width}' for name, width in widths.items())
        raise ValueError(
            f"data: some sources bring negatives along and some none ({told}); give every source "
            'negatives, or leave them aside with negatives="leave"'
        )


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"cannot open {error.filename}: {error.strerror}"
    return str(error)
