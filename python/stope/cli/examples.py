"""The examples that documents are chosen for: read beside the documents, and embedded like them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import typer

from stope.cli import terminal
from stope.cli.corpus import Corpus
from stope.cli.options import without_effect
from stope.cli.vectors import holds_vectors, read_vectors


def read_examples(context: typer.Context, path: Path, documents: Corpus) -> Corpus:
    """The examples: texts, or embeddings where the file holds these."""
    chosen = context.params
    if holds_vectors(path):
        of_texts = ["query_column", "query_id_column", "query_prompt"]
        without_effect(context, of_texts, f"{path} holds embeddings")
        if documents.vectors is None and chosen["encoder"] is None:
            raise typer.BadParameter(
                f"{path} holds embeddings: give those of the documents by the same encoder, or "
                "name it (--encoder)",
                param_hint="--embeddings",
            )
        vectors = read_vectors(path, "--for")
        return Corpus(context, path, list(map(str, range(len(vectors)))), vectors=vectors)
    from stope.data import read_beir, read_queries

    if documents.vectors is not None and chosen["encoder"] is None:
        raise typer.BadParameter(
            f"documents have embeddings, and {path} has texts: name the encoder of both, or give "
            "embeddings of the examples",
            param_hint="--encoder",
        )
    if path.is_dir():
        judged = read_beir(path, [chosen["split"]]).split(chosen["split"])
        names, texts = judged.query_ids, judged.query_texts
    else:
        columns = chosen["query_column"], chosen["query_id_column"]
        skipped: Counter[str] = Counter()
        names, texts = read_queries(
            path, *columns, skip_empty=chosen["skip_empty"], skipped=skipped
        )
        terminal.say_left_out(path, skipped)
    return Corpus(context, path, names, texts)


def embedded(wanted: Corpus, documents: Corpus, rows: Any, bars: terminal.Bars) -> Any:
    """The examples' embeddings, of the documents' dims and dtype."""
    targets = wanted.vectors
    if targets is None:
        targets = documents.encode(wanted.texts or [], "query", bars)
    if targets.shape[1] != rows.shape[1]:
        raise ValueError(
            f"the examples of {wanted.path} have {targets.shape[1]} dims, the documents of "
            f"{documents.path} {rows.shape[1]}; embed both with the same encoder"
        )
    if targets.dtype != rows.dtype:
        raise ValueError(
            f"the examples of {wanted.path} are {targets.dtype}, the documents of "
            f"{documents.path} {rows.dtype}; save both as the same type"
        )
    return targets
