"""Read what a subcommand works on: pairs and a corpus, or a BEIR folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stope.data import Pairs, read_beir, read_pairs, read_texts


def read_inputs(
    pairs: Path,
    corpus: Path | None,
    *,
    split: str,
    unknown_ids: Any,
    query_column: str | None,
    positive_column: str | None,
    text_column: str | None,
    id_column: str | None,
    positive_ids: bool,
) -> Pairs:
    """Read pairs (and a corpus) from files, or both from a BEIR folder."""
    if pairs.is_dir():
        return Pairs.from_collection(read_beir(pairs, [split], unknown_ids=unknown_ids), split)
    queries, positives = [], []
    for query, positive in read_pairs(pairs, query_column, positive_column):
        queries.append(query)
        positives.append(positive)
    if corpus is None:
        if positive_ids:
            raise ValueError("--positive-ids needs CORPUS, where the ids are looked up")
        return Pairs.from_texts(queries, positives)
    ids, texts = read_texts(corpus, text_column, id_column)
    if positive_ids:
        text_of = dict(zip(ids, texts, strict=True))
        missing = next((name for name in positives if name not in text_of), None)
        if missing is not None:
            raise ValueError(f"{pairs} names the positive {missing!r}, an id that {corpus} lacks")
        positives = [text_of[name] for name in positives]
    return Pairs.from_texts(queries, positives, texts, corpus_ids=ids)


def describe(pairs: Pairs) -> str:
    """Count queries, documents and what was made of them, in one sentence."""
    removed = pairs.num_corpus_given - int((pairs.corpus_rows >= 0).sum())
    added = int((pairs.corpus_rows < 0).sum())
    text = f"{len(pairs.query_ids):,} queries, {len(pairs.corpus_ids):,} documents"
    if removed:
        text += f", {removed:,} duplicate texts removed"
    if added:
        text += f", {added:,} positives added that the corpus lacked"
    return text
