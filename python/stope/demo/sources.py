"""What the demo works on: the Python installation, or a BEIR folder."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from stope.data import Collection, read_beir
from stope.data.readers.beir import UnknownIds
from stope.demo.python_corpus import read_python
from stope.progress import Progress


@dataclass(frozen=True)
class Material:
    """A collection and how it is divided.

    Attributes:
        collection: documents, queries and judgements.
        dev: name of the split that chooses between epochs; None when there is none.
        test: name of the held-out split.
        code: whether identifiers are worth splitting.
        origin: one sentence on where the text comes from.
        read: what was read, most first, for the curious.
    """

    collection: Collection
    dev: str | None
    test: str
    code: bool
    origin: str
    read: list[str]


def read(
    data: str | os.PathLike[str] | None,
    *,
    max_documents: int,
    seed: int,
    unknown_ids: UnknownIds = "error",
    progress: Progress | None = None,
) -> Material:
    """Read a BEIR folder, or the Python installation when ``data`` is None.

    Raises:
        ValueError: the folder has no train split, or nothing held out.
    """
    if data is not None:
        return _beir(Path(data), unknown_ids)
    python = read_python(max_documents, seed=seed, progress=progress)
    collection = Collection(
        list(python.corpus),
        list(python.corpus.values()),
        list(python.queries),
        list(python.queries.values()),
        python.qrels,
    )
    packages = [f"{name} ({count:,})" for name, count in python.packages.most_common()]
    return Material(
        collection,
        dev="dev" if python.qrels["dev"] else None,
        test="test",
        code=True,
        origin=f"the Python installation: {python.num_files:,} files, nothing downloaded",
        read=packages,
    )


def _beir(folder: Path, unknown_ids: UnknownIds) -> Material:
    collection = read_beir(folder, unknown_ids=unknown_ids)
    splits = list(collection.splits)
    if "train" not in splits:
        raise ValueError(
            f"{folder} has the splits {', '.join(splits) or 'none'}; the demo trains on "
            "qrels/train.tsv"
        )
    test = "test" if "test" in splits else "dev"
    if test not in splits:
        raise ValueError(f"{folder} holds out nothing; add qrels/test.tsv (or dev.tsv)")
    dev = "dev" if "dev" in splits and test != "dev" else None
    return Material(
        collection, dev=dev, test=test, code=False, origin=f"the BEIR folder {folder}", read=[]
    )


def with_dev(material: Material, seed: int) -> Material:
    """A tenth of the train queries as the split dev, for a folder that has none."""
    whole = material.collection
    train = list(whole.qrels["train"].items())
    drawn = set(np.random.default_rng(seed).permutation(len(train))[: max(1, len(train) // 10)])
    qrels = {
        **whole.qrels,
        "train": {name: judged for n, (name, judged) in enumerate(train) if n not in drawn},
        "dev": {name: judged for n, (name, judged) in enumerate(train) if n in drawn},
    }
    origin = f"{material.origin}; its split dev is a tenth of the train queries"
    return replace(material, collection=replace(whole, qrels=qrels), dev="dev", origin=origin)
