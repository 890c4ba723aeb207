"""Files as `Pairs`, and what stands beside the pairs: weights, signals, negatives.

`read_source` is the one way from files to pairs; commands and configurations call it. A source is a
file of rows, a BEIR folder, queries and documents that judgements join, or raw text.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from stope._checks import choice, flag, shown, texts
from stope._kinds import a, at_least, callback, kinds, maybe, sequence, string
from stope.data.joining import join_pairs
from stope.data.pairs import Pairs
from stope.data.raw_pairs.kinds import make_pairs
from stope.data.readers.beir import UnknownIds, known_judgements, read_beir
from stope.data.readers.columns import Layout, negative_columns_of
from stope.data.readers.examples import NO_ANSWER, TrainingExample, iter_examples, no_pairs
from stope.data.readers.fields import cell_number, names
from stope.data.readers.negative_ids import file_names, read_exclusions
from stope.data.readers.tables import read_rows
from stope.data.readers.texts import Document, iter_documents, read_queries, refuse_ids
from stope.data.readers.trec import read_qrels
from stope.data.source_data import SourceData
from stope.data.text_identity import text_key
from stope.lists import Lists

Say = Callable[[str], None]
WEIGHT = "weight"
_ANSWERS = "negatives among the positives of their query"


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


@kinds(source=a(Source), seed=at_least(0))
def read_source(source: Source, *, seed: int = 0) -> SourceData:
    """Read a BEIR folder, a file of pairs, judged queries, or raw text that pairs are made from.

    The seed is that of the queries that `Source.limit` draws, and of pairs made from raw text.

    Raises:
        ValueError, TypeError, FileNotFoundError: what the readers say, with file and line; options
            that do not go together.

    Memory: all texts.
    """
    path = Path(source.path).expanduser()
    if source.pairs_from is not None:
        _refuse(source, _NOT_OF_RAW_TEXT, "pairs_from makes pairs, which")
        columns = source.text_column, source.id_column
        data = SourceData(
            make_pairs(source.pairs_from, path, source.corpus, *columns, source.skip_empty, seed)
        )
    elif path.is_dir():
        _refuse(source, _NOT_OF_FOLDERS, f"{path} is a BEIR folder, which")
        if source.unknown_ids == "keep":
            raise ValueError('unknown_ids is "keep", which evaluation has; use "error" or "drop"')
        collection = read_beir(path, [source.split], unknown_ids=source.unknown_ids)
        least = 1 if source.min_relevance is None else source.min_relevance
        data = SourceData(Pairs.from_collection(collection, source.split, min_relevance=least))
    elif source.qrels is not None:
        _refuse(source, _NOT_OF_QRELS, "qrels join queries and documents, which")
        data = _judged(source, path)
    else:
        data = _from_rows(source, path)
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


def _judged(source: Source, path: Path) -> SourceData:
    if source.corpus is None or source.qrels is None:
        raise ValueError("qrels needs corpus, where the judged documents are looked up; give it")
    left_out: Counter[str] = Counter()
    columns, skip = (source.query_column, source.query_id_column), source.skip_empty
    query_ids, query_texts = read_queries(
        path, *columns, ids="named", skip_empty=skip, skipped=left_out
    )
    documents = _documents(source, left_out, ids="named")
    judgements = Path(source.qrels).expanduser()
    known = (set(query_ids), str(path)), (set(documents), str(source.corpus))
    qrels = known_judgements(read_qrels(judgements), judgements, *known, source.unknown_ids)
    pairs = Pairs.from_qrels(
        query_ids,
        query_texts,
        list(documents),
        [document.text for document in documents.values()],
        qrels,
        min_relevance=1 if source.min_relevance is None else source.min_relevance,
        corpus_titles=[document.title for document in documents.values()],
    )
    return SourceData(pairs, left_out=left_out)


def _documents(
    source: Source, left_out: Counter[str], ids: Literal["usual", "named"]
) -> dict[str, Document]:
    corpus, columns = Path(str(source.corpus)).expanduser(), (source.text_column, source.id_column)
    documents = iter_documents(
        corpus, *columns, ids=ids, skip_empty=source.skip_empty, skipped=left_out
    )
    return {document.id: document for document in documents}


def _from_rows(source: Source, path: Path) -> SourceData:
    if source.positive_ids and source.corpus is None:
        raise ValueError("positive_ids needs corpus, where the ids are looked up; give it")
    left_out: Counter[str] = Counter()
    numbers = _number_columns(source, path)
    shared = (each.name for each in dataclasses.fields(Layout) if each.name != "numbers")
    options = {name: getattr(source, name) for name in shared}
    layout = Layout(**options, numbers=tuple(numbers.values()))
    documents: dict[str, Document] = {}
    if source.corpus is not None:
        documents = _documents(source, left_out, "named" if source.positive_ids else "usual")
    lines: list[TrainingExample] = []
    wrong: list[TrainingExample] = []
    values: dict[str, list[float]] = {name: [] for name in numbers}
    by_id = documents if source.positive_ids else None
    for where, row, example in iter_examples(path, layout, documents=by_id, skipped=left_out):
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
    pairs, lines_of = _pairs_of(lines, documents, path)
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
        negatives = _negatives_of(pairs, lines, lines_of, wrong, left_out)
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
    weight = source.weight or (WEIGHT if WEIGHT in row else None)
    columns = {WEIGHT: weight} if weight is not None else {}
    return {**columns, **{name: name for name in source.signals or ()}}


def _pairs_of(
    lines: Sequence[TrainingExample], documents: Mapping[str, Document], path: Path
) -> tuple[Pairs, Lists]:
    """The pairs of the lines, and the lines of each."""
    query_ids = None
    if all(line.query_id is not None for line in lines):
        query_ids = [str(line.query_id) for line in lines]
    if not documents and all(line.positive_ids is not None for line in lines):
        documents = _named_by_rows(lines, path)
    return Pairs.from_lines(
        [line.query for line in lines],
        [line.positives for line in lines],
        [document.text for document in documents.values()],
        query_ids=query_ids,
        corpus_ids=list(documents) or None,
        corpus_titles=[document.title for document in documents.values()] or None,
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


def _negatives_of(
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
