"""Rows of FlagEmbedding's and Tevatron's files, which must have positives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from stope._kinds import kinds, mapping, maybe
from stope.data.readers.examples import ExampleReader, Layout, TrainingExample
from stope.data.readers.fields import names
from stope.data.readers.tables import Source, read_rows
from stope.data.readers.texts import Document


def read_flagembedding(source: Source) -> Iterator[TrainingExample]:
    """`read_examples` of a FlagEmbedding file: {"query", "pos": [..], "neg": [..]}, with scores.

    Example:
        >>> example = next(read_flagembedding([{"query": "ore", "pos": ["rock"], "neg": ["pit"]}]))
        >>> example.positives, example.negatives
        (['rock'], ['pit'])
    """
    reader = ExampleReader(Layout("query", "pos"), None, Counter())
    return (reader.answered(row, where) for where, row in read_rows(source))


@kinds(documents=maybe(mapping))
def read_tevatron(
    source: Source, documents: Mapping[str, str] | None = None
) -> Iterator[TrainingExample]:
    """`read_examples` of a Tevatron file, in either of its layouts.

    With texts inside: {"query_id", "query", "positive_passages": [{"docid", "title", "text"}],
    "negative_passages": [..]}; a passage's "score" is read when all of a list have one. With ids
    only: {"query_id", "query_text", "positive_document_ids", "negative_document_ids"}, whose texts
    are looked up in documents, {document id: text}.

    Example:
        >>> row = {"query_id": "q1", "query_text": "ore", "positive_document_ids": ["d1"],
        ...        "negative_document_ids": ["d2"]}
        >>> next(read_tevatron([row], documents={"d1": "rock", "d2": "pit"})).negatives
        ['pit']
    """
    known = {name: Document(name, text) for name, text in (documents or {}).items()}
    inline = ExampleReader(Layout(None, "positive_passages", "query_id"), None, Counter())
    by_id = ExampleReader(Layout(None, "positive_document_ids", "query_id"), known, Counter())
    for where, row in read_rows(source):
        if "positive_passages" not in row and documents is None:
            raise ValueError(
                f"{where}: there are no positive_passages among {names(row)}; where rows have "
                "document ids and no texts, pass documents={id: text}"
            )
        yield (inline if "positive_passages" in row else by_id).answered(row, where)
