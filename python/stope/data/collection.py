"""A test collection in memory: documents, queries, relevance judgements by split."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from stope._checks import one_each, unique
from stope._kinds import kinds, mapping_of_mappings, strings

Qrels = dict[str, dict[str, int]]
Run = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Split:
    """The queries with a judgement in a split of a Collection, such as "test", in its order.

    Its qrels are {query id: {document id: relevance}}.

    Example:
        >>> split = Split("test", ["q1"], ["what is ore"], {"q1": {"d1": 2, "d2": 0}})
        >>> split.positives()
        [['d1']]
    """

    name: str
    query_ids: list[str]
    query_texts: list[str]
    qrels: Qrels

    def __len__(self) -> int:
        return len(self.query_ids)

    def positives(self, min_relevance: int = 1) -> list[list[str]]:
        """Document ids judged at least `min_relevance`, one list per query (it may be empty)."""
        return [
            [doc for doc, relevance in self.qrels[query].items() if relevance >= min_relevance]
            for query in self.query_ids
        ]


@kinds(
    **dict.fromkeys(("corpus_ids", "corpus_texts", "query_ids", "query_texts"), strings),
    qrels=mapping_of_mappings,
    corpus_titles=strings,
)
@dataclass(frozen=True)
class Collection:
    """Documents, queries and judgements, in the order of their files.

    Attributes:
        corpus_ids: document ids, no duplicates.
        corpus_texts: what is encoded: title, a space, text (or the one of them that is not empty).
        query_ids: query ids, no duplicates.
        query_texts: query texts.
        qrels: {split: {query id: {document id: relevance}}}.
        corpus_titles: titles, "" where there is none; each is the beginning of its text.

    Raises:
        ValueError: lengths differ, an id appears twice, a title is not the beginning of its text.

    Memory: the strings, once.

    Example:
        >>> collection = Collection(
        ...     corpus_ids=["d1", "d2"],
        ...     corpus_texts=["Ore is rock with metal in it.", "A stope is a stepped working."],
        ...     query_ids=["q1", "q2"],
        ...     query_texts=["what is ore", "what is a stope"],
        ...     qrels={"train": {"q2": {"d2": 1}}, "test": {"q1": {"d1": 1}}},
        ... )
        >>> collection.split("test").query_texts
        ['what is ore']
        >>> collection.corpus["d2"]
        'A stope is a stepped working.'
    """

    corpus_ids: list[str]
    corpus_texts: list[str]
    query_ids: list[str]
    query_texts: list[str]
    qrels: dict[str, Qrels] = field(default_factory=dict)
    corpus_titles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.corpus_titles and self.corpus_ids:
            object.__setattr__(self, "corpus_titles", [""] * len(self.corpus_ids))
        one_each(self.corpus_texts, "corpus_texts", len(self.corpus_ids), "corpus_ids")
        one_each(self.corpus_titles, "corpus_titles", len(self.corpus_ids), "corpus_ids")
        one_each(self.query_texts, "query_texts", len(self.query_ids), "query_ids")
        unique(self.corpus_ids, "corpus_ids")
        unique(self.query_ids, "query_ids")
        for row, (title, text) in enumerate(
            zip(self.corpus_titles, self.corpus_texts, strict=True)
        ):
            if title and text != title and not text.startswith(title + " "):
                raise ValueError(
                    f"corpus_titles[{row}] is {title!r} but corpus_texts[{row}] does not begin "
                    "with it; corpus_texts holds title, a space, text"
                )

    @cached_property
    def corpus(self) -> dict[str, str]:
        """{document id: text}, in order."""
        return dict(zip(self.corpus_ids, self.corpus_texts, strict=True))

    @cached_property
    def queries(self) -> dict[str, str]:
        """{query id: text}, in order."""
        return dict(zip(self.query_ids, self.query_texts, strict=True))

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have judgements."""
        return list(self.qrels)

    def split(self, name: str) -> Split:
        """The queries judged in split `name`; ValueError names the splits there are."""
        if name not in self.qrels:
            known = ", ".join(f'"{split}"' for split in self.qrels) or "none"
            raise ValueError(f'there is no split "{name}"; the splits are {known}')
        qrels = self.qrels[name]
        rows = [row for row, query in enumerate(self.query_ids) if qrels.get(query)]
        return Split(
            name,
            [self.query_ids[row] for row in rows],
            [self.query_texts[row] for row in rows],
            {self.query_ids[row]: dict(qrels[self.query_ids[row]]) for row in rows},
        )
