"""BEIR folders: corpus.jsonl, queries.jsonl and qrels/<split>.tsv."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from stope._checks import flag, path
from stope._kinds import a, kinds
from stope.data.collection import Collection
from stope.data.writers.jsonl import write_jsonl
from stope.data.writers.trec import write_qrels


@kinds(collection=a(Collection), folder=path, compress=flag)
def write_beir(
    collection: Collection, folder: str | PathLike[str], *, compress: bool = False
) -> None:
    """Write a BEIR folder, which is made if need be; `read_beir` gives the same collection back.

    Args:
        folder: where; existing files of the same names are replaced, each when it is complete.
        compress: write corpus.jsonl.gz and queries.jsonl.gz.

    Raises:
        ValueError: an id holds a tab or a line end, or the folder already has the same file in its
            other form (plain or gzip), which would leave two versions side by side.
        OSError: a file cannot be written.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> write_beir(Collection(["d1"], ["ore"], ["q1"], ["rock"]), folder, compress=True)
        >>> sorted(os.listdir(folder))
        ['corpus.jsonl.gz', 'qrels', 'queries.jsonl.gz']
    """
    root = Path(folder)
    for split in collection.qrels:
        if not split or "/" in split or os.sep in split or "\0" in split:
            raise ValueError(f"split {split!r} cannot be the name of a file; rename the split")
    (root / "qrels").mkdir(parents=True, exist_ok=True)
    ending = ".gz" if compress else ""
    for name in ("corpus.jsonl", "queries.jsonl"):
        other = root / (name if compress else name + ".gz")
        if other.exists():
            raise ValueError(f"{other} is already there; remove it or choose another folder")
    titled = zip(collection.corpus, collection.corpus_titles, collection.corpus_texts, strict=True)
    corpus = (
        {"_id": identifier, "title": title, "text": text[len(title) + 1 :] if title else text}
        for identifier, title, text in titled
    )
    write_jsonl(root / f"corpus.jsonl{ending}", corpus)
    queries = ({"_id": identifier, "text": text} for identifier, text in collection.queries.items())
    write_jsonl(root / f"queries.jsonl{ending}", queries)
    for split, qrels in collection.qrels.items():
        write_qrels(qrels, root / "qrels" / f"{split}.tsv")
