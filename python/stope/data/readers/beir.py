"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, plain or gzip."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection as AnyCollection
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Literal

from stope._checks import flag, shown
from stope._checks import path as path_kind
from stope._kinds import kinds, mapping, maybe, string, strings
from stope.data.collection import Collection, Qrels
from stope.data.readers.fields import add_id, id_of, join_title, require, text_of
from stope.data.readers.jsonl import numbered_jsonl
from stope.data.readers.trec import read_qrels

UnknownIds = Literal["error", "drop", "keep"]


@kinds(folder=path_kind, splits=maybe(strings), unknown_ids=string, skipped=maybe(mapping))
def read_beir(
    folder: str | PathLike[str],
    splits: Sequence[str] | None = None,
    *,
    unknown_ids: UnknownIds = "error",
    skipped: Counter[str] | None = None,
) -> Collection:
    """Read a BEIR folder: corpus.jsonl[.gz], queries.jsonl[.gz], qrels/<split>.tsv[.gz].

    Args:
        splits: names of the splits to read; None reads every one there is, in order of name.
        unknown_ids: judgements of a query or document that the folder does not hold: "error"
            raises; "drop" leaves them out; "keep" keeps them, so that a relevant document which
            cannot be retrieved still counts in recall, as trec_eval counts it.
        skipped: counts the judgements that are left out.

    Returns:
        A Collection in the order of the files.

    Raises:
        ValueError: a malformed line ("file:line: ..."), a duplicate id, a judgement of an unknown
            id, an unknown split.
        FileNotFoundError: the folder or one of its files does not exist.

    Memory: all texts. Use `iter_beir_corpus` to stream the documents.

    Example:
        >>> import tempfile
        >>> from stope.data import write_beir
        >>> folder = tempfile.mkdtemp()
        >>> qrels = {"test": {"q1": {"d1": 1}}}
        >>> write_beir(Collection(["d1"], ["ore"], ["q1"], ["rock"], qrels), folder)
        >>> read_beir(folder).split("test").qrels
        {'q1': {'d1': 1}}
    """
    if unknown_ids not in ("error", "drop", "keep"):
        raise ValueError(f'unknown_ids is {unknown_ids!r}; use "error", "drop" or "keep"')
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder; a BEIR folder holds corpus.jsonl")
    titles: list[str] = []
    documents: dict[str, str] = {}
    for identifier, title, text in iter_beir_corpus(root):
        titles.append(title)
        documents[identifier] = join_title(title, text)
    queries, qrels = judged_queries(root, documents, splits, unknown_ids, skipped)
    columns = list(documents), list(documents.values()), list(queries), list(queries.values())
    return Collection(*columns, qrels, titles)


def judged_queries(
    root: Path,
    documents: AnyCollection[str],
    splits: Sequence[str] | None,
    unknown_ids: UnknownIds,
    skipped: Counter[str] | None,
) -> tuple[dict[str, str], dict[str, Qrels]]:
    """The queries of a BEIR folder, and judgements by split; documents are the ids there are."""
    files = _qrels_files(root, splits)
    queries = {
        identifier: text_of(require(row, "text", where), "text", where)
        for where, identifier, row in _rows_with_ids(beir_file(root, "queries.jsonl"))
    }
    known = (queries, "queries.jsonl"), (documents, "corpus.jsonl")
    return queries, {
        split: known_judgements(read_qrels(path), path, *known, unknown_ids, skipped)
        for split, path in files.items()
    }


@kinds(folder=path_kind, repeated_ids=flag)
def iter_beir_corpus(
    folder: str | PathLike[str], *, repeated_ids: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Yield (id, title, text) of the documents of a BEIR folder, one at a time.

    A document without a "title" has the title "". Errors as in `read_beir`.

    Memory: one document, and the ids seen (to find duplicates, unless they may be repeated).

    Example:
        >>> import tempfile
        >>> from stope.data import write_beir
        >>> folder = tempfile.mkdtemp()
        >>> write_beir(Collection(["d1"], ["ore"], [], []), folder)
        >>> list(iter_beir_corpus(folder))
        [('d1', '', 'ore')]
    """
    file = beir_file(Path(folder), "corpus.jsonl")
    for where, identifier, row in _rows_with_ids(file, repeated=repeated_ids):
        title = row.get("title")
        yield (
            identifier,
            "" if title is None else text_of(title, "title", where),
            text_of(require(row, "text", where), "text", where),
        )


def beir_file(root: Path, name: str) -> Path:
    """The file of this name in a BEIR folder, or that with .gz; both or neither are refused."""
    plain, packed = root / name, root / f"{name}.gz"
    there = [path for path in (plain, packed) if path.exists()]
    if len(there) == 2:
        raise ValueError(f"both {plain} and {packed} exist; keep one of them")
    if not there:
        raise FileNotFoundError(
            f"neither {plain} nor {packed} exists; a BEIR folder holds corpus.jsonl, queries.jsonl "
            "and qrels"
        )
    return there[0]


def _rows_with_ids(
    path: Path, *, repeated: bool = False
) -> Iterator[tuple[str, str, dict[str, object]]]:
    seen: set[str] = set()
    for where, row in numbered_jsonl(path):
        identifier = id_of(require(row, "_id", where), "_id", where)
        if not repeated:
            add_id(identifier, seen, where)
        yield where, identifier, row


def _qrels_files(root: Path, splits: Sequence[str] | None) -> dict[str, Path]:
    if isinstance(splits, str):
        raise TypeError(f'splits is the string "{splits}"; give a list of names: ["{splits}"]')
    files: dict[str, Path] = {}
    folder = root / "qrels"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        for ending in (".tsv", ".tsv.gz"):
            if path.name.endswith(ending):
                split = path.name.removesuffix(ending)
                if split in files:
                    raise ValueError(f"both {files[split]} and {path} exist; keep one of them")
                files[split] = path
    if splits is None:
        return files
    for split in splits:
        if split not in files:
            known = ", ".join(f'"{name}"' for name in files) or "none"
            raise ValueError(f'{folder} has no split "{split}"; the splits are {known}')
    return {split: files[split] for split in splits}


def known_judgements(
    qrels: Qrels,
    path: Path,
    queries: tuple[AnyCollection[str], str],
    documents: tuple[AnyCollection[str], str],
    unknown_ids: UnknownIds,
    skipped: Counter[str] | None,
) -> Qrels:
    """The judgements, in the file at path, whose query and document are there; see `read_beir`.

    Queries and documents are the ids that are there, and what their file is called.
    """
    if unknown_ids == "keep":
        return qrels
    kept: Qrels = {}
    for query, judged in qrels.items():
        for document, relevance in judged.items():
            unknown = None
            if query not in queries[0]:
                unknown = f"query {shown(query)}, which is not in {queries[1]}"
            elif document not in documents[0]:
                unknown = f"document {shown(document)}, which is not in {documents[1]}"
            if unknown is None:
                kept.setdefault(query, {})[document] = relevance
            elif unknown_ids == "error":
                raise ValueError(
                    f'{path} judges {unknown}; pass unknown_ids="drop" to leave such judgements '
                    'out or unknown_ids="keep" to count them'
                )
            elif skipped is not None:
                skipped["judgements of unknown ids"] += 1
    return kept
